//! From COMMIT to the broker's confirmation when little happens: what tail mode is for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker, Confirm, Publisher, Queue as Wanted};
use outbox_core::{Frame, Headers, Message};
use outbox_relay::config::Mode;
use outbox_relay::{BellState, CancellationToken, OutboxConfig, Relay, State, Unrouted};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;

use crate::drain::Server;
use crate::process::Queue;
use crate::table::{Measure, median};
use crate::{Failure, database};

/// The mean pause between two writes.
const GAP: Duration = Duration::from_millis(200);

/// RabbitMQ, with the time of each confirmation told.
#[derive(Debug, Clone)]
struct Timed {
    inner: RabbitMq,
    confirmed: mpsc::UnboundedSender<(String, Instant)>,
}

struct TimedPublisher {
    inner: <RabbitMq as Broker>::Publisher,
    confirmed: mpsc::UnboundedSender<(String, Instant)>,
}

impl Broker for Timed {
    type Publisher = TimedPublisher;
    type Consumer = <RabbitMq as Broker>::Consumer;

    async fn publisher(&self) -> outbox_core::Result<TimedPublisher> {
        Ok(TimedPublisher { inner: self.inner.publisher().await?, confirmed: self.confirmed.clone() })
    }

    async fn consumer(&self, queue: &Wanted) -> outbox_core::Result<Self::Consumer> {
        self.inner.consumer(queue).await
    }
}

impl Publisher for TimedPublisher {
    async fn publish(&mut self, frames: &[Frame]) -> outbox_core::Result<Vec<Confirm>> {
        let confirms = self.inner.publish(frames).await?;
        let now = Instant::now();
        for (frame, confirm) in frames.iter().zip(&confirms) {
            if *confirm == Confirm::Confirmed {
                // Nobody listens any more once all samples are in.
                let _ = self.confirmed.send((frame.message_id.clone(), now));
            }
        }
        Ok(confirms)
    }
}

/// Tail against poll, at default settings, and what of it is RabbitMQ's: medians, in milliseconds.
pub(crate) async fn measure(server: &Server, samples: usize, runs: usize) -> Result<[Measure; 2], Failure> {
    let (mut tail, mut poll, mut confirm) = (vec![], vec![], vec![]);
    for run in 0..runs {
        poll.push(median_ms(server, Mode::Poll, samples, run as u64).await?);
        tail.push(median_ms(server, Mode::Tail, samples, run as u64).await?);
        confirm.push(confirm_ms(samples / 4, run as u64).await?);
    }
    let measure = |what: &str, against: &str, ours, theirs| Measure {
        measure: format!("latency p50, {what}, {}", server.name),
        against: against.into(),
        unit: "ms",
        ours,
        theirs,
    };
    Ok([measure("tail", "poll", tail.clone(), poll), measure("bare confirm", "tail", confirm, tail)])
}

/// From a publish to its confirmation, after the same pauses, without a database.
async fn confirm_ms(samples: usize, seed: u64) -> Result<f64, Failure> {
    let amqp = Server::amqp()?;
    let queue = Queue::declare(&amqp).await?;
    let mut publisher = RabbitMq::new(&amqp)?.exchange("bench").publisher().await?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut waits = Vec::with_capacity(samples);
    for number in 0..samples {
        tokio::time::sleep(pause(&mut random)).await;
        let message = Message::new("bench", number.to_string(), "updated", b"{}".to_vec())?;
        let frame = Frame {
            routing_key: "bench.updated.00".into(),
            message_id: message.id().to_string(),
            kind: "bench.updated".into(),
            content_type: String::new(),
            headers: Headers::default(),
            body: b"{}".to_vec(),
        };
        let started = Instant::now();
        if publisher.publish(&[frame]).await? != [Confirm::Confirmed] {
            return Err("the broker did not confirm a message".into());
        }
        waits.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    queue.delete().await?;
    Ok(median(&waits))
}

/// Exponential: as if many writers did not know of each other.
fn pause(random: &mut StdRng) -> Duration {
    GAP.mul_f64(-random.random_range(0.01_f64..1.0).ln())
}

async fn median_ms(server: &Server, mode: Mode, samples: usize, seed: u64) -> Result<f64, Failure> {
    let (admin, amqp) = (server.admin()?, Server::amqp()?);
    let name = format!("bench_latency_{}", std::process::id());
    let url = server.create(&admin, &name)?;
    let is_postgres = url.starts_with("postgres");
    if mode == Mode::Tail && is_postgres {
        database::ring(&url)?;
    }
    let queue = Queue::declare(&amqp).await?;
    let (confirmed, mut confirmations) = mpsc::unbounded_channel();
    let broker = Timed { inner: RabbitMq::new(&amqp)?.exchange("bench"), confirmed };
    let outbox = OutboxConfig { mode, ..OutboxConfig::new("bench", &url) };
    let relay = Relay::new([outbox], broker, Unrouted::Queue)?;
    let (status, shutdown) = (relay.statuses()[0].clone(), CancellationToken::new());
    let running = tokio::spawn(relay.run(shutdown.clone()));
    loop {
        let now = status.snapshot();
        let is_heard = mode == Mode::Poll || now.bell == BellState::Heard;
        if now.state == State::Running && !now.held.is_empty() && is_heard {
            break;
        }
        if running.is_finished() {
            return Err(format!("the relay ended: {:?}", running.await).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written = url.clone();
    let writing = tokio::task::spawn_blocking(move || {
        if is_postgres {
            trickle::<diesel::PgConnection>(&written, samples, seed)
        } else {
            trickle::<diesel::MysqlConnection>(&written, samples, seed)
        }
    });
    let mut arrived = HashMap::new();
    while arrived.len() < samples {
        let (id, time) = confirmations.recv().await.ok_or("the relay ended")?;
        arrived.entry(id).or_insert(time);
    }
    let committed = writing.await??;
    shutdown.cancel();
    running.await??;
    queue.delete().await?;
    server.drop(&admin, &name)?;
    let waits: Vec<f64> = committed
        .iter()
        .filter_map(|(id, time)| {
            Some(arrived.get(id)?.saturating_duration_since(*time).as_secs_f64() * 1000.0)
        })
        .collect();
    Ok(median(&waits))
}

/// One message a transaction, after random pauses; when each COMMIT was answered.
fn trickle<C: outbox_core::OutboxConnection>(
    url: &str,
    samples: usize,
    seed: u64,
) -> Result<Vec<(String, Instant)>, Failure> {
    let mut connection = C::establish(url)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut committed = Vec::with_capacity(samples);
    for number in 0..samples {
        std::thread::sleep(pause(&mut random));
        let message = Message::new("bench", number.to_string(), "updated", b"{}".to_vec())?;
        let id = message.id().to_string();
        connection.outbox_transaction(|tx| {
            tx.record_message(message);
            Ok(())
        })?;
        committed.push((id, Instant::now()));
    }
    Ok(committed)
}
