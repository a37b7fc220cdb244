//! What a running replication says of itself, to be read at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// Where a replication reports, and where others read. Clones share their content.
#[derive(Debug, Clone)]
pub struct Status(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    state: State,
    since: Instant,
    last_error: Option<String>,
    progress: Progress,
}

/// What a replication is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Not yet connected.
    Starting,
    /// Following the source while copies are being made.
    Copying,
    /// Following the source; all copies are complete.
    Live,
    /// Somebody has paused it, or source or target are away; it goes on by itself.
    Paused {
        /// What is wrong and what helps.
        why: String,
    },
    /// It cannot go on before somebody has done something, or copies cannot.
    Held {
        /// What is wrong and what helps.
        why: String,
    },
    /// Another process has taken it over.
    Standby,
    /// It has ended.
    Stopped,
}

/// How far a replication is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// All source transactions up to here are in the copies.
    pub position: Option<String>,
    /// How far behind the source the copies were when that was last known, in seconds.
    pub lag_seconds: f64,
    /// Whether the source was proved to be the one that was read from before; false when it had deleted the log by
    /// which that is done and copies were not verified since.
    pub lineage_proven: bool,
    /// Transactions taken in.
    pub transactions: u64,
    /// Target transactions.
    pub commits: u64,
    /// Rows inserted or updated.
    pub upserted: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// The copies.
    pub copies: Vec<CopyStatus>,
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyStatus {
    /// Its name.
    pub copy: String,
    /// `copying`, `ready` or `held`.
    pub state: &'static str,
    /// Why it is held.
    pub reason: Option<String>,
    /// Rows copied.
    pub rows_copied: u64,
    /// Rows to copy in all, as the source estimates.
    pub rows_estimated: u64,
    /// Until it is complete, by the pace so far.
    pub eta_seconds: Option<u64>,
    /// Rows set aside.
    pub set_aside: u64,
}

/// How long the rest takes at the pace so far, in seconds; `None` while nothing is done.
pub(crate) fn eta_seconds(took_s: u64, done: u64, left: u64) -> Option<u64> {
    took_s.saturating_mul(left).checked_div(done)
}

/// A picture of a replication.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub replication: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// For how long.
    pub state_seconds: u64,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// The last trouble, also when it is over.
    pub last_error: Option<String>,
}

impl State {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Copying => "copying",
            Self::Live => "live",
            Self::Paused { .. } => "paused",
            Self::Held { .. } => "held",
            Self::Standby => "standby",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it works as it should; as a standby it does.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Copying | Self::Live | Self::Standby)
    }
}

impl Status {
    /// For the replication of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let progress = Progress { lineage_proven: true, ..Progress::default() };
        let now = Now { state: State::Starting, since: Instant::now(), last_error: None, progress };
        Self(Arc::new(Shared { name: name.into(), now: Mutex::new(now) }))
    }

    /// The replication's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A picture of now.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now();
        Snapshot {
            replication: self.0.name.clone(),
            state: now.state.clone(),
            state_seconds: now.since.elapsed().as_secs(),
            progress: now.progress.clone(),
            last_error: now.last_error.clone(),
        }
    }

    /// Sets the state; returns whether that was a change, so that it is logged once.
    pub(super) fn set_state(&self, state: State) -> bool {
        let mut now = self.now();
        if let State::Paused { why } | State::Held { why } = &state {
            now.last_error = Some(why.clone());
        }
        if now.state.name() != state.name() {
            now.since = Instant::now();
        }
        let is_new = now.state != state;
        now.state = state;
        is_new
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.now().progress);
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it holds this; a poisoned picture is still a picture.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
