//! The task that reads the source's log: ahead of who takes it in, bounded by bytes.

use std::sync::Arc;

use outbox_core::{Error, Result, RetryPolicy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use crate::binlog::{Step, Stream};
use crate::change::{Position, Txn};

/// Transactions that wait to be taken in, whatever their size.
const AHEAD_MAX: usize = 1024;
/// So many of them go from task to task at once.
const TOGETHER_MAX: usize = 64;

/// What has been read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) what: What,
    /// The server it came from.
    pub(super) server: Arc<str>,
    pub(super) is_proven: bool,
    /// What it takes of the memory until it is taken in.
    _held: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are transactions")]
pub(super) enum What {
    Txn(Txn),
    /// There is nothing newer.
    Quiet(Position),
    /// The source is away; reading goes on by itself.
    Away(String),
    /// Reading cannot go on.
    Failed(Error),
}

/// What has been read, in order.
#[derive(Debug)]
pub(super) struct Reads {
    receiver: mpsc::Receiver<Vec<Read>>,
    front: std::vec::IntoIter<Read>,
}

impl Reads {
    /// The next one; `None` if the task has ended. Dropping the future loses nothing.
    pub(super) async fn recv(&mut self) -> Option<Read> {
        loop {
            if let Some(read) = self.front.next() {
                return Some(read);
            }
            self.front = self.receiver.recv().await?.into_iter();
        }
    }

    /// The next one, if it is there.
    pub(super) fn try_recv(&mut self) -> Option<Read> {
        self.front.next().or_else(|| {
            self.front = self.receiver.try_recv().ok()?.into_iter();
            self.front.next()
        })
    }
}

/// A feed of at most so many bytes ahead, and the task that keeps it filled.
pub(super) fn feed(stream: Stream, bytes_max: u64) -> (Reads, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX / TOGETHER_MAX);
    // In KiB, as a semaphore's numbers are small.
    let most = u32::try_from(bytes_max >> 10).unwrap_or(u32::MAX).max(1);
    let budget = Arc::new(Semaphore::new(most as usize));
    let feeder = Feeder { stream, sender, most, budget, together: Vec::new() };
    (Reads { receiver, front: Vec::new().into_iter() }, feeder.fill())
}

/// What came together goes on together: to wake the taker for each transaction would cost more than to read it.
struct Feeder {
    stream: Stream,
    sender: mpsc::Sender<Vec<Read>>,
    /// The budget, in KiB.
    most: u32,
    budget: Arc<Semaphore>,
    together: Vec<Read>,
}

impl Feeder {
    async fn fill(mut self) {
        let mut server: Arc<str> = "".into();
        let mut waits = RetryPolicy::default().waits();
        loop {
            let Some(step) = self.step().await else { return };
            if let Some(name) = self.stream.server_name().filter(|name| *name != &*server) {
                server = name.into();
            }
            let what = match step {
                Ok(Step::Txn(txn)) => What::Txn(txn),
                Ok(Step::Quiet) => What::Quiet(self.stream.position().clone()),
                Err(error) if error.is_outage() => What::Away(error.to_string()),
                Err(error) => What::Failed(error),
            };
            let wait = match &what {
                What::Away(why) => {
                    let wait = waits.next_wait();
                    warn!(%why, ?wait, "lost the source; reading goes on by itself");
                    Some(wait)
                }
                What::Failed(_) => None,
                What::Txn(_) | What::Quiet(_) => {
                    waits.reset();
                    None
                }
            };
            let is_end = matches!(what, What::Failed(_));
            let Ok(held) = self.room(&what).await else { return };
            let is_proven = self.stream.is_proven();
            self.together.push(Read { what, server: Arc::clone(&server), is_proven, _held: held });
            let is_due = is_end || wait.is_some() || self.together.len() >= TOGETHER_MAX;
            if is_due && self.send().await.is_none() || is_end {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// What comes next; what is together goes on before anybody waits for it. `None` if nobody takes it any more.
    async fn step(&mut self) -> Option<Result<Step>> {
        if !self.together.is_empty() {
            if let Some(step) = self.stream.at_hand() {
                return Some(step);
            }
            self.send().await?;
        }
        Some(self.stream.try_next().await)
    }

    /// What it takes of the budget, once that is there.
    async fn room(&mut self, what: &What) -> std::result::Result<Option<OwnedSemaphorePermit>, ()> {
        let What::Txn(txn) = what else { return Ok(None) };
        let kib = u32::try_from(txn.changes.weight_bytes() >> 10).unwrap_or(u32::MAX).min(self.most);
        if kib == 0 {
            return Ok(None);
        }
        if let Ok(held) = Arc::clone(&self.budget).try_acquire_many_owned(kib) {
            return Ok(Some(held));
        }
        // What is together holds a part of it.
        if self.send().await.is_none() {
            return Err(());
        }
        // The semaphore is never closed.
        Ok(Arc::clone(&self.budget).acquire_many_owned(kib).await.ok())
    }

    async fn send(&mut self) -> Option<()> {
        if self.together.is_empty() {
            return Some(());
        }
        self.sender.send(std::mem::take(&mut self.together)).await.ok()
    }
}
