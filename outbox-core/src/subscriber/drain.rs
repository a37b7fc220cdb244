//! A subscriber without its loop: applies what the broker inside the process holds for it, and returns.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Subscriber;
use super::batch::Progress;
use crate::broker::memory::MemoryBroker;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::HeldState;
use crate::testing::HeldRow;

/// A test does not wait for the next attempt.
const WHENEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl<C: OutboxConnection> Subscriber<MemoryBroker, C> {
    /// Whether it can run on this broker; its queues are there from now on.
    pub(crate) fn prepare(&self, broker: &MemoryBroker) -> Result<()> {
        self.validate()?;
        if !self.broker.is(broker) {
            return Err(Error::invalid(format!(
                "subscriber {} is on another broker; give it a clone of the one that is published to",
                self.name
            )));
        }
        for queue in self.queue_list() {
            drop(self.broker.open(&queue));
        }
        self.worker().check()
    }

    /// Applies what its queues hold; returns how many deliveries that were.
    ///
    /// # Errors
    /// An outage of its database; `Application`, naming the messages, when some were set aside.
    pub(crate) fn drain(&self) -> Result<usize> {
        let held_before = self.held()?;
        let worker = self.worker();
        let mut count = 0;
        let in_context = |e: Error| e.context(format!("subscriber {}", self.name));
        for (number, queue) in (0..).zip(self.queue_list()) {
            let consumer = self.broker.open(&queue);
            loop {
                let deliveries = consumer.take(usize::from(self.batch));
                let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { break };
                count += deliveries.len();
                let mut pending = VecDeque::from(worker.read(deliveries));
                let shutdown = CancellationToken::new();
                let mut progress = worker.apply(number, &mut pending, &shutdown).map_err(in_context)?;
                worker.serve_held(WHENEVER, &shutdown).map_err(in_context)?;
                if progress == Progress::Halted {
                    progress = worker.apply(number, &mut pending, &shutdown).map_err(in_context)?;
                }
                if progress != Progress::Done {
                    break;
                }
                consumer.acknowledge(last);
            }
        }
        worker.serve_held(WHENEVER, &CancellationToken::new()).map_err(in_context)?;
        let newly_held: Vec<_> = self.held()?.into_iter().filter(|row| !held_before.contains(row)).collect();
        if newly_held.is_empty() { Ok(count) } else { Err(self.set_aside_error(&newly_held)) }
    }

    fn held(&self) -> Result<Vec<HeldRow>> {
        let mut rows = self.connections.get()?.held_messages()?;
        rows.retain(|row| row.consumer == self.name && row.state == HeldState::Dead.name());
        Ok(rows)
    }

    fn set_aside_error(&self, held: &[HeldRow]) -> Error {
        let lines: String = held
            .iter()
            .map(|row| {
                // Errors of handlers name the message already.
                let name = format!("{} of key {}", row.kind, row.aggregate_id);
                let error =
                    row.error.strip_prefix(&name).map_or(row.error.as_str(), |e| e.trim_start_matches(": "));
                format!("\n    {name}, {} attempts: {error}", row.attempts)
            })
            .collect();
        Error::new(
            ErrorKind::Application,
            format!("subscriber {} has set messages aside in inbox_held:{lines}", self.name),
        )
    }
}
