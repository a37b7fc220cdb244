//! What the databases of subscribers say of them: for `status`, and beside a running relay for metrics and
//! console. The subscribers themselves need none of this.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_core::Result;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::config::SubscriberConfig;
use crate::dead::seconds;
use crate::outbox::store::{Applied, Database, Store};

/// How often a running relay looks.
const LOOK: Duration = Duration::from_secs(10);

/// A subscriber as its database shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SubscriberReport {
    /// The subscriber.
    pub subscriber: String,
    /// Its database, without the password.
    pub database: String,
    /// Why nothing could be read.
    pub error: Option<String>,
    /// Messages set aside until somebody decides.
    pub dead: u64,
    /// Messages that are tried again after a while.
    pub retrying: u64,
    /// Messages that wait behind an earlier one of their key.
    pub waiting: u64,
    /// Messages of which somebody has decided something that the subscriber has not done yet.
    pub decided: u64,
    /// Rows of `inbox`, of all subscribers of the database, as statistics have it. SQLite has none: up to 100 000
    /// are counted.
    pub inbox_rows: u64,
    /// What was applied last, by source and queue.
    pub applied: Vec<AppliedReport>,
    /// Copies of the database in which a resync is under way.
    pub resyncing: Vec<ResyncingReport>,
    /// Who has paused it, since when and why.
    pub paused: Option<String>,
}

/// How far a subscriber is with one queue and source.
#[derive(Debug, Clone, Serialize)]
pub struct AppliedReport {
    /// The outbox.
    pub source: String,
    /// The number of its queue.
    pub queue: i16,
    /// With the id the version of what was applied last.
    pub generation: i64,
    /// The row of the outbox that it was.
    pub id: i64,
    /// How long ago.
    pub applied_seconds: f64,
    /// How long after it was recorded, by the clocks of the two databases.
    pub lag_seconds: f64,
}

/// A copy in which a resync is under way.
#[derive(Debug, Clone, Serialize)]
pub struct ResyncingReport {
    /// The copy.
    pub copy: String,
    /// In so many of 64 buckets.
    pub buckets: u64,
    /// For how long.
    pub begun_seconds: f64,
}

impl From<Applied> for AppliedReport {
    fn from(applied: Applied) -> Self {
        let Applied { source, queue, generation, id, applied_ms, lag_ms } = applied;
        let (applied_seconds, lag_seconds) = (seconds(applied_ms), seconds(lag_ms));
        Self { source, queue, generation, id, applied_seconds, lag_seconds }
    }
}

impl SubscriberReport {
    /// Whether it could be read, is not paused, and nothing is set aside.
    pub fn is_healthy(&self) -> bool {
        self.error.is_none() && self.paused.is_none() && self.dead == 0
    }

    /// Reads it.
    pub async fn of(subscriber: &SubscriberConfig) -> Self {
        match Database::of_subscriber(subscriber) {
            Ok(database) => Self::look(subscriber, &mut Store::new(database, "")).await,
            Err(error) => Self { error: Some(error.to_string()), ..Self::named(subscriber) },
        }
    }

    fn named(subscriber: &SubscriberConfig) -> Self {
        let (subscriber, database) = (subscriber.name.clone(), subscriber.database.to_string());
        Self { subscriber, database, ..Self::default() }
    }

    async fn look(subscriber: &SubscriberConfig, store: &mut Store) -> Self {
        let mut report = Self::named(subscriber);
        if let Err(error) = report.read(store).await {
            report.error = Some(error.to_string());
        }
        report
    }

    async fn read(&mut self, store: &mut Store) -> Result<()> {
        let name = self.subscriber.clone();
        let counts = store.held_counts(&name).await?;
        self.dead = counts.dead.unsigned_abs();
        self.retrying = counts.retrying.unsigned_abs();
        self.waiting = counts.waiting.unsigned_abs();
        self.decided = counts.decided.unsigned_abs();
        self.inbox_rows = counts.inbox_rows.unsigned_abs();
        self.applied = store.applied(&name).await?.into_iter().map(Into::into).collect();
        let resyncing = store.resyncing().await?.into_iter().map(|copy| ResyncingReport {
            copy: copy.copy,
            buckets: copy.buckets.unsigned_abs(),
            begun_seconds: seconds(copy.begun_ms),
        });
        self.resyncing = resyncing.collect();
        self.paused = store.consumer_pause(&name).await?.map(|pause| pause.to_string());
        Ok(())
    }
}

impl fmt::Display for SubscriberReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subscriber {} ({})", self.subscriber, self.database)?;
        if let Some(error) = &self.error {
            return write!(f, "\n  cannot be read: {error}");
        }
        write!(
            f,
            "\n  messages: {} dead, {} tried again, {} waiting behind them, {} decided",
            self.dead, self.retrying, self.waiting, self.decided
        )?;
        for applied in &self.applied {
            write!(
                f,
                "\n  applied: outbox {} up to {}/{} in queue {}, {:.0} s ago, {:.1} s after it was recorded",
                applied.source,
                applied.generation,
                applied.id,
                applied.queue,
                applied.applied_seconds,
                applied.lag_seconds
            )?;
        }
        for copy in &self.resyncing {
            let ResyncingReport { copy, buckets, begun_seconds } = copy;
            write!(f, "\n  resync: copy {copy}, {buckets} of 64 buckets, for {begun_seconds:.0} s")?;
        }
        if let Some(paused) = &self.paused {
            write!(f, "\n  PAUSED: {paused}")?;
        }
        write!(f, "\n  inbox: about {} rows", self.inbox_rows)
    }
}

/// Reads all subscribers of a configuration.
pub async fn all(subscribers: &[SubscriberConfig]) -> Vec<SubscriberReport> {
    let mut reports = Vec::new();
    for subscriber in subscribers {
        reports.push(SubscriberReport::of(subscriber).await);
    }
    reports
}

/// What a running relay last saw of each subscriber. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<Vec<SubscriberReport>>>);

impl Watched {
    /// These, seen once.
    #[cfg(test)]
    pub(crate) fn of(reports: Vec<SubscriberReport>) -> Self {
        Self(Arc::new(Mutex::new(reports)))
    }

    /// What was seen last, in the order of the configuration; one that was not looked at yet is missing.
    pub fn reports(&self) -> Vec<SubscriberReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at each subscriber every 10 seconds, on one connection each, until `shutdown`.
    pub fn start(subscribers: Vec<SubscriberConfig>, shutdown: CancellationToken) -> Self {
        let watched = Self::default();
        let seen = watched.clone();
        tokio::spawn(async move {
            let watching = async {
                let mut stores: Vec<_> = subscribers
                    .iter()
                    .filter_map(|one| Some((one, Store::new(Database::of_subscriber(one).ok()?, ""))))
                    .collect();
                loop {
                    let mut reports = Vec::new();
                    for (subscriber, store) in &mut stores {
                        reports.push(SubscriberReport::look(subscriber, store).await);
                    }
                    *seen.0.lock().unwrap_or_else(PoisonError::into_inner) = reports;
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = watching => {}
            }
        });
        watched
    }
}
