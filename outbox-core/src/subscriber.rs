//! A consumer service's loop: deliveries → inbox → copy or handler → acknowledgement.
//!
//! A batch is applied in one local transaction and acknowledged after its COMMIT. The inbox row of a
//! message goes in first: where two processes hold the same message, the second waits on that row and
//! then finds it applied.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Queue};
use crate::connection::OutboxConnection;
use crate::connections::Connections;
use crate::copy::ReplicaOn;
use crate::entity::Operation;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::message::BUCKETS;
use crate::retry::RetryPolicy;
use crate::transaction::OutboxTx;

mod ahead;
mod aside;
mod batch;
#[cfg(feature = "testing")]
mod drain;
mod effect;
mod freshness;
mod held;
mod incoming;
mod item;
mod prefetch;
mod pump;
mod stats;
mod upkeep;
mod watch;
mod worker;

pub use effect::FailurePolicy;
use effect::{Effect, Effects};
pub use freshness::{Freshness, Reached, Seen};
pub use incoming::Incoming;
pub use stats::SubscriberStats;
pub use upkeep::Pruned;
pub use watch::Hanging;
use worker::{Retries, Worker};

/// The waits between the attempts at a failing message.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];
/// Messages of a transaction: what every transaction costs by itself is then a small part, and it still takes a few hundredths
/// of a second.
const BATCH: u16 = 500;
/// How long a handler may take.
const HANDLER_LIMIT: Duration = Duration::from_secs(60);
/// How long applied messages are remembered.
const RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

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
pub struct Subscriber<B, C> {
    name: String,
    broker: B,
    connections: Connections<C>,
    effects: Effects<C>,
    policies: Vec<(String, FailurePolicy)>,
    overlaps: Vec<String>,
    queues: u16,
    batch: u16,
    retention: Duration,
    retries: Retries,
    handler_limit: Duration,
    stats: SubscriberStats,
}

impl<B, C> fmt::Debug for Subscriber<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("name", &self.name)
            .field("kinds", &self.effects.kinds().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl<B: Broker, C: OutboxConnection> Subscriber<B, C> {
    /// A subscriber that consumes nothing yet. Its name is that of its queues (`{name}.{number}`) and of its
    /// rows in the inbox: keep it for the life of the service.
    ///
    /// With diesel-async it is made by `new_async`, and its handlers are given to `on_async` and the like.
    pub fn new(name: impl Into<String>, broker: B, pool: Pool<ConnectionManager<C>>) -> Self
    where
        C: R2D2Connection,
    {
        Self::over(name.into(), broker, pool.into())
    }

    pub(crate) fn over(name: String, broker: B, connections: Connections<C>) -> Self {
        Self {
            name,
            broker,
            connections,
            effects: Effects::default(),
            policies: Vec::new(),
            overlaps: Vec::new(),
            queues: 1,
            batch: BATCH,
            retention: RETENTION,
            retries: Retries { policy: RetryPolicy::default(), later: RETRY_AFTER.to_vec() },
            handler_limit: HANDLER_LIMIT,
            stats: SubscriberStats::default(),
        }
    }

    /// Keeps a copy of an aggregate: follows its `created`, `updated`, `deleted` (by the names in
    /// [`Replica::EVENTS`](crate::Replica::EVENTS)) and `current` messages and takes a change only if it is
    /// newer than what the copy shows. Of several messages of a key in one batch the last one is written.
    ///
    /// Fields that the copy does not name are ignored; a message that lacks a field of the copy's is set aside.
    /// A second copy of the same aggregate needs a second `Subscriber`.
    ///
    /// ```
    /// # use diesel::connection::SimpleConnection as _;
    /// # use diesel::prelude::*;
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Message, OutboxConnection, Replica, Subscriber};
    /// # diesel::table! {
    /// #     product_copy (id) {
    /// #         id -> BigInt, name -> Text,
    /// #         outbox_generation -> BigInt, outbox_id -> BigInt, outbox_bucket -> SmallInt,
    /// #     }
    /// # }
    /// #[derive(Replica)]
    /// #[diesel(table_name = product_copy)]
    /// #[replica(of = "product")]
    /// struct ProductCopy { id: i64, name: String }
    ///
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// # connection.batch_execute(
    /// #     "create table product_copy (id bigint primary key not null, name text not null,
    /// #          outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null)",
    /// # )?;
    /// let orders = Subscriber::new("order", broker.clone(), pool).copy::<ProductCopy>();
    /// connection.outbox_transaction(|tx| {
    ///     // What the other service's writes of a row become.
    ///     let (lamp, desk_lamp) = (r#"{"after":{"id":7,"name":"lamp"}}"#, r#"{"after":{"id":7,"name":"desk lamp"}}"#);
    ///     tx.record_message(Message::new("product", "7", "created", lamp.into())?);
    ///     Ok(tx.record_message(Message::new("product", "7", "updated", desk_lamp.into())?))
    /// })?;
    /// run_until_idle(&mut *connection, &broker, &[&orders])?;
    /// assert_eq!(product_copy::table.select(product_copy::name).load::<String>(&mut *connection)?, ["desk lamp"]);
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn copy<R: ReplicaOn<C> + 'static>(mut self) -> Self {
        for operation in Operation::ALL {
            let kind = format!("{}.{}", R::AGGREGATE, R::EVENTS.of(operation));
            self.add(kind, Effect::copy::<R>());
        }
        self
    }

    /// Handles messages of one kind (`{aggregate}.{event}`), with the payload as `E`, in the transaction
    /// that records the message as applied. What the handler itself records is published from this
    /// service's own outbox.
    ///
    /// An error rolls the message's writes back. It is tried again [later](Self::retry_after), while later messages
    /// of its key wait, and in the end set aside in `inbox_held` with the error; [`on_failure`](Self::on_failure)
    /// has other ways. An error of kind [`Invalid`](crate::ErrorKind::Invalid) is not tried again; an
    /// [outage](crate::ErrorKind::Outage) is waited out and not counted.
    #[must_use]
    pub fn on<E: DeserializeOwned>(
        self,
        kind: impl Into<String>,
        handler: impl Fn(&mut OutboxTx<'_, C>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_with(kind, move |tx, event, _| handler(tx, event))
    }

    /// As [`on`](Self::on), with what is known of the message beside its payload: headers, attempt, version, an
    /// idempotency key.
    ///
    /// ```
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Message, OutboxConnection, Subscriber};
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// let orders = Subscriber::new("order", broker.clone(), pool).on_with("product.sold", |tx, count: u32, incoming| {
    ///     // What the handler records belongs to the same tenant.
    ///     tx.set_header("tenant", incoming.headers().get("tenant").unwrap_or("none"))?;
    ///     tx.record_message(Message::new("order", incoming.message().key(), "placed", count.to_string().into())?);
    ///     Ok(())
    /// });
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?.with_header("tenant", "eu")?;
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// run_until_idle(&mut *connection, &broker, &[&orders])?;
    /// let placed = &broker.unrouted()[0];
    /// assert_eq!((placed.kind.as_str(), placed.headers.get("tenant")), ("order.placed", Some("eu")));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn on_with<E: DeserializeOwned>(
        self,
        kind: impl Into<String>,
        handler: impl Fn(&mut OutboxTx<'_, C>, E, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_raw(kind, move |tx, incoming| handler(tx, incoming.payload()?, incoming))
    }

    /// As [`on_with`](Self::on_with), with the payload as it came, for one kind or a pattern of kinds:
    /// `product.*`, `*.created`, `*.*`. A pattern takes no `current` messages, which are for copies.
    ///
    /// ```
    /// # use diesel::connection::SimpleConnection as _;
    /// # use diesel::prelude::*;
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Message, OutboxConnection, Subscriber};
    /// # diesel::table! { audit (id) { id -> Integer, kind -> Text, payload -> Binary, } }
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// # connection.batch_execute("create table audit (id integer primary key, kind text, payload blob)")?;
    /// let auditor = Subscriber::new("audit", broker.clone(), pool).on_raw("product.*", |tx, incoming| {
    ///     let message = incoming.message();
    ///     diesel::insert_into(audit::table)
    ///         .values((audit::kind.eq(message.kind()), audit::payload.eq(message.payload())))
    ///         .execute(tx.conn())?;
    ///     Ok(())
    /// });
    /// connection.outbox_transaction(|tx| {
    ///     tx.record_message(Message::new("product", "7", "sold", b"2".to_vec())?);
    ///     Ok(tx.record_message(Message::new("product", "7", "noted", b"\"as is\"".to_vec())?))
    /// })?;
    /// run_until_idle(&mut *connection, &broker, &[&auditor])?;
    /// let rows = audit::table.order(audit::id).select((audit::kind, audit::payload));
    /// let rows = rows.load::<(String, Vec<u8>)>(&mut *connection)?;
    /// assert_eq!(rows, [("product.sold".into(), b"2".to_vec()), ("product.noted".into(), b"\"as is\"".to_vec())]);
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn on_raw(
        self,
        kind: impl Into<String>,
        handler: impl Fn(&mut OutboxTx<'_, C>, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle(kind.into(), move |connection, incoming| {
            let mut tx = OutboxTx::new(connection);
            handler(&mut tx, incoming)?;
            tx.flush()
        })
    }

    /// Handles messages in the open transaction, with what is recorded.
    pub(crate) fn handle(
        mut self,
        kind: String,
        handler: impl Fn(&mut C, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.add(kind, Effect::handler(handler));
        self
    }

    /// Handles every event of `E`, for an enum each of its variants, as [`on`](Self::on) does for one kind.
    ///
    /// A payload that reads as another event than the message's kind says is set aside, not handled: with
    /// `#[serde(untagged)]` variants of equal fields cannot be told apart.
    ///
    /// ```
    /// # use diesel::connection::SimpleConnection as _;
    /// # use diesel::prelude::*;
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{OutboxConnection, OutboxEvent, Subscriber};
    /// # use serde::{Deserialize, Serialize};
    /// # diesel::table! { shelf (id) { id -> BigInt, stock -> BigInt, } }
    /// #[derive(Serialize, Deserialize, OutboxEvent)]
    /// #[serde(tag = "type")]
    /// #[outbox(aggregate = "product", key = id)]
    /// enum ProductEvent { Sold { id: i64, count: i64 }, Delisted { id: i64 } }
    ///
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// # connection.batch_execute("create table shelf (id integer primary key, stock bigint not null);
    /// #     insert into shelf values (7, 5), (8, 5)")?;
    /// let orders = Subscriber::new("order", broker.clone(), pool).on_event(|tx, event: ProductEvent| {
    ///     match event {
    ///         ProductEvent::Sold { id, count } => {
    ///             diesel::update(shelf::table.find(id)).set(shelf::stock.eq(shelf::stock - count)).execute(tx.conn())?
    ///         }
    ///         ProductEvent::Delisted { id } => diesel::delete(shelf::table.find(id)).execute(tx.conn())?,
    ///     };
    ///     Ok(())
    /// });
    /// let events = [ProductEvent::Sold { id: 7, count: 2 }, ProductEvent::Delisted { id: 8 }];
    /// connection.outbox_transaction(|tx| tx.record_all(&events))?;
    /// run_until_idle(&mut *connection, &broker, &[&orders])?;
    /// assert_eq!(shelf::table.load::<(i64, i64)>(&mut *connection)?, [(7, 3)]);
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn on_event<E: Event + DeserializeOwned>(
        self,
        handler: impl Fn(&mut OutboxTx<'_, C>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle_events::<E>(move |connection, event, _| {
            let mut tx = OutboxTx::new(connection);
            handler(&mut tx, event)?;
            tx.flush()
        })
    }

    /// As [`handle`](Self::handle), the events of `E`; also with how long it may take.
    pub(crate) fn handle_events<E: Event + DeserializeOwned>(
        mut self,
        handler: impl Fn(&mut C, E, Duration) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        for schema in E::EVENTS {
            let handler = Arc::clone(&handler);
            let run = move |connection: &mut C, incoming: &Incoming<'_>| {
                let event: E = incoming.payload()?;
                if event.event() != incoming.message().event() {
                    return Err(Error::invalid(format!(
                        "the payload reads as event {}; tag the enum: #[serde(tag = \"type\")]",
                        event.event()
                    )));
                }
                handler(connection, event, incoming.limit)
            };
            self.add(format!("{}.{}", E::AGGREGATE, schema.event), Effect::handler(run));
        }
        self
    }

    fn add(&mut self, kind: String, effect: Effect<C>) {
        if !self.effects.add(kind.clone(), effect) {
            self.overlaps.push(kind);
        }
    }

    /// What a message of this kind, or pattern of kinds, holds up while it fails.
    ///
    /// ```
    /// # use outbox_core::{ErrorKind, FailurePolicy, Subscriber, broker::memory::MemoryBroker, testing::memory_pool};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let orders = Subscriber::new("order", MemoryBroker::new(), memory_pool())
    ///     .on("product.sold", |_, _: u32| Ok(()))
    ///     .on_failure("product.sold", FailurePolicy::Halt);
    /// orders.declare().await?;
    /// // It has to be one that is consumed.
    /// let error = orders.on_failure("product.bought", FailurePolicy::Halt).declare().await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_failure(mut self, kind: impl Into<String>, policy: FailurePolicy) -> Self {
        self.policies.push((kind.into(), policy));
        self
    }

    /// Spreads the messages over so many queues, 1 to 64, by bucket, for consumers in parallel; order per
    /// key holds. Default 1. Changing it leaves the queues of the old number bound: drain and delete them.
    ///
    /// ```
    /// # use outbox_core::{Message, OutboxConnection, Subscriber, broker::memory::MemoryBroker, testing};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = MemoryBroker::new();
    /// let orders = Subscriber::new("order", broker.clone(), testing::memory_pool())
    ///     .on("product.sold", |_, _: u32| Ok(()))
    ///     .queues(4);
    /// orders.declare().await?;
    ///
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// let queue = format!("order.{}", sold.bucket() % 4);
    /// # let mut connection = testing::memory_outbox();
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// testing::publish(&mut connection, &broker)?;
    /// assert_eq!(broker.depth(&queue), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    /// How many messages one transaction applies at most, fewer where it takes more than half a second. A queue's
    /// consumer holds four times as many in memory, fewer where those of late would take more than 64 MiB. Default 500.
    ///
    /// With 1 no handler runs again because another message has failed:
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Error, ErrorKind, Message, OutboxConnection, Subscriber};
    ///
    /// static RUNS: AtomicU32 = AtomicU32::new(0);
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// let orders = Subscriber::new("order", broker.clone(), pool).batch(1).on("product.sold", |_, count: u32| {
    ///     RUNS.fetch_add(1, Ordering::Relaxed);
    ///     if count > 0 { Ok(()) } else { Err(Error::new(ErrorKind::Invalid, "nothing was sold")) }
    /// });
    /// connection.outbox_transaction(|tx| {
    ///     tx.record_message(Message::new("product", "7", "sold", b"2".to_vec())?);
    ///     Ok(tx.record_message(Message::new("product", "8", "sold", b"0".to_vec())?))
    /// })?;
    /// run_until_idle(&mut *connection, &broker, &[&orders]).unwrap_err();
    /// assert_eq!((RUNS.load(Ordering::Relaxed), orders.stats().applied()), (2, 1));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn batch(mut self, batch: u16) -> Self {
        self.batch = batch;
        self
    }

    /// How long outages are waited out, and how many attempts a failing message has: its `max_attempts`.
    ///
    /// ```
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Error, Message, OutboxConnection, RetryPolicy, Subscriber};
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// let orders = Subscriber::new("order", broker.clone(), pool)
    ///     .on("product.sold", |_, _: u32| Err(Error::application("the till is closed")))
    ///     .retry(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() });
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// let error = run_until_idle(&mut *connection, &broker, &[&orders]).unwrap_err();
    /// assert!(error.to_string().contains("product.sold of key 7, 3 attempts: the till is closed"));
    /// assert_eq!((orders.stats().retries(), orders.stats().set_aside()), (2, 1));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retries.policy = retry;
        self
    }

    /// The waits between the attempts at a failing message, which are spent in `inbox_held` while others flow; the
    /// last one again where there are more attempts. Default 1 s, 10 s, 1 min, 10 min.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, publish};
    /// # use outbox_core::{Error, Message, OutboxConnection, Subscriber};
    /// # use tokio_util::sync::CancellationToken;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// let orders = Subscriber::new("order", broker.clone(), pool)
    ///     .on_with("product.sold", |_, _: u32, incoming| {
    ///         if incoming.attempt() < 3 { Err(Error::application("the till is closed")) } else { Ok(()) }
    ///     })
    ///     // Default would be a second, then ten.
    ///     .retry_after([Duration::from_millis(20)]);
    /// orders.declare().await?;
    /// # let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// # connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// publish(&mut *connection, &broker)?;
    ///
    /// let (stats, began, shutdown) = (orders.stats(), Instant::now(), CancellationToken::new());
    /// let running = tokio::spawn(orders.run(shutdown.clone()));
    /// while stats.applied() == 0 && began.elapsed() < Duration::from_secs(9) {
    ///     tokio::time::sleep(Duration::from_millis(5)).await;
    /// }
    /// assert_eq!((stats.applied(), stats.retries()), (1, 2));
    /// shutdown.cancel();
    /// running.await.unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retry_after(mut self, waits: impl IntoIterator<Item = Duration>) -> Self {
        self.retries.later = waits.into_iter().collect();
        self
    }

    /// How long a handler may take, default 60 s. One that takes longer is told of in the log and by
    /// [`SubscriberStats::hanging`]. A sync one cannot be stopped and holds its queue up; an async one is cancelled,
    /// which rolls back what it wrote and counts as a failed attempt.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use outbox_core::broker::memory::MemoryBroker;
    /// # use outbox_core::testing::{memory_pool, run_until_idle};
    /// # use outbox_core::{Message, OutboxConnection, Subscriber};
    /// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
    /// # let mut connection = pool.get()?;
    /// let orders = Subscriber::new("order", broker.clone(), pool)
    ///     .handler_limit(Duration::from_millis(1))
    ///     .on("product.sold", |_, _: u32| Ok(std::thread::sleep(Duration::from_millis(5))));
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// run_until_idle(&mut *connection, &broker, &[&orders])?;
    /// assert_eq!((orders.stats().hung(), orders.stats().applied()), (1, 1), "told of, and applied");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    #[must_use]
    pub fn handler_limit(mut self, limit: Duration) -> Self {
        self.handler_limit = limit;
        self
    }

    /// How long the inbox remembers what was applied, and copies what was deleted; a day at least, default 14 days.
    ///
    /// A message that is delivered later than that cannot be told from one that was applied: it is set aside in
    /// `inbox_held`, where it can be forced or discarded.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use outbox_core::{ErrorKind, Subscriber, broker::memory::MemoryBroker, testing::memory_pool};
    /// const DAY: Duration = Duration::from_secs(24 * 3600);
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let orders = Subscriber::new("order", MemoryBroker::new(), memory_pool())
    ///     .on("product.sold", |_, _: u32| Ok(()))
    ///     .retention(30 * DAY);
    /// orders.declare().await?;
    /// assert_eq!(orders.retention(DAY / 2).declare().await.unwrap_err().kind(), ErrorKind::Invalid);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Forgets now what is older than the [retention](Self::retention), in small steps, unless what waits in
    /// its queues may be old itself: while nothing recorded within the last hour was applied of them.
    /// [`run`](Self::run) does it every ten minutes. Ids that are no UUIDv7 are never forgotten.
    ///
    /// # Errors
    /// `Invalid` as [`run`](Self::run); an outage of the broker; the database's.
    pub async fn prune(&self) -> Result<Pruned> {
        self.validate()?;
        let worker = Arc::new(self.worker());
        upkeep::prune(&worker, &self.broker, &self.queue_list(), &CancellationToken::new()).await
    }

    /// Counters that stay readable while it runs.
    pub fn stats(&self) -> SubscriberStats {
        self.stats.clone()
    }

    /// Declares the queues and their bindings and consumes nothing: from then on the broker keeps messages
    /// for this subscriber.
    ///
    /// ```
    /// # use outbox_core::{Message, OutboxConnection, Subscriber, broker::memory::MemoryBroker, testing};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = MemoryBroker::new();
    /// let orders = Subscriber::new("order", broker.clone(), testing::memory_pool())
    ///     .on("product.sold", |_, _: u32| Ok(()));
    /// orders.declare().await?;
    ///
    /// # let mut connection = testing::memory_outbox();
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    /// testing::publish(&mut connection, &broker)?;
    /// assert_eq!((broker.depth("order.0"), orders.stats().applied()), (1, 0), "it waits");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), but for the inbox tables, which it does not look at; and an outage of the broker.
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
        let worker = Arc::new(self.worker());
        pump::run(worker, self.broker, queues, usize::from(self.batch), shutdown).await
    }

    /// What its tasks share.
    fn worker(&self) -> Worker<C> {
        let mut effects = self.effects.clone();
        for (kind, policy) in &self.policies {
            effects.set_policy(kind, *policy);
        }
        let (name, connections, stats) = (self.name.clone(), self.connections.clone(), self.stats.clone());
        Worker::new(
            name,
            connections,
            effects,
            self.retries.clone(),
            self.retention,
            self.handler_limit,
            stats,
        )
    }

    fn validate(&self) -> Result<()> {
        let name_fits = (1..=100).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let problem = if !name_fits {
            Some(format!("subscriber name {:?}: use 1 to 100 of [A-Za-z0-9_-]", self.name))
        } else if self.effects.kinds().next().is_none() {
            Some(format!("subscriber {} consumes nothing: add .copy::<…>() or .on(…)", self.name))
        } else if !self.overlaps.is_empty() {
            Some(format!(
                "subscriber {}: {} has two consumers; a second one needs a second Subscriber with its own queues",
                self.name,
                self.overlaps.join(", ")
            ))
        } else if let Some((a, b)) = self.effects.overlapping() {
            Some(format!(
                "subscriber {}: {a} and {b} want the same messages; the second needs a second Subscriber with its \
                 own queues",
                self.name
            ))
        } else if let Some((kind, _)) =
            self.policies.iter().find(|(kind, policy)| !self.effects.clone().set_policy(kind, *policy))
        {
            Some(format!("subscriber {}: on_failure names {kind}, which it does not consume", self.name))
        } else if self.retention < upkeep::RETENTION_MIN {
            Some(format!("subscriber {}: a retention is at least a day", self.name))
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
        problem.map_or(Ok(()), |text| Err(Error::invalid(text)))
    }

    /// Bucket b goes to queue b mod the number of queues.
    fn queue_list(&self) -> Vec<Queue> {
        let kinds = || self.effects.kinds();
        (0..self.queues)
            .map(|number| Queue {
                name: format!("{}.{number}", self.name),
                bindings: if self.queues == 1 {
                    kinds().map(|kind| format!("{kind}.*")).collect()
                } else {
                    let buckets = (0..BUCKETS).filter(|bucket| bucket % self.queues == number);
                    buckets.flat_map(|b| kinds().map(move |kind| format!("{kind}.{b:02}"))).collect()
                },
                // One is applied, the next is read, and RabbitMQ sends what comes after before it hears of the first.
                prefetch: self.batch.saturating_mul(4),
            })
            .collect()
    }
}

fn is_consumable<C>(kind: &str, effect: &Effect<C>) -> bool {
    match kind.split_once('.') {
        Some((aggregate, event)) => {
            let is_word = |word: &str| word == "*" || (!word.is_empty() && !word.contains(['.', '*', '#']));
            let for_copies_only = event == Operation::Current.name();
            is_word(aggregate) && is_word(event) && (effect.copy_name().is_some() || !for_copies_only)
        }
        None => false,
    }
}
