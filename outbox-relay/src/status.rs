//! What a running relay says of itself: counters and a state, to be read at any time. Metrics and console
//! read this and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::bell::BellState;
use crate::retry::Side;

mod latency;
mod rates;

pub use latency::{Latency, LatencyCounts};
pub use rates::Rates;

/// How often an outage that lasts is logged again.
const TOLD_AGAIN: Duration = Duration::from_secs(300);

/// Where one outbox's pipe reports, and where others read. Clones share their content.
#[derive(Debug, Clone)]
pub struct Status(Arc<Shared>);

/// Everything that a process shows of itself.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Its outboxes.
    pub outboxes: Vec<Status>,
    /// The subscribers whose databases it looks into.
    pub subscribers: crate::subscribers::Watched,
    /// What waits in the broker where nobody reads.
    #[cfg(feature = "rabbitmq")]
    pub leftovers: crate::leftovers::Leftovers,
    /// Its replications.
    #[cfg(feature = "binlog")]
    pub replications: Vec<crate::replication::status::Status>,
}

impl From<Vec<Status>> for Shown {
    fn from(outboxes: Vec<Status>) -> Self {
        Self { outboxes, ..Self::default() }
    }
}

#[derive(Debug)]
struct Shared {
    name: String,
    counters: Counters,
    queries: Arc<AtomicU64>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    published: AtomicU64,
    returned: AtomicU64,
    refused: AtomicU64,
    retries: AtomicU64,
    settled: AtomicU64,
    batches: AtomicU64,
    rings: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    parked: AtomicU64,
    latency: Latency,
}

#[derive(Debug)]
struct Now {
    state: State,
    since: Instant,
    /// Whose fault was logged last since it ran, and when.
    told: Option<(Side, Instant)>,
    last_error: Option<String>,
    held: BTreeSet<u16>,
    backlog: Backlog,
    buckets: Vec<BucketBacklog>,
    samples: rates::Samples,
    bell: BellState,
}

/// About how much waits, as the relay last saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Backlog {
    /// At most so many rows: by first and last id, since a hot table is not counted.
    pub rows_at_most: u64,
    /// The age of the first row in seconds, by the database's clock; 0 when nothing waits.
    pub oldest_seconds: f64,
}

/// About how much waits in a bucket, as the relay that holds it last saw it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BucketBacklog {
    /// The bucket.
    pub bucket: u16,
    /// Rows, counted up to 1000: so many may be more.
    pub rows: u64,
    /// The age of its first row in seconds, by the database's clock; 0 when nothing waits.
    pub oldest_seconds: f64,
}

impl BucketBacklog {
    pub(crate) fn empty(bucket: u16) -> Self {
        Self { bucket, rows: 0, oldest_seconds: 0.0 }
    }
}

/// What a pipe is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Not yet connected.
    Starting,
    /// Reading and publishing, or waiting for something to publish.
    Running,
    /// The database or the broker is at fault; the pipe tries again by itself.
    Paused {
        /// What is wrong and what helps.
        why: String,
    },
    /// It has ended, or its outbox does not fit: then the last error says why, and it is looked at again now and then.
    Stopped,
}

/// A picture of one outbox's pipe.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The outbox.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// For how long.
    pub state_seconds: u64,
    /// Messages handed to the broker, those included that were handed to it again.
    pub sent: u64,
    /// Messages that the broker confirmed.
    pub published: u64,
    /// Messages that no queue wanted, and that were therefore refused.
    pub returned: u64,
    /// Messages that were refused, those included that could not be decoded.
    pub refused: u64,
    /// Of these, messages that are tried again; the others were parked.
    pub retries: u64,
    /// Rows deleted after their confirmation.
    pub settled: u64,
    /// Batches delivered.
    pub batches: u64,
    /// Messages on their way to the broker, not confirmed yet.
    pub in_flight: u64,
    /// Statements run.
    pub queries: u64,
    /// Commits told by the doorbell; several may be told as one.
    pub rings: u64,
    /// Whether commits are told.
    pub bell: BellState,
    /// The last trouble, also when it is over.
    pub last_error: Option<String>,
    /// Buckets held now.
    pub held: BTreeSet<u16>,
    /// Keys of the outbox that wait for another attempt.
    pub waiting_keys: u64,
    /// Keys of the outbox that are parked.
    pub parked_keys: u64,
    /// About how much waits.
    pub backlog: Backlog,
    /// About how much waits in each bucket that is held.
    pub buckets: Vec<BucketBacklog>,
    /// Messages a second, over the last ten seconds.
    pub rates: Rates,
    /// How long messages took from their recording to the broker's confirmation.
    pub latency: LatencyCounts,
}

impl State {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Now {
    fn set(&mut self, state: State) -> bool {
        let is_change = std::mem::discriminant(&self.state) != std::mem::discriminant(&state);
        if is_change {
            self.since = Instant::now();
        }
        let is_new = self.state != state;
        self.state = state;
        is_new
    }
}

impl Status {
    /// For the outbox of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let now = Now {
            state: State::Starting,
            since: Instant::now(),
            told: None,
            last_error: None,
            held: BTreeSet::new(),
            backlog: Backlog::default(),
            buckets: Vec::new(),
            samples: rates::Samples::default(),
            bell: BellState::Off,
        };
        Self(Arc::new(Shared {
            name: name.into(),
            counters: Counters::default(),
            queries: Arc::default(),
            now: Mutex::new(now),
        }))
    }

    /// The outbox's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A picture of now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        let now = self.now();
        Snapshot {
            name: self.0.name.clone(),
            state: now.state.clone(),
            state_seconds: now.since.elapsed().as_secs(),
            sent: read(&counters.sent),
            published: read(&counters.published),
            returned: read(&counters.returned),
            refused: read(&counters.refused),
            retries: read(&counters.retries),
            settled: read(&counters.settled),
            batches: read(&counters.batches),
            in_flight: read(&counters.in_flight),
            queries: read(&self.0.queries),
            rings: read(&counters.rings),
            bell: now.bell.clone(),
            last_error: now.last_error.clone(),
            held: now.held.clone(),
            waiting_keys: read(&counters.waiting),
            parked_keys: read(&counters.parked),
            backlog: now.backlog,
            buckets: now.buckets.clone(),
            rates: now.samples.rates(Instant::now(), self.counts()),
            latency: counters.latency.counts(),
        }
    }

    /// Pauses for a fault of this side; returns whether to log it: when it begins, when it is the other side's fault, and
    /// then only now and then, whatever the words are.
    pub(crate) fn set_paused(&self, side: Side, why: String) -> bool {
        let mut now = self.now();
        now.last_error = Some(why.clone());
        now.set(State::Paused { why });
        let is_told = now.told.is_some_and(|(told, at)| told == side && at.elapsed() < TOLD_AGAIN);
        if !is_told {
            now.told = Some((side, Instant::now()));
        }
        !is_told
    }

    /// Sets the state; returns whether that was a change, so that it is logged once.
    pub(crate) fn set_state(&self, state: State) -> bool {
        let mut now = self.now();
        let is_new = now.set(state);
        if is_new {
            now.told = None;
        }
        is_new
    }

    pub(crate) fn set_error(&self, error: impl Into<String>) {
        self.now().last_error = Some(error.into());
    }

    /// Sets whether commits are told; the state before, if that was another.
    pub(crate) fn set_bell(&self, state: BellState) -> Option<BellState> {
        let mut now = self.now();
        (now.bell != state).then(|| std::mem::replace(&mut now.bell, state))
    }

    pub(crate) fn bell_is_heard(&self) -> bool {
        self.now().bell == BellState::Heard
    }

    pub(crate) fn set_held(&self, held: BTreeSet<u16>) {
        self.now().held = held;
    }

    pub(crate) fn held(&self) -> BTreeSet<u16> {
        self.now().held.clone()
    }

    pub(crate) fn set_backlog(&self, backlog: Backlog, buckets: Vec<BucketBacklog>) {
        let mut now = self.now();
        now.backlog = backlog;
        now.buckets = buckets;
    }

    /// Notes how far the counters are, for rates; to be called about once a second.
    pub(crate) fn note_rates(&self) {
        let counts = self.counts();
        self.now().samples.note(Instant::now(), counts);
    }

    fn counts(&self) -> rates::Counts {
        let counters = &self.0.counters;
        [&counters.sent, &counters.published, &counters.settled]
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    pub(crate) fn observe_latency(&self, latency: std::time::Duration) {
        self.0.counters.latency.observe(latency);
    }

    pub(crate) fn set_keys(&self, waiting: u64, parked: u64) {
        self.0.counters.waiting.store(waiting, Ordering::Relaxed);
        self.0.counters.parked.store(parked, Ordering::Relaxed);
    }

    /// Keys of the outbox that wait for another attempt, as last seen.
    pub(crate) fn waiting_keys(&self) -> u64 {
        self.0.counters.waiting.load(Ordering::Relaxed)
    }

    /// A key waits from now on for another try, which the keeper of leases has not counted yet.
    pub(crate) fn add_waiting(&self) {
        self.0.counters.retries.fetch_add(1, Ordering::Relaxed);
        self.0.counters.waiting.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
    pub(crate) fn add_ring(&self) {
        self.0.counters.rings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_in_flight(&self, count: u64) {
        self.0.counters.in_flight.store(count, Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, count: u64) {
        self.0.counters.sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_published(&self, count: u64) {
        self.0.counters.published.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_returned(&self, count: u64) {
        self.0.counters.returned.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_refused(&self, count: u64) {
        self.0.counters.refused.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_settled(&self, count: u64) {
        self.0.counters.settled.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_batch(&self) {
        self.0.counters.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// The counter of statements, for those who run them.
    pub(crate) fn queries(&self) -> Arc<AtomicU64> {
        self.0.queries.clone()
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it holds this; a poisoned picture is still a picture.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_logged_when_it_begins_and_then_now_and_then() {
        let status = Status::new("product");
        let paused = |side, why: &str| status.set_paused(side, why.to_owned());
        assert!(paused(Side::Target, "no answer for 500 messages"));
        assert!(!paused(Side::Target, "no answer for 250 messages"));
        assert!(paused(Side::Source, "no database either"));
        assert!(!paused(Side::Source, "no database at all"));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(paused(Side::Source, "no database at all"), "still");
        assert!(status.set_state(State::Running));
        assert!(!status.set_state(State::Running));
        assert_eq!(status.snapshot().last_error.as_deref(), Some("no database at all"));
        assert!(paused(Side::Source, "no database at all"), "again");
    }
}
