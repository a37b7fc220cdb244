//! [`Writer`]: the policy around a service's transactions: which are run again, and when writers are held
//! back. The policy waits for nothing itself; the blocking loop is [`Writer::transaction`].

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use diesel::connection::TransactionManager;

use crate::connection::OutboxConnection;
use crate::error::{Error, Result};
use crate::retry::{Attempts, RetryPolicy};
use crate::transaction::OutboxTx;

pub(crate) mod backlog;

pub use backlog::{BacklogLimit, WhenFull};
use backlog::{Gate, Step};

/// How a service runs its outbox transactions. Make one at start and clone it: clones share what they have
/// seen of the backlog. Without settings it is [`OutboxConnection::outbox_transaction`].
#[cfg_attr(
    feature = "sqlite",
    doc = r#"
```
use diesel::prelude::*;
use outbox_core::{BacklogLimit, Message, RetryPolicy, WhenFull, Writer, migrate};

let limit = BacklogLimit { rows: Some(1_000_000), ..BacklogLimit::default() };
let writer = Writer::new().retry(RetryPolicy::default()).backlog(limit, WhenFull::Refuse);

let mut connection = SqliteConnection::establish(":memory:")?;
migrate::run(&mut connection, &migrate::OUTBOX)?;
writer.transaction(&mut connection, |tx| {
    // Runs again from its start after a deadlock: it must read in here what it decides by.
    tx.record_message(Message::new("product", "7", "price_raised", b"{}".to_vec())?);
    Ok(())
})?;
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]
///
/// Serializable transactions, which PostgreSQL ends with an error where two do not go together, say so in their
/// first statement, or for all of the connection with `set default_transaction_isolation`:
#[cfg_attr(
    feature = "postgres",
    doc = r#"
```no_run
use diesel::prelude::*;
use outbox_core::{Message, RetryPolicy, Writer};

# fn transfer(connection: &mut PgConnection) -> outbox_core::Result<()> {
let writer = Writer::new().retry(RetryPolicy::default());
writer.transaction(connection, |tx| {
    diesel::sql_query("set transaction isolation level serializable").execute(tx.conn())?;
    // read, decide, write, record
    tx.record_message(Message::new("account", "7", "moved", b"{}".to_vec())?);
    Ok(())
})
# }
```
"#
)]
#[derive(Debug, Clone, Default)]
pub struct Writer {
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) gate: Option<Arc<Gate>>,
}

impl Writer {
    /// One attempt for each transaction, whatever the backlog.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a transaction again after [contention](Error::is_contention), with the policy's waits, at most
    /// `max_attempts` times in all.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Holds transactions back while the outbox is over a limit; off by default. The service's user then
    /// needs SELECT on `outbox` and `outbox_key`.
    #[must_use]
    pub fn backlog(mut self, limit: BacklogLimit, when_full: WhenFull) -> Self {
        self.gate = Some(Arc::new(Gate::new(limit, when_full)));
        self
    }

    /// Runs `body` as [`OutboxConnection::outbox_transaction`] does, as often as the policy says. A pooled
    /// connection is passed as `&mut *connection`.
    ///
    /// `body` may run several times, and only the last one counts: it starts from the database and leaves
    /// nothing behind outside of it. It lets errors of the database leave, as `?` does: a deadlock that it
    /// swallows has already taken its earlier writes away. The thread sleeps while it waits, and the
    /// connection waits with it.
    ///
    /// Never repeated: a transaction whose connection was lost, in its COMMIT or before; errors of the
    /// application. In Diesel's test transaction it runs once, as a savepoint.
    ///
    /// # Errors
    /// `Invalid` inside another transaction: only the outermost can run again. `Backlog` when the outbox is
    /// over its limit. Else the last attempt's, which says how many there were if none was left.
    pub fn transaction<C: OutboxConnection, T>(
        &self,
        connection: &mut C,
        mut body: impl FnMut(&mut OutboxTx<'_, C>) -> Result<T>,
    ) -> Result<T> {
        let is_test = is_outermost(connection)?;
        self.enter(connection)?;
        let mut attempts = self.retry.as_ref().filter(|_| !is_test).map(Attempts::of);
        loop {
            let error = match connection.outbox_transaction(&mut body) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = next_wait(attempts.as_mut(), error, || is_usable(connection))?;
            sleep(wait);
        }
    }

    /// Waits until the backlog lets a transaction in.
    fn enter<C: OutboxConnection>(&self, connection: &mut C) -> Result<()> {
        let Some(gate) = &self.gate else { return Ok(()) };
        let until = gate.patience(Instant::now());
        loop {
            let mut step = gate.step(Instant::now(), until);
            if let Step::Probe = step {
                let seen = backlog::look(connection, gate.limit());
                step = gate.answer(seen, Instant::now(), until)?;
            }
            match step {
                Step::Enter | Step::Probe => return Ok(()),
                Step::Wait(wait) => sleep(wait),
                Step::Refuse(error) => return Err(error),
            }
        }
    }
}

/// What follows a failed attempt: the wait before the next one, or the error for the caller.
pub(crate) fn next_wait(
    attempts: Option<&mut Attempts>,
    error: Error,
    is_usable: impl FnOnce() -> bool,
) -> Result<Duration> {
    let Some(attempts) = attempts.filter(|_| error.is_contention()) else { return Err(error) };
    if !is_usable() {
        return Err(error.context("the connection does not work any more, so this is not tried again"));
    }
    match attempts.next_wait() {
        Some(wait) => {
            tracing::debug!(attempt = attempts.made(), ?wait, "transaction is run again: {error}");
            Ok(wait)
        }
        None => Err(error.context(format!("given up after {} attempts", attempts.made()))),
    }
}

/// Refuses an open transaction; true for Diesel's test transaction, which never commits.
fn is_outermost<C: OutboxConnection>(connection: &mut C) -> Result<bool> {
    let depth = C::TransactionManager::transaction_manager_status_mut(connection)
        .transaction_depth()
        .map_err(Error::from)?;
    match depth.map_or(0, u32::from) {
        0 => Ok(false),
        // Diesel calls an open transaction broken unless it is a test's.
        1 if !C::TransactionManager::is_broken_transaction_manager(connection) => Ok(true),
        _ => Err(not_outermost()),
    }
}

pub(crate) fn not_outermost() -> Error {
    Error::invalid(
        "outbox: Writer::transaction inside an open transaction: only the outermost can run again; call it \
         there, and record in here with record_in_open_transaction",
    )
}

/// Whether a transaction can be opened on it.
fn is_usable<C: OutboxConnection>(connection: &mut C) -> bool {
    let status = C::TransactionManager::transaction_manager_status_mut(connection);
    status.transaction_depth().is_ok_and(|depth| depth.is_none())
}
