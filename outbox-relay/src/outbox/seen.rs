//! Which rows were read lately, for whoever was told of a row and waits for it to be read.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// More than two reads of the largest size. A row that was read longer ago is looked for in vain, which costs a few
/// reads.
const IDS_MAX: usize = 20_000;

/// The ids of the last reads. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Ids>>);

#[derive(Debug, Default)]
struct Ids {
    known: HashSet<i64>,
    order: VecDeque<i64>,
}

impl Seen {
    /// Notes what was read.
    pub(super) fn note(&self, read: impl Iterator<Item = i64>) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in read {
            if ids.known.insert(id) {
                ids.order.push_back(id);
            }
        }
        while ids.order.len() > IDS_MAX {
            let oldest = ids.order.pop_front().unwrap_or_default();
            ids.known.remove(&oldest);
        }
    }

    /// Whether the row was read lately.
    pub(super) fn has(&self, id: i64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_known() {
        let seen = Seen::default();
        seen.note(0..20_000);
        seen.note([5, 20_000, 20_001].into_iter());
        assert_eq!([0, 1, 2, 20_001].map(|id| seen.has(id)), [false, false, true, true]);
    }
}
