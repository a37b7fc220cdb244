//! What a copy holds: which columns of which table, under which names, and by which key its rows are found.

use std::sync::Arc;

use outbox_core::Result;

use super::project::Mappings;
use crate::change::{Row, Table, Value};
use crate::config::Secret;

/// What the configuration says of a copy.
#[derive(Debug, Clone, Default)]
pub struct CopySpec {
    /// Its name, unique in its replication; what commands and `outbox_copy` call it.
    pub name: String,
    /// The database of the source's table.
    pub source_database: String,
    /// The source's table.
    pub source_table: String,
    /// The table in the target's database.
    pub target_table: String,
    /// `name`, `price as unit_price`, `hash(email) as email_hash`, `'eu' as shard`; empty: all as they are.
    pub columns: Vec<String>,
    /// Which rows, as SQL over the source's columns; `None`: all.
    pub filter: Option<String>,
    /// A unique key of the source over columns that are NOT NULL, by the source's names; empty: the primary key.
    pub key: Vec<String>,
    /// For `hash(…)`; at least 16 bytes.
    pub hash_key: Option<Secret>,
}

/// A table as `information_schema` has it today, with more than its rows' values need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Its columns and its primary key.
    pub table: Arc<Table>,
    /// What else there is of each column, in the same order.
    pub columns: Vec<ColumnFacts>,
    /// All unique keys, the primary key first where there is one.
    pub unique_keys: Vec<UniqueKey>,
    /// The tables of the same database that its foreign keys point to.
    pub references: Vec<String>,
    /// Whether the server is MariaDB.
    pub is_mariadb: bool,
}

/// What is not in [`Column`](crate::change::Column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    /// The type in SQL: `decimal(10,2) unsigned`.
    pub column_type: String,
    /// The collation of text.
    pub collation: Option<String>,
    /// Whether the server computes it.
    pub is_generated: bool,
    /// Whether an INSERT may leave it out.
    pub has_default: bool,
}

/// A unique key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueKey {
    /// Its name.
    pub name: String,
    /// Its parts, in order.
    pub parts: Vec<KeyPart>,
}

/// A part of a [`UniqueKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The ordinal of a column.
    Column(usize),
    /// The first characters or bytes of the column of this ordinal.
    Prefix(usize),
    /// An expression over these columns, as far as its text names them.
    Expression(Vec<usize>),
}

/// A copy, resolved against its table in the source and in the target.
#[derive(Debug)]
pub struct CopyPlan {
    pub(super) name: String,
    pub(super) source: (String, String),
    pub(super) source_key: Vec<String>,
    /// The target's columns that are written, in order; the primary key's ordinals are those of the mapped key.
    pub(super) image: Table,
    pub(super) has_source_order: bool,
    pub(super) unique_keys: Vec<OtherKey>,
    pub(super) references: Vec<String>,
    pub(super) mappings: Mappings,
}

/// A unique key of the target besides the mapped one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherKey {
    pub(super) name: String,
    /// The ordinals in the plan's image that its values depend on.
    pub(super) columns: Vec<usize>,
    /// The column that is parked, by its ordinal in the image; `None`: no written column decides it.
    pub(super) parked: Option<usize>,
}

/// A row of a copy, in the order of the plan's columns, with the values that the target's columns hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Projected(pub Vec<Value>);

/// The values of a row in the plan's key, in the key's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Vec<Value>);

impl TableFacts {
    /// The table of this name; `None` if there is none.
    ///
    /// # Errors
    /// As [`describe`](crate::snapshot::describe).
    pub async fn describe(
        connection: &mut mysql_async::Conn,
        database: &str,
        name: &str,
    ) -> Result<Option<Self>> {
        todo!()
    }
}

impl CopyPlan {
    /// Puts a specification, the source's table and the target's together.
    ///
    /// # Errors
    /// `Invalid` with the remedy: there is no key, a column is unknown or does not fit, a unique key of the target
    /// could never be kept.
    pub fn resolve(spec: &CopySpec, source: &TableFacts, target: &TableFacts) -> Result<Self> {
        todo!()
    }

    /// The CREATE TABLE for a target that is missing: the columns that are projected and the key; no AUTO_INCREMENT,
    /// no foreign keys, generated columns as plain ones.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn create_table_sql(spec: &CopySpec, source: &TableFacts, target_is_mariadb: bool) -> Result<String> {
        todo!()
    }

    /// Checks plans that write the same table of the target: their keys have to differ by a constant.
    ///
    /// # Errors
    /// `Invalid` with the remedy.
    pub fn check_together(plans: &[Arc<Self>]) -> Result<()> {
        todo!()
    }

    /// The name of the copy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Database and name of the source's table.
    pub fn source(&self) -> (&str, &str) {
        (&self.source.0, &self.source.1)
    }

    /// The key's columns in the source, in the key's order there: what the source's rows are read by in pieces.
    pub fn source_key(&self) -> &[String] {
        &self.source_key
    }

    /// The target's table as far as the copy writes it: its columns are those of [`Projected`], its primary key the
    /// columns of [`Key`]. A row of the target is read by `select_list(plan.image())` and `row(plan.image(), …)`.
    pub fn image(&self) -> &Table {
        &self.image
    }

    /// Whether the target surely sorts keys as the source does, so that a range of keys is the same range there.
    pub fn has_source_order(&self) -> bool {
        self.has_source_order
    }

    /// The row as the copy has it; `None` if the filter leaves it out. Columns are found by name in the table that
    /// the row is of.
    ///
    /// # Errors
    /// `Invalid` when the table has no longer the columns, or not of types that fit: the copy has to be held.
    pub fn project(&self, table: &Arc<Table>, row: &Row) -> Result<Option<Projected>> {
        todo!()
    }

    /// The key of a row.
    pub fn key(&self, row: &Projected) -> Key {
        Key(self.image.primary_key.iter().filter_map(|ordinal| row.0.get(*ordinal).cloned()).collect())
    }
}
