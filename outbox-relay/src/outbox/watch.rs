//! Looks now and then at what waits, for people and for metrics: on a connection of its own, as a slow look must not
//! cost a lease. What it asks is bounded, whatever the backlog. It also forgets old lines of `outbox_audit`.

use std::time::Duration;

use outbox_core::Result;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::store::{DEPTH_MAX, Store};
use crate::status::{Backlog, BucketBacklog, Status};

/// How often it looks.
const LOOK: Duration = Duration::from_secs(10);
/// How often counters are noted for rates, and how soon a relay that has just taken its buckets is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often old lines of `outbox_audit` are looked for.
const TIDY: Duration = Duration::from_secs(3600);

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Watch {
    store: Store,
    status: Status,
    audit_retention: Duration,
}

impl Watch {
    pub(super) fn new(store: Store, status: Status, audit_retention: Duration) -> Self {
        Self { store, status, audit_retention }
    }

    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut due = Instant::now();
        let mut tidy = due;
        loop {
            self.status.note_rates();
            if due <= Instant::now() {
                let has_buckets = !self.status.held().is_empty();
                let looked = tokio::select! {
                    () = stop.cancelled() => return,
                    looked = self.look() => looked,
                };
                if let Err(error) = looked {
                    // The pipe says so, and why.
                    debug!(outbox = self.status.name(), "looking at the backlog: {error}");
                }
                due = Instant::now() + if has_buckets { LOOK } else { TICK };
            }
            if tidy <= Instant::now() {
                let tidied = tokio::select! {
                    () = stop.cancelled() => return,
                    tidied = self.store.prune_audit(self.audit_retention) => tidied,
                };
                // After a full piece there may be more; a right that is missing is told by `check`.
                let is_done = tidied.map_or(true, |rows| rows == 0);
                tidy = Instant::now() + if is_done { TIDY } else { TICK };
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        let backlog = self.store.backlog().await?;
        let held = self.status.held();
        let mut buckets: Vec<BucketBacklog> = held.iter().copied().map(BucketBacklog::empty).collect();
        // An idle outbox costs one statement a look.
        if backlog.first_id.is_some() && !held.is_empty() {
            let found = self.store.buckets().await?;
            let filled = found.iter().filter(|bucket| bucket.first_id.is_some());
            let ages: Vec<_> = filled
                .filter_map(|found| Some((u16::try_from(found.bucket).ok()?, found.oldest_ms?)))
                .filter(|(bucket, _)| held.contains(bucket))
                .collect();
            let wanted: Vec<u16> = ages.iter().map(|(bucket, _)| *bucket).collect();
            let depths = self.store.depths(&wanted).await?;
            for ((bucket, oldest_ms), rows) in ages.into_iter().zip(depths) {
                if let Some(entry) = buckets.iter_mut().find(|entry| entry.bucket == bucket) {
                    entry.rows = rows.min(DEPTH_MAX);
                    entry.oldest_seconds = oldest_ms.max(0) as f64 / 1000.0;
                }
            }
        }
        let backlog = Backlog {
            rows_at_most: backlog.rows_max().unsigned_abs(),
            oldest_seconds: backlog.oldest_ms.unwrap_or_default().max(0) as f64 / 1000.0,
        };
        self.status.set_backlog(backlog, buckets);
        Ok(())
    }
}
