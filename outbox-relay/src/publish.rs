//! The sink that publishes to a broker. Order per key is kept here: of one key only so many messages are
//! unconfirmed at a time, one by default, since a broker that refuses the first and takes the second has
//! reordered them for good.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_core::broker::{Broker, Confirm, Publisher};
use outbox_core::{Error, ErrorKind, Frame, Result};

use crate::config::Unrouted;
use crate::pipe::{Sink, Verdict};
use crate::status::Status;

/// An item that can be published.
pub trait Outgoing: Send {
    /// Items of one key arrive in order.
    fn key(&self) -> &str;

    /// When it was recorded, in microseconds since 1970, where that is known.
    fn recorded_at_us(&self) -> Option<i64> {
        None
    }

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
        // An idle relay must notice too that the broker has gone.
        if self.publisher.as_ref().is_some_and(|publisher| !publisher.is_alive()) {
            self.publisher = None;
        }
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
        self.status.add_sent(frames.len() as u64);
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
            let verdict = match sink.judge(confirm, frame) {
                Ok(verdict) => verdict,
                Err(error) => {
                    // The next connection declares what is missing, where it may.
                    sink.publisher = None;
                    return Err(error);
                }
            };
            if verdict == Verdict::Done {
                if let Some(latency) = items[index].recorded_at_us().and_then(age) {
                    sink.status.observe_latency(latency);
                }
            } else {
                failed.insert(items[index].key().to_owned());
            }
            verdicts[index] = verdict;
        }
    }
    sink.status.add_batch();
    Ok(verdicts)
}

/// How long ago that was; a moment of a clock that runs ahead is now.
fn age(recorded_at_us: i64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let then = Duration::from_micros(u64::try_from(recorded_at_us).ok()?);
    Some(now.saturating_sub(then))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use outbox_core::Headers;
    use outbox_core::broker::{Consumer, Delivery, Queue};

    use super::*;

    type Answer = Result<Vec<Confirm>, ErrorKind>;

    /// A broker that answers as it is told, and notes what it was given. Without an answer left it confirms.
    #[derive(Debug, Clone, Default)]
    struct Scripted(Arc<Mutex<Script>>);

    #[derive(Debug, Default)]
    struct Script {
        answers: VecDeque<Answer>,
        calls: Vec<Vec<String>>,
        connections: usize,
        is_gone: bool,
    }

    impl Scripted {
        fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
            let script = Script { answers: answers.into_iter().collect(), ..Script::default() };
            Self(Arc::new(Mutex::new(script)))
        }
    }

    impl Broker for Scripted {
        type Publisher = Self;
        type Consumer = Nothing;

        async fn publisher(&self) -> Result<Self> {
            self.0.lock().unwrap().connections += 1;
            Ok(self.clone())
        }

        async fn consumer(&self, _: &Queue) -> Result<Nothing> {
            Ok(Nothing)
        }
    }

    impl Publisher for Scripted {
        async fn publish(&mut self, frames: &[Frame]) -> Result<Vec<Confirm>> {
            let mut script = self.0.lock().unwrap();
            script.calls.push(frames.iter().map(|frame| frame.message_id.clone()).collect());
            let confirmed = Ok(vec![Confirm::Confirmed; frames.len()]);
            script.answers.pop_front().unwrap_or(confirmed).map_err(|kind| Error::new(kind, "scripted"))
        }

        fn is_alive(&self) -> bool {
            !self.0.lock().unwrap().is_gone
        }
    }

    struct Nothing;

    impl Consumer for Nothing {
        async fn next(&mut self, _: usize) -> Result<Vec<Delivery>> {
            Ok(Vec::new())
        }

        async fn ack_through(&mut self, _: u64) -> Result<()> {
            Ok(())
        }
    }

    /// `a1` is the first message of key `a`; one with `!` cannot be decoded.
    struct Named(&'static str);

    impl Outgoing for Named {
        fn key(&self) -> &str {
            &self.0[..1]
        }

        fn take_frame(&mut self) -> Result<Frame, String> {
            if self.0.ends_with('!') {
                return Err("not JSON".into());
            }
            Ok(Frame {
                routing_key: "a.b.00".into(),
                message_id: self.0.into(),
                kind: "a.b".into(),
                content_type: "application/json".into(),
                headers: Headers::default(),
                body: Vec::new(),
            })
        }
    }

    fn items(names: &'static str) -> Vec<Named> {
        names.split(' ').map(Named).collect()
    }

    fn sink(broker: &Scripted, unrouted: Unrouted, in_flight_per_key: u32) -> Publish<Scripted> {
        Publish::new(broker.clone(), unrouted, in_flight_per_key, Status::new("test"))
    }

    /// Verdicts as letters: Done, Poison, Held.
    fn letters(verdicts: &[Verdict]) -> String {
        let letter = |verdict: &Verdict| match verdict {
            Verdict::Done => 'D',
            Verdict::Poison { .. } => 'P',
            Verdict::Held => 'H',
        };
        verdicts.iter().map(letter).collect()
    }

    #[test]
    fn a_wave_holds_so_many_of_a_key() {
        let keys = ["a", "b", "a", "a", "c"];
        assert_eq!(waves(keys.into_iter(), 1), [vec![0, 1, 4], vec![2], vec![3]]);
        assert_eq!(waves(keys.into_iter(), 2), [vec![0, 1, 2, 4], vec![3]]);
    }

    #[tokio::test]
    async fn one_message_of_a_key_is_unconfirmed_at_a_time() {
        let broker = Scripted::default();
        let verdicts = sink(&broker, Unrouted::Queue, 1).deliver(&mut items("a1 a2 b1 a3")).await.unwrap();
        assert_eq!(letters(&verdicts), "DDDD");
        assert_eq!(broker.0.lock().unwrap().calls, [vec!["a1", "b1"], vec!["a2"], vec!["a3"]]);
        let broker = Scripted::default();
        sink(&broker, Unrouted::Queue, 8).deliver(&mut items("a1 a2 b1 a3")).await.unwrap();
        assert_eq!(broker.0.lock().unwrap().calls, [vec!["a1", "a2", "b1", "a3"]]);
    }

    #[tokio::test]
    async fn a_refused_message_holds_its_key_and_no_other() {
        let refused = Confirm::Refused("no".into());
        let broker = Scripted::answering([Ok(vec![refused, Confirm::Confirmed])]);
        let verdicts = sink(&broker, Unrouted::Queue, 1).deliver(&mut items("a1 b1 a2 b2 a3")).await.unwrap();
        assert_eq!(letters(&verdicts), "PDHDH");
        assert_eq!(broker.0.lock().unwrap().calls, [vec!["a1", "b1"], vec!["b2"]]);
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_poison_without_being_published() {
        let broker = Scripted::default();
        let verdicts = sink(&broker, Unrouted::Queue, 1).deliver(&mut items("a1! b1 a2")).await.unwrap();
        assert_eq!(letters(&verdicts), "PDH");
        assert_eq!(broker.0.lock().unwrap().calls, [vec!["b1"]]);
    }

    #[tokio::test]
    async fn a_return_is_poison_or_an_outage_by_what_was_asked_of_the_broker() {
        let returned = || Ok(vec![Confirm::Returned("no queue".into())]);
        let broker = Scripted::answering([returned(), returned()]);
        let verdicts = sink(&broker, Unrouted::Refuse, 1).deliver(&mut items("a1")).await.unwrap();
        assert_eq!(letters(&verdicts), "P");
        let error = sink(&broker, Unrouted::Queue, 1).deliver(&mut items("a1")).await.unwrap_err();
        assert!(error.to_string().contains("alternate exchange"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_replaced_before_anything_is_read() {
        let broker = Scripted::default();
        let mut sink = sink(&broker, Unrouted::Queue, 1);
        let connections = || broker.0.lock().unwrap().connections;
        Sink::<Named>::ready(&mut sink).await.unwrap();
        Sink::<Named>::ready(&mut sink).await.unwrap();
        assert_eq!(connections(), 1);
        broker.0.lock().unwrap().is_gone = true;
        Sink::<Named>::ready(&mut sink).await.unwrap();
        assert_eq!(connections(), 2);
    }

    #[tokio::test]
    async fn an_outage_gives_no_verdict_and_a_fresh_connection() {
        let broker = Scripted::answering([Err(ErrorKind::Outage)]);
        let mut sink = sink(&broker, Unrouted::Queue, 1);
        assert!(sink.deliver(&mut items("a1 b1")).await.unwrap_err().is_outage());
        sink.deliver(&mut items("a1 b1")).await.unwrap();
        sink.deliver(&mut items("a1 b1")).await.unwrap();
        assert_eq!(broker.0.lock().unwrap().connections, 2);
    }
}
