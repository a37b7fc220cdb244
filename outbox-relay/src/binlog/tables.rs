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

    /// Whether a statement that ran with this default database names a subscribed table.
    pub(crate) fn is_mentioned(&self, default: &str, sql: &[u8]) -> bool {
        self.iter().any(|(database, table)| {
            has_word(sql, table) && (database.eq_ignore_ascii_case(default) || has_word(sql, database))
        })
    }
}

/// Whether a text holds a word, in any case.
fn has_word(sql: &[u8], word: &str) -> bool {
    let is_part = |byte: Option<&u8>| {
        byte.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 0x80..))
    };
    sql.windows(word.len().max(1)).enumerate().any(|(start, part)| {
        part.eq_ignore_ascii_case(word.as_bytes())
            && !is_part(start.checked_sub(1).and_then(|before| sql.get(before)))
            && !is_part(sql.get(start + word.len()))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_mentions_whole_names_only() {
        let tables = Tables::from_iter([("shop", "order")]);
        for (default, sql) in [("shop", "insert into `ORDER` values (1)"), ("", "delete from shop.order")] {
            assert!(tables.is_mentioned(default, sql.as_bytes()), "{sql}");
        }
        for (default, sql) in [("shop", "insert into orders"), ("x", "delete from `order`"), ("shop", "")] {
            assert!(!tables.is_mentioned(default, sql.as_bytes()), "{sql}");
        }
    }
}
