//! Forgets what was applied long ago: old rows of the inbox and old marks of deleted keys.
//!
//! Once they are gone, a message that was applied could be taken for new. So the horizon is raised first: a
//! message recorded before it, which the inbox does not know, is set aside instead of applied. So that nothing that
//! waits in a queue is ever behind the horizon, it is raised only while each queue is empty, or shows by what was
//! applied of it last that whatever waits there was published lately: a queue is first in, first out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::pump::on_blocking_thread;
use super::worker::{Learned, Worker, millis};
use crate::broker::{Broker, Queue};
use crate::connection::OutboxConnection;
use crate::error::{Error, Result};
use crate::message::Recorded;

/// What is younger is never forgotten: with it, the horizon is always further away than [`MARGIN`].
pub(super) const RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);
/// The horizon lies so much later than what is forgotten: the clocks of source and consumer may differ by this.
const MARGIN: Duration = Duration::from_secs(3600);
/// What was recorded so lately and applied was published so lately at the earliest, and all that waits behind it.
const LATELY: Duration = Duration::from_secs(3600);
/// Rows of one DELETE, and the pause behind it in which others have the table.
const CHUNK: i64 = 1000;
const PAUSE: Duration = Duration::from_millis(20);
/// How long one process may prune at a time. Less than the margin.
const TURN: Duration = Duration::from_secs(300);
/// How often it is looked whether there is something to forget.
const EVERY: Duration = Duration::from_secs(600);

/// What [`Subscriber::prune`](crate::Subscriber::prune) has done.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// use outbox_core::{Message, OutboxConnection, Pruned, Subscriber, testing::publish};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool).on("product.sold", |_, _: u32| Ok(()));
/// orders.declare().await?;
/// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
/// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
/// publish(&mut *connection, &broker)?;
/// assert!(!orders.prune().await?.ran, "it may have waited for long");
///
/// run_until_idle(&mut *connection, &broker, &[&orders])?;
/// let Pruned { ran, applied, deleted, .. } = orders.prune().await?;
/// assert_eq!((ran, applied, deleted), (true, 0, 0), "it was applied just now");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// False when nothing could be forgotten now: messages wait in a queue of which nothing recorded within the last
    /// hour was applied, or another process prunes.
    pub ran: bool,
    /// Rows deleted from `inbox`.
    pub applied: u64,
    /// Rows deleted from `copy_deleted`.
    pub deleted: u64,
}

/// Prunes now and then until shutdown.
pub(super) async fn run<B: Broker, C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    broker: &B,
    queues: &[Queue],
    shutdown: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match prune(worker, broker, queues, shutdown).await {
            Ok(Pruned { ran: true, applied, deleted }) if applied + deleted > 0 => {
                tracing::info!(subscriber = worker.name, applied, deleted, "old inbox rows are forgotten");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(subscriber = worker.name, %error, "the inbox is not pruned now"),
        }
    }
}

pub(super) async fn prune<B: Broker, C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    broker: &B,
    queues: &[Queue],
    shutdown: &CancellationToken,
) -> Result<Pruned> {
    let mut busy = Vec::new();
    for (number, queue) in (0..).zip(queues) {
        // A broker that cannot tell is taken for busy.
        if broker.depth(queue).await?.is_none_or(|depth| depth > 0) {
            busy.push(number);
        }
    }
    let (worker, shutdown) = (Arc::clone(worker), shutdown.clone());
    on_blocking_thread(move || worker.prune(&busy, &shutdown)).await
}

impl<C: OutboxConnection> Worker<C> {
    /// Forgets, unless one of these queues may hold what was published long ago.
    fn prune(&self, busy: &[i16], shutdown: &CancellationToken) -> Result<Pruned> {
        let connection = &mut *self.connections.get()?;
        let progress = if busy.is_empty() { Vec::new() } else { connection.progress(&self.name)? };
        let is_current = |queue: &i16| {
            let lately = i64::try_from(LATELY.as_micros()).unwrap_or(i64::MAX);
            progress.iter().any(|row| row.queue == *queue && row.age_us <= lately)
        };
        if !busy.iter().all(is_current) {
            return Ok(Pruned::default());
        }
        if !connection.claim_upkeep(&self.name, millis(TURN))? {
            return Ok(Pruned::default());
        }
        connection.raise_horizon(&self.name, millis(self.retention.saturating_sub(MARGIN)))?;
        let mut pruned = Pruned { ran: true, ..Pruned::default() };
        let end = Instant::now() + TURN;
        let goes_on = || {
            std::thread::sleep(PAUSE);
            Instant::now() < end && !shutdown.is_cancelled()
        };
        let ago = millis(self.retention);
        // The ids begin with the time at which they were made, which is before they were applied: all that is old
        // stands at the beginning of the primary key.
        let before = first_id_of(chrono::Utc::now() - chrono::TimeDelta::milliseconds(ago));
        let mut after = vec![0; 16];
        loop {
            let (last, count) = connection.prune_inbox(&self.name, [&after, &before], ago, CHUNK)?;
            pruned.applied += count as u64;
            match last {
                Some(last) if goes_on() => after = last,
                _ => break,
            }
        }
        for copy in self.effects.copies() {
            loop {
                let count = in_peace(|| connection.prune_deleted(copy, ago, CHUNK))? as u64;
                pruned.deleted += count;
                if count < CHUNK.unsigned_abs() || !goes_on() {
                    break;
                }
            }
        }
        connection.release_upkeep(&self.name)?;
        Ok(pruned)
    }

    /// Refuses a message, unknown to the inbox, that may have been applied before the inbox forgot.
    pub(super) fn check_horizon(
        &self,
        connection: &mut C,
        recorded: &Recorded,
        learned: &mut Learned,
    ) -> Result<()> {
        // No horizon is that near.
        if chrono::Utc::now() - recorded.recorded_at < chrono::TimeDelta::hours(1) {
            return Ok(());
        }
        let horizon = match learned.horizon {
            Some(horizon) => horizon,
            None => *learned.horizon.insert(connection.horizon_us(&self.name)?),
        };
        match horizon {
            Some(horizon) if recorded.recorded_at.timestamp_micros() < horizon => {
                Err(Error::invalid(format!(
                    "behind-horizon: recorded at {}, before what the inbox remembers: it may have been applied \
                 before; force it, or discard it",
                    recorded.recorded_at
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Again where another transaction was preferred.
fn in_peace<T>(mut work: impl FnMut() -> diesel::QueryResult<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        match work().map_err(Error::from) {
            Err(error) if error.is_contention() && tries < 10 => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// The lowest UUIDv7 of a time.
fn first_id_of(time: chrono::DateTime<chrono::Utc>) -> Vec<u8> {
    let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0).to_be_bytes();
    let mut id = vec![0; 16];
    id[..6].copy_from_slice(&millis[2..]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    #[test]
    fn ids_of_later_are_greater() {
        let id = MessageId::now();
        let made = id.made_at().unwrap();
        assert!(first_id_of(made).as_slice() <= id.as_bytes().as_slice());
        assert!(first_id_of(made + chrono::TimeDelta::milliseconds(1)).as_slice() > id.as_bytes().as_slice());
    }
}
