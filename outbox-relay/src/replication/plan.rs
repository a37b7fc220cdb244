//! What a copy holds: which columns of which table, under which names, and by which key its rows are found.

use std::sync::Arc;

use outbox_core::Result;

use super::create;
use super::facts::TableFacts;
use super::project::{Mappings, Origin};
use super::resolve;
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

/// A copy, resolved against its table in the source and in the target.
#[derive(Debug)]
pub struct CopyPlan {
    pub(super) name: String,
    pub(super) source: (String, String),
    pub(super) source_key: Vec<String>,
    /// The target's columns that are written, in order; the primary key's ordinals are those of the mapped key.
    pub(super) image: Table,
    /// The columns that the target sets to the time with an UPDATE that leaves them out.
    pub(super) touched: Vec<usize>,
    pub(super) has_source_order: bool,
    /// Why keys of the source may be one in the target, if they may.
    pub(super) merging: Option<String>,
    pub(super) unique_keys: Vec<OtherKey>,
    /// Whether the target's table has any unique key besides the mapped one, be it over columns of its own.
    pub(super) has_other_keys: bool,
    pub(super) references: Vec<String>,
    pub(super) mappings: Mappings,
}

/// A table for a copy that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTable {
    /// The CREATE TABLE.
    pub sql: String,
    /// The same with the primary key alone, for a target that does not take the others.
    pub sql_without_keys: String,
    /// Keys of the source's table that it does not have, or not so, each with the reason.
    pub left_out: Vec<String>,
}

/// A unique key of the target besides the mapped one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherKey {
    /// The ordinals in the plan's image that its values depend on.
    pub(super) columns: Vec<usize>,
    /// Whether it is over a part of a column or an expression.
    pub(super) is_partial: bool,
    /// The ordinal of the column that is parked.
    pub(super) parked: usize,
}

/// A row of a copy, in the order of the plan's columns, with the values that the target's columns hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Projected(pub Vec<Value>);

/// The values of a row in the plan's key, in the key's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Vec<Value>);

impl CopyPlan {
    /// Why rows of the source may be written over by each other in the target, with the remedy; `None` if they cannot.
    pub fn merging(&self) -> Option<&str> {
        self.merging.as_deref()
    }

    /// Puts a specification, the source's table and the target's together.
    ///
    /// # Errors
    /// `Invalid` with the remedy: there is no key, a column is unknown or does not fit, a unique key of the target
    /// could never be kept.
    pub fn resolve(spec: &CopySpec, source: &TableFacts, target: &TableFacts) -> Result<Self> {
        resolve::resolve(spec, source, target).map_err(|error| error.context(format!("copy {}", spec.name)))
    }

    /// The table for a target that has none: the columns that are projected and the keys that are over these; no
    /// AUTO_INCREMENT, no foreign keys, generated columns as plain ones.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn new_table(spec: &CopySpec, source: &TableFacts, target_is_mariadb: bool) -> Result<NewTable> {
        create::new_table(spec, source, target_is_mariadb)
            .map_err(|error| error.context(format!("copy {}", spec.name)))
    }

    /// Checks plans that write the same table of the target: their keys have to differ by a constant.
    ///
    /// # Errors
    /// `Invalid` with the remedy.
    pub fn check_together(plans: &[Arc<Self>]) -> Result<()> {
        for (at, plan) in plans.iter().enumerate() {
            let others = plans[..at].iter().filter(|other| other.image.name == plan.image.name);
            for other in others {
                let differs = plan.key_constants().any(|(name, value)| {
                    other.key_constants().any(|(n, v)| n.eq_ignore_ascii_case(name) && v != value)
                });
                if !differs {
                    return Err(resolve::invalid(format!(
                        "copies {} and {} write the same table `{}`, and their keys may be equal: give each a column \
                         like `'eu' as shard`, and make it part of the table's primary key",
                        other.name, plan.name, plan.image.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The key's columns that are constant.
    pub(super) fn key_constants(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.image.primary_key.iter().filter_map(|ordinal| match &self.mappings.columns[*ordinal].0 {
            Origin::Constant(value) => Some((self.image.columns[*ordinal].name.as_str(), value)),
            _ => None,
        })
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
    pub fn project(&self, table: &Arc<Table>, row: Row) -> Result<Option<Projected>> {
        let mapping = self.mappings.of(table)?;
        Ok(self.mappings.project(&mapping, row))
    }

    /// The key of a row.
    pub fn key(&self, row: &Projected) -> Key {
        Key(self.image.primary_key.iter().filter_map(|ordinal| row.0.get(*ordinal).cloned()).collect())
    }
}
