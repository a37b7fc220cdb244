//! Which rows a copy takes: a small SQL expression over the source's columns, evaluated here, on rows of the stream
//! and of snapshots alike.
//!
//! `=`, `<>`, `!=`, `<`, `<=`, `>`, `>=`, `<=>`, `and`, `or`, `not`, `in (…)`, `between … and …`, `is [not] null`,
//! `like`, parentheses; columns, numbers, `'texts'` (a quote stands twice, a backslash is one), `x'00ff'`, `true`,
//! `false`, `null`. NULL makes an answer unknown as in SQL, and an unknown answer leaves the row out. Texts compare
//! by their code points whatever the column's collation: `'a'`, `'A'` and `'a '` are three texts.

mod evaluate;
mod parse;

use outbox_core::Result;

use crate::change::{Row, Table, Value};

/// A filter as it is written, not yet bound to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Expression<String, Literal>);

/// A filter whose columns are found in a version of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundFilter(Expression<usize, Value>);

/// Columns as `C`, literals as `L`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression<C, L> {
    Or(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Compare(Comparison, Operand<C, L>, Operand<C, L>),
    In(Operand<C, L>, Vec<Operand<C, L>>),
    Between(Operand<C, L>, Operand<C, L>, Operand<C, L>),
    IsNull(Operand<C, L>),
    Like(Operand<C, L>, String),
    /// TRUE, FALSE and NULL as a condition.
    Constant(Option<bool>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand<C, L> {
    Column(C),
    Literal(L),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `<=>`: NULL is NULL's equal.
    Same,
}

/// A literal as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    Null,
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// `Invalid`, with the place.
    pub fn parse(text: &str) -> Result<Self> {
        parse::parse(text).map(Self)
    }

    /// Finds the columns in a table and checks that their types can be compared with what they are compared with.
    ///
    /// # Errors
    /// `Invalid`, with the column.
    pub fn bind(&self, table: &Table) -> Result<BoundFilter> {
        evaluate::bind(&self.0, table).map(BoundFilter)
    }
}

impl BoundFilter {
    /// Whether the row is taken.
    pub fn takes(&self, row: &Row) -> bool {
        evaluate::truth(&self.0, row) == Some(true)
    }
}
