//! Headers: what a user may add, and the names that are ours.

use std::collections::BTreeMap;

use super::NAME_BYTES_MAX;
use crate::error::{Error, Result};

pub(super) const SOURCE: &str = "outbox-source";
pub(super) const ID: &str = "outbox-id";
pub(super) const GENERATION: &str = "outbox-generation";
pub(super) const KEY: &str = "outbox-key";
pub(super) const BUCKET: &str = "outbox-bucket";
pub(super) const SCHEMA: &str = "outbox-schema";
pub(super) const FORMAT: &str = "outbox-format";
pub(super) const TIME: &str = "outbox-time";
pub(super) const SCHEMA_VERSION: &str = "outbox-schema-version";
pub(super) const ENTITY_VERSION: &str = "outbox-entity-version";
/// Only when it is not the default; it travels as the broker's own property as well.
pub(super) const CONTENT_TYPE: &str = "outbox-content-type";
/// Only in `inbox_held`: of what was kept of a message that could not be stored whole, how long its payload was.
pub(crate) const CUT: &str = "outbox-cut";
/// Of ours, what belongs to the message and not to its place in a history.
pub(super) const KEPT: [&str; 3] = [SCHEMA, SCHEMA_VERSION, ENTITY_VERSION];

/// Headers of a message: names in lower case, values in text.
///
/// Names that belong to the broker (`x-…`, `cc`, `bcc`) or to this crate (`outbox-…`) are refused: `CC` and
/// `BCC` are routing keys to RabbitMQ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Adds a header of the user's.
    ///
    /// ```
    /// let mut headers = outbox_core::Headers::default();
    /// headers.insert("tenant", "eu")?;
    /// assert!(headers.insert("x-tenant", "eu").is_err(), "the broker's");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the name is not `[a-z][a-z0-9._-]*` of at most 100 bytes, or is reserved.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let name = name.into();
        let well_formed = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        let reserved = name.starts_with("x-") || name.starts_with("outbox-") || name == "cc" || name == "bcc";
        if !well_formed || reserved {
            return Err(Error::invalid(format!(
                "header name {name:?}: use [a-z][a-z0-9._-]* and not x-*, outbox-*, cc or bcc"
            )));
        }
        self.0.insert(name, value.into());
        Ok(())
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All headers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds those of `defaults` that are not here yet.
    pub(crate) fn inherit(&mut self, defaults: &Self) {
        for (name, value) in &defaults.0 {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// How many bytes they take in the outbox row.
    pub(crate) fn bytes(&self) -> usize {
        self.to_json().len()
    }

    /// A bound of [`bytes`](Self::bytes) that costs nothing: JSON writes a byte as at most six.
    pub(crate) fn bytes_at_most(&self) -> usize {
        2 + self.0.iter().map(|(name, value)| 6 * (name.len() + value.len() + 1)).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a header whatever its name; for the ones of this crate and for frames as they arrive.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The JSON object that stands in the outbox row.
    pub fn to_json(&self) -> String {
        // A map of strings always serializes.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Headers from the JSON object of an outbox row.
    ///
    /// # Errors
    /// `Invalid` when it is not an object of strings.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map(Self).map_err(|e| Error::from(e).context("message headers"))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    /// Headers as somebody else made them, unchecked.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
