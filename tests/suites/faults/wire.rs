//! Everything that a relay publishes, as a queue bound to all of it gets it: repeats and order as they are on the
//! wire, before any subscriber absorbs them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use outbox_core::OutboxConnection as _;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Consumer as _, Queue};
use tokio::task::JoinHandle;

use super::Connection;
use crate::checker::Tally;
use crate::items::Stepped;

/// Rows of one transaction of [`record`].
const ROWS: i64 = 1000;

/// Consumes until it is dropped.
pub(super) struct Wire {
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

impl Wire {
    pub(super) async fn start(amqp: &str, exchange: &str) -> Self {
        let broker = RabbitMq::new(amqp).unwrap().exchange(exchange);
        let queue =
            Queue { name: format!("wire-{exchange}"), bindings: vec!["#".to_owned()], prefetch: 1000 };
        // As a subscriber would: a broker that is busy with others may take its time.
        let mut consumer = loop {
            match broker.consumer(&queue).await {
                Ok(consumer) => break consumer,
                Err(error) => assert!(error.is_outage(), "{error}"),
            }
        };
        let tally = Arc::<Mutex<Tally>>::default();
        let shared = Arc::clone(&tally);
        let task = tokio::spawn(async move {
            loop {
                let deliveries = consumer.next(1000).await.unwrap();
                let last = deliveries.last().map(|delivery| delivery.tag);
                for delivery in &deliveries {
                    let body: serde_json::Value = serde_json::from_slice(&delivery.frame.body).unwrap();
                    let key = delivery.frame.headers.get("outbox-key").unwrap();
                    shared.lock().unwrap().arrive(key, body["sequence"].as_i64().unwrap());
                }
                if let Some(tag) = last {
                    consumer.ack_through(tag).await.unwrap();
                }
            }
        });
        Self { tally, task }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Records so many messages of a key, sequences from 1.
pub(super) fn record(connection: &mut Connection, key: &str, count: i64) {
    let mut first = 1;
    while first <= count {
        let last = count.min(first + ROWS - 1);
        connection
            .outbox_transaction(|tx| {
                (first..=last)
                    .try_for_each(|sequence| tx.record(&Stepped { account: key.to_owned(), sequence }))
            })
            .unwrap();
        first = last + 1;
    }
}

/// Records so many messages of each of these keys in turns, sequences from 1.
pub(super) fn record_in_turns(connection: &mut Connection, keys: &[String], count: i64) {
    for sequence in 1..=count {
        connection
            .outbox_transaction(|tx| {
                keys.iter().try_for_each(|key| tx.record(&Stepped { account: key.clone(), sequence }))
            })
            .unwrap();
    }
}

/// What was recorded, so many of each key.
pub(super) fn committed<'a>(keys: impl IntoIterator<Item = (&'a str, i64)>) -> BTreeMap<String, i64> {
    keys.into_iter().map(|(key, count)| (key.to_owned(), count)).collect()
}
