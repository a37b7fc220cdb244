//! `outbox-relay resync` and `generation`: asks the service to send entities again, and shows how far it is.
//!
//! The relay's program has neither the models nor the right to read the tables: the service serves the request
//! (`outbox_core::Resync`).

use std::fmt;

use outbox_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::config::OutboxConfig;
use crate::dead::seconds;
use crate::outbox::store::{Database, Resync, ResyncAsk, Store};

/// How many keys one request takes: they stand in one row.
const KEYS_MAX: usize = 10_000;
/// How many requests `status` looks at.
const SHOWN: u32 = 20;

/// A request as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResyncReport {
    /// The outbox.
    pub outbox: String,
    /// The number of the request.
    pub id: i64,
    /// The aggregate type.
    pub aggregate: String,
    /// `requested`, `begun`, `scanning`, `scanned`, `ended`, `done` or `failed`.
    pub state: String,
    /// Whether a process of the service has it now.
    pub served: bool,
    /// How many keys were asked for; none for all entities.
    pub keys: Option<usize>,
    /// Rows recorded.
    pub rows: i64,
    /// Keys that have no row: copies drop them.
    pub gone: i64,
    /// Who asked.
    pub requested_by: String,
    /// How long ago.
    pub requested_seconds: f64,
    /// How long it took, or has been under way.
    pub took_seconds: Option<f64>,
    /// Why it failed.
    pub error: String,
}

impl ResyncReport {
    fn of(outbox: &str, request: Resync) -> Self {
        let keys = request.key_list.and_then(|keys| serde_json::from_str::<Vec<String>>(&keys).ok());
        Self {
            outbox: outbox.to_owned(),
            id: request.id,
            aggregate: request.aggregate_type,
            state: request.state,
            served: request.lease_ms > 0,
            keys: keys.map(|keys| keys.len()),
            rows: request.rows_done,
            gone: request.keys_gone,
            requested_by: request.requested_by,
            requested_seconds: seconds(request.requested_ms),
            took_seconds: request.took_ms.map(seconds),
            error: request.error,
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(&self) -> bool {
        self.is_done() || self.state == "failed"
    }

    /// Whether it has succeeded.
    pub fn is_done(&self) -> bool {
        self.state == "done"
    }

    fn what(&self) -> &'static str {
        match (self.state.as_str(), self.served) {
            ("done", _) => "done",
            ("failed", _) => "FAILED",
            (_, false) => "waits for a process of the service",
            ("requested" | "begun", true) => "waits until the relay has published its begin marks",
            ("scanning", true) => "rows are recorded",
            ("scanned", true) => "waits until the relay has published the rows",
            _ => "waits until the relay has published its end marks",
        }
    }
}

impl fmt::Display for ResyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resync {} of {}: {}, {} rows", self.id, self.aggregate, self.what(), self.rows)?;
        if let Some(keys) = self.keys {
            write!(f, " of {keys} keys, {} without a row", self.gone)?;
        }
        write!(f, "; asked for by {} {:.0} s ago", self.requested_by, self.requested_seconds)?;
        if let Some(took) = self.took_seconds {
            write!(f, ", {took:.0} s under way")?;
        }
        if self.error.is_empty() { Ok(()) } else { write!(f, ": {}", self.error) }
    }
}

fn store(outbox: &OutboxConfig) -> Result<Store> {
    Ok(Store::new(Database::of(outbox)?, ""))
}

/// The requests with these numbers.
///
/// # Errors
/// The database's.
pub async fn reports(outbox: &OutboxConfig, ids: &[i64]) -> Result<Vec<ResyncReport>> {
    let requests = store(outbox)?.resyncs(ids, u32::try_from(ids.len()).unwrap_or(u32::MAX)).await?;
    let mut reports: Vec<_> = requests.into_iter().map(|one| ResyncReport::of(&outbox.name, one)).collect();
    reports.sort_by_key(|report| report.id);
    Ok(reports)
}

/// The requests that are not over, and the newest one.
pub(crate) async fn shown(outbox: &str, store: &mut Store) -> Result<Vec<ResyncReport>> {
    let requests = store.resyncs(&[], SHOWN).await?;
    let newest = requests.first().map(|request| request.id);
    let reports = requests.into_iter().map(|request| ResyncReport::of(outbox, request));
    Ok(reports.filter(|report| Some(report.id) == newest || !report.is_over()).collect())
}

/// What a request of these is; all aggregates that services offer when none is named.
///
/// # Errors
/// `Invalid` when no service has ever offered the aggregate, when keys are given for several, or too many of them;
/// the database's.
pub async fn ask(
    outbox: &OutboxConfig,
    aggregate: Option<&str>,
    keys: &[String],
    rows_per_second: u32,
) -> Result<ResyncAsk> {
    let offered: Vec<_> =
        store(outbox)?.offers().await?.into_iter().map(|offer| offer.aggregate_type).collect();
    let invalid = |text: String| Error::new(ErrorKind::Invalid, format!("outbox {}: {text}", outbox.name));
    let known = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
    let aggregates = match aggregate {
        None => offered,
        Some(name) => offered.into_iter().filter(|offered| offered == name).collect(),
    };
    if aggregates.is_empty() {
        let what = aggregate.unwrap_or("anything");
        return Err(invalid(format!(
            "no service has offered to send {what} again, but {known}; it runs `outbox_core::Resync` for that"
        )));
    }
    if !keys.is_empty() && aggregates.len() > 1 {
        return Err(invalid(format!("keys are of one aggregate: name it with --aggregate, of {known}")));
    }
    if keys.len() > KEYS_MAX {
        return Err(invalid(format!("{} keys, at most {KEYS_MAX} fit one request", keys.len())));
    }
    let key_list = (!keys.is_empty()).then(|| serde_json::to_string(keys)).transpose()?;
    Ok(ResyncAsk { aggregates, key_list, rows_per_second })
}

/// Asks for it; the numbers of the requests, one for each aggregate.
///
/// # Errors
/// The database's.
pub async fn request(outbox: &OutboxConfig, ask: &ResyncAsk, actor: &str) -> Result<Vec<i64>> {
    store(outbox)?.request_resync(ask, actor).await
}

/// What raising the generation did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationReport {
    /// The outbox.
    pub outbox: String,
    /// Nothing was changed.
    pub dry_run: bool,
    /// The generation before.
    pub was: i64,
    /// The generation now.
    pub is: i64,
    /// The aggregates that are sent again.
    pub aggregates: Vec<String>,
    /// The numbers of the requests.
    pub resyncs: Vec<i64>,
}

impl fmt::Display for GenerationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outbox, dry_run, was, is, aggregates, .. } = self;
        let would = if *dry_run { "would be " } else { "" };
        let aggregates = if aggregates.is_empty() {
            "nothing, as no service offers to".to_owned()
        } else {
            aggregates.join(", ")
        };
        write!(f, "outbox {outbox}: generation {would}raised from {was} to {is}; sent again: {aggregates}")
    }
}

/// Raises the generation of an outbox that was restored from a backup, and asks for everything again, with removals.
///
/// # Errors
/// The database's; nothing is done then.
pub async fn generation(outbox: &OutboxConfig, actor: &str, dry_run: bool) -> Result<GenerationReport> {
    let mut store = store(outbox)?;
    let was = store.meta().await?.generation;
    let aggregates: Vec<_> = store.offers().await?.into_iter().map(|offer| offer.aggregate_type).collect();
    let ask = ResyncAsk { aggregates, key_list: None, rows_per_second: 0 };
    let (is, resyncs) =
        if dry_run { (was + 1, Vec::new()) } else { store.raise_generation(&ask, actor).await? };
    let outbox = outbox.name.clone();
    Ok(GenerationReport { outbox, dry_run, was, is, aggregates: ask.aggregates, resyncs })
}
