//! Headers: what a user may add, and the names that are ours.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serializer as _;

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

/// Names that nearly every message has: they are not stored with each.
const COMMON: [&str; 11] = [
    BUCKET,
    ENTITY_VERSION,
    FORMAT,
    GENERATION,
    ID,
    KEY,
    SCHEMA,
    SCHEMA_VERSION,
    SOURCE,
    TIME,
    "traceparent",
];

/// Headers of a message: names in lower case, values in text.
///
/// Names that belong to the broker (`x-…`, `cc`, `bcc`) or to this crate (`outbox-…`) are refused: `CC` and
/// `BCC` are routing keys to RabbitMQ.
///
/// ```
/// use outbox_core::Headers;
///
/// let mut headers = Headers::default();
/// headers.insert("tenant", "eu")?;
/// headers.insert("reason", "sale")?;
/// headers.insert("tenant", "us")?;
/// assert_eq!((headers.get("tenant"), headers.get("Tenant")), (Some("us"), None));
/// assert!(headers.iter().eq([("reason", "sale"), ("tenant", "us")]));
/// assert_eq!(headers.to_json(), r#"{"reason":"sale","tenant":"us"}"#);
/// assert_eq!(Headers::from_json(headers.to_json().as_bytes())?, headers);
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

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
        self.set(&name, value);
        Ok(())
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).ok().and_then(|place| self.0.get(place)).map(|(_, value)| value.as_str())
    }

    /// All headers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Adds those of `defaults` that are not here yet.
    pub(crate) fn inherit(&mut self, defaults: &Self) {
        for header in &defaults.0 {
            if let Err(place) = self.find(&header.0) {
                self.0.insert(place, header.clone());
            }
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Ok(place) = self.find(name) {
            self.0.remove(place);
        }
    }

    /// Where it is, or where it belongs.
    fn find(&self, name: &str) -> std::result::Result<usize, usize> {
        self.0.binary_search_by(|(here, _)| (**here).cmp(name))
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
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.find(name) {
            Ok(place) => self.0[place].1 = value.into(),
            Err(place) => self.0.insert(place, (own(name), value.into())),
        }
    }

    /// The JSON object that stands in the outbox row.
    pub fn to_json(&self) -> String {
        let mut json = Vec::new();
        // A map of strings always serializes, to text.
        let _ = serde_json::Serializer::new(&mut json).collect_map(self.iter());
        String::from_utf8(json).unwrap_or_default()
    }

    /// Headers from the JSON object of an outbox row.
    ///
    /// # Errors
    /// `Invalid` when it is not an object of strings.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let headers = serde_json::from_slice::<BTreeMap<String, String>>(json);
        headers.map(Self::from_iter).map_err(|e| Error::from(e).context("message headers"))
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Headers {
    /// Headers as somebody else made them, unchecked; of two of one name the later.
    ///
    /// ```
    /// use outbox_core::Headers;
    ///
    /// let headers: Headers = [("x-delivery-count", "1"), ("tenant", "eu"), ("tenant", "us")].into_iter().collect();
    /// assert!(headers.iter().eq([("tenant", "us"), ("x-delivery-count", "1")]));
    /// ```
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers: Vec<_> =
            pairs.into_iter().map(|(name, value)| (own(name.as_ref()), value.into())).collect();
        // What comes from a map is.
        if !headers.is_sorted_by(|(name, _), (next, _)| name < next) {
            headers.sort_by(|(name, _), (other, _)| name.cmp(other));
            headers.dedup_by(|later, earlier| {
                let is_same = later.0 == earlier.0;
                if is_same {
                    std::mem::swap(later, earlier);
                }
                is_same
            });
        }
        Self(headers)
    }
}

/// A name that is not stored anew if it is common.
fn own(name: &str) -> Cow<'static, str> {
    match COMMON.binary_search(&name) {
        Ok(place) => Cow::Borrowed(COMMON[place]),
        Err(_) => Cow::Owned(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_names_are_in_their_order() {
        assert!(COMMON.is_sorted());
        assert!(COMMON.iter().all(|name| matches!(own(name), Cow::Borrowed(_))));
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![proptest::sample::select(&COMMON[..]).prop_map(str::to_owned), "[a-d]{1,2}"]
    }

    proptest! {
        #[test]
        fn headers_are_a_map(
            pairs in proptest::collection::vec((name(), "[0-9]"), 0..20),
            more in proptest::collection::vec((name(), "[0-9]"), 0..9),
            gone in name(),
        ) {
            let mut map: BTreeMap<String, String> = pairs.iter().cloned().collect();
            let mut headers: Headers = pairs.into_iter().collect();
            let equal = |headers: &Headers, map: &BTreeMap<String, String>| {
                headers.iter().eq(map.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            };
            prop_assert!(equal(&headers, &map));
            for (name, value) in more {
                headers.set(&name, value.as_str());
                map.insert(name.clone(), value);
                prop_assert_eq!(headers.get(&name), map.get(&name).map(String::as_str));
            }
            headers.remove(&gone);
            map.remove(&gone);
            prop_assert!(equal(&headers, &map) && !headers.contains(&gone));
            prop_assert_eq!(headers.to_json(), serde_json::to_string(&map).unwrap());
            prop_assert_eq!(Headers::from_json(headers.to_json().as_bytes()).unwrap(), headers);
        }
    }
}
