//! What `#[derive(Outbox)]` writes for each async connection: see the sync twins in `crate::write`.

use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel::{QueryResult, Table};
use diesel_async::AsyncConnectionCore;

use crate::entity::{Entity, Operation};
use crate::rows::Condition;

/// A type that can be inserted on a connection and gives an entity back; `#[derive(Outbox)]` writes it for
/// the entity itself and, with `#[outbox(entity = Product)]`, for its insertable.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be inserted through the outbox on `{C}`",
    note = "derive `Outbox` on it (with `#[outbox(entity = …)]` on an insertable), and enable outbox-core's `async-…` feature for that database"
)]
pub trait AsyncInsertOn<C>: Sized {
    /// The entity that the inserted row is.
    type Entity: Entity;

    /// Inserts and returns the row as the database holds it, generated key and defaults included.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn insert_on(&self, connection: &mut C) -> impl Future<Output = QueryResult<Self::Entity>> + Send;

    /// Inserts many in as few statements as the database takes, and returns the rows in the same order.
    ///
    /// # Errors
    /// Any of Diesel's; on MySQL and MariaDB also when `auto_increment_increment` is not 1, with which
    /// generated keys of a multi-row INSERT cannot be told.
    fn insert_all_on(
        rows: &[Self],
        connection: &mut C,
    ) -> impl Future<Output = QueryResult<Vec<Self::Entity>>> + Send;
}

/// An entity that can be updated and deleted on a connection; `#[derive(Outbox)]` writes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written through the outbox on `{C}`",
    note = "derive `Outbox` on it, and enable outbox-core's `async-…` feature for that database"
)]
pub trait AsyncEntityOn<C: AsyncConnectionCore>: Entity {
    /// Its table.
    type Table: Table;
    /// The table's primary key: the field's type, or a tuple of them.
    type Id;

    /// Reads the row of this key and locks it until the transaction ends (SQLite has one writer anyway).
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn lock_on(id: &Self::Id, connection: &mut C) -> impl Future<Output = QueryResult<Self>> + Send;

    /// Updates the row of this key and returns it as the database then holds it.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn update_on(&self, connection: &mut C) -> impl Future<Output = QueryResult<Self>> + Send;

    /// As [`update_on`](Self::update_on), with a changeset instead of the entity's own fields.
    ///
    /// # Errors
    /// As [`update_on`](Self::update_on).
    fn update_with_on<X>(
        &self,
        changes: X,
        connection: &mut C,
    ) -> impl Future<Output = QueryResult<Self>> + Send
    where
        X: AsChangeset<Target = Self::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send;

    /// Updates the rows that meet a condition; returns each as it was and as it is.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn update_where_on<P, X>(
        condition: P,
        changes: X,
        connection: &mut C,
    ) -> impl Future<Output = QueryResult<Vec<(Self, Self)>>> + Send
    where
        P: Condition<Self::Table, C::Backend> + Send,
        X: AsChangeset<Target = Self::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send;

    /// Deletes the row of this key and returns its last state.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn delete_on(&self, connection: &mut C) -> impl Future<Output = QueryResult<Self>> + Send;

    /// As [`delete_on`](Self::delete_on), by key.
    ///
    /// # Errors
    /// As [`delete_on`](Self::delete_on).
    fn delete_id_on(id: &Self::Id, connection: &mut C) -> impl Future<Output = QueryResult<Self>> + Send;

    /// Deletes the rows that meet a condition and returns their last states.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn delete_where_on<P>(
        condition: P,
        connection: &mut C,
    ) -> impl Future<Output = QueryResult<Vec<Self>>> + Send
    where
        P: Condition<Self::Table, C::Backend> + Send;
}

/// An entity that can be inserted or, where its key is there, updated in one statement;
/// `#[derive(Outbox)]` writes it for entities whose key the database does not generate.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be upserted through the outbox on `{C}`",
    note = "an entity whose key the database generates (`#[diesel(skip_insertion)]`) has none to be found by: insert or update it"
)]
pub trait AsyncUpsertOn<C>: Entity {
    /// Inserts the row or updates the one of its primary key; returns it as the database then holds it, and
    /// which of the two was done.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn upsert_on(&self, connection: &mut C) -> impl Future<Output = QueryResult<(Self, Operation)>> + Send;
}
