//! Rings when PostgreSQL tells of a commit: LISTEN on a connection of its own, opened again after it broke.
//!
//! The trigger `outbox_bell` notifies once per transaction, and the server tells a listener only of what it
//! can already see. So the read that follows a ring finds the rows, late commits included.

use std::convert::Infallible;
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::store::Store;
use crate::bell::{Bell, BellState};
use crate::retry::{self, Side};
use crate::status::Status;

/// How often a statement proves that the connection stands and the trigger is there: a socket whose other
/// end is gone says nothing by itself.
const LOOK: Duration = Duration::from_secs(10);
/// How long that statement may take. With `LOOK`, the longest time that a dead connection counts as heard.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Rings a bell until it is told to stop.
#[derive(Debug)]
pub(crate) struct Listener {
    store: Store,
    bell: Bell,
    status: Status,
}

/// However the task ends, nobody trusts its bell afterwards.
impl Drop for Listener {
    fn drop(&mut self) {
        self.bell.set(BellState::Off);
    }
}

impl Listener {
    pub(super) fn new(store: Store, bell: Bell, status: Status) -> Self {
        bell.set(BellState::Silent { why: "not listening yet".into() });
        Self { store: store.with_timeout(ANSWER), bell, status }
    }

    /// Listens until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let policy = RetryPolicy { initial: Duration::from_millis(100), ..RetryPolicy::default() };
        let mut waits = policy.waits();
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen(&mut waits) => match ended {
                    Err(error) => error,
                    Ok(never) => match never {},
                },
            };
            let remedy = retry::decide(&error, Side::Source).remedy();
            self.bell.set(BellState::Silent { why: format!("{error}; {remedy}") });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
    }

    /// One connection, from LISTEN to its end.
    async fn listen(&mut self, waits: &mut outbox_core::Waits) -> Result<Infallible> {
        self.store.listen().await?;
        loop {
            let doorbell = self.store.doorbell().await?;
            if !doorbell.listening {
                let text = "LISTEN has no effect on this connection; a pooler that gives each transaction \
                            another session cannot be used here";
                return Err(Error::new(ErrorKind::Database, text));
            }
            let state = match doorbell.fault() {
                None => BellState::Heard,
                Some((what, remedy)) => BellState::Silent { why: format!("{what}; {remedy}") },
            };
            self.bell.set(state);
            waits.reset();
            let next_look = Instant::now() + LOOK;
            while let Ok(rung) = timeout_at(next_look, self.store.rung()).await {
                rung?;
                self.status.add_ring();
                self.bell.ring();
            }
        }
    }
}
