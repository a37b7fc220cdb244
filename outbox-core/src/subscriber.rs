//! A consumer service's loop: deliveries → inbox → copy or handler → acknowledgement.
//!
//! A batch is applied in one local transaction and acknowledged after its COMMIT. The inbox row of a
//! message goes in first: where two processes hold the same message, the second waits on that row and
//! then finds it applied.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Queue};
use crate::connection::OutboxConnection;
use crate::copy::{self, ReplicaOn};
use crate::entity::Operation;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::message::{BUCKETS, Recorded};
use crate::retry::RetryPolicy;
use crate::transaction::OutboxTx;

mod apply;
#[cfg(feature = "testing")]
mod drain;
mod pump;

use apply::Worker;

/// Consumes the messages of other services into this service's database, each with one effect.
///
/// The database needs the tables of [`migrate::INBOX`](crate::migrate::INBOX).
///
/// ```no_run
/// # use diesel::prelude::*;
/// # use diesel::r2d2::{ConnectionManager, Pool};
/// # use outbox_core::{Subscriber, broker::memory::MemoryBroker};
/// # #[derive(serde::Deserialize)] struct PriceRaised { by: i64 }
/// # async fn example() -> outbox_core::Result<()> {
/// let pool = Pool::new(ConnectionManager::<SqliteConnection>::new("order.db"))?;
/// Subscriber::new("order", MemoryBroker::new(), pool)
///     .on("product.price_raised", |tx, event: PriceRaised| {
///         diesel::sql_query("insert into price_alert (raised_by) values (?)")
///             .bind::<diesel::sql_types::BigInt, _>(event.by)
///             .execute(tx.conn())?;
///         Ok(())
///     })
///     .run(Default::default())
///     .await
/// # }
/// ```
pub struct Subscriber<B, C: R2D2Connection + 'static> {
    name: String,
    broker: B,
    pool: Pool<ConnectionManager<C>>,
    effects: BTreeMap<String, Effect<C>>,
    overlaps: Vec<String>,
    queues: u16,
    batch: u16,
    retry: RetryPolicy,
    stats: SubscriberStats,
}

impl<B, C: R2D2Connection + 'static> fmt::Debug for Subscriber<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("name", &self.name)
            .field("kinds", &self.effects.keys())
            .finish_non_exhaustive()
    }
}

type Run<C> = dyn Fn(&mut OutboxTx<'_, C>, &Recorded) -> Result<()> + Send + Sync;

/// What a kind of message does; a copy has a name, a handler has none.
struct Effect<C> {
    copy: Option<&'static str>,
    run: Arc<Run<C>>,
}

impl<B: Broker, C: OutboxConnection + R2D2Connection> Subscriber<B, C> {
    /// A subscriber that consumes nothing yet. Its name is that of its queues (`{name}.{number}`) and of its
    /// rows in the inbox: keep it for the life of the service.
    pub fn new(name: impl Into<String>, broker: B, pool: Pool<ConnectionManager<C>>) -> Self {
        Self {
            name: name.into(),
            broker,
            pool,
            effects: BTreeMap::new(),
            overlaps: Vec::new(),
            queues: 1,
            batch: 100,
            retry: RetryPolicy::default(),
            stats: SubscriberStats::default(),
        }
    }

    /// Keeps a copy of an aggregate: follows its `created`, `updated`, `deleted` (by the names in
    /// [`Replica::EVENTS`](crate::Replica::EVENTS)) and `current` messages and takes a change only if it is
    /// newer than what the copy shows.
    #[must_use]
    pub fn copy<R: ReplicaOn<C> + 'static>(mut self) -> Self {
        for operation in Operation::ALL {
            let run = |tx: &mut OutboxTx<'_, C>, recorded: &Recorded| copy_change::<R, C>(tx, recorded);
            let effect = Effect { copy: Some(R::COPY), run: Arc::new(run) };
            self.add(format!("{}.{}", R::AGGREGATE, R::EVENTS.of(operation)), effect);
        }
        self
    }

    /// Handles messages of one kind (`{aggregate}.{event}`), with the payload as `E`, in the transaction
    /// that records the message as applied. What the handler itself records is published from this
    /// service's own outbox.
    ///
    /// An error rolls the message's writes back. It is tried again after short waits, then set aside in
    /// `inbox_held` with the error; an [outage](ErrorKind::Outage) is waited out and not counted.
    #[must_use]
    pub fn on<E: DeserializeOwned>(
        mut self,
        kind: impl Into<String>,
        handler: impl Fn(&mut OutboxTx<'_, C>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let run = move |tx: &mut OutboxTx<'_, C>, recorded: &Recorded| {
            handler(tx, serde_json::from_slice(recorded.message.payload())?)
        };
        self.add(kind.into(), Effect { copy: None, run: Arc::new(run) });
        self
    }

    /// Handles every event of `E`, for an enum each of its variants, as [`on`](Self::on) does for one kind.
    ///
    /// A payload that reads as another event than the message's kind says is set aside, not handled: with
    /// `#[serde(untagged)]` variants of equal fields cannot be told apart.
    #[must_use]
    pub fn on_event<E: Event + DeserializeOwned>(
        mut self,
        handler: impl Fn(&mut OutboxTx<'_, C>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        for schema in E::EVENTS {
            let handler = Arc::clone(&handler);
            let run = move |tx: &mut OutboxTx<'_, C>, recorded: &Recorded| {
                let event: E = serde_json::from_slice(recorded.message.payload())?;
                if event.event() != recorded.message.event() {
                    return Err(Error::invalid(format!(
                        "the payload reads as event {}; tag the enum: #[serde(tag = \"type\")]",
                        event.event()
                    )));
                }
                handler(tx, event)
            };
            let effect = Effect { copy: None, run: Arc::new(run) };
            self.add(format!("{}.{}", E::AGGREGATE, schema.event), effect);
        }
        self
    }

    fn add(&mut self, kind: String, effect: Effect<C>) {
        if self.effects.insert(kind.clone(), effect).is_some() {
            self.overlaps.push(kind);
        }
    }

    /// Spreads the messages over so many queues, 1 to 64, by bucket, for consumers in parallel; order per
    /// key holds. Default 1. Changing it leaves the queues of the old number bound: drain and delete them.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    /// How many messages one transaction applies at most; also how many a queue's consumer holds in memory.
    /// Default 100.
    #[must_use]
    pub fn batch(mut self, batch: u16) -> Self {
        self.batch = batch;
        self
    }

    /// How a failing message is tried again before it is set aside, and how long outages are waited out.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Counters that stay readable while it runs.
    pub fn stats(&self) -> SubscriberStats {
        self.stats.clone()
    }

    /// Declares the queues and their bindings and consumes nothing: from then on the broker keeps messages
    /// for this subscriber.
    ///
    /// # Errors
    /// As [`run`](Self::run), and an outage of the broker.
    pub async fn declare(&self) -> Result<()> {
        self.validate()?;
        for queue in self.queue_list() {
            drop(self.broker.consumer(&queue).await?);
        }
        Ok(())
    }

    /// Consumes until `shutdown` is cancelled; then the batch in hand is finished.
    ///
    /// Outages of broker and database are waited out, with nothing acknowledged meanwhile.
    ///
    /// # Errors
    /// At start only: `Invalid` when two consumers want one kind of message or a number is out of bounds,
    /// `Database` when the inbox tables are missing, `Broker` when the broker refuses the queues.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        self.validate()?;
        let queues = self.queue_list();
        let Self { name, broker, pool, effects, batch, retry, stats, .. } = self;
        let worker = Arc::new(Worker::new(name, pool, effects, retry, stats));
        pump::run(worker, broker, queues, usize::from(batch), shutdown).await
    }

    fn validate(&self) -> Result<()> {
        let name_fits = (1..=100).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let problem = if !name_fits {
            Some(format!("subscriber name {:?}: use 1 to 100 of [A-Za-z0-9_-]", self.name))
        } else if self.effects.is_empty() {
            Some(format!("subscriber {} consumes nothing: add .copy::<…>() or .on(…)", self.name))
        } else if !self.overlaps.is_empty() {
            Some(format!(
                "subscriber {}: {} has two consumers; a second one needs a second Subscriber with its own queues",
                self.name,
                self.overlaps.join(", ")
            ))
        } else if !(1..=BUCKETS).contains(&self.queues) || self.batch == 0 {
            Some(format!("subscriber {}: queues are 1 to {BUCKETS}, a batch is at least 1", self.name))
        } else {
            self.effects.iter().find(|(kind, effect)| !is_consumable(kind, effect)).map(|(kind, _)| {
                format!(
                    "subscriber {}: {kind:?} cannot be handled; use {{aggregate}}.{{event}}, and `current` is for copies",
                    self.name
                )
            })
        };
        problem.map_or(Ok(()), |text| Err(Error::new(ErrorKind::Invalid, text)))
    }

    /// Bucket b goes to queue b mod the number of queues.
    fn queue_list(&self) -> Vec<Queue> {
        let kinds = || self.effects.keys();
        (0..self.queues)
            .map(|number| Queue {
                name: format!("{}.{number}", self.name),
                bindings: if self.queues == 1 {
                    kinds().map(|kind| format!("{kind}.*")).collect()
                } else {
                    let buckets = (0..BUCKETS).filter(|bucket| bucket % self.queues == number);
                    buckets.flat_map(|b| kinds().map(move |kind| format!("{kind}.{b:02}"))).collect()
                },
                prefetch: self.batch,
            })
            .collect()
    }
}

fn is_consumable<C>(kind: &str, effect: &Effect<C>) -> bool {
    match kind.split_once('.') {
        Some((aggregate, event)) => {
            let is_word = |word: &str| !word.is_empty() && !word.contains(['.', '*', '#']);
            let for_copies_only = event == Operation::Current.name();
            is_word(aggregate) && is_word(event) && (effect.copy.is_some() || !for_copies_only)
        }
        None => false,
    }
}

fn copy_change<R: ReplicaOn<C>, C: OutboxConnection>(
    tx: &mut OutboxTx<'_, C>,
    recorded: &Recorded,
) -> Result<()> {
    match copy::apply::<R, C>(tx.conn(), recorded)? {
        copy::Applied::Yes => Ok(()),
        // The inbox does not know the message, yet the copy has a newer change: normal ways of repeating
        // bring only known messages, so the source's ids have probably started again.
        copy::Applied::Stale => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "stale-unknown: copy {} shows a newer change of key {} than version {}/{} of outbox {}; \
                 if that outbox was restored from a backup, raise its generation and resync",
                R::COPY,
                recorded.message.key(),
                recorded.version.generation,
                recorded.version.id,
                recorded.source
            ),
        )),
    }
}

/// Counters of a subscriber since it was made; clones share them.
#[derive(Debug, Clone, Default)]
pub struct SubscriberStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    applied: AtomicU64,
    duplicates: AtomicU64,
    set_aside: AtomicU64,
    retries: AtomicU64,
}

impl SubscriberStats {
    /// Messages whose effect was committed.
    pub fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    /// Deliveries of messages that had been applied before.
    pub fn duplicates(&self) -> u64 {
        self.0.duplicates.load(Ordering::Relaxed)
    }

    /// Messages set aside in `inbox_held`.
    pub fn set_aside(&self) -> u64 {
        self.0.set_aside.load(Ordering::Relaxed)
    }

    /// Attempts after the first one of a failing message; outages are not counted.
    pub fn retries(&self) -> u64 {
        self.0.retries.load(Ordering::Relaxed)
    }
}
