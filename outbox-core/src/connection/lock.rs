//! The locks behind strict order: what is locked for a key, for sync and async connections alike. All writers
//! of a database must agree on it, so it never changes.

use std::collections::BTreeSet;
use std::hash::Hasher as _;

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
use diesel::QueryResult;

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
use crate::error::{Error, ErrorKind, Result};

/// The rows of `outbox_slot`.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
const SLOTS: u64 = 1024;
/// `outb`: keeps our advisory locks apart from the application's on PostgreSQL.
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) const CLASS: i32 = 0x6f75_7462;

/// Keys in one order for all: two transactions that lock once each cannot deadlock.
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) const POSTGRES: &str = "select pg_advisory_xact_lock($1, hash) from unnest($2) as hash";

/// FNV-1a over a key, as for its bucket.
fn hash(aggregate: &str, key: &str) -> u64 {
    let mut hash = fnv::FnvHasher::default();
    hash.write(aggregate.as_bytes());
    hash.write(&[0]);
    hash.write(key.as_bytes());
    hash.finish()
}

/// The slots of keys on MySQL and MariaDB: a key's hash names its slot, so that the table is bounded.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
#[derive(Debug)]
pub(crate) struct Slots(BTreeSet<u64>);

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
impl Slots {
    pub(crate) fn of(keys: &[(&str, &str)]) -> Self {
        Self(keys.iter().map(|(aggregate, key)| hash(aggregate, key) % SLOTS).collect())
    }

    /// Locks them in one order; gives a row for each, called `number`.
    pub(crate) fn sql(&self) -> String {
        let list: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        format!(
            "select cast(slot as signed) as number from outbox_slot force index (primary) \
             where slot in ({}) order by slot for update",
            list.join(",")
        )
    }

    /// Of how many rows the statement gave.
    ///
    /// # Errors
    /// The statement's, and `Database` when not all were there to be locked.
    pub(crate) fn check(&self, locked: QueryResult<usize>) -> Result<()> {
        let locked = locked.map_err(|error| {
            Error::from(error).context(
                "table outbox_slot (missing? run `outbox-relay migrate`; it needs SELECT and UPDATE)",
            )
        })?;
        if locked == self.0.len() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Database,
            "table outbox_slot lacks rows of 0 to 1023: insert the missing ones",
        ))
    }
}

/// What is locked for keys on PostgreSQL: both halves of each hash, folded; as a number of any sign.
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) fn advisory(keys: &[(&str, &str)]) -> Vec<i32> {
    let hashes: BTreeSet<i32> = keys
        .iter()
        .map(|(aggregate, key)| hash(aggregate, key))
        .map(|hash| (hash ^ (hash >> 32)) as u32 as i32)
        .collect();
    // A function in FROM gives its rows in the order of the array, and nothing there sorts them.
    hashes.into_iter().collect()
}
