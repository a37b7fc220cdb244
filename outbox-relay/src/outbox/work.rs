//! What one task does with the source's connection while a batch is on its way: it settles the batch before,
//! notes refusals, and reads the batch after. In this order: a read must see the keys that failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outbox_core::Result;

use super::item::{Item, Origin};
use super::store::{Ask, Failure, Head, Store};

/// What was decided about rows and is not written yet.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Confirmed rows: id, bucket, epoch.
    confirmed: Vec<(i64, u16, i64)>,
    /// Those of them whose key leaves `outbox_key`.
    recovered: Vec<i64>,
    refused: Vec<Failure>,
}

impl Work {
    pub(super) fn confirm(&mut self, item: &Item) {
        self.confirmed.push((item.id(), item.bucket(), item.epoch()));
        if item.has_key_row() {
            self.recovered.push(item.id());
        }
    }

    pub(super) fn refuse(&mut self, failure: Failure) {
        self.refused.push(failure);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.confirmed.is_empty() && self.recovered.is_empty() && self.refused.is_empty()
    }

    pub(super) fn buckets(&self) -> BTreeSet<u16> {
        let confirmed = self.confirmed.iter().map(|(_, bucket, _)| *bucket);
        confirmed.chain(self.refused.iter().map(|failure| failure.bucket)).collect()
    }

    /// Takes back what could not be written; it is older than what is here.
    pub(super) fn put_back(&mut self, mut undone: Self) {
        undone.confirmed.append(&mut self.confirmed);
        undone.recovered.append(&mut self.recovered);
        undone.refused.append(&mut self.refused);
        *self = undone;
    }

    /// The leases that the rows were read under.
    fn fence(&self) -> Vec<(u16, i64)> {
        let leases: BTreeSet<_> = self.confirmed.iter().map(|(_, bucket, epoch)| (*bucket, *epoch)).collect();
        leases.into_iter().collect()
    }

    /// Writes all, forgetting each part once it is written; how many rows were deleted, and how many were
    /// not there.
    async fn write(&mut self, store: &mut Store) -> Result<(u64, u64)> {
        let fence = self.fence();
        if !self.recovered.is_empty() {
            store.clear_keys(&fence, &self.recovered).await?;
            self.recovered.clear();
        }
        let mut counts = (0, 0);
        if !self.confirmed.is_empty() {
            let ids: Vec<i64> = self.confirmed.iter().map(|(id, _, _)| *id).collect();
            let deleted = store.settle(&fence, &ids).await?;
            counts = (deleted as u64, ids.len().saturating_sub(deleted) as u64);
            self.confirmed.clear();
        }
        if !self.refused.is_empty() {
            store.fail(&self.refused).await?;
            self.refused.clear();
        }
        Ok(counts)
    }
}

/// Bounds of a read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u32,
    pub(super) bytes: u64,
}

/// What to read.
#[derive(Debug)]
pub(super) struct Asked {
    /// Buckets and their epochs; none is no read.
    pub(super) held: BTreeMap<u16, i64>,
    /// Ids that are on their way.
    pub(super) except: Vec<i64>,
    pub(super) limits: Limits,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) items: Vec<Item>,
    /// A limit was reached: there is more.
    pub(super) more: bool,
}

/// What a task came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) store: Store,
    pub(super) undone: Work,
    pub(super) settled: u64,
    pub(super) missing: u64,
    pub(super) read: Result<Read>,
}

/// Writes, then reads. If writing fails nothing is read.
pub(super) async fn run(mut store: Store, mut work: Work, asked: Asked, origin: Arc<Origin>) -> Outcome {
    let (settled, missing, read) = match work.write(&mut store).await {
        Ok((settled, missing)) if asked.held.is_empty() => (settled, missing, Ok(Read::default())),
        Ok((settled, missing)) => (settled, missing, read(&mut store, &asked, &origin).await),
        Err(error) => (0, 0, Err(error)),
    };
    Outcome { store, undone: work, settled, missing, read }
}

/// The first rows that fit, with their payloads.
async fn read(store: &mut Store, asked: &Asked, origin: &Origin) -> Result<Read> {
    let held: Vec<u16> = asked.held.keys().copied().collect();
    let ask = Ask { held: &held, except: &asked.except, rows: asked.limits.rows };
    let mut heads = store.heads(&ask).await?;
    let is_full = heads.len() as u64 >= u64::from(asked.limits.rows);
    let fit = prefix(heads.iter().map(|head| head.bytes), asked.limits.bytes);
    let more = is_full || fit < heads.len();
    heads.truncate(fit);
    fetch_large(store, &mut heads).await?;
    let items = heads
        .into_iter()
        .filter_map(|head| {
            let bucket = u16::try_from(head.bucket).ok()?;
            let epoch = *asked.held.get(&bucket)?;
            Some(Item::of(origin, epoch, bucket, head))
        })
        .collect();
    Ok(Read { items, more })
}

/// How many of these sizes fit, one at least.
fn prefix(sizes: impl Iterator<Item = i64>, bytes: u64) -> usize {
    let mut sum = 0u64;
    let fit = sizes
        .take_while(|size| {
            sum = sum.saturating_add(size.unsigned_abs());
            sum <= bytes
        })
        .count();
    fit.max(1)
}

/// Puts the payloads in that were too large to come with the row. A row that vanished meanwhile is left out,
/// and one that can never be published is not loaded.
async fn fetch_large(store: &mut Store, heads: &mut Vec<Head>) -> Result<()> {
    let is_missing = |head: &Head| head.payload.is_none() && !Item::is_too_large(head);
    let large: Vec<i64> = heads.iter().filter(|head| is_missing(head)).map(|head| head.id).collect();
    if large.is_empty() {
        return Ok(());
    }
    let bodies = store.bodies(&large).await?;
    let mut bodies: HashMap<i64, _> = bodies.into_iter().map(|body| (body.id, body)).collect();
    heads.retain_mut(|head| {
        if !is_missing(head) {
            return true;
        }
        let Some(body) = bodies.remove(&head.id) else { return false };
        head.headers = Some(body.headers);
        head.payload = Some(body.payload);
        true
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_bounded_in_bytes_and_never_empty() {
        assert_eq!(prefix([10, 10, 10].into_iter(), 25), 2);
        assert_eq!(prefix([100, 1].into_iter(), 25), 1);
        assert_eq!(prefix([].into_iter(), 25), 1);
        assert_eq!(prefix([1, 1].into_iter(), 25), 2);
    }
}
