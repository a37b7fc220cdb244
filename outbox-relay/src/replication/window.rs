//! The windows of a copy that is being made: ranges of keys that were read from the source, which end when the stream
//! has brought all that the reading saw.
//!
//! While a window is open it remembers every key of its range that the stream touches: for these the stream knows
//! better. So the stream never waits for a copy, and a range can be read again while its rows are in use. What is
//! remembered is bounded: beyond that, windows are opened anew behind what the stream has brought.

use std::cmp::Ordering;
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
    /// The last key that a window asked for, as the source and as the copy has it.
    read_to: Option<(Key, Key)>,
    /// The last key of the windows that are closed.
    closed_to: Option<(Key, Key)>,
    rows: u64,
    is_all_read: bool,
}

#[derive(Debug)]
struct Window {
    number: u64,
    /// Its range begins after this key of the copy.
    after: Option<Key>,
    touched: HashSet<Key>,
    touched_bytes: u64,
    piece: Option<Piece>,
}

impl Window {
    /// Whether a key may be in the range, as far as that is known: before it is read it has no end.
    fn may_have(&self, plan: &CopyPlan, key: &Key) -> bool {
        if !plan.has_source_order() {
            return true;
        }
        let is_before = self
            .after
            .as_ref()
            .is_some_and(|after| matches!(key.sure_order(after), Some(Ordering::Less | Ordering::Equal)));
        let through = self.piece.as_ref().filter(|piece| !piece.is_end).and_then(|piece| piece.last.as_ref());
        let is_behind =
            through.is_some_and(|(_, through)| key.sure_order(through) == Some(Ordering::Greater));
        !is_before && !is_behind
    }
}

impl Copying {
    /// Goes on behind a key, by the source and by the copy; `None`: from the start. `rows`: of the next piece.
    pub(super) fn new(plan: Arc<CopyPlan>, after: Option<(Key, Key)>, rows: u64) -> Self {
        Self {
            plan,
            open: VecDeque::new(),
            read_to: after.clone(),
            closed_to: after,
            rows,
            is_all_read: false,
        }
    }

    /// Bytes of what was read and is not closed.
    pub(super) fn bytes(&self) -> u64 {
        self.open.iter().filter_map(|window| Some(window.piece.as_ref()?.bytes)).sum()
    }

    /// Bytes of the keys that are remembered.
    pub(super) fn touched_bytes(&self) -> u64 {
        self.open.iter().map(|window| window.touched_bytes).sum()
    }

    /// Opens a window for the next range, unless it is not known yet where that begins.
    pub(super) fn open(
        &mut self,
        number: u64,
        at: &Position,
        source: &Arc<str>,
        bytes: u64,
    ) -> Option<Request> {
        let is_reading = self.open.back().is_some_and(|window| window.piece.is_none());
        if self.is_all_read || is_reading || self.open.len() >= OPEN_MAX {
            return None;
        }
        let (source_key, after) = self.read_to.clone().unzip();
        self.open.push_back(Window { number, after, touched: HashSet::new(), touched_bytes: 0, piece: None });
        Some(Request {
            window: number,
            plan: Arc::clone(&self.plan),
            after: source_key,
            at: at.clone(),
            source: Arc::clone(source),
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
        if piece.last.is_some() {
            self.read_to.clone_from(&piece.last);
        }
        if let Some(window) = self.open.iter_mut().find(|window| window.number == piece.window) {
            window.piece = Some(piece);
            let touched = std::mem::take(&mut window.touched);
            window.touched = touched.into_iter().filter(|key| window.may_have(&self.plan, key)).collect();
            window.touched_bytes = window.touched.iter().map(Key::weight_bytes).sum();
        }
    }

    /// The stream has touched a key; gives how many bytes it takes to remember that.
    pub(super) fn touch(&mut self, key: &Key) -> u64 {
        let mut taken = 0;
        for window in &mut self.open {
            if window.may_have(&self.plan, key) && !window.touched.contains(key) {
                window.touched.insert(key.clone());
                window.touched_bytes += key.weight_bytes();
                taken += key.weight_bytes();
            }
        }
        taken
    }

    /// The next window that the stream has caught up with.
    pub(super) fn close(&mut self, at: &Position) -> Option<ClosedWindow> {
        let is_due =
            self.open.front()?.piece.as_ref().is_some_and(|piece| at.has_reached(&piece.high) == Some(true));
        let window = if is_due { self.open.pop_front()? } else { return None };
        let piece = window.piece?;
        let is_last = piece.is_end;
        if !is_last {
            self.closed_to.clone_from(&piece.last);
        }
        let (source_key, key) = piece.last.unzip();
        Some(ClosedWindow {
            plan: Arc::clone(&self.plan),
            after: window.after,
            through: if is_last { None } else { key },
            progress: Some(CopyProgress { after_key: source_key, rows: piece.rows.len() as u64, is_last }),
            rows: piece.rows,
            touched: window.touched,
        })
    }

    /// Forgets what is open: it is of another server, or too much was touched. What is closed stays.
    pub(super) fn start_over(&mut self) {
        self.open.clear();
        self.read_to.clone_from(&self.closed_to);
        self.is_all_read = false;
    }
}

/// The stream has touched a key of a copy; `remembered`: bytes of all keys that are. Beyond `bytes_max` the copy that
/// remembers most starts over: its next windows are opened behind the transaction that is being taken in.
pub(super) fn touch(
    copying: &mut [(Arc<CopyPlan>, &mut Copying)],
    plan: &Arc<CopyPlan>,
    key: &Key,
    remembered: &mut u64,
    bytes_max: u64,
) {
    for (_, copying) in copying.iter_mut().filter(|(of, _)| Arc::ptr_eq(of, plan)) {
        *remembered += copying.touch(key);
    }
    if *remembered > bytes_max
        && let Some((_, most)) = copying.iter_mut().max_by_key(|(_, copying)| copying.touched_bytes())
    {
        *remembered -= most.touched_bytes();
        most.start_over();
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{ColumnFacts, KeyPart, TableFacts, UniqueKey};
    use super::super::plan::CopySpec;
    use super::*;
    use crate::change::{Column, ColumnType, Table, Value};

    /// A copy of a table with one column, its key.
    fn plan(kind: &ColumnType) -> Arc<CopyPlan> {
        let columns = vec![Column { name: "id".into(), kind: kind.clone(), nullable: false }];
        let table = Table { database: "shop".into(), name: "t".into(), columns, primary_key: vec![0] };
        let column = ColumnFacts {
            column_type: String::new(),
            collation: None,
            is_generated: false,
            generation: None,
            has_default: false,
            is_touched: false,
        };
        let facts = TableFacts {
            table: Arc::new(table),
            columns: vec![column],
            unique_keys: vec![UniqueKey { name: "PRIMARY".into(), parts: vec![KeyPart::Column(0)] }],
            indexes: Vec::new(),
            references: Vec::new(),
            is_mariadb: true,
        };
        let spec = CopySpec { name: "t".into(), target_table: "t".into(), ..CopySpec::default() };
        Arc::new(CopyPlan::resolve(&spec, &facts, &facts).unwrap())
    }

    fn numbers() -> Arc<CopyPlan> {
        plan(&ColumnType::Int { bytes: 4, unsigned: false })
    }

    fn key(number: i64) -> Key {
        Key(vec![Value::Int(number)])
    }

    fn at(offset: u64) -> Position {
        Position::at_file("log.1", offset)
    }

    /// What is read for a window: nothing but where it ends.
    fn piece(window: u64, last: &Key, high: u64) -> Piece {
        Piece {
            window,
            source: String::new(),
            rows: Vec::new(),
            bytes: 0,
            last: Some((last.clone(), last.clone())),
            is_end: false,
            high: at(high),
            next_rows: 10,
        }
    }

    fn touched(window: &ClosedWindow) -> Vec<i64> {
        let number = |key: &Key| match key.0[0] {
            Value::Int(number) => number,
            ref other => panic!("{other:?}"),
        };
        let mut numbers: Vec<_> = window.touched.iter().map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn a_window_remembers_the_keys_of_its_range() {
        let mut copying = Copying::new(numbers(), Some((key(10), key(10))), 10);
        copying.open(1, &at(100), &"".into(), 1000).unwrap();
        // Where it ends is not known yet.
        for number in 0..100 {
            copying.touch(&key(number));
        }
        assert_eq!(copying.touched_bytes(), 89 * key(0).weight_bytes());
        copying.read(piece(1, &key(20), 200));
        assert_eq!(copying.touched_bytes(), 10 * key(0).weight_bytes());
        copying.open(2, &at(150), &"".into(), 1000).unwrap();
        for number in 0..100 {
            copying.touch(&key(number));
        }
        assert_eq!(copying.touched_bytes(), (10 + 79) * key(0).weight_bytes());
        let closed = copying.close(&at(200)).unwrap();
        assert_eq!((closed.after.clone(), closed.through.clone()), (Some(key(10)), Some(key(20))));
        assert_eq!(touched(&closed), Vec::from_iter(11..=20));
        copying.read(Piece { is_end: true, ..piece(2, &key(30), 300) });
        let closed = copying.close(&at(300)).unwrap();
        assert_eq!((closed.after.clone(), closed.through.clone()), (Some(key(20)), None));
        // What was added behind the last row that was read is in the last range too.
        assert_eq!(touched(&closed), Vec::from_iter(21..100));
    }

    #[test]
    fn keys_whose_order_only_the_database_knows_are_all_remembered() {
        let text = |text: &str| Key(vec![Value::Text(text.into())]);
        let plan = plan(&ColumnType::Text { charset: "utf8mb4".into(), fixed: false, bytes: 80 });
        let mut copying = Copying::new(plan, None, 10);
        copying.open(1, &at(100), &"".into(), 1000).unwrap();
        copying.read(piece(1, &text("m"), 200));
        for word in ["a", "Z", "z"] {
            copying.touch(&text(word));
        }
        assert_eq!(copying.close(&at(200)).unwrap().touched.len(), 3);
    }

    #[test]
    fn a_copy_that_remembers_too_much_starts_over_behind_what_is_closed() {
        let (plan, other_plan) = (numbers(), numbers());
        let mut copying = Copying::new(Arc::clone(&plan), None, 10);
        let mut other = Copying::new(Arc::clone(&other_plan), None, 10);
        copying.open(1, &at(100), &"".into(), 1000).unwrap();
        copying.read(piece(1, &key(10), 200));
        copying.close(&at(200)).unwrap();
        copying.open(2, &at(200), &"".into(), 1000).unwrap();
        other.open(3, &at(200), &"".into(), 1000).unwrap();
        let most = 100 * key(0).weight_bytes();
        let mut remembered = 0;
        let mut all = [(Arc::clone(&plan), &mut copying), (Arc::clone(&other_plan), &mut other)];
        for number in 0..5 {
            touch(&mut all, &other_plan, &key(number), &mut remembered, most);
        }
        for number in 11..5000 {
            touch(&mut all, &plan, &key(number), &mut remembered, most);
            let [(_, copying), (_, other)] = &all;
            assert_eq!(remembered, copying.touched_bytes() + other.touched_bytes());
            assert!(remembered <= most);
        }
        assert!(!copying.has(2) && other.has(3), "only the one that remembers most starts over");
        let request = copying.open(4, &at(300), &"".into(), 1000).unwrap();
        assert_eq!(request.after, Some(key(10)), "it goes on behind what is closed");
    }
}
