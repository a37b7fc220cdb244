//! Which of some suspected rows really differ, while source and copy are being written.
//!
//! The copy is as of its checkpoint, a SELECT on the source as of a moment that lies elsewhere. The source's binary
//! log between the two says what the rows were as of the checkpoint: so nothing has to stand still, and no pipeline
//! has to be running.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};

use super::Comparer;
use crate::binlog::{self, Link, Step, Tables, follow};
use crate::change::{Change, Position, Value};
use crate::replication::{Key, Projected};

/// How long the log may say nothing new before it counts as unreadable.
const SILENCE: Duration = Duration::from_secs(180);

/// A row on both sides, both as of the copy's checkpoint.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) source: Option<Projected>,
    pub(super) copy: Option<Projected>,
}

/// Rows of the source by SELECT, and between which positions of its log that was.
struct Looked {
    low: Position,
    high: Position,
    rows: HashMap<Key, Projected>,
}

impl Comparer<'_> {
    /// What source and copy hold under these keys, each with its values in the source.
    pub(super) async fn settle(&mut self, keys: &HashMap<Key, Vec<Value>>) -> Result<Vec<Pair>> {
        let looked = self.look(&keys.values().cloned().collect::<Vec<_>>()).await?;
        let (checkpoint, mut copy) = self.copy_as_of(keys).await?;
        let mut then = self.as_of(&checkpoint, &looked, keys).await?;
        let mut source = looked.rows;
        let pairs = keys.keys().map(|key| Pair {
            source: then.remove(key).unwrap_or_else(|| source.remove(key)),
            copy: copy.remove(key),
            key: key.clone(),
        });
        Ok(pairs.collect())
    }

    /// Reads rows of the source. MariaDB's snapshot knows its position; MySQL's low mark holds only what is visible,
    /// its high mark all that is.
    async fn look(&mut self, keys: &[Vec<Value>]) -> Result<Looked> {
        let server = &mut self.source;
        let low = if server.is_mariadb() {
            begin_snapshot(server.connection()).await?;
            server.snapshot_position().await?
        } else {
            server.low_mark().await?
        };
        let found = self.subject.source.with_keys(server.connection(), keys).await;
        let high = if server.is_mariadb() {
            end_snapshot(server.connection()).await?;
            low.clone()
        } else {
            server.high_mark().await?
        };
        let mut rows = HashMap::new();
        for row in found? {
            rows.extend(self.subject.projected(&row)?);
        }
        Ok(Looked { low, high, rows })
    }

    /// Reads rows of the copy, and the checkpoint that they are as of.
    async fn copy_as_of(
        &mut self,
        keys: &HashMap<Key, Vec<Value>>,
    ) -> Result<(Position, HashMap<Key, Projected>)> {
        begin_snapshot(self.target.connection()).await?;
        let read = async {
            let checkpoint = self.target.checkpoint().await?.ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "the replication has no checkpoint: it has never run")
            })?;
            let keys: Vec<_> = keys.keys().map(|key| key.0.clone()).collect();
            let rows = self.subject.copy.with_keys(self.target.connection(), &keys).await?;
            Ok::<_, Error>((checkpoint.position, rows))
        };
        let read = read.await;
        end_snapshot(self.target.connection()).await?;
        let (position, rows) = read?;
        Ok((position, rows.into_iter().map(|row| self.subject.held(row)).collect()))
    }

    /// What the log says that the rows were as of the checkpoint; nothing of those it need not be asked for.
    async fn as_of(
        &self,
        checkpoint: &Position,
        looked: &Looked,
        keys: &HashMap<Key, Vec<Value>>,
    ) -> Result<HashMap<Key, Option<Projected>>> {
        let reached = |here: &Position, mark: &Position| {
            here.has_reached(mark).ok_or_else(|| {
                let text = format!("{here} and {mark} are not of one server: is the source another one now?");
                Error::new(ErrorKind::Invalid, text)
            })
        };
        let start = if reached(checkpoint, &looked.low)? { &looked.low } else { checkpoint };
        let table = &self.subject.source.table;
        let tables = Tables::from_iter([(table.database.as_str(), table.name.as_str())]);
        let mut stream = follow(self.log.clone(), tables, start.clone());
        let mut then = HashMap::new();
        let is_past = |here: &Position| {
            // By GTID the place in the file is known with the first event only.
            here.has_reached(&looked.high) == Some(true) && here.has_reached(checkpoint) == Some(true)
        };
        while !is_past(stream.position()) {
            let step = tokio::time::timeout(SILENCE, stream.try_next()).await;
            let step =
                step.map_err(|_| Error::new(ErrorKind::Outage, "the source's binary log is silent"))?;
            let Step::Txn(txn) = step? else { continue };
            let is_applied = reached(checkpoint, &txn.position)?;
            for change in txn.changes.iter()? {
                self.take(&mut then, &change?, is_applied, keys)?;
            }
        }
        Ok(then)
    }

    /// Up to the checkpoint a row is what the last change made of it, after it what the first change found.
    fn take(
        &self,
        then: &mut HashMap<Key, Option<Projected>>,
        change: &Change,
        is_applied: bool,
        keys: &HashMap<Key, Vec<Value>>,
    ) -> Result<()> {
        let image = |row: Option<&_>| match row {
            Some(row) => self.subject.projected_of(&change.table, row),
            None => Ok(None),
        };
        let (before, after) = (image(change.before())?, image(change.after())?);
        let touched: HashSet<&Key> = [&before, &after].into_iter().flatten().map(|(key, _)| key).collect();
        for key in touched.into_iter().filter(|key| keys.contains_key(*key)) {
            let held_in = |side: &Option<(Key, Projected)>| {
                side.as_ref().filter(|(other, _)| other == key).map(|(_, row)| row.clone())
            };
            if is_applied {
                then.insert(key.clone(), held_in(&after));
            } else {
                then.entry(key.clone()).or_insert_with(|| held_in(&before));
            }
        }
        Ok(())
    }
}

async fn begin_snapshot(connection: &mut Link) -> Result<()> {
    for statement in
        ["set transaction isolation level repeatable read", "start transaction with consistent snapshot"]
    {
        connection.query_drop(statement).await.map_err(snapshot_failed)?;
    }
    Ok(())
}

async fn end_snapshot(connection: &mut Link) -> Result<()> {
    connection.query_drop("commit").await.map_err(snapshot_failed)
}

fn snapshot_failed(error: mysql_async::Error) -> Error {
    binlog::failed("a consistent snapshot", &error)
}
