//! What the relay and the subscribers need of a broker, and no more: [`memory`] for tests and for a service
//! that wants no broker, `rabbitmq` for the rest.

use std::future::Future;

use crate::error::Result;
use crate::message::Frame;

pub mod memory;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;

/// A broker: topic routing, queues that keep order, confirmed publishing.
///
/// An `Err` from any of these means that the broker itself is at fault or cannot be reached. Whoever got
/// it drops the publisher or consumer and asks for a new one, after a wait.
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::broker::{Broker, Confirm, Consumer, Publisher, Queue};
/// use outbox_core::{Frame, Result};
/// # use outbox_core::{Message, Recorded, Version};
///
/// /// Takes a frame through any broker and back out of it.
/// async fn round_trip(broker: &impl Broker, queue: &Queue, frame: Frame) -> Result<()> {
///     let mut consumer = broker.consumer(queue).await?;
///     let confirms = broker.publisher().await?.publish(std::slice::from_ref(&frame)).await?;
///     assert_eq!(confirms, [Confirm::Confirmed]);
///     assert!(broker.depth(queue).await?.is_none_or(|depth| depth == 1));
///     let deliveries = consumer.next(usize::from(broker.first_fill())).await?;
///     assert_eq!(deliveries[0].frame, frame);
///     consumer.ack_through(deliveries[0].tag).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let queue = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// round_trip(&MemoryBroker::new(), &queue, frame).await?;
/// # Ok(())
/// # }
/// ```
pub trait Broker: Clone + Send + Sync + 'static {
    /// See [`Broker::publisher`].
    type Publisher: Publisher;
    /// See [`Broker::consumer`].
    type Consumer: Consumer;

    /// A connection that publishes, with what it publishes to declared or checked.
    fn publisher(&self) -> impl Future<Output = Result<Self::Publisher>> + Send;

    /// A connection that consumes one queue, with the queue and its bindings declared or checked.
    fn consumer(&self, queue: &Queue) -> impl Future<Output = Result<Self::Consumer>> + Send;

    /// How many deliveries a consumer asks for before it knows how large they are; the subscriber then asks for as
    /// many as fit. No limit where they are in this process's memory anyway.
    fn first_fill(&self) -> u16 {
        u16::MAX
    }

    /// How many messages wait in a queue, those that are delivered and not acknowledged not counted; `None` where a
    /// broker cannot tell.
    fn depth(&self, _queue: &Queue) -> impl Future<Output = Result<Option<u64>>> + Send {
        std::future::ready(Ok(None))
    }
}

/// A queue of a subscriber: durable, one active consumer at a time, first in first out.
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::broker::{Broker, Consumer, Queue};
/// # use outbox_core::{Message, OutboxConnection, testing};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let broker = MemoryBroker::new();
/// let sold = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// let all = Queue { name: "audit.0".into(), bindings: vec!["#".into()], prefetch: 1 };
/// drop(broker.consumer(&sold).await?);
/// let mut audit = broker.consumer(&all).await?;
///
/// // A message `product.sold` and a message `product.returned`:
/// # let mut connection = testing::memory_outbox();
/// # connection.outbox_transaction(|tx| {
/// #     tx.record_message(Message::new("product", "7", "sold", b"2".to_vec())?);
/// #     Ok(tx.record_message(Message::new("product", "7", "returned", b"1".to_vec())?))
/// # })?;
/// testing::publish(&mut connection, &broker)?;
/// assert_eq!((broker.depth("order.0"), broker.depth("audit.0")), (1, 2));
/// assert_eq!(audit.next(10).await?.len(), 1, "no more may be out");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name, `{subscriber}.{number}`.
    pub name: String,
    /// Routing key patterns, words separated by dots; `*` is one word, `#` any number.
    pub bindings: Vec<String>,
    /// How many deliveries may wait for their acknowledgement; bounds the consumer's memory.
    pub prefetch: u16,
}

/// What a queue's deliveries in memory may take, as far as their sizes can be told beforehand.
const DELIVERED_BYTES: usize = 64 * 1024 * 1024;

/// How many deliveries of this size fit into what a queue's may take; one at least.
pub(crate) fn fitting(average_bytes: usize) -> u16 {
    u16::try_from(DELIVERED_BYTES / average_bytes.max(1)).unwrap_or(u16::MAX).max(1)
}

/// Publishes with confirms. One task owns it; it is never shared.
///
/// ```
/// use outbox_core::broker::{Broker, Confirm, Publisher, memory::MemoryBroker};
/// use outbox_core::{Frame, Result};
/// # use outbox_core::{Message, Recorded, Version};
///
/// /// Publishes through another one, and counts the bytes that have arrived.
/// struct Counted<P> { inner: P, bytes: usize }
///
/// impl<P: Publisher> Publisher for Counted<P> {
///     async fn publish(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
///         let confirms = self.inner.publish(frames).await?;
///         let arrived = frames.iter().zip(&confirms).filter(|(_, confirm)| **confirm == Confirm::Confirmed);
///         self.bytes += arrived.map(|(frame, _)| frame.size()).sum::<usize>();
///         Ok(confirms)
///     }
///     fn is_alive(&self) -> bool { self.inner.is_alive() }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let mut publisher = Counted { inner: MemoryBroker::new().publisher().await?, bytes: 0 };
/// publisher.publish(std::slice::from_ref(&frame)).await?;
/// assert!(publisher.is_alive() && publisher.bytes == frame.size());
/// # Ok(())
/// # }
/// ```
pub trait Publisher: Send {
    /// Publishes the frames in this order and waits until the broker has answered for each of them.
    ///
    /// The answers stand in the order of the frames. The caller puts at most one frame of a key into a
    /// call where order matters: the answer to one does not hold back the next.
    ///
    /// # Errors
    /// An outage: which frames arrived is not known, all of them count as unconfirmed.
    fn publish(&mut self, frames: &[Frame]) -> impl Future<Output = Result<Vec<Confirm>>> + Send;

    /// Whether it can still publish, as far as it knows without asking the broker: its connection stands. One that
    /// cannot is of no use any more. By default it knows of nothing.
    fn is_alive(&self) -> bool {
        true
    }
}

/// A broker's answer for one frame.
///
/// ```
/// use outbox_core::broker::{Broker, Confirm, Publisher, memory::MemoryBroker};
/// # use outbox_core::{Message, Recorded, Version};
///
/// fn problem(confirm: &Confirm) -> Option<&str> {
///     match confirm {
///         Confirm::Confirmed => None,
///         Confirm::Returned(reason) | Confirm::Refused(reason) => Some(reason),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let broker = MemoryBroker::refusing_unrouted();
/// let confirms = broker.publisher().await?.publish(&[frame]).await?;
/// assert!(problem(&confirms[0]).is_some_and(|reason| reason.starts_with("NO_ROUTE for product.sold")));
/// assert_eq!(problem(&Confirm::Confirmed), None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirm {
    /// All queues that want it have it, safely.
    Confirmed,
    /// No queue wants it, and nothing takes what no queue wants.
    Returned(String),
    /// The broker refuses it.
    Refused(String),
}

/// Consumes one queue.
///
/// ```
/// use outbox_core::broker::{Broker, Consumer, Publisher, Queue, memory::MemoryBroker};
/// # use outbox_core::{Message, Recorded, Result, Version};
///
/// /// Takes what is there, and where the consumer can, twice as much the next time.
/// async fn take(consumer: &mut impl Consumer) -> Result<usize> {
///     let deliveries = consumer.next(100).await?;
///     let Some(last) = deliveries.last() else { return Ok(0) };
///     match consumer.window() {
///         Some(window) if deliveries.len() == usize::from(window) => consumer.widen(last.tag, window * 2).await?,
///         _ => consumer.ack_through(last.tag).await?,
///     }
///     Ok(deliveries.len())
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// # let queue = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// # let broker = MemoryBroker::new();
/// # let mut consumer = broker.consumer(&queue).await?;
/// broker.publisher().await?.publish(&vec![frame; 25]).await?;
/// assert_eq!((take(&mut consumer).await?, broker.depth("order.0")), (10, 15), "the queue's prefetch is 10");
/// # Ok(())
/// # }
/// ```
pub trait Consumer: Send {
    /// Waits for a delivery, then takes what else is there, `max` at most (1 at least).
    ///
    /// What was given before need not be acknowledged yet; but a consumer may give nothing more until it is, where
    /// deliveries would come out of order otherwise. Dropping the future loses nothing.
    ///
    /// # Errors
    /// An outage; what was delivered and not acknowledged comes again.
    fn next(&mut self, max: usize) -> impl Future<Output = Result<Vec<Delivery>>> + Send;

    /// How many deliveries may be out before one is acknowledged; `None` where that cannot be changed, or not now, since
    /// what came back from another one is not acknowledged yet.
    fn window(&self) -> Option<u16> {
        None
    }

    /// As [`ack_through`](Self::ack_through), and from then on so many deliveries may be out. Only when all of the
    /// window is out and dealt with.
    ///
    /// # Errors
    /// As there.
    fn widen(&mut self, tag: u64, _window: u16) -> impl Future<Output = Result<()>> + Send {
        self.ack_through(tag)
    }

    /// Acknowledges this delivery and all that were given before it.
    ///
    /// # Errors
    /// An outage: the broker may deliver them again.
    fn ack_through(&mut self, tag: u64) -> impl Future<Output = Result<()>> + Send;
}

/// A frame with what is needed to acknowledge it.
///
/// ```
/// use outbox_core::broker::{Broker, Consumer, Publisher, Queue, memory::MemoryBroker};
/// # use outbox_core::{Message, Recorded, Version};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// # let broker = MemoryBroker::new();
/// let queue = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// let mut consumer = broker.consumer(&queue).await?;
/// broker.publisher().await?.publish(&[frame]).await?;
///
/// let first = consumer.next(1).await?.remove(0);
/// // It ends without an acknowledgement.
/// drop(consumer);
/// let mut consumer = broker.consumer(&queue).await?;
/// let again = consumer.next(1).await?.remove(0);
/// assert_eq!((again.frame, first.redelivered, again.redelivered), (first.frame, false, true));
/// assert_eq!(again.returns, 0, "this broker does not count");
/// consumer.ack_through(again.tag).await?;
/// assert!(broker.is_idle());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Rises with each delivery of one consumer.
    pub tag: u64,
    /// It was delivered before, to this consumer or another.
    pub redelivered: bool,
    /// How many times it came back to its queue unacknowledged, as far as the broker counts that and gives such a message
    /// up in the end; 0 where it does not say.
    pub returns: u32,
    /// The frame.
    pub frame: Frame,
}
