//! What a target knows of its replications: the tables `outbox_replication`, `outbox_copy` and `outbox_aside`.

use mysql_async::Conn;
use outbox_core::Result;

use super::plan::Key;
use super::target::TargetOptions;
use crate::change::Position;

/// How far a replication has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// All transactions up to here are in the copies.
    pub position: Position,
    /// When the last of them was committed, by the source's clock, in microseconds since 1970; 0: there was none.
    pub committed_at_us: i64,
    /// What the last of them did, to know it again.
    pub checksum: u32,
    /// The position before it, from which it can be read once more; `None`: there was none.
    pub before: Option<Position>,
    /// Which server the position is of: MySQL's `server_uuid`; MariaDB has none, there its `server_id` and more.
    pub source_id: String,
    /// The copies are as the source was at this time, by its clock, in microseconds since 1970.
    pub as_of_us: i64,
    /// How far behind the source that was when it was seen, in milliseconds, differences of clocks taken out.
    pub lag_ms: i64,
}

/// Whether a copy can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPhase {
    /// Being copied for the first time, or again: not complete.
    Copying,
    /// Equal to the source as of the checkpoint.
    Ready,
    /// Nothing is applied until somebody has done what the reason says.
    Held,
}

impl CopyPhase {
    /// One word for it, as the table has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Ready => "ready",
            Self::Held => "held",
        }
    }
}

/// A copy as the target knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyState {
    /// Its name.
    pub copy: String,
    /// `database.table` of the source.
    pub source_table: String,
    /// The target's table.
    pub target_table: String,
    /// Whether it can be read.
    pub phase: CopyPhase,
    /// Why it is held.
    pub reason: Option<String>,
    /// What it was made by, for whoever compares it with the configuration.
    pub definition: Option<String>,
    /// The last key that is copied, as the source has it; `None`: none yet.
    pub after_key: Option<Key>,
    /// Rows that are copied.
    pub rows_copied: u64,
    /// Rows to copy in all, estimated.
    pub rows_estimated: u64,
    /// Rows that were missing here when the source changed them.
    pub drifted: u64,
}

/// Who has paused a replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseState {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A connection to a target for its tables of state; takes no part in applying and claims nothing.
pub struct State {
    pub(super) connection: Conn,
    pub(super) replication: String,
}

impl State {
    /// Connects, for commands and whoever looks.
    ///
    /// # Errors
    /// `Outage` when the target cannot be reached, `Database` when it refuses.
    pub async fn connect(options: &TargetOptions, replication: &str) -> Result<Self> {
        todo!()
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut Conn {
        &mut self.connection
    }

    /// How far the replication has got; `None` before its start.
    ///
    /// # Errors
    /// `Invalid` when there are copies but no position; else as [`connect`](Self::connect).
    pub async fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        todo!()
    }

    /// The replication's copies, in the order of their names.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn copies(&mut self) -> Result<Vec<CopyState>> {
        todo!()
    }

    /// How many rows of each copy are set aside; copies without are left out.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn set_aside(&mut self) -> Result<Vec<(String, u64)>> {
        todo!()
    }

    /// Has the replication stop applying, wherever it runs.
    ///
    /// # Errors
    /// `NotFound` when there is no such replication; else as [`connect`](Self::connect).
    pub async fn pause(&mut self, actor: &str, reason: &str) -> Result<()> {
        todo!()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&mut self) -> Result<()> {
        todo!()
    }

    /// Who has paused it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn pause_state(&mut self) -> Result<Option<PauseState>> {
        todo!()
    }

    /// Notes what a verification found.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn verified(&mut self, copy: &str, rows: u64, differences: u64) -> Result<()> {
        todo!()
    }
}
