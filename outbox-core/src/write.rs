//! What `#[derive(Outbox)]` writes for each connection: the statements of an entity and its insertables.
//!
//! Concrete code per connection, RETURNING where the server has it and a read-back where not, so that no
//! where-clauses of Diesel's reach the user.

use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel::{Connection, QueryResult, Table};

use crate::entity::{Entity, Operation};
use crate::rows::Condition;

/// A type that can be inserted on a connection and gives an entity back; `#[derive(Outbox)]` writes it for
/// the entity itself and, with `#[outbox(entity = Product)]`, for its insertable.
///
/// A generic function names it together with [`EntityOn`] and [`UpsertOn`], as far as it writes so:
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// use outbox_core::{EntityOn, InsertOn, UpsertOn};
///
/// fn copy<C>(connection: &mut C, id: i64, to: i64) -> Result<Product>
/// where
///     C: OutboxConnection,
///     Product: EntityOn<C, Id = i64> + UpsertOn<C>,
///     for<'n> NewProduct<'n>: InsertOn<C, Entity = Product>,
/// {
///     connection.outbox_transaction(|tx| {
///         let from: Product = tx.lock(&id)?;
///         tx.insert(&NewProduct { name: &from.name })?;
///         tx.upsert(&Product { id: to, ..from })
///     })
/// }
///
/// # fn main() {
/// assert_eq!(copy(&mut connection(), 7, 9).unwrap().stock, 5);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be inserted through the outbox on `{C}`",
    note = "derive `Outbox` on it (with `#[outbox(entity = …)]` on an insertable), and enable outbox-core's feature for that database"
)]
pub trait InsertOn<C>: Sized {
    /// The entity that the inserted row is.
    type Entity: Entity;

    /// Inserts and returns the row as the database holds it, generated key and defaults included.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn insert_on(&self, connection: &mut C) -> QueryResult<Self::Entity>;

    /// Inserts many in as few statements as the database takes, and returns the rows in the same order.
    ///
    /// # Errors
    /// Any of Diesel's; on MySQL and MariaDB also when `auto_increment_increment` is not 1, with which
    /// generated keys of a multi-row INSERT cannot be told.
    fn insert_all_on(rows: &[Self], connection: &mut C) -> QueryResult<Vec<Self::Entity>>;
}

/// An entity that can be updated and deleted on a connection; `#[derive(Outbox)]` writes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written through the outbox on `{C}`",
    note = "derive `Outbox` on it, and enable outbox-core's feature for that database"
)]
pub trait EntityOn<C: Connection>: Entity {
    /// Its table.
    type Table: Table;
    /// The table's primary key: the field's type, or a tuple of them.
    type Id;

    /// Reads the row of this key and locks it until the transaction ends (SQLite has one writer anyway).
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn lock_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self>;

    /// Updates the row of this key and returns it as the database then holds it.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn update_on(&self, connection: &mut C) -> QueryResult<Self>;

    /// As [`update_on`](Self::update_on), with a changeset instead of the entity's own fields.
    ///
    /// # Errors
    /// As [`update_on`](Self::update_on).
    fn update_with_on<X>(&self, changes: X, connection: &mut C) -> QueryResult<Self>
    where
        X: AsChangeset<Target = Self::Table>,
        X::Changeset: QueryFragment<C::Backend>;

    /// Updates the rows that meet a condition; returns each as it was and as it is.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn update_where_on<P, X>(condition: P, changes: X, connection: &mut C) -> QueryResult<Vec<(Self, Self)>>
    where
        P: Condition<Self::Table, C::Backend>,
        X: AsChangeset<Target = Self::Table>,
        X::Changeset: QueryFragment<C::Backend>;

    /// Deletes the row of this key and returns its last state.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn delete_on(&self, connection: &mut C) -> QueryResult<Self>;

    /// As [`delete_on`](Self::delete_on), by key.
    ///
    /// # Errors
    /// As [`delete_on`](Self::delete_on).
    fn delete_id_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self>;

    /// Deletes the rows that meet a condition and returns their last states.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn delete_where_on<P>(condition: P, connection: &mut C) -> QueryResult<Vec<Self>>
    where
        P: Condition<Self::Table, C::Backend>;
}

/// An entity that can be inserted or, where its key is there, updated in one statement;
/// `#[derive(Outbox)]` writes it for entities whose key the database does not generate.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be upserted through the outbox on `{C}`",
    note = "an entity whose key the database generates (`#[diesel(skip_insertion)]`) has none to be found by: insert or update it"
)]
pub trait UpsertOn<C>: Entity {
    /// Inserts the row or updates the one of its primary key; returns it as the database then holds it, and
    /// which of the two was done.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn upsert_on(&self, connection: &mut C) -> QueryResult<(Self, Operation)>;
}
