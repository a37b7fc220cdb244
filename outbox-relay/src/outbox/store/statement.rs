//! One SQL text with its values, for every database: `?` stands for a value and becomes what the database
//! wants there. `diesel::sql_query` would do, but it is prepared anew for every execution, which doubles
//! the round trips of a loop that runs the same few texts all day.

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Text, Untyped};

/// A value of a [`Statement`].
#[derive(Debug, Clone)]
enum Value {
    Int(i64),
    Text(String),
}

/// A text and its values.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    text: String,
    values: Vec<Value>,
    once: bool,
}

impl Statement {
    /// A text that comes again: the database keeps it prepared.
    pub(super) fn fixed(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new(), once: false }
    }

    /// A text that holds ids and will not come again; keeping it prepared would fill the server's memory.
    pub(super) fn once(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new(), once: true }
    }

    /// The same text with more after it.
    pub(super) fn and_text(mut self, more: impl AsRef<str>) -> Self {
        self.text.push_str(more.as_ref());
        self
    }

    pub(super) fn int(mut self, value: impl Into<i64>) -> Self {
        self.values.push(Value::Int(value.into()));
        self
    }

    pub(super) fn text(mut self, value: impl Into<String>) -> Self {
        self.values.push(Value::Text(value.into()));
        self
    }
}

impl<DB> QueryFragment<DB> for Statement
where
    DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
    i64: ToSql<BigInt, DB>,
    str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if self.once {
            out.unsafe_to_cache_prepared();
        }
        debug_assert_eq!(self.text.matches('?').count(), self.values.len(), "{}", self.text);
        let mut values = self.values.iter();
        for (number, part) in self.text.split('?').enumerate() {
            if number > 0 {
                match values.next() {
                    Some(Value::Int(value)) => out.push_bind_param::<BigInt, _>(value)?,
                    Some(Value::Text(value)) => out.push_bind_param::<Text, _>(value.as_str())?,
                    // The database refuses the text, naming the place.
                    None => out.push_sql("?"),
                }
            }
            out.push_sql(part);
        }
        Ok(())
    }
}

impl QueryId for Statement {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement {
    type SqlType = Untyped;
}

/// Numbers as the inside of an SQL list: `1, 2, 3`.
pub(super) fn list<T: std::fmt::Display>(numbers: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for number in numbers {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&number.to_string());
    }
    text
}

/// Leases as the inside of an SQL list of pairs: `(0, 7), (1, 3)`.
pub(super) fn pairs(fence: &[(u16, i64)]) -> String {
    list(fence.iter().map(|(bucket, epoch)| format!("({bucket}, {epoch})")))
}

/// Counts the rows of these buckets up to a limit, one part a bucket, as a counted LIMIT cannot be correlated everywhere.
/// `index` makes the database use the index on buckets, `bigint` makes a number one of 64 bits.
pub(super) fn depths(buckets: &[u16], index: &str, bigint: &str) -> String {
    let limit = super::DEPTH_MAX;
    let parts: Vec<String> = buckets
        .iter()
        .map(|bucket| {
            format!(
                "select {bucket}{bigint} as bucket, count(*) as depth \
                 from (select 1 as one from outbox {index} where bucket = {bucket} limit {limit}) counted"
            )
        })
        .collect();
    parts.join(" union all ")
}
