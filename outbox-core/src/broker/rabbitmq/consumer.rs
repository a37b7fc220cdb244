//! Consuming one queue.
//!
//! RabbitMQ puts what a consumer gives back behind what was given back before (`returns` of `rabbit_fifo`). One that dies
//! while it has fetched only a part of what another had left thereby brings later messages before earlier ones. So what
//! comes back is fetched as a whole, up to the first message that was never delivered, before any of it is given on, and
//! put in order again: consumers take from the front, so a message was delivered as often as all before it, or less.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::message::Delivery as LapinDelivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::link::Link;
use super::{RabbitMq, failure};
use crate::broker::{Consumer, Delivery, Queue, fitting};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Frame, Headers};

/// After so long without a delivery RabbitMQ is asked whether more is to come.
const SILENCE: Duration = Duration::from_millis(10);
/// What comes back is fetched in a window of so many messages, as far as they fit: about what whoever had it could hold.
const WINDOW_MESSAGES: u16 = 4000;
/// How often a queue is asked what waits in it while it seems to have no consumer, and the wait between.
const ASKED_MAX: u32 = 50;
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How often a message was delivered, in quorum queues: until RabbitMQ 3, and from RabbitMQ 4 on, where the first counts
/// failures only.
const COUNTS: [&str; 2] = [RETURNS, "x-acquired-count"];
/// What the delivery limit is compared with, in all versions.
const RETURNS: &str = "x-delivery-count";
/// How long a delivery may wait for its acknowledgement; in milliseconds: ten years. From RabbitMQ 4.3 on a quorum queue takes
/// back one by one what waits for longer than 30 minutes, and gives it to the next consumer together with later messages,
/// while this one still has those between. Versions before do not know the argument, and close the channel, which gives
/// all back at once. See `consumer_timeouts.md` of rabbitmq-server.
const TIMEOUT: (&str, i64) = ("x-consumer-timeout", 10 * 365 * 24 * 3600 * 1000);

/// Consumes a queue of RabbitMQ; see [`RabbitMq`](super::RabbitMq).
///
/// After an error it delivers no more: make a new one. When it is dropped, what it delivered and nobody
/// acknowledged goes back to its place in the queue.
///
/// ```no_run
/// use outbox_core::broker::rabbitmq::{RabbitMq, RabbitMqConsumer};
/// use outbox_core::broker::{Broker, Consumer, Queue};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let broker = RabbitMq::new("amqp://localhost")?;
/// let queue = Queue { name: "order.0".into(), bindings: vec!["product.sold.*".into()], prefetch: 10 };
/// let mut consumer: RabbitMqConsumer = broker.consumer(&queue).await?;
/// loop {
///     let deliveries = consumer.next(10).await?;
///     assert!(deliveries.iter().all(|delivery| delivery.frame.kind == "product.sold"));
///     if let Some(last) = deliveries.last() {
///         consumer.ack_through(last.tag).await?;
///     }
/// }
/// # }
/// ```
pub struct RabbitMqConsumer {
    broker: RabbitMq,
    queue: String,
    /// `None` after an error.
    live: Option<Live>,
    /// What ended the stream, found while taking what was ready; told at the next call.
    ended: Option<Error>,
    /// What came back from others, as far as it is fetched.
    returned: Vec<Delivery>,
    /// The same in order, as far as it is not given on.
    ordered: VecDeque<Delivery>,
    /// The last tag of that. Only with it all of that is acknowledged, at once: their tags are in another order.
    last_returned: u64,
    /// The last tag that was given on, until it is acknowledged.
    open: Option<u64>,
}

struct Live {
    // Dropped first, which cuts the connection: dropping the stream sends a `basic.cancel`, and the next
    // consumer would get what comes later before what this one holds comes back.
    link: Link,
    channel: Channel,
    stream: lapin::Consumer,
    prefetch: u16,
}

impl RabbitMqConsumer {
    /// Begins to consume.
    pub(super) async fn open(broker: RabbitMq, link: Link, queue: &Queue) -> Result<Self> {
        let live = Some(Live::open(link, &queue.name, queue.prefetch).await?);
        Ok(Self {
            broker,
            queue: queue.name.clone(),
            live,
            ended: None,
            returned: Vec::new(),
            ordered: VecDeque::new(),
            last_returned: 0,
            open: None,
        })
    }

    /// Whatever ends a consumer, a new one may do: an outage.
    fn end(&mut self, why: String) -> Error {
        self.live = None;
        Error::new(ErrorKind::Outage, format!("queue {}: {why}", self.queue))
    }

    /// What an item of the stream is: a delivery, or why there is no other.
    fn item(item: Option<lapin::Result<LapinDelivery>>) -> std::result::Result<Delivery, String> {
        match item {
            Some(Ok(delivery)) => Ok(from_lapin(delivery)),
            Some(Err(error)) => Err(format!("RabbitMQ stopped delivering: {}", failure::text(&error))),
            // RabbitMQ cancels consumers on its own; the channel stays open and silent.
            None => Err("RabbitMQ cancelled the consumer: the queue was deleted or its node left".to_owned()),
        }
    }

    /// Waits for a delivery, then takes what else is there.
    async fn take(&mut self, max: usize) -> Result<Vec<Delivery>> {
        if let Some(error) = self.ended.take() {
            self.live = None;
            return Err(error);
        }
        let Some(live) = self.live.as_mut() else {
            return Err(self.end("this consumer has ended".to_owned()));
        };
        // The only wait: nothing is held across it, so dropping it loses nothing.
        let first = match Self::item(live.stream.next().await) {
            Ok(delivery) => delivery,
            Err(why) => return Err(self.end(why)),
        };
        let mut deliveries = vec![first];
        while deliveries.len() < max {
            match live.stream.next().now_or_never().map(Self::item) {
                None => break,
                Some(Ok(delivery)) => deliveries.push(delivery),
                Some(Err(why)) => {
                    self.ended = Some(Error::new(ErrorKind::Outage, format!("queue {}: {why}", self.queue)));
                    break;
                }
            }
        }
        Ok(deliveries)
    }

    fn give(&mut self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        self.open = deliveries.last().map(|last| last.tag).or(self.open);
        deliveries
    }

    /// Fetches all that came back, and puts it in order. What was fetched stays when this future is dropped.
    async fn gather(&mut self) -> Result<()> {
        while self.returned.last().is_some_and(|last| last.redelivered) {
            let window = self.live.as_ref().map_or(0, |live| usize::from(live.prefetch));
            let is_full = self.returned.len() >= window;
            if !is_full && let Ok(more) = tokio::time::timeout(SILENCE, self.take(usize::MAX)).await {
                self.returned.extend(more?);
                continue;
            }
            if self.ready().await? > 0 {
                if is_full && !self.begin_wider().await? {
                    tracing::error!(queue = self.queue, "more came back than can be put in order");
                    break;
                }
                continue;
            }
            if is_full {
                break;
            }
            // The answer came behind all that was on its way here.
            match self.take(usize::MAX).now_or_never() {
                Some(more) => self.returned.extend(more?),
                None => break,
            }
        }
        let mut tags: Vec<_> = self.returned.iter().map(|delivery| delivery.tag).collect();
        tags.sort_unstable();
        self.last_returned = tags.last().copied().unwrap_or_default();
        let mut returned = std::mem::take(&mut self.returned);
        if !returned.is_sorted_by_key(|delivery| Reverse(times_delivered(delivery))) {
            tracing::debug!(queue = self.queue, messages = returned.len(), "put in order what came back");
            returned.sort_by_key(|delivery| Reverse(times_delivered(delivery)));
        }
        self.ordered
            .extend(returned.into_iter().zip(tags).map(|(delivery, tag)| Delivery { tag, ..delivery }));
        Ok(())
    }

    /// Gives back what fills the window, and begins again with a larger one: for as many as fit; where those were not all
    /// that came back, for twice as many, since without the rest their order is lost. False where none is larger.
    async fn begin_wider(&mut self) -> Result<bool> {
        let bytes: usize = self.returned.iter().map(|delivery| delivery.frame.size()).sum();
        let fit = fitting(bytes / self.returned.len().max(1)).min(WINDOW_MESSAGES);
        let Some(live) = self.live.take_if(|live| live.prefetch < u16::MAX) else { return Ok(false) };
        let wider = fit.max(live.prefetch.saturating_mul(2));
        self.returned.clear();
        // By another connection: lapin takes deliveries to a channel that is being closed for an error.
        live.link.clone().close_behind(live);
        let reopened = async {
            let link = self.broker.consumer_link(&self.queue).await?;
            Live::open(link, &self.queue, wider).await
        };
        self.live = Some(self.broker.within_timeout("fetching what came back", reopened).await?);
        let first = self.take(usize::from(wider)).await?;
        self.returned.extend(first);
        Ok(true)
    }

    /// How many messages wait in the queue.
    async fn ready(&mut self) -> Result<u32> {
        for _ in 0..ASKED_MAX {
            let Some(live) = self.live.as_ref() else { return Ok(0) };
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let asked =
                live.channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default());
            match tokio::time::timeout(self.broker.timeout, asked).await {
                Ok(Ok(queue)) if queue.consumer_count() > 0 => return Ok(queue.message_count()),
                // It has this consumer: none is what RabbitMQ says where the queue's leader does not answer it.
                Ok(Ok(_)) => tokio::time::sleep(ASK_AGAIN).await,
                Ok(Err(error)) => return Err(self.end(format!("not looked at: {}", failure::text(&error)))),
                Err(_) => return Err(self.end(format!("not looked at within {:?}", self.broker.timeout))),
            }
        }
        Err(self.end("its leader does not say what waits in it".to_owned()))
    }
}

/// As far as RabbitMQ says: never is 0.
fn times_delivered(delivery: &Delivery) -> u64 {
    let counts = COUNTS.iter().filter_map(|name| delivery.frame.headers.get(name)?.parse().ok());
    counts.max().unwrap_or_default()
}

impl Live {
    async fn open(link: Link, queue: &str, prefetch: u16) -> Result<Self> {
        let channel = link.channel().await?;
        let prefetch = prefetch.max(1);
        let stream = Self::consume(&link, &channel, queue, prefetch).await?;
        Ok(Self { link, channel, stream, prefetch })
    }

    async fn consume(link: &Link, channel: &Channel, queue: &str, prefetch: u16) -> Result<lapin::Consumer> {
        let doing = format!("consuming queue {queue}");
        // Before consuming, or lapin buffers the queue without bound; 0 would mean the same. Per consumer:
        // quorum queues refuse a limit for the channel.
        channel
            .basic_qos(prefetch, BasicQosOptions { global: false })
            .await
            .map_err(|e| link.failure(&e, &doing))?;
        let mut arguments = FieldTable::default();
        arguments.insert(TIMEOUT.0.into(), AMQPValue::LongLongInt(TIMEOUT.1));
        channel
            .basic_consume(queue.into(), ShortString::default(), BasicConsumeOptions::default(), arguments)
            .await
            .map_err(|e| link.failure(&e, &doing))
    }

    /// Acknowledges through the tag, which is the last of a full window, and begins a wider one.
    async fn widen(&mut self, queue: &str, tag: u64, window: u16) -> Result<()> {
        let failure = |e| self.link.failure(&e, "making the window wider");
        let cancelled = self.channel.basic_cancel(self.stream.tag(), BasicCancelOptions::default()).await;
        cancelled.map_err(failure)?;
        if matches!(self.stream.next().now_or_never(), Some(Some(Ok(_)))) {
            return Err(Error::new(ErrorKind::Outage, "RabbitMQ delivered more than the prefetch"));
        }
        self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.map_err(failure)?;
        self.stream = Self::consume(&self.link, &self.channel, queue, window).await?;
        self.prefetch = window;
        Ok(())
    }
}

impl Consumer for RabbitMqConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>> {
        if self.returned.is_empty() && self.ordered.is_empty() {
            let deliveries = self.take(max).await?;
            if deliveries.iter().all(|delivery| !delivery.redelivered) {
                return Ok(self.give(deliveries));
            }
            self.returned = deliveries;
        }
        if self.ordered.is_empty() {
            if self.open.is_some() {
                // What came back is fetched as a whole, for which the window has to be free.
                return std::future::pending().await;
            }
            self.gather().await?;
        }
        let deliveries = self.ordered.drain(..max.min(self.ordered.len())).collect();
        Ok(self.give(deliveries))
    }

    fn window(&self) -> Option<u16> {
        self.live.as_ref().filter(|_| self.ordered.is_empty()).map(|live| live.prefetch)
    }

    /// On the same channel: nothing comes back. Another process whose turn it is now finds all committed that came before.
    async fn widen(&mut self, tag: u64, window: u16) -> Result<()> {
        // Back only when all is done: what stays half-way is cut, and comes again.
        let Some(mut live) = self.live.take() else {
            return Err(self.end("this consumer has ended".to_owned()));
        };
        let widened = async {
            live.widen(&self.queue, tag, window).await?;
            Ok(live)
        };
        match self.broker.within_timeout("making the window wider", widened).await {
            Ok(live) => {
                self.live = Some(live);
                self.open = None;
                Ok(())
            }
            Err(error) => Err(self.end(error.to_string())),
        }
    }

    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        if tag == 0 {
            // Nothing was delivered before it; to RabbitMQ it would mean all there is.
            return Ok(());
        }
        if tag < self.last_returned {
            return Ok(());
        }
        let Some(live) = self.live.as_ref() else {
            return Err(self.end("this consumer has ended".to_owned()));
        };
        // Through the channel, which fails when it is closed: a delivery's own ack says `Ok(false)`.
        let ack = live.channel.basic_ack(tag, BasicAckOptions { multiple: true });
        match tokio::time::timeout(self.broker.timeout, ack).await {
            Ok(Ok(())) => {
                self.open = self.open.filter(|open| *open > tag);
                Ok(())
            }
            Ok(Err(error)) => Err(self.end(format!("not acknowledged: {}", failure::text(&error)))),
            Err(_) => Err(self.end(format!("not acknowledged within {:?}", self.broker.timeout))),
        }
    }
}

impl Drop for RabbitMqConsumer {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            live.link.clone().close_behind(live);
        }
    }
}

impl fmt::Debug for RabbitMqConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqConsumer")
            .field("queue", &self.queue)
            .field("ended", &self.live.is_none())
            .finish_non_exhaustive()
    }
}

fn from_lapin(delivery: LapinDelivery) -> Delivery {
    let properties = &delivery.properties;
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    let headers: Headers = properties
        .headers()
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value_text(value)))
        .collect();
    Delivery {
        tag: delivery.delivery_tag,
        redelivered: delivery.redelivered,
        returns: headers.get(RETURNS).and_then(|count| count.parse().ok()).unwrap_or_default(),
        frame: Frame {
            routing_key: delivery.routing_key.to_string(),
            message_id: text(properties.message_id()),
            kind: text(properties.kind()),
            content_type: text(properties.content_type()),
            headers,
            body: delivery.data,
        },
    }
}

/// A header's value as text: ours are text already, others come from RabbitMQ or from other publishers.
fn value_text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(value) => value.to_string(),
        AMQPValue::ShortString(value) => value.to_string(),
        AMQPValue::ByteArray(value) => String::from_utf8_lossy(value.as_slice()).into_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Void => String::new(),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
            serde_json::to_string(value).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_messages_become_frames() {
        let mut delivery = LapinDelivery::mock(7, "e".into(), "a.b".into(), true, b"{}".to_vec());
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(-3));
        table.insert("t".into(), AMQPValue::FieldTable(FieldTable::default()));
        table.insert("bytes".into(), AMQPValue::LongString(vec![0xff, b'a'].into()));
        table.insert("void".into(), AMQPValue::Void);
        table.insert(RETURNS.into(), AMQPValue::LongLongInt(7));
        delivery.properties = lapin::BasicProperties::default().with_headers(table);
        let Delivery { tag, redelivered, returns, frame } = from_lapin(delivery);
        assert_eq!((tag, redelivered, returns), (7, true, 7));
        assert_eq!((frame.message_id.as_str(), frame.kind.as_str()), ("", ""));
        assert_eq!(frame.headers.get("n"), Some("-3"));
        assert_eq!(frame.headers.get("bytes"), Some("\u{fffd}a"));
        assert_eq!(frame.headers.get("void"), Some(""));
        assert!(frame.headers.get("t").is_some());
        let bare = LapinDelivery::mock(1, "e".into(), "k".into(), false, vec![]);
        assert_eq!(from_lapin(bare).frame.headers, Headers::default());
    }
}
