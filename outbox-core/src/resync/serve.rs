//! A request, step by step. Each step is one transaction, which writes how far it is; so it goes on after a crash
//! where it was, and a process that has lost the request to another one commits nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Settings;
use super::mark::{self, At, Mark, Notice};
use super::page::{Found, ResyncOn};
use crate::connection::OutboxConnection;
use crate::connection::resync::ResyncRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, bucket_of};
use crate::panics::caught_on;
use crate::transaction::OutboxTx;

/// The wait while the relay publishes what has to be gone first, and while the outbox is full.
const LOOK: Duration = Duration::from_millis(100);

/// What comes next for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The begin marks are to be recorded.
    Requested,
    /// They are to be published, before the scan starts.
    Begun,
    /// Rows are to be recorded.
    Scanning,
    /// They are to be published, before the end marks are recorded.
    Scanned,
    /// These are to be published.
    Ended,
    Done,
    Failed,
}

impl State {
    const ALL: [(Self, &str); 7] = [
        (Self::Requested, "requested"),
        (Self::Begun, "begun"),
        (Self::Scanning, "scanning"),
        (Self::Scanned, "scanned"),
        (Self::Ended, "ended"),
        (Self::Done, "done"),
        (Self::Failed, "failed"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    fn of(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(state, _)| *state).ok_or_else(|| Error::invalid(format!("unknown state {name:?}")))
    }
}

/// One step of the first request that there is; returns the wait before the next one.
pub(super) fn step<E: ResyncOn<C>, C: OutboxConnection>(
    connection: &mut C,
    settings: &Settings,
) -> Result<Duration> {
    let lease_ms = i64::try_from(settings.lease.as_millis()).unwrap_or(i64::MAX);
    let Some(request) = connection.take_resync(E::AGGREGATE, &settings.owner, lease_ms)? else {
        return Ok(settings.poll);
    };
    let request = Request { row: request, aggregate: E::AGGREGATE, settings };
    match request.go_on::<E, C>(connection) {
        Err(error) if !error.is_outage() => {
            tracing::error!(aggregate = E::AGGREGATE, request = request.row.id, %error, "resync failed");
            let text: String = error.to_string().chars().take(2000).collect();
            let failed = ResyncRequest {
                state: State::Failed.name().into(),
                error: text.replace('\0', "\u{fffd}"),
                ..request.row.clone()
            };
            connection.save_resync(&settings.owner, &failed)?;
            Ok(Duration::ZERO)
        }
        done => {
            done.map_err(|error| error.context(format!("request {} of {}", request.row.id, E::AGGREGATE)))
        }
    }
}

struct Request<'s> {
    row: ResyncRequest,
    aggregate: &'static str,
    settings: &'s Settings,
}

impl Request<'_> {
    fn go_on<E: ResyncOn<C>, C: OutboxConnection>(&self, connection: &mut C) -> Result<Duration> {
        match State::of(&self.row.state)? {
            State::Requested => self.record_marks(connection, At::Begin, State::Begun),
            State::Begun => self.wait_for(connection, State::Scanning),
            State::Scanning => self.scan::<E, C>(connection),
            State::Scanned if connection.current_is_pending(self.aggregate, self.row.last_id)? => Ok(LOOK),
            State::Scanned => self.record_marks(connection, At::End, State::Ended),
            State::Ended => self.wait_for(connection, State::Done),
            State::Done | State::Failed => Ok(Duration::ZERO),
        }
    }

    fn keys(&self) -> Result<Option<Vec<String>>> {
        Ok(self.row.key_list.as_deref().map(serde_json::from_str).transpose()?)
    }

    /// Writes how far it is, inside the transaction of the step.
    fn save<C: OutboxConnection>(&self, connection: &mut C, row: &ResyncRequest) -> Result<()> {
        if connection.save_resync(&self.settings.owner, row)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Outage, "another process has gone on with it"))
    }

    /// A mark in each bucket, or in those of the keys that were asked for.
    fn record_marks<C: OutboxConnection>(&self, connection: &mut C, at: At, next: State) -> Result<Duration> {
        let keys = self.keys()?;
        let mark = Mark { resync: self.row.id, at, all: keys.is_none() };
        let buckets: Option<BTreeSet<u16>> =
            keys.map(|keys| keys.iter().map(|key| bucket_of(self.aggregate, key)).collect());
        let is_meant = |bucket| buckets.as_ref().is_none_or(|buckets| buckets.contains(&bucket));
        let marks = mark::messages(self.aggregate, mark, is_meant)?;
        connection.write_transaction(|connection| {
            let mut row = ResyncRequest { state: next.name().into(), ..self.row.clone() };
            row.last_id = record(connection, |tx| {
                marks.into_iter().for_each(|mark| tx.record_message(mark));
                Ok(())
            })?;
            self.save(connection, &row)
        })?;
        Ok(Duration::ZERO)
    }

    fn wait_for<C: OutboxConnection>(&self, connection: &mut C, next: State) -> Result<Duration> {
        if connection.current_is_pending(self.aggregate, self.row.last_id)? {
            return Ok(LOOK);
        }
        self.save(connection, &ResyncRequest { state: next.name().into(), ..self.row.clone() })?;
        Ok(Duration::ZERO)
    }

    /// Records the rows of one page, or of some keys.
    fn scan<E: ResyncOn<C>, C: OutboxConnection>(&self, connection: &mut C) -> Result<Duration> {
        if connection.outbox_exceeds(self.settings.backlog)? {
            return Ok(LOOK);
        }
        let began = Instant::now();
        let keys = self.keys()?;
        let rate = self.rows_per_second();
        // A page takes a second at most.
        let page = self.settings.page.min(rate.unwrap_or(usize::MAX));
        let rows = connection.write_transaction(|connection| {
            let mut row = self.row.clone();
            // The service's types are read and serialized.
            let what = format!("sending {} again", self.aggregate);
            let is_over = caught_on(connection, what, |connection| match &keys {
                None => self.scan_page::<E, C>(connection, &mut row, page, |_| true),
                Some(keys) if E::KEY_FIELDS.is_empty() => {
                    self.scan_page::<E, C>(connection, &mut row, page, |key| keys.iter().any(|k| k == key))
                }
                Some(keys) => self.scan_keys::<E, C>(connection, &mut row, page, keys),
            })?;
            if is_over {
                row.state = State::Scanned.name().into();
            }
            self.save(connection, &row)?;
            Ok(row.rows_done + row.keys_gone - self.row.rows_done - self.row.keys_gone)
        })?;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let due = rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs(1) * rows / u32::try_from(rate).unwrap_or(u32::MAX)
        });
        Ok(due.saturating_sub(began.elapsed()))
    }

    /// The lower of what the service and the request allow.
    fn rows_per_second(&self) -> Option<usize> {
        let of_request = u32::try_from(self.row.rows_per_second).unwrap_or(0);
        let limits = [of_request, self.settings.rows_per_second];
        limits.into_iter().filter(|limit| *limit > 0).min().and_then(|limit| usize::try_from(limit).ok())
    }

    /// The rows of a page whose key is wanted; whether it was the last page.
    fn scan_page<E: ResyncOn<C>, C: OutboxConnection>(
        &self,
        connection: &mut C,
        row: &mut ResyncRequest,
        rows: usize,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<bool> {
        let mut page = E::page(&row.after_id, rows, connection)?;
        let is_over = page.len() < rows;
        if let Some(last) = page.last() {
            row.after_id = last.place()?;
        }
        page.retain(|entity| is_wanted(&entity.key()));
        // As they are now: between the two reads others may have changed them, with messages of their own.
        let entities = E::lock_rows(page, connection)?;
        if !entities.is_empty() {
            row.last_id = record(connection, |tx| entities.iter().try_for_each(|entity| tx.current(entity)))?;
        }
        row.rows_done += i64::try_from(entities.len()).unwrap_or(i64::MAX);
        Ok(is_over)
    }

    /// The rows of the next keys of the list; whether they were the last ones.
    fn scan_keys<E: ResyncOn<C>, C: OutboxConnection>(
        &self,
        connection: &mut C,
        row: &mut ResyncRequest,
        count: usize,
        keys: &[String],
    ) -> Result<bool> {
        let done: usize = row.after_id.parse().unwrap_or(0);
        let next = keys.get(done..).unwrap_or_default();
        let next = &next[..count.min(next.len())];
        let mut gone: Vec<Message> = Vec::new();
        let mut entities = Vec::new();
        for key in next {
            match E::lock_key(key, connection)? {
                Found::Row(entity) => entities.push(entity),
                Found::Gone(image) => {
                    let notice = Notice::Gone { resync: self.row.id, key: image };
                    gone.push(notice.message(self.aggregate, key)?);
                }
                Found::NoKey => {
                    return Err(Error::invalid(format!("{key:?} is no key of {}", self.aggregate)));
                }
            }
        }
        row.rows_done += i64::try_from(entities.len()).unwrap_or(i64::MAX);
        row.keys_gone += i64::try_from(gone.len()).unwrap_or(i64::MAX);
        row.last_id = record(connection, |tx| {
            gone.into_iter().for_each(|message| tx.record_message(message));
            entities.iter().try_for_each(|entity| tx.current(entity))
        })?;
        row.after_id = (done + next.len()).to_string();
        Ok(done + next.len() >= keys.len())
    }
}

/// Records messages in the open transaction; none of them has a higher id than the one returned.
fn record<C: OutboxConnection>(
    connection: &mut C,
    body: impl FnOnce(&mut OutboxTx<'_, C>) -> Result<()>,
) -> Result<i64> {
    let mut tx = OutboxTx::new(connection);
    body(&mut tx)?;
    tx.flush()?;
    Ok(connection.outbox_top()?)
}
