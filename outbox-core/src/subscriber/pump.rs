//! Deliveries from the broker to the worker, and acknowledgements back. Knows no SQL.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ahead::{Ahead, Batch};
use super::batch::Progress;
use super::item::Item;
use super::prefetch::{Fit, Prefetch};
use super::worker::Worker;
use super::{upkeep, watch};
use crate::broker::{Broker, Consumer, Queue};
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Waits;

/// How often this process looks what operators and other processes have left for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A transaction that takes longer makes the next batch smaller; one that takes much less, larger.
const BATCH_TIME_MAX: Duration = Duration::from_millis(500);

/// One task per queue, one for what is held, one that prunes and one that watches handlers, until shutdown or until one
/// of them cannot start.
pub(super) async fn run<B: Broker, C: OutboxConnection>(
    worker: Arc<Worker<C>>,
    broker: B,
    queues: Vec<Queue>,
    batch: usize,
    shutdown: CancellationToken,
) -> Result<()> {
    // The caller's token is the caller's: what ends here need not end what else it stops.
    let shutdown = shutdown.child_token();
    let mut tasks = JoinSet::new();
    for (number, queue) in (0..).zip(queues.clone()) {
        let (worker, broker, shutdown) = (Arc::clone(&worker), broker.clone(), shutdown.clone());
        tasks.spawn(async move { consume(&worker, &broker, (number, &queue), batch, &shutdown).await });
    }
    let (serving, stop) = (Arc::clone(&worker), shutdown.clone());
    tasks.spawn(async move { serve(&serving, &stop).await });
    let (watching, stop) = (Arc::clone(&worker), shutdown.clone());
    tasks.spawn(async move {
        watch::run(&watching.name, &watching.stats, watching.handler_limit, &stop).await;
        Ok(())
    });
    let stop = shutdown.clone();
    tasks.spawn(async move {
        upkeep::run(&worker, &broker, &queues, &stop).await;
        Ok(())
    });
    while let Some(ended) = tasks.join_next().await {
        let result = ended.unwrap_or_else(|e| {
            Err(Error::with_source(ErrorKind::Application, "a subscriber's task ended", e))
        });
        // The others finish their batch too; their consumers go back to the broker.
        if result.is_err() {
            shutdown.cancel();
            while tasks.join_next().await.is_some() {}
            return result;
        }
    }
    Ok(())
}

async fn consume<B: Broker, C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    broker: &B,
    (number, queue): (u16, &Queue),
    batch: usize,
    shutdown: &CancellationToken,
) -> Result<()> {
    let mut waits = worker.retries.policy.waits();
    let mut started = false;
    let mut prefetch = Prefetch::new(broker.first_fill().min(queue.prefetch), queue.prefetch);
    loop {
        let fitting = Queue { prefetch: prefetch.count, ..queue.clone() };
        let connected = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            connected = broker.consumer(&fitting) => connected,
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
                match pump(worker, consumer, (number, queue), batch, &mut prefetch, shutdown).await {
                    Ok(Ended::Shutdown) => return Ok(()),
                    Ok(Ended::Refit) => continue,
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
async fn check_inbox<C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let mut waits = worker.retries.policy.waits();
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

/// Serves what is held when it is due, and looks for it now and then.
async fn serve<C: OutboxConnection>(worker: &Arc<Worker<C>>, shutdown: &CancellationToken) -> Result<()> {
    check_inbox(worker, shutdown).await?;
    let looking = Arc::clone(worker);
    // Nothing depends on it.
    if let Err(error) = on_blocking_thread(move || looking.warn_of_misfits()).await {
        tracing::warn!(subscriber = worker.name, %error, "the tables of copies are not looked at");
    }
    let mut waits = worker.retries.policy.waits();
    loop {
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let (serving, stop) = (Arc::clone(worker), shutdown.clone());
        let served = on_blocking_thread(move || serving.serve_held(Duration::ZERO, &stop)).await;
        let pause = match served {
            Ok(()) => {
                waits.reset();
                LOOK_EVERY
            }
            Err(error) if error.is_contention() => {
                tracing::debug!(%error, "what is held is served later");
                waits.next_wait()
            }
            Err(error) => {
                tracing::warn!(%error, "what is held cannot be served now");
                waits.next_wait()
            }
        };
        sleep_until_due(worker, pause, shutdown).await;
    }
}

/// At most this long; less when something is due before.
async fn sleep_until_due<C: OutboxConnection>(
    worker: &Worker<C>,
    pause: Duration,
    shutdown: &CancellationToken,
) {
    let end = Instant::now() + pause;
    loop {
        let changed = worker.changed.notified();
        let mut changed = std::pin::pin!(changed);
        // What changes from now on is not missed.
        changed.as_mut().enable();
        let rest = end.saturating_duration_since(Instant::now());
        let wait = worker.next_due().map_or(rest, |due| due.min(rest));
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = changed => {}
        }
    }
}

/// Why a consumer is given back.
enum Ended {
    Shutdown,
    /// Its messages are larger than its prefetch was made for.
    Refit,
}

/// What is committed and not acknowledged.
#[derive(Default)]
struct Committed {
    count: usize,
    /// The last tag.
    through: Option<u64>,
}

impl Committed {
    async fn acknowledge<K: Consumer>(&mut self, consumer: &mut K) -> Result<()> {
        self.count = 0;
        match self.through.take() {
            Some(tag) => consumer.ack_through(tag).await,
            None => Ok(()),
        }
    }

    /// The same, and makes the window wider, if it is full of this: more cannot be on the way then.
    async fn acknowledge_wider<K: Consumer>(&mut self, consumer: &mut K, prefetch: &Prefetch) -> Result<()> {
        match self.through {
            Some(tag) if consumer.window().map(usize::from) == Some(self.count) => {
                *self = Self::default();
                consumer.widen(tag, prefetch.count).await
            }
            _ => self.acknowledge(consumer).await,
        }
    }
}

/// Applies and acknowledges batch after batch; `Err` when the broker is at fault.
async fn pump<K: Consumer, C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    mut consumer: K,
    queue: (u16, &Queue),
    batch: usize,
    prefetch: &mut Prefetch,
    shutdown: &CancellationToken,
) -> Result<Ended> {
    let mut committed = Committed::default();
    let ended = batches(worker, &mut consumer, &mut committed, (queue, batch), prefetch, shutdown).await;
    let acknowledged = committed.acknowledge(&mut consumer).await;
    ended.and_then(|ended| acknowledged.map(|()| ended))
}

/// The same, but for what is `committed` at the end.
async fn batches<K: Consumer, C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    consumer: &mut K,
    committed: &mut Committed,
    ((queue, wanted), batch): ((u16, &Queue), usize),
    prefetch: &mut Prefetch,
    shutdown: &CancellationToken,
) -> Result<Ended> {
    let (mut size, mut ahead, mut fit) = (batch, Ahead::default(), Fit::Right);
    let mut buckets = bound(wanted);
    loop {
        // While there is a next batch, this is done beside applying it.
        if ahead.is_empty() || worker.is_paused() || shutdown.is_cancelled() {
            match fit {
                Fit::TooNarrow if !shutdown.is_cancelled() => {
                    committed.acknowledge_wider(consumer, prefetch).await?;
                }
                _ => committed.acknowledge(consumer).await?,
            }
        }
        if !resumed(worker, shutdown).await {
            return Ok(Ended::Shutdown);
        }
        let waiting = Instant::now();
        let Batch { items, count, bytes, last } = tokio::select! {
            () = shutdown.cancelled() => return Ok(Ended::Shutdown),
            batch = ahead.take(worker, consumer, size) => batch?,
        };
        if count == 0 {
            continue;
        }
        if let Some(bucket) = buckets.and_then(|bound| items.iter().find_map(|item| stray(item, bound))) {
            // Told once.
            buckets = None;
            tracing::error!(
                queue = wanted.name,
                bucket,
                "the queue has messages of buckets that belong to another queue of this subscriber: an earlier number \
                 of queues has left its bindings, and messages of one key may be taken in the wrong order. Stop the \
                 subscriber, let its queues drain, delete them, and start it again"
            );
        }
        let window = consumer.window();
        fit = window.map_or(Fit::Right, |window| prefetch.fit(window, bytes, count));
        let (started, ended) = (Instant::now(), CancellationToken::new());
        let tags: Vec<_> = items.iter().map(|item| item.delivery.tag).collect();
        let mut dealt = (Duration::ZERO, 0);
        let applying = async {
            let left = apply_all(worker, queue, items, &mut dealt, shutdown).await;
            ended.cancel();
            left
        };
        let meanwhile = async {
            // A window that is to be made wider is emptied first; into one that is too wide nothing more shall come.
            if fit == Fit::Right {
                committed.acknowledge(consumer).await?;
            }
            tokio::select! {
                biased;
                () = ended.cancelled() => Ok(()),
                // What is fetched before a new consumer begins comes again after it.
                filled = ahead.fill(worker, consumer, size), if fit != Fit::TooWide => filled,
            }
        };
        let (left, meanwhile) = tokio::join!(applying, meanwhile);
        let left = left?;
        if left > 0 {
            // A part of it may be committed.
            if let Some(&tag) = tags.len().checked_sub(left + 1).and_then(|place| tags.get(place)) {
                committed.through = Some(tag);
            }
            return Ok(Ended::Shutdown);
        }
        let took = started.elapsed();
        tracing::debug!(queue, messages = count, waited = ?(started - waiting), ?took, "applied a batch");
        size = next_size(size, count, took, batch);
        prefetch.note(dealt.0, dealt.1);
        *committed = Committed { count: committed.count + count, through: Some(last) };
        meanwhile?;
        if fit == Fit::TooWide {
            tracing::debug!(queue, prefetch = prefetch.count, "consuming again, for larger messages");
            return Ok(Ended::Refit);
        }
    }
}

/// The buckets that a queue is bound to, a bit each; `None` where a binding takes them all.
fn bound(queue: &Queue) -> Option<u64> {
    let bit = |binding: &String| 1_u64.checked_shl(binding.rsplit('.').next()?.parse().ok()?);
    queue.bindings.iter().map(bit).try_fold(0, |all, bit| Some(all | bit?)).filter(|all| *all > 0)
}

/// The bucket of a message, if it is none of these.
fn stray(item: &Item, bound: u64) -> Option<u16> {
    let bucket = item.recorded.as_ref().ok()?.message.bucket();
    let is_bound = 1_u64.checked_shl(bucket.into()).is_some_and(|bit| bound & bit > 0);
    (!is_bound).then_some(bucket)
}

/// So that a transaction holds its locks for about half a second at most.
fn next_size(size: usize, count: usize, took: Duration, max: usize) -> usize {
    if took > BATCH_TIME_MAX {
        (count / 2).max(1)
    } else if took < BATCH_TIME_MAX / 4 && count >= size {
        (size * 2).min(max)
    } else {
        size
    }
}

/// Waits while the subscriber is paused; false at shutdown.
async fn resumed<C: OutboxConnection>(worker: &Worker<C>, shutdown: &CancellationToken) -> bool {
    while worker.is_paused() {
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(LOOK_EVERY / 4) => {}
        }
    }
    true
}

/// Applies every delivery; while the database is out, or a message holds all up, holds them and reads nothing more.
/// Returns how many are left at shutdown; adds to `dealt` how many were dealt with, and how long that took.
///
/// # Errors
/// When it panicked: nothing of the rest is done.
async fn apply_all<C: OutboxConnection>(
    worker: &Arc<Worker<C>>,
    queue: u16,
    mut pending: VecDeque<Item>,
    dealt: &mut (Duration, usize),
    shutdown: &CancellationToken,
) -> Result<usize> {
    let mut waits = worker.retries.policy.waits();
    loop {
        let (began, before) = (Instant::now(), pending.len());
        let (applying, stop) = (Arc::clone(worker), shutdown.clone());
        let applied = on_blocking_thread(move || {
            let result = applying.apply(queue, &mut pending, &stop);
            Ok((pending, result))
        })
        .await;
        if let Ok((rest, result)) = &applied
            && (result.is_ok() || rest.len() < before)
        {
            *dealt = (dealt.0 + began.elapsed(), dealt.1 + before - rest.len());
        }
        let error = match applied {
            Ok((_, Ok(Progress::Done))) => return Ok(0),
            Ok((rest, Ok(Progress::Stopped))) => return Ok(rest.len()),
            Ok((rest, Ok(Progress::Halted))) => {
                pending = rest;
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(pending.len()),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = worker.changed.notified() => {}
                }
                if !resumed(worker, shutdown).await {
                    return Ok(pending.len());
                }
                continue;
            }
            Ok((rest, Err(error))) => {
                pending = rest;
                error
            }
            Err(error) => return Err(error),
        };
        tracing::warn!(%error, held = pending.len(), "cannot apply, holding the deliveries");
        if !wait(&mut waits, shutdown).await {
            return Ok(pending.len());
        }
    }
}

pub(super) async fn on_blocking_thread<T: Send + 'static>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_when_they_take_long_and_grow_when_they_are_full_and_quick() {
        let millis = Duration::from_millis;
        assert_eq!(next_size(100, 100, millis(800), 100), 50);
        assert_eq!(next_size(100, 1, millis(800), 100), 1);
        assert_eq!(next_size(1, 1, millis(10), 100), 2);
        assert_eq!(next_size(80, 80, millis(10), 100), 100);
        assert_eq!(next_size(80, 3, millis(10), 100), 80);
        assert_eq!(next_size(80, 80, millis(300), 100), 80);
    }
}
