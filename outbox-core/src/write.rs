//! The statements of an entity and its insertables: RETURNING where the server has it and a read-back where
//! not, of the pieces that `#[derive(Outbox)]` writes.

use diesel::connection::TransactionManager;
use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel::{Connection, QueryResult, Table};

use crate::entity::{Entity, Operation};
use crate::model::{EntitySql, EntityTable, NewRow, NewRowSql, UpsertKey};
use crate::rows::{self, Condition};
use crate::statement::{
    self, Fragment, RowAndNew, Server, ServerKind, Statement, StatementConnection, first, returning,
    select_locked, select_matching, select_present,
};

/// A type that can be inserted on a connection and gives an entity back; `#[derive(Outbox)]` gives it to
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
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() {
    /// # let mut connection = connection();
    /// use outbox_core::InsertOn;
    ///
    /// // Rows of a test, say: this records nothing, `OutboxTx::insert` does.
    /// let kettle = NewProduct { name: "kettle" }.insert_on(&mut connection).unwrap();
    /// let more = [NewProduct { name: "pan" }, NewProduct { name: "pot" }];
    /// let more = NewProduct::insert_all_on(&more, &mut connection).unwrap();
    /// assert_eq!((kettle.stock, more[1].name.as_str()), (0, "pot"));
    /// assert!(recorded(&mut connection).is_empty());
    /// # }
    /// ```
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

/// An entity that can be updated and deleted on a connection; `#[derive(Outbox)]` gives it.
///
/// [`OutboxTx`](crate::OutboxTx) calls its methods and records what they did. Called by themselves they record
/// nothing:
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// # fn main() -> diesel::QueryResult<()> {
/// # let mut connection = connection();
/// # let connection = &mut connection;
/// use outbox_core::EntityOn;
///
/// let lamp = Product::lock_on(&7, connection)?;
/// let (_, lamp) = Product { stock: 4, ..lamp }.update_on(connection)?;
/// let lamp = lamp.update_with_on(product::stock.eq(product::stock - 1), connection)?;
/// let changed = Product::update_where_on(product::stock.lt(9), product::stock.eq(9), connection)?;
/// let (before, after) = &changed[0];
/// assert_eq!((before.stock, after.stock), (3, 9));
///
/// assert_eq!(lamp.delete_on(connection)?, *after, "the last state, not what it was called with");
/// assert!(Product::delete_id_on(&7, connection).is_err(), "it is gone");
/// assert!(Product::delete_where_on(product::stock.ge(0), connection)?.is_empty());
/// assert!(recorded(connection).is_empty());
/// # Ok(())
/// # }
/// ```
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

    /// Updates the row of this key and returns it as the database then holds it; before that, where its message key
    /// is not its primary key and may have been another one, the row as it was.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn update_on(&self, connection: &mut C) -> QueryResult<(Option<Self>, Self)>;

    /// Updates the row of this key with a changeset instead of the entity's own fields.
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

/// What an upsert has done.
///
/// ```
/// use outbox_core::{Operation, Upserted};
///
/// /// What a page of an import says of a row.
/// fn told<E>(upserted: &Upserted<E>) -> &'static str {
///     match upserted.operation {
///         Operation::Created => "new",
///         // Under another message key, copies see a `deleted` and a `created`.
///         _ if upserted.before.is_some() => "changed, perhaps moved",
///         _ => "changed",
///     }
/// }
///
/// assert_eq!(told(&Upserted { before: None, row: "lamp", operation: Operation::Created }), "new");
/// let changed = Upserted { before: Some("lamp"), row: "lamp", operation: Operation::Updated };
/// assert_eq!(told(&changed), "changed, perhaps moved");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upserted<E> {
    /// The row as it was, where there was one and its message key is not its primary key: it may have been another
    /// one.
    pub before: Option<E>,
    /// The row as the database then holds it.
    pub row: E,
    /// Whether it was created or updated.
    pub operation: Operation,
}

/// An entity that can be inserted or, where its key is there, updated in one statement;
/// `#[derive(Outbox)]` gives it to entities whose key the database does not generate.
///
/// [`OutboxTx::upsert`](crate::OutboxTx::upsert) records what it did; called by itself it records nothing:
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// # fn main() {
/// # let mut connection = connection();
/// use outbox_core::{Operation, UpsertOn};
///
/// let lamp = Product { id: 7, name: "lamp".into(), stock: 6 };
/// let known = lamp.upsert_on(&mut connection).unwrap();
/// let new = Product { id: 8, ..lamp }.upsert_on(&mut connection).unwrap();
/// assert_eq!((known.operation, new.operation), (Operation::Updated, Operation::Created));
/// assert_eq!((known.row.stock, new.row.id), (6, 8));
/// assert_eq!(known.before, None, "its message key is its primary key: it cannot have been another one");
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be upserted through the outbox on `{C}`",
    note = "an entity whose key the database generates (`#[diesel(skip_insertion)]`) has none to be found by: insert or update it"
)]
pub trait UpsertOn<C>: Entity {
    /// Inserts the row or updates the one of its primary key.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn upsert_on(&self, connection: &mut C) -> QueryResult<Upserted<Self>>;
}

type Sql<'a, C> = Fragment<'a, <C as Connection>::Backend>;

#[diagnostic::do_not_recommend]
impl<I, C> InsertOn<C> for I
where
    C: StatementConnection,
    I: NewRowSql<C::Backend>,
    I::Entity: EntitySql<C::Backend>,
{
    type Entity = <I as NewRow>::Entity;

    fn insert_on(&self, connection: &mut C) -> QueryResult<Self::Entity> {
        let insert = statement::insert::<I::Entity, _>(self.values());
        if C::Backend::HAS_RETURNING {
            return first(load_written::<I::Entity, _>(connection, insert)?);
        }
        connection.execute_returning_count(&insert)?;
        connection.load_all(rows::of_inserted(self)?).and_then(first).map_err(rows::not_read_back)
    }

    fn insert_all_on(new: &[Self], connection: &mut C) -> QueryResult<Vec<Self::Entity>> {
        let mut all = Vec::with_capacity(new.len());
        for part in new.chunks(rows::of_one_insert::<I, _>(new)) {
            let Some(values) = I::all_values(part) else { return insert_each(new, connection) };
            let insert = statement::insert::<I::Entity, _>(values);
            if C::Backend::HAS_RETURNING {
                all.extend(load_written::<I::Entity, _>(connection, insert)?);
                continue;
            }
            connection.insert_many(&insert)?;
            let inserted = connection.load_all::<I::Entity>(rows::of_all_inserted(part)?);
            let inserted = inserted.map_err(rows::not_read_back)?;
            all.extend(rows::all_of(part.len(), inserted)?);
        }
        Ok(all)
    }
}

/// In a savepoint: a row that cannot be inserted must not leave those before it, which nobody recorded.
fn insert_each<I: InsertOn<C>, C: Connection>(new: &[I], connection: &mut C) -> QueryResult<Vec<I::Entity>> {
    C::TransactionManager::begin_transaction(connection)?;
    match new.iter().map(|row| row.insert_on(connection)).collect() {
        Ok(all) => C::TransactionManager::commit_transaction(connection).map(|()| all),
        Err(error) => {
            C::TransactionManager::rollback_transaction(connection)?;
            Err(error)
        }
    }
}

#[diagnostic::do_not_recommend]
impl<E, C> EntityOn<C> for E
where
    C: StatementConnection,
    E: EntitySql<C::Backend>,
{
    type Table = <E as EntityTable>::Table;
    type Id = <E as EntityTable>::Id;

    fn lock_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self> {
        first(connection.load_all(select_locked::<E, _>(E::is_row(id)))?)
    }

    fn update_on(&self, connection: &mut C) -> QueryResult<(Option<Self>, Self)> {
        let before = if E::KEEPS_KEY { None } else { Some(present(self, connection).and_then(first)?) };
        Ok((before, update_one(self, self.changes(), connection)?))
    }

    fn update_with_on<X>(&self, changes: X, connection: &mut C) -> QueryResult<Self>
    where
        X: AsChangeset<Target = Self::Table>,
        X::Changeset: QueryFragment<C::Backend>,
    {
        update_one(self, Box::new(changes.as_changeset()), connection)
    }

    fn update_where_on<P, X>(condition: P, changes: X, connection: &mut C) -> QueryResult<Vec<(Self, Self)>>
    where
        P: Condition<Self::Table, C::Backend>,
        X: AsChangeset<Target = Self::Table>,
        X::Changeset: QueryFragment<C::Backend>,
    {
        let before: Vec<E> = connection.load_all(select_matching::<E, _>(Box::new(condition)))?;
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let update = statement::update::<E, _>(E::are_rows(&before), Box::new(changes.as_changeset()))?;
        let after = if C::Backend::HAS_RETURNING {
            load_written(connection, update)?
        } else {
            connection.execute_returning_count(&update)?;
            drop(update);
            // These are locked already.
            connection.load_all(select_locked::<E, _>(E::are_rows(&before))).map_err(rows::not_read_back)?
        };
        E::pair(before, after)
    }

    fn delete_on(&self, connection: &mut C) -> QueryResult<Self> {
        delete_one(|| self.is_self(), connection)
    }

    fn delete_id_on(id: &Self::Id, connection: &mut C) -> QueryResult<Self> {
        delete_one(|| E::is_row(id), connection)
    }

    fn delete_where_on<P>(condition: P, connection: &mut C) -> QueryResult<Vec<Self>>
    where
        P: Condition<Self::Table, C::Backend>,
    {
        if C::Backend::HAS_RETURNING {
            let delete = statement::delete::<E, _>(Box::new(condition));
            return load_written(connection, delete);
        }
        let last: Vec<E> = connection.load_all(select_matching::<E, _>(Box::new(condition)))?;
        if !last.is_empty() {
            connection.execute_returning_count(&statement::delete::<E, _>(E::are_rows(&last)))?;
        }
        Ok(last)
    }
}

/// The rows that a statement writes, where the server gives them back.
fn load_written<E, C>(connection: &mut C, statement: Statement<'_, C::Backend>) -> QueryResult<Vec<E>>
where
    C: StatementConnection,
    E: EntitySql<C::Backend>,
{
    connection.load_all(returning::<E, _>(statement)).map_err(rows::not_returned)
}

/// The row of its key, if there is one, locked.
fn present<E, C>(entity: &E, connection: &mut C) -> QueryResult<Vec<E>>
where
    C: StatementConnection,
    E: EntitySql<C::Backend>,
{
    connection.load_all(select_present::<E, _>(entity.is_self()))
}

fn update_one<E, C>(entity: &E, changes: Sql<'_, C>, connection: &mut C) -> QueryResult<E>
where
    C: StatementConnection,
    E: EntitySql<C::Backend>,
{
    let update = statement::update::<E, _>(entity.is_self(), changes)?;
    if C::Backend::HAS_RETURNING {
        return first(load_written(connection, update)?);
    }
    let updated = connection.execute_returning_count(&update)?;
    // Locks, to see the row that the update saw and not an older one of the transaction's snapshot.
    rows::of_updated(updated, present(entity, connection).map_err(rows::not_read_back)?)
}

fn delete_one<'e, E, C>(row: impl Fn() -> Sql<'e, C>, connection: &mut C) -> QueryResult<E>
where
    C: StatementConnection,
    E: EntitySql<C::Backend>,
{
    let delete = statement::delete::<E, _>(row());
    if C::Backend::HAS_RETURNING {
        return first(load_written(connection, delete)?);
    }
    let last = first(connection.load_all(select_locked::<E, _>(row()))?)?;
    connection.execute_returning_count(&delete)?;
    Ok(last)
}

#[diagnostic::do_not_recommend]
impl<E, C> UpsertOn<C> for E
where
    C: StatementConnection,
    E: EntitySql<C::Backend> + NewRowSql<C::Backend> + UpsertKey,
{
    fn upsert_on(&self, connection: &mut C) -> QueryResult<Upserted<Self>> {
        let upsert = statement::upsert::<E, _>(self.values(), self.changes())?;
        // A look that locks sees what is committed, not the transaction's snapshot.
        let found = match C::Backend::KIND {
            ServerKind::Postgres if E::KEEPS_KEY => Vec::new(),
            _ => present(self, connection)?,
        };
        let (row, is_new) = match C::Backend::KIND {
            ServerKind::Postgres => {
                let rows = connection.load_all(statement::returning_upserted::<E, _>(upsert));
                let RowAndNew { row, is_new } = first(rows.map_err(rows::not_returned)?)?;
                (row, is_new)
            }
            ServerKind::Sqlite => (first(load_written(connection, upsert)?)?, found.is_empty()),
            ServerKind::Mysql => {
                connection.execute_returning_count(&upsert)?;
                let after = present(self, connection).map_err(rows::not_read_back)?;
                (first(after)?, found.is_empty())
            }
        };
        rows::of_upserted(found, row, is_new)
    }
}
