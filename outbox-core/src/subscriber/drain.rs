//! A subscriber without its loop: applies what the broker inside the process holds for it, and returns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use diesel::r2d2::R2D2Connection;
use tokio_util::sync::CancellationToken;

use super::apply::Worker;
use super::{Effect, Subscriber};
use crate::broker::memory::MemoryBroker;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::testing::HeldRow;

impl<C: OutboxConnection + R2D2Connection> Subscriber<MemoryBroker, C> {
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
        for queue in self.queue_list() {
            let consumer = self.broker.open(&queue);
            loop {
                let deliveries = consumer.take(usize::from(self.batch));
                let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { break };
                count += deliveries.len();
                let mut pending = VecDeque::from(deliveries);
                worker
                    .apply(&mut pending, &CancellationToken::new())
                    .map_err(|e| e.context(format!("subscriber {}", self.name)))?;
                consumer.acknowledge(last);
            }
        }
        let newly_held: Vec<_> = self.held()?.into_iter().filter(|row| !held_before.contains(row)).collect();
        if newly_held.is_empty() { Ok(count) } else { Err(self.set_aside_error(&newly_held)) }
    }

    /// As [`run`](Self::run) has it, except that a test does not wait between attempts.
    fn worker(&self) -> Worker<C> {
        let effects = self
            .effects
            .iter()
            .map(|(kind, effect)| (kind.clone(), Effect { copy: effect.copy, run: Arc::clone(&effect.run) }));
        let wait = Duration::from_micros(1);
        let retry = RetryPolicy { initial: wait, max: wait, ..self.retry.clone() };
        Worker::new(self.name.clone(), self.pool.clone(), effects.collect(), retry, self.stats.clone())
    }

    fn held(&self) -> Result<Vec<HeldRow>> {
        let mut rows = self.pool.get()?.held_messages()?;
        rows.retain(|row| row.consumer == self.name);
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
