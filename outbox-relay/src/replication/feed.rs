//! The task that reads the source's log: ahead of who takes it in, bounded by bytes.

use std::sync::Arc;

use outbox_core::{Error, RetryPolicy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use crate::binlog::{Step, Stream};
use crate::change::{Position, Txn};

/// Transactions that wait to be taken in, whatever their size.
const AHEAD_MAX: usize = 1024;

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

/// A feed of at most so many bytes ahead, and the task that keeps it filled.
pub(super) fn feed(
    stream: Stream,
    bytes_max: u64,
) -> (mpsc::Receiver<Read>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    (receiver, fill(stream, bytes_max, sender))
}

async fn fill(mut stream: Stream, bytes_max: u64, sender: mpsc::Sender<Read>) {
    // In KiB, as a semaphore's numbers are small.
    let most = u32::try_from(bytes_max >> 10).unwrap_or(u32::MAX).max(1);
    let budget = Arc::new(Semaphore::new(most as usize));
    let mut server: Arc<str> = "".into();
    let mut waits = RetryPolicy::default().waits();
    loop {
        let step = stream.try_next().await;
        if let Some(name) = stream.server_name().filter(|name| *name != &*server) {
            server = name.into();
        }
        let (what, kib) = match step {
            Ok(Step::Txn(txn)) => {
                let kib = u32::try_from(txn.changes.weight_bytes() >> 10).unwrap_or(u32::MAX).min(most);
                (What::Txn(txn), kib)
            }
            Ok(Step::Quiet) => (What::Quiet(stream.position().clone()), 0),
            Err(error) if error.is_outage() => (What::Away(error.to_string()), 0),
            Err(error) => (What::Failed(error), 0),
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
        // The semaphore is never closed.
        let held = if kib == 0 { None } else { Arc::clone(&budget).acquire_many_owned(kib).await.ok() };
        let is_proven = stream.is_proven();
        let read = Read { what, server: Arc::clone(&server), is_proven, _held: held };
        if sender.send(read).await.is_err() || is_end {
            return;
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}
