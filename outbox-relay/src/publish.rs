//! The sink that publishes to a broker. Order per key is kept here: of one key only so many messages are
//! unconfirmed at a time, one by default, since a broker that refuses the first and takes the second has
//! reordered them for good.

use std::collections::{HashMap, HashSet};
use std::future::Future;

use outbox_core::broker::{Broker, Confirm, Publisher};
use outbox_core::{Error, ErrorKind, Frame, Result};

use crate::config::Unrouted;
use crate::pipe::{Sink, Verdict};
use crate::status::Status;

/// An item that can be published.
pub trait Outgoing: Send {
    /// Items of one key arrive in order.
    fn key(&self) -> &str;

    /// Takes out what travels; an error is for the operator: the item can never be published.
    ///
    /// # Errors
    /// Why not.
    fn take_frame(&mut self) -> Result<Frame, String>;
}

/// Publishes to a broker, over a connection that is made anew after every doubt.
#[derive(Debug)]
pub struct Publish<B: Broker> {
    broker: B,
    publisher: Option<B::Publisher>,
    unrouted: Unrouted,
    in_flight_per_key: usize,
    status: Status,
}

impl<B: Broker> Publish<B> {
    /// Publishes to `broker`, which is not connected before the first item.
    pub fn new(broker: B, unrouted: Unrouted, in_flight_per_key: u32, status: Status) -> Self {
        let in_flight_per_key = usize::try_from(in_flight_per_key).unwrap_or(usize::MAX).max(1);
        Self { broker, publisher: None, unrouted, in_flight_per_key, status }
    }

    async fn connect(&mut self) -> Result<()> {
        if self.publisher.is_none() {
            self.publisher = Some(self.broker.publisher().await?);
        }
        Ok(())
    }

    /// Publishes one wave. The publisher is put back only after an answer: neither after an error nor when
    /// this future was dropped is it known what the broker has.
    async fn publish(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
        self.connect().await?;
        let Some(mut publisher) = self.publisher.take() else { return Ok(Vec::new()) };
        let confirms = publisher.publish(frames).await?;
        if confirms.len() != frames.len() {
            let text = format!("{} answers for {} messages", confirms.len(), frames.len());
            return Err(Error::new(ErrorKind::Broker, text));
        }
        self.publisher = Some(publisher);
        Ok(confirms)
    }

    /// A confirm as a verdict.
    fn judge(&self, confirm: Confirm, frame: &Frame) -> Result<Verdict> {
        match (confirm, self.unrouted) {
            (Confirm::Confirmed, _) => {
                self.status.add_published(1);
                Ok(Verdict::Done)
            }
            (Confirm::Refused(reason), _) => {
                Ok(Verdict::Poison { reason: format!("the broker refused it: {reason}") })
            }
            (Confirm::Returned(reason), Unrouted::Refuse) => {
                self.status.add_returned(1);
                Ok(Verdict::Poison {
                    reason: format!("no queue is bound for {}: {reason}", frame.routing_key),
                })
            }
            (Confirm::Returned(reason), Unrouted::Queue) => Err(Error::new(
                ErrorKind::Broker,
                format!(
                    "{} came back ({reason}) though unrouted messages have a queue: the exchange has lost its \
                     alternate exchange, or that its queue",
                    frame.routing_key
                ),
            )),
        }
    }
}

/// Indexes of a batch in waves: a wave holds at most `width` items of a key, in order.
fn waves<'a>(keys: impl Iterator<Item = &'a str>, width: usize) -> Vec<Vec<usize>> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (index, key) in keys.enumerate() {
        let count = seen.entry(key).or_default();
        let wave = *count / width;
        *count += 1;
        if wave == waves.len() {
            waves.push(Vec::new());
        }
        waves[wave].push(index);
    }
    waves
}

impl<B: Broker, I: Outgoing> Sink<I> for Publish<B> {
    async fn ready(&mut self) -> Result<()> {
        self.connect().await
    }

    fn deliver(&mut self, items: &mut [I]) -> impl Future<Output = Result<Vec<Verdict>>> + Send {
        deliver(self, items)
    }
}

async fn deliver<B: Broker, I: Outgoing>(sink: &mut Publish<B>, items: &mut [I]) -> Result<Vec<Verdict>> {
    let mut verdicts = vec![Verdict::Held; items.len()];
    let mut failed: HashSet<String> = HashSet::new();
    for wave in waves(items.iter().map(Outgoing::key), sink.in_flight_per_key) {
        let mut indexes = Vec::with_capacity(wave.len());
        let mut frames = Vec::with_capacity(wave.len());
        for index in wave {
            let item = &mut items[index];
            if failed.contains(item.key()) {
                continue;
            }
            match item.take_frame() {
                Ok(frame) => {
                    indexes.push(index);
                    frames.push(frame);
                }
                Err(reason) => {
                    failed.insert(item.key().to_owned());
                    verdicts[index] = Verdict::Poison { reason };
                }
            }
        }
        if frames.is_empty() {
            continue;
        }
        let confirms = sink.publish(&frames).await?;
        for ((index, frame), confirm) in indexes.into_iter().zip(&frames).zip(confirms) {
            let verdict = sink.judge(confirm, frame)?;
            if verdict != Verdict::Done {
                failed.insert(items[index].key().to_owned());
            }
            verdicts[index] = verdict;
        }
    }
    sink.status.add_batch();
    Ok(verdicts)
}
