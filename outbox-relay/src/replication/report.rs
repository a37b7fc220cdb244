//! What the target of a replication says of it, whether or not a process runs it; and what people ask of it there.

use std::fmt;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, Result};
use serde::Serialize;

use super::lineage::UNPROVEN;
use super::run::SILENCE_S;
use super::state::{CopyPhase, CopyState, State};
use super::status::eta_seconds;
use crate::binlog;
use crate::config::{Config, OutboxConfig, ReplicationConfig};
use crate::outbox::store::{Database, Store};

/// A replication as its target shows it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub replication: String,
    /// The source, without the password.
    pub source: String,
    /// The target, without the password.
    pub target: String,
    /// Why nothing could be read.
    pub error: Option<String>,
    /// The process that has it, if one has written lately.
    pub owner: Option<String>,
    /// All source transactions up to here are in the copies; `None`: it has not begun.
    pub position: Option<String>,
    /// How far the copies are behind the source.
    pub lag_seconds: Option<f64>,
    /// Since when the source is not proved to have the history that the copies were made of: it had deleted the log by
    /// which that is done, and copies were not verified since.
    pub unproven_since: Option<String>,
    /// Who has paused it and why.
    pub paused: Option<String>,
    /// Its copies.
    pub copies: Vec<CopyReport>,
}

/// A copy as the target shows it.
#[derive(Debug, Serialize)]
pub struct CopyReport {
    /// Its name.
    pub copy: String,
    /// `database.table` of the source.
    pub source_table: String,
    /// `copying`, `ready` or `held`.
    pub state: &'static str,
    /// Why it is held.
    pub reason: Option<String>,
    /// Rows copied.
    pub rows_copied: u64,
    /// Rows to copy in all, as the source estimates.
    pub rows_estimated: u64,
    /// How long the rest takes at the pace since it began, in seconds; `None` while that cannot be told.
    pub eta_seconds: Option<u64>,
    /// Rows set aside.
    pub set_aside: u64,
}

/// What `outbox_replication` says of who works.
type Owner = (String, Option<i64>, Option<i64>);

impl Report {
    /// Reads one.
    pub async fn of(config: &ReplicationConfig) -> Self {
        let mut report = Self {
            replication: config.name.clone(),
            source: config.source.to_string(),
            target: config.target.to_string(),
            error: None,
            owner: None,
            position: None,
            lag_seconds: None,
            unproven_since: None,
            paused: None,
            copies: Vec::new(),
        };
        if let Err(error) = report.read(config).await {
            report.error = Some(error.to_string());
        }
        report
    }

    async fn read(&mut self, config: &ReplicationConfig) -> Result<()> {
        let mut state = State::connect(&config.target(), &config.name).await?;
        self.paused = state.pause_state().await?.map(|pause| super::run::paused(&pause, &config.name));
        if let Some((owner, silent_s, lag_ms)) = owner(&mut state, &config.name).await? {
            let is_at_work = !owner.is_empty() && silent_s.is_some_and(|silent| silent < SILENCE_S);
            self.owner = is_at_work.then_some(owner);
            self.lag_seconds = lag_ms.map(|ms| ms as f64 / 1000.0);
        }
        self.unproven_since = state.unproven_since().await?;
        let set_aside = state.set_aside().await?;
        let copying_s = copying_seconds(&mut state, &config.name).await?;
        for copy in state.copies().await? {
            let CopyState { copy, source_table, phase, reason, rows_copied, rows_estimated, .. } = copy;
            let set_aside = set_aside.iter().find(|(of, _)| *of == copy).map_or(0, |(_, rows)| *rows);
            let took = copying_s.iter().find(|(of, _)| *of == copy).map(|(_, seconds)| *seconds);
            let left = rows_estimated.saturating_sub(rows_copied);
            let eta_seconds = took.and_then(|took| eta_seconds(took, rows_copied, left));
            let state = phase.as_str();
            self.copies.push(CopyReport {
                copy,
                source_table,
                state,
                reason,
                rows_copied,
                rows_estimated,
                eta_seconds,
                set_aside,
            });
        }
        // Last: copies without a position are shown, and this is what is wrong with them.
        self.position = state.checkpoint().await?.map(|checkpoint| checkpoint.position.to_string());
        Ok(())
    }

    /// Whether it could be read, is not paused, and no copy is held or has rows set aside.
    pub fn is_healthy(&self) -> bool {
        let is_well = |copy: &CopyReport| copy.state != CopyPhase::Held.as_str() && copy.set_aside == 0;
        self.error.is_none() && self.paused.is_none() && self.copies.iter().all(is_well)
    }
}

/// Reads all replications of a configuration.
pub async fn all(config: &Config) -> Vec<Report> {
    let mut reports = Vec::new();
    for replication in &config.replication {
        reports.push(Report::of(replication).await);
    }
    reports
}

async fn owner(state: &mut State, name: &str) -> Result<Option<Owner>> {
    let sql = "select owner, timestampdiff(second, applied_at, utc_timestamp(6)), cast(lag_ms + greatest(0, \
               timestampdiff(microsecond, applied_at, utc_timestamp(6)) div 1000 - 15000) as signed) \
               from outbox_replication where name = ?";
    state.connection().exec_first(sql, (name,)).await.map_err(failed)
}

/// How long each copy that is not complete has been copied.
async fn copying_seconds(state: &mut State, name: &str) -> Result<Vec<(String, u64)>> {
    let sql = "select copy, cast(greatest(0, timestampdiff(second, started_at, utc_timestamp(6))) as unsigned) \
               from outbox_copy where replication = ? and state = 'copying'";
    state.connection().exec(sql, (name,)).await.map_err(failed)
}

/// Whether a process that runs the replication has written lately.
///
/// # Errors
/// As [`State::connect`].
pub async fn is_run(config: &ReplicationConfig) -> Result<bool> {
    let mut state = State::connect(&config.target(), &config.name).await?;
    let owner = owner(&mut state, &config.name).await?;
    Ok(owner.is_some_and(|(owner, silent_s, _)| {
        !owner.is_empty() && silent_s.is_some_and(|silent| silent < SILENCE_S)
    }))
}

/// Whether whoever had the replication has been silent for so long that it has ended.
///
/// # Errors
/// As [`State::connect`].
pub async fn is_abandoned(config: &ReplicationConfig) -> Result<bool> {
    let mut state = State::connect(&config.target(), &config.name).await?;
    let owner = owner(&mut state, &config.name).await?;
    Ok(owner.is_none_or(|(_, silent_s, _)| silent_s.is_none_or(|silent| silent >= SILENCE_S)))
}

/// Has copies made anew, in place, by whoever runs the replication: one, or all of them from where the source is then.
///
/// The latter is also the way on when the position is of no use any more.
///
/// # Errors
/// As [`State::connect`].
pub async fn remake(config: &ReplicationConfig, copy: Option<&str>) -> Result<()> {
    let mut state = State::connect(&config.target(), &config.name).await?;
    let connection = state.connection();
    let name = &config.name;
    connection.query_drop("start transaction").await.map_err(failed)?;
    if let Some(copy) = copy {
        let sql = "update outbox_copy set state = 'copying', reason = null, definition = null, after_key = null, \
                   rows_copied = 0, ready_at = null, started_at = utc_timestamp(6) where replication = ? and copy = ?";
        connection.exec_drop(sql, (name, copy)).await.map_err(failed)?;
        let sql = "delete from outbox_aside where replication = ? and copy = ?";
        connection.exec_drop(sql, (name, copy)).await.map_err(failed)?;
    } else {
        // Whoever is at work loses its claim with the position, and begins anew.
        let sql = "update outbox_replication set epoch = epoch + 1, owner = '', position = null, unproven_at = null where name = ?";
        connection.exec_drop(sql, (name,)).await.map_err(failed)?;
        for sql in [
            "delete from outbox_copy where replication = ?",
            "delete from outbox_aside where replication = ?",
        ] {
            connection.exec_drop(sql, (name,)).await.map_err(failed)?;
        }
    }
    connection.query_drop("commit").await.map_err(failed)
}

/// Creates or upgrades the tables of state in the target; gives the versions that were applied now. Needs a runtime of
/// several threads.
///
/// # Errors
/// `Outage` when the target cannot be reached, `Database` when it refuses.
pub async fn migrate(config: &ReplicationConfig) -> Result<Vec<String>> {
    let target = OutboxConfig {
        tls: config.target_tls,
        ca: config.target_ca.clone(),
        client_certificate: config.target_client_certificate.clone(),
        client_key: config.target_client_key.clone(),
        ..OutboxConfig::new(&config.name, config.target.expose())
    };
    Store::new(Database::of(&target)?, "").migrate(&outbox_core::migrate::REPLICA).await
}

fn failed(error: mysql_async::Error) -> Error {
    binlog::failed("the tables of replications", &error)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replication {} ({} to {})", self.replication, self.source, self.target)?;
        if let Some(error) = &self.error {
            write!(f, "\n  cannot be read: {error}")?;
        }
        match (&self.position, self.lag_seconds, &self.owner) {
            (Some(position), lag, owner) => {
                write!(f, "\n  at {position}")?;
                if let Some(lag) = lag {
                    write!(f, ", {lag:.1} s behind the source")?;
                }
                match owner {
                    Some(owner) => write!(f, ", run by {owner}")?,
                    None => write!(f, ", run by nobody")?,
                }
            }
            (None, ..) if self.error.is_none() => write!(f, "\n  not begun: `outbox-relay run`")?,
            (None, ..) => {}
        }
        if let Some(since) = &self.unproven_since {
            write!(f, "\n  UNPROVEN since {since} that the source is the same: {UNPROVEN}")?;
        }
        if let Some(paused) = &self.paused {
            write!(f, "\n  PAUSED: {paused}")?;
        }
        for copy in &self.copies {
            write!(f, "\n  {}: {} of {}", copy.state, copy.copy, copy.source_table)?;
            if copy.state == CopyPhase::Copying.as_str() {
                write!(f, ", {} of about {} rows", copy.rows_copied, copy.rows_estimated)?;
                if let Some(seconds) = copy.eta_seconds {
                    write!(f, ", {seconds} s left")?;
                }
            }
            if copy.set_aside > 0 {
                write!(f, ", {} rows set aside (table outbox_aside)", copy.set_aside)?;
            }
            if let Some(reason) = &copy.reason {
                write!(f, ": {reason}")?;
            }
        }
        Ok(())
    }
}
