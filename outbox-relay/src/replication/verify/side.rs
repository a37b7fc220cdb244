//! A table on one side of a comparison, read in the order of its key by its own server.

use std::fmt::Write as _;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, Result};

use crate::binlog::{self, Link};
use crate::change::{Column, ColumnType, Row, Table, Value};
use crate::replication::sql::{literal, quoted};
use crate::snapshot;

/// Rows of the first read; the next ones are by the size of what came.
const ROWS_FIRST: u64 = 64;
const ROWS_MAX: u64 = 4096;
/// What one read aims at.
const READ_BYTES: u64 = 2 << 20;
/// Keys of one look-up.
const KEYS_MAX: usize = 500;

/// A table, its key, and which of its rows are meant.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) table: Arc<Table>,
    /// Ordinals of the key's columns.
    pub(super) key: Vec<usize>,
    /// A condition that all rows meant fulfil.
    only: Option<String>,
}

/// How far a walk through a side has come.
#[derive(Debug)]
pub(super) struct Walk {
    after: Option<Vec<Value>>,
    rows: u64,
    is_over: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self { after: None, rows: ROWS_FIRST, is_over: false }
    }
}

impl Side {
    pub(super) fn new(table: Arc<Table>, key: Vec<usize>, only: Option<String>) -> Self {
        Self { table, key, only }
    }

    /// The values of a row's key.
    pub(super) fn key_of(&self, row: &Row) -> Vec<Value> {
        self.key.iter().map(|ordinal| row.0[*ordinal].clone()).collect()
    }

    /// The next rows of a walk; none at its end.
    pub(super) async fn next(&self, connection: &mut Link, walk: &mut Walk) -> Result<Vec<Row>> {
        if walk.is_over {
            return Ok(Vec::new());
        }
        let after = walk.after.as_ref().map(|after| self.after(after));
        let condition: Vec<String> = after.into_iter().chain(self.only.clone()).collect();
        let order: Vec<String> = self.key_columns().map(|column| quoted(&column.name)).collect();
        let tail = format!("order by {} limit {}", order.join(", "), walk.rows);
        let rows = self.select(connection, &condition, &tail).await?;
        walk.is_over = (rows.len() as u64) < walk.rows;
        if let Some(last) = rows.last() {
            walk.after = Some(self.key_of(last));
            let bytes: u64 =
                rows.iter().flat_map(|row| &row.0).map(|value| value.weight_bytes() as u64).sum();
            let fitting = READ_BYTES * rows.len() as u64 / bytes.max(1);
            walk.rows = fitting.clamp(1, ROWS_MAX.min(walk.rows * 8));
        }
        Ok(rows)
    }

    /// The rows that have these keys.
    pub(super) async fn with_keys(&self, connection: &mut Link, keys: &[Vec<Value>]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for keys in keys.chunks(KEYS_MAX) {
            let names: Vec<String> = self.key_columns().map(|column| quoted(&column.name)).collect();
            let mut condition = format!("({}) in (", names.join(", "));
            for (n, key) in keys.iter().enumerate() {
                condition.push_str(if n == 0 { "(" } else { ", (" });
                for (part, (column, value)) in self.key_columns().zip(key).enumerate() {
                    condition.push_str(if part == 0 { "" } else { ", " });
                    literal(&mut condition, value, &column.kind);
                }
                condition.push(')');
            }
            condition.push(')');
            let conditions: Vec<String> = std::iter::once(condition).chain(self.only.clone()).collect();
            rows.extend(self.select(connection, &conditions, "").await?);
        }
        Ok(rows)
    }

    /// About how many rows there are, as the server estimates.
    pub(super) async fn estimate(&self, connection: &mut Link) -> Result<u64> {
        let sql =
            "select table_rows from information_schema.tables where table_schema = ? and table_name = ?";
        let asked = connection.exec_first(sql, (&self.table.database, &self.table.name)).await;
        let rows: Option<Option<u64>> = asked.map_err(|error| failed(&self.table, &error))?;
        Ok(rows.flatten().unwrap_or(0))
    }

    fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|ordinal| &self.table.columns[*ordinal])
    }

    /// Which rows come after a key: `a > 1 or a = 1 and b > 2`, which servers turn into ranges of the index.
    fn after(&self, key: &[Value]) -> String {
        let parts: Vec<(String, String)> = self
            .key_columns()
            .zip(key)
            .map(|(column, value)| (quoted(&column.name), ordinal(&column.kind, value)))
            .collect();
        let mut text = String::from("(");
        for last in 0..parts.len() {
            for (n, (column, value)) in parts[..=last].iter().enumerate() {
                let operator = if n == last { ">" } else { "=" };
                let between = match (last, n) {
                    (0, _) => "",
                    (_, 0) => " or ",
                    _ => " and ",
                };
                let _ = write!(text, "{between}{column} {operator} {value}");
            }
        }
        text.push(')');
        text
    }

    async fn select(&self, connection: &mut Link, conditions: &[String], tail: &str) -> Result<Vec<Row>> {
        let mut sql = format!(
            "select {} from {}.{}",
            snapshot::select_list(&self.table),
            quoted(&self.table.database),
            quoted(&self.table.name)
        );
        for (n, condition) in conditions.iter().enumerate() {
            let _ = write!(sql, " {} {condition}", if n == 0 { "where" } else { "and" });
        }
        let answers: Vec<mysql_async::Row> = connection
            .exec(format!("{sql} {tail}"), ())
            .await
            .map_err(|error| failed(&self.table, &error))?;
        answers.into_iter().map(|answer| snapshot::row(&self.table, answer)).collect()
    }
}

/// Never with the statement, which holds values.
fn failed(table: &Table, error: &mysql_async::Error) -> Error {
    binlog::failed(format_args!("reading {table}"), error)
}

/// A value of a key as ORDER BY sorts it: labels by their number, while as text they would compare as text.
fn ordinal(kind: &ColumnType, value: &Value) -> String {
    match (kind, value) {
        (ColumnType::Enum { labels }, Value::Text(text)) => {
            labels.iter().position(|label| label == text).map_or(0, |index| index + 1).to_string()
        }
        (ColumnType::Set { labels }, Value::Text(text)) => {
            let is_set = |label: &String| text.split(',').any(|member| member == label);
            let bits = labels.iter().enumerate().filter(|(_, label)| is_set(label));
            bits.fold(0_u64, |bits, (n, _)| bits | 1 << n).to_string()
        }
        _ => {
            let mut text = String::new();
            literal(&mut text, value, kind);
            text
        }
    }
}
