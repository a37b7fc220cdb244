//! How fresh what a subscriber keeps is, for the service's own code.

use std::fmt;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};

use super::pump::on_blocking_thread;
use crate::connection::OutboxConnection;
use crate::connections::Connections;
use crate::error::Result;
use crate::message::{MessageId, Version};
use crate::retry::RetryPolicy;

/// Tells how far a subscriber has come, from the tables of its database: for any process of the service, also
/// one that runs no subscriber.
///
/// ```no_run
/// # use std::time::Duration;
/// # use diesel::r2d2::{ConnectionManager, Pool};
/// # use outbox_core::{Freshness, MessageId, Seen};
/// # async fn example(
/// #     pool: Pool<ConnectionManager<diesel::SqliteConnection>>, id: MessageId,
/// # ) -> outbox_core::Result<()> {
/// let freshness = Freshness::new("order", pool);
/// // `id` came with the answer of the service that wrote: read one's own writes.
/// if freshness.wait_for(id, Duration::from_secs(2)).await? != Seen::Applied {
///     // Say that it takes a little longer.
/// }
/// # Ok(())
/// # }
/// ```
pub struct Freshness<C> {
    consumer: String,
    connections: Connections<C>,
}

// Not derived: `C` itself is never cloned.
impl<C> Clone for Freshness<C> {
    fn clone(&self) -> Self {
        Self { consumer: self.consumer.clone(), connections: self.connections.clone() }
    }
}

impl<C> fmt::Debug for Freshness<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Freshness").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

/// What a consumer has done with a message.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// use outbox_core::{Freshness, Message, OutboxConnection, Seen, Subscriber};
///
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool.clone()).on("product.sold", |_, _: u32| Ok(()));
/// let ids = connection.outbox_transaction(|tx| {
///     tx.record_message(Message::new("product", "7", "sold", b"2".to_vec())?);
///     tx.record_message(Message::new("product", "8", "sold", b"\"a few\"".to_vec())?);
///     Ok(tx.recorded_ids())
/// })?;
/// let freshness = Freshness::new("order", pool);
/// assert_eq!(freshness.seen(ids[0])?, Seen::NotYet);
/// run_until_idle(&mut *connection, &broker, &[&orders]).unwrap_err();
/// assert_eq!(freshness.seen(ids[0])?, Seen::Applied);
/// assert_eq!(freshness.seen(ids[1])?, Seen::Held, "its payload does not read");
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seen {
    /// Its effect is there.
    Applied,
    /// It stands in `inbox_held`: it failed, or an earlier one of its key did.
    Held,
    /// It has not come yet.
    NotYet,
}

/// The newest message of one source that one queue is done with; up to about a second old. Done with is also what is
/// held or waits in `inbox_held`, and what was applied before.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// use outbox_core::{Freshness, Message, OutboxConnection, Reached, Subscriber, testing::SOURCE};
///
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool.clone()).on("product.sold", |_, _: u32| Ok(()));
/// let freshness = Freshness::new("order", pool);
/// assert_eq!(freshness.reached()?, []);
///
/// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
/// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
/// run_until_idle(&mut *connection, &broker, &[&orders])?;
/// let reached: Reached = freshness.reached()?.remove(0);
/// assert_eq!((reached.source.as_str(), reached.queue, reached.version.id), (SOURCE, 0, 1));
/// assert!(reached.age.as_secs() < 60 && (reached.applied_at - reached.recorded_at).num_seconds() < 60);
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reached {
    /// The outbox that it came from.
    pub source: String,
    /// The number in the name of its queue.
    pub queue: u16,
    /// Its version; the id is the outbox row's.
    pub version: Version,
    /// When it was recorded, by the clock of the source's database.
    pub recorded_at: DateTime<Utc>,
    /// When this was noted, by the clock of the consumer's.
    pub applied_at: DateTime<Utc>,
    /// How long ago it was recorded. Where messages come all the time, that is how much behind the consumer is;
    /// without new messages it only grows.
    pub age: Duration,
}

impl<C: OutboxConnection> Freshness<C> {
    /// Of the subscriber with this name, in its database.
    pub fn new(consumer: impl Into<String>, pool: Pool<ConnectionManager<C>>) -> Self
    where
        C: R2D2Connection,
    {
        Self::over(consumer.into(), pool.into())
    }

    pub(crate) fn over(consumer: String, connections: Connections<C>) -> Self {
        Self { consumer, connections }
    }

    /// How far the subscriber has come, by source and queue; empty before its first message. Blocking.
    ///
    /// # Errors
    /// The database's.
    pub fn reached(&self) -> Result<Vec<Reached>> {
        let rows = self.connections.get()?.progress(&self.consumer)?;
        let time = |us| DateTime::from_timestamp_micros(us).unwrap_or_default();
        Ok(rows
            .into_iter()
            .map(|row| Reached {
                source: row.source,
                queue: row.queue.unsigned_abs(),
                version: Version { generation: row.generation, id: row.id },
                recorded_at: time(row.recorded_us),
                applied_at: time(row.applied_us),
                age: Duration::from_micros(u64::try_from(row.age_us).unwrap_or(0)),
            })
            .collect())
    }

    /// What the subscriber has done with this message. Blocking.
    ///
    /// After the [retention](crate::Subscriber::retention) an applied message counts as not come.
    ///
    /// # Errors
    /// The database's.
    pub fn seen(&self, id: MessageId) -> Result<Seen> {
        let mut connection = self.connections.get()?;
        if !connection.applied_among(&self.consumer, &[id])?.is_empty() {
            return Ok(Seen::Applied);
        }
        let is_held = !connection.held_among(&self.consumer, &[&id.to_string()])?.is_empty();
        Ok(if is_held { Seen::Held } else { Seen::NotYet })
    }

    /// Waits until the subscriber has applied this message, at most so long; returns how it stands then.
    ///
    /// Asks the database every 5 ms at first, every 100 ms later.
    ///
    /// # Errors
    /// The database's.
    pub async fn wait_for(&self, id: MessageId, timeout: Duration) -> Result<Seen> {
        let end = Instant::now() + timeout;
        let policy = RetryPolicy {
            initial: Duration::from_millis(5),
            max: Duration::from_millis(100),
            ..RetryPolicy::default()
        };
        let mut waits = policy.waits();
        loop {
            let asking = self.clone();
            let seen = on_blocking_thread(move || asking.seen(id)).await?;
            let rest = end.saturating_duration_since(Instant::now());
            if seen == Seen::Applied || rest.is_zero() {
                return Ok(seen);
            }
            tokio::time::sleep(waits.next_wait().min(rest)).await;
        }
    }
}
