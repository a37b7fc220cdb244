//! Whole transactions of the source → what they do to each row of the copies in the end.

use std::collections::HashSet;
use std::sync::Arc;

use outbox_core::Result;

use super::plan::{CopyPlan, Key, Projected};
use crate::change::Txn;

/// Transactions that are applied together, in one transaction of the target, and the windows that end with them.
#[derive(Debug)]
pub struct Group {
    plans: Vec<Arc<CopyPlan>>,
}

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
        todo!()
    }

    /// Whether a transaction still belongs in: one above the limit forms a group of its own.
    pub fn fits(&self, txn: &Txn) -> bool {
        todo!()
    }

    /// Takes a transaction in; only one that [`fits`](Self::fits). `touched`: whoever has a window open.
    ///
    /// Gives the copies that cannot take it, which this group leaves out from then on: to be held by the caller
    /// together with what [`Applied`](super::Applied) names.
    ///
    /// # Errors
    /// The temporary file of a large transaction cannot be read.
    pub fn push(&mut self, txn: Txn, touched: Option<&mut Touched<'_>>) -> Result<Vec<Held>> {
        todo!()
    }

    /// Has a window end with this group.
    pub fn add_window(&mut self, window: ClosedWindow) {
        todo!()
    }

    /// About how many bytes it takes.
    pub fn weight_bytes(&self) -> u64 {
        todo!()
    }

    /// Whether it would write no row.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
