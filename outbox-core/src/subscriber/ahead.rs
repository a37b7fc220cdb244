//! The next batch, fetched and read while the database is busy with the one before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinHandle;

use super::item::Item;
use super::worker::Worker;
use crate::broker::{Consumer, Delivery};
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};

/// How long deliveries gather in the consumer before they are taken from it, while there is no hurry: being woken for
/// each costs more than what is done with it.
const GATHER: Duration = Duration::from_millis(2);
/// So many are worth a task that reads them.
const READ_MIN: usize = 100;

/// Deliveries in the order in which they came, read.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: VecDeque<Item>,
    pub(super) count: usize,
    /// Of their frames.
    pub(super) bytes: usize,
    /// The tag of the last one.
    pub(super) last: u64,
}

/// A batch that grows.
#[derive(Default)]
pub(super) struct Ahead {
    /// Counts all; its items are what was read before the rest.
    batch: Batch,
    reading: Option<JoinHandle<Vec<Item>>>,
    /// Not read yet.
    fetched: Vec<Delivery>,
}

impl Ahead {
    /// Whether nothing was fetched yet.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.count == 0
    }

    /// Waits until there is something; all that is there by then, `size` at most.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub(super) async fn take<K: Consumer, C: OutboxConnection>(
        &mut self,
        worker: &Arc<Worker<C>>,
        consumer: &mut K,
        size: usize,
    ) -> Result<Batch> {
        if self.is_empty() {
            let deliveries = consumer.next(size).await?;
            self.add(deliveries);
        } else if let Some(room) = self.room(size)
            && let Some(deliveries) = consumer.next(room).now_or_never()
        {
            self.add(deliveries?);
        }
        self.read_all(worker).await?;
        Ok(std::mem::take(&mut self.batch))
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
        while let Some(room) = self.room(size) {
            let deliveries = consumer.next(room).await?;
            self.add(deliveries);
            if self.reading.as_ref().is_some_and(JoinHandle::is_finished) {
                self.join().await?;
            }
            if self.reading.is_none() && self.fetched.len() >= READ_MIN {
                self.read(worker);
            }
            if self.room(size).is_some() {
                tokio::time::sleep(GATHER).await;
            }
        }
        self.read_all(worker).await
    }

    fn room(&self, size: usize) -> Option<usize> {
        size.checked_sub(self.batch.count).filter(|room| *room > 0)
    }

    fn add(&mut self, mut deliveries: Vec<Delivery>) {
        let Some(last) = deliveries.last() else { return };
        self.batch.last = last.tag;
        self.batch.count += deliveries.len();
        self.batch.bytes += deliveries.iter().map(|delivery| delivery.frame.size()).sum::<usize>();
        self.fetched.append(&mut deliveries);
    }

    /// Begins to read what was fetched; nothing else is being read.
    fn read<C: OutboxConnection>(&mut self, worker: &Arc<Worker<C>>) {
        let deliveries = std::mem::take(&mut self.fetched);
        if !deliveries.is_empty() {
            let worker = Arc::clone(worker);
            self.reading = Some(tokio::task::spawn_blocking(move || worker.read(deliveries)));
        }
    }

    async fn read_all<C: OutboxConnection>(&mut self, worker: &Arc<Worker<C>>) -> Result<()> {
        self.join().await?;
        self.read(worker);
        self.join().await
    }

    async fn join(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let read = reading.await;
        self.reading = None;
        let failed = |e| Error::with_source(ErrorKind::Application, "reading deliveries", e);
        self.batch.items.extend(read.map_err(failed)?);
        Ok(())
    }
}
