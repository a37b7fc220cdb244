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
/// use outbox_core::broker::Confirm;
///
/// let is_there = |confirm: &Confirm| match confirm {
///     Confirm::Confirmed => true,
///     Confirm::Returned(why) | Confirm::Refused(why) => {
///         println!("it is tried again: {why}");
///         false
///     }
/// };
/// assert!(!is_there(&Confirm::Returned("NO_ROUTE".into())));
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
