//! The statements for rows of a copy, as text.

use super::plan::{CopyPlan, Key, Projected};
use super::session::said;
use super::sql::{self, literal, quoted};
use super::write::Dialect;
use crate::change::{ColumnType, Value};

/// A row as it goes into an INSERT.
pub(super) struct Rendered<'e> {
    pub(super) key: &'e Key,
    pub(super) row: &'e Projected,
    pub(super) sql: String,
}

/// The statement that inserts or updates rows of a copy.
pub(super) struct Upsert {
    head: String,
    tail: String,
    /// The column that a guard sets to NULL when the row found has another key.
    guard: Option<String>,
}

impl Upsert {
    pub(super) fn of(plan: &CopyPlan, dialect: &Dialect) -> Self {
        let table = quoted(&plan.image.name);
        let names: Vec<_> = plan.image.columns.iter().map(|column| quoted(&column.name)).collect();
        let new = |name: &str| {
            if dialect.has_row_alias { format!("outbox_new.{name}") } else { format!("values({name})") }
        };
        let is_key = |at: &usize| plan.image.primary_key.contains(at);
        let mut set = Vec::new();
        let guard =
            plan.image.primary_key.first().filter(|_| plan.has_other_keys).map(|first| &names[*first]);
        if let Some(first) = guard {
            // ON DUPLICATE KEY UPDATE takes whichever row has one of the unique values. Another row than the key's
            // must not be written over: NULL in its key is an error.
            let same: Vec<_> = plan
                .image
                .primary_key
                .iter()
                .map(|at| format!("{table}.{0} <=> {1}", names[*at], new(&names[*at])))
                .collect();
            set.push(format!("{first} = if({}, {}, null)", same.join(" and "), new(first)));
        }
        for (at, name) in names.iter().enumerate() {
            // A key's text may differ and yet be equal in its collation.
            let is_text = matches!(plan.image.columns[at].kind, ColumnType::Text { .. });
            if (!is_key(&at) || is_text) && Some(name) != guard {
                set.push(format!("{name} = {}", new(name)));
            }
        }
        if set.is_empty() {
            set.extend(names.first().map(|name| format!("{name} = {}", new(name))));
        }
        let alias = if dialect.has_row_alias { " as outbox_new" } else { "" };
        Self {
            head: format!("insert into {table} ({}) values ", names.join(", ")),
            tail: format!("{alias} on duplicate key update {}", set.join(", ")),
            guard: guard.cloned(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    pub(super) fn sql(&self, rows: &[Rendered<'_>]) -> String {
        let bytes: usize = rows.iter().map(|row| row.sql.len() + 2).sum();
        let mut sql = String::with_capacity(self.bytes() + bytes);
        sql.push_str(&self.head);
        for (i, row) in rows.iter().enumerate() {
            sql.push_str(if i > 0 { ", " } else { "" });
            sql.push_str(&row.sql);
        }
        sql.push_str(&self.tail);
        sql
    }

    /// Whether a row was refused because of another one.
    pub(super) fn is_rival(&self, error: &mysql_async::Error) -> bool {
        let is_guard = || self.guard.as_ref().is_some_and(|first| said(error).contains(first.as_str()));
        match error {
            mysql_async::Error::Server(server) => server.code == 1062 || server.code == 1048 && is_guard(),
            _ => false,
        }
    }

    /// Why a row was refused.
    pub(super) fn why(&self, plan: &CopyPlan, error: &mysql_async::Error) -> String {
        let said = said(error);
        if self.is_rival(error) {
            let table = &plan.image.name;
            return format!(
                "another row of table `{table}` has its value of a unique key that the source does not have"
            );
        }
        said
    }
}

/// `replication = … and copy = …`.
pub(super) fn of_copy(replication: &str, copy: &str) -> String {
    let mut sql = String::from("replication = ");
    sql::text(&mut sql, replication);
    sql.push_str(" and copy = ");
    sql::text(&mut sql, copy);
    sql
}

pub(super) fn row_sql(plan: &CopyPlan, row: &Projected) -> String {
    let mut sql = String::from("(");
    for (i, (value, column)) in row.0.iter().zip(&plan.image.columns).enumerate() {
        sql.push_str(if i > 0 { ", " } else { "" });
        literal(&mut sql, value, &column.kind);
    }
    sql.push(')');
    sql
}

/// A condition for as many keys, one at least, as fit into about so many bytes; and how many.
pub(super) fn key_in(plan: &CopyPlan, keys: &[&Key], bytes: usize) -> (String, usize) {
    let (names, is_single) = (key_names(plan), plan.image.primary_key.len() == 1);
    let mut sql = format!("{names} in (");
    let mut count = 0;
    for key in keys {
        if count > 0 && sql.len() > bytes {
            break;
        }
        sql.push_str(if count > 0 { ", " } else { "" });
        sql.push_str(&key_sql(plan, key, is_single));
        count += 1;
    }
    sql.push(')');
    (sql, count)
}

/// `a`, `(a, b)`.
pub(super) fn key_names(plan: &CopyPlan) -> String {
    let names: Vec<_> =
        plan.image.primary_key.iter().map(|at| quoted(&plan.image.columns[*at].name)).collect();
    if names.len() == 1 { names.concat() } else { format!("({})", names.join(", ")) }
}

pub(super) fn key_sql(plan: &CopyPlan, key: &Key, is_single: bool) -> String {
    let mut sql = String::from(if is_single { "" } else { "(" });
    for (i, (value, at)) in key.0.iter().zip(&plan.image.primary_key).enumerate() {
        sql.push_str(if i > 0 { ", " } else { "" });
        match value {
            // Both zeros compare as one, but not by the literal that stores the negative one.
            Value::Float(0.0) | Value::Double(0.0) => sql.push('0'),
            value => literal(&mut sql, value, &plan.image.columns[*at].kind),
        }
    }
    sql.push_str(if is_single { "" } else { ")" });
    sql
}

/// An ENUM's value of index 0, which is no label.
pub(super) fn is_invalid(value: &Value, kind: &ColumnType) -> bool {
    matches!((value, kind), (Value::Text(text), ColumnType::Enum { labels })
        if text.is_empty() && !labels.iter().any(String::is_empty))
}

pub(super) fn is_lax(plan: &CopyPlan, row: &Projected) -> bool {
    row.0.iter().zip(&plan.image.columns).any(|(value, column)| is_invalid(value, &column.kind))
}
