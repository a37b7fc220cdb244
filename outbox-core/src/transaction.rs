//! [`OutboxTx`]: writes entities, buffers their messages and inserts them just before COMMIT.
//!
//! Messages go in at the end of the transaction, after the entity's writes: the row lock of the entity
//! then keeps the ids of one key in commit order, and the outbox is locked as shortly as can be.

use std::collections::BTreeSet;
use std::fmt;

use crate::connection::OutboxConnection;
use crate::entity::{Entity, Event, Operation, entity_message};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// A type that can be inserted on a connection and gives an entity back; `#[derive(Outbox)]` writes it for
/// the entity itself and, with `#[outbox(entity = Product)]`, for its insertable.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be inserted through the outbox on `{C}`",
    note = "derive `Outbox` on it (with `#[outbox(entity = …)]` on an insertable), and enable outbox-core's feature for that database"
)]
pub trait InsertOn<C> {
    /// The entity that the inserted row is.
    type Entity: Entity;

    /// Inserts and returns the row as the database holds it, generated key and defaults included.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn insert_on(&self, connection: &mut C) -> diesel::QueryResult<Self::Entity>;
}

/// An entity that can be updated and deleted on a connection; `#[derive(Outbox)]` writes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written through the outbox on `{C}`",
    note = "derive `Outbox` on it, and enable outbox-core's feature for that database"
)]
pub trait EntityOn<C>: Entity {
    /// Updates the row of this key and returns it as the database then holds it.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn update_on(&self, connection: &mut C) -> diesel::QueryResult<Self>;

    /// Deletes the row of this key and returns its last state.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, and any other of Diesel's.
    fn delete_on(&self, connection: &mut C) -> diesel::QueryResult<Self>;
}

/// An open transaction in which writes are recorded; get one from
/// [`OutboxConnection::outbox_transaction`].
///
/// The recorded image is the row as read right after the recorded statement. What is written later through
/// [`conn`](Self::conn) is not recorded. DDL inside commits implicitly on MySQL and MariaDB and is not
/// supported.
pub struct OutboxTx<'c, C> {
    connection: &'c mut C,
    messages: Vec<Message>,
    /// Keys (aggregate, key) that are locked before the messages go in.
    strict: BTreeSet<(String, String)>,
}

impl<'c, C> fmt::Debug for OutboxTx<'c, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxTx").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

impl<'c, C: OutboxConnection> OutboxTx<'c, C> {
    pub(crate) fn new(connection: &'c mut C) -> Self {
        Self { connection, messages: Vec::new(), strict: BTreeSet::new() }
    }

    /// The connection, for anything else in the same transaction. Writes through it are not recorded.
    pub fn conn(&mut self) -> &mut C {
        self.connection
    }

    /// Inserts and records `created`; returns the row as the database holds it.
    ///
    /// # Errors
    /// Diesel's, and `Invalid` when the message breaks a bound (see [`Message::new`]).
    pub fn insert<I: InsertOn<C>>(&mut self, new: &I) -> Result<I::Entity> {
        let entity =
            new.insert_on(self.connection).map_err(|e| in_context::<I::Entity>(e, "insert", None))?;
        self.messages.push(entity_message(Operation::Created, &entity, None)?);
        Ok(entity)
    }

    /// Updates the row of the entity's key and records `updated`; returns the row as it then is.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub fn update<E: EntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        self.update_row(entity, None)
    }

    /// As [`update`](Self::update), and the message names the fields that differ from `before`.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_from<E: EntityOn<C>>(&mut self, before: &E, entity: &E) -> Result<E> {
        self.update_row(entity, Some(before))
    }

    fn update_row<E: EntityOn<C>>(&mut self, entity: &E, before: Option<&E>) -> Result<E> {
        let after = entity
            .update_on(self.connection)
            .map_err(|e| in_context::<E>(e, "update", Some(entity.key())))?;
        self.messages.push(entity_message(Operation::Updated, &after, before)?);
        Ok(after)
    }

    /// Deletes the row of the entity's key and records `deleted` with its last state, which it returns.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; else as [`insert`](Self::insert).
    pub fn delete<E: EntityOn<C>>(&mut self, entity: &E) -> Result<E> {
        let last = entity
            .delete_on(self.connection)
            .map_err(|e| in_context::<E>(e, "delete", Some(entity.key())))?;
        self.messages.push(entity_message(Operation::Deleted, &last, None)?);
        Ok(last)
    }

    /// Records a domain event.
    ///
    /// Order per key holds for messages whose transaction holds a lock on the key's row: write the entity,
    /// or lock it, before an event of its key.
    ///
    /// # Errors
    /// `Invalid` when it does not serialize or breaks a bound (see [`Message::new`]).
    pub fn record<E: Event>(&mut self, event: &E) -> Result<()> {
        self.messages.push(event.message()?);
        Ok(())
    }

    /// Records a message made by hand.
    pub fn record_message(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Runs `body` in a savepoint; when it fails, its writes and its messages are gone and this
    /// transaction goes on.
    ///
    /// # Errors
    /// What `body` returns, and Diesel's for the savepoint itself.
    pub fn savepoint<T>(&mut self, body: impl FnOnce(&mut OutboxTx<'_, C>) -> Result<T>) -> Result<T> {
        let (value, messages, strict) = self.connection.transaction(|connection| {
            let mut inner = OutboxTx::new(connection);
            let value = body(&mut inner)?;
            Ok::<_, Error>((value, inner.messages, inner.strict))
        })?;
        self.messages.extend(messages);
        self.strict.extend(strict);
        Ok(value)
    }

    /// Has a lock taken on a key before the messages go in, so that transactions that record messages of this
    /// key get ids in commit order without writing its row.
    #[doc(hidden)]
    pub fn keep_strict(&mut self, aggregate: &str, key: &str) {
        self.strict.insert((aggregate.to_owned(), key.to_owned()));
    }

    fn lock_strict(&mut self) -> Result<()> {
        if self.strict.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = self.strict.iter().map(|(aggregate, key)| (&**aggregate, &**key)).collect();
        self.connection
            .lock_keys(&keys)
            .map_err(|error| error.context(format!("locking {} keys whose order is strict", keys.len())))
    }

    /// Writes what was recorded: one multi-row INSERT, or a few where it would grow too large.
    pub(crate) fn flush(mut self) -> Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        self.lock_strict()?;
        let count = self.messages.len();
        self.connection.append_messages(&self.messages).map_err(|error| {
            let kind = crate::error::database_kind(&error);
            Error::with_source(
                kind,
                format!("recording {count} messages in table outbox (missing? run `outbox-relay migrate`)"),
                error,
            )
        })
    }
}

fn in_context<E: Entity>(error: diesel::result::Error, what: &str, key: Option<String>) -> Error {
    let error = Error::from(error);
    let missing = error.kind() == ErrorKind::NotFound;
    let key = key.map(|key| format!(" of key {key}")).unwrap_or_default();
    let hint = if missing { ", there is no such row" } else { "" };
    error.context(format!("{what} {}{key}{hint}", E::AGGREGATE))
}

/// The sizes at which a recorded batch is split into several INSERTs, well below every server's limits of
/// placeholders and packet size.
pub(crate) const APPEND_ROWS_MAX: usize = 500;
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Splits messages into runs that fit one INSERT; a larger message stands alone.
pub(crate) fn append_runs(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(APPEND_ROWS_MAX).take_while(|message| {
            bytes += message.payload().len();
            bytes <= APPEND_BYTES_MAX
        });
        let count = fits.count().max(1).min(rest.len());
        let (run, later) = rest.split_at(count);
        rest = later;
        (!run.is_empty()).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_whole() {
        let message = |bytes| Message::new("a", "1", "e", vec![b' '; bytes]).unwrap();
        let messages: Vec<_> = [10, 2 * APPEND_BYTES_MAX, 10]
            .into_iter()
            .chain(std::iter::repeat_n(1, 1200))
            .map(message)
            .collect();
        let runs: Vec<_> = append_runs(&messages).map(<[Message]>::len).collect();
        assert_eq!(runs, [1, 1, 500, 500, 201]);
        assert_eq!(append_runs(&[]).count(), 0);
    }
}
