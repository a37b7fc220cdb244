//! A broker inside the process: topic routing, queues with one active consumer, redelivery in order.
//!
//! It behaves as RabbitMQ does where the relay and the subscribers can tell, and lives as long as the
//! process: for tests, for trying things, for a service that consumes its own messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Broker, Confirm, Consumer, Delivery, Publisher, Queue};
use crate::error::Result;
use crate::message::Frame;

/// The bytes that all queues hold together before publishing waits for consumers.
pub const CAPACITY_BYTES_DEFAULT: usize = 256 * 1024 * 1024;

/// A broker inside the process; clones are the same broker.
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::testing::{memory_pool, publish, run_until_idle};
/// # use outbox_core::{Message, OutboxConnection, Subscriber};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool).on("product.sold", |_, _: u32| Ok(()));
///
/// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
/// connection.outbox_transaction(|tx| Ok(tx.record_message(sold.clone())))?;
/// publish(&mut *connection, &broker)?;
/// assert_eq!(broker.unrouted()[0].kind, "product.sold", "no queue wants it yet");
///
/// orders.declare().await?;
/// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
/// publish(&mut *connection, &broker)?;
/// assert_eq!((broker.depth("order.0"), broker.is_idle()), (1, false));
/// run_until_idle(&mut *connection, &broker, &[&orders])?;
/// assert!(broker.is_idle());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    capacity_bytes: usize,
    refuse_unrouted: bool,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<String, QueueState>,
    unrouted: Vec<Frame>,
    bytes: usize,
    consumers: u64,
}

#[derive(Debug, Default)]
struct QueueState {
    bindings: Vec<String>,
    ready: VecDeque<(Frame, bool)>,
    unacked: VecDeque<(u64, Frame)>,
    tags: u64,
    active: Option<u64>,
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBroker {
    /// A broker that keeps what no queue wants aside (see [`unrouted`](Self::unrouted)).
    pub fn new() -> Self {
        Self::with(CAPACITY_BYTES_DEFAULT, false)
    }

    /// A broker that returns what no queue wants to its publisher.
    ///
    /// ```
    /// # use outbox_core::{Message, OutboxConnection};
    /// use outbox_core::{ErrorKind, broker::memory::MemoryBroker, testing};
    ///
    /// let mut connection = testing::memory_outbox();
    /// let sold = Message::new("product", "7", "sold", b"2".to_vec())?;
    /// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
    ///
    /// let refused = testing::publish(&mut connection, &MemoryBroker::refusing_unrouted()).unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Broker);
    /// assert_eq!(testing::recorded(&mut connection).len(), 1, "it waits in the outbox");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn refusing_unrouted() -> Self {
        Self::with(CAPACITY_BYTES_DEFAULT, true)
    }

    /// A broker that holds so many bytes at most: publishing waits until there is room.
    ///
    /// ```
    /// # use outbox_core::{Message, OutboxConnection};
    /// use outbox_core::{broker::memory::MemoryBroker, testing};
    ///
    /// let mut connection = testing::memory_outbox();
    /// connection.outbox_transaction(|tx| {
    ///     let note = format!("\"{}\"", "long ".repeat(100));
    ///     for key in ["7", "8"] {
    ///         tx.record_message(Message::new("product", key, "noted", note.clone().into())?);
    ///     }
    ///     Ok(())
    /// })?;
    ///
    /// // What would wait elsewhere is an error of the test kit's.
    /// let full = testing::publish(&mut connection, &MemoryBroker::with_capacity(1000)).unwrap_err();
    /// assert!(full.to_string().contains("the broker is full"));
    /// assert_eq!(testing::recorded(&mut connection)[0].key, "8", "the first one had room");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn with_capacity(bytes: usize) -> Self {
        Self::with(bytes, false)
    }

    fn with(capacity_bytes: usize, refuse_unrouted: bool) -> Self {
        let shared =
            Shared { state: Mutex::default(), changed: Notify::new(), capacity_bytes, refuse_unrouted };
        Self(Arc::new(shared))
    }

    /// What no queue wanted.
    pub fn unrouted(&self) -> Vec<Frame> {
        self.0.lock().unrouted.clone()
    }

    /// How many frames a queue holds, delivered and not acknowledged ones among them; 0 without the queue.
    pub fn depth(&self, queue: &str) -> usize {
        self.0.lock().queues.get(queue).map_or(0, |queue| queue.ready.len() + queue.unacked.len())
    }

    /// Whether all queues are empty and everything delivered is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.0.lock().queues.values().all(|queue| queue.ready.is_empty() && queue.unacked.is_empty())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code can panic while it holds the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the frame into every queue that wants it; `None` while there is no room.
    fn route(&self, frame: &Frame) -> Option<Confirm> {
        let mut state = self.lock();
        let State { queues, unrouted, bytes, .. } = &mut *state;
        // A frame larger than the whole capacity passes when it is alone, or it would wait for ever.
        if *bytes > 0 && *bytes + frame.size() > self.capacity_bytes {
            return None;
        }
        let mut routed = false;
        for queue in queues.values_mut() {
            if queue.bindings.iter().any(|pattern| matches(pattern, &frame.routing_key)) {
                queue.ready.push_back((frame.clone(), false));
                *bytes += frame.size();
                routed = true;
            }
        }
        if !routed {
            if self.refuse_unrouted {
                return Some(Confirm::Returned(format!("NO_ROUTE for {}", frame.routing_key)));
            }
            unrouted.push(frame.clone());
            *bytes += frame.size();
        }
        drop(state);
        self.changed.notify_waiters();
        Some(Confirm::Confirmed)
    }
}

/// Whether a topic pattern takes a routing key: `*` is one word, `#` any number of words.
fn matches(pattern: &str, routing_key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                words(rest, key) || key.split_first().is_some_and(|(_, later)| words(pattern, later))
            }
            (Some((word, rest)), Some((given, later))) => {
                (*word == "*" || word == given) && words(rest, later)
            }
            _ => false,
        }
    }
    let pattern: Vec<_> = pattern.split('.').collect();
    let key: Vec<_> = routing_key.split('.').collect();
    words(&pattern, &key)
}

impl Broker for MemoryBroker {
    type Publisher = MemoryPublisher;
    type Consumer = MemoryConsumer;

    async fn publisher(&self) -> Result<MemoryPublisher> {
        Ok(MemoryPublisher(Arc::clone(&self.0)))
    }

    async fn consumer(&self, queue: &Queue) -> Result<MemoryConsumer> {
        Ok(self.open(queue))
    }

    async fn depth(&self, queue: &Queue) -> Result<Option<u64>> {
        Ok(Some(self.0.lock().queues.get(&queue.name).map_or(0, |queue| queue.ready.len() as u64)))
    }
}

/// What the broker's futures do, and the test kit without any.
impl MemoryBroker {
    pub(crate) fn open(&self, queue: &Queue) -> MemoryConsumer {
        let mut state = self.0.lock();
        state.consumers += 1;
        let id = state.consumers;
        state.queues.entry(queue.name.clone()).or_default().bindings.clone_from(&queue.bindings);
        MemoryConsumer {
            shared: Arc::clone(&self.0),
            queue: queue.name.clone(),
            prefetch: usize::from(queue.prefetch),
            id,
        }
    }

    /// `None` when the broker is full.
    #[cfg(feature = "testing")]
    pub(crate) fn publish_now(&self, frame: &Frame) -> Option<Confirm> {
        self.0.route(frame)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The queues that hold something, with how much.
    #[cfg(feature = "testing")]
    pub(crate) fn busy(&self) -> Vec<(String, usize)> {
        let state = self.0.lock();
        let depths =
            state.queues.iter().map(|(name, queue)| (name.clone(), queue.ready.len() + queue.unacked.len()));
        depths.filter(|(_, depth)| *depth > 0).collect()
    }
}

/// Publishes into a [`MemoryBroker`].
///
/// ```
/// use outbox_core::broker::memory::{MemoryBroker, MemoryPublisher};
/// use outbox_core::broker::{Broker, Confirm, Publisher};
/// # use outbox_core::{Message, Recorded, Version};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let broker = MemoryBroker::new();
/// let mut publisher: MemoryPublisher = broker.publisher().await?;
/// assert_eq!(publisher.publish(&[frame.clone(), frame]).await?, [Confirm::Confirmed, Confirm::Confirmed]);
/// assert_eq!(broker.unrouted().len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryPublisher(Arc<Shared>);

impl Publisher for MemoryPublisher {
    async fn publish(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
        let mut confirms = Vec::with_capacity(frames.len());
        for frame in frames {
            loop {
                let changed = self.0.changed.notified();
                if let Some(confirm) = self.0.route(frame) {
                    confirms.push(confirm);
                    break;
                }
                changed.await;
            }
        }
        Ok(confirms)
    }
}

/// Consumes a queue of a [`MemoryBroker`]; dropped, its unacknowledged deliveries go back to the front.
///
/// ```
/// use outbox_core::broker::memory::{MemoryBroker, MemoryConsumer};
/// use outbox_core::broker::{Broker, Consumer, Publisher, Queue};
/// # use outbox_core::{Message, Recorded, Version};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// # let broker = MemoryBroker::new();
/// let queue = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// let mut active: MemoryConsumer = broker.consumer(&queue).await?;
/// broker.publisher().await?.publish(&vec![frame; 3]).await?;
///
/// let taken = active.next(2).await?;
/// active.ack_through(taken[0].tag).await?;
/// drop(active);
/// let rest = broker.consumer(&queue).await?.next(10).await?;
/// assert_eq!(rest.iter().map(|delivery| delivery.redelivered).collect::<Vec<_>>(), [true, false]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryConsumer {
    shared: Arc<Shared>,
    queue: String,
    prefetch: usize,
    id: u64,
}

impl MemoryConsumer {
    /// What is ready, if this is the active consumer; it becomes so when there is none.
    pub(crate) fn take(&self, max: usize) -> Vec<Delivery> {
        let mut state = self.shared.lock();
        let Some(queue) = state.queues.get_mut(&self.queue) else { return Vec::new() };
        if *queue.active.get_or_insert(self.id) != self.id {
            return Vec::new();
        }
        let room = self.prefetch.saturating_sub(queue.unacked.len());
        let count = queue.ready.len().min(max).min(room);
        let mut deliveries = Vec::with_capacity(count);
        for (frame, redelivered) in queue.ready.drain(..count) {
            queue.tags += 1;
            queue.unacked.push_back((queue.tags, frame.clone()));
            deliveries.push(Delivery { tag: queue.tags, redelivered, returns: 0, frame });
        }
        deliveries
    }
}

impl Consumer for MemoryConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let changed = self.shared.changed.notified();
            let deliveries = self.take(max.max(1));
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            changed.await;
        }
    }

    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        self.acknowledge(tag);
        Ok(())
    }
}

impl MemoryConsumer {
    pub(crate) fn acknowledge(&self, tag: u64) {
        let mut state = self.shared.lock();
        let State { queues, bytes, .. } = &mut *state;
        if let Some(queue) = queues.get_mut(&self.queue) {
            while queue.unacked.front().is_some_and(|(unacked, _)| *unacked <= tag) {
                if let Some((_, frame)) = queue.unacked.pop_front() {
                    *bytes = bytes.saturating_sub(frame.size());
                }
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(queue) = state.queues.get_mut(&self.queue)
            && queue.active == Some(self.id)
        {
            queue.active = None;
            while let Some((_, frame)) = queue.unacked.pop_back() {
                queue.ready.push_front((frame, true));
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn frame(routing_key: &str, id: usize) -> Frame {
        Frame {
            routing_key: routing_key.into(),
            message_id: id.to_string(),
            kind: "a.b".into(),
            content_type: "application/json".into(),
            headers: Headers::default(),
            body: vec![0; 100],
        }
    }

    fn queue(prefetch: u16) -> Queue {
        Queue { name: "q.0".into(), bindings: vec!["a.*.00".into()], prefetch }
    }

    fn ids(deliveries: &[Delivery]) -> Vec<&str> {
        deliveries.iter().map(|delivery| delivery.frame.message_id.as_str()).collect()
    }

    #[test]
    fn patterns_match_words() {
        assert!(matches("a.*.07", "a.b.07"));
        assert!(!matches("a.*.07", "a.b.08"));
        assert!(!matches("a.*", "a.b.07"));
        assert!(matches("a.#", "a.b.07"));
        assert!(matches("#", "a.b.07"));
        assert!(matches("#.07", "07"));
    }

    #[tokio::test]
    async fn unacknowledged_deliveries_come_again_in_order_to_the_next_consumer() {
        let broker = MemoryBroker::new();
        let mut first = broker.consumer(&queue(10)).await.unwrap();
        let mut second = broker.consumer(&queue(10)).await.unwrap();
        let frames: Vec<_> = (0..5).map(|id| frame("a.b.00", id)).collect();
        broker.publisher().await.unwrap().publish(&frames).await.unwrap();

        let taken = first.next(3).await.unwrap();
        assert_eq!(ids(&taken), ["0", "1", "2"]);
        first.ack_through(taken[0].tag).await.unwrap();
        assert!(second.take(10).is_empty(), "only one consumer is active");
        drop(first);
        let again = second.next(10).await.unwrap();
        assert_eq!(ids(&again), ["1", "2", "3", "4"]);
        assert_eq!(again.iter().map(|d| d.redelivered).collect::<Vec<_>>(), [true, true, false, false]);
        second.ack_through(again[3].tag).await.unwrap();
        assert!(broker.is_idle());
    }

    #[tokio::test]
    async fn prefetch_bounds_what_is_out() {
        let broker = MemoryBroker::new();
        let mut consumer = broker.consumer(&queue(2)).await.unwrap();
        let frames: Vec<_> = (0..5).map(|id| frame("a.b.00", id)).collect();
        broker.publisher().await.unwrap().publish(&frames).await.unwrap();
        assert_eq!(consumer.next(10).await.unwrap().len(), 2);
        assert!(consumer.take(10).is_empty());
    }

    #[tokio::test]
    async fn what_no_queue_wants_is_kept_or_returned() {
        let keeping = MemoryBroker::new();
        let answer = keeping.publisher().await.unwrap().publish(&[frame("x.y.00", 1)]).await.unwrap();
        assert_eq!(answer, [Confirm::Confirmed]);
        assert_eq!(keeping.unrouted().len(), 1);

        let refusing = MemoryBroker::refusing_unrouted();
        let answer = refusing.publisher().await.unwrap().publish(&[frame("x.y.00", 1)]).await.unwrap();
        assert!(matches!(answer[0], Confirm::Returned(_)));
    }

    #[tokio::test]
    async fn a_full_broker_makes_publishers_wait() {
        let broker = MemoryBroker::with_capacity(500);
        let mut consumer = broker.consumer(&queue(10)).await.unwrap();
        let mut publisher = broker.publisher().await.unwrap();
        let publishing = tokio::spawn(async move {
            let frames: Vec<_> = (0..20).map(|id| frame("a.b.00", id)).collect();
            publisher.publish(&frames).await.map(|confirms| confirms.len())
        });
        let mut seen = 0;
        while seen < 20 {
            let taken = consumer.next(10).await.unwrap();
            assert!(broker.0.lock().bytes <= 500);
            seen += taken.len();
            consumer.ack_through(taken[taken.len() - 1].tag).await.unwrap();
        }
        assert_eq!(publishing.await.unwrap().unwrap(), 20);
    }
}
