//! `outbox-relay status`: what the databases say of outboxes, whether or not a relay runs.

use std::fmt;

use outbox_core::Result;
use serde::{Deserialize, Serialize};

use crate::config::{Config, OutboxConfig};
use crate::dead::seconds;
#[cfg(feature = "postgres")]
use crate::outbox::store::Kind;
use crate::outbox::store::{Backlog, Bucket, DEPTH_MAX, Database, HeldKey, Owner, Store};
use crate::resync::{self, ResyncReport};
use crate::status::Rates;

/// How many buckets are shown to people, those with the oldest rows.
const BUCKETS_SHOWN: usize = 5;
/// How many keys are shown; parked ones come first.
const KEYS_SHOWN: u32 = 100;

/// An outbox as its database shows it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The outbox.
    pub outbox: String,
    /// Its database, without the password.
    pub database: String,
    /// Why nothing could be read.
    pub error: Option<String>,
    /// What waits.
    pub backlog: Option<BacklogReport>,
    /// Buckets in which something waits.
    pub buckets: Vec<BucketReport>,
    /// Messages a second of the relay that runs with this configuration; none if it does not answer at `admin.listen`.
    pub rates: Option<Rates>,
    /// What that relay says of its pipe.
    pub relay: Option<RelayReport>,
    /// Who holds how many buckets; free ones have no owner.
    pub leases: Vec<OwnerReport>,
    /// Keys that wait or are parked, a hundred at most.
    pub keys: Vec<KeyReport>,
    /// Who has paused its relays, since when and why.
    pub paused: Option<String>,
    /// PostgreSQL's trigger that tells relays of commits; none in poll mode.
    pub bell: Option<BellReport>,
    /// Requests to send entities again: those that are not over, and the newest one.
    pub resyncs: Vec<ResyncReport>,
}

/// What a running relay says of an outbox's pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    /// `starting`, `running`, `paused` or `stopped`.
    pub state: String,
    /// For how long.
    pub state_seconds: u64,
    /// The last trouble, also when it is over.
    pub last_error: Option<String>,
    /// Messages on their way to the broker, not confirmed yet.
    pub in_flight: u64,
    /// Messages that no queue wanted, and that were therefore refused.
    pub returned: u64,
}

/// What tells relays of commits.
#[derive(Debug, Serialize)]
pub struct BellReport {
    /// The trigger: `ready`, `missing`, `disabled` or `changed`.
    pub trigger: String,
    /// How many relays listen.
    pub listeners: i64,
}

/// What waits in an outbox.
#[derive(Debug, Serialize)]
pub struct BacklogReport {
    /// At most so many rows, by first and last id: a hot table is not counted.
    pub rows_at_most: i64,
    /// The lowest id.
    pub first_id: Option<i64>,
    /// The highest id.
    pub last_id: Option<i64>,
    /// The age of the first row.
    pub oldest_seconds: Option<f64>,
}

/// What waits in a bucket.
#[derive(Debug, Serialize)]
pub struct BucketReport {
    /// The bucket.
    pub bucket: i16,
    /// The relay process that holds it; none when it is free.
    pub owner: Option<String>,
    /// The lowest id.
    pub first_id: i64,
    /// The highest id; between them are rows of other buckets, too.
    pub last_id: Option<i64>,
    /// Rows, counted up to 1000: so many may be more.
    pub rows: u64,
    /// The age of the first row.
    pub oldest_seconds: Option<f64>,
}

/// Who holds buckets.
#[derive(Debug, Serialize)]
pub struct OwnerReport {
    /// The relay process; none for free buckets.
    pub owner: Option<String>,
    /// How many buckets.
    pub buckets: i64,
    /// Until the first of these leases ends; negative when it is over, none for free buckets.
    pub expires_in_seconds: Option<f64>,
}

/// A key that waits or is parked.
#[derive(Debug, Serialize)]
pub struct KeyReport {
    /// The aggregate type.
    pub aggregate: String,
    /// The key.
    pub key: String,
    /// The row that was refused.
    pub row: i64,
    /// How often.
    pub attempts: i32,
    /// `parked` or `waiting`.
    pub state: &'static str,
    /// Until the next attempt.
    pub next_in_seconds: Option<f64>,
    /// Why it was refused.
    pub error: String,
}

impl Report {
    /// Whether it could be read, is not paused, and no key is parked.
    pub fn is_healthy(&self) -> bool {
        self.error.is_none() && self.paused.is_none() && self.keys.iter().all(|key| key.state != "parked")
    }

    async fn of(outbox: &OutboxConfig) -> Self {
        let mut report = Self {
            outbox: outbox.name.clone(),
            database: outbox.database.to_string(),
            error: None,
            backlog: None,
            buckets: Vec::new(),
            rates: None,
            relay: None,
            leases: Vec::new(),
            keys: Vec::new(),
            paused: None,
            bell: None,
            resyncs: Vec::new(),
        };
        if let Err(error) = report.read(outbox).await {
            report.error = Some(error.to_string());
        }
        report
    }

    async fn read(&mut self, outbox: &OutboxConfig) -> Result<()> {
        let mut store = Store::new(Database::of(outbox)?, "");
        self.backlog = Some(store.backlog().await?.into());
        self.buckets = store.buckets().await?.into_iter().filter_map(BucketReport::of).collect();
        let numbers: Vec<u16> = self.buckets.iter().filter_map(|b| u16::try_from(b.bucket).ok()).collect();
        for (bucket, rows) in self.buckets.iter_mut().zip(store.depths(&numbers).await?) {
            bucket.rows = rows;
        }
        // A migration that is pending is told by `check`.
        self.paused = store.pause().await.ok().flatten().map(|pause| pause.to_string());
        self.resyncs = resync::shown(&outbox.name, &mut store).await.unwrap_or_default();
        self.leases = store.owners().await?.into_iter().map(Into::into).collect();
        self.keys = store.held_keys(KEYS_SHOWN).await?.into_iter().map(Into::into).collect();
        #[cfg(feature = "postgres")]
        if outbox.mode == crate::config::Mode::Tail && store.database().kind() == Kind::Postgres {
            let doorbell = store.doorbell().await?;
            self.bell = Some(BellReport { trigger: doorbell.trigger_state, listeners: doorbell.listeners });
        }
        Ok(())
    }
}

/// Reads all outboxes of a configuration.
pub async fn all(config: &Config) -> Vec<Report> {
    let mut reports = Vec::new();
    for outbox in &config.outbox {
        reports.push(Report::of(outbox).await);
    }
    reports
}

impl From<Backlog> for BacklogReport {
    fn from(backlog: Backlog) -> Self {
        Self {
            rows_at_most: backlog.rows_max(),
            first_id: backlog.first_id,
            last_id: backlog.last_id,
            oldest_seconds: backlog.oldest_ms.map(seconds),
        }
    }
}

impl BucketReport {
    /// None when nothing waits in it.
    fn of(bucket: Bucket) -> Option<Self> {
        let Bucket { bucket, owner, first_id, last_id, oldest_ms } = bucket;
        first_id.map(|first_id| Self {
            bucket,
            owner,
            first_id,
            last_id,
            rows: 0,
            oldest_seconds: oldest_ms.map(seconds),
        })
    }
}

impl From<Owner> for OwnerReport {
    fn from(owner: Owner) -> Self {
        let expires_in_seconds = owner.owner.as_ref().map(|_| seconds(owner.expires_in_ms));
        Self { owner: owner.owner, buckets: owner.buckets, expires_in_seconds }
    }
}

impl From<HeldKey> for KeyReport {
    fn from(key: HeldKey) -> Self {
        Self {
            aggregate: key.aggregate_type,
            key: key.aggregate_id,
            row: key.head_id,
            attempts: key.attempts,
            state: if key.parked { "parked" } else { "waiting" },
            next_in_seconds: (!key.parked).then(|| seconds(key.next_in_ms.max(0))),
            error: key.last_error,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbox {} ({})", self.outbox, self.database)?;
        if let Some(RelayReport { state, state_seconds, last_error, in_flight, returned }) = &self.relay {
            write!(
                f,
                "\n  the relay here: {state} for {state_seconds} s, {in_flight} in flight, {returned} returned"
            )?;
            match last_error {
                Some(error) if state == "running" => write!(f, "; the last trouble, which is over: {error}")?,
                Some(error) => write!(f, "; {error}")?,
                None => {}
            }
        }
        if let Some(error) = &self.error {
            return write!(f, "\n  cannot be read: {error}");
        }
        match &self.backlog {
            Some(BacklogReport {
                rows_at_most, oldest_seconds: Some(age), first_id: Some(first), ..
            }) => {
                write!(
                    f,
                    "\n  backlog: at most {rows_at_most} rows, the oldest (id {first}) is {age:.1} s old"
                )?;
            }
            _ => write!(f, "\n  backlog: empty")?,
        }
        let age = |bucket: &&BucketReport| bucket.oldest_seconds.unwrap_or_default();
        let mut oldest: Vec<&BucketReport> = self.buckets.iter().collect();
        oldest.sort_by(|a, b| age(b).total_cmp(&age(a)));
        if !oldest.is_empty() {
            write!(f, "\n  buckets: something waits in {}, longest in", oldest.len())?;
        }
        for bucket in oldest.iter().take(BUCKETS_SHOWN) {
            let more = if bucket.rows >= DEPTH_MAX { " or more" } else { "" };
            write!(f, " {:02} ({:.1} s, {}{more} rows)", bucket.bucket, age(bucket), bucket.rows)?;
        }
        if let Some(Rates { sent_per_second, published_per_second, settled_per_second }) = &self.rates {
            write!(
                f,
                "\n  the relay here: {sent_per_second:.1} sent, {published_per_second:.1} confirmed, \
                 {settled_per_second:.1} settled a second"
            )?;
        }
        for lease in &self.leases {
            match &lease.owner {
                Some(owner) => write!(
                    f,
                    "\n  leases: {:>2} buckets held by {owner}, renewed or free in {:.1} s",
                    lease.buckets,
                    lease.expires_in_seconds.unwrap_or_default()
                )?,
                None => write!(f, "\n  leases: {:>2} buckets free", lease.buckets)?,
            }
        }
        if let Some(paused) = &self.paused {
            write!(f, "\n  PAUSED: {paused}")?;
        }
        if let Some(BellReport { trigger, listeners }) = &self.bell {
            write!(f, "\n  doorbell: trigger {trigger}, heard by {listeners} relays")?;
        }
        for resync in &self.resyncs {
            write!(f, "\n  {resync}")?;
        }
        for key in &self.keys {
            write!(
                f,
                "\n  {}: {} {}, row {}, {} attempts",
                key.state, key.aggregate, key.key, key.row, key.attempts
            )?;
            if let Some(next) = key.next_in_seconds {
                write!(f, ", again in {next:.1} s")?;
            }
            write!(f, ": {}", key.error)?;
        }
        Ok(())
    }
}
