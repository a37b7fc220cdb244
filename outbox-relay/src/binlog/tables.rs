//! Which tables a reader gives the changes of.

use std::collections::{BTreeMap, BTreeSet};

/// Subscribed tables, by their exact names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<String, BTreeSet<String>>);

impl Tables {
    /// Whether a table is subscribed.
    pub fn contains(&self, database: &str, table: &str) -> bool {
        self.0.get(database).is_some_and(|tables| tables.contains(table))
    }

    /// The tables as pairs of database and name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(database, tables)| {
            tables.iter().map(move |table| (database.as_str(), table.as_str()))
        })
    }

    /// Whether a statement holds the name of a subscribed table, perhaps as a part of another word.
    pub(crate) fn is_mentioned(&self, sql: &[u8]) -> bool {
        let sql = sql.to_ascii_lowercase();
        self.iter().any(|(_, table)| {
            let table = table.to_ascii_lowercase();
            sql.windows(table.len().max(1)).any(|part| part == table.as_bytes())
        })
    }
}

impl<D: Into<String>, T: Into<String>> FromIterator<(D, T)> for Tables {
    fn from_iter<I: IntoIterator<Item = (D, T)>>(tables: I) -> Self {
        let mut all = Self::default();
        for (database, table) in tables {
            all.0.entry(database.into()).or_default().insert(table.into());
        }
        all
    }
}
