//! What the tasks of a subscriber share: its consumers, its database, and how it sets messages aside. Blocking.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use super::effect::{Effect, Effects, Found, Handler, Run};
use super::incoming::Incoming;
use super::stats::SubscriberStats;
use crate::connection::{OutboxConnection, closed, depth};
use crate::connections::Connections;
use crate::copy::misfit::Misfit;
use crate::copy::{Applied, Origin};
use crate::error::{Error, Result};
use crate::message::{Recorded, Version};
use crate::panics::caught_on;
use crate::retry::RetryPolicy;
use crate::trace;

/// See [`Worker::is_sweep_due`]. What other processes have left behind is found after the longer one.
const SWEEP_EVERY_MIN: Duration = Duration::from_secs(1);
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(10);

/// How failing messages are tried again.
#[derive(Debug, Clone)]
pub(super) struct Retries {
    /// The waits of what is not the message's fault, and how many attempts a message has.
    pub(super) policy: RetryPolicy,
    /// The waits between the attempts at a message; the last one again where there are more attempts.
    pub(super) later: Vec<Duration>,
}

impl Retries {
    /// The wait after so many attempts; `None` after the last.
    pub(super) fn wait_after(&self, attempts: u32) -> Option<Duration> {
        if attempts >= self.policy.max_attempts {
            return None;
        }
        let place = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        Some(self.later.get(place).or(self.later.last()).copied().unwrap_or_default())
    }
}

pub(super) struct Worker<C> {
    pub(super) name: String,
    pub(super) connections: Connections<C>,
    pub(super) effects: Effects<C>,
    pub(super) retries: Retries,
    pub(super) retention: Duration,
    /// How long a handler may take.
    pub(super) handler_limit: Duration,
    pub(super) stats: SubscriberStats,
    /// The newest applied message of each queue and source, if it is not noted yet.
    reached: Mutex<HashMap<(u16, String), Newest>>,
    /// The source that each copy was found to follow.
    sources: Mutex<HashMap<&'static str, String>>,
    /// Held messages that this process has begun to handle, and of which no end is noted.
    pub(super) begun: Mutex<HashSet<String>>,
    /// Whether an operator has paused it, as of the last look.
    paused: AtomicBool,
    /// Whether a message was told to wait since the last sweep, and when that was.
    pub(super) sweep: AtomicBool,
    swept: Mutex<Option<Instant>>,
    /// When there is something to do among what is held, as far as this process knows.
    next_due: Mutex<Option<Instant>>,
    /// Rings when `next_due` changes, and when a halt may be over.
    pub(super) changed: Notify,
}

/// The newest message of a queue and source: its version, and when it was recorded.
type Newest = (Version, DateTime<Utc>);

/// What became of a message's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effected {
    Yes,
    /// The copy has something newer.
    Stale,
}

impl<C: OutboxConnection> Worker<C> {
    pub(super) fn new(
        name: String,
        connections: Connections<C>,
        effects: Effects<C>,
        retries: Retries,
        retention: Duration,
        handler_limit: Duration,
        stats: SubscriberStats,
    ) -> Self {
        Self {
            name,
            connections,
            effects,
            retries,
            retention,
            handler_limit,
            stats,
            reached: Mutex::default(),
            sources: Mutex::default(),
            begun: Mutex::default(),
            paused: AtomicBool::new(false),
            sweep: AtomicBool::new(true),
            swept: Mutex::default(),
            next_due: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Whether the inbox tables are there; looks whether the subscriber is paused.
    pub(super) fn check(&self) -> Result<()> {
        let connection = &mut *self.connections.get()?;
        let checked = connection.check_held().and_then(|()| connection.is_consumer_paused(&self.name));
        let paused = checked.map_err(|e| {
            Error::from(e).context(format!(
                "subscriber {}: the inbox tables cannot be read; create or upgrade them with \
                 outbox_core::migrate::run(&mut connection, &outbox_core::migrate::INBOX)",
                self.name
            ))
        })?;
        self.set_paused(paused);
        Ok(())
    }

    /// Warns of what the tables of copies have that does not go with them.
    pub(super) fn warn_of_misfits(&self) -> Result<()> {
        let connection = &mut *self.connections.get()?;
        for copy in self.effects.each_copy() {
            for Misfit { name, value, .. } in copy.misfits(connection)? {
                tracing::warn!(
                    subscriber = self.name,
                    "{name}, which does not go with a copy: different keys arrive in no particular order, and each \
                     key has to be told from all others; {value}"
                );
            }
        }
        Ok(())
    }

    pub(super) fn set_paused(&self, paused: bool) {
        if self.paused.swap(paused, Ordering::Relaxed) != paused {
            tracing::warn!(subscriber = self.name, paused, "the subscriber was paused or resumed");
            self.changed.notify_waiters();
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// There is something to do among what is held, after this wait.
    pub(super) fn due_in(&self, wait: Duration) {
        let at = Instant::now() + wait;
        let mut next = self.next_due.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(at, |next| next.min(at)));
        drop(next);
        self.changed.notify_waiters();
    }

    /// How long until `due_in`; forgets it when that is now.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let mut next = self.next_due.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
        if wait.is_some_and(|wait| wait.is_zero()) {
            *next = None;
        }
        wait
    }

    /// These messages were applied.
    pub(super) fn reach<'r>(&self, queue: u16, recorded: impl Iterator<Item = &'r Recorded>) {
        let mut here: HashMap<&str, Newest> = HashMap::new();
        for Recorded { source, version, recorded_at, .. } in recorded {
            let newest = here.entry(source).or_insert((*version, *recorded_at));
            if newest.0 < *version {
                *newest = (*version, *recorded_at);
            }
        }
        self.reach_all(
            here.into_iter().map(|(source, newest)| ((queue, source.to_owned()), newest)).collect(),
        );
    }

    /// Notes how far the queues have come; what could not be noted is next time.
    pub(super) fn save_reached(&self, connection: &mut C) -> Result<()> {
        let mut reached = std::mem::take(&mut *self.reached.lock().unwrap_or_else(PoisonError::into_inner));
        let mut saved = Ok(());
        reached.retain(|(queue, source), (version, recorded_at)| {
            // Queues are fewer than buckets.
            let (queue, at) = (*queue as i16, recorded_at.timestamp_micros());
            if saved.is_ok() {
                saved = connection.save_progress(&self.name, source, queue, *version, at);
            }
            saved.is_err()
        });
        self.reach_all(reached);
        Ok(saved?)
    }

    /// Puts what is newest of each queue and source with what is known already.
    fn reach_all(&self, newest: HashMap<(u16, String), Newest>) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, newest) in newest {
            let known = reached.entry(place).or_insert(newest);
            if known.0 < newest.0 {
                *known = newest;
            }
        }
    }

    /// Whether to look for messages that wait for nothing. That reads all that wait: not more often than it can
    /// find something, nor than once in a second.
    pub(super) fn is_sweep_due(&self) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let since = swept.map(|swept| swept.elapsed());
        let is_due = match since {
            None => true,
            Some(since) if self.sweep.load(Ordering::Relaxed) => since >= SWEEP_EVERY_MIN,
            Some(since) => since >= SWEEP_EVERY_MAX,
        };
        if is_due {
            self.sweep.store(false, Ordering::Relaxed);
            *swept = Some(Instant::now());
        }
        is_due
    }

    /// The consumer of a kind of message; `None` for what is to be passed over.
    pub(super) fn effect(&self, kind: &str) -> Result<Option<&Effect<C>>> {
        match self.effects.find(kind) {
            Found::Effect(effect) => Ok(Some(effect)),
            Found::Ignored => Ok(None),
            Found::Nothing => {
                Err(Error::invalid(format!("subscriber {} has no consumer for {kind}", self.name)))
            }
        }
    }

    /// Runs a handler in the caller's transaction, with what it records.
    pub(super) fn handle(&self, connection: &mut C, run: &Handler<C>, incoming: &Incoming<'_>) -> Result<()> {
        let message = incoming.message();
        let _running = self.stats.running(incoming);
        let own = depth(connection)?;
        let handled = trace::handling(&message.kind(), message.headers())
            .in_scope(|| caught_on(connection, "the handler", |connection| run(connection, incoming)));
        connection.settle();
        closed(connection, own, handled)
            .map_err(|e| e.context(format!("{} of key {}", message.kind(), message.key())))
    }

    /// The effect of one message that was held, in the caller's transaction.
    pub(super) fn apply_one(
        &self,
        connection: &mut C,
        effect: &Effect<C>,
        incoming: &Incoming<'_>,
    ) -> Result<Effected> {
        match &effect.run {
            Run::Handler(run) => self.handle(connection, &**run, incoming).map(|()| Effected::Yes),
            Run::Copy(copy) => {
                let row = copy.read(incoming.recorded).map_err(|e| of_message(e, incoming.recorded))?;
                let applied = copy
                    .apply(connection, vec![(incoming.recorded, &*row)], Origin::Held)
                    .map_err(|e| of_message(e, incoming.recorded))?;
                Ok(match applied {
                    Applied::All => Effected::Yes,
                    Applied::Stale(_) => Effected::Stale,
                })
            }
        }
    }

    /// A copy follows one outbox: versions of two cannot be compared.
    pub(super) fn check_source(
        &self,
        connection: &mut C,
        effect: &Effect<C>,
        recorded: &Recorded,
        learned: &mut Learned,
    ) -> Result<()> {
        let Some(copy) = effect.copy_name() else { return Ok(()) };
        let known = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(copy).cloned();
        let source = match known.as_ref().or_else(|| learned.claimed.get(copy)) {
            Some(source) => source,
            None => learned.claimed.entry(copy).or_insert(connection.claim_copy(copy, &recorded.source)?),
        };
        if *source == recorded.source {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "copy {copy} follows outbox {source}, the message comes from {}",
            recorded.source
        )))
    }

    /// Keeps what a transaction has learned, which has committed.
    pub(super) fn keep(&self, learned: Learned) {
        if !learned.claimed.is_empty() {
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).extend(learned.claimed);
        }
    }
}

/// What a transaction has read or written once for all of its messages.
#[derive(Default)]
pub(super) struct Learned {
    /// The source that each copy follows; perhaps claimed just now, which is true only if the transaction commits.
    claimed: HashMap<&'static str, String>,
    /// See [`Worker::check_horizon`]; microseconds since 1970.
    pub(super) horizon: Option<Option<i64>>,
}

/// With what it was about.
pub(super) fn of_message(error: Error, recorded: &Recorded) -> Error {
    error.context(format!("{} of key {}", recorded.message.kind(), recorded.message.key()))
}

/// The inbox does not know the message, yet the copy has a newer change: normal ways of repeating bring only known
/// messages, so the source's ids have probably started again.
pub(super) fn stale_unknown(copy: &str, recorded: &Recorded) -> Error {
    Error::invalid(format!(
        "stale-unknown: copy {copy} shows a newer change of key {} than version {}/{} of outbox {}; \
         if that outbox was restored from a backup, raise its generation and resync",
        recorded.message.key(),
        recorded.version.generation,
        recorded.version.id,
        recorded.source
    ))
}

pub(super) fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_list_and_end_with_the_attempts() {
        let seconds = |list: &[u64]| list.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        let retries = |max_attempts, later: &[u64]| Retries {
            policy: RetryPolicy { max_attempts, ..RetryPolicy::default() },
            later: seconds(later),
        };
        let waits = |retries: Retries| (1..).map_while(|made| retries.wait_after(made)).collect::<Vec<_>>();
        assert_eq!(waits(retries(5, &[1, 10, 60, 600])), seconds(&[1, 10, 60, 600]));
        assert_eq!(waits(retries(4, &[1])), seconds(&[1, 1, 1]));
        assert_eq!(waits(retries(2, &[])), seconds(&[0]));
        assert_eq!(waits(retries(1, &[1])), seconds(&[]));
    }
}
