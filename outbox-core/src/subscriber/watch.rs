//! Which handlers run, and which of them for too long.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::incoming::Incoming;
use super::stats::SubscriberStats;
use crate::message::MessageId;

/// A handler that does not return.
///
/// ```
/// # use std::time::Duration;
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// # use outbox_core::{Message, OutboxConnection};
/// use outbox_core::{Hanging, Subscriber, SubscriberStats};
///
/// /// What the alarm says.
/// fn alarm(stats: &SubscriberStats) -> Vec<String> {
///     let text = |Hanging { kind, key, id, attempt, since, .. }: Hanging| {
///         format!("{kind} of key {key} (message {id}, attempt {attempt}) is handled since {since:?}")
///     };
///     stats.hanging().into_iter().map(text).collect()
/// }
///
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// # let orders = Subscriber::new("order", broker.clone(), pool).handler_limit(Duration::from_millis(1));
/// # let stats = orders.stats();
/// # let asked = stats.clone();
/// # let orders = orders.on("product.sold", move |_, _: u32| {
/// #     std::thread::sleep(Duration::from_millis(5));
/// // While a handler of the message is running:
/// assert!(alarm(&stats)[0].starts_with("product.sold of key 7 (message "));
/// #     Ok(())
/// # });
/// # let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
/// # run_until_idle(&mut *connection, &broker, &[&orders])?;
/// # let stats = asked;
/// // After it:
/// assert!(alarm(&stats).is_empty());
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hanging {
    /// The kind of the message that it handles.
    pub kind: String,
    /// The message's key.
    pub key: String,
    /// The message.
    pub id: MessageId,
    /// Which attempt it is.
    pub attempt: u32,
    /// For how long it has run.
    pub since: Duration,
}

/// The handlers that run.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Handlers>);

#[derive(Debug, Default)]
struct Handlers {
    /// By the order in which they began.
    running: BTreeMap<u64, Handler>,
    begun: u64,
    hung: u64,
}

#[derive(Debug)]
struct Handler {
    message: Hanging,
    began: Instant,
    limit: Duration,
    is_told: bool,
}

impl Handler {
    fn hanging(&self) -> Option<Hanging> {
        let since = self.began.elapsed();
        (since > self.limit).then(|| Hanging { since, ..self.message.clone() })
    }
}

impl Watch {
    pub(super) fn begin(&self, incoming: &Incoming<'_>) -> Running<'_> {
        let message = incoming.message();
        let handler = Handler {
            message: Hanging {
                kind: message.kind(),
                key: message.key().to_owned(),
                id: message.id(),
                attempt: incoming.attempt,
                since: Duration::ZERO,
            },
            began: Instant::now(),
            limit: incoming.limit,
            is_told: false,
        };
        let mut handlers = self.handlers();
        let number = handlers.begun;
        handlers.begun += 1;
        handlers.running.insert(number, handler);
        Running { watch: self, number }
    }

    pub(super) fn hanging(&self) -> Vec<Hanging> {
        self.handlers().running.values().filter_map(Handler::hanging).collect()
    }

    pub(super) fn newly_hanging(&self) -> Vec<Hanging> {
        let handlers = &mut *self.handlers();
        let untold = handlers.running.values_mut().filter(|handler| !handler.is_told);
        let told = untold.filter_map(|handler| {
            let hanging = handler.hanging()?;
            handler.is_told = true;
            Some(hanging)
        });
        let told: Vec<_> = told.collect();
        handlers.hung += told.len() as u64;
        told
    }

    pub(super) fn hung(&self) -> u64 {
        self.handlers().hung
    }

    fn handlers(&self) -> MutexGuard<'_, Handlers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handler that runs; one that ends over the limit and was not told of before counts as one that hung.
pub(super) struct Running<'w> {
    watch: &'w Watch,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut handlers = self.watch.handlers();
        let ended = handlers.running.remove(&self.number);
        if ended.is_some_and(|handler| !handler.is_told && handler.hanging().is_some()) {
            handlers.hung += 1;
        }
    }
}

/// Says which handlers hang, each once, until shutdown.
pub(super) async fn run(
    subscriber: &str,
    stats: &SubscriberStats,
    limit: Duration,
    shutdown: &CancellationToken,
) {
    let every = (limit / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        for Hanging { kind, key, id, attempt, since } in stats.newly_hanging() {
            tracing::error!(
                subscriber,
                kind,
                key,
                message = %id,
                attempt,
                since = ?since,
                "a handler does not return; a sync one holds its queue up until it does"
            );
        }
    }
}
