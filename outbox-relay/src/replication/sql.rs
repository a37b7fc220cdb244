//! Names and values in SQL.

use crate::change::{ColumnType, Value};

/// A name in backticks.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Appends a value as a literal for a column of the target.
pub fn literal(sql: &mut String, value: &Value, kind: &ColumnType) {
    todo!()
}
