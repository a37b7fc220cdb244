//! What is held in `inbox_held`: retries that are due, messages whose turn it is, and what operators ask for.
//!
//! Any process of the subscriber may serve any row. A row is locked while it is served, those that somebody else
//! has are passed over, and of a key only the first is ever due: the transaction that takes it away makes the next
//! one due. A message that was told to wait just before that transaction committed is found by the sweep.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::incoming::Incoming;
use super::worker::{Effected, Learned, Worker, millis, of_message, stale_unknown};
use crate::connection::OutboxConnection;
use crate::connection::upkeep::ProgressRow;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{Failure, HeldFrame, HeldState};
use crate::message::{MessageId, Recorded, Version};

/// A message that has ended its process so often in a row is set aside.
const ENDS_MAX: i32 = 3;
/// Between the start that is written and the lock that is taken for the try, nobody else begins one; after a try that
/// lost against another transaction, nobody else for so long.
const BEGUN: Duration = Duration::from_secs(2);
/// Ids and times of concurrent transactions need not be in one order, and clocks are set.
const CLOCK_STEP_US: i64 = 1_000_000;
/// So many rows are listed at a time.
const LIST_MAX: i64 = 100;

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// Its try begins.
    Begun,
    /// It is gone.
    Settled,
    /// It stays, for later or for good.
    Failed,
    /// It is somebody else's, or no longer due.
    PassedOver,
}

impl<C: OutboxConnection> Worker<C> {
    /// Serves what is due within this time, in the order of arrival, until nothing is or shutdown.
    ///
    /// An error means that the database cannot be used now.
    pub(super) fn serve_held(&self, within: Duration, shutdown: &CancellationToken) -> Result<()> {
        self.look(&mut *self.connections.get()?)?;
        loop {
            let mut moved = false;
            let due = self.connections.get()?.due_held(&self.name, millis(within), LIST_MAX)?;
            for id in due {
                if shutdown.is_cancelled() || self.is_paused() {
                    return Ok(());
                }
                moved |= self.serve_row(&id, within)? != Served::PassedOver;
            }
            if !moved {
                break;
            }
            // Whoever waits behind a halt may go on.
            self.changed.notify_waiters();
        }
        let connection = &mut *self.connections.get()?;
        for copy in self.effects.each_copy() {
            while copy.sweep(connection, &self.name)? && !shutdown.is_cancelled() {}
        }
        Ok(())
    }

    /// What operators and other processes have left, and how far this one is.
    fn look(&self, connection: &mut C) -> Result<()> {
        self.set_paused(connection.is_consumer_paused(&self.name)?);
        self.save_reached(connection)?;
        if self.is_sweep_due() {
            for id in connection.freed_held(&self.name)? {
                connection.free_held(&self.name, &id)?;
            }
        }
        Ok(())
    }

    fn serve_row(&self, id: &str, within: Duration) -> Result<Served> {
        let served = match self.begin(id, within)? {
            Served::Begun => self.serve_begun(id, within),
            served => Ok(served),
        };
        // After an outage its end is not noted yet.
        if served.is_ok() {
            self.begun().remove(id);
        }
        served
    }

    fn begun(&self) -> MutexGuard<'_, HashSet<String>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the start of a try before it, counted once for all tries of this process that an outage ends: what ends
    /// the process itself, the next one finds. Where others serve the same rows, one of them begins and counts.
    fn begin(&self, id: &str, within: Duration) -> Result<Served> {
        let mut is_last = None;
        let is_first = self.begun().insert(id.to_owned());
        let served = self.connections.get()?.write_transaction(|connection| {
            let begun = if is_first { -millis(BEGUN) } else { millis(BEGUN) };
            let Some(held) = connection.lock_try(&self.name, id, millis(within), begun)? else {
                return Ok(Served::PassedOver);
            };
            match HeldState::parse(&held.state) {
                Some(state @ (HeldState::Retry | HeldState::Replay | HeldState::Force)) => {
                    if is_first && held.begun >= ENDS_MAX {
                        let text = format!("the process ended {} times while it was handled", held.begun);
                        let error = Error::new(ErrorKind::Application, text);
                        connection.fail_held(&self.name, id, state, None, &Failure::of(&error))?;
                        is_last = Some(error);
                        return Ok(Served::Failed);
                    }
                    connection.begin_held(&self.name, id, i32::from(is_first))?;
                    Ok(Served::Begun)
                }
                _ => Ok(Served::Begun),
            }
        });
        if served.is_err() && is_first {
            self.begun().remove(id);
        }
        if let (Ok(_), Some(error)) = (&served, is_last) {
            self.stats.count_set_aside();
            tracing::error!(subscriber = self.name, message = id, %error, "message set aside in inbox_held");
        }
        served
    }

    fn serve_begun(&self, id: &str, within: Duration) -> Result<Served> {
        let (mut locked, mut learned) = (None, Learned::default());
        // Given back at once: a handler that was cancelled has spoiled it.
        let result = self.connections.get()?.write_transaction(|connection| {
            let Some(held) = connection.lock_held(&self.name, id, millis(within))? else {
                return Ok(Served::PassedOver);
            };
            let state = match HeldState::parse(&held.state) {
                Some(state) if !matches!(state, HeldState::Waiting | HeldState::Dead) => state,
                _ => return Ok(Served::PassedOver),
            };
            locked = Some((state, held.attempts, held.payload.len()));
            self.settle(connection, &held, state, &mut learned)?;
            connection.delete_held(&self.name, id)?;
            if let Some(next) =
                connection.first_of_key(&self.name, &held.aggregate_type, &held.aggregate_id)?
            {
                connection.free_held(&self.name, &next)?;
            }
            Ok(Served::Settled)
        });
        if result.is_ok() {
            self.keep(learned);
        }
        match (result, locked) {
            (Err(error), Some((state, attempts, bytes)))
                if !error.is_outage() && !error.is_denied() || self.are_too_long(&error, bytes) =>
            {
                self.note_failed(&mut *self.connections.get()?, id, state, attempts, &error)?;
                Ok(Served::Failed)
            }
            (result, _) => result,
        }
    }

    /// The message's effect, in the caller's transaction; nothing for one that was applied before.
    fn settle(
        &self,
        connection: &mut C,
        held: &HeldFrame,
        state: HeldState,
        learned: &mut Learned,
    ) -> Result<()> {
        let frame = held.frame();
        if state == HeldState::Discard {
            // What has no such id is set aside again when it comes again.
            if let Ok(id) = MessageId::parse(&frame.message_id) {
                connection.record_applied(&self.name, id)?;
            }
            return Ok(());
        }
        let recorded = Recorded::from_frame(&frame)?;
        let Some(effect) = self.effect(&recorded.message.kind())? else { return Ok(()) };
        self.check_source(connection, effect, &recorded, learned).map_err(|e| of_message(e, &recorded))?;
        if !connection.record_applied(&self.name, recorded.message.id())? {
            self.stats.count_duplicate();
            return Ok(());
        }
        if state == HeldState::Replay {
            self.check_horizon(connection, &recorded, learned).map_err(|e| of_message(e, &recorded))?;
        }
        let attempts = u32::try_from(held.attempts).unwrap_or_default();
        if attempts > 0 {
            self.stats.count_retry();
        }
        let incoming = Incoming {
            recorded: &recorded,
            consumer: &self.name,
            attempt: attempts.saturating_add(1),
            redelivered: true,
            limit: self.handler_limit,
        };
        match (self.apply_one(connection, effect, &incoming)?, effect.copy_name()) {
            // It has waited here while a later state of its key was applied.
            (Effected::Stale, Some(copy))
                if attempts == 0
                    || state == HeldState::Retry && self.ids_began_again(connection, &recorded)? =>
            {
                Err(stale_unknown(copy, &recorded))
            }
            _ => {
                self.stats.count_applied();
                Ok(())
            }
        }
    }

    /// Whether a queue had a newer version of this source which was recorded clearly before this one. Then a newer
    /// state did not come while this message waited: the source's ids have started again.
    fn ids_began_again(&self, connection: &mut C, recorded: &Recorded) -> Result<bool> {
        let at = recorded.recorded_at.timestamp_micros().saturating_sub(CLOCK_STEP_US);
        let is_older = |row: &ProgressRow| {
            let version = Version { generation: row.generation, id: row.id };
            row.source == recorded.source && version > recorded.version && row.recorded_us < at
        };
        Ok(connection.progress(&self.name)?.iter().any(is_older))
    }

    fn note_failed(
        &self,
        connection: &mut C,
        id: &str,
        state: HeldState,
        attempts: i32,
        error: &Error,
    ) -> Result<()> {
        let made = u32::try_from(attempts).unwrap_or_default().saturating_add(1);
        // What somebody asked for is shown to them again at once.
        let next_in = match state {
            HeldState::Retry if error.kind() != ErrorKind::Invalid => self.retries.wait_after(made),
            _ => None,
        };
        connection.fail_held(&self.name, id, state, next_in.map(millis), &Failure::of(error))?;
        match next_in {
            Some(wait) => {
                tracing::warn!(subscriber = self.name, message = id, %error, attempts = made, "message failed again");
                self.due_in(wait);
            }
            None => {
                self.stats.count_set_aside();
                tracing::error!(subscriber = self.name, message = id, %error, attempts = made, "message set aside in inbox_held");
            }
        }
        Ok(())
    }
}
