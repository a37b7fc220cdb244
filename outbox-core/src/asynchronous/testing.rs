//! The test kit on connections of diesel-async's.

use tokio::task::block_in_place;

use super::connection::{AsyncOutboxConnection, depth, finish};
use crate::broker::memory::MemoryBroker;
use crate::error::Result;
use crate::testing::run::{ROUNDS_MAX, all_taken, no_end, publish_all};
use crate::testing::{Applies, RecordedMessage, read, shown};

/// As [`recorded`](crate::testing::recorded); give what it returns to
/// [`assert_recorded!`](crate::assert_recorded) and the other assertions in the place of the connection.
///
/// ```standalone_crate
/// # include!("../doc_setup.rs");
/// # #[tokio::main] async fn main() -> Result<()> {
/// use outbox_core::{AsyncOutboxConnection, assert_recorded, testing::recorded_async};
///
/// # let mut connection = async_connection();
/// connection.outbox_transaction(async |tx| tx.insert(&NewProduct { name: "kettle" }).await).await?;
/// assert_recorded!(recorded_async(&mut connection).await, Product, created, after = {"name": "kettle"});
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// As [`recorded`](crate::testing::recorded).
pub async fn recorded_async<C: AsyncOutboxConnection>(connection: &mut C) -> Vec<RecordedMessage> {
    shown(connection.pending_messages().await.map_err(Into::into).and_then(read))
}

/// As [`publish`](crate::testing::publish).
///
/// ```
/// # #[tokio::main] async fn main() -> outbox_core::Result<()> {
/// # let mut connection = outbox_core::AsyncSqliteConnection::new(outbox_core::testing::memory_outbox());
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::{AsyncOutboxConnection, Message, assert_nothing_recorded, testing};
///
/// let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
/// connection.outbox_transaction(async |tx| { tx.record_message(message); Ok(()) }).await?;
///
/// let broker = MemoryBroker::new();
/// assert_eq!(testing::publish_async(&mut connection, &broker).await?, 1);
/// assert_nothing_recorded!(testing::recorded_async(&mut connection).await);
/// assert_eq!(broker.unrouted()[0].kind, "product.seen");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`publish`](crate::testing::publish).
pub async fn publish_async<C: AsyncOutboxConnection>(
    connection: &mut C,
    broker: &MemoryBroker,
) -> Result<usize> {
    connection.begin_writing().await?;
    let own = depth(connection)?;
    let outcome = publish_open(connection, broker).await;
    let (published, refused) = finish(connection, own, outcome).await?;
    refused.map_or(Ok(published), Err)
}

async fn publish_open<C: AsyncOutboxConnection>(
    connection: &mut C,
    broker: &MemoryBroker,
) -> Result<(usize, Option<crate::Error>)> {
    let (published, refused) = publish_all(&read(connection.pending_messages().await?)?, broker);
    connection.forget_messages(&published).await?;
    Ok((published.len(), refused))
}

/// As [`run_until_idle`](crate::testing::run_until_idle), with subscribers of either kind.
///
/// ```
/// # #[tokio::main] async fn main() -> outbox_core::Result<()> {
/// # let mut connection = outbox_core::AsyncSqliteConnection::new(outbox_core::testing::memory_outbox());
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::{AsyncOutboxConnection, Message, Subscriber, testing};
///
/// let broker = MemoryBroker::new();
/// // Of another service, with a database of its own.
/// let orders = Subscriber::new("order", broker.clone(), testing::memory_pool())
///     .on_raw("product.seen", |_, _| Ok(()));
///
/// let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
/// connection.outbox_transaction(async |tx| { tx.record_message(message); Ok(()) }).await?;
/// assert_eq!(testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?, 1);
/// assert_eq!(orders.stats().applied(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`run_until_idle`](crate::testing::run_until_idle).
///
/// # Panics
/// On a runtime of one thread: subscribers apply on this one, which other tasks must not wait for. In tests
/// `#[tokio::test(flavor = "multi_thread")]`.
pub async fn run_until_idle_async<C: AsyncOutboxConnection>(
    connection: &mut C,
    broker: &MemoryBroker,
    subscribers: &[&(dyn Applies + Sync)],
) -> Result<usize> {
    block_in_place(|| subscribers.iter().try_for_each(|subscriber| subscriber.prepare_queues(broker)))?;
    let mut total = 0;
    for _ in 0..ROUNDS_MAX {
        let published = publish_async(connection, broker).await?;
        let applied = block_in_place(|| {
            subscribers.iter().map(|subscriber| subscriber.apply_queued()).sum::<Result<usize>>()
        })?;
        total += published;
        if published == 0 && applied == 0 {
            return all_taken(broker).map(|()| total);
        }
    }
    Err(no_end(&read(connection.pending_messages().await?)?))
}
