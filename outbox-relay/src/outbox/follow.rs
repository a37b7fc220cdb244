//! Rings when the binary log of MySQL or MariaDB has new rows of `outbox`.
//!
//! The log tells of a transaction a moment before others can see it. So whoever is told of a row rings again after 1,
//! 2, 4, … milliseconds, until the row was read or a second has passed: the rows of a key that waits for another
//! attempt are not read, for example. The reads stay the only source of messages; no position is kept, reading begins
//! at the end of the log each time, and what was committed before is read when the bell is heard again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::lease::Leases;
use super::seen::Seen;
use crate::bell::{Bell, BellState};
use crate::binlog::{Server, Source, Step, Stream, Tables, failed, follow};
use crate::change::{Image, Position, Txn, Value};
use crate::config::OutboxConfig;
use crate::retry::{self, Side};
use crate::status::Status;

/// How often a server without news says so.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After so long without a word the bell counts as silent; the reader connects anew meanwhile.
const SILENCE: Duration = Duration::from_secs(7);
/// Of one transaction so many bytes are held in memory, the rest goes to a temporary file.
const TXN_BYTES: usize = 32 << 20;
/// The last wait before a row that was not seen is given up: all of them take a second.
const LAST_WAIT: Duration = Duration::from_millis(512);
/// So many rows at most are waited for.
const TOLD_MAX: usize = 1000;

/// What the server says of its log.
#[derive(Debug)]
pub(crate) struct LogSettings {
    database: String,
    /// What keeps rows from being told, and the statement that mends it.
    pub(crate) fault: Option<(String, &'static str)>,
    /// How many transactions are written before the log is flushed; 0 leaves it to the system.
    pub(crate) sync: u64,
}

impl LogSettings {
    /// Asks for them.
    ///
    /// # Errors
    /// As every statement.
    pub(crate) async fn ask(server: &mut Server) -> Result<Self> {
        let sql = "select coalesce(database(), ''), @@global.log_bin, @@global.binlog_format, \
                   @@global.binlog_row_image, @@global.binlog_row_metadata, @@global.sync_binlog";
        let asked = server.connection().query_first(sql).await;
        let asked: Option<(String, u64, String, String, String, u64)> =
            asked.map_err(|error| failed("reading the settings of the binary log", &error))?;
        let (database, log, format, image, metadata, sync) = asked.unwrap_or_default();
        let fault = if log == 0 {
            Some(("the server writes no binary log".to_owned(), "start it with log_bin"))
        } else if format != "ROW" {
            let fix = "set global binlog_format = 'ROW'; -- in my.cnf too";
            Some((format!("binlog_format is {format}: the binary log tells of no rows"), fix))
        } else if !image.starts_with("FULL") {
            let fix = "set global binlog_row_image = 'FULL'; -- in my.cnf too";
            Some((format!("binlog_row_image is {image}: rows of the binary log are not whole"), fix))
        } else if metadata != "FULL" {
            let fix = "set global binlog_row_metadata = 'FULL'; -- in my.cnf too";
            Some((
                format!(
                    "binlog_row_metadata is {metadata}: rows of the binary log do not name their columns"
                ),
                fix,
            ))
        } else {
            None
        };
        Ok(Self { database, fault, sync })
    }
}

/// The server of an outbox as the source of a binary log.
pub(crate) fn source(config: &OutboxConfig, heartbeat: Duration) -> Source {
    Source {
        #[cfg(feature = "tls")]
        tls: config.trust(),
        heartbeat,
        memory_bytes_max: TXN_BYTES,
        ..Source::new(config.database.expose())
    }
}

/// The log of an outbox's server from its end on, and what the server says of it. Without the settings that are
/// needed there is no stream.
///
/// # Errors
/// `Outage` when the server cannot be reached, otherwise what it says.
pub(crate) async fn open(source: &Source) -> Result<(LogSettings, Option<Stream>)> {
    let mut server = Server::connect(source).await?;
    let settings = LogSettings::ask(&mut server).await?;
    if settings.fault.is_some() {
        return Ok((settings, None));
    }
    // By file: by GTID the server would look for the place through the whole file.
    let end = Position { gtids: None, ..server.high_mark().await? };
    let tables = Tables::from_iter([server.stored_name(&settings.database, "outbox").await?]);
    let stream = follow(source.clone(), tables, end);
    Ok((settings, Some(stream)))
}

/// A row that the log has told of and that was not read yet.
#[derive(Debug)]
struct Told {
    id: i64,
    next: Instant,
    wait: Duration,
}

impl Told {
    fn now(id: i64) -> Self {
        let wait = Duration::from_millis(1);
        Self { id, next: Instant::now() + wait, wait }
    }
}

/// Rings a bell until it is told to stop.
#[derive(Debug)]
pub(crate) struct Follower {
    source: Source,
    leases: Arc<Leases>,
    seen: Seen,
    bell: Bell,
    status: Status,
    told: Vec<Told>,
}

/// However the task ends, nobody trusts its bell afterwards.
impl Drop for Follower {
    fn drop(&mut self) {
        self.bell.set(BellState::Off);
    }
}

impl Follower {
    pub(super) fn new(
        config: &OutboxConfig,
        leases: Arc<Leases>,
        seen: Seen,
        bell: Bell,
        status: Status,
    ) -> Self {
        bell.set(BellState::Silent { why: "not reading the binary log yet".into() });
        Self { source: source(config, HEARTBEAT), leases, seen, bell, status, told: Vec::new() }
    }

    /// Reads until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let policy = RetryPolicy { initial: Duration::from_millis(100), ..RetryPolicy::default() };
        let mut waits = policy.waits();
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.read(&mut waits) => match ended {
                    Err(error) => error,
                    Ok(never) => match never {},
                },
            };
            let remedy = retry::decide(&error, Side::Source).remedy();
            self.bell.set(BellState::Silent { why: format!("{error}; {remedy}") });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
    }

    /// The log from its end on, until reading it fails.
    async fn read(&mut self, waits: &mut outbox_core::Waits) -> Result<Infallible> {
        let stream = match open(&self.source).await? {
            (_, Some(stream)) => Ok(stream),
            (LogSettings { fault, .. }, None) => {
                let (what, fix) = fault.unwrap_or_default();
                Err(Error::new(ErrorKind::Database, format!("{what}: {fix}")))
            }
        };
        let mut stream = stream?;
        // What the log had already may not be visible when the bell is heard first: no id is that of a row.
        self.told = vec![Told::now(0)];
        let mut silent_at = Instant::now() + SILENCE;
        loop {
            let step = tokio::select! {
                step = timeout_at(silent_at, stream.next()) => step,
                () = sleep_until(self.next_ring()), if !self.told.is_empty() => {
                    self.ring_again();
                    continue;
                }
            };
            silent_at = Instant::now() + SILENCE;
            let Ok(step) = step else {
                let why = "the binary log says nothing; the relay connects anew by itself";
                self.bell.set(BellState::Silent { why: why.into() });
                continue;
            };
            let step = step?;
            self.bell.set(BellState::Heard);
            waits.reset();
            if let Step::Txn(txn) = step
                && let Some(id) = self.readable_row(&txn)?
            {
                self.status.add_ring();
                self.bell.ring();
                if self.told.len() < TOLD_MAX {
                    self.told.push(Told::now(id));
                }
            }
        }
    }

    /// The first new row of a transaction that this relay may read: its rows are seen together.
    fn readable_row(&self, txn: &Txn) -> Result<Option<i64>> {
        if txn.changes.is_empty() {
            return Ok(None);
        }
        let held = self.leases.readable().unwrap_or_default();
        for change in txn.changes.iter()? {
            let change = change?;
            let Image::Insert { after } = &change.image else { continue };
            let number = |column: &str| match after.0.get(change.table.ordinal(column)?) {
                Some(Value::Int(number)) => Some(*number),
                _ => None,
            };
            let bucket = number("bucket").and_then(|bucket| u16::try_from(bucket).ok());
            if let (Some(id), Some(bucket)) = (number("id"), bucket)
                && held.contains_key(&bucket)
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn next_ring(&self) -> Instant {
        self.told.iter().map(|told| told.next).min().unwrap_or_else(Instant::now)
    }

    /// Rings for rows that were told of and not read.
    fn ring_again(&mut self) {
        let now = Instant::now();
        self.told.retain(|told| !self.seen.has(told.id) && (told.next > now || told.wait <= LAST_WAIT));
        let mut is_due = false;
        for told in self.told.iter_mut().filter(|told| told.next <= now) {
            is_due = true;
            told.wait *= 2;
            told.next = now + told.wait;
        }
        if is_due {
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_again_until_the_row_was_read_and_for_a_second_at_most() {
        let status = Status::new("product");
        let bell = Bell::new(status.clone());
        let (leases, seen) = (Leases::new(Duration::from_secs(10)), Seen::default());
        let config = OutboxConfig::new("product", "mysql://u@h/db");
        let mut follower = Follower::new(&config, leases, seen.clone(), bell, status);
        let mut looks = async |seen_at_ms: u64| {
            follower.told = vec![Told::now(7)];
            let began = Instant::now();
            let mut looks = Vec::new();
            while !follower.told.is_empty() {
                sleep_until(follower.next_ring()).await;
                if began.elapsed().as_millis() as u64 >= seen_at_ms {
                    seen.note([7].into_iter());
                }
                follower.ring_again();
                looks.push(began.elapsed().as_millis());
            }
            looks
        };
        let last = "at the last one it only finds that there is nothing left to ring for";
        assert_eq!(looks(u64::MAX).await, [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047], "{last}");
        assert_eq!(looks(5).await, [1, 3, 7], "{last}");
    }
}
