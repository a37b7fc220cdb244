//! What a transaction has recorded and not yet written.

use std::collections::BTreeSet;

use crate::entity::{self, Entity, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::lost;
use crate::message::{Headers, Message, MessageId};
use crate::write::Upserted;

/// More rows than this may have been inserted by several statements, of which the first ones have worked.
pub(crate) const SEVERAL: usize = 100;

/// The messages of an open transaction, in the order in which they were recorded.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    messages: Vec<Message>,
    /// Keys (aggregate, key) that are locked before the messages go in.
    strict: BTreeSet<(String, String)>,
    /// Headers that messages get from now on.
    headers: Headers,
    /// A row was written and its message was not taken.
    is_incomplete: bool,
    /// Why a message cannot be written.
    refused: Option<Error>,
    /// The server has rolled the whole transaction back, whatever Diesel thinks.
    is_lost: bool,
}

impl Buffer {
    /// A buffer for a savepoint within this one's transaction.
    pub(crate) fn inner(&self) -> Self {
        Self { headers: self.headers.clone(), ..Self::default() }
    }

    /// Takes what a savepoint recorded.
    pub(crate) fn absorb(&mut self, inner: Self) {
        self.messages.extend(inner.messages);
        self.strict.extend(inner.strict);
        self.refused = self.refused.take().or(inner.refused);
        self.is_incomplete |= inner.is_incomplete;
    }

    /// Notes that the server has rolled the whole transaction back: MySQL and MariaDB do so after a deadlock,
    /// savepoints included, and what follows would be committed statement by statement.
    pub(crate) fn lose(&mut self) {
        self.is_lost = true;
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether the transaction may end with its messages.
    ///
    /// # Errors
    /// Contention, when the transaction was lost and the caller went on; `Invalid` when a message cannot be
    /// written.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        self.check_written()?;
        self.check_lost()
    }

    /// # Errors
    /// `Invalid`, when a row may be in the database without its message.
    pub(crate) fn check_written(&self) -> Result<()> {
        if self.is_incomplete {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a write failed after its rows were in the database, so they are not recorded; let its error leave \
                 the closure, or put the write into a savepoint",
            ));
        }
        Ok(())
    }

    /// # Errors
    /// Contention, when the transaction was lost and the caller went on.
    pub(crate) fn check_lost(&self) -> Result<()> {
        if self.is_lost { Err(lost::error()) } else { Ok(()) }
    }

    /// Notes that rows may be in the database without their messages.
    pub(crate) fn leave_incomplete(&mut self) {
        self.is_incomplete = true;
    }

    pub(crate) fn created<E: Entity>(&mut self, entity: &E) -> Result<()> {
        let taken = self.take_created(entity);
        self.taken(taken)
    }

    fn take_created<E: Entity>(&mut self, entity: &E) -> Result<()> {
        self.entity(Operation::Created, entity, entity::change_text("after", entity, None)?)
    }

    /// An update; with the row as it was, the message names the fields that differ. Where the message key
    /// differs, the old key's entity is gone and the new one's is there.
    pub(crate) fn updated<E: Entity>(&mut self, before: Option<&E>, entity: &E) -> Result<()> {
        let taken = self.take_updated(before, entity);
        self.taken(taken)
    }

    fn take_updated<E: Entity>(&mut self, before: Option<&E>, entity: &E) -> Result<()> {
        if let Some(before) = before.filter(|before| before.key() != entity.key()) {
            self.deleted(before)?;
            return self.created(entity);
        }
        let changed: Option<Vec<String>> = match before {
            None => None,
            Some(before) => {
                let (image, before) = (entity.image()?, before.image()?);
                let differing = image.into_iter().filter(|(name, value)| before.get(name) != Some(value));
                Some(differing.map(|(name, _)| name).collect())
            }
        };
        self.entity(Operation::Updated, entity, entity::change_text("after", entity, changed.as_deref())?)
    }

    pub(crate) fn upserted<E: Entity>(&mut self, upserted: &Upserted<E>) -> Result<()> {
        match upserted.operation {
            Operation::Created => self.created(&upserted.row),
            _ => self.updated(upserted.before.as_ref(), &upserted.row),
        }
    }

    pub(crate) fn deleted<E: Entity>(&mut self, last: &E) -> Result<()> {
        let taken = self.take_deleted(last);
        self.taken(taken)
    }

    fn take_deleted<E: Entity>(&mut self, last: &E) -> Result<()> {
        self.entity(Operation::Deleted, last, entity::change_text("before", last, None)?)
    }

    /// The state as it is: nothing was written.
    pub(crate) fn current<E: Entity>(&mut self, entity: &E) -> Result<()> {
        self.entity(Operation::Current, entity, entity::change_text("after", entity, None)?)
    }

    /// Its row is written: without its message the transaction must not end well.
    fn taken(&mut self, taken: Result<()>) -> Result<()> {
        taken.inspect_err(|_| self.is_incomplete = true)
    }

    fn entity<E: Entity>(&mut self, operation: Operation, entity: &E, payload: Vec<u8>) -> Result<()> {
        let message = Message::fresh(E::AGGREGATE, entity.key(), E::EVENTS.of(operation), payload)?;
        if E::STRICT {
            self.keep_strict(message.aggregate(), message.key());
        }
        self.push(message.with_schema(E::SCHEMA).with_entity_version(entity.version()));
        Ok(())
    }

    pub(crate) fn event<E: Event>(&mut self, event: &E) -> Result<()> {
        let message = event.message()?;
        if E::STRICT {
            self.keep_strict(message.aggregate(), message.key());
        }
        self.push(message);
        Ok(())
    }

    /// Takes a message with the transaction's headers and the caller's trace context; a header of its own
    /// wins. One that is then too large fails the transaction at its end.
    pub(crate) fn push(&mut self, mut message: Message) {
        message.inherit(&self.headers);
        message.inherit_trace(&crate::trace::current());
        if self.refused.is_none() {
            self.refused = message.check_headers().err();
        }
        self.messages.push(message);
    }

    /// Adds a header to all messages from now on.
    pub(crate) fn set_header(&mut self, name: String, value: String) -> Result<()> {
        self.headers.insert(name, value)
    }

    /// Has a lock taken on a key before the messages go in.
    pub(crate) fn keep_strict(&mut self, aggregate: &str, key: &str) {
        self.strict.insert((aggregate.to_owned(), key.to_owned()));
    }

    /// The keys to lock, sorted.
    pub(crate) fn strict_keys(&self) -> Vec<(&str, &str)> {
        self.strict.iter().map(|(aggregate, key)| (&**aggregate, &**key)).collect()
    }

    /// The ids of the messages, in their order.
    pub(crate) fn ids(&self) -> Vec<MessageId> {
        self.messages.iter().map(Message::id).collect()
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    #[cfg(feature = "async")]
    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.messages
    }
}

/// The sizes at which a recorded batch is split into several INSERTs, well below every server's limits of
/// placeholders and packet size.
pub(crate) const APPEND_ROWS_MAX: usize = 500;
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// How many bytes a message takes in an INSERT, besides its names.
pub(crate) fn bytes_at_most(message: &Message) -> usize {
    message.payload().len() + message.key().len() + message.headers().bytes_at_most()
}

/// Splits messages into runs that fit one INSERT; a larger message stands alone.
pub(crate) fn append_runs(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(APPEND_ROWS_MAX).take_while(|message| {
            bytes += bytes_at_most(message);
            bytes <= APPEND_BYTES_MAX
        });
        let count = fits.count().max(1).min(rest.len());
        let (run, later) = rest.split_at(count);
        rest = later;
        (!run.is_empty()).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_whole() {
        let message = |bytes| Message::new("a", "1", "e", vec![b' '; bytes]).unwrap();
        let messages: Vec<_> = [10, 2 * APPEND_BYTES_MAX, 10]
            .into_iter()
            .chain(std::iter::repeat_n(1, 1200))
            .map(message)
            .collect();
        let runs: Vec<_> = append_runs(&messages).map(<[Message]>::len).collect();
        assert_eq!(runs, [1, 1, 500, 500, 201]);
        assert_eq!(append_runs(&[]).count(), 0);
    }
}
