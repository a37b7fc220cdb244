//! Applies groups to a target: all of a group and its checkpoint in one transaction.

use outbox_core::{Result, RetryPolicy};

use super::compact::{Group, Held};
use super::plan::TableFacts;
use super::state::{Checkpoint, CopyState, State};
use crate::config::Secret;

/// A target database, and how to write to it.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// `mysql://user:password@host:port/database`.
    pub url: Secret,
    /// TLS; `None`: none.
    #[cfg(feature = "tls")]
    pub tls: Option<outbox_core::tls::Tls>,
    /// Whether the target checks its foreign keys and runs their cascades. Default: no, the source has done so.
    pub foreign_key_checks: bool,
    /// About the longest statement, in bytes; never more than the target takes. Default 1 MiB.
    pub statement_bytes_max: usize,
    /// The waits after an outage, a deadlock, a lock that was not had in time.
    pub retry: RetryPolicy,
}

impl TargetOptions {
    /// With the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            #[cfg(feature = "tls")]
            tls: None,
            foreign_key_checks: false,
            statement_bytes_max: 1 << 20,
            retry: RetryPolicy::default(),
        }
    }
}

/// Why every write of this process is refused: another one has taken the replication over. The cause of an error
/// of kind `Invalid`; do not open the target again by itself, or the two take it from each other for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// The epoch of this process.
    pub epoch: i64,
}

/// What applying a group has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that were inserted or updated.
    pub upserted: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Rows that were set aside.
    pub set_aside: u64,
    /// Rows that had been set aside and are so no longer.
    pub released: u64,
    /// Rows that were missing here when the source changed them.
    pub drifted: u64,
    /// Copies that are held now, noted in the same transaction.
    pub held: Vec<Held>,
}

/// A target that this process writes to.
pub struct Target {
    options: TargetOptions,
    state: State,
    epoch: i64,
}

impl Target {
    /// Connects and claims the replication: whoever had it before can no longer write.
    ///
    /// # Errors
    /// `Outage` when the target cannot be reached; `Database` when it refuses, for example as its tables are
    /// missing.
    pub async fn open(options: TargetOptions, replication: &str, owner: &str) -> Result<Self> {
        todo!()
    }

    /// What was claimed; it rises with each claim.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The tables of state.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// How far the replication has got; `None` before its [`start`](Self::start).
    ///
    /// # Errors
    /// `Invalid` when there are copies but no position; else as [`open`](Self::open).
    pub async fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        self.state.checkpoint().await
    }

    /// The replication's copies.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn copies(&mut self) -> Result<Vec<CopyState>> {
        self.state.copies().await
    }

    /// Begins at a position with these copies.
    ///
    /// # Errors
    /// `Invalid` when it has begun before, or is [`Fenced`]; else as [`open`](Self::open).
    pub async fn start(&mut self, checkpoint: &Checkpoint, copies: &[CopyState]) -> Result<()> {
        todo!()
    }

    /// Adds a copy or writes what has changed of one; what was copied, drifted and verified too.
    ///
    /// # Errors
    /// `Invalid` when [`Fenced`]; else as [`open`](Self::open).
    pub async fn set_copy(&mut self, copy: &CopyState) -> Result<()> {
        todo!()
    }

    /// Stops a copy until somebody has done what the reason says.
    ///
    /// # Errors
    /// As [`set_copy`](Self::set_copy).
    pub async fn hold(&mut self, copy: &str, reason: &str) -> Result<()> {
        todo!()
    }

    /// A table of the target; `None` if there is none.
    ///
    /// # Errors
    /// As [`TableFacts::describe`].
    pub async fn describe(&mut self, table: &str) -> Result<Option<TableFacts>> {
        todo!()
    }

    /// Runs a CREATE TABLE of [`CopyPlan::create_table_sql`](super::CopyPlan::create_table_sql).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn create_table(&mut self, sql: &str) -> Result<()> {
        todo!()
    }

    /// Applies a group and its checkpoint in one transaction. Outages, deadlocks and locks that are not had in time
    /// are waited out without end.
    ///
    /// # Errors
    /// `Invalid` when [`Fenced`]; `Database` when the target refuses for a reason that waiting does not end.
    pub async fn apply(&mut self, group: Group, checkpoint: &Checkpoint) -> Result<Applied> {
        todo!()
    }

    /// Writes the checkpoint if none was written for ten seconds, by [`apply`](Self::apply) or here; says whether.
    /// To be called whenever a group is not due: this is what renews freshness while nothing changes.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn idle(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        todo!()
    }
}
