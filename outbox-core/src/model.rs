//! What `#[derive(Outbox)]` writes: the pieces of SQL that the statements of an entity and its insertables
//! are put together from, once per backend. The code is concrete, so that no where-clauses of Diesel's reach
//! the user.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSqlRow};
use diesel::expression::{Expression, QueryMetadata, SelectableExpression};
use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel::result::QueryResult;
use diesel::row::Row;
use diesel::{Selectable, Table};

use crate::entity::Entity;
use crate::statement::Fragment;

/// The table of an entity.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an outbox entity",
    note = "add `#[derive(Outbox)]` and `#[outbox(aggregate = \"…\")]` to it"
)]
pub trait EntityTable: Entity {
    /// As Diesel names it.
    type Table: Table;
    /// The primary key: the field's type, or a tuple of them.
    type Id;
    /// What the fields of the primary key are called in messages, where the message's key is the primary key.
    const KEY_FIELDS: &'static [&'static str] = &[];
    /// Whether a row that keeps its primary key keeps its message key with it.
    const KEEPS_KEY: bool = !Self::KEY_FIELDS.is_empty();

    /// Brings each row as it is together with the row as it was, by primary key.
    ///
    /// # Errors
    /// `QueryBuilderError` when a key is in only one of the two.
    fn pair(before: Vec<Self>, after: Vec<Self>) -> QueryResult<Vec<(Self, Self)>>;
}

/// An entity whose primary key the writer gives.
pub trait UpsertKey: EntityTable {
    /// The columns of the primary key.
    const KEY_COLUMNS: &'static [&'static str];
}

/// A row that is read from a backend.
pub trait FromRow<DB: Backend>: Sized {
    /// The types of its columns, in their order. Of Diesel's connections, only that of MySQL asks for them.
    fn row_metadata(_lookup: &mut DB::MetadataLookup, _out: &mut Vec<Option<DB::TypeMetadata>>) {}

    /// # Errors
    /// When a value does not read as its field's type.
    fn from_row<'r>(row: &impl Row<'r, DB>) -> deserialize::Result<Self>;
}

/// The pieces of an entity's statements on a backend.
pub trait EntitySql<DB: Backend>: EntityTable + FromRow<DB> {
    /// The name of the table.
    fn table() -> Fragment<'static, DB>;
    /// The columns of [`FromRow`].
    fn selection() -> Fragment<'static, DB>;
    /// The condition that finds the row of a primary key.
    fn is_row(id: &Self::Id) -> Fragment<'_, DB>;
    /// The condition that finds the rows whose primary key is greater.
    fn is_after(id: &Self::Id) -> Fragment<'_, DB>;
    /// The condition that finds this row by Diesel's `Identifiable`.
    fn is_self(&self) -> Fragment<'_, DB>;
    /// The condition that finds these rows by their primary keys.
    fn are_rows(rows: &[Self]) -> Fragment<'_, DB>;
    /// The assignments of all fields.
    fn changes(&self) -> Fragment<'_, DB>;
}

/// A row that can be inserted.
pub trait NewRow: Sized {
    /// The table that it is inserted into.
    type Table;
    /// The entity that the inserted row is.
    type Entity: EntityTable<Table = Self::Table>;
    /// How many columns it has at most.
    const COLUMNS: usize;
}

/// The pieces of the INSERT of a row on a backend.
pub trait NewRowSql<DB: Backend>: NewRow {
    /// The names of the columns and the values.
    fn values(&self) -> Fragment<'_, DB>;

    /// As [`values`](Self::values), of many; `None` where they go in one by one: Diesel inserts rows with
    /// defaults so on SQLite anyway, where nothing crosses a network.
    fn all_values(_rows: &[Self]) -> Option<Fragment<'_, DB>> {
        None
    }

    /// How the inserted row is found.
    fn read_back(&self) -> ReadBack<'_, DB> {
        ReadBack::Returned
    }
}

/// How an inserted row is found.
pub enum ReadBack<'a, DB: Backend> {
    /// The INSERT returns it.
    Returned,
    /// By a condition.
    By(Fragment<'a, DB>),
    /// By the key that the database has generated for this column.
    Generated(fn() -> Fragment<'static, DB>),
}

/// The assignments of a changeset of this table.
pub fn changes<'a, T, X, DB>(changes: X) -> Fragment<'a, DB>
where
    DB: Backend,
    X: AsChangeset<Target = T>,
    X::Changeset: QueryFragment<DB> + 'a,
{
    Box::new(changes.as_changeset())
}

/// The columns of Diesel's `Selectable`.
pub fn selection<T, E, DB>() -> Fragment<'static, DB>
where
    DB: Backend,
    E: Selectable<DB>,
    E::SelectExpression: SelectableExpression<T> + QueryFragment<DB> + 'static,
{
    Box::new(E::construct_selection())
}

/// [`FromRow::row_metadata`] of Diesel's `Selectable`.
pub fn row_metadata<E, DB>(lookup: &mut DB::MetadataLookup, out: &mut Vec<Option<DB::TypeMetadata>>)
where
    DB: QueryMetadata<<E::SelectExpression as Expression>::SqlType>,
    E: Selectable<DB, SelectExpression: Expression>,
{
    DB::row_metadata(lookup, out);
}

/// [`FromRow::from_row`] of Diesel's `Selectable`.
pub fn from_row<'r, E, DB>(row: &impl Row<'r, DB>) -> deserialize::Result<E>
where
    DB: Backend,
    E: Selectable<DB, SelectExpression: Expression>
        + FromSqlRow<<E::SelectExpression as Expression>::SqlType, DB>,
{
    E::build_from_row(row)
}
