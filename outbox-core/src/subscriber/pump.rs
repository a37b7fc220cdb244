//! Deliveries from the broker to the worker, and acknowledgements back. Knows no SQL.

use std::collections::VecDeque;
use std::sync::Arc;

use diesel::r2d2::R2D2Connection;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply::Worker;
use crate::broker::{Broker, Consumer, Delivery, Queue};
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Waits;

/// One task per queue, until shutdown or until one of them cannot start.
pub(super) async fn run<B: Broker, C: OutboxConnection + R2D2Connection>(
    worker: Arc<Worker<C>>,
    broker: B,
    queues: Vec<Queue>,
    batch: usize,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for queue in queues {
        let (worker, broker, shutdown) = (Arc::clone(&worker), broker.clone(), shutdown.clone());
        tasks.spawn(async move { consume(&worker, &broker, &queue, batch, &shutdown).await });
    }
    while let Some(ended) = tasks.join_next().await {
        let result = ended
            .unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Application, "a queue's task ended", e)));
        // The others finish their batch too; their consumers go back to the broker.
        if result.is_err() {
            shutdown.cancel();
            while tasks.join_next().await.is_some() {}
            return result;
        }
    }
    Ok(())
}

async fn consume<B: Broker, C: OutboxConnection + R2D2Connection>(
    worker: &Arc<Worker<C>>,
    broker: &B,
    queue: &Queue,
    batch: usize,
    shutdown: &CancellationToken,
) -> Result<()> {
    let mut waits = worker.retry().waits();
    let mut started = false;
    loop {
        let connected = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            connected = broker.consumer(queue) => connected,
        };
        let trouble = match connected {
            // Refused at the first try, it is the set-up that is wrong; later it is an outage like others.
            Err(error) if !started && !error.is_outage() => return Err(error),
            Err(error) => error,
            Ok(consumer) => {
                if !started {
                    check_inbox(worker, shutdown).await?;
                    started = true;
                }
                waits.reset();
                match pump(worker, consumer, batch, shutdown).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
        };
        tracing::warn!(queue = queue.name, error = %trouble, "consuming is interrupted, connecting again");
        if !wait(&mut waits, shutdown).await {
            return Ok(());
        }
    }
}

/// Waits out an outage of the database; fails when it is there and the tables are not.
async fn check_inbox<C: OutboxConnection + R2D2Connection>(
    worker: &Arc<Worker<C>>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let mut waits = worker.retry().waits();
    loop {
        let checking = Arc::clone(worker);
        match on_blocking_thread(move || checking.check()).await {
            Err(error) if error.is_outage() => {
                tracing::warn!(%error, "the consumer's database cannot be used, waiting");
                if !wait(&mut waits, shutdown).await {
                    return Ok(());
                }
            }
            checked => return checked,
        }
    }
}

/// Applies and acknowledges batch after batch; `Ok` at shutdown, `Err` when the broker is at fault.
async fn pump<K: Consumer, C: OutboxConnection + R2D2Connection>(
    worker: &Arc<Worker<C>>,
    mut consumer: K,
    batch: usize,
    shutdown: &CancellationToken,
) -> Result<()> {
    loop {
        let deliveries = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            deliveries = consumer.next(batch) => deliveries?,
        };
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { continue };
        if !apply_all(worker, deliveries.into(), shutdown).await {
            return Ok(());
        }
        consumer.ack_through(last).await?;
    }
}

/// Applies every delivery; while the database is out, holds them and reads nothing more. False at shutdown.
async fn apply_all<C: OutboxConnection + R2D2Connection>(
    worker: &Arc<Worker<C>>,
    mut pending: VecDeque<Delivery>,
    shutdown: &CancellationToken,
) -> bool {
    let mut waits = worker.retry().waits();
    loop {
        let (applying, stop) = (Arc::clone(worker), shutdown.clone());
        let applied = on_blocking_thread(move || {
            let result = applying.apply(&mut pending, &stop);
            Ok((pending, result))
        })
        .await;
        let error = match applied {
            Ok((rest, Ok(()))) if rest.is_empty() => return true,
            Ok((_, Ok(()))) => return false,
            Ok((rest, Err(error))) => {
                pending = rest;
                error
            }
            Err(error) => {
                tracing::error!(%error, "the batch is left unacknowledged");
                return false;
            }
        };
        tracing::warn!(%error, held = pending.len(), "cannot apply, holding the deliveries");
        if !wait(&mut waits, shutdown).await {
            return false;
        }
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Application, "applying a batch", e)))
}

/// False when shutdown came first.
async fn wait(waits: &mut Waits, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(waits.next_wait()) => true,
    }
}
