//! Publishing with confirms, many messages in flight, none believed to have arrived that did not.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::future::{MaybeDone, maybe_done};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

use super::failure;
use super::link::Link;
use crate::broker::{Confirm, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Frame, PAYLOAD_BYTES_MAX};

/// At most so many messages wait for their confirms at a time: enough for quorum queues, and lapin
/// goes through all that wait whenever RabbitMQ confirms several at once.
const WINDOW_MESSAGES: usize = 1024;
/// Of these at most so many wait to be written at a time: lapin's future of each takes twenty kilobytes.
const WRITES: usize = 128;
/// At most so many bytes wait for their confirms at a time: what lapin buffers for one connection.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// The longest AMQP short string, in bytes.
const SHORT_BYTES_MAX: usize = 255;
/// What the properties besides the headers take at most, in bytes.
const PROPERTIES_BYTES: usize = 1024;
/// When the message was recorded, microseconds since 1970.
const TIME: &str = "outbox-time";
/// The reply code of RabbitMQ for a message that it will never take.
const PRECONDITION_FAILED: u16 = 406;
/// The reply code of RabbitMQ for an exchange that does not exist.
const NOT_FOUND: u16 = 404;

/// Publishes to RabbitMQ; see [`RabbitMq`](super::RabbitMq).
///
/// After an error it publishes no more, and its connection is gone: make a new one. The same goes for one
/// whose `publish` was dropped before it was done.
///
/// ```no_run
/// use outbox_core::broker::rabbitmq::{RabbitMq, RabbitMqPublisher};
/// use outbox_core::broker::{Broker, Confirm, Publisher};
/// # use outbox_core::{Message, Recorded, Version};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let broker = RabbitMq::new("amqp://localhost")?;
/// let mut publisher: RabbitMqPublisher = broker.publisher().await?;
/// while publisher.publish(std::slice::from_ref(&frame)).await.is_err() {
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///     publisher = broker.publisher().await?;
/// }
/// assert!(publisher.is_alive());
/// # Ok(())
/// # }
/// ```
pub struct RabbitMqPublisher {
    link: Link,
    channel: Channel,
    exchange: ShortString,
    timeout: Duration,
    /// RabbitMQ has confirmed something on this connection.
    proven: bool,
    /// So many frames go out one by one, to find the one that RabbitMQ refused their window for.
    alone: usize,
    /// Why nothing is published any more. Set while a call is under way, so that one which is dropped half
    /// way leaves it: the confirms that it did not wait for would be taken for those of the next.
    broken: Option<String>,
}

/// What went wrong with a window.
enum Failed {
    /// RabbitMQ closed the channel over it and may take other messages.
    Channel(lapin::Error),
    /// The connection is of no use any more.
    Link(Error),
}

impl RabbitMqPublisher {
    /// Turns on confirms; `timeout` is for one call of `publish`.
    pub(super) async fn open(link: Link, exchange: ShortString, timeout: Duration) -> Result<Self> {
        let channel = confirming(&link).await?;
        Ok(Self { link, channel, exchange, timeout, proven: false, alone: 0, broken: None })
    }

    async fn publish_all(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
        let mut answers = Vec::with_capacity(frames.len());
        while let Some(first) = frames.get(answers.len()) {
            if let Some(reason) = self.unsendable(first) {
                answers.push(Confirm::Refused(reason));
                self.alone = self.alone.saturating_sub(1);
                continue;
            }
            // What is written now would go out whenever RabbitMQ takes messages again, wanted or not.
            self.link.unblocked().await;
            let window = self.window(&frames[answers.len()..]);
            match self.send(window).await {
                Ok(confirms) => {
                    self.proven = true;
                    self.link.takes_messages();
                    self.alone = self.alone.saturating_sub(confirms.len());
                    answers.extend(confirms);
                }
                Err(Failed::Channel(error)) => answers.extend(self.closed(&error, window).await?),
                Err(Failed::Link(error)) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// The answer to a window of one frame over which RabbitMQ closed the channel, with a new channel in its
    /// place; for a larger window none, and its frames go out again one by one: some of them repeat, which
    /// beats meeting the same frame in the same window for ever.
    async fn closed(&mut self, error: &lapin::Error, window: &[Frame]) -> Result<Option<Confirm>> {
        let said = failure::text(error);
        match failure::code(error) {
            Some(PRECONDITION_FAILED) if window.len() > 1 => {
                self.channel = confirming(&self.link).await?;
                self.alone = window.len();
                Ok(None)
            }
            Some(PRECONDITION_FAILED) => {
                self.channel = confirming(&self.link).await?;
                self.alone = self.alone.saturating_sub(1);
                Ok(Some(Confirm::Refused(said)))
            }
            Some(NOT_FOUND) => Err(Error::new(
                ErrorKind::Broker,
                format!(
                    "publishing to exchange {}: {said}; it was deleted while we published: it is declared again with \
                     the next connection if `declare` is on, otherwise create it",
                    self.exchange
                ),
            )),
            _ => Err(self.link.failure(error, &format!("publishing to exchange {}", self.exchange))),
        }
    }

    /// How many of the frames go out together: at least the first.
    fn window<'a>(&self, frames: &'a [Frame]) -> &'a [Frame] {
        // RabbitMQ tells a connection that it is blocked only after the connection has published. One
        // frame finds that out; with a whole window, each new connection during an alarm would leave a
        // window of repeats in RabbitMQ's sockets for the time after.
        let messages = if self.proven && self.alone == 0 { WINDOW_MESSAGES } else { 1 };
        let mut bytes = 0;
        let fitting = frames.iter().take(messages).take_while(|frame| {
            bytes += frame.size();
            bytes <= WINDOW_BYTES && self.unsendable(frame).is_none()
        });
        let count = fitting.count().max(1);
        &frames[..count]
    }

    /// Why a frame must not be sent: lapin would panic, or RabbitMQ would close the channel or the
    /// connection, and with it take down all that is in flight.
    fn unsendable(&self, frame: &Frame) -> Option<String> {
        if frame.body.len() > PAYLOAD_BYTES_MAX {
            return Some(format!(
                "the payload has {} bytes, RabbitMQ takes {PAYLOAD_BYTES_MAX} by default",
                frame.body.len()
            ));
        }
        if frame.message_id.is_empty() {
            return Some(
                "the message has no id, so it would not be recognised if RabbitMQ returned it".into(),
            );
        }
        for (what, value) in
            [("routing key", &frame.routing_key), ("message id", &frame.message_id), ("type", &frame.kind)]
        {
            if value.len() > SHORT_BYTES_MAX {
                return Some(format!("the {what} has {} bytes, AMQP takes {SHORT_BYTES_MAX}", value.len()));
            }
        }
        let mut bytes = PROPERTIES_BYTES;
        for (name, value) in frame.headers.iter() {
            if name == "CC" || name == "BCC" {
                return Some(format!("header {name} holds further routing keys to RabbitMQ"));
            }
            if name.len() > SHORT_BYTES_MAX {
                return Some(format!(
                    "a header's name has {} bytes, AMQP takes {SHORT_BYTES_MAX}",
                    name.len()
                ));
            }
            // The lengths of both and the type.
            bytes += name.len() + value.len() + 6;
        }
        let limit = self.link.frame_bytes_max();
        (bytes > limit).then(|| format!("the headers have {bytes} bytes, the connection takes {limit}"))
    }

    /// Publishes a window and waits for the answers to all of it.
    async fn send(&self, frames: &[Frame]) -> std::result::Result<Vec<Confirm>, Failed> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let mut confirms = Vec::with_capacity(frames.len());
        // Waiting for each in turn instead would cost three times the processor, for a wait per message on lapin's thread.
        let mut sends = VecDeque::with_capacity(WRITES);
        for frame in frames {
            if sends.len() == WRITES {
                confirms.extend(written(&mut sends).await);
            }
            let mut send = Box::pin(maybe_done(self.channel.basic_publish(
                self.exchange.clone(),
                frame.routing_key.as_str().into(),
                options,
                &frame.body,
                properties(frame),
            )));
            // A first poll queues a message for writing: these make their order.
            let _ = futures::poll!(send.as_mut());
            sends.push_back(send);
        }
        while !sends.is_empty() {
            confirms.extend(written(&mut sends).await);
        }

        let mut answers = Vec::with_capacity(frames.len());
        let mut returned = HashMap::new();
        let mut trouble: Option<lapin::Error> = None;
        for confirm in confirms {
            let confirmation = match confirm {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            let (answer, message) = match confirmation {
                Ok(Confirmation::Ack(message)) => (Confirm::Confirmed, message),
                Ok(Confirmation::Nack(message)) => (
                    Confirm::Refused(
                        "RabbitMQ refuses the message (nack): a queue that it goes to is full or not available".into(),
                    ),
                    message,
                ),
                Ok(Confirmation::NotRequested) => {
                    return Err(Failed::Link(Error::new(
                        ErrorKind::Outage,
                        "publishing: the channel is not in confirm mode, nothing is known of what was published",
                    )));
                }
                Err(error) => {
                    // Of all the errors of a window, the one that says why is RabbitMQ's own.
                    if trouble.as_ref().is_none_or(|known| failure::code(known).is_none()) {
                        trouble = Some(error);
                    }
                    continue;
                }
            };
            answers.push(answer);
            if let Some(message) = message {
                let id = message.properties.message_id().as_ref().map(ToString::to_string);
                let text = format!("{} {}", message.reply_code, message.reply_text);
                returned.insert(id.unwrap_or_default(), text);
            }
        }
        if let Some(error) = trouble {
            return Err(Failed::Channel(error));
        }
        // An unroutable message is confirmed like any other, with its return before that; lapin hands the
        // return to whichever confirm comes next, so only the ids say what was returned, and only after
        // the whole window.
        for (frame, answer) in frames.iter().zip(&mut answers) {
            if let Some(text) = returned.get(&frame.message_id) {
                *answer = Confirm::Returned(format!(
                    "{text}: no queue is bound to exchange {} for routing key {}",
                    self.exchange, frame.routing_key
                ));
            }
        }
        let stranger = returned.keys().any(|id| frames.iter().all(|frame| frame.message_id != *id));
        if stranger || answers.len() != frames.len() {
            return Err(Failed::Link(Error::new(
                ErrorKind::Outage,
                "publishing: the answers do not belong to what was published",
            )));
        }
        Ok(answers)
    }
}

impl Publisher for RabbitMqPublisher {
    /// One call takes the timeout of the [`RabbitMq`](super::RabbitMq) at most, in which a wait while
    /// RabbitMQ blocks publishing is included. Frames with the same message id share their answer.
    ///
    /// A frame that could harm the connection is `Refused` without being sent: a payload above
    /// [`PAYLOAD_BYTES_MAX`], headers above the connection's frame size, a header `CC` or `BCC`.
    ///
    /// # Errors
    /// `Outage`: which frames arrived is not known. `Broker`: the exchange is gone, or writing to it is not
    /// allowed.
    async fn publish(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
        if let Some(reason) = &self.broken {
            return Err(Error::new(ErrorKind::Outage, format!("this publisher has ended: {reason}")));
        }
        self.broken = Some("a publish was given up half way".to_owned());
        let timeout = self.timeout;
        let result = match tokio::time::timeout(timeout, self.publish_all(frames)).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Outage,
                match self.link.blocked() {
                    Some(reason) => {
                        format!(
                            "publishing: given up after {timeout:?}, RabbitMQ takes no messages: {reason}"
                        )
                    }
                    None => format!("publishing: no answer from RabbitMQ within {timeout:?}"),
                },
            )),
        };
        match &result {
            Ok(_) => self.broken = None,
            Err(error) => {
                self.broken = Some(error.to_string());
                self.link.cut();
            }
        }
        result
    }

    /// A connection that RabbitMQ has closed is noticed at once, one that has fallen silent after two heartbeats.
    fn is_alive(&self) -> bool {
        self.broken.is_none() && self.link.is_up() && self.channel.status().connected()
    }
}

impl Drop for RabbitMqPublisher {
    fn drop(&mut self) {
        if self.broken.is_some() {
            self.link.cut();
        } else {
            self.link.clone().close_behind(());
        }
    }
}

impl fmt::Debug for RabbitMqPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqPublisher")
            .field("exchange", &self.exchange.as_str())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A channel that confirms. Only its owner may publish on it: lapin numbers messages and queues them in two
/// steps, so with two tasks one gets the other's answer.
async fn confirming(link: &Link) -> Result<Channel> {
    let channel = link.channel().await?;
    match channel.confirm_select(ConfirmSelectOptions::default()).await {
        Ok(()) => Ok(channel),
        Err(error) => Err(link.failure(&error, "turning on confirms")),
    }
}

/// What comes of the first of these, once it is written.
async fn written<F: Future>(sends: &mut VecDeque<Pin<Box<MaybeDone<F>>>>) -> Option<F::Output> {
    let mut first = sends.pop_front()?;
    first.as_mut().await;
    first.as_mut().take_output()
}

fn properties(frame: &Frame) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in frame.headers.iter() {
        // RabbitMQ's own, from an earlier delivery.
        if !name.starts_with("x-") {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    }
    let properties = BasicProperties::default()
        .with_message_id(frame.message_id.as_str().into())
        .with_type(frame.kind.as_str().into())
        // Persistent.
        .with_delivery_mode(2)
        .with_app_id("outbox".into())
        .with_headers(headers);
    let properties = if frame.content_type.is_empty() {
        properties
    } else {
        properties.with_content_type(frame.content_type.as_str().into())
    };
    let microseconds = frame.headers.get(TIME).and_then(|time| time.parse::<u64>().ok());
    match microseconds {
        Some(microseconds) => properties.with_timestamp(microseconds / 1_000_000),
        None => properties,
    }
}
