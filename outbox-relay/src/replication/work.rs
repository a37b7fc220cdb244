//! What has to be done to the rows of a copy, and in which order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compact::Entry;
use super::plan::{CopyPlan, Key, OtherKey, Projected};
use super::update::Changed;
use crate::change::{ColumnType, Value};

/// What has to be done to a copy's rows, in the order of their keys.
#[derive(Default)]
pub(super) struct Work<'e> {
    pub(super) deletes: Vec<&'e Key>,
    pub(super) updates: Vec<Changed<'e>>,
    pub(super) inserts: Vec<(&'e Key, &'e Projected)>,
}

impl<'e> Work<'e> {
    /// Rows that are to be inserted; of two of one key the later.
    pub(super) fn of_new(mut inserts: Vec<(&'e Key, &'e Projected)>) -> Self {
        // Read in this order, mostly; then that costs nothing.
        inserts.sort_by(|(a, _), (b, _)| a.order(b));
        inserts.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        Self { inserts, ..Self::default() }
    }

    pub(super) fn of(rows: &'e HashMap<Key, Entry>) -> Self {
        let mut work = Self::default();
        for (key, entry) in rows {
            match (&entry.before, &entry.after) {
                (_, None) => work.deletes.push(key),
                (None, Some(after)) => work.inserts.push((key, after)),
                (Some(_), Some(after)) if entry.was_gone => {
                    work.deletes.push(key);
                    work.inserts.push((key, after));
                }
                (Some(before), Some(after)) => work.updates.push((key, before, after)),
            }
        }
        // As the target's table is stored: rows of one page together, new ones at its end.
        work.deletes.sort_unstable_by(|a, b| a.order(b));
        work.updates.sort_unstable_by(|(a, ..), (b, ..)| a.order(b));
        work.inserts.sort_unstable_by(|(a, _), (b, _)| a.order(b));
        work
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'e Key> {
        let updates = self.updates.iter().map(|(key, ..)| *key);
        self.deletes.iter().copied().chain(updates).chain(self.inserts.iter().map(|(key, _)| *key))
    }
}

/// Rows whose values of a unique key change and may be another's now. Texts may be equal in their collation though
/// they differ, so there every row that changes counts.
pub(super) fn movers<'e>(plan: &CopyPlan, key: &OtherKey, work: &Work<'e>, is_shared: bool) -> Vec<&'e Key> {
    let values =
        |row: &'e Projected| -> Vec<&'e Value> { key.columns.iter().map(|at| &row.0[*at]).collect() };
    let changed = work.updates.iter().filter(|(_, before, after)| values(before) != values(after));
    let is_exact = !is_shared
        && key.columns.iter().all(|at| {
            matches!(
                plan.image.columns[*at].kind,
                ColumnType::Int { .. } | ColumnType::Bytes { .. } | ColumnType::Date | ColumnType::Address(_)
            )
        })
        && !key.is_partial;
    if !is_exact {
        return changed.map(|(key, ..)| *key).collect();
    }
    let wanted: HashSet<_> = work
        .updates
        .iter()
        .map(|(_, _, after)| values(after))
        .chain(work.inserts.iter().map(|(_, after)| values(after)))
        .collect();
    changed.filter(|(_, before, _)| wanted.contains(&values(before))).map(|(key, ..)| *key).collect()
}

/// The plans in an order in which no foreign key points to a later one, as far as there is such an order.
pub(super) fn parents_first(plans: &[Arc<CopyPlan>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    let mut rest: Vec<usize> = (0..plans.len()).collect();
    while !rest.is_empty() {
        let is_free = |at: &usize| {
            !rest.iter().any(|other| {
                let parent = &plans[*other].image.name;
                *parent != plans[*at].image.name && plans[*at].references.iter().any(|name| name == parent)
            })
        };
        let (mut free, later): (Vec<_>, Vec<_>) = rest.iter().copied().partition(is_free);
        if free.is_empty() {
            // A circle.
            order.extend(later);
            break;
        }
        order.append(&mut free);
        rest = later;
    }
    order
}
