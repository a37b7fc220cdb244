//! What differs between Diesel's connections: one trait, one short file per database.

use std::num::NonZeroU32;

use diesel::Connection;
use diesel::connection::TransactionManager;
use diesel::result::QueryResult;

use crate::error::{Error, ErrorKind, Result};
use crate::lost;
use crate::message::Message;
use crate::statement::StatementConnection;
use crate::transaction::{Appended, OutboxTx, append_failed};

pub(crate) mod backlog;
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) mod columns;
pub(crate) mod inbox;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "async-mysql", feature = "async-postgres"))]
pub(crate) mod lock;
pub(crate) mod marks;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(crate) mod packet;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "async-mysql", feature = "postgres"))]
pub(crate) mod rendered;
pub(crate) mod resync;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod upkeep;
#[cfg(feature = "mysql")]
pub(crate) mod written_out;

use inbox::InboxConnection;
use marks::MarkConnection;
use resync::ResyncConnection;
use upkeep::UpkeepConnection;

/// A sync Diesel connection whose transactions can record messages: `SqliteConnection`, `MysqlConnection`
/// (MySQL and MariaDB) and `PgConnection`; pooled connections deref to one. Subscribers use diesel-async's as one
/// too, with their statements waited for.
///
/// A function that works on each of them names the trait:
///
/// ```
/// # use diesel::prelude::*;
/// # let mut connection = SqliteConnection::establish(":memory:")?;
/// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
/// use outbox_core::{Message, OutboxConnection, Result};
///
/// fn close<C: OutboxConnection>(connection: &mut C, order: i64) -> Result<()> {
///     connection.outbox_transaction(|tx| {
///         tx.record_message(Message::new("order", order.to_string(), "closed", b"{}".to_vec())?);
///         Ok(())
///     })
/// }
///
/// close(&mut connection, 7)?;
/// let key = diesel::dsl::sql::<diesel::sql_types::Text>("select aggregate_id from outbox");
/// assert_eq!(key.get_result::<String>(&mut connection)?, "7");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// Sealed: the hidden methods may change.
pub trait OutboxConnection:
    Connection
    + StatementConnection
    + InboxConnection
    + MarkConnection
    + ResyncConnection
    + UpkeepConnection
    + 'static
{
    /// Whether a deadlock rolls the whole transaction back, its savepoints included.
    #[doc(hidden)]
    const DEADLOCK_ENDS_ALL: bool = false;

    /// Runs `body` in a transaction and commits its writes together with what it recorded, or neither.
    ///
    /// Inside another transaction it is a savepoint of that one. On SQLite it is `BEGIN IMMEDIATE`.
    /// It is not retried here: whether an unknown COMMIT may be repeated only the caller knows.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() -> Result<()> {
    /// # let mut connection = connection();
    /// let kettle = connection.outbox_transaction(|tx| {
    ///     let kettle = tx.insert(&NewProduct { name: "kettle" })?;
    ///     tx.update_with(&kettle, product::stock.eq(3))
    /// })?;
    /// assert_eq!(kettle.stock, 3);
    /// assert_eq!(recorded(&mut connection), ["product.created", "product.updated"]);
    ///
    /// let failed = connection.outbox_transaction(|tx| {
    ///     tx.delete(&kettle)?;
    ///     Err::<(), _>(Error::application("the last one is not for sale"))
    /// });
    /// assert_eq!(failed.unwrap_err().kind(), ErrorKind::Application);
    /// assert_eq!(recorded(&mut connection).len(), 2, "neither row nor message changed");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `body` returns (an application's own error as [`Error::application`]), and the database's.
    fn outbox_transaction<T>(
        &mut self,
        body: impl FnOnce(&mut OutboxTx<'_, Self>) -> Result<T>,
    ) -> Result<T> {
        if is_open(self)? {
            return nested(self, |connection| {
                let mut tx = OutboxTx::new(connection);
                let value = body(&mut tx)?;
                tx.flush()?;
                Ok(value)
            });
        }
        outermost(self, |connection| {
            let mut tx = OutboxTx::new(connection);
            let value = body(&mut tx)?;
            tx.commit()?;
            Ok(value)
        })
    }

    /// Records messages inside a transaction that the caller has opened with Diesel's own `transaction`.
    ///
    /// ```standalone_crate
    /// # include!("doc_setup.rs");
    /// # fn main() -> Result<()> {
    /// # let mut connection = connection();
    /// connection.transaction(|connection| {
    ///     diesel::delete(product::table.find(7)).execute(connection)?;
    ///     connection.record_in_open_transaction(|tx| tx.record(&Sold { product_id: 7, count: 5 }))
    /// })?;
    /// assert_eq!(recorded(&mut connection), ["product.sold"]);
    ///
    /// let outside = connection.record_in_open_transaction(|tx| tx.record(&Sold { product_id: 7, count: 5 }));
    /// assert_eq!(outside.unwrap_err().kind(), ErrorKind::Invalid);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when no transaction is open (a `BEGIN` sent as text is not seen); what `body` returns, and
    /// the database's.
    fn record_in_open_transaction<T>(
        &mut self,
        body: impl FnOnce(&mut OutboxTx<'_, Self>) -> Result<T>,
    ) -> Result<T> {
        if !is_open(self)? {
            return Err(no_open_transaction());
        }
        self.outbox_transaction(body)
    }

    /// A transaction that is going to write, without messages.
    #[doc(hidden)]
    fn write_transaction<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if is_open(self)? {
            return nested(self, body);
        }
        outermost(self, |connection| {
            let value = body(connection);
            let value = closed(connection, OUTERMOST, value)?;
            connection.check_commits()?;
            connection.commit_write()?;
            Ok(value)
        })
    }

    /// Begins an outermost transaction that is going to write.
    #[doc(hidden)]
    fn begin_write(&mut self) -> QueryResult<()> {
        Self::TransactionManager::begin_transaction(self)
    }

    /// Commits what [`begin_write`](Self::begin_write) began; rolls back where that fails.
    #[doc(hidden)]
    fn commit_write(&mut self) -> QueryResult<()> {
        Self::TransactionManager::commit_transaction(self)
    }

    /// Rolls back what [`begin_write`](Self::begin_write) began.
    #[doc(hidden)]
    fn rollback_write(&mut self) -> QueryResult<()> {
        Self::TransactionManager::rollback_transaction(self)
    }

    /// Whether COMMIT would commit the open transaction, or RELEASE the savepoint: PostgreSQL rolls one back in which a
    /// statement has failed, and says so in a word that Diesel does not read.
    #[doc(hidden)]
    fn check_commits(&mut self) -> Result<()> {
        Ok(())
    }

    /// Makes the connection usable again after a panic while it was used, if that is needed.
    #[doc(hidden)]
    fn after_panic(&mut self) {}

    /// Waits for a statement that nobody waits for any more and that still runs.
    #[doc(hidden)]
    fn settle(&mut self) {}

    /// The last statements of an outermost transaction.
    #[doc(hidden)]
    fn append_and_commit(&mut self, messages: &[Message]) -> Result<()> {
        self.append_messages(messages).map_err(|error| append_failed(Appended::of(messages), error))?;
        Ok(self.commit_write()?)
    }

    /// Waits for, and takes until the end of the transaction, a lock per key (aggregate, key), so that
    /// transactions which record messages of one key without a lock on its row get ids in commit order.
    /// All locks in one statement and one order: two transactions that call this once cannot deadlock.
    #[doc(hidden)]
    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()>;

    /// The ends of the outbox and the age of its oldest row, without a scan.
    #[doc(hidden)]
    fn outbox_ends(&mut self) -> QueryResult<Ends>;

    /// The age in milliseconds of the oldest row whose key is not parked, among the first rows.
    #[doc(hidden)]
    fn oldest_movable_ms(&mut self) -> QueryResult<Option<i64>>;

    /// Whether the outbox holds more rows than this.
    #[doc(hidden)]
    fn outbox_exceeds(&mut self, rows: i64) -> QueryResult<bool>;

    #[doc(hidden)]
    fn append_messages(&mut self, messages: &[Message]) -> QueryResult<()>;

    /// The outbox as this connection sees it, in the order of ids.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn pending_messages(&mut self) -> QueryResult<Vec<crate::testing::PendingRow>>;

    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn forget_messages(&mut self, ids: &[i64]) -> QueryResult<()>;

    /// What the subscribers of this database have set aside.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn held_messages(&mut self) -> QueryResult<Vec<crate::testing::HeldRow>>;
}

/// Whether Diesel knows of an open transaction.
pub(crate) fn is_open<C: OutboxConnection>(connection: &mut C) -> QueryResult<bool> {
    Ok(depth(connection)?.is_some())
}

/// How deep the open transactions are nested; `None` is none.
pub(crate) fn depth<C: OutboxConnection>(connection: &mut C) -> QueryResult<Option<NonZeroU32>> {
    C::TransactionManager::transaction_manager_status_mut(connection).transaction_depth()
}

/// The depth of a transaction that is inside no other.
pub(crate) const OUTERMOST: Option<NonZeroU32> = Some(NonZeroU32::MIN);

/// The outcome of what ran in a transaction of this depth; a failure if it left another one open inside. Diesel does
/// not end one whose closure panicked or whose future was dropped, and COMMIT or ROLLBACK would be of that one alone.
pub(crate) fn closed<C: OutboxConnection, T>(
    connection: &mut C,
    own: Option<NonZeroU32>,
    outcome: Result<T>,
) -> Result<T> {
    let mut was_open = false;
    // Each time it is less deep, or broken: that has no depth.
    while depth(connection).is_ok_and(|depth| depth > own) {
        was_open = true;
        // What fails here is found by the ROLLBACK that follows.
        let _ = C::TransactionManager::rollback_transaction(connection);
    }
    match outcome {
        Ok(_) if was_open => Err(left_open()),
        outcome => outcome,
    }
}

pub(crate) fn left_open() -> Error {
    Error::new(
        ErrorKind::Application,
        "outbox: a transaction or savepoint inside this one was left open, so nothing is committed; its closure \
         panicked and the panic was caught, or its future was dropped: let both end",
    )
}

/// What a transaction in which a statement has failed ends with on PostgreSQL.
pub(crate) fn spoiled() -> Error {
    Error::new(
        ErrorKind::Application,
        "outbox: a statement in this transaction or savepoint failed and its error was not passed on, so PostgreSQL \
         commits nothing of it; let errors of the database leave the closure, or put the statement into a savepoint",
    )
}

/// Whether PostgreSQL takes no statement in this transaction because one has failed, as far as it says so in English:
/// Diesel keeps the text alone.
pub(crate) fn is_spoiled(error: &diesel::result::Error) -> bool {
    let diesel::result::Error::DatabaseError(_, information) = error else { return false };
    information.message().starts_with("current transaction is aborted")
}

/// A transaction that `body` commits itself; rolled back when it fails before that.
fn outermost<C: OutboxConnection, T>(
    connection: &mut C,
    body: impl FnOnce(&mut C) -> Result<T>,
) -> Result<T> {
    connection.begin_write()?;
    let outcome = body(connection);
    closed(connection, OUTERMOST, outcome).map_err(|error| match is_open(connection) {
        Ok(true) => rolled_back(error, connection.rollback_write()),
        // A COMMIT that failed has ended it.
        Ok(false) | Err(_) => error,
    })
}

/// A savepoint of the open transaction. A deadlock in it stays one, although the savepoint is gone with it.
pub(crate) fn nested<C: OutboxConnection, T>(
    connection: &mut C,
    body: impl FnOnce(&mut C) -> Result<T>,
) -> Result<T> {
    C::TransactionManager::begin_transaction(connection)?;
    let depth = depth(connection)?;
    let outcome = body(connection);
    // Diesel may leave a savepoint open whose RELEASE has failed.
    let outcome = closed(connection, depth, outcome).and_then(|value| {
        connection.check_commits()?;
        Ok(value)
    });
    let outcome = match outcome {
        Ok(value) => match C::TransactionManager::commit_transaction(connection) {
            Ok(()) => Ok(value),
            Err(error) => Err(not_released(connection, depth, error.into())),
        },
        Err(error) => Err(rolled_back(error, C::TransactionManager::rollback_transaction(connection))),
    };
    lost::tell(is_lost(connection), outcome)
}

/// What follows a RELEASE that failed; Diesel leaves the savepoint open after some of them.
fn not_released<C: OutboxConnection>(connection: &mut C, was: Option<NonZeroU32>, error: Error) -> Error {
    if C::DEADLOCK_ENDS_ALL {
        lost::note(C::TransactionManager::transaction_manager_status_mut(connection));
    }
    match depth(connection) {
        Ok(depth) if depth == was => {
            rolled_back(error, C::TransactionManager::rollback_transaction(connection))
        }
        _ => error,
    }
}

/// Whether the server has rolled back what is open on this connection.
pub(crate) fn is_lost<C: OutboxConnection>(connection: &mut C) -> bool {
    C::DEADLOCK_ENDS_ALL && lost::is_noted(C::TransactionManager::transaction_manager_status_mut(connection))
}

/// The error of a transaction whose ROLLBACK ended like this.
pub(crate) fn rolled_back(error: Error, rollback: QueryResult<()>) -> Error {
    match rollback {
        // The first error tells more than that its connection is broken.
        Ok(()) | Err(diesel::result::Error::BrokenTransactionManager) => error,
        // So does one that ends the connection, as a statement does that is too large.
        Err(_) if matches!(error.kind(), ErrorKind::Outage | ErrorKind::Invalid) => error,
        Err(rollback) => Error::from(rollback).context(format!("rolling back after {error}")),
    }
}

pub(crate) fn no_open_transaction() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "outbox: no transaction is open on this connection; use outbox_transaction, \
         or call this inside Diesel's transaction",
    )
}

/// The lowest and the highest id of the outbox, and the age of the row with the lowest.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, diesel::QueryableByName)]
pub struct Ends {
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub first_id: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub last_id: Option<i64>,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::BigInt>)]
    pub oldest_ms: Option<i64>,
}

#[derive(diesel::QueryableByName)]
pub(crate) struct NumberRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub(crate) number: i64,
}

/// The methods of a writer's look at the backlog. A macro, because Diesel's bounds for a generic connection would
/// outgrow the bodies.
macro_rules! backlog_methods {
    ($sql:expr) => {
        fn outbox_ends(&mut self) -> QueryResult<super::Ends> {
            diesel::RunQueryDsl::get_result(diesel::sql_query($sql.ends), self)
        }

        fn oldest_movable_ms(&mut self) -> QueryResult<Option<i64>> {
            let rows: Vec<super::NumberRow> =
                diesel::RunQueryDsl::load(diesel::sql_query($sql.oldest_movable), self)?;
            Ok(rows.first().map(|row| row.number))
        }

        fn outbox_exceeds(&mut self, rows: i64) -> QueryResult<bool> {
            let query = diesel::sql_query($sql.exceeds).bind::<BigInt, _>(rows);
            let rows: Vec<super::NumberRow> = diesel::RunQueryDsl::load(query, self)?;
            Ok(!rows.is_empty())
        }
    };
}
pub(crate) use backlog_methods;

/// Inserts messages, `$many` where there is more than one; `$check` looks at one that goes alone.
macro_rules! append_methods {
    (|$connection:ident, $run:ident| $many:expr $(, alone: $check:path)?) => {
        fn append_messages(&mut self, messages: &[Message]) -> QueryResult<()> {
            use diesel::prelude::*;

            for $run in crate::buffer::append_runs(messages) {
                let $connection = &mut *self;
                // Diesel keeps the statement of one row prepared, and prepares that of many each time anew.
                if let [one] = $run {
                    $($check($connection, one)?;)?
                    let row = crate::schema::NewOutboxRow::of(one);
                    diesel::insert_into(crate::schema::outbox::table).values(row).execute($connection)?;
                } else {
                    $many?;
                }
            }
            Ok(())
        }
    };
}
pub(crate) use append_methods;

/// As [`backlog_methods`], for the test kit.
macro_rules! testing_methods {
    ($sql:expr) => {
        #[cfg(feature = "testing")]
        fn pending_messages(&mut self) -> QueryResult<Vec<crate::testing::PendingRow>> {
            diesel::RunQueryDsl::load(crate::testing::select_pending($sql.created_at_us), self)
        }

        #[cfg(feature = "testing")]
        fn forget_messages(&mut self, ids: &[i64]) -> QueryResult<()> {
            use crate::schema::outbox;
            use diesel::prelude::*;

            // So many binds every database takes.
            for ids in ids.chunks(500) {
                diesel::delete(outbox::table.filter(outbox::id.eq_any(ids))).execute(self)?;
            }
            Ok(())
        }

        #[cfg(feature = "testing")]
        fn held_messages(&mut self) -> QueryResult<Vec<crate::testing::HeldRow>> {
            let query = "select consumer, message_id, kind, aggregate_id, state, attempts, error from inbox_held \
                 order by sequence";
            diesel::RunQueryDsl::load(diesel::sql_query(query), self)
        }
    };
}
pub(crate) use testing_methods;
