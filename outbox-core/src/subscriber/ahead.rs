//! The next batch, fetched and read while the database is busy with the one before.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::item::Item;
use super::pump::on_blocking_thread;
use super::worker::Worker;
use crate::broker::Consumer;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};

/// Deliveries in the order in which they came.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: VecDeque<Item>,
    /// How many there are, those that are being read among them.
    pub(super) count: usize,
    /// Of their frames.
    pub(super) bytes: usize,
    /// The tag of the last one.
    pub(super) last: u64,
}

/// A batch that grows.
#[derive(Default)]
pub(super) struct Ahead {
    batch: Batch,
    reading: Option<JoinHandle<Result<Vec<Item>>>>,
}

impl Ahead {
    /// Waits until there is something, and it is read.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub(super) async fn wait<K: Consumer, C: OutboxConnection>(
        &mut self,
        worker: &Arc<Worker<C>>,
        consumer: &mut K,
        size: usize,
    ) -> Result<()> {
        if self.batch.count == 0 {
            self.fetch(worker, consumer, size).await?;
        }
        self.read().await
    }

    /// Goes on until there are `size`.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub(super) async fn fill<K: Consumer, C: OutboxConnection>(
        &mut self,
        worker: &Arc<Worker<C>>,
        consumer: &mut K,
        size: usize,
    ) -> Result<()> {
        self.read().await?;
        while self.batch.count < size {
            self.fetch(worker, consumer, size).await?;
            self.read().await?;
        }
        Ok(())
    }

    /// What there is, and has been read.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    async fn fetch<K: Consumer, C: OutboxConnection>(
        &mut self,
        worker: &Arc<Worker<C>>,
        consumer: &mut K,
        size: usize,
    ) -> Result<()> {
        let deliveries = consumer.next(size.saturating_sub(self.batch.count).max(1)).await?;
        // From here on without waiting: what was delivered is kept.
        let Some(last) = deliveries.last() else { return Ok(()) };
        self.batch.last = last.tag;
        self.batch.count += deliveries.len();
        self.batch.bytes += deliveries.iter().map(|delivery| delivery.frame.size()).sum::<usize>();
        let worker = Arc::clone(worker);
        self.reading = Some(tokio::spawn(on_blocking_thread(move || Ok(worker.read(deliveries)))));
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let read = reading.await;
        self.reading = None;
        let failed = |e| Error::with_source(ErrorKind::Application, "reading deliveries", e);
        self.batch.items.extend(read.map_err(failed)??);
        Ok(())
    }
}
