//! Whole transactions of the source → what they do to each row of the copies in the end.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outbox_core::{Error, Result};

use super::plan::{CopyPlan, Key, Projected};
use crate::change::{Change, Row, Table, Txn, Undecodable};

/// What a row weighs in memory besides its values.
const ROW_BYTES: usize = 192;

/// Transactions that are applied together, in one transaction of the target, and the windows that end with them.
#[derive(Debug)]
pub struct Group {
    pub(super) plans: Vec<Arc<CopyPlan>>,
    /// Why a plan takes no part any more; in the order of `plans`.
    pub(super) held: Vec<Option<String>>,
    pub(super) rows: Rows,
    /// A transaction too large for memory; then it is the last one.
    pub(super) large: Option<Txn>,
    pub(super) windows: Vec<ClosedWindow>,
    /// Whether a row that ends as it began is written nevertheless: while a window is open its key counts as touched,
    /// so what was read of it is left out, and the target may not have it yet.
    pub(super) keeps_all: bool,
    pub(super) bytes_max: u64,
    routes: Routes,
}

/// What transactions do to each row in the end: per plan, in the order of the plans.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) of: Vec<HashMap<Key, Entry>>,
    weight: usize,
}

/// A row before the first change and after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) before: Option<Projected>,
    pub(super) after: Option<Projected>,
    /// It was gone in between: columns of the target's own begin again.
    pub(super) was_gone: bool,
}

/// Which plans take the changes of a table; the table that was last asked for is at hand.
#[derive(Debug, Default)]
pub(super) struct Routes(Option<(Arc<Table>, Vec<usize>)>);

/// One change of one copy's row.
type Projection = (usize, Option<Projected>, Option<Projected>);

/// A range of keys that was read from the source, and what the stream did to it meanwhile.
#[derive(Debug)]
pub struct ClosedWindow {
    /// The copy.
    pub plan: Arc<CopyPlan>,
    /// The range begins after this key of the copy; `None`: with the first.
    pub after: Option<Key>,
    /// The range's last key; `None`: to the end.
    pub through: Option<Key>,
    /// The rows that were read.
    pub rows: Vec<Projected>,
    /// Keys that transactions touched while the window was open, those of the group that closes it too.
    pub touched: HashSet<Key>,
    /// What is noted of the copy's progress; `None` for a repair.
    pub progress: Option<CopyProgress>,
}

/// How far a copy has got with a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyProgress {
    /// The last key that was read, as the source has it (the values of `CopyPlan::source_key`).
    pub after_key: Option<Key>,
    /// How many rows the window has copied.
    pub rows: u64,
    /// Whether the copy is complete with it: it becomes ready.
    pub is_last: bool,
}

/// A copy that cannot go on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The copy's name.
    pub copy: String,
    /// What is wrong and what helps.
    pub reason: String,
}

/// Called with every key, before and after, that a transaction touches, filtered rows aside.
pub type Touched<'t> = dyn FnMut(&Arc<CopyPlan>, &Key) + Send + 't;

impl Group {
    /// An empty group for these copies, held ones left out. Of its rows it keeps about `bytes_max` in memory.
    pub fn new(plans: &[Arc<CopyPlan>], bytes_max: u64) -> Self {
        Self {
            plans: plans.to_vec(),
            held: vec![None; plans.len()],
            rows: Rows::new(plans.len()),
            large: None,
            windows: Vec::new(),
            keeps_all: false,
            bytes_max,
            routes: Routes::default(),
        }
    }

    /// Whether a transaction still belongs in: one above the limit forms a group of its own.
    pub fn fits(&self, txn: &Txn) -> bool {
        let is_empty = self.rows.is_empty() && self.large.is_none();
        is_empty
            || (self.large.is_none() && self.weight_bytes() + txn.changes.weight_bytes() <= self.bytes_max)
    }

    /// Takes a transaction in; only one that [`fits`](Self::fits). `touched`: whoever has a window open, `None` if
    /// nobody has.
    ///
    /// Gives the copies that cannot take it, which this group leaves out from then on, none of this transaction's
    /// changes included. [`Target::apply`](super::Target::apply) notes them as held; the next group has to do
    /// without them.
    ///
    /// # Errors
    /// The temporary file of a large transaction cannot be read.
    pub fn push(&mut self, txn: Txn, mut touched: Option<&mut Touched<'_>>) -> Result<Vec<Held>> {
        let mut is_large = txn.changes.weight_bytes() > self.bytes_max;
        let mut weight = 0;
        self.keeps_all |= touched.is_some();
        let mut held = Vec::new();
        let mut pending: Vec<Projection> = Vec::new();
        if !is_large || touched.is_some() {
            for change in txn.changes.iter()? {
                let from = pending.len();
                for (plan, why) in self.routes.project(&self.plans, &self.held, change, &mut pending)? {
                    held.push(Held { copy: self.plans[plan].name().to_owned(), reason: why.clone() });
                    self.held[plan] = Some(why);
                }
                if let Some(touched) = touched.as_deref_mut() {
                    self.tell(&pending[from..], touched);
                }
                weight += pending[from..].iter().map(weight_of).sum::<u64>();
                // Small rows take many times the memory that they take in the log.
                is_large |= weight > self.bytes_max;
                if is_large {
                    pending = Vec::new();
                    if touched.is_none() {
                        break;
                    }
                }
            }
        }
        if is_large {
            self.large = Some(txn);
        }
        for (plan, before, after) in pending {
            if self.held[plan].is_none() {
                self.rows.fold(&self.plans[plan], plan, before, after, self.keeps_all);
            }
        }
        Ok(held)
    }

    fn tell(&self, projections: &[Projection], touched: &mut Touched<'_>) {
        for (plan, before, after) in projections {
            let plan = &self.plans[*plan];
            for row in [before, after].into_iter().flatten() {
                touched(plan, &plan.key(row));
            }
        }
    }

    /// Has a window end with this group.
    pub fn add_window(&mut self, window: ClosedWindow) {
        self.windows.push(window);
    }

    /// About how many bytes it takes in memory.
    pub fn weight_bytes(&self) -> u64 {
        let windows = self.windows.iter().map(ClosedWindow::weight_bytes);
        self.rows.weight as u64 + windows.sum::<u64>()
    }

    /// Whether it would write nothing but a position.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.large.is_none()
            && self.windows.is_empty()
            && self.held.iter().all(Option::is_none)
    }

    /// Leaves a copy out from now on.
    pub(super) fn hold(&mut self, plan: usize, reason: String) {
        self.held[plan] = Some(reason);
        self.rows.of[plan].clear();
        let name = self.plans[plan].name();
        self.windows.retain(|window| window.plan.name() != name);
    }
}

/// About how many bytes a change takes in memory.
fn weight_of((_, before, after): &Projection) -> u64 {
    let rows = [before, after].into_iter().flatten().map(Projected::weight_bytes);
    (ROW_BYTES + rows.sum::<usize>()) as u64
}

impl ClosedWindow {
    /// Whether the other one is the same copy's next.
    pub(super) fn goes_on(&self, next: &Self) -> bool {
        let are_of_one = Arc::ptr_eq(&self.plan, &next.plan);
        are_of_one
            && self.progress.is_some()
            && next.progress.is_some()
            && self.through.is_some()
            && self.through == next.after
    }

    /// About how many bytes it takes in memory.
    pub(super) fn weight_bytes(&self) -> u64 {
        let rows = self.rows.iter().map(|row| row.weight_bytes() as u64);
        rows.chain(self.touched.iter().map(Key::weight_bytes)).sum()
    }
}

impl Rows {
    pub(super) fn new(plans: usize) -> Self {
        Self { of: (0..plans).map(|_| HashMap::new()).collect(), weight: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.iter().all(HashMap::is_empty)
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.weight as u64
    }

    /// Puts a change behind what is there. A row that ends as it began is left out, if not all are kept.
    pub(super) fn fold(
        &mut self,
        plan: &CopyPlan,
        at: usize,
        before: Option<Projected>,
        after: Option<Projected>,
        keeps_all: bool,
    ) {
        let keys = (before.as_ref().map(|row| plan.key(row)), after.as_ref().map(|row| plan.key(row)));
        match keys {
            (Some(old), Some(new)) if old == new => self.put(at, old, before, after, keeps_all),
            (old, new) => {
                if let Some(old) = old {
                    self.put(at, old, before, None, keeps_all);
                }
                if let Some(new) = new {
                    self.put(at, new, None, after, keeps_all);
                }
            }
        }
    }

    fn put(
        &mut self,
        at: usize,
        key: Key,
        before: Option<Projected>,
        after: Option<Projected>,
        keeps_all: bool,
    ) {
        let weight = |row: &Option<Projected>| row.as_ref().map_or(0, Projected::weight_bytes);
        match self.of[at].entry(key) {
            Slot::Vacant(slot) => {
                if keeps_all || before != after {
                    self.weight += ROW_BYTES + weight(&before) + weight(&after);
                    slot.insert(Entry { was_gone: after.is_none(), before, after });
                }
            }
            Slot::Occupied(mut slot) => {
                let entry = slot.get_mut();
                self.weight -= weight(&entry.after).min(self.weight);
                self.weight += weight(&after);
                entry.was_gone |= after.is_none();
                entry.after = after;
                // As it was: nothing to do. A row that was gone meanwhile begins anew nevertheless.
                let is_as_before = entry.before == entry.after && (!entry.was_gone || entry.after.is_none());
                if is_as_before && !keeps_all {
                    let entry = slot.remove();
                    let freed = ROW_BYTES + weight(&entry.before) + weight(&entry.after);
                    self.weight -= freed.min(self.weight);
                }
            }
        }
    }
}

impl Routes {
    /// Adds what a change is to each copy of its table; gives the copies that cannot take it, with the reason.
    pub(super) fn project(
        &mut self,
        plans: &[Arc<CopyPlan>],
        held: &[Option<String>],
        change: Result<Change>,
        projections: &mut Vec<Projection>,
    ) -> Result<Vec<(usize, String)>> {
        let change = match change {
            Ok(change) => change,
            Err(error) => return undecodable(plans, held, error),
        };
        let mut refused = Vec::new();
        let table = change.table;
        let (mut before, mut after) = change.image.into_rows();
        let takers = self.of(plans, &table);
        for (number, &at) in takers.iter().enumerate() {
            if held[at].is_some() {
                continue;
            }
            // The last one takes the row itself.
            let is_last = number + 1 == takers.len();
            let given = |row: &mut Option<Row>| if is_last { row.take() } else { row.clone() };
            let project = |row| match row {
                Some(row) => plans[at].project(&table, row),
                None => Ok(None),
            };
            match (project(given(&mut before)), project(given(&mut after))) {
                (Ok(None), Ok(None)) => {}
                (Ok(before), Ok(after)) => projections.push((at, before, after)),
                (Err(error), _) | (_, Err(error)) => refused.push((at, error.to_string())),
            }
        }
        Ok(refused)
    }

    fn of(&mut self, plans: &[Arc<CopyPlan>], table: &Arc<Table>) -> &[usize] {
        let is_it = matches!(&self.0, Some((last, _)) if Arc::ptr_eq(last, table));
        if !is_it {
            let source = (table.database.as_str(), table.name.as_str());
            let of = plans.iter().enumerate().filter(|(_, plan)| plan.source() == source);
            self.0 = Some((Arc::clone(table), of.map(|(at, _)| at).collect()));
        }
        self.0.as_ref().map_or(&[], |(_, of)| of)
    }
}

/// The copies of a table whose change cannot be decoded; other errors stay errors.
fn undecodable(
    plans: &[Arc<CopyPlan>],
    held: &[Option<String>],
    error: Error,
) -> Result<Vec<(usize, String)>> {
    let Some(Undecodable { database, table, reason }) = error.downcast_ref() else { return Err(error) };
    let of = plans
        .iter()
        .enumerate()
        .filter(|(at, plan)| held[*at].is_none() && plan.source() == (database.as_str(), table.as_str()));
    Ok(of.map(|(at, _)| (at, reason.clone())).collect())
}

impl Projected {
    /// About how many bytes of memory it takes.
    pub(super) fn weight_bytes(&self) -> usize {
        self.0.iter().map(crate::change::Value::weight_bytes).sum()
    }
}
