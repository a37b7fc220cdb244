//! Back-pressure: when writers are held back because the outbox is not emptied. [`Gate`] decides and does no
//! I/O; [`look`] is the statements.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connection::{Ends, OutboxConnection};
use crate::error::{Error, ErrorKind, Result};

/// What the outbox may hold before writers are held back. With neither `rows` nor `age` there is no limit.
///
/// ```
/// # use diesel::prelude::*;
/// # let mut connection = SqliteConnection::establish(":memory:")?;
/// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
/// use std::time::Duration;
/// use outbox_core::{BacklogLimit, ErrorKind, Message, OutboxConnection, WhenFull, Writer};
///
/// // Nothing publishes here: three messages stay.
/// connection.outbox_transaction(|tx| {
///     for key in ["1", "2", "3"] {
///         tx.record_message(Message::new("product", key, "seen", b"{}".to_vec())?);
///     }
///     Ok(())
/// })?;
/// let roomy = BacklogLimit { rows: Some(3), age: Some(Duration::from_secs(600)), ..Default::default() };
/// assert!(Writer::new().backlog(roomy.clone(), WhenFull::Refuse).transaction(&mut connection, |_| Ok(())).is_ok());
///
/// let narrow = BacklogLimit { rows: Some(2), probe: Duration::from_millis(200), ..roomy };
/// let refused = Writer::new().backlog(narrow, WhenFull::Refuse).transaction(&mut connection, |_| Ok(()));
/// assert_eq!(refused.unwrap_err().kind(), ErrorKind::Backlog);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogLimit {
    /// At most this many rows, those of parked keys among them.
    pub rows: Option<u64>,
    /// The oldest row is at most this old, on the database's clock. Rows of parked keys do not count; at
    /// most the first 10 000 rows are looked at for one of another key.
    pub age: Option<Duration>,
    /// How long one look at the outbox is good for all clones of a [`Writer`](crate::Writer). At least
    /// 10 ms; default 1 s. A look costs one short statement, and up to two more while a limit may be passed:
    /// one that reads 10 000 rows, and one that passes over `rows` entries of an index.
    pub probe: Duration,
}

impl Default for BacklogLimit {
    fn default() -> Self {
        Self { rows: None, age: None, probe: Duration::from_secs(1) }
    }
}

/// What a transaction meets while the outbox is over its limit.
///
/// ```
/// # use diesel::prelude::*;
/// # let mut connection = SqliteConnection::establish(":memory:")?;
/// # outbox_core::migrate::run(&mut connection, &outbox_core::migrate::OUTBOX)?;
/// # use std::time::{Duration, Instant};
/// # use outbox_core::{BacklogLimit, ErrorKind, Message, OutboxConnection, WhenFull, Writer};
/// # connection.outbox_transaction(|tx| {
/// #     tx.record_message(Message::new("product", "7", "seen", b"{}".to_vec())?);
/// #     Ok(())
/// # })?;
/// // No message may wait, and one does.
/// let limit = BacklogLimit { rows: Some(0), ..BacklogLimit::default() };
/// // A request of a person is refused at once; a job has the time to wait a little.
/// let requests = Writer::new().backlog(limit.clone(), WhenFull::Refuse);
/// let jobs = Writer::new().backlog(limit, WhenFull::Delay(Duration::from_millis(50)));
///
/// let refused = requests.transaction(&mut connection, |_| Ok(())).unwrap_err();
/// let begun = Instant::now();
/// let late = jobs.transaction(&mut connection, |_| Ok(())).unwrap_err();
/// assert_eq!((refused.kind(), late.kind()), (ErrorKind::Backlog, ErrorKind::Backlog));
/// assert!(begun.elapsed() >= Duration::from_millis(50));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The error [`ErrorKind::Backlog`] at once.
    Refuse,
    /// It waits up to this long for the outbox to fall below its limit, then as `Refuse`.
    Delay(Duration),
}

/// What was seen of an outbox that is over its limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backlog {
    ends: Ends,
    rows: Option<u64>,
    age: Option<(Duration, Duration)>,
}

impl Backlog {
    fn error(&self) -> Error {
        let mut over = Vec::new();
        if let Some(rows) = self.rows {
            over.push(format!("holds more than the {rows} rows that it may"));
        }
        if let Some((age, limit)) = self.age {
            let (age, limit) = (age.as_secs_f64(), limit.as_secs_f64());
            over.push(format!("has a row {age:.1} s old where {limit:.1} s is the limit"));
        }
        let (first, last) = (self.ends.first_id.unwrap_or_default(), self.ends.last_id.unwrap_or_default());
        Error::new(
            ErrorKind::Backlog,
            format!(
                "the outbox {} (ids {first} to {last}), nothing was written: is the relay down, or behind? \
                 `outbox-relay status` tells; try again later",
                over.join(" and ")
            ),
        )
    }
}

/// What a transaction does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Goes on.
    Enter,
    /// Looks at the outbox and tells [`Gate::answer`]; the others go by the last answer meanwhile.
    Probe,
    /// Waits and asks again.
    Wait(Duration),
    /// Is over.
    Refuse(Error),
}

/// What all clones of a writer know of the backlog.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: BacklogLimit,
    when_full: WhenFull,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    full: Option<Backlog>,
}

impl Gate {
    pub(crate) fn new(limit: BacklogLimit, when_full: WhenFull) -> Self {
        Self { limit, when_full, seen: Mutex::default() }
    }

    pub(crate) fn limit(&self) -> &BacklogLimit {
        &self.limit
    }

    /// Until when a transaction that starts now waits; `None` is for ever.
    pub(crate) fn patience(&self, now: Instant) -> Option<Instant> {
        match self.when_full {
            WhenFull::Refuse => Some(now),
            WhenFull::Delay(delay) => now.checked_add(delay),
        }
    }

    pub(crate) fn step(&self, now: Instant, until: Option<Instant>) -> Step {
        if self.limit.rows.is_none() && self.limit.age.is_none() {
            return Step::Enter;
        }
        let mut seen = self.seen();
        if seen.at.is_none_or(|at| now.saturating_duration_since(at) >= self.interval()) {
            seen.at = Some(now);
            return Step::Probe;
        }
        self.decide(&seen, now, until)
    }

    /// Takes what a probe has seen, and decides by it.
    ///
    /// # Errors
    /// The probe's, unless it is an outage: of that the transaction itself will tell.
    pub(crate) fn answer(
        &self,
        probed: Result<Option<Backlog>>,
        now: Instant,
        until: Option<Instant>,
    ) -> Result<Step> {
        let mut seen = self.seen();
        seen.at = Some(now);
        seen.full = None;
        match probed {
            Ok(full) => seen.full = full,
            Err(error) if error.is_outage() => {}
            Err(error) => {
                // Not by luck of the interval: everybody is told until it is repaired.
                seen.at = None;
                return Err(error.context(
                    "looking at the outbox's backlog (it needs SELECT on outbox and outbox_key; tables missing? \
                     run `outbox-relay migrate`)",
                ));
            }
        }
        Ok(self.decide(&seen, now, until))
    }

    fn decide(&self, seen: &Seen, now: Instant, until: Option<Instant>) -> Step {
        let Some(full) = &seen.full else { return Step::Enter };
        let left = until.map(|until| until.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            return Step::Refuse(full.error());
        }
        let since = seen.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let next = self.interval().saturating_sub(since);
        Step::Wait(left.map_or(next, |left| left.min(next)))
    }

    fn interval(&self) -> Duration {
        self.limit.probe.max(Duration::from_millis(10))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here is half written by a panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether the outbox is over its limit. Rows are counted off, up to the limit, only where the ids say
/// that there may be so many; and age past parked keys only where the very first row is too old.
pub(super) fn look<C: OutboxConnection>(connection: &mut C, limit: &BacklogLimit) -> Result<Option<Backlog>> {
    let ends = connection.outbox_ends()?;
    let exceeds = match offset_to_look_at(&ends, limit) {
        Some(offset) => connection.outbox_exceeds(offset)?,
        None => false,
    };
    let movable = if may_be_too_old(&ends, limit) { connection.oldest_movable_ms()? } else { None };
    Ok(judge(ends, limit, exceeds, movable))
}

/// The row to look for, where the ids allow so many.
pub(crate) fn offset_to_look_at(ends: &Ends, limit: &BacklogLimit) -> Option<i64> {
    let offset = i64::try_from(limit.rows?).unwrap_or(i64::MAX);
    (ends.last_id?.saturating_sub(ends.first_id?) >= offset).then_some(offset)
}

pub(crate) fn may_be_too_old(ends: &Ends, limit: &BacklogLimit) -> bool {
    limit.age.is_some_and(|limit| is_over(ends.oldest_ms, limit).is_some())
}

/// What was seen, if it is over the limit; `movable` is the age of the oldest row whose key is not parked.
pub(crate) fn judge(
    ends: Ends,
    limit: &BacklogLimit,
    exceeds: bool,
    movable_ms: Option<i64>,
) -> Option<Backlog> {
    let rows = limit.rows.filter(|_| exceeds);
    let age = limit.age.and_then(|limit| is_over(movable_ms, limit).map(|age| (age, limit)));
    (rows.is_some() || age.is_some()).then_some(Backlog { ends, rows, age })
}

/// The age, if it is over the limit.
fn is_over(ms: Option<i64>, limit: Duration) -> Option<Duration> {
    let age = Duration::from_millis(u64::try_from(ms?).ok()?);
    (age > limit).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Backlog {
        let ends = Ends { first_id: Some(3), last_id: Some(40), oldest_ms: Some(9000) };
        let age = Some((Duration::from_secs(9), Duration::from_secs(5)));
        Backlog { ends, rows: Some(10), age }
    }

    fn gate(when_full: WhenFull) -> Gate {
        Gate::new(BacklogLimit { rows: Some(10), ..BacklogLimit::default() }, when_full)
    }

    #[test]
    fn one_looks_and_the_others_go_by_the_last_answer() {
        let (gate, start) = (gate(WhenFull::Refuse), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(matches!(gate.step(start, Some(start)), Step::Probe));
        assert!(matches!(gate.step(at(1), Some(at(1))), Step::Enter), "nobody knows anything yet");
        assert!(matches!(gate.answer(Ok(Some(full())), at(2), Some(start)), Ok(Step::Refuse(_))));
        let Step::Refuse(error) = gate.step(at(900), Some(at(900))) else { panic!("it is full") };
        assert_eq!(error.kind(), ErrorKind::Backlog);
        for part in ["10 rows", "9.0 s", "5.0 s", "ids 3 to 40", "outbox-relay status"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(matches!(gate.step(at(1002), Some(at(1002))), Step::Probe));
        assert!(matches!(gate.step(at(1003), Some(at(1003))), Step::Refuse(_)), "the last answer stands");
        assert!(matches!(gate.answer(Ok(None), at(1004), Some(start)), Ok(Step::Enter)));
        assert!(matches!(gate.step(at(1005), Some(at(1005))), Step::Enter));
    }

    #[test]
    fn who_waits_is_let_in_or_refused_in_the_end() {
        let (gate, start) = (gate(WhenFull::Delay(Duration::from_millis(1500))), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let until = gate.patience(start);
        assert!(matches!(gate.step(start, until), Step::Probe));
        let Ok(Step::Wait(wait)) = gate.answer(Ok(Some(full())), start, until) else { panic!("it is full") };
        assert_eq!(wait, Duration::from_secs(1), "until the next look");
        assert!(matches!(gate.step(at(1000), until), Step::Probe));
        let Ok(Step::Wait(wait)) = gate.answer(Ok(Some(full())), at(1000), until) else {
            panic!("it is full")
        };
        assert_eq!(wait, Duration::from_millis(500), "what is left");
        assert!(matches!(gate.step(at(1500), until), Step::Refuse(_)));
    }

    #[test]
    fn an_outage_lets_in_and_a_missing_grant_is_told_to_everybody() {
        let (gate, now) = (gate(WhenFull::Refuse), Instant::now());
        let error = |kind| Err(Error::new(kind, "no"));
        assert!(matches!(gate.step(now, Some(now)), Step::Probe));
        assert!(matches!(gate.answer(error(ErrorKind::Outage), now, Some(now)), Ok(Step::Enter)));
        for _ in 0..2 {
            let told = gate.answer(error(ErrorKind::Database), now, Some(now)).unwrap_err();
            assert!(told.to_string().contains("SELECT on outbox"), "{told}");
            assert!(matches!(gate.step(now, Some(now)), Step::Probe));
        }
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let gate = Gate::new(BacklogLimit::default(), WhenFull::Refuse);
        assert!(matches!(gate.step(Instant::now(), None), Step::Enter));
    }
}
