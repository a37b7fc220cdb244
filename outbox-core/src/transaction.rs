//! [`OutboxTx`]: writes entities, buffers their messages and inserts them just before COMMIT.
//!
//! Messages go in at the end of the transaction, after the entity's writes: the row lock of the entity
//! then keeps the ids of one key in commit order, and the outbox is locked as shortly as can be.

use std::fmt;

use diesel::query_builder::{AsChangeset, QueryFragment};

use crate::buffer::{Buffer, SEVERAL};
use crate::connection::{OUTERMOST, OutboxConnection, closed, is_lost, is_spoiled, nested, spoiled};
use crate::entity::Entity;
use crate::error::{Error, ErrorKind, Result, database_kind};
use crate::event::Event;
use crate::lost;
use crate::message::{Message, MessageId};
use crate::nested::HeldBack;
use crate::rows::{self, Condition};
use crate::write::{EntityOn, InsertOn, UpsertOn};

/// An open transaction in which writes are recorded; get one from
/// [`OutboxConnection::outbox_transaction`]. Its methods have an example each.
///
/// The recorded image is the row as read right after the recorded statement. What is written later through
/// [`conn`](Self::conn) is not recorded. DDL inside commits implicitly on MySQL and MariaDB and is not
/// supported.
///
/// A function that is one step of several transactions takes the open one:
///
/// ```
/// # use diesel::prelude::*;
/// # let mut connection = SqliteConnection::establish(":memory:")?;
/// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
/// use outbox_core::{Message, OutboxConnection, OutboxTx, Result};
///
/// fn close<C: OutboxConnection>(tx: &mut OutboxTx<'_, C>, order: i64) -> Result<()> {
///     tx.record_message(Message::new("order", order.to_string(), "closed", b"{}".to_vec())?);
///     Ok(())
/// }
///
/// let closed = connection.outbox_transaction(|tx| {
///     close(tx, 1)?;
///     close(tx, 2)?;
///     Ok(tx.recorded_ids().len())
/// })?;
/// assert_eq!(closed, 2);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct OutboxTx<'c, C> {
    connection: &'c mut C,
    buffer: Buffer,
    held_back: HeldBack,
}

impl<'c, C> fmt::Debug for OutboxTx<'c, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxTx").field("messages", &self.buffer.messages().len()).finish_non_exhaustive()
    }
}

impl<'c, C: OutboxConnection> OutboxTx<'c, C> {
    pub(crate) fn new(connection: &'c mut C) -> Self {
        Self::with(connection, Buffer::default())
    }

    fn with(connection: &'c mut C, buffer: Buffer) -> Self {
        Self { held_back: HeldBack::on(connection), connection, buffer }
    }

    /// The connection, for anything else in the same transaction. Writes through it are not recorded.
    ///
    /// An outbox transaction on it is refused at its end when it has recorded messages of a key of which this one
    /// has too: it would write them first. Use [`savepoint`](Self::savepoint).
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// tx.insert(&NewProduct { name: "kettle" })?;
    /// diesel::update(product::table).set(product::stock.eq(1)).execute(tx.conn())?;
    /// # Ok(()) }) }
    /// ```
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

    /// Takes over what a transaction or a savepoint inside this one has found out.
    fn look(&mut self) {
        if is_lost(self.connection) {
            self.buffer.lose();
        }
    }

    /// Inserts and records `created`; returns the row as the database holds it.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let kettle = tx.insert(&NewProduct { name: "kettle" })?;
    /// assert_eq!(kettle.stock, 0, "what the database put there");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// Diesel's, and `Invalid` when the message breaks a bound (see [`Message::new`]).
    pub fn insert<I: InsertOn<C>>(&mut self, new: &I) -> Result<I::Entity> {
        let entity = new.insert_on(self.open()?).map_err(|e| self.failed::<I::Entity>(e, "insert", None))?;
        self.buffer.created(&entity)?;
        Ok(entity)
    }

    /// Inserts many, in as few statements as the database takes, and records `created` for each; returns
    /// the rows in the same order.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let both = tx.insert_all(&[NewProduct { name: "kettle" }, NewProduct { name: "pan" }])?;
    /// assert_eq!(both[1].name, "pan");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`insert`](Self::insert); see [`InsertOn::insert_all_on`] for MySQL and MariaDB.
    pub fn insert_all<I: InsertOn<C>>(&mut self, new: &[I]) -> Result<Vec<I::Entity>> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let rows = I::insert_all_on(new, self.open()?).map_err(|e| {
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
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// // Product 7 is there, so this is an update.
    /// let lamp = tx.upsert(&Product { id: 7, name: "lamp".into(), stock: 6 })?;
    /// assert_eq!(lamp.stock, 6);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn upsert<E: UpsertOn<C>>(&mut self, entity: &E) -> Result<E> {
        let upserted =
            entity.upsert_on(self.open()?).map_err(|e| self.failed::<E>(e, "upsert", Some(entity.key())))?;
        self.buffer.upserted(&upserted)?;
        Ok(upserted.row)
    }

    /// Reads the row of a primary key and locks it until the transaction ends.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let lamp: Product = tx.lock(&7)?;
    /// // Nobody else writes this row until COMMIT.
    /// assert_eq!(lamp.name, "lamp");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and Diesel's.
    pub fn lock<E: EntityOn<C>>(&mut self, id: &E::Id) -> Result<E> {
        E::lock_on(id, self.open()?).map_err(|e| self.failed::<E>(e, "lock", None))
    }

    /// Updates the row of the entity's primary key and records `updated`; returns the row as it then is. Where its
    /// message key is another one than the row had, that is a `deleted` of the old key and a `created` of the new one;
    /// an entity whose message key is not its primary key is read and locked for that first.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let lamp = tx.update(&Product { id: 7, name: "lamp".into(), stock: 4 })?;
    /// assert_eq!(lamp.stock, 4);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub fn update<E: EntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        self.update_row(entity, None)
    }

    /// As [`update`](Self::update), and the message names the fields that differ from `before`.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let before: Product = tx.lock(&7)?;
    /// // The message says `"changed": ["stock"]`.
    /// tx.update_from(&before, &Product { stock: 4, ..before.clone() })?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_from<E: EntityOn<C>>(&mut self, before: &E, entity: &E) -> Result<E> {
        self.update_row(entity, Some(before))
    }

    fn update_row<E: EntityOn<C>>(&mut self, entity: &E, before: Option<&E>) -> Result<E> {
        let (was, after) =
            entity.update_on(self.open()?).map_err(|e| self.failed::<E>(e, "update", Some(entity.key())))?;
        self.buffer.updated(moved(was.as_ref(), &after).or(before), &after)?;
        Ok(after)
    }

    /// Updates the row of the entity's primary key with a changeset, as Diesel's `set` takes it, and records
    /// `updated` with the fields that then differ from `before`. The changeset must not change the primary key:
    /// delete the entity and insert the new one instead.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let lamp: Product = tx.lock(&7)?;
    /// let lamp = tx.update_with(&lamp, product::stock.eq(product::stock - 1))?;
    /// assert_eq!(lamp.stock, 4);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_with<E, X>(&mut self, before: &E, changes: X) -> Result<E>
    where
        E: EntityOn<C>,
        X: AsChangeset<Target = E::Table>,
        X::Changeset: QueryFragment<C::Backend>,
    {
        let after = before
            .update_with_on(changes, self.open()?)
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
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let sold_out: Vec<Product> = tx.update_where(product::stock.lt(10), product::stock.eq(0))?;
    /// assert_eq!(sold_out.len(), 1);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`insert`](Self::insert); also when the changeset changes a primary key.
    pub fn update_where<E, P, X>(&mut self, condition: P, changes: X) -> Result<Vec<E>>
    where
        E: EntityOn<C>,
        P: Condition<E::Table, C::Backend>,
        X: AsChangeset<Target = E::Table>,
        X::Changeset: QueryFragment<C::Backend>,
    {
        let rows = E::update_where_on(condition, changes, self.open()?)
            .map_err(|e| self.failed::<E>(e, "update", None))?;
        rows.iter().try_for_each(|(before, after)| self.buffer.updated(Some(before), after))?;
        Ok(rows.into_iter().map(|(_, after)| after).collect())
    }

    /// Deletes the row of the entity's primary key and records `deleted` with its last state, which it
    /// returns.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let lamp: Product = tx.lock(&7)?;
    /// assert_eq!(tx.delete(&lamp)?, lamp);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub fn delete<E: EntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        let last =
            entity.delete_on(self.open()?).map_err(|e| self.failed::<E>(e, "delete", Some(entity.key())))?;
        self.buffer.deleted(&last)?;
        Ok(last)
    }

    /// As [`delete`](Self::delete), by the primary key.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let last: Product = tx.delete_by_id(&7)?;
    /// assert_eq!(last.stock, 5);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn delete_by_id<E: EntityOn<C>>(&mut self, id: &E::Id) -> Result<E> {
        let last = E::delete_id_on(id, self.open()?).map_err(|e| self.failed::<E>(e, "delete", None))?;
        self.buffer.deleted(&last)?;
        Ok(last)
    }

    /// Deletes all rows that meet a condition and records `deleted` for each; returns their last states.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let gone: Vec<Product> = tx.delete_where(product::name.like("la%"))?;
    /// assert_eq!(gone[0].id, 7);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn delete_where<E, P>(&mut self, condition: P) -> Result<Vec<E>>
    where
        E: EntityOn<C>,
        P: Condition<E::Table, C::Backend>,
    {
        let rows =
            E::delete_where_on(condition, self.open()?).map_err(|e| self.failed::<E>(e, "delete", None))?;
        rows.iter().try_for_each(|row| self.buffer.deleted(row))?;
        Ok(rows)
    }

    /// Records a domain event.
    ///
    /// Order per key holds for messages whose transaction holds a lock on the key's row: write the entity,
    /// or [lock](Self::lock) it, before an event of its key.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let lamp: Product = tx.lock(&7)?;
    /// tx.record(&Sold { product_id: lamp.id, count: 2 })?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when it does not serialize or breaks a bound (see [`Message::new`]).
    pub fn record<E: Event>(&mut self, event: &E) -> Result<()> {
        self.buffer.event(event)
    }

    /// Records domain events, in their order.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// tx.lock::<Product>(&7)?;
    /// tx.record_all(&[Sold { product_id: 7, count: 2 }, Sold { product_id: 7, count: 1 }])?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_all<'e, E: Event + 'e>(&mut self, events: impl IntoIterator<Item = &'e E>) -> Result<()> {
        events.into_iter().try_for_each(|event| self.record(event))
    }

    /// Records the entity's state as it is, for copies alone.
    pub(crate) fn current<E: Entity>(&mut self, entity: &E) -> Result<()> {
        self.buffer.current(entity)
    }

    /// Gives a header to all messages that are recorded from now on in this transaction and its savepoints,
    /// unless they have one of that name. A header that a savepoint sets ends with it.
    ///
    /// ```
    /// # use diesel::prelude::*;
    /// # let mut connection = SqliteConnection::establish(":memory:")?;
    /// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
    /// # use outbox_core::{Message, OutboxConnection};
    /// # let seen = |key: &str| Message::new("product", key, "seen", b"{}".to_vec());
    /// connection.outbox_transaction(|tx| {
    ///     tx.record_message(seen("7")?);
    ///     tx.set_header("tenant", "eu")?;
    ///     tx.record_message(seen("8")?);
    ///     tx.record_message(seen("9")?.with_header("tenant", "us")?);
    ///     Ok(())
    /// })?;
    /// let headers = "select json_extract(cast(headers as text), '$.tenant') from outbox order by id";
    /// # let headers = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::Text>>(headers);
    /// # let headers: Vec<Option<String>> = headers.load(&mut connection)?;
    /// assert_eq!(headers, [None, Some("eu".into()), Some("us".into())]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Headers::insert`](crate::Headers::insert).
    pub fn set_header(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<()> {
        self.buffer.set_header(name.into(), value.into())
    }

    /// Records a message made by hand.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let message = Message::new("product", "7", "photographed", br#"{"photos": 3}"#.to_vec())?;
    /// tx.record_message(message.with_header("tenant", "eu")?);
    /// # Ok(()) }) }
    /// ```
    pub fn record_message(&mut self, message: Message) {
        self.buffer.push(message);
    }

    /// The ids of the messages recorded so far, in their order: the last one is what [`Freshness::wait_for`] waits for
    /// to read one's own writes. In a savepoint those of the savepoint. A transaction that runs again has others.
    ///
    /// ```
    /// # use diesel::prelude::*;
    /// # let mut connection = SqliteConnection::establish(":memory:")?;
    /// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
    /// use outbox_core::{Message, OutboxConnection};
    ///
    /// let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// let id = message.id();
    /// let last = connection.outbox_transaction(|tx| {
    ///     tx.record_message(message);
    ///     // The answer to the caller carries it.
    ///     Ok(tx.recorded_ids().last().copied())
    /// })?;
    /// assert_eq!(last, Some(id));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// [`Freshness::wait_for`]: crate::Freshness::wait_for
    pub fn recorded_ids(&self) -> Vec<MessageId> {
        self.buffer.ids()
    }

    /// Runs `body` in a savepoint; when it fails, its writes and its messages are gone and this
    /// transaction goes on.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() { in_transaction(|tx| {
    /// let tried = tx.savepoint(|tx| {
    ///     tx.delete_by_id::<Product>(&7)?;
    ///     Err::<(), _>(Error::application("changed my mind"))
    /// });
    /// assert!(tried.is_err());
    /// assert_eq!(tx.lock::<Product>(&7)?.stock, 5, "as it was, and nothing is recorded");
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// What `body` returns, and Diesel's for the savepoint itself.
    pub fn savepoint<T>(&mut self, body: impl FnOnce(&mut OutboxTx<'_, C>) -> Result<T>) -> Result<T> {
        let buffer = self.buffer.inner();
        let mut inner_is_lost = false;
        self.held_back.note(self.buffer.messages());
        let outcome = nested(self.open()?, |connection| {
            let mut tx = OutboxTx::with(connection, buffer);
            let value = body(&mut tx);
            inner_is_lost = tx.buffer.is_lost();
            let value = value?;
            tx.buffer.check_written()?;
            Ok((value, tx.buffer))
        });
        if inner_is_lost || outcome.as_ref().is_err_and(ends_all::<C>) {
            self.buffer.lose();
        }
        self.look();
        let (value, inner) = lost::tell(self.buffer.is_lost(), outcome)?;
        self.buffer.absorb(inner);
        Ok(value)
    }

    fn failed<E: Entity>(&mut self, error: diesel::result::Error, what: &str, key: Option<String>) -> Error {
        failed::<E>(&mut self.buffer, C::DEADLOCK_ENDS_ALL, error, what, key)
    }

    /// Has a lock taken on a key before the messages go in, so that transactions that record messages of this
    /// key get ids in commit order without writing its row.
    #[doc(hidden)]
    pub fn keep_strict(&mut self, aggregate: &str, key: &str) {
        self.buffer.keep_strict(aggregate, key);
    }

    /// Writes what was recorded inside another transaction: one multi-row INSERT, or a few where it would grow
    /// too large.
    pub(crate) fn flush(mut self) -> Result<()> {
        self.held_back.check(self.buffer.messages())?;
        self.make_ready()?;
        let messages = self.buffer.messages();
        if messages.is_empty() {
            return Ok(());
        }
        self.connection
            .append_messages(messages)
            .map_err(|error| append_failed(Appended::of(messages), error))
    }

    /// Writes what was recorded and commits.
    pub(crate) fn commit(mut self) -> Result<()> {
        // That the transaction is lost says more than that it was left open.
        self.look();
        self.buffer.check_lost()?;
        closed(self.connection, OUTERMOST, Ok(()))?;
        self.make_ready()?;
        if self.buffer.messages().is_empty() {
            self.connection.check_commits()?;
        }
        self.connection.append_and_commit(self.buffer.messages())
    }

    /// Checks what was recorded, and takes the locks of strict keys.
    fn make_ready(&mut self) -> Result<()> {
        self.look();
        self.buffer.check()?;
        let keys = self.buffer.strict_keys();
        if keys.is_empty() {
            return Ok(());
        }
        self.connection.lock_keys(&keys).map_err(|error| lock_failed(keys.len(), error))
    }
}

fn ends_all<C: OutboxConnection>(error: &Error) -> bool {
    C::DEADLOCK_ENDS_ALL && error.is_contention()
}

pub(crate) fn lock_failed(count: usize, error: Error) -> Error {
    error.context(format!("locking {count} keys whose order is strict"))
}

/// What an error says of the messages that could not be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    count: usize,
    /// The bytes of the largest one's payload.
    largest: usize,
}

impl Appended {
    pub(crate) fn of(messages: &[Message]) -> Self {
        let largest = messages.iter().map(|message| message.payload().len()).max();
        Self { count: messages.len(), largest: largest.unwrap_or_default() }
    }
}

pub(crate) fn append_failed(appended: Appended, error: diesel::result::Error) -> Error {
    let Appended { count, largest } = appended;
    if is_spoiled(&error) {
        return spoiled();
    }
    let kind = database_kind(&error);
    let hint = match kind {
        ErrorKind::Database => " (missing? run `outbox-relay migrate`)".to_owned(),
        ErrorKind::Invalid => format!(
            " (the largest payload has {largest} bytes; raise `max_allowed_packet` of the database server well above \
             that, or record less)"
        ),
        _ => String::new(),
    };
    Error::with_source(kind, format!("recording {count} messages in table outbox{hint}"), error)
}

/// The error of a write, with what it says of the transaction.
pub(crate) fn failed<E: Entity>(
    buffer: &mut Buffer,
    deadlock_ends_all: bool,
    error: diesel::result::Error,
    what: &str,
    key: Option<String>,
) -> Error {
    let (stands, error) = rows::stands(error);
    // An upsert always finds its row, unless another unique key led it to another one.
    let is_other = what == "upsert" && matches!(error, diesel::result::Error::NotFound);
    if what != "lock" && (stands || is_other) {
        buffer.leave_incomplete();
    }
    let error = in_context::<E>(error, what, key);
    if deadlock_ends_all && error.is_contention() {
        buffer.lose();
    }
    error
}

/// The row as it was, if it had another message key.
pub(crate) fn moved<'e, E: Entity>(was: Option<&'e E>, after: &E) -> Option<&'e E> {
    was.filter(|was| was.key() != after.key())
}

fn in_context<E: Entity>(error: diesel::result::Error, what: &str, key: Option<String>) -> Error {
    let error = Error::from(error);
    let missing = error.kind() == ErrorKind::NotFound;
    let key = key.map(|key| format!(" of key {key}")).unwrap_or_default();
    let hint = if missing { ", there is no such row" } else { "" };
    error.context(format!("{what} {}{key}{hint}", E::AGGREGATE))
}
