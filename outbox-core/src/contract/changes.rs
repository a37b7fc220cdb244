//! What differs between two contracts, and what of that breaks a subscriber.

use std::fmt::Write as _;

use super::Schema;

/// One difference: of which kinds of message, and what.
pub(super) struct Change {
    subject: String,
    text: String,
}

/// The differences, in the order of the messages.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) breaks: Vec<Change>,
    /// What subscribers of today do not notice.
    pub(super) additions: Vec<Change>,
}

impl Changes {
    pub(super) fn between(was: &[Schema], is: &[Schema]) -> Self {
        let mut changes = Self::default();
        for old in was {
            let gone = kinds(old, |kind| !has(is, kind));
            if !gone.is_empty() {
                changes.breaks(gone, "is no longer published: its subscribers wait in vain");
            }
            for new in is {
                let shared = kinds(old, |kind| new.kinds.iter().any(|other| other == kind));
                if !shared.is_empty() {
                    changes.compare(&shared, old, new);
                }
            }
        }
        for new in is {
            let added = kinds(new, |kind| !has(was, kind));
            if !added.is_empty() {
                changes.adds(added, "is new");
            }
        }
        changes
    }

    fn compare(&mut self, subject: &str, old: &Schema, new: &Schema) {
        match (old.version, new.version) {
            (Some(was), Some(is)) if was < is => {
                self.adds(subject, format!("schema version: was {was}, is {is}"));
            }
            (Some(was), Some(is)) if was > is => self.breaks(
                subject,
                format!(
                    "schema version: was {was}, is {is}. A subscriber takes the messages for those of an older \
                     schema"
                ),
            ),
            (None, Some(_)) => self.breaks(
                subject,
                "was the change of an entity, is an event. A subscriber looks for `after` and `before`",
            ),
            (Some(_), None) => self.breaks(
                subject,
                "was an event, is the change of an entity. A subscriber finds the fields within `after` or \
                 `before`",
            ),
            _ => {}
        }
        for (name, was) in &old.fields {
            let Some(is) = new.fields.get(name) else {
                self.breaks(
                    subject,
                    format!(
                        "field `{name}`: was {was}, is missing. A subscriber that reads it no longer finds it"
                    ),
                );
                continue;
            };
            match was.broken_by(is) {
                Some(why) => self.breaks(subject, format!("field `{name}`: was {was}, is {is}. Why: {why}")),
                None if was == is => {}
                None => self.adds(
                    subject,
                    format!(
                        "field `{name}`: was {was}, is {is}, which subscribers that read {was} read as well"
                    ),
                ),
            }
        }
        for (name, is) in &new.fields {
            if !old.fields.contains_key(name) {
                self.adds(subject, format!("field `{name}`: new, {is}"));
            }
        }
    }

    fn breaks(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.breaks.push(Change { subject: subject.into(), text: text.into() });
    }

    fn adds(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.additions.push(Change { subject: subject.into(), text: text.into() });
    }
}

fn has(schemas: &[Schema], kind: &str) -> bool {
    schemas.iter().flat_map(|schema| &schema.kinds).any(|other| other == kind)
}

/// The kinds of a message that are so, in one text.
fn kinds(schema: &Schema, are: impl Fn(&str) -> bool) -> String {
    let kinds: Vec<_> = schema.kinds.iter().map(String::as_str).filter(|kind| are(kind)).collect();
    kinds.join(", ")
}

/// One line a change.
pub(super) fn lines(changes: Vec<Change>) -> Vec<String> {
    changes.into_iter().map(|Change { subject, text }| format!("{subject}: {text}")).collect()
}

/// The changes below their subjects.
pub(super) fn paragraphs(changes: &[Change]) -> String {
    let mut all = String::new();
    let mut last = "";
    for Change { subject, text } in changes {
        if last != subject {
            // Writing to a string cannot fail.
            let _ = writeln!(all, "\n{subject}");
            last = subject;
        }
        let _ = writeln!(all, "  - {text}.");
    }
    all
}
