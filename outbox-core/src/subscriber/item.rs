//! Deliveries, read: all that can be done with one before the database is asked.

use std::any::Any;

use super::effect::{Found, Run};
use super::worker::{Worker, of_message};
use crate::broker::Delivery;
use crate::connection::OutboxConnection;
use crate::inbox::Failure;
use crate::message::Recorded;

/// A delivery, read.
pub(super) struct Item {
    pub(super) delivery: Delivery,
    pub(super) recorded: Result<Recorded, Failure>,
    /// The row that is in it, if it is a copy's.
    row: Option<Result<Box<dyn Any + Send>, Failure>>,
}

impl Item {
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
        let row = recorded.as_ref().ok().and_then(|recorded| {
            let Found::Effect(effect) = self.effects.find(&recorded.message.kind()) else { return None };
            let Run::Copy(copy) = &effect.run else { return None };
            Some(copy.read(recorded).map_err(|e| Failure::of(&of_message(e, recorded))))
        });
        Item { delivery, recorded, row }
    }
}
