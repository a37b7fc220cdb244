//! Consuming one queue.

use std::fmt;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::message::Delivery as LapinDelivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::failure;
use super::link::Link;
use crate::broker::{Consumer, Delivery};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Frame, Headers};

/// Consumes a queue of RabbitMQ; see [`RabbitMq`](super::RabbitMq).
///
/// After an error it delivers no more: make a new one. When it is dropped, what it delivered and nobody
/// acknowledged goes back to its place in the queue.
pub struct RabbitMqConsumer {
    queue: String,
    timeout: Duration,
    /// `None` after an error.
    live: Option<Live>,
    /// What ended the stream, found while taking what was ready; told at the next call.
    ended: Option<Error>,
}

struct Live {
    // Dropped first, which cuts the connection: dropping the stream sends a `basic.cancel`, and the next
    // consumer would get what comes later before what this one holds comes back.
    link: Link,
    channel: Channel,
    stream: lapin::Consumer,
}

impl RabbitMqConsumer {
    /// Begins to consume; `timeout` is for one acknowledgement.
    pub(super) async fn open(
        link: Link,
        queue: ShortString,
        prefetch: u16,
        timeout: Duration,
    ) -> Result<Self> {
        let doing = format!("consuming queue {queue}");
        let channel = link.channel().await?;
        // Before consuming, or lapin buffers the queue without bound; 0 would mean the same. Per consumer:
        // quorum queues refuse a limit for the channel.
        channel
            .basic_qos(prefetch.max(1), BasicQosOptions { global: false })
            .await
            .map_err(|e| link.failure(&e, &doing))?;
        let stream = channel
            .basic_consume(
                queue.clone(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|e| link.failure(&e, &doing))?;
        let live = Some(Live { link, channel, stream });
        Ok(Self { queue: queue.to_string(), timeout, live, ended: None })
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
}

impl Consumer for RabbitMqConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>> {
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

    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        if tag == 0 {
            // Nothing was delivered before it; to RabbitMQ it would mean all there is.
            return Ok(());
        }
        let Some(live) = self.live.as_ref() else {
            return Err(self.end("this consumer has ended".to_owned()));
        };
        // Through the channel, which fails when it is closed: a delivery's own ack says `Ok(false)`.
        let ack = live.channel.basic_ack(tag, BasicAckOptions { multiple: true });
        match tokio::time::timeout(self.timeout, ack).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.end(format!("not acknowledged: {}", failure::text(&error)))),
            Err(_) => Err(self.end(format!("not acknowledged within {:?}", self.timeout))),
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
        .map(|(name, value)| (name.to_string(), value_text(value)))
        .collect();
    Delivery {
        tag: delivery.delivery_tag,
        redelivered: delivery.redelivered,
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
        delivery.properties = lapin::BasicProperties::default().with_headers(table);
        let Delivery { tag, redelivered, frame } = from_lapin(delivery);
        assert_eq!((tag, redelivered), (7, true));
        assert_eq!((frame.message_id.as_str(), frame.kind.as_str()), ("", ""));
        assert_eq!(frame.headers.get("n"), Some("-3"));
        assert_eq!(frame.headers.get("bytes"), Some("\u{fffd}a"));
        assert_eq!(frame.headers.get("void"), Some(""));
        assert!(frame.headers.get("t").is_some());
        let bare = LapinDelivery::mock(1, "e".into(), "k".into(), false, vec![]);
        assert_eq!(from_lapin(bare).frame.headers, Headers::default());
    }
}
