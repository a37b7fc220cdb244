//! The invariants: what arrived of each key against what was committed.

use std::collections::BTreeMap;

/// What arrived, key by key. Sequences of a key start at 1 and have no gaps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    last: BTreeMap<String, i64>,
    /// As which of all messages that arrived in order the last of a key did.
    places: BTreeMap<String, u64>,
    arrived: u64,
    repeats: u64,
    out_of_order: Vec<String>,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) arrived: u64,
    pub(crate) repeats: u64,
}

impl Tally {
    /// One more message of a key: the next one, a repetition of an earlier one, or neither.
    pub(crate) fn arrive(&mut self, key: &str, sequence: i64) {
        let last = self.last.entry(key.to_owned()).or_default();
        if sequence == *last + 1 {
            *last = sequence;
            self.arrived += 1;
            self.places.insert(key.to_owned(), self.arrived);
        } else if (1..=*last).contains(&sequence) {
            self.repeats += 1;
        } else {
            self.out_of_order.push(format!("key {key}: {sequence} after {last}"));
        }
    }

    /// How many different messages arrived in order.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// The last message of a key that arrived in order; 0 for none.
    pub(crate) fn last(&self, key: &str) -> i64 {
        self.last.get(key).copied().unwrap_or_default()
    }

    /// As which of all messages that arrived in order the last of a key did, from 1; 0 for none.
    pub(crate) fn place(&self, key: &str) -> u64 {
        self.places.get(key).copied().unwrap_or_default()
    }

    /// Everything that was committed arrived, nothing else did, and in order. `committed` has the last sequence
    /// of each key. All violations at once, a few of each kind.
    pub(crate) fn check(&self, committed: &BTreeMap<String, i64>) -> Result<Counts, String> {
        let mut found: Vec<String> = self.out_of_order.iter().take(10).cloned().collect();
        for (key, last) in committed {
            let arrived = self.last.get(key).copied().unwrap_or_default();
            if arrived < *last {
                found.push(format!("key {key}: lost {} to {last}", arrived + 1));
            }
        }
        for (key, last) in &self.last {
            if *last > committed.get(key).copied().unwrap_or_default() {
                found.push(format!("key {key}: {last} arrived and was never committed"));
            }
        }
        if found.is_empty() {
            Ok(Counts { arrived: self.arrived, repeats: self.repeats })
        } else {
            Err(format!("{} out of order in all; {}", self.out_of_order.len(), found.join("; ")))
        }
    }
}

#[cfg(test)]
fn tally(arrivals: &[(&str, i64)]) -> Tally {
    let mut tally = Tally::default();
    arrivals.iter().for_each(|(key, sequence)| tally.arrive(key, *sequence));
    tally
}

const WHOLE: [(&str, i64); 4] = [("a", 1), ("b", 1), ("a", 2), ("a", 3)];

fn committed() -> BTreeMap<String, i64> {
    BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)])
}

#[test]
fn a_whole_run_is_right_and_repeats_are_counted() {
    assert_eq!(tally(&WHOLE).check(&committed()), Ok(Counts { arrived: 4, repeats: 0 }));
    let repeated = [&WHOLE[..], &[("a", 2), ("a", 3)]].concat();
    assert_eq!(tally(&repeated).check(&committed()), Ok(Counts { arrived: 4, repeats: 2 }));
}

#[test]
fn the_checker_finds_what_is_lost_swapped_or_invented() {
    let mut cases = Vec::new();
    for index in 0..WHOLE.len() {
        let mut lost = WHOLE.to_vec();
        lost.remove(index);
        cases.push(lost);
    }
    let mut swapped = WHOLE.to_vec();
    swapped.swap(2, 3);
    cases.push(swapped);
    cases.push([&WHOLE[..], &[("a", 4)]].concat());
    cases.push([&WHOLE[..], &[("c", 1)]].concat());
    for arrivals in cases {
        assert!(tally(&arrivals).check(&committed()).is_err(), "{arrivals:?}");
    }
}
