//! What waits in RabbitMQ where nobody reads: beside a running relay, for metrics. The relay itself needs none of this.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_core::Result;
use outbox_core::broker::rabbitmq::{LeftoverCounts, RabbitMq};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often a running relay looks.
const LOOK: Duration = Duration::from_secs(10);

/// What a running relay last saw of the queues that nobody reads. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Leftovers(Arc<Mutex<Seen>>);

#[derive(Debug, Clone, Default)]
struct Seen {
    exchange: String,
    counts: LeftoverCounts,
}

impl Leftovers {
    /// These, seen once.
    #[cfg(test)]
    pub(crate) fn of(exchange: &str, counts: LeftoverCounts) -> Self {
        Self(Arc::new(Mutex::new(Seen { exchange: exchange.to_owned(), counts })))
    }

    /// The exchange whose queues they are, and what was seen last: nothing while the broker cannot be asked.
    pub fn seen(&self) -> (String, LeftoverCounts) {
        let Seen { exchange, counts } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (exchange, counts)
    }

    /// Looks every 10 seconds, on a connection of its own, until `shutdown`.
    pub fn start(broker: RabbitMq, exchange: &str, shutdown: CancellationToken) -> Self {
        let leftovers = Self(Arc::new(Mutex::new(Seen { exchange: exchange.to_owned(), ..Seen::default() })));
        let shared = leftovers.clone();
        tokio::spawn(async move {
            while !shutdown.is_cancelled() {
                let watched = shared.watch(&broker, &shutdown).await;
                shared.set(LeftoverCounts::default());
                if let Err(error) = watched {
                    // The pipes say so, and why.
                    debug!("looking at what nobody reads: {error}");
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        leftovers
    }

    /// Over one connection, as long as it lasts.
    async fn watch(&self, broker: &RabbitMq, shutdown: &CancellationToken) -> Result<()> {
        let connection = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            connection = broker.leftovers() => connection?,
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                counts = connection.look() => self.set(counts?),
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        connection.close().await;
        Ok(())
    }

    fn set(&self, counts: LeftoverCounts) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counts = counts;
    }
}
