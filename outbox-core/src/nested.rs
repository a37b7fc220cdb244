//! What keeps the order of a key where a transaction is nested through the connection of another one: it writes
//! its messages at its own end, before those that the outer one holds back until COMMIT.
//!
//! A connection has no room for a note and the two transactions know nothing of each other, so what is held back
//! is noted by the connection's address: while a transaction borrows it, nothing else can be there.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// Hashes of the keys of messages held back, by connection; those of outer transactions come first.
static HELD: Mutex<BTreeMap<usize, Vec<u64>>> = Mutex::new(BTreeMap::new());

/// A transaction's notes; they end with it.
#[derive(Debug)]
pub(crate) struct HeldBack {
    connection: usize,
    /// Where they begin among those of its connection, once there are any.
    first: Option<usize>,
    /// How many of the transaction's messages are noted.
    count: usize,
}

impl HeldBack {
    pub(crate) fn on<C>(connection: &C) -> Self {
        Self { connection: std::ptr::from_ref(connection).addr(), first: None, count: 0 }
    }

    /// Notes what the transaction holds back, before it lends its connection to others.
    pub(crate) fn note(&mut self, messages: &[Message]) {
        let new = messages.get(self.count..).unwrap_or_default();
        if new.is_empty() {
            return;
        }
        let mut held = held();
        let keys = held.entry(self.connection).or_default();
        self.first.get_or_insert(keys.len());
        keys.extend(new.iter().map(key));
        self.count = messages.len();
    }

    /// Whether these messages may be written now.
    ///
    /// # Errors
    /// `Invalid` when an outer transaction holds back earlier ones of the same key.
    pub(crate) fn check(&self, messages: &[Message]) -> Result<()> {
        let held = held();
        let Some(keys) = held.get(&self.connection) else { return Ok(()) };
        let outer = keys.get(..self.first.unwrap_or(keys.len())).unwrap_or_default();
        match messages.iter().find(|message| outer.contains(&key(message))) {
            None => Ok(()),
            Some(message) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a transaction nested through conn() has recorded {} of key {}, and the outer one writes \
                     earlier messages of that key after it; use the outer one's savepoint() instead",
                    message.kind(),
                    message.key()
                ),
            )),
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        let Some(first) = self.first else { return };
        let mut held = held();
        if first == 0 {
            held.remove(&self.connection);
        } else if let Some(keys) = held.get_mut(&self.connection) {
            keys.truncate(first);
        }
    }
}

fn held() -> MutexGuard<'static, BTreeMap<usize, Vec<u64>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (message.aggregate(), message.key()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str) -> Message {
        Message::new("a", key, "e", Vec::new()).unwrap()
    }

    #[test]
    fn an_inner_transaction_must_not_write_a_key_that_an_outer_one_holds_back() {
        let connection = 7_u64;
        let mut outer = HeldBack::on(&connection);
        outer.note(&[message("1")]);
        let mut inner = HeldBack::on(&connection);
        inner.note(&[message("2")]);
        assert!(inner.check(&[message("2"), message("3")]).is_ok(), "its own are no obstacle");
        let error = inner.check(&[message("3"), message("1")]).unwrap_err().to_string();
        assert!(error.contains("a.e of key 1") && error.contains("savepoint()"), "{error}");
        assert!(HeldBack::on(&9_u64).check(&[message("1")]).is_ok(), "another connection");
        drop(inner);
        outer.note(&[message("1"), message("4")]);
        assert!(HeldBack::on(&connection).check(&[message("2")]).is_ok());
        assert!(HeldBack::on(&connection).check(&[message("4")]).is_err());
        drop(outer);
        assert!(HeldBack::on(&connection).check(&[message("1")]).is_ok());
    }
}
