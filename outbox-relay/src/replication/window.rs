//! The windows of a copy that is being made: ranges of keys that were read from the source, which end when the stream
//! has brought all that the reading saw.
//!
//! While a window is open it remembers every key that the stream touches: for these the stream knows better. So the
//! stream never waits for a copy, and a range can be read again while its rows are in use.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::chunks::{Piece, Request};
use super::compact::{ClosedWindow, CopyProgress};
use super::plan::{CopyPlan, Key};
use crate::change::Position;

/// Windows of one copy at a time: one is read while the others wait for the stream.
const OPEN_MAX: usize = 4;

/// Copying one table.
#[derive(Debug)]
pub(super) struct Copying {
    plan: Arc<CopyPlan>,
    /// In the order of their ranges.
    open: VecDeque<Window>,
    /// The last key that a window asked for, as the source has it.
    read_to: Option<Key>,
    /// The last key of the windows that are closed, as the copy has it.
    closed_to: Option<Key>,
    /// The same as the source has it.
    ledger: Option<Key>,
    rows: u64,
    is_all_read: bool,
}

#[derive(Debug)]
struct Window {
    number: u64,
    touched: HashSet<Key>,
    piece: Option<Piece>,
}

impl Copying {
    /// Goes on behind a key, by the source and by the copy; `None`: from the start. `rows`: of the next piece.
    pub(super) fn new(plan: Arc<CopyPlan>, after: Option<(Key, Key)>, rows: u64) -> Self {
        let (ledger, closed_to) = after.unzip();
        Self {
            plan,
            open: VecDeque::new(),
            read_to: ledger.clone(),
            closed_to,
            ledger,
            rows,
            is_all_read: false,
        }
    }

    /// Bytes of what was read and is not closed.
    pub(super) fn bytes(&self) -> u64 {
        self.open.iter().filter_map(|window| Some(window.piece.as_ref()?.bytes)).sum()
    }

    /// Opens a window for the next range, unless it is not known yet where that begins.
    pub(super) fn open(&mut self, number: u64, at: &Position, bytes: u64) -> Option<Request> {
        let is_reading = self.open.back().is_some_and(|window| window.piece.is_none());
        if self.is_all_read || is_reading || self.open.len() >= OPEN_MAX {
            return None;
        }
        self.open.push_back(Window { number, touched: HashSet::new(), piece: None });
        Some(Request {
            window: number,
            plan: Arc::clone(&self.plan),
            after: self.read_to.clone(),
            at: at.clone(),
            rows: self.rows,
            bytes,
        })
    }

    /// Whether a window is one of these.
    pub(super) fn has(&self, number: u64) -> bool {
        self.open.iter().any(|window| window.number == number)
    }

    /// Takes what was read for a window.
    pub(super) fn read(&mut self, piece: Piece) {
        self.rows = piece.next_rows;
        self.is_all_read = piece.is_end;
        if let Some((source_key, _)) = &piece.last {
            self.read_to = Some(source_key.clone());
        }
        if let Some(window) = self.open.iter_mut().find(|window| window.number == piece.window) {
            window.piece = Some(piece);
        }
    }

    /// The stream has touched a key.
    pub(super) fn touch(&mut self, key: &Key) {
        for window in &mut self.open {
            if !window.touched.contains(key) {
                window.touched.insert(key.clone());
            }
        }
    }

    /// The next window that the stream has caught up with.
    pub(super) fn close(&mut self, at: &Position) -> Option<ClosedWindow> {
        let is_due =
            self.open.front()?.piece.as_ref().is_some_and(|piece| at.has_reached(&piece.high) == Some(true));
        let window = if is_due { self.open.pop_front()? } else { return None };
        let piece = window.piece?;
        let (source_key, key) = piece.last.unzip();
        let is_last = piece.is_end;
        let after = self.closed_to.clone();
        if !is_last {
            self.closed_to.clone_from(&key);
            self.ledger.clone_from(&source_key);
        }
        Some(ClosedWindow {
            plan: Arc::clone(&self.plan),
            after,
            through: if is_last { None } else { key },
            progress: Some(CopyProgress { after_key: source_key, rows: piece.rows.len() as u64, is_last }),
            rows: piece.rows,
            touched: window.touched,
        })
    }

    /// Forgets what is open: it is of another server. What is closed stays.
    pub(super) fn start_over(&mut self) {
        self.open.clear();
        self.read_to.clone_from(&self.ledger);
        self.is_all_read = false;
    }
}
