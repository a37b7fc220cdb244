//! The keys of rows as a copy has them, whatever its filter says of the rows.

use std::cmp::Ordering;

use outbox_core::{Error, ErrorKind, Result};

use super::plan::{CopyPlan, Key};
use super::project::{Origin, converted, hashed};
use crate::change::Value;

/// What a key weighs in a set of them besides its values.
const KEY_BYTES: usize = 48;

impl Key {
    /// The order in which every database sorts keys, where that is sure without it: not of texts, unless they are equal.
    pub(super) fn sure_order(&self, other: &Self) -> Option<Ordering> {
        for (one, other) in self.0.iter().zip(&other.0) {
            let order = match (one, other) {
                (Value::Int(a), Value::Int(b)) => a.cmp(b),
                (Value::UInt(a), Value::UInt(b)) => a.cmp(b),
                (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
                _ if one == other => Ordering::Equal,
                _ => return None,
            };
            if order != Ordering::Equal {
                return Some(order);
            }
        }
        Some(Ordering::Equal)
    }

    /// About how many bytes of memory it takes in a set.
    pub(super) fn weight_bytes(&self) -> u64 {
        (KEY_BYTES + self.0.iter().map(Value::weight_bytes).sum::<usize>()) as u64
    }

    /// About the order in which a table is stored; only speed depends on it. Texts are sorted by their bytes, whatever
    /// the collation.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let parts = self.0.iter().zip(&other.0).map(|(one, other)| order(one, other));
        parts.fold(Ordering::Equal, Ordering::then)
    }
}

fn order(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Int(a), Value::Int(b))
        | (Value::Time(a), Value::Time(b))
        | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::UInt(a), Value::UInt(b)) | (Value::Bit(a), Value::Bit(b)) => a.cmp(b),
        (Value::Year(a), Value::Year(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::DateTime(a), Value::DateTime(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (
            Value::Decimal(a) | Value::Text(a) | Value::Json(a),
            Value::Decimal(b) | Value::Text(b) | Value::Json(b),
        ) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

impl CopyPlan {
    /// The copy's key by the source's, whose values are in the order of [`source_key`](Self::source_key).
    ///
    /// # Errors
    /// `Invalid` when a part is missing.
    pub fn copied_key(&self, key: &Key) -> Result<Key> {
        self.key_by(|column| {
            let at = self.source_key.iter().position(|name| name.eq_ignore_ascii_case(column))?;
            key.0.get(at)
        })
    }

    fn key_by<'v>(&self, value: impl Fn(&str) -> Option<&'v Value>) -> Result<Key> {
        let parts = self.image.primary_key.iter().map(|ordinal| {
            let (origin, kind) = &self.mappings.columns[*ordinal];
            let of = |column: &str| {
                let lost = || format!("copy {}: the key has lost column `{column}`", self.name);
                value(column).ok_or_else(|| Error::new(ErrorKind::Invalid, lost()))
            };
            Ok(match origin {
                Origin::Constant(value) => value.clone(),
                Origin::Column(column) => converted(of(column)?.clone(), kind),
                Origin::Hash(column) => converted(hashed(of(column)?, self.mappings.hash_key.as_ref()), kind),
            })
        });
        parts.collect::<Result<_>>().map(Key)
    }
}
