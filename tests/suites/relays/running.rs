//! A relay as a task, and what arrives from it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use outbox_core::broker::memory::MemoryBroker;
use outbox_core::broker::{Broker, Consumer as _, Queue};
use outbox_core::{Message, OutboxConnection};
use outbox_relay::{CancellationToken, OutboxConfig, Relay, Snapshot, Status, Unrouted};
use tokio::task::JoinHandle;

use crate::checker::Tally;

/// A relay with short waits, on one outbox.
pub(crate) fn config(url: &str) -> OutboxConfig {
    OutboxConfig { lease: Duration::from_secs(2).into(), ..OutboxConfig::new("items", url) }
}

/// A relay as a task.
pub(crate) struct Running {
    status: Status,
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
}

impl Running {
    pub(crate) fn start<B: Broker>(config: OutboxConfig, broker: &B) -> Self {
        let relay = Relay::new([config], broker.clone(), Unrouted::Queue).unwrap();
        let (status, shutdown) = (relay.statuses()[0].clone(), CancellationToken::new());
        Self { status, shutdown: shutdown.clone(), task: tokio::spawn(relay.run(shutdown)) }
    }

    pub(crate) fn now(&self) -> Snapshot {
        self.status.snapshot()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it at whatever await point it is, leases and all left behind.
    pub(crate) async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Everything that is published, as a queue bound to all of it gets it.
pub(crate) struct Arrivals {
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

impl Arrivals {
    pub(crate) async fn of(broker: &MemoryBroker) -> Self {
        let queue = Queue { name: "all".into(), bindings: vec!["#".into()], prefetch: 1000 };
        let mut consumer = broker.consumer(&queue).await.unwrap();
        let tally = Arc::<Mutex<Tally>>::default();
        let shared = Arc::clone(&tally);
        let task = tokio::spawn(async move {
            loop {
                let deliveries = consumer.next(1000).await.unwrap();
                for delivery in &deliveries {
                    let body: serde_json::Value = serde_json::from_slice(&delivery.frame.body).unwrap();
                    let key = delivery.frame.headers.get("outbox-key").unwrap();
                    shared.lock().unwrap().arrive(key, body["sequence"].as_i64().unwrap());
                }
                if let Some(last) = deliveries.last() {
                    consumer.ack_through(last.tag).await.unwrap();
                }
            }
        });
        Self { tally, task }
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes a message for each of these keys, in one transaction.
pub(crate) fn record<C: OutboxConnection>(connection: &mut C, keys: &[String], sequence: i64) {
    let written = connection.outbox_transaction(|tx| {
        for key in keys {
            let payload = format!("{{\"sequence\":{sequence}}}").into_bytes();
            tx.record_message(Message::new("thing", key.clone(), "made", payload)?);
        }
        Ok(())
    });
    written.unwrap();
}
