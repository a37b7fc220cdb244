//! What an assertion asks for, what is recorded, and the text of the difference.

use std::fmt::{Display, Write as _};

use serde_json::Value;

use super::{RecordedMessage, recorded};
use crate::connection::OutboxConnection;
use crate::entity::{Entity, FieldSchema, Operation};
use crate::event::Event;

/// No more messages than this are listed, and no more characters of each payload.
const LINES_MAX: usize = 50;
const PAYLOAD_CHARS_MAX: usize = 160;

/// The assertions as methods, so that the macros take a variable as well as a reference.
#[doc(hidden)]
pub trait AssertRecorded {
    fn messages(&mut self) -> Vec<RecordedMessage>;

    #[track_caller]
    fn assert_recorded(&mut self, expectation: Expectation) {
        if let Err(text) = expectation.check(&self.messages()) {
            panic!("{text}");
        }
    }

    #[track_caller]
    fn assert_nothing_recorded(&mut self) {
        let recorded = self.messages();
        if !recorded.is_empty() {
            panic!("expected nothing in the outbox\n{}", listing(&recorded, |_| "  "));
        }
    }
}

/// As this connection sees them.
impl<C: OutboxConnection> AssertRecorded for C {
    #[track_caller]
    fn messages(&mut self) -> Vec<RecordedMessage> {
        recorded(self)
    }
}

/// As they were read: what a test on a connection of diesel-async's has.
impl AssertRecorded for Vec<RecordedMessage> {
    fn messages(&mut self) -> Vec<RecordedMessage> {
        self.clone()
    }
}

/// A message as [`assert_recorded!`](crate::assert_recorded) describes it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Expectation {
    aggregate: &'static str,
    events: Vec<&'static str>,
    ty: &'static str,
    /// The fields of an entity; `None` for an event.
    fields: Option<&'static [FieldSchema]>,
    key: Option<String>,
    changed: Option<Vec<String>>,
    /// `after`, `before` and parts of the payload as a whole, in the order given.
    parts: Vec<(&'static str, Value)>,
    headers: Vec<(String, String)>,
    times: usize,
}

/// How a message differs in one point; the nearest message is the one with the least weight.
struct Difference {
    weight: u32,
    text: String,
}

impl Expectation {
    pub fn entity<E: Entity>(operation: Operation) -> Self {
        let events = vec![E::EVENTS.of(operation)];
        Self::new(E::AGGREGATE, events, std::any::type_name::<E>(), Some(E::FIELDS))
    }

    pub fn event<E: Event>() -> Self {
        let events = E::EVENTS.iter().map(|schema| schema.event).collect();
        Self::new(E::AGGREGATE, events, std::any::type_name::<E>(), None)
    }

    fn new(
        aggregate: &'static str,
        events: Vec<&'static str>,
        ty: &'static str,
        fields: Option<&'static [FieldSchema]>,
    ) -> Self {
        let (key, changed, parts, headers) = (None, None, Vec::new(), Vec::new());
        Self { aggregate, events, ty, fields, key, changed, parts, headers, times: 1 }
    }

    pub fn key(mut self, key: &dyn Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// The event's name, with or without the aggregate before it.
    #[track_caller]
    pub fn kind(mut self, kind: &dyn Display) -> Self {
        let kind = kind.to_string();
        let known = self.events.join(", ");
        let prefix = format!("{}.", self.aggregate);
        self.events.retain(|event| *event == kind.strip_prefix(&prefix).unwrap_or(&kind));
        assert!(!self.events.is_empty(), "{} has no kind {kind:?}; it has {known}", self.ty);
        self
    }

    #[track_caller]
    pub fn changed(mut self, fields: &[&str]) -> Self {
        self.check_fields("changed", fields.iter().copied());
        self.changed = Some(sorted(fields.iter().copied()));
        self
    }

    #[track_caller]
    pub fn after(self, image: Value) -> Self {
        self.image("after", image)
    }

    #[track_caller]
    pub fn before(self, image: Value) -> Self {
        self.image("before", image)
    }

    #[track_caller]
    fn image(mut self, part: &'static str, image: Value) -> Self {
        self.check_fields(
            part,
            image.as_object().into_iter().flat_map(|image| image.keys().map(String::as_str)),
        );
        self.parts.push((part, through_text(image)));
        self
    }

    pub fn payload(mut self, payload: Value) -> Self {
        self.parts.push(("payload", through_text(payload)));
        self
    }

    pub fn headers(mut self, headers: Value) -> Self {
        let pairs = headers.as_object().into_iter().flatten();
        self.headers.extend(pairs.map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), text)
        }));
        self
    }

    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    #[track_caller]
    pub fn never(self) -> Self {
        assert_eq!(self.times, 1, "`times` is of assert_recorded!; assert_not_recorded! has none");
        self.times(0)
    }

    /// A misspelt field would let "not recorded" pass for ever.
    #[track_caller]
    fn check_fields<'a>(&self, part: &str, mut names: impl Iterator<Item = &'a str>) {
        let Some(fields) = self.fields else {
            panic!("`{part}` is of entities; {} is an event: use `payload`", self.ty);
        };
        if let Some(unknown) = names.find(|name| fields.iter().all(|field| field.name != *name)) {
            let known: Vec<_> = fields.iter().map(|field| field.name).collect();
            panic!("`{part}`: {} records no field {unknown:?}; it records {}", self.ty, known.join(", "));
        }
    }

    fn check(&self, recorded: &[RecordedMessage]) -> Result<(), String> {
        let differences: Vec<_> = recorded.iter().map(|message| self.differences(message)).collect();
        let found = differences.iter().filter(|differences| differences.is_empty()).count();
        if found == self.times {
            return Ok(());
        }
        let weight = |at: &usize| differences[*at].iter().map(|difference| difference.weight).sum::<u32>();
        let others = (0..recorded.len()).filter(|at| !differences[*at].is_empty());
        let nearest = if found < self.times { others.min_by_key(weight) } else { None };
        let mut text = match self.times {
            0 => format!("expected no message like this in the outbox, found {found}:"),
            1 => format!("expected one message like this in the outbox, found {found}:"),
            times => format!("expected {times} messages like this in the outbox, found {found}:"),
        };
        let mark = |at: usize| match () {
            () if differences[at].is_empty() => "= ",
            () if nearest == Some(at) => "~ ",
            () => "  ",
        };
        // Writing into a String cannot fail.
        let _ = write!(text, "\n    {}\n{}", self.describe(), listing(recorded, mark));
        if let Some(at) = nearest {
            let _ = write!(text, "the nearest (~) differs in:");
            for difference in &differences[at] {
                let _ = write!(text, "\n    {}", difference.text);
            }
        }
        Err(text)
    }

    fn describe(&self) -> String {
        let mut text = format!("{}.{}", self.aggregate, self.events.join("|"));
        if let Some(key) = &self.key {
            let _ = write!(text, ", key {key}");
        }
        if let Some(changed) = &self.changed {
            let _ = write!(text, ", changed {changed:?}");
        }
        for (part, value) in &self.parts {
            let _ = write!(text, ", {part} {value}");
        }
        for (name, value) in &self.headers {
            let _ = write!(text, ", header {name}: {value:?}");
        }
        text
    }

    fn differences(&self, message: &RecordedMessage) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut differ = |weight, text| all.push(Difference { weight, text });
        let expected = || format!("{}.{}", self.aggregate, self.events.join("|"));
        if message.aggregate != self.aggregate {
            differ(100, format!("kind: expected {}, found {}", expected(), message.kind()));
        } else if !self.events.contains(&message.event.as_str()) {
            differ(20, format!("kind: expected {}, found {}", expected(), message.kind()));
        }
        if let Some(key) = self.key.as_ref().filter(|key| **key != message.key) {
            differ(10, format!("key: expected {key}, found {}", message.key));
        }
        if let Some(expected) = &self.changed {
            let found = message.changed().map(sorted);
            if found.as_ref() != Some(expected) {
                let found = found.map_or("none".to_owned(), |found| format!("{found:?}"));
                differ(1, format!("changed: expected {expected:?}, found {found}"));
            }
        }
        for (part, expected) in &self.parts {
            let found = if *part == "payload" { Some(&message.payload) } else { message.payload.get(part) };
            subset(part, expected, found, &mut |text| differ(1, text));
        }
        for (name, expected) in &self.headers {
            let found = message.headers.get(name);
            if found != Some(expected) {
                let found = found.map_or("none".to_owned(), |found| format!("{found:?}"));
                differ(1, format!("header {name}: expected {expected:?}, found {found}"));
            }
        }
        all
    }
}

/// Every field of an expected object is in the one found, all the way down; anything else is equal.
fn subset(path: &str, expected: &Value, found: Option<&Value>, differ: &mut dyn FnMut(String)) {
    match (expected, found) {
        (Value::Object(fields), Some(Value::Object(found))) => {
            for (name, expected) in fields {
                subset(&format!("{path}.{name}"), expected, found.get(name), differ);
            }
        }
        (expected, Some(found)) if expected == found => {}
        (expected, Some(found)) => differ(format!("{path}: expected {expected}, found {found}")),
        (expected, None) => differ(format!("{path}: expected {expected}, found none")),
    }
}

/// As the payload went: a float may not be the same one before it.
fn through_text(value: Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(value)
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// One line for each message, with a mark before it.
fn listing<'a>(recorded: &[RecordedMessage], mark: impl Fn(usize) -> &'a str) -> String {
    if recorded.is_empty() {
        return "nothing is recorded\n".to_owned();
    }
    let mut text = format!("recorded are {}:\n", recorded.len());
    for (at, message) in recorded.iter().enumerate() {
        let is_shown = at < LINES_MAX || mark(at) != "  ";
        if is_shown {
            let payload = message.payload.to_string();
            let short: String = payload.chars().take(PAYLOAD_CHARS_MAX).collect();
            let more = if short.len() < payload.len() { "…" } else { "" };
            let line = format!("  {}{} key {} {short}{more}\n", mark(at), message.kind(), message.key);
            text.push_str(&line);
        }
        if at == LINES_MAX {
            let _ = writeln!(text, "    … and {} more", recorded.len() - LINES_MAX);
        }
    }
    text
}
