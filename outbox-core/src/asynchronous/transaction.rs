//! [`AsyncOutboxTx`]: the twin of [`OutboxTx`](crate::OutboxTx) on diesel-async.

use std::fmt;

use diesel::query_builder::{AsChangeset, QueryFragment};
use diesel_async::TransactionManager;

use super::connection::{AsyncBody, AsyncOutboxConnection, depth, finish, is_lost};
use super::write::{AsyncEntityOn, AsyncInsertOn, AsyncUpsertOn};
use crate::buffer::{Buffer, SEVERAL};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::lost;
use crate::message::{Message, MessageId};
use crate::nested::HeldBack;
use crate::rows::Condition;
use crate::transaction::{Appended, append_failed, failed, lock_failed, moved};

/// An open transaction in which writes are recorded; get one from
/// [`AsyncOutboxConnection::outbox_transaction`].
///
/// The recorded image is the row as read right after the recorded statement. What is written later through
/// [`conn`](Self::conn) is not recorded. DDL inside commits implicitly on MySQL and MariaDB and is not
/// supported.
///
/// All that touches the database is awaited; more words on each are at [`OutboxTx`](crate::OutboxTx).
///
/// ```standalone_crate
/// # include!("../doc_setup.rs");
/// # #[tokio::main] async fn main() -> Result<()> {
/// use diesel_async::SimpleAsyncConnection;
/// use outbox_core::AsyncOutboxConnection;
///
/// # let mut connection = async_connection();
/// connection
///     .outbox_transaction(async |tx| {
///         let kettle = tx.insert(&NewProduct { name: "kettle" }).await?;
///         let both = tx.insert_all(&[NewProduct { name: "pan" }, NewProduct { name: "pot" }]).await?;
///         let lamp = tx.upsert(&Product { id: 7, name: "lamp".into(), stock: 6 }).await?;
///
///         let kettle: Product = tx.lock(&kettle.id).await?;
///         let kettle = tx.update(&Product { stock: 2, ..kettle }).await?;
///         let kettle = tx.update_from(&kettle, &Product { stock: 3, ..kettle.clone() }).await?;
///         let kettle = tx.update_with(&kettle, product::stock.eq(product::stock + 1)).await?;
///         let new: Vec<Product> = tx.update_where(product::stock.eq(0), product::stock.eq(1)).await?;
///         assert_eq!((kettle.stock, new.len()), (4, both.len()));
///
///         tx.record(&Sold { product_id: kettle.id, count: 1 })?;
///         tx.record_all(&[Sold { product_id: kettle.id, count: 2 }])?;
///         tx.record_message(Message::new("product", kettle.id.to_string(), "seen", b"{}".to_vec())?);
///
///         tx.delete(&kettle).await?;
///         tx.delete_by_id::<Product>(&lamp.id).await?;
///         tx.delete_where::<Product, _>(product::name.like("p%")).await?;
///         // A savepoint that fails takes its writes and its messages along.
///         let tried = tx.savepoint(async |tx| tx.delete_by_id::<Product>(&404).await).await;
///         assert!(tried.is_err());
///         // Not recorded, but in the same transaction.
///         tx.conn().batch_execute("delete from product").await?;
///         Ok(())
///     })
///     .await
/// # }
/// ```
pub struct AsyncOutboxTx<'c, C> {
    connection: &'c mut C,
    buffer: Buffer,
    held_back: HeldBack,
}

impl<'c, C> fmt::Debug for AsyncOutboxTx<'c, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncOutboxTx")
            .field("messages", &self.buffer.messages().len())
            .finish_non_exhaustive()
    }
}

impl<'c, C: AsyncOutboxConnection> AsyncOutboxTx<'c, C> {
    pub(crate) fn new(connection: &'c mut C) -> Self {
        Self::with(connection, Buffer::default())
    }

    fn with(connection: &'c mut C, buffer: Buffer) -> Self {
        Self { held_back: HeldBack::on(connection), connection, buffer }
    }

    /// The connection, for anything else in the same transaction. Writes through it are not recorded, and an
    /// outbox transaction on it must not record messages of a key of which this one has some.
    pub fn conn(&mut self) -> &mut C {
        self.held_back.note(self.buffer.messages());
        self.connection
    }

    /// The connection, for a write that is recorded.
    ///
    /// # Errors
    /// Contention, when the transaction was lost: the write would be committed by itself.
    fn open(&mut self) -> Result<&mut C> {
        self.look();
        self.buffer.check_lost()?;
        Ok(self.connection)
    }

    /// As the sync one.
    fn look(&mut self) {
        if is_lost(self.connection) {
            self.buffer.lose();
        }
    }

    /// Inserts and records `created`; returns the row as the database holds it.
    ///
    /// # Errors
    /// Diesel's, and `Invalid` when the message breaks a bound (see [`Message::new`]).
    pub async fn insert<I: AsyncInsertOn<C>>(&mut self, new: &I) -> Result<I::Entity> {
        let entity =
            new.insert_on(self.open()?).await.map_err(|e| self.failed::<I::Entity>(e, "insert", None))?;
        self.buffer.created(&entity)?;
        Ok(entity)
    }

    /// Inserts many, in as few statements as the database takes, and records `created` for each; returns
    /// the rows in the same order.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); see [`AsyncInsertOn::insert_all_on`] for MySQL and MariaDB.
    pub async fn insert_all<I: AsyncInsertOn<C>>(&mut self, new: &[I]) -> Result<Vec<I::Entity>> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let rows = I::insert_all_on(new, self.open()?).await.map_err(|e| {
            if new.len() > SEVERAL {
                self.buffer.leave_incomplete();
            }
            self.failed::<I::Entity>(e, "insert", None)
        })?;
        rows.iter().try_for_each(|row| self.buffer.created(row))?;
        Ok(rows)
    }

    /// Inserts the entity, or updates the row of its primary key; records `created` or `updated`. Where its message
    /// key is another one than the row had, that is a `deleted` of the old key and a `created` of the new one.
    ///
    /// On MySQL and MariaDB, which of the two is told from a locking look just before the statement. A row that
    /// collides in another unique key than the primary one is an error there, after which the transaction or the
    /// savepoint around it cannot be committed: the server has changed that other row.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub async fn upsert<E: AsyncUpsertOn<C>>(&mut self, entity: &E) -> Result<E> {
        let upserted = entity
            .upsert_on(self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "upsert", Some(entity.key())))?;
        self.buffer.upserted(&upserted)?;
        Ok(upserted.row)
    }

    /// Reads the row of a primary key and locks it until the transaction ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and Diesel's.
    pub async fn lock<E: AsyncEntityOn<C>>(&mut self, id: &E::Id) -> Result<E> {
        E::lock_on(id, self.open()?).await.map_err(|e| self.failed::<E>(e, "lock", None))
    }

    /// Updates the row of the entity's primary key and records `updated`; returns the row as it then is. Where its
    /// message key is another one than the row had, that is a `deleted` of the old key and a `created` of the new one;
    /// an entity whose message key is not its primary key is read and locked for that first.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub async fn update<E: AsyncEntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        self.update_row(entity, None).await
    }

    /// As [`update`](Self::update), and the message names the fields that differ from `before`.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn update_from<E: AsyncEntityOn<C>>(&mut self, before: &E, entity: &E) -> Result<E> {
        self.update_row(entity, Some(before)).await
    }

    async fn update_row<E: AsyncEntityOn<C>>(&mut self, entity: &E, before: Option<&E>) -> Result<E> {
        let (was, after) = entity
            .update_on(self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "update", Some(entity.key())))?;
        self.buffer.updated(moved(was.as_ref(), &after).or(before), &after)?;
        Ok(after)
    }

    /// Updates the row of the entity's primary key with a changeset, as Diesel's `set` takes it, and records
    /// `updated` with the fields that then differ from `before`. The changeset must not change the primary key:
    /// delete the entity and insert the new one instead.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn update_with<E, X>(&mut self, before: &E, changes: X) -> Result<E>
    where
        E: AsyncEntityOn<C>,
        X: AsChangeset<Target = E::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send,
    {
        let after = before
            .update_with_on(changes, self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "update", Some(before.key())))?;
        self.buffer.updated(Some(before), &after)?;
        Ok(after)
    }

    /// Updates all rows that meet a condition with a changeset and records `updated` for each, with the
    /// fields that changed; returns the rows as they then are.
    ///
    /// The rows are read and locked first. All of them are held in memory and named in one statement:
    /// some thousands at a time.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); also when the changeset changes a primary key.
    pub async fn update_where<E, P, X>(&mut self, condition: P, changes: X) -> Result<Vec<E>>
    where
        E: AsyncEntityOn<C>,
        P: Condition<E::Table, C::Backend> + Send,
        X: AsChangeset<Target = E::Table> + Send,
        X::Changeset: QueryFragment<C::Backend> + Send,
    {
        let rows = E::update_where_on(condition, changes, self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "update", None))?;
        rows.iter().try_for_each(|(before, after)| self.buffer.updated(Some(before), after))?;
        Ok(rows.into_iter().map(|(_, after)| after).collect())
    }

    /// Deletes the row of the entity's primary key and records `deleted` with its last state, which it
    /// returns.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub async fn delete<E: AsyncEntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        let last = entity
            .delete_on(self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "delete", Some(entity.key())))?;
        self.buffer.deleted(&last)?;
        Ok(last)
    }

    /// As [`delete`](Self::delete), by the primary key.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub async fn delete_by_id<E: AsyncEntityOn<C>>(&mut self, id: &E::Id) -> Result<E> {
        let last =
            E::delete_id_on(id, self.open()?).await.map_err(|e| self.failed::<E>(e, "delete", None))?;
        self.buffer.deleted(&last)?;
        Ok(last)
    }

    /// Deletes all rows that meet a condition and records `deleted` for each; returns their last states.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub async fn delete_where<E, P>(&mut self, condition: P) -> Result<Vec<E>>
    where
        E: AsyncEntityOn<C>,
        P: Condition<E::Table, C::Backend> + Send,
    {
        let rows = E::delete_where_on(condition, self.open()?)
            .await
            .map_err(|e| self.failed::<E>(e, "delete", None))?;
        rows.iter().try_for_each(|row| self.buffer.deleted(row))?;
        Ok(rows)
    }

    /// Records a domain event.
    ///
    /// Order per key holds for messages whose transaction holds a lock on the key's row: write the entity,
    /// or [lock](Self::lock) it, before an event of its key.
    ///
    /// # Errors
    /// `Invalid` when it does not serialize or breaks a bound (see [`Message::new`]).
    pub fn record<E: Event>(&mut self, event: &E) -> Result<()> {
        self.buffer.event(event)
    }

    /// Records domain events, in their order.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_all<'e, E: Event + 'e>(&mut self, events: impl IntoIterator<Item = &'e E>) -> Result<()> {
        events.into_iter().try_for_each(|event| self.record(event))
    }

    /// Gives a header to all messages that are recorded from now on in this transaction and its savepoints,
    /// unless they have one of that name. A header that a savepoint sets ends with it.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let mut outbox = <diesel::SqliteConnection as diesel::Connection>::establish(":memory:")?;
    /// # outbox_core::migrate::run(&mut outbox, &outbox_core::migrate::OUTBOX)?;
    /// # let mut connection = outbox_core::AsyncSqliteConnection::new(outbox);
    /// # use outbox_core::{AsyncOutboxConnection, Message};
    /// let outside = Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// let (eu, us) = (outside.clone(), outside.clone().with_header("tenant", "us")?);
    /// connection
    ///     .outbox_transaction(async |tx| {
    ///         tx.record_message(outside);
    ///         tx.set_header("tenant", "eu")?;
    ///         tx.record_message(eu);
    ///         tx.record_message(us);
    ///         Ok(())
    ///     })
    ///     .await?;
    /// let headers = "select json_extract(cast(headers as text), '$.tenant') from outbox order by id";
    /// # let headers = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::Text>>(headers);
    /// # let headers: Vec<Option<String>> = diesel_async::RunQueryDsl::load(headers, &mut connection).await?;
    /// assert_eq!(headers, [None, Some("eu".into()), Some("us".into())]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Headers::insert`](crate::Headers::insert).
    pub fn set_header(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<()> {
        self.buffer.set_header(name.into(), value.into())
    }

    /// Records a message made by hand.
    pub fn record_message(&mut self, message: Message) {
        self.buffer.push(message);
    }

    /// The ids of the messages recorded so far, as [`OutboxTx::recorded_ids`](crate::OutboxTx::recorded_ids).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let mut outbox = <diesel::SqliteConnection as diesel::Connection>::establish(":memory:")?;
    /// # outbox_core::migrate::run(&mut outbox, &outbox_core::migrate::OUTBOX)?;
    /// # let mut connection = outbox_core::AsyncSqliteConnection::new(outbox);
    /// use outbox_core::{AsyncOutboxConnection, Message};
    ///
    /// let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// let id = message.id();
    /// let recording = connection.outbox_transaction(async |tx| {
    ///     tx.record_message(message);
    ///     // The answer to the caller carries it.
    ///     Ok(tx.recorded_ids().last().copied())
    /// });
    /// assert_eq!(recording.await?, Some(id));
    /// # Ok(())
    /// # }
    /// ```
    pub fn recorded_ids(&self) -> Vec<MessageId> {
        self.buffer.ids()
    }

    /// Runs `body` in a savepoint; when it fails, its writes and its messages are gone and this
    /// transaction goes on.
    ///
    /// # Errors
    /// What `body` returns, and Diesel's for the savepoint itself.
    pub async fn savepoint<'a, T, F>(&mut self, body: F) -> Result<T>
    where
        for<'t, 'i> F: AsyncFnOnce(&'t mut AsyncOutboxTx<'i, C>) -> Result<T>
            + AsyncBody<&'t mut AsyncOutboxTx<'i, C>, Result<T>, Future: Send>
            + Send
            + 'a,
        T: Send + 'a,
    {
        self.held_back.note(self.buffer.messages());
        C::TransactionManager::begin_transaction(self.open()?).await?;
        let own = depth(self.connection)?;
        let mut inner = AsyncOutboxTx::with(&mut *self.connection, self.buffer.inner());
        let outcome = body(&mut inner).await;
        let recorded = inner.buffer;
        let outcome = outcome.and_then(|value| recorded.check_written().map(|()| value));
        let outcome = finish(self.connection, own, outcome).await;
        if recorded.is_lost() || outcome.as_ref().is_err_and(ends_all::<C>) {
            self.buffer.lose();
        }
        self.look();
        let value = lost::tell(self.buffer.is_lost(), outcome)?;
        self.buffer.absorb(recorded);
        Ok(value)
    }

    fn failed<E: Entity>(&mut self, error: diesel::result::Error, what: &str, key: Option<String>) -> Error {
        failed::<E>(&mut self.buffer, C::DEADLOCK_ENDS_ALL, error, what, key)
    }

    /// Writes what was recorded: one multi-row INSERT, or a few where it would grow too large.
    pub(crate) async fn flush(mut self) -> Result<()> {
        self.held_back.check(self.buffer.messages())?;
        self.look();
        self.buffer.check()?;
        if self.buffer.messages().is_empty() {
            return self.connection.check_commits().await;
        }
        let keys = self.buffer.strict_keys();
        if !keys.is_empty() {
            self.connection.lock_keys(&keys).await.map_err(|error| lock_failed(keys.len(), error))?;
        }
        let messages = self.buffer.into_messages();
        let appended = Appended::of(&messages);
        self.connection.append_messages(messages).await.map_err(|error| append_failed(appended, error))
    }
}

fn ends_all<C: AsyncOutboxConnection>(error: &Error) -> bool {
    C::DEADLOCK_ENDS_ALL && error.is_contention()
}
