//! Which statements stay prepared although optional fields decide what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

/// So many texts of an aggregate's statements stay prepared on each connection. A service has few; one that lets
/// its callers choose any fields could have one for each combination, and a server keeps a plan for each.
const TEXTS_MAX: usize = 32;

/// Hashes of the texts that stay prepared, by aggregate.
static KEPT: Mutex<BTreeMap<&'static str, BTreeSet<u64>>> = Mutex::new(BTreeMap::new());

/// Whether a text is one of the aggregate's first in this process.
pub(super) fn is_among_first(aggregate: &'static str, text: &str) -> bool {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let texts = kept.entry(aggregate).or_default();
    let hash = hasher.finish();
    texts.contains(&hash) || texts.len() < TEXTS_MAX && texts.insert(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_texts_of_each_aggregate_stay() {
        let is_kept = |aggregate, number: usize| is_among_first(aggregate, &format!("update {number}"));
        assert!((0..TEXTS_MAX).all(|number| is_kept("kept-a", number)));
        assert!(!is_kept("kept-a", TEXTS_MAX));
        assert!(is_kept("kept-a", 0), "still");
        assert!(is_kept("kept-b", TEXTS_MAX), "another");
    }
}
