//! What a subscriber counts, and which of its handlers run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::incoming::Incoming;
use super::watch::{Hanging, Running, Watch};

/// Counters of a subscriber since it was made; clones share them.
///
/// ```no_run
/// # fn example(subscriber: &outbox_core::Subscriber<
/// #     outbox_core::broker::memory::MemoryBroker, diesel::SqliteConnection>) {
/// // For the service's own metrics; taken before `run`, which takes the subscriber.
/// let stats = subscriber.stats();
/// println!("orders_applied_total {}", stats.applied());
/// println!("orders_duplicates_total {}", stats.duplicates());
/// println!("orders_set_aside_total {}", stats.set_aside());
/// println!("orders_retries_total {}", stats.retries());
/// println!("orders_hung_total {}", stats.hung());
/// for handler in stats.hanging() {
///     println!("{} of key {} has run for {:?}", handler.kind, handler.key, handler.since);
/// }
/// # }
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
