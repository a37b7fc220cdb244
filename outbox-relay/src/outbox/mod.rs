//! The source that reads an outbox table. What it reads is what still exists, from the start of the table,
//! every time: there is no cursor over ids, so a transaction that commits late is found like any other.
//!
//! While a batch is delivered, one task on the source's connection settles the batch before it and reads the
//! one after it. At any time at most two batches are in memory and one more is waiting for its DELETE.
//!
//! Reading ahead keeps the order of a key. Rows of a key become visible in the order of their ids, so batch
//! n + 1, which leaves out the ids of batch n, holds only later rows of each key. It is handed out after batch
//! n has its verdicts, without the keys that failed in it; and batch n + 2 is read after those keys were
//! written to `outbox_key`, on the same connection, so it does not find them. A batch whose delivery is
//! unknown takes the batch behind it along: both are read again.
//!
//! A batch holds only so many rows of a key, its first ones, since they go out one after another and the batch
//! lasts as long as its longest key; the rows left out are in a later read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use outbox_core::{Error, ErrorKind, Result};
use tokio::task::JoinHandle;
#[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
use tokio::task::JoinSet;
use tokio::time::Instant;
#[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bell::Bell;
use crate::config::OutboxConfig;
use crate::pipe::{Source, Verdict};
use crate::retry::{self, Attempt};
use crate::status::Status;

pub(crate) mod fit;
#[cfg(all(feature = "mysql", feature = "binlog"))]
pub(crate) mod follow;
mod item;
pub(crate) mod lease;
#[cfg(feature = "postgres")]
mod listen;
#[cfg(all(feature = "mysql", feature = "binlog"))]
mod seen;
#[doc(hidden)]
pub mod store;
mod watch;
mod work;

pub use self::item::Item;
use self::item::Origin;
pub(crate) use self::lease::Keeper;
use self::lease::Leases;
#[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
use self::store::Kind;
use self::store::{Database, Failure, Store};
pub(crate) use self::watch::Watch;
use self::work::{Careful, Limits, Outcome, Read, Work};

/// How often a batch is halved at most for a broker that is slow: it still fills the line.
const SHRUNK_MAX: u32 = 5;

/// The longest error text kept with a key.
pub const ERROR_CHARS_MAX: usize = 1000;

/// Reads one outbox for all buckets that its relay holds.
#[derive(Debug)]
pub struct OutboxSource {
    name: Arc<str>,
    origin: Arc<Origin>,
    leases: Arc<Leases>,
    status: Status,
    limits: Limits,
    retry: outbox_core::RetryPolicy,
    /// Missing while a task has it.
    store: Option<Store>,
    spare: Opener,
    task: Option<JoinHandle<Outcome>>,
    /// Buckets of what the task settles.
    task_buckets: BTreeSet<u16>,
    is_verified: bool,
    /// Read and not handed out.
    ahead: Read,
    /// What the task reads follows a batch that was abandoned: it is dropped when it comes.
    is_read_stale: bool,
    /// What was handed out.
    delivering: BTreeMap<u16, i64>,
    delivering_ids: Vec<i64>,
    /// Keys that failed since `ahead` was asked for.
    failed: HashSet<String>,
    /// The row whose try was written down because it may be the end of this relay.
    started: Option<i64>,
    /// How often what is read at once is halved, since batches got no answer in time.
    shrunk: u32,
    /// Confirmed and refused, not yet written.
    work: Work,
    /// Filled while somebody is told of rows.
    #[cfg(all(feature = "mysql", feature = "binlog"))]
    seen: Option<seen::Seen>,
}

/// How to make the store anew when a task is lost with it.
#[derive(Debug)]
struct Opener {
    database: Database,
    owner: String,
}

impl Opener {
    fn store(&self, status: &Status) -> Store {
        Store::new(self.database.clone(), &self.owner).counting(status.queries())
    }
}

/// The source for an outbox, and what has to run beside it: the keeper of its leases and who looks at its backlog.
///
/// # Errors
/// `Invalid` when the database's URL is.
pub(crate) fn open(
    config: &OutboxConfig,
    status: Status,
    bell: &Bell,
) -> Result<(OutboxSource, Keeper, Watch)> {
    let database = Database::of(config)?;
    let owner = owner(&config.name);
    let leases = Leases::new(config.lease.get());
    let spare = Opener { database, owner };
    let keeper = Keeper::new(spare.store(&status), leases.clone(), status.clone(), bell.clone());
    let watch = Watch::new(spare.store(&status), status.clone(), config.audit_retention.get());
    let source = OutboxSource {
        name: config.name.as_str().into(),
        origin: Arc::new(Origin { name: config.name.clone(), is_cloud_event: config.cloudevents }),
        store: Some(spare.store(&status)),
        leases,
        limits: Limits::new(config.batch_rows, config.batch_bytes.get(), config.in_flight_per_key),
        retry: outbox_core::RetryPolicy {
            initial: config.retry_initial.get(),
            max: config.retry_max.get(),
            multiplier: 2.0,
            max_attempts: config.attempts,
        },
        status,
        spare,
        task: None,
        task_buckets: BTreeSet::new(),
        is_verified: false,
        ahead: Read::default(),
        is_read_stale: false,
        delivering: BTreeMap::new(),
        delivering_ids: Vec::new(),
        failed: HashSet::new(),
        started: None,
        shrunk: 0,
        work: Work::default(),
        #[cfg(all(feature = "mysql", feature = "binlog"))]
        seen: None,
    };
    Ok((source, keeper, watch))
}

/// So much of an outbox's name stands in an owner, whose column takes 100 bytes.
const NAME_BYTES: usize = 18;

/// One relay process's one outbox: host and process for people, a UUID so that it is never used twice, and the outbox's
/// name, by which relays notice that they do not agree on it.
fn owner(name: &str) -> String {
    format!("{}/{}/{}/{}", host(), std::process::id(), uuid::Uuid::now_v7().simple(), short(name))
}

fn short(name: &str) -> &str {
    // Names are ASCII.
    name.get(..NAME_BYTES).unwrap_or(name)
}

/// This machine's name, 40 characters at most.
pub(crate) fn host() -> String {
    // A process that is shut in may see no more of /proc than the processes.
    let host = std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_else(|_| "host".into());
    host.trim().chars().filter(char::is_ascii_graphic).take(40).collect()
}

impl OutboxSource {
    /// Starts what is told of commits and rings `bell`, until `stop`.
    ///
    /// # Errors
    /// `Invalid` when the database's URL is.
    #[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
    pub(crate) fn listen(
        &mut self,
        config: &OutboxConfig,
        bell: &Bell,
        stop: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<()> {
        let database = Database::of(config)?;
        match database.kind() {
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                let store = Store::new(database, "").counting(self.status.queries());
                tasks.spawn(listen::Listener::new(store, bell.clone(), self.status.clone()).run(stop));
            }
            #[cfg(all(feature = "mysql", feature = "binlog"))]
            Kind::Mysql => {
                let seen = self.seen.insert(seen::Seen::default()).clone();
                let (leases, status) = (self.leases.clone(), self.status.clone());
                tasks.spawn(follow::Follower::new(config, leases, seen, bell.clone(), status).run(stop));
            }
            // Refused with the configuration.
            _ => {}
        }
        Ok(())
    }

    /// Waits for the task and takes over what it came to.
    async fn join(&mut self) -> Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let joined = task.await;
        self.task = None;
        self.task_buckets.clear();
        let is_stale = std::mem::take(&mut self.is_read_stale);
        match joined {
            Ok(outcome) => self.take_over(outcome, is_stale),
            Err(error) => {
                // A panic in the task: what it was to settle comes again.
                self.store = Some(self.spare.store(&self.status));
                Err(Error::with_source(ErrorKind::Database, "reading an outbox", error))
            }
        }
    }

    fn take_over(&mut self, outcome: Outcome, is_stale: bool) -> Result<()> {
        self.store = Some(outcome.store);
        self.work.put_back(outcome.undone);
        if outcome.settled > 0 {
            self.status.add_settled(outcome.settled);
        }
        if outcome.missing > 0 {
            info!(
                outbox = &*self.name,
                rows = outcome.missing,
                "confirmed rows were not there any more to delete: their lease was lost, they may repeat"
            );
            self.leases.look_again();
        }
        let read = outcome.read?;
        #[cfg(all(feature = "mysql", feature = "binlog"))]
        if let Some(seen) = &self.seen {
            seen.note(read.items.iter().map(Item::id));
        }
        self.started = read.started.or(self.started);
        if let Some(parked) = &read.parked {
            warn!(outbox = &*self.name, "parked: {parked}");
            self.status.set_error(parked.clone());
        }
        self.limits.learn(&read);
        self.ahead = if is_stale { Read::default() } else { read };
        let failed = std::mem::take(&mut self.failed);
        self.ahead.items.retain(|item| !failed.contains(item.key()));
        Ok(())
    }

    /// Starts settling what is open, and reading if `held` has buckets.
    fn start(&mut self, held: BTreeMap<u16, i64>) {
        let Some(store) = self.store.take() else { return };
        let work = std::mem::take(&mut self.work);
        self.task_buckets = work.buckets();
        let limits = self.limits.halved(self.leases.caution() + self.shrunk);
        let careful = self
            .is_careful()
            .then_some(Careful { attempts_max: self.retry.max_attempts, started: self.started });
        let asked = work::Asked { held, except: self.delivering_ids.clone(), limits, careful };
        self.task = Some(tokio::spawn(work::run(store, work, asked, self.origin.clone())));
    }

    /// Whether single rows are read, each after the one before is settled.
    fn is_careful(&self) -> bool {
        let caution = self.leases.caution();
        caution > 0 && self.limits.halved(caution).is_single()
    }

    /// Hands out what was read, without what may not be published any more.
    fn hand_out(&mut self) -> Vec<Item> {
        let Read { mut items, .. } = std::mem::take(&mut self.ahead);
        self.delivering = self.leases.claim(items.iter().map(|item| (item.bucket(), item.epoch())));
        items.retain(|item| self.delivering.get(&item.bucket()) == Some(&item.epoch()));
        self.delivering_ids = items.iter().map(Item::id).collect();
        self.status.set_in_flight(items.len() as u64);
        items
    }

    /// What was handed out has its verdicts, or comes again.
    fn deliver_nothing(&mut self) {
        self.delivering.clear();
        self.delivering_ids.clear();
        self.status.set_in_flight(0);
    }

    fn tell_in_flight(&self) {
        let mut buckets = self.work.buckets();
        buckets.extend(self.delivering.keys().copied());
        buckets.extend(&self.task_buckets);
        self.leases.set_in_flight(buckets);
    }

    fn failure(&self, item: &Item, reason: &str) -> Failure {
        let attempts = item.attempts().saturating_add(1);
        let (parked, wait) = match retry::after_refusal(&self.retry, attempts) {
            Attempt::Park => (true, std::time::Duration::ZERO),
            Attempt::Wait(wait) => (false, wait),
        };
        let error: String = reason.chars().take(ERROR_CHARS_MAX).collect();
        if parked {
            warn!(
                outbox = &*self.name,
                key = item.label(),
                row = item.id(),
                "parked after {attempts} attempts: {error}"
            );
        } else {
            self.status.add_waiting();
            info!(
                outbox = &*self.name,
                key = item.label(),
                row = item.id(),
                "refused, again in {wait:?}: {error}"
            );
        }
        self.status.set_error(format!("{} (row {}): {error}", item.label(), item.id()));
        Failure {
            id: item.id(),
            bucket: item.bucket(),
            epoch: item.epoch(),
            attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
            parked,
            wait_ms: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            error,
        }
    }
}

impl Source for OutboxSource {
    type Item = Item;

    async fn next(&mut self) -> Result<Option<Vec<Item>>> {
        self.join().await?;
        if let (false, Some(store)) = (self.is_verified, &mut self.store) {
            fit::verify(store).await?;
            self.is_verified = true;
        }
        if self.ahead.items.is_empty() {
            let (held, trouble) = match self.leases.readable() {
                Ok(held) => (held, None),
                Err(trouble) => (BTreeMap::new(), Some(trouble)),
            };
            if !self.work.is_empty() || !held.is_empty() {
                self.start(held.clone());
                self.join().await?;
            }
            while self.ahead.parked.is_some() && !held.is_empty() {
                self.start(held.clone());
                self.join().await?;
            }
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
            if self.ahead.items.is_empty() && !self.ahead.more {
                self.leases.found_nothing(&held);
            }
        }
        let is_more = self.ahead.more;
        let items = self.hand_out();
        if !items.is_empty() && (is_more || !self.work.is_empty()) {
            let is_ahead = is_more && !self.is_careful();
            let held = if is_ahead { self.leases.readable().unwrap_or_default() } else { BTreeMap::new() };
            self.start(held);
        }
        self.tell_in_flight();
        Ok(if items.is_empty() { None } else { Some(items) })
    }

    fn deadline(&self) -> impl Fn() -> Option<Instant> + Send + 'static {
        let (leases, buckets) = (self.leases.clone(), self.delivering.clone());
        move || Some(leases.deadline(&buckets))
    }

    async fn settle(&mut self, items: Vec<Item>, verdicts: Vec<Verdict>) -> Result<()> {
        self.leases.survived();
        self.shrunk = self.shrunk.saturating_sub(1);
        for (item, verdict) in items.iter().zip(verdicts) {
            match verdict {
                Verdict::Done => self.work.confirm(item),
                Verdict::Poison { reason } => {
                    self.status.add_refused(1);
                    let failure = self.failure(item, &reason);
                    self.work.refuse(failure);
                    self.failed.insert(item.key().to_owned());
                }
                Verdict::Held => {}
            }
        }
        // Read before the failures were known; a read that is still under way is filtered when it ends.
        let failed = &self.failed;
        self.ahead.items.retain(|item| !failed.contains(item.key()));
        self.deliver_nothing();
        Ok(())
    }

    fn abandon(&mut self, _: Vec<Item>) {
        // A slow broker may never confirm as much as before within a lease.
        self.shrunk = (self.shrunk + 1).min(SHRUNK_MAX);
        self.deliver_nothing();
        // Both were read to follow what was not delivered.
        self.ahead = Read::default();
        self.is_read_stale = self.task.is_some();
        self.failed.clear();
        self.tell_in_flight();
    }

    async fn close(&mut self) -> Result<()> {
        self.ahead = Read::default();
        let joined = self.join().await;
        self.ahead = Read::default();
        if !self.work.is_empty() {
            self.start(BTreeMap::new());
            self.join().await?;
        }
        self.leases.set_in_flight(BTreeSet::new());
        joined
    }
}
