//! What a target knows of its replications: the tables `outbox_replication`, `outbox_copy` and `outbox_aside`.

use mysql_async::Params;
use mysql_async::prelude::{FromRow, Queryable as _};
use outbox_core::{Error, ErrorKind, Result};

use super::plan::Key;
use super::session::{connect, failed};
use super::sql;
use super::target::TargetOptions;
use crate::binlog::{Link, Proof};
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
    /// Whether, since the checkpoint before, the source turned out to have no longer the transaction by which it is known
    /// again. Written with the time; never read here, see [`State::unproven_since`].
    pub is_unproven: bool,
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
    pub(super) connection: Link,
    pub(super) replication: String,
}

impl Checkpoint {
    /// By what the source is known again; `None` before the first transaction.
    pub(crate) fn proof(&self) -> Option<Proof> {
        Some(Proof {
            source: self.source_id.clone(),
            before: self.before.clone()?,
            committed_at_us: self.committed_at_us,
            checksum: self.checksum,
        })
    }
}

impl CopyPhase {
    /// One word for it, as the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Ready => "ready",
            Self::Held => "held",
        }
    }
}

type CopyRow =
    (String, String, String, String, Option<String>, Option<String>, Option<String>, u64, u64, u64);

impl State {
    /// Connects, for commands and whoever looks.
    ///
    /// # Errors
    /// `Outage` when the target cannot be reached, `Database` when it refuses.
    pub async fn connect(options: &TargetOptions, replication: &str) -> Result<Self> {
        Ok(Self { connection: connect(options).await?, replication: replication.to_owned() })
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut Link {
        &mut self.connection
    }

    /// How far the replication has got; `None` before its start.
    ///
    /// # Errors
    /// `Invalid` when there are copies but no position; else as [`connect`](Self::connect).
    pub async fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        let sql = "select position, before_last, committed_at_us, checksum, source_id, as_of_us, lag_ms from (select position, \
                   before_last, \
                   coalesce(timestampdiff(microsecond, '1970-01-01', committed_at), 0) as committed_at_us, \
                   coalesce(checksum, 0) as checksum, coalesce(source_id, '') as source_id, \
                   coalesce(timestampdiff(microsecond, '1970-01-01', as_of), 0) as as_of_us, \
                   coalesce(lag_ms, 0) as lag_ms from outbox_replication \
                   where name = ? and position is not null) as r";
        type Found = (String, Option<String>, i64, u32, String, i64, i64);
        let name = self.replication.clone();
        let found: Vec<Found> = self.rows("the position", sql, (&name,)).await?;
        let Some((position, before, committed_at_us, checksum, source_id, as_of_us, lag_ms)) =
            found.into_iter().next()
        else {
            return match self.copies().await?.first() {
                None => Ok(None),
                Some(copy) => Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "no position: replication {name} has copies ({} and perhaps more) and no row with a position \
                         in outbox_replication; restore that row, or delete its rows in outbox_copy and outbox_aside \
                         to copy everything again",
                        copy.copy
                    ),
                )),
            };
        };
        let position: Position = position.parse()?;
        let before = before.map(|before| before.parse()).transpose()?;
        let is_unproven = false;
        Ok(Some(Checkpoint {
            position,
            committed_at_us,
            checksum,
            before,
            source_id,
            as_of_us,
            lag_ms,
            is_unproven,
        }))
    }

    /// Since when the source is not proved to have the history that the copies were made of; `None`: it is, or each copy
    /// was made or verified since without a difference.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn unproven_since(&mut self) -> Result<Option<String>> {
        let sql = "select date_format(r.unproven_at, '%Y-%m-%dT%H:%i:%sZ') from outbox_replication r where r.name = ? \
                   and exists (select 1 from outbox_copy c where c.replication = r.name \
                   and c.started_at <= r.unproven_at \
                   and not coalesce(c.verified_at > r.unproven_at and c.differences = 0, false))";
        let name = self.replication.clone();
        let rows: Vec<String> = self.rows("whether the source is the same", sql, (&name,)).await?;
        Ok(rows.into_iter().next())
    }

    /// The replication's copies, in the order of their names.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn copies(&mut self) -> Result<Vec<CopyState>> {
        let sql = "select copy, source_table, target_table, state, reason, definition, after_key, rows_copied, \
                   rows_estimated, drifted from outbox_copy where replication = ? order by copy";
        let name = self.replication.clone();
        let rows: Vec<CopyRow> = self.rows("the copies", sql, (&name,)).await?;
        rows.into_iter().map(copy_state).collect()
    }

    /// How many rows of each copy are set aside; copies without are left out.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn set_aside(&mut self) -> Result<Vec<(String, u64)>> {
        let sql =
            "select copy, count(distinct key_hash) from outbox_aside where replication = ? group by copy";
        let name = self.replication.clone();
        self.rows("the rows set aside", sql, (&name,)).await
    }

    /// Has the replication stop applying, wherever it runs.
    ///
    /// # Errors
    /// `NotFound` when there is no such replication; else as [`connect`](Self::connect).
    pub async fn pause(&mut self, actor: &str, reason: &str) -> Result<()> {
        let sql = "update outbox_replication set paused_by = ?, paused_at = utc_timestamp(6), pause_reason = ? \
                   where name = ?";
        let name = self.replication.clone();
        self.change("pausing", sql, (actor, reason, &name)).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&mut self) -> Result<()> {
        let sql = "update outbox_replication set paused_by = null, paused_at = null, pause_reason = null where name = ?";
        let name = self.replication.clone();
        self.change("resuming", sql, (&name,)).await
    }

    /// Who has paused it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn pause_state(&mut self) -> Result<Option<PauseState>> {
        let sql = "select paused_by, coalesce(pause_reason, '') from outbox_replication \
                   where name = ? and paused_by is not null";
        let name = self.replication.clone();
        let rows: Vec<(String, String)> = self.rows("whether it is paused", sql, (&name,)).await?;
        Ok(rows.into_iter().next().map(|(actor, reason)| PauseState { actor, reason }))
    }

    /// What time it is, by the target's clock, in UTC.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn now(&mut self) -> Result<String> {
        let rows: Vec<String> =
            self.rows("the time", "select date_format(utc_timestamp(6), '%Y-%m-%d %H:%i:%s.%f')", ()).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    /// Notes what a verification found that began then, see [`now`](Self::now).
    ///
    /// # Errors
    /// `NotFound` when there is no such copy; else as [`connect`](Self::connect).
    pub async fn verified(&mut self, copy: &str, since: &str, rows: u64, differences: u64) -> Result<()> {
        let sql = "update outbox_copy set verified_at = ?, rows_verified = ?, differences = ? \
                   where replication = ? and copy = ?";
        let name = self.replication.clone();
        self.change("noting a verification", sql, (since, rows, differences, &name, copy)).await
    }

    async fn rows<T: FromRow + Send + 'static>(
        &mut self,
        what: &str,
        sql: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Vec<T>> {
        let asked = self.connection.exec(sql, params.into()).await;
        asked.map_err(|error| failed(&format!("replication {}: reading {what}", self.replication), &error))
    }

    /// A statement that finds its row.
    async fn change(&mut self, what: &str, sql: &str, params: impl Into<Params> + Send) -> Result<()> {
        let name = self.replication.clone();
        let mut done = self
            .connection
            .exec_iter(sql, params.into())
            .await
            .map_err(|error| failed(&format!("replication {name}: {what}"), &error))?;
        // Matched, whether or not it changed.
        let is_there = !done.info().starts_with("Rows matched: 0");
        let drained = done.collect::<mysql_async::Row>().await;
        drained.map_err(|error| failed(&format!("replication {name}: {what}"), &error))?;
        if is_there {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("{what}: the target has no such row of replication {name}"),
        ))
    }
}

fn copy_state(row: CopyRow) -> Result<CopyState> {
    let (
        copy,
        source_table,
        target_table,
        state,
        reason,
        definition,
        after_key,
        rows_copied,
        rows_estimated,
        drifted,
    ) = row;
    let phase = match state.as_str() {
        "ready" => CopyPhase::Ready,
        "held" => CopyPhase::Held,
        _ => CopyPhase::Copying,
    };
    let after_key = after_key.map(|text| sql::from_json(&text).map(Key)).transpose()?;
    Ok(CopyState {
        copy,
        source_table,
        target_table,
        phase,
        reason,
        definition,
        after_key,
        rows_copied,
        rows_estimated,
        drifted,
    })
}
