//! The statements of an entity and its insertables on async connections: see the sync twins in `crate::write`.

use std::future::Future;

use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel::{QueryResult, Table};
use diesel_async::{AsyncConnection, AsyncConnectionCore, TransactionManager};
use futures::{StreamExt, TryStreamExt};

use crate::entity::Entity;
use crate::model::{EntitySql, EntityTable, FromRow, NewRow, NewRowSql, UpsertKey};
use crate::rows::{self, Condition};
use crate::statement::{
    self, Fragment, RowAndNew, Server, ServerKind, Statement, first, from_row, returning, select_locked,
    select_matching, select_present,
};
use crate::write::Upserted;

/// A type that can be inserted on a connection and gives an entity back; `#[derive(Outbox)]` gives it to
/// the entity itself and, with `#[outbox(entity = Product)]`, for its insertable.
///
/// A generic function names it; the methods by themselves record nothing:
///
/// ```standalone_crate
/// # include!("../doc_setup.rs");
/// use outbox_core::{AsyncInsertOn, AsyncOutboxConnection};
///
/// async fn add<C, N>(connection: &mut C, new: N) -> Result<N::Entity>
/// where
///     C: AsyncOutboxConnection,
///     N: AsyncInsertOn<C, Entity: Send> + Send + Sync + 'static,
/// {
///     connection.outbox_transaction(async |tx| tx.insert(&new).await).await
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let mut connection = async_connection();
/// let kettle = add(&mut connection, NewProduct { name: "kettle" }).await?;
/// let pan = NewProduct { name: "pan" }.insert_on(&mut connection).await?;
/// let more = NewProduct::insert_all_on(&[NewProduct { name: "pot" }], &mut connection).await?;
/// assert_eq!((kettle.id, pan.id, more[0].id), (8, 9, 10));
/// # let kinds = connection.spawn_blocking(|connection| Ok(recorded(connection))).await?;
/// assert_eq!(kinds, ["product.created"]);
/// # Ok(())
/// # }
/// ```
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

/// An entity that can be updated and deleted on a connection; `#[derive(Outbox)]` gives it.
///
/// [`AsyncOutboxTx`](crate::AsyncOutboxTx) calls its methods and records what they did. Called by themselves they
/// record nothing:
///
/// ```standalone_crate
/// # include!("../doc_setup.rs");
/// # #[tokio::main] async fn main() -> diesel::QueryResult<()> {
/// # let mut connection = async_connection();
/// # let connection = &mut connection;
/// use outbox_core::AsyncEntityOn;
///
/// let lamp = Product::lock_on(&7, connection).await?;
/// let (_, lamp) = Product { stock: 4, ..lamp }.update_on(connection).await?;
/// let lamp = lamp.update_with_on(product::stock.eq(product::stock - 1), connection).await?;
/// let changed = Product::update_where_on(product::stock.lt(9), product::stock.eq(9), connection).await?;
/// let (before, after) = &changed[0];
/// assert_eq!((before.stock, after.stock), (3, 9));
///
/// assert_eq!(lamp.delete_on(connection).await?, *after, "the last state, not what it was called with");
/// assert!(Product::delete_id_on(&7, connection).await.is_err(), "it is gone");
/// assert!(Product::delete_where_on(product::stock.ge(0), connection).await?.is_empty());
/// # let kinds = connection.spawn_blocking(|connection| Ok(recorded(connection))).await?;
/// assert!(kinds.is_empty());
/// # Ok(())
/// # }
/// ```
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

    /// Updates the row of this key and returns it as the database then holds it; before that, where its message key
    /// is not its primary key and may have been another one, the row as it was.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn update_on(&self, connection: &mut C)
    -> impl Future<Output = QueryResult<(Option<Self>, Self)>> + Send;

    /// Updates the row of this key with a changeset instead of the entity's own fields.
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
/// `#[derive(Outbox)]` gives it to entities whose key the database does not generate.
///
/// [`AsyncOutboxTx::upsert`](crate::AsyncOutboxTx::upsert) records what it did; called by itself it records nothing:
///
/// ```standalone_crate
/// # include!("../doc_setup.rs");
/// # #[tokio::main] async fn main() -> diesel::QueryResult<()> {
/// # let mut connection = async_connection();
/// use outbox_core::{AsyncUpsertOn, Operation};
///
/// let lamp = Product { id: 7, name: "lamp".into(), stock: 6 };
/// let known = lamp.upsert_on(&mut connection).await?;
/// let new = Product { id: 8, ..lamp }.upsert_on(&mut connection).await?;
/// assert_eq!((known.operation, new.operation), (Operation::Updated, Operation::Created));
/// assert_eq!((known.row.stock, new.row.id), (6, 8));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be upserted through the outbox on `{C}`",
    note = "an entity whose key the database generates (`#[diesel(skip_insertion)]`) has none to be found by: insert or update it"
)]
pub trait AsyncUpsertOn<C>: Entity {
    /// Inserts the row or updates the one of its primary key.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn upsert_on(&self, connection: &mut C) -> impl Future<Output = QueryResult<Upserted<Self>>> + Send;
}

type Sql<'a, C> = Fragment<'a, <C as AsyncConnectionCore>::Backend>;

/// The statement is rendered here and now, so that the future does not hold it: pieces of SQL need not be `Send`.
fn load<'c, 's, R, C>(
    connection: &'c mut C,
    statement: Statement<'s, C::Backend>,
) -> impl Future<Output = QueryResult<Vec<R>>> + Send + use<'c, 's, R, C>
where
    C: AsyncConnectionCore<Backend: Server>,
    R: FromRow<C::Backend> + Send + 's,
{
    let loading = connection.load(statement.loading::<R>());
    async move { loading.await?.map(|row| from_row(&row?)).try_collect().await }
}

/// As the sync one.
fn load_written<'c, 's, E, C>(
    connection: &'c mut C,
    statement: Statement<'s, C::Backend>,
) -> impl Future<Output = QueryResult<Vec<E>>> + Send + use<'c, 's, E, C>
where
    C: AsyncConnectionCore<Backend: Server>,
    E: EntitySql<C::Backend> + Send + 's,
{
    let loading = load(connection, returning::<E, _>(statement));
    async move { loading.await.map_err(rows::not_returned) }
}

#[diagnostic::do_not_recommend]
impl<I, C> AsyncInsertOn<C> for I
where
    C: AsyncConnection<Backend: Server>,
    I: NewRowSql<C::Backend> + Sync,
    I::Entity: EntitySql<C::Backend> + Send,
{
    type Entity = <I as NewRow>::Entity;

    async fn insert_on(&self, connection: &mut C) -> QueryResult<Self::Entity> {
        let insert = statement::insert::<I::Entity, _>(self.values());
        if C::Backend::HAS_RETURNING {
            return first(load_written::<I::Entity, _>(connection, insert).await?);
        }
        connection.execute_returning_count(insert).await?;
        let reading = load(connection, rows::of_inserted(self)?);
        reading.await.and_then(first).map_err(rows::not_read_back)
    }

    async fn insert_all_on(new: &[Self], connection: &mut C) -> QueryResult<Vec<Self::Entity>> {
        let mut all = Vec::with_capacity(new.len());
        for part in new.chunks(rows::of_one_insert::<I, _>(new)) {
            let Some(values) = I::all_values(part) else { return insert_each(new, connection).await };
            let insert = statement::insert::<I::Entity, _>(values);
            if C::Backend::HAS_RETURNING {
                all.extend(load_written::<I::Entity, _>(connection, insert).await?);
                continue;
            }
            connection.execute_returning_count(insert).await?;
            let reading = load::<I::Entity, _>(connection, rows::of_all_inserted(part)?);
            all.extend(rows::all_of(part.len(), reading.await.map_err(rows::not_read_back)?)?);
        }
        Ok(all)
    }
}

/// In a savepoint: a row that cannot be inserted must not leave those before it, which nobody recorded.
async fn insert_each<I, C>(new: &[I], connection: &mut C) -> QueryResult<Vec<I::Entity>>
where
    C: AsyncConnection,
    I: AsyncInsertOn<C, Entity: Send> + Sync,
{
    C::TransactionManager::begin_transaction(connection).await?;
    let mut all = Vec::with_capacity(new.len());
    for row in new {
        match row.insert_on(connection).await {
            Ok(inserted) => all.push(inserted),
            Err(error) => {
                C::TransactionManager::rollback_transaction(connection).await?;
                return Err(error);
            }
        }
    }
    C::TransactionManager::commit_transaction(connection).await?;
    Ok(all)
}

#[diagnostic::do_not_recommend]
impl<E, C> AsyncEntityOn<C> for E
where
    C: AsyncConnection<Backend: Server>,
    E: EntitySql<C::Backend> + Send + Sync,
    <E as EntityTable>::Id: Sync,
{
    type Table = <E as EntityTable>::Table;
    type Id = <E as EntityTable>::Id;

    async fn lock_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self> {
        first(load(connection, select_locked::<E, _>(E::is_row(id))).await?)
    }

    async fn update_on(&self, connection: &mut C) -> QueryResult<(Option<Self>, Self)> {
        let before = if E::KEEPS_KEY { None } else { Some(first(present(self, connection).await?)?) };
        Ok((before, update_one(self, || self.changes(), connection).await?))
    }

    async fn update_with_on<X>(&self, changes: X, connection: &mut C) -> QueryResult<Self>
    where
        X: AsChangeset<Target = Self::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send,
    {
        update_one(self, || Box::new(changes.as_changeset()), connection).await
    }

    async fn update_where_on<P, X>(
        condition: P,
        changes: X,
        connection: &mut C,
    ) -> QueryResult<Vec<(Self, Self)>>
    where
        P: Condition<Self::Table, C::Backend> + Send,
        X: AsChangeset<Target = Self::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send,
    {
        let before: Vec<E> = load(connection, select_matching::<E, _>(Box::new(condition))).await?;
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let update = statement::update::<E, _>(E::are_rows(&before), Box::new(changes.as_changeset()))?;
        let after = if C::Backend::HAS_RETURNING {
            load_written(connection, update).await?
        } else {
            connection.execute_returning_count(update).await?;
            // These are locked already.
            let reading = load(connection, select_locked::<E, _>(E::are_rows(&before)));
            reading.await.map_err(rows::not_read_back)?
        };
        E::pair(before, after)
    }

    async fn delete_on(&self, connection: &mut C) -> QueryResult<Self> {
        delete_one(|| self.is_self(), connection).await
    }

    async fn delete_id_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self> {
        delete_one(|| E::is_row(id), connection).await
    }

    async fn delete_where_on<P>(condition: P, connection: &mut C) -> QueryResult<Vec<Self>>
    where
        P: Condition<Self::Table, C::Backend> + Send,
    {
        if C::Backend::HAS_RETURNING {
            let delete = statement::delete::<E, _>(Box::new(condition));
            return load_written(connection, delete).await;
        }
        let last: Vec<E> = load(connection, select_matching::<E, _>(Box::new(condition))).await?;
        if !last.is_empty() {
            connection.execute_returning_count(statement::delete::<E, _>(E::are_rows(&last))).await?;
        }
        Ok(last)
    }
}

/// The row of its key, if there is one, locked.
async fn present<E, C>(entity: &E, connection: &mut C) -> QueryResult<Vec<E>>
where
    C: AsyncConnection<Backend: Server>,
    E: EntitySql<C::Backend> + Send + Sync,
{
    load(connection, select_present::<E, _>(entity.is_self())).await
}

async fn update_one<'x, E, C>(
    entity: &'x E,
    changes: impl FnOnce() -> Sql<'x, C> + Send,
    connection: &mut C,
) -> QueryResult<E>
where
    C: AsyncConnection<Backend: Server>,
    E: EntitySql<C::Backend> + Send + Sync,
{
    let update = statement::update::<E, _>(entity.is_self(), changes())?;
    if C::Backend::HAS_RETURNING {
        return first(load_written(connection, update).await?);
    }
    // A row that did not change counts as none here: the read tells whether there is one. It locks, to see the
    // row that the update saw and not an older one of the transaction's snapshot.
    let updated = connection.execute_returning_count(update).await?;
    rows::of_updated(updated, present(entity, connection).await.map_err(rows::not_read_back)?)
}

async fn delete_one<'e, E, C>(row: impl Fn() -> Sql<'e, C> + Send, connection: &mut C) -> QueryResult<E>
where
    C: AsyncConnection<Backend: Server>,
    E: EntitySql<C::Backend> + Send,
{
    if C::Backend::HAS_RETURNING {
        let delete = statement::delete::<E, _>(row());
        return first(load_written(connection, delete).await?);
    }
    let last = first(load(connection, select_locked::<E, _>(row())).await?)?;
    connection.execute_returning_count(statement::delete::<E, _>(row())).await?;
    Ok(last)
}

#[diagnostic::do_not_recommend]
impl<E, C> AsyncUpsertOn<C> for E
where
    C: AsyncConnection<Backend: Server>,
    E: EntitySql<C::Backend> + NewRowSql<C::Backend> + UpsertKey + Send + Sync,
{
    async fn upsert_on(&self, connection: &mut C) -> QueryResult<Upserted<Self>> {
        let upsert = || statement::upsert::<E, _>(self.values(), self.changes());
        // A look that locks sees what is committed, not the transaction's snapshot.
        let found = match C::Backend::KIND {
            ServerKind::Postgres if E::KEEPS_KEY => Vec::new(),
            _ => present(self, connection).await?,
        };
        let (row, is_new) = match C::Backend::KIND {
            ServerKind::Postgres => {
                let upserting = load(connection, statement::returning_upserted::<E, _>(upsert()?));
                let RowAndNew { row, is_new } = first(upserting.await.map_err(rows::not_returned)?)?;
                (row, is_new)
            }
            ServerKind::Sqlite => {
                let upserting = load_written(connection, upsert()?);
                (first(upserting.await?)?, found.is_empty())
            }
            ServerKind::Mysql => {
                let upserting = connection.execute_returning_count(upsert()?);
                upserting.await?;
                let after = present(self, connection).await.map_err(rows::not_read_back)?;
                (first(after)?, found.is_empty())
            }
        };
        rows::of_upserted(found, row, is_new)
    }
}
