//! What people and `run --until-idle` ask of an outbox, and what they have done to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use outbox_core::Result;

use super::pause::is_without_table;
use super::*;

impl Store {
    /// The highest id that is visible.
    ///
    /// # Errors
    /// As every statement.
    pub async fn top(&mut self) -> Result<Option<i64>> {
        on!(self, "reading the highest id of outbox", top())
    }

    /// Whether a row up to `top` is left; with `movable` only one whose key is not parked.
    ///
    /// # Errors
    /// As every statement.
    pub async fn is_left(&mut self, top: i64, movable: bool) -> Result<bool> {
        on!(self, "looking for what is left in outbox", is_left(top, movable))
    }

    /// About how much waits, without counting a hot table.
    ///
    /// # Errors
    /// As every statement.
    pub async fn backlog(&mut self) -> Result<Backlog> {
        on!(self, "estimating the backlog of outbox", backlog())
    }

    /// What waits in each bucket.
    ///
    /// # Errors
    /// As every statement.
    pub async fn buckets(&mut self) -> Result<Vec<Bucket>> {
        on!(self, "looking at the buckets of outbox", buckets())
    }

    /// Deletes the oldest lines of `outbox_audit` that are older than `retention`, a thousand at most; how many.
    ///
    /// # Errors
    /// As every statement.
    pub async fn prune_audit(&mut self, retention: Duration) -> Result<usize> {
        let seconds = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
        on!(self, "clearing outbox_audit", prune_audit(seconds))
    }

    /// How many rows wait in each of these buckets, in their order, counted up to [`DEPTH_MAX`].
    ///
    /// # Errors
    /// As every statement.
    pub async fn depths(&mut self, buckets: &[u16]) -> Result<Vec<u64>> {
        if buckets.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<Depth> = on!(self, "counting in the buckets of outbox", depths(buckets))?;
        let of = |bucket: &u16| found.iter().find(|depth| depth.bucket == i64::from(*bucket));
        Ok(buckets.iter().map(|bucket| of(bucket).map_or(0, |depth| depth.depth.unsigned_abs())).collect())
    }

    /// Names of the relay processes that live.
    ///
    /// # Errors
    /// As every statement.
    pub async fn relays(&mut self) -> Result<Vec<String>> {
        let alive: Vec<Alive> = on!(self, "reading outbox_relay", relays())?;
        Ok(alive.into_iter().map(|relay| relay.owner).collect())
    }

    /// Who holds how many buckets.
    ///
    /// # Errors
    /// As every statement.
    pub async fn owners(&mut self) -> Result<Vec<Owner>> {
        on!(self, "reading outbox_lease", owners())
    }

    /// Keys that wait or are parked, parked ones first.
    ///
    /// # Errors
    /// As every statement.
    pub async fn held_keys(&mut self, limit: u32) -> Result<Vec<HeldKey>> {
        on!(self, "reading outbox_key", held_keys(limit))
    }

    /// Dead letters that meet the filter, the longest parked first.
    ///
    /// # Errors
    /// As every statement.
    pub async fn dead(&mut self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>> {
        on!(self, "reading dead letters in outbox_key", dead(filter, limit))
    }

    /// How many dead letters meet the filter.
    ///
    /// # Errors
    /// As every statement.
    pub async fn count_dead(&mut self, filter: &DeadFilter) -> Result<u64> {
        on!(self, "counting dead letters in outbox_key", count_dead(filter))
    }

    /// Replays or discards the dead letters with these rows, in one transaction with a line each in
    /// `outbox_audit`; how many of them were still dead letters.
    ///
    /// # Errors
    /// As every statement; nothing is done then.
    pub async fn act_on_dead(&mut self, action: DeadAction, ids: &[i64], actor: &str) -> Result<usize> {
        if ids.is_empty() {
            return Ok(0);
        }
        on!(self, "acting on dead letters", act_on_dead(action, ids, actor))
    }

    /// Who has paused the outbox, if somebody has.
    ///
    /// # Errors
    /// As every statement.
    pub async fn pause(&mut self) -> Result<Option<Pause>> {
        match on!(self, "reading outbox_pause", pause()) {
            // Nobody can have paused it then; `check` tells of the migration that is pending.
            Err(error) if is_without_table(&error) => Ok(None),
            result => result,
        }
    }

    /// Pauses all relays of the outbox, with a line in `outbox_audit`; whether it was not paused yet.
    ///
    /// # Errors
    /// As every statement.
    pub async fn set_pause(&mut self, actor: &str, reason: &str) -> Result<bool> {
        on!(self, "pausing an outbox", set_pause(actor, reason))
    }

    /// Ends a pause, with a line in `outbox_audit`; whether there was one.
    ///
    /// # Errors
    /// As every statement.
    pub async fn clear_pause(&mut self, actor: &str) -> Result<bool> {
        on!(self, "resuming an outbox", clear_pause(actor))
    }

    // Sending entities again.

    /// The aggregates that services offer to send again.
    ///
    /// # Errors
    /// As every statement.
    pub async fn offers(&mut self) -> Result<Vec<Offer>> {
        on!(self, "reading outbox_resync_service", offers())
    }

    /// The newest requests to send entities again, or those with these numbers; the newest first.
    ///
    /// # Errors
    /// As every statement.
    pub async fn resyncs(&mut self, ids: &[i64], limit: u32) -> Result<Vec<Resync>> {
        on!(self, "reading outbox_resync", resyncs(ids, limit))
    }

    /// Asks the service to send entities again, with a line each in `outbox_audit`; the numbers of the requests.
    ///
    /// # Errors
    /// As every statement; nothing is asked for then.
    pub async fn request_resync(&mut self, ask: &ResyncAsk, actor: &str) -> Result<Vec<i64>> {
        on!(self, "writing outbox_resync", request_resync(ask, actor))
    }

    /// Raises the generation of the outbox and asks to send entities again, all in one transaction; the new
    /// generation and the numbers of the requests.
    ///
    /// # Errors
    /// As every statement; nothing is done then.
    pub async fn raise_generation(&mut self, ask: &ResyncAsk, actor: &str) -> Result<(i64, Vec<i64>)> {
        on!(self, "raising the generation in outbox_meta", raise_generation(ask, actor))
    }
}
