//! The keys of rows as a copy has them, whatever its filter says of the rows.

use outbox_core::{Error, ErrorKind, Result};

use super::plan::{CopyPlan, Key};
use super::project::{Origin, converted, hashed};
use crate::change::{Row, Table, Value};

impl CopyPlan {
    /// The key that a row of the source has in the copy.
    ///
    /// # Errors
    /// `Invalid` when the table has lost a column of the key.
    pub fn key_of(&self, table: &Table, row: &Row) -> Result<Key> {
        self.key_by(|column| row.0.get(table.ordinal(column)?))
    }

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
                Origin::Column(column) => converted(of(column)?, kind),
                Origin::Hash(column) => {
                    converted(&hashed(of(column)?, self.mappings.hash_key.as_ref()), kind)
                }
            })
        });
        parts.collect::<Result<_>>().map(Key)
    }
}
