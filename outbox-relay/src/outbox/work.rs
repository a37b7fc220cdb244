//! What one task does with the source's connection while a batch is on its way: it settles the batch before,
//! notes refusals, and reads the batch after. In this order: a read must see the keys that failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outbox_core::Result;

use super::item::{Item, Origin, label};
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

/// Messages of one key that may wait for each other in a batch: all other keys of the batch wait for the last.
const KEY_WAVES: u32 = 32;

/// Bounds of a read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    rows: u32,
    bytes: u64,
    /// Rows of one key.
    key_rows: u32,
    key_rows_min: u32,
}

impl Limits {
    pub(super) fn new(rows: u32, bytes: u64, in_flight_per_key: u32) -> Self {
        let key_rows = KEY_WAVES.saturating_mul(in_flight_per_key);
        Self { rows, bytes, key_rows, key_rows_min: key_rows }
    }

    /// The same halved so often: large messages fill a slow line as many do. One row is left, whatever its size.
    pub(super) fn halved(self, times: u32) -> Self {
        let rows = self.rows.checked_shr(times).unwrap_or_default().max(1);
        let bytes = self.bytes.checked_shr(times).unwrap_or_default().max(1);
        Self { rows, bytes, ..self }
    }

    /// Whether a read is of one row.
    pub(super) fn is_single(&self) -> bool {
        self.rows == 1
    }

    /// A key with more rows than it may have leaves room for others; as long as there are none it gets more, since
    /// looking for them goes through all of its rows.
    pub(super) fn learn(&mut self, read: &Read) {
        self.key_rows = if read.is_alone {
            self.key_rows.saturating_mul(2).min(self.rows).max(self.key_rows_min)
        } else {
            self.key_rows_min
        };
    }
}

/// What to read.
#[derive(Debug)]
pub(super) struct Asked {
    /// Buckets and their epochs; none is no read.
    pub(super) held: BTreeMap<u16, i64>,
    /// Ids that are on their way.
    pub(super) except: Vec<i64>,
    pub(super) limits: Limits,
    /// Set when a single row is read because its try may be the end of this relay.
    pub(super) careful: Option<Careful>,
}

/// How the start of a try is written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Careful {
    /// So many tries are made.
    pub(super) attempts_max: u32,
    /// The row whose try this relay has written down already.
    pub(super) started: Option<i64>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) items: Vec<Item>,
    /// A limit was reached: there is more.
    pub(super) more: bool,
    /// Keys had more rows than they may have, and no other key had any.
    is_alone: bool,
    /// The row whose try was written down.
    pub(super) started: Option<i64>,
    /// What was parked instead of being tried once more.
    pub(super) parked: Option<String>,
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

/// The first rows that fit, with their payloads. Where a few keys have most of them, those of other keys are read
/// besides: each of the first rows of a key waits for the one before it, and nobody else should.
async fn read(store: &mut Store, asked: &Asked, origin: &Origin) -> Result<Read> {
    let held: Vec<u16> = asked.held.keys().copied().collect();
    let Limits { rows, bytes, key_rows, .. } = asked.limits;
    let ask = Ask { held: &held, except: &asked.except, besides: &[], rows };
    let mut heads = store.heads(&ask).await?;
    let (mut started, mut parked) = (None, None);
    if let (Some(careful), [head]) = (asked.careful, &mut heads[..]) {
        started = Some(head.id);
        if careful.started != started {
            parked = start_try(store, asked, careful, head).await?;
        } else if head.head_id == started {
            // The try that was written down got no answer, and this relay lives: it counts for nothing.
            head.attempts = head.attempts.map(|attempts| attempts.saturating_sub(1).max(0));
        }
        if parked.is_some() {
            return Ok(Read { more: true, parked, ..Read::default() });
        }
    }
    let is_full = heads.len() as u64 >= u64::from(rows);
    let longer = shorten(&mut heads, key_rows);
    let room = rows.saturating_sub(u32::try_from(heads.len()).unwrap_or(rows));
    let mut is_alone = false;
    if is_full && !longer.is_empty() && room > rows / 2 {
        // From the start of the table again, without what is here: a key whose first row has become visible since
        // must not go on with a later one.
        let except: Vec<i64> = asked.except.iter().copied().chain(heads.iter().map(|head| head.id)).collect();
        let ask = Ask { held: &held, except: &except, besides: &longer, rows: room };
        let mut others = store.heads(&ask).await?;
        is_alone = others.is_empty();
        shorten(&mut others, key_rows);
        heads.append(&mut others);
    }
    let fit = prefix(heads.iter().map(|head| head.bytes), bytes);
    let more = is_full || !longer.is_empty() || fit < heads.len();
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
    Ok(Read { items, more, is_alone, started, parked })
}

/// Writes the start of a row's try down, as an attempt that is taken back when the row is confirmed. The row is parked
/// instead if it has had all its tries; why, for people.
async fn start_try(
    store: &mut Store,
    asked: &Asked,
    careful: Careful,
    head: &mut Head,
) -> Result<Option<String>> {
    let before = head.attempts.filter(|_| head.head_id == Some(head.id)).unwrap_or_default();
    let is_last = u32::try_from(before).unwrap_or_default() >= careful.attempts_max;
    let error = if is_last {
        format!("its relay ended while it was published, or it was refused: {before} times")
    } else {
        "its relay ended while it was published".to_owned()
    };
    let Some((bucket, epoch)) = u16::try_from(head.bucket).ok().and_then(|b| Some((b, *asked.held.get(&b)?)))
    else {
        return Ok(None);
    };
    let attempts = if is_last { before } else { before.saturating_add(1) };
    let failure =
        Failure { id: head.id, bucket, epoch, attempts, parked: is_last, wait_ms: 0, error: error.clone() };
    store.fail(&[failure]).await?;
    // A refusal is counted on what was there before, and a confirmation takes the key's row away.
    (head.attempts, head.head_id) = (Some(before), Some(head.id));
    Ok(is_last
        .then(|| format!("{} (row {}): {error}", label(&head.aggregate_type, &head.aggregate_id), head.id)))
}

/// Leaves so many rows of each key, the first ones; the first id of each key that had more.
fn shorten(heads: &mut Vec<Head>, key_rows: u32) -> Vec<i64> {
    let mut keys: HashMap<_, (u32, i64)> = HashMap::new();
    let mut longer = BTreeSet::new();
    let keep: Vec<bool> = heads
        .iter()
        .map(|head| {
            let (rows, first) =
                keys.entry((&head.aggregate_type, &head.aggregate_id)).or_insert((0, head.id));
            *rows += 1;
            if *rows > key_rows {
                longer.insert(*first);
            }
            *rows <= key_rows
        })
        .collect();
    let mut keep = keep.into_iter();
    heads.retain(|_| keep.next().unwrap_or(true));
    longer.into_iter().collect()
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

    fn head(id: i64, key: &str) -> Head {
        Head {
            id,
            message_id: vec![0; 16],
            bucket: 0,
            aggregate_type: b"thing".to_vec(),
            aggregate_id: key.as_bytes().to_vec(),
            event_type: b"made".to_vec(),
            created_at_us: 0,
            bytes: 0,
            headers: None,
            payload: None,
            attempts: None,
            head_id: None,
            generation: 1,
        }
    }

    #[test]
    fn a_halved_read_has_half_the_bytes_too_and_one_row_at_least() {
        let limits = Limits::new(1000, 8 << 20, 1).halved(5);
        assert_eq!((limits.rows, limits.bytes), (31, 256 << 10));
        let least = limits.halved(40);
        assert!(least.is_single() && least.bytes == 1);
        assert_eq!(prefix([16 << 20, 16 << 20].into_iter(), least.bytes), 1);
    }

    #[test]
    fn a_key_keeps_its_first_rows_and_others_all_of_theirs() {
        let keys = ["a", "b", "a", "a", "b", "c", "a"];
        let mut heads: Vec<Head> = (1..).zip(keys).map(|(id, key)| head(id, key)).collect();
        assert_eq!(shorten(&mut heads, 2), [1]);
        assert_eq!(heads.iter().map(|head| head.id).collect::<Vec<_>>(), [1, 2, 3, 5, 6]);
        assert!(shorten(&mut heads, 2).is_empty());
    }

    #[test]
    fn a_key_without_company_gets_more_and_gives_it_back() {
        let mut limits = Limits::new(100, 1, 1);
        let read = |is_alone| Read { is_alone, ..Read::default() };
        let learned = [true, true, true, false, true].map(|is_alone| {
            limits.learn(&read(is_alone));
            limits.key_rows
        });
        assert_eq!(learned, [64, 100, 100, 32, 64]);
    }

    #[test]
    fn a_read_is_bounded_in_bytes_and_never_empty() {
        assert_eq!(prefix([10, 10, 10].into_iter(), 25), 2);
        assert_eq!(prefix([100, 1].into_iter(), 25), 1);
        assert_eq!(prefix([].into_iter(), 25), 1);
        assert_eq!(prefix([1, 1].into_iter(), 25), 2);
    }
}
