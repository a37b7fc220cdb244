//! Deliveries, read: all that can be done with one before the database is asked.

use std::any::Any;

use super::effect::{Found, Run};
use super::worker::{Worker, of_message};
use crate::broker::Delivery;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind};
use crate::inbox::Failure;
use crate::message::Recorded;

/// A message that came back so often is taken out of its queue, into `inbox_held`, and handled alone from there: a process
/// that ends gives back all that it has, and RabbitMQ gives up what came back fifty times, whoever is to blame.
const RETURNS_MAX: u32 = 5;

/// A delivery, read.
pub(super) struct Item {
    pub(super) delivery: Delivery,
    pub(super) recorded: Result<Recorded, Failure>,
    /// The row that is in it, if it is a copy's.
    row: Option<Result<Box<dyn Any + Send>, Failure>>,
}

impl Item {
    /// Why it may be what ends this subscriber's processes, if it may.
    pub(super) fn suspicion(&self) -> Option<Failure> {
        let returns = self.delivery.returns;
        let text = || format!("it came back {returns} times without an answer, and is handled alone");
        (returns >= RETURNS_MAX).then(|| Failure::of(&Error::new(ErrorKind::Application, text())))
    }

    /// The row in a copy's message; why there is none, if it cannot be read.
    pub(super) fn row(&self) -> Option<Result<&dyn Any, &Failure>> {
        self.row.as_ref().map(|row| row.as_ref().map(|row| &**row as &dyn Any))
    }
}

impl<C: OutboxConnection> Worker<C> {
    /// Reads deliveries, on a thread for blocking work: they may be large.
    pub(super) fn read(&self, deliveries: Vec<Delivery>) -> Vec<Item> {
        deliveries.into_iter().map(|delivery| self.read_one(delivery)).collect()
    }

    fn read_one(&self, delivery: Delivery) -> Item {
        let recorded = Recorded::from_frame(&delivery.frame).map_err(|e| Failure::of(&e));
        // Reading a row may be what ends the process.
        let is_safe = delivery.returns < RETURNS_MAX;
        let row = recorded.as_ref().ok().filter(|_| is_safe).and_then(|recorded| {
            let Found::Effect(effect) = self.effects.find(&delivery.frame.kind) else { return None };
            let Run::Copy(copy) = &effect.run else { return None };
            Some(copy.read(recorded).map_err(|e| Failure::of(&of_message(e, recorded))))
        });
        Item { delivery, recorded, row }
    }
}
