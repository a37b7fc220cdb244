//! What a subscriber counts, and which of its handlers run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::incoming::Incoming;
use super::watch::{Hanging, Running, Watch};

/// Counters of a subscriber since it was made; clones share them.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// # use outbox_core::{Error, ErrorKind, Message, OutboxConnection};
/// use outbox_core::{Subscriber, SubscriberStats};
///
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool).on_with("product.sold", |_, count: u32, incoming| {
///     if count == 0 { return Err(Error::new(ErrorKind::Invalid, "nothing was sold")) }
///     if incoming.attempt() == 1 { Err(Error::application("the till is closed")) } else { Ok(()) }
/// });
/// let stats: SubscriberStats = orders.stats();
/// connection.outbox_transaction(|tx| {
///     let (sold, unsold) = (b"2".to_vec(), b"0".to_vec());
///     tx.record_message(Message::new("product", "7", "sold", sold)?);
///     Ok(tx.record_message(Message::new("product", "8", "sold", unsold)?))
/// })?;
/// run_until_idle(&mut *connection, &broker, &[&orders]).unwrap_err();
/// assert_eq!((stats.applied(), stats.retries(), stats.set_aside()), (1, 1, 1));
/// assert_eq!((stats.duplicates(), stats.hung(), stats.hanging().len()), (0, 0, 0));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SubscriberStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    applied: AtomicU64,
    duplicates: AtomicU64,
    set_aside: AtomicU64,
    retries: AtomicU64,
    watch: Watch,
}

impl SubscriberStats {
    /// Messages whose effect was committed.
    pub fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    /// Deliveries of messages that had been applied, or were held, before.
    pub fn duplicates(&self) -> u64 {
        self.0.duplicates.load(Ordering::Relaxed)
    }

    /// Messages set aside in `inbox_held` until somebody decides, each time that it happened.
    pub fn set_aside(&self) -> u64 {
        self.0.set_aside.load(Ordering::Relaxed)
    }

    /// Attempts after the first one of a failing message; outages are not counted.
    pub fn retries(&self) -> u64 {
        self.0.retries.load(Ordering::Relaxed)
    }

    /// The handlers that run longer than the subscriber's [limit](crate::Subscriber::handler_limit) now, those that
    /// began first at the front. Only async ones are cancelled; a sync one holds its queue up until it returns.
    pub fn hanging(&self) -> Vec<Hanging> {
        self.0.watch.hanging()
    }

    /// Handlers that had run longer than the limit, each time that it happened.
    pub fn hung(&self) -> u64 {
        self.0.watch.hung()
    }

    /// A handler runs until this is dropped.
    pub(super) fn running(&self, incoming: &Incoming<'_>) -> Running<'_> {
        self.0.watch.begin(incoming)
    }

    /// Which handlers have come over the limit since it was asked before.
    pub(super) fn newly_hanging(&self) -> Vec<Hanging> {
        self.0.watch.newly_hanging()
    }

    pub(super) fn count_applied(&self) {
        self.0.applied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_duplicate(&self) {
        self.0.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_set_aside(&self) {
        self.0.set_aside.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_retry(&self) {
        self.0.retries.fetch_add(1, Ordering::Relaxed);
    }
}
