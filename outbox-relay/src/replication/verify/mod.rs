//! Compares copies with their source, through the same projection that makes them, while both are being written.
//!
//! Both sides are walked in the order of their own keys, and for what is found on the one the other is asked by key:
//! so no collation has to be known, and what only the copy has is found too. Rows that differ are suspects: in
//! between somebody may have written. They are looked at again, both as of the copy's checkpoint (*settle*), and what
//! differs then is a difference.

mod report;
mod same;
mod settle;
mod side;
mod subject;

use std::collections::HashMap;
use std::sync::Arc;

use outbox_core::Result;
use serde::Serialize;

pub use self::report::{Verified, replication};
use self::side::Walk;
use self::subject::Subject;
use super::{CopyPlan, Key, State};
use crate::binlog::{Server, Source};
use crate::change::Value;

/// So many suspects are looked at together.
const SUSPECTS_MAX: usize = 1000;

/// How much is said of what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Show {
    /// So many rows of a copy are named, the others only counted. Default 100.
    pub rows_max: usize,
    /// Whether the values that differ are shown. Default false: keys and names of columns.
    pub values: bool,
}

impl Default for Show {
    fn default() -> Self {
        Self { rows_max: 100, values: false }
    }
}

/// How far a comparison has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The copy.
    pub copy: &'a str,
    /// Rows that were looked at, on both sides.
    pub rows: u64,
    /// About how many there are, on both sides.
    pub rows_estimated: u64,
}

/// Called after each read.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) + Send + 'a;

/// What a comparison of one copy found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Rows of the source that belong into the copy.
    pub rows: u64,
    /// Rows that the copy does not have.
    pub missing: u64,
    /// Rows that only the copy has.
    pub extra: u64,
    /// Rows whose values differ.
    pub different: u64,
    /// The first of them.
    pub named: Vec<Difference>,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How.
    pub kind: DifferenceKind,
    /// Its key, `column = value` by the source's names.
    pub key: String,
    /// The copy's columns whose values differ; with the values only if they were asked for.
    pub columns: Vec<String>,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DifferenceKind {
    /// The copy has no such row.
    Missing,
    /// Only the copy has it.
    Extra,
    /// It has other values.
    Different,
}

impl Comparison {
    /// How many rows differ.
    pub fn differences(&self) -> u64 {
        self.missing + self.extra + self.different
    }
}

impl std::fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        })
    }
}

/// Compares one copy with its source; `target` is connected for the copy's replication.
///
/// # Errors
/// `Invalid` when the two cannot be compared as they are, with what helps; `Outage` and `Database` as the servers
/// say.
pub async fn compare(
    source: &Source,
    target: &mut State,
    plan: &Arc<CopyPlan>,
    show: &Show,
    progress: &mut OnProgress<'_>,
) -> Result<Comparison> {
    let mut asked = Server::connect(source).await?;
    let subject = Subject::of(plan, &mut asked).await?;
    let about = subject.source.estimate(asked.connection()).await?
        + subject.copy.estimate(target.connection()).await?;
    let found = Comparison::default();
    let mut comparer = Comparer { log: source, show, subject, source: asked, target, found };
    let mut progress = |rows| progress(Progress { copy: plan.name(), rows, rows_estimated: about.max(rows) });
    comparer.walk_source(&mut progress).await?;
    comparer.walk_copy(&mut progress).await?;
    Ok(comparer.found)
}

/// A comparison under way.
struct Comparer<'a> {
    /// For reading the source's binary log.
    log: &'a Source,
    show: &'a Show,
    subject: Subject,
    source: Server,
    target: &'a mut State,
    found: Comparison,
}

impl Comparer<'_> {
    /// Finds what the copy lacks or has otherwise.
    async fn walk_source(&mut self, progress: &mut (dyn FnMut(u64) + Send)) -> Result<()> {
        let (mut walk, mut suspects) = (Walk::default(), HashMap::new());
        loop {
            let rows = self.subject.source.next(self.source.connection(), &mut walk).await?;
            if rows.is_empty() {
                return self.settle_source(suspects).await;
            }
            let mut expected = HashMap::new();
            for row in &rows {
                if let Some((key, projected)) = self.subject.projected(row)? {
                    expected.insert(key, (projected, self.subject.source.key_of(row)));
                }
            }
            let keys: Vec<_> = expected.keys().map(|key: &Key| key.0.clone()).collect();
            let copied = self.subject.copy.with_keys(self.target.connection(), &keys).await?;
            let mut copied: HashMap<_, _> = copied.into_iter().map(|row| self.subject.held(row)).collect();
            self.found.rows += expected.len() as u64;
            suspects.extend(expected.into_iter().filter_map(|(key, (row, values))| {
                let is_equal = copied.remove(&key).is_some_and(|copy| self.subject.are_equal(&row, &copy));
                (!is_equal).then_some((key, values))
            }));
            if suspects.len() >= SUSPECTS_MAX {
                self.settle_source(std::mem::take(&mut suspects)).await?;
            }
            progress(self.found.rows);
        }
    }

    async fn settle_source(&mut self, suspects: HashMap<Key, Vec<Value>>) -> Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        for pair in self.settle(&suspects).await? {
            match (&pair.source, &pair.copy) {
                (Some(_), None) => {
                    self.found.missing += 1;
                    self.name(DifferenceKind::Missing, &pair.key, Vec::new());
                }
                (Some(source), Some(copy)) if !self.subject.are_equal(source, copy) => {
                    self.found.different += 1;
                    let columns = self.subject.different(source, copy, self.show.values);
                    self.name(DifferenceKind::Different, &pair.key, columns);
                }
                // What only the copy has is found by the walk through it.
                _ => {}
            }
        }
        Ok(())
    }

    /// Finds what only the copy has.
    async fn walk_copy(&mut self, progress: &mut (dyn FnMut(u64) + Send)) -> Result<()> {
        let (mut walk, mut suspects, mut seen) = (Walk::default(), HashMap::new(), 0);
        loop {
            let rows = self.subject.copy.next(self.target.connection(), &mut walk).await?;
            if rows.is_empty() {
                return self.settle_copy(suspects).await;
            }
            seen += rows.len() as u64;
            let held = rows.into_iter().map(|row| self.subject.held(row).0);
            let mut held: HashMap<Key, Vec<Value>> =
                held.map(|key| (key.clone(), self.subject.source_key(&key))).collect();
            let keys: Vec<_> = held.values().cloned().collect();
            for row in self.subject.source.with_keys(self.source.connection(), &keys).await? {
                if let Some((key, _)) = self.subject.projected(&row)? {
                    held.remove(&key);
                }
            }
            suspects.extend(held);
            if suspects.len() >= SUSPECTS_MAX {
                self.settle_copy(std::mem::take(&mut suspects)).await?;
            }
            progress(self.found.rows + seen);
        }
    }

    async fn settle_copy(&mut self, suspects: HashMap<Key, Vec<Value>>) -> Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        for pair in self.settle(&suspects).await? {
            if pair.source.is_none() && pair.copy.is_some() {
                self.found.extra += 1;
                self.name(DifferenceKind::Extra, &pair.key, Vec::new());
            }
        }
        Ok(())
    }

    fn name(&mut self, kind: DifferenceKind, key: &Key, columns: Vec<String>) {
        if self.found.named.len() < self.show.rows_max {
            let key = self.subject.key_text(key);
            self.found.named.push(Difference { kind, key, columns });
        }
    }
}
