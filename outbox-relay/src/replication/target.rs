//! Applies groups to a target: all of a group and its checkpoint in one transaction.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tracing::warn;

use super::compact::{ClosedWindow, Group, Held};
use super::facts::TableFacts;
use super::large;
use super::note;
use super::plan::CopyPlan;
use super::session::{connect, failed};
use super::sql;
use super::state::{Checkpoint, CopyState, State};
use super::write::{Dialect, Trouble, Writer};
use crate::binlog::Link;
use crate::config::Secret;

/// So often freshness is renewed while nothing changes.
const IDLE: Duration = Duration::from_secs(10);
/// What a statement needs besides what is counted.
const PACKET_ROOM: usize = 4096;

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
    /// Those of them that went in by LOAD DATA.
    pub loaded: u64,
    /// Those of them that took their new values from a join.
    pub joined: u64,
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

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "another process has taken this replication over (this one has epoch {}); run one of them only",
            self.epoch
        )
    }
}

impl std::error::Error for Fenced {}

/// A target that this process writes to.
pub struct Target {
    options: TargetOptions,
    state: State,
    dialect: Dialect,
    epoch: i64,
    /// How often the checkpoint was written.
    seq: i64,
    /// The connection may be broken or within a transaction: to be made anew.
    is_spoilt: bool,
    /// Copies with rows set aside; `None`: to be asked.
    aside: Option<HashSet<String>>,
    /// How often loads and joins of copies were refused.
    refused: HashMap<String, u32>,
    /// Those of the last group.
    plans: Vec<Arc<CopyPlan>>,
    written: Option<Instant>,
}

/// How a group's transaction ended.
enum Failed {
    /// Rolled back.
    Trouble(Trouble),
    /// The answer to COMMIT did not come.
    Unknown(Applied, Error),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Target {
    /// Connects and claims the replication: whoever had it before can no longer write.
    ///
    /// # Errors
    /// `Outage` when the target cannot be reached; `Database` when it refuses, for example as its tables are
    /// missing.
    pub async fn open(options: TargetOptions, replication: &str, owner: &str) -> Result<Self> {
        let mut state = State::connect(&options, replication).await?;
        let dialect = dialect(&mut state.connection, &options).await?;
        let (epoch, seq) = claim(&mut state.connection, replication, owner).await?;
        Ok(Self {
            options,
            state,
            dialect,
            epoch,
            seq,
            is_spoilt: false,
            aside: None,
            refused: HashMap::new(),
            plans: Vec::new(),
            written: None,
        })
    }

    /// What was claimed; it rises with each claim.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Whether the target is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.dialect.is_mariadb
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
        self.connected().await?;
        self.state.checkpoint().await
    }

    /// The replication's copies.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn copies(&mut self) -> Result<Vec<CopyState>> {
        self.connected().await?;
        self.state.copies().await
    }

    /// Begins at a position with these copies.
    ///
    /// # Errors
    /// `Invalid` when it has begun before, or is [`Fenced`]; else as [`open`](Self::open).
    pub async fn start(&mut self, checkpoint: &Checkpoint, copies: &[CopyState]) -> Result<()> {
        if self.checkpoint().await?.is_some() {
            let text = format!("replication {}: has a position already", self.state.replication);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let mut statements: Vec<_> =
            copies.iter().map(|copy| note::copy(&self.state.replication, None, copy)).collect();
        statements.push(note::checkpoint(&self.state.replication, self.epoch, self.seq, checkpoint));
        self.transact(&statements).await?;
        self.seq += 1;
        self.written = Some(Instant::now());
        Ok(())
    }

    /// Adds a copy, or writes what has changed of one that is `known`; what was copied, drifted and verified too. One that
    /// somebody has asked to be made anew since it was read stays as it is.
    ///
    /// # Errors
    /// `Invalid` when [`Fenced`]; else as [`open`](Self::open).
    pub async fn set_copy(&mut self, known: Option<&CopyState>, copy: &CopyState) -> Result<()> {
        let sql = note::copy(&self.state.replication, known, copy);
        self.transact(&[sql]).await
    }

    /// Stops a copy until somebody has done what the reason says.
    ///
    /// # Errors
    /// As [`set_copy`](Self::set_copy).
    pub async fn hold(&mut self, copy: &str, reason: &str) -> Result<()> {
        let sql = note::hold(&self.state.replication, copy, reason);
        self.transact(&[sql]).await
    }

    /// A table of the target; `None` if there is none.
    ///
    /// # Errors
    /// As [`TableFacts::describe`].
    pub async fn describe(&mut self, table: &str) -> Result<Option<TableFacts>> {
        self.connected().await?;
        let database: Option<Option<String>> =
            self.state
                .connection
                .query_first("select database()")
                .await
                .map_err(|error| failed("asking for the target's database", &error))?;
        TableFacts::describe(&mut self.state.connection, &database.flatten().unwrap_or_default(), table).await
    }

    /// Runs a CREATE TABLE of [`CopyPlan::new_table`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn create_table(&mut self, sql: &str) -> Result<()> {
        self.connected().await?;
        self.state.connection.query_drop(sql).await.map_err(|error| failed("creating a table", &error))
    }

    /// Applies a group and its checkpoint in one transaction. Outages, deadlocks and locks that are not had in time
    /// are waited out without end.
    ///
    /// A copy that the target does not let go on is held and left out; the others go on.
    ///
    /// # Errors
    /// `Invalid` when [`Fenced`]; `Database` when the target refuses for a reason that waiting does not end.
    pub async fn apply(&mut self, mut group: Group, checkpoint: &Checkpoint) -> Result<Applied> {
        let mut waits = self.options.retry.waits();
        self.plans.clone_from(&group.plans);
        let mut unknown: Option<Applied> = None;
        loop {
            let attempt = match self.settled(&mut unknown).await {
                Ok(Some(applied)) => return Ok(self.noted(applied)),
                Ok(None) => self.attempt(&group, checkpoint).await,
                Err(trouble) => Err(trouble.into()),
            };
            let error = match attempt {
                Ok(applied) => return Ok(self.noted(applied)),
                Err(Failed::Trouble(Trouble::Copy(at, reason))) => {
                    group.hold(at, reason);
                    continue;
                }
                Err(Failed::Trouble(Trouble::Stop(error))) => return Err(error),
                Err(Failed::Trouble(Trouble::Wait(error))) => error,
                Err(Failed::Unknown(applied, error)) => {
                    unknown = Some(applied);
                    error
                }
            };
            let wait = waits.next_wait();
            warn!(replication = %self.state.replication, %error, ?wait, "the target is tried again by itself");
            tokio::time::sleep(wait).await;
        }
    }

    /// Writes the checkpoint if none was written for ten seconds, by [`apply`](Self::apply) or here; gives what was done
    /// then.
    /// To be called whenever a group is not due: this is what renews freshness while nothing changes. Rows set
    /// aside are tried again with it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn idle(&mut self, checkpoint: &Checkpoint) -> Result<Option<Applied>> {
        if self.written.is_some_and(|written| written.elapsed() < IDLE) {
            return Ok(None);
        }
        let group = Group::new(&self.plans, 0);
        self.apply(group, checkpoint).await.map(Some)
    }

    fn noted(&mut self, applied: Applied) -> Applied {
        self.written = Some(Instant::now());
        applied
    }

    /// After a COMMIT without an answer: what it has done, if it has done it. The connection stands afterwards.
    async fn settled(&mut self, unknown: &mut Option<Applied>) -> Result<Option<Applied>, Trouble> {
        self.connected().await.map_err(|error| match error.kind() {
            ErrorKind::Outage => Trouble::Wait(error),
            // Refused: passwords and grants are changed while this runs.
            ErrorKind::Database => Trouble::Wait(error),
            _ => Trouble::Stop(error),
        })?;
        if unknown.is_none() {
            return Ok(None);
        }
        let mut sql = String::from("select epoch, seq from outbox_replication where name = ");
        sql::text(&mut sql, &self.state.replication);
        // Waits for a COMMIT that is still under way.
        sql.push_str(" for update");
        let found: Option<(i64, i64)> = match self.state.connection.query_first(sql).await {
            Ok(found) => found,
            Err(error) => {
                self.is_spoilt = true;
                return Err(Trouble::Wait(failed("reading the position again", &error)));
            }
        };
        let applied = unknown.take();
        match found {
            // Whoever took over has begun behind it, or before it; no matter, nothing more is written here.
            Some((epoch, _)) if epoch != self.epoch => Err(Trouble::Stop(self.fenced())),
            Some((_, seq)) if seq > self.seq => {
                self.seq = seq;
                Ok(applied)
            }
            _ => Ok(None),
        }
    }

    async fn attempt(&mut self, group: &Group, checkpoint: &Checkpoint) -> Result<Applied, Failed> {
        // Also when this future is dropped.
        self.is_spoilt = true;
        match self.transaction(group, checkpoint).await {
            Ok(applied) => {
                self.is_spoilt = false;
                self.seq += 1;
                Ok(applied)
            }
            Err(failed) => {
                self.aside = None;
                if let Failed::Trouble(_) = failed {
                    self.is_spoilt = self.state.connection.query_drop("rollback").await.is_err();
                }
                Err(failed)
            }
        }
    }

    async fn transaction(&mut self, group: &Group, checkpoint: &Checkpoint) -> Result<Applied, Failed> {
        let checkpoint_sql = note::checkpoint(&self.state.replication, self.epoch, self.seq, checkpoint);
        let position = checkpoint.position.to_string();
        if self.aside.is_none() {
            let asked = self.state.set_aside().await.map_err(Trouble::Wait)?;
            self.aside = Some(asked.into_iter().map(|(copy, _)| copy).collect());
        }
        let mut none = HashSet::new();
        let mut writer = Writer {
            connection: &mut self.state.connection,
            dialect: &self.dialect,
            replication: &self.state.replication,
            position: &position,
            plans: &group.plans,
            aside: self.aside.as_mut().unwrap_or(&mut none),
            refused: &mut self.refused,
            are_new: !group.keeps_all,
            applied: Applied::default(),
            is_open: false,
        };
        let mut held = group.held.clone();
        let mut touched: Vec<bool> = group.rows.of.iter().map(|rows| !rows.is_empty()).collect();
        if !group.rows.is_empty() {
            writer.write(&group.rows.of).await?;
        }
        if let Some(txn) = &group.large {
            large::large(&mut writer, group, txn, &mut held, &mut touched).await?;
        }
        for windows in group.windows.chunk_by(ClosedWindow::goes_on) {
            let at = group.plans.iter().position(|plan| plan.name() == windows[0].plan.name());
            if let Some(at) = at.filter(|at| held[*at].is_none()) {
                writer.reconcile(at, windows).await?;
                touched[at] = true;
            }
        }
        let is_idle = group.is_empty();
        for (at, plan) in group.plans.iter().enumerate() {
            let is_due = is_idle || touched[at];
            if is_due && held[at].is_none() && writer.aside.contains(plan.name()) {
                writer.retry_aside(at).await?;
            }
            if let Some(reason) = &held[at] {
                writer.state(&note::hold(writer.replication, plan.name(), reason)).await?;
                let copy = plan.name().to_owned();
                writer.applied.held.push(Held { copy, reason: reason.clone() });
            }
        }
        let is_ours = writer.state(&checkpoint_sql).await? == 1;
        let applied = writer.applied;
        if !is_ours {
            return Err(Trouble::Stop(self.not_ours().await?).into());
        }
        match self.state.connection.query_drop("commit").await {
            Ok(()) => Ok(applied),
            Err(error) => Err(Failed::Unknown(applied, failed("committing", &error))),
        }
    }

    /// Makes the connection anew where it may be broken.
    async fn connected(&mut self) -> Result<()> {
        if self.is_spoilt {
            self.state.connection = connect(&self.options).await?;
            self.aside = None;
            self.is_spoilt = false;
        }
        Ok(())
    }

    /// Writes that are none of rows, if the replication is still ours.
    async fn transact(&mut self, statements: &[String]) -> Result<()> {
        self.connected().await?;
        let mut fence = String::from("select epoch from outbox_replication where name = ");
        sql::text(&mut fence, &self.state.replication);
        fence.push_str(" for update");
        self.is_spoilt = true;
        let connection = &mut self.state.connection;
        let done: mysql_async::Result<bool> = async {
            connection.query_drop("begin").await?;
            let epoch: Option<i64> = connection.query_first(fence).await?;
            if epoch != Some(self.epoch) {
                return Ok(false);
            }
            for statement in statements {
                connection.query_drop(statement).await?;
            }
            connection.query_drop("commit").await?;
            Ok(true)
        }
        .await;
        // Whoever took over must not wait for our locks.
        let is_committed = matches!(done, Ok(true));
        self.is_spoilt = !is_committed && connection.query_drop("rollback").await.is_err();
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced()),
            Err(error) => Err(failed("writing the tables of state", &error)),
        }
    }

    /// Why the checkpoint is not where this process has left it.
    async fn not_ours(&mut self) -> Result<Error, Trouble> {
        let mut sql = String::from("select epoch, seq from outbox_replication where name = ");
        sql::text(&mut sql, &self.state.replication);
        let found = self.state.connection.query_first(sql).await;
        let found: Option<(i64, i64)> =
            found.map_err(|error| Trouble::Wait(failed("reading the position again", &error)))?;
        // With innodb_flush_log_at_trx_commit other than 1; rows and position have gone back together.
        let has_lost = found.is_some_and(|(epoch, seq)| epoch == self.epoch && seq < self.seq);
        Ok(if has_lost {
            Error::new(
                ErrorKind::Outage,
                "the target has lost its last commits; it goes on from where that is",
            )
        } else {
            self.fenced()
        })
    }

    fn fenced(&self) -> Error {
        let context = format!("replication {}", self.state.replication);
        Error::with_source(ErrorKind::Invalid, context, Fenced { epoch: self.epoch })
    }
}

async fn dialect(connection: &mut Link, options: &TargetOptions) -> Result<Dialect> {
    let asked: Option<(String, u64, bool)> = connection
        .query_first("select @@version, cast(@@max_allowed_packet as unsigned), @@local_infile")
        .await
        .map_err(|error| failed("asking for the target's version", &error))?;
    let (version, packet, can_load) = asked.unwrap_or_default();
    let is_mariadb = version.contains("MariaDB");
    let bytes_max =
        usize::try_from(packet).unwrap_or(usize::MAX).saturating_sub(PACKET_ROOM).max(PACKET_ROOM);
    Ok(Dialect {
        is_mariadb,
        has_row_alias: !is_mariadb && connection.server_version() >= (8, 0, 19),
        can_load,
        bytes: options.statement_bytes_max.min(bytes_max),
        bytes_max,
    })
}

/// Raises the epoch; gives it and how often the checkpoint was written.
async fn claim(connection: &mut Link, replication: &str, owner: &str) -> Result<(i64, i64)> {
    let claimed: mysql_async::Result<Option<(i64, i64)>> = async {
        connection.query_drop("begin").await?;
        let raise = "insert into outbox_replication (name, epoch, owner) values (?, 1, ?) \
                     on duplicate key update epoch = epoch + 1, owner = ?";
        connection.exec_drop(raise, (replication, owner, owner)).await?;
        let sql = "select epoch, seq from outbox_replication where name = ?";
        let claimed = connection.exec_first(sql, (replication,)).await?;
        connection.query_drop("commit").await?;
        Ok(claimed)
    }
    .await;
    let about = format!("replication {replication}: claiming it");
    match claimed {
        Ok(Some(claimed)) => Ok(claimed),
        Ok(None) => Err(Error::new(ErrorKind::Database, format!("{about}: its row is gone"))),
        Err(error) => Err(failed(&about, &error)),
    }
}
