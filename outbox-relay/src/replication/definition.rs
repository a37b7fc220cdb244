//! What a copy was made by, kept with it as text: by this a copy is known to be wanted otherwise now, and is made anew,
//! or to be of a table that has changed, and is held. Decides nothing itself.

use std::collections::BTreeMap;

use outbox_core::{Error, ErrorKind, HashKey, Result};
use serde::{Deserialize, Serialize};

use super::collation;
use super::facts::TableFacts;
use super::plan::CopySpec;
use super::project::Origin;
use super::resolve::{source_key, written};

/// What the key for hashes is known again by: its hash of this.
const FINGERPRINTED: &str = "outbox";

/// What a copy was made by. What earlier versions did not note is `None`, and counts as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    columns: Vec<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    key: Vec<String>,
    /// A fingerprint of the key for its hashes; empty without hashes.
    #[serde(default)]
    hash_key: Option<String>,
    /// The types of the source's columns that it uses.
    source: BTreeMap<String, String>,
    /// The key's columns by the source's names, in order.
    #[serde(default)]
    source_key: Option<Vec<String>>,
    /// The collations of those that are texts.
    #[serde(default)]
    collations: Option<BTreeMap<String, String>>,
    /// The expressions of the used columns that the source computes.
    #[serde(default)]
    generated: Option<BTreeMap<String, String>>,
}

impl Definition {
    /// What a copy is made by now.
    ///
    /// # Errors
    /// `Invalid` when the table has no longer the key or the columns.
    pub(super) fn of(spec: &CopySpec, source: &TableFacts) -> Result<Self> {
        let texts: Vec<_> = spec
            .columns
            .iter()
            .chain(&spec.key)
            .chain(&spec.filter)
            .map(|text| text.to_lowercase())
            .collect();
        let is_used = |name: &str| spec.columns.is_empty() || texts.iter().any(|text| has_word(text, name));
        let table = &source.table;
        let is_key = |ordinal: usize| table.primary_key.contains(&ordinal);
        let columns = table.columns.iter().zip(&source.columns).enumerate();
        let used: Vec<_> = columns
            .filter(|(ordinal, (column, _))| is_key(*ordinal) || is_used(&column.name.to_lowercase()))
            .map(|(_, used)| used)
            .collect();
        let types = used.iter().map(|(column, facts)| {
            let null = if column.nullable { "" } else { " not null" };
            (column.name.clone(), format!("{}{null}", facts.column_type))
        });
        let generated =
            used.iter().filter_map(|(column, facts)| Some((column.name.clone(), facts.generation.clone()?)));
        let key = source_key(spec, source)?;
        let collations = key.iter().filter_map(|name| {
            let collation = source.columns[table.ordinal(name)?].collation.as_ref()?;
            Some((name.clone(), collation::present_name(collation)))
        });
        let has_hash = written(spec, source)?.iter().any(|column| matches!(column.origin, Origin::Hash(_)));
        let hash_key = match spec.hash_key.as_ref().filter(|_| has_hash) {
            Some(key) => HashKey::new(key.expose().as_bytes())?.hex(FINGERPRINTED),
            None => String::new(),
        };
        Ok(Self {
            columns: spec.columns.clone(),
            filter: spec.filter.clone(),
            key: spec.key.clone(),
            hash_key: Some(hash_key),
            source: types.collect(),
            collations: Some(collations.collect()),
            generated: Some(generated.collect()),
            source_key: Some(key),
        })
    }

    /// One that was noted; `None` if it cannot be read.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As text.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "writing a copy's definition", error))
    }

    /// Whether the configuration wants the same as `now`.
    pub(super) fn is_spec_of(&self, now: &Self) -> bool {
        (&self.columns, &self.filter, &self.key) == (&now.columns, &now.filter, &now.key)
            && is_same(self.hash_key.as_ref(), now.hash_key.as_ref())
    }

    /// Whether it uses a column of the source.
    pub(super) fn uses(&self, column: &str) -> bool {
        self.source.keys().any(|name| name.to_lowercase() == column.to_lowercase())
    }

    /// What has happened to the table since `was`, as far as it concerns the copy.
    pub(super) fn difference(&self, was: Option<&Self>) -> Option<String> {
        let Some(was) = was else { return Some("its definition cannot be read".to_owned()) };
        let mut told: Vec<_> = was
            .source
            .keys()
            .filter(|name| !self.source.contains_key(*name))
            .map(|name| format!("column `{name}` is gone"))
            .collect();
        let new = self.source.iter().filter(|(name, _)| !was.source.contains_key(*name));
        told.extend(new.map(|(name, kind)| format!("column `{name}` ({kind}) is new")));
        told.extend(others(&self.source, &was.source, ""));
        if let (Some(is), Some(was)) = (&self.collations, &was.collations) {
            told.extend(others(is, was, " of the key, by its collation,"));
        }
        if let (Some(is), Some(was)) = (&self.generated, &was.generated) {
            told.extend(others(is, was, ", which is computed,"));
            let is_both = |name: &str| is.contains_key(name) == was.contains_key(name);
            let others = self.source.keys().filter(|name| !is_both(name));
            told.extend(others.map(|name| format!("column `{name}` is computed now, or is not any more")));
        }
        if !is_same(self.source_key.as_ref(), was.source_key.as_ref()) {
            let list = |key: &Option<Vec<String>>| key.as_deref().unwrap_or_default().join(", ");
            told.push(format!("its key is ({}) and was ({})", list(&self.source_key), list(&was.source_key)));
        }
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// What is another one now of columns that are in both.
fn others(
    is: &BTreeMap<String, String>,
    was: &BTreeMap<String, String>,
    what: &str,
) -> impl Iterator<Item = String> {
    let both = is.iter().filter_map(|(name, is)| Some((name, is, was.get(name)?)));
    both.filter(|(_, is, was)| is != was)
        .map(move |(name, is, was)| format!("column `{name}`{what} is {is} and was {was}"))
}

/// Whether two facts are the same as far as both are known.
fn is_same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// Whether a text has a name in it, not as part of another one.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + name.len()..].chars().next().is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(columns: &[(&str, &str)]) -> Definition {
        let source = columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()));
        Definition {
            columns: Vec::new(),
            filter: None,
            key: Vec::new(),
            hash_key: Some("f".into()),
            source: source.collect(),
            source_key: Some(vec!["id".into()]),
            collations: Some([("id".to_owned(), "utf8mb4_bin".to_owned())].into()),
            generated: Some([("price".to_owned(), "`id`".to_owned())].into()),
        }
    }

    #[test]
    fn what_has_changed_is_named() {
        let was = definition(&[("id", "int"), ("price", "decimal(10,2)"), ("old", "int")]);
        let mut is = definition(&[("id", "int"), ("price", "decimal(12,4)"), ("new", "int")]);
        assert_eq!(
            is.difference(Some(&was)).unwrap(),
            "column `old` is gone, column `new` (int) is new, column `price` is decimal(12,4) and was decimal(10,2)"
        );
        assert_eq!(was.difference(Some(&was)), None);
        is.source.clone_from(&was.source);
        is.source_key = Some(vec!["id".into(), "old".into()]);
        is.collations = Some([("id".to_owned(), "latin1_bin".to_owned())].into());
        is.generated = Some([("price".to_owned(), "`old`".to_owned())].into());
        assert_eq!(
            is.difference(Some(&was)).unwrap(),
            "column `id` of the key, by its collation, is latin1_bin and was utf8mb4_bin, column `price`, which is \
             computed, is `old` and was `id`, its key is (id, old) and was (id)"
        );
        is.generated = Some(BTreeMap::new());
        assert!(is.difference(Some(&was)).unwrap().contains("computed now, or is not any more"));
    }

    #[test]
    fn what_an_earlier_version_did_not_note_is_no_difference() {
        let is = definition(&[("id", "int")]);
        let text = r#"{"columns":[],"where":null,"key":[],"source":{"id":"int"}}"#;
        let was = Definition::read(text).unwrap();
        assert!(was.is_spec_of(&is) && is.difference(Some(&was)).is_none());
        let other = Definition { hash_key: Some("g".into()), ..is.clone() };
        assert!(!other.is_spec_of(&is) && is.is_spec_of(&is));
    }

    #[test]
    fn names_are_found_as_words() {
        assert!(has_word("price as unit_price", "price") && has_word("hash(`e-mail`)", "e-mail"));
        assert!(!has_word("price as unit_price", "unit"));
    }
}
