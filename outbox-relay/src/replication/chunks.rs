//! Reads the rows of a source's table in pieces, in the order of its key, without a lock and with nothing written
//! there. The source compares the keys, whatever their types and collations are.
//!
//! A piece is read between two marks: everything that was taken in from the stream before is visible to the SELECT,
//! and everything that the SELECT saw is in the log before the high mark.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Params, Value as Parameter};
use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::plan::{CopyPlan, Key, Projected};
use super::sql::quoted;
use crate::binlog::{self, Server, Source};
use crate::change::{ColumnType, Position, Row, Table, Value};
use crate::snapshot;

/// The first wait for a transaction that is in the log and not visible yet; it doubles up to the second.
const VISIBLE_WAIT: Duration = Duration::from_millis(2);
const VISIBLE_WAIT_MAX: Duration = Duration::from_millis(100);
/// The wait when another server answers than the one that is followed, which will be asked about soon.
const OTHER_WAIT: Duration = Duration::from_millis(500);
/// A piece that takes longer is made smaller, so that reading disturbs nobody and a change of the table need not wait.
const PIECE_TIME: Duration = Duration::from_secs(1);
/// Rows of the first piece of a table, unless rows are known to be large.
const FIRST_ROWS: u64 = 1000;
/// Rows of a piece at most.
const ROWS_MAX: u64 = 50_000;
/// Rows may be larger than the estimate says: a piece ends when it has this many times the bytes it should.
const OVERRUN: u64 = 4;
/// How often a table is described anew because it was altered between description and SELECT.
const DESCRIPTIONS: u32 = 3;

/// What to read.
#[derive(Debug)]
pub(super) struct Request {
    /// Whose window it is.
    pub(super) window: u64,
    pub(super) plan: Arc<CopyPlan>,
    /// Rows behind this key, as the source has it; `None`: from the first.
    pub(super) after: Option<Key>,
    /// What has to be visible.
    pub(super) at: Position,
    /// The server that this is a place of, see [`Server::identity`]; empty: not known yet.
    pub(super) source: Arc<str>,
    /// How many rows.
    pub(super) rows: u64,
    /// About how many bytes.
    pub(super) bytes: u64,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) window: u64,
    /// The server it was read from.
    pub(super) source: String,
    /// The copy's rows.
    pub(super) rows: Vec<Projected>,
    pub(super) bytes: u64,
    /// The last row's key, in the source and in the copy; `None`: there was no row.
    pub(super) last: Option<(Key, Key)>,
    /// Whether nothing comes behind it.
    pub(super) is_end: bool,
    /// All that the SELECT saw is before it.
    pub(super) high: Position,
    /// How many rows a piece should have.
    pub(super) next_rows: u64,
}

impl Piece {
    /// Nothing that was read: of another server than was asked for.
    fn nothing(request: &Request, source: String) -> Self {
        Self {
            window: request.window,
            source,
            rows: Vec::new(),
            bytes: 0,
            last: None,
            is_end: false,
            high: Position::default(),
            next_rows: request.rows,
        }
    }
}

/// What comes of a request: the piece, or the window and why its copy cannot be read.
pub(super) type Answer = std::result::Result<Piece, (u64, Error)>;

/// How many rows the first piece of a table has, by what the source knows of its rows.
pub(super) fn first_rows(bytes: u64, row_bytes: u64) -> u64 {
    (bytes / row_bytes.max(1)).clamp(1, FIRST_ROWS)
}

/// Reads what is asked for, one piece at a time; waits out what is wrong with the connection.
pub(super) async fn read_on(
    source: Source,
    requests: Arc<tokio::sync::Mutex<mpsc::Receiver<Request>>>,
    answers: mpsc::Sender<Answer>,
) {
    let mut reader = Reader { source, server: None };
    loop {
        // Whichever reader is free takes the next.
        let Some(request) = requests.lock().await.recv().await else { return };
        let answer = reader.read(&request).await.map_err(|error| (request.window, error));
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

struct Reader {
    source: Source,
    server: Option<Server>,
}

impl Reader {
    async fn read(&mut self, request: &Request) -> Result<Piece> {
        let mut waits = RetryPolicy::default().waits();
        let mut described = 0;
        loop {
            match self.attempt(request).await {
                Ok(piece) => return Ok(piece),
                Err(error) if error.is_outage() => {
                    self.server = None;
                    let wait = waits.next_wait();
                    warn!(copy = request.plan.name(), %error, ?wait, "reading the table waits");
                    tokio::time::sleep(wait).await;
                }
                Err(error) if described < DESCRIPTIONS => {
                    // It was altered under us, perhaps.
                    described += 1;
                    debug!(copy = request.plan.name(), %error, "the piece is read again");
                    self.server = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&mut self, request: &Request) -> Result<Piece> {
        let is_other = |identity: &str| !request.source.is_empty() && *identity != *request.source;
        let mut server = match self.server.take() {
            Some(server) => server,
            None => connect(&self.source).await?,
        };
        let mut identity = server.identity().await?;
        if is_other(&identity) {
            // Connected before another server took over, perhaps.
            server = connect(&self.source).await?;
            identity = server.identity().await?;
        }
        if is_other(&identity) {
            // It never reaches a place in the other's log; who asked hears of it by what the stream brings.
            tokio::time::sleep(OTHER_WAIT).await;
            return Ok(Piece::nothing(request, identity));
        }
        let (database, name) = request.plan.source();
        let table = snapshot::describe(&mut server, database, name).await?;
        let table = table.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("the source has no table {database}.{name} any more"))
        })?;
        let low = see(&mut server, &request.at).await?;
        let started = Instant::now();
        let mut found = select(&mut server, &Arc::new(table), request).await?;
        let high = match low {
            Some(position) => {
                let ended = server.connection().query_drop("COMMIT").await;
                ended.map_err(|error| failed(&request.plan, error))?;
                position
            }
            None => server.high_mark().await?,
        };
        let took = started.elapsed();
        found.piece.next_rows = next_rows(request, found.read, found.piece.bytes, took);
        found.piece.high = high;
        found.piece.source = identity;
        if !found.is_cut {
            self.server = Some(server);
        }
        Ok(found.piece)
    }
}

async fn connect(source: &Source) -> Result<Server> {
    let mut server = Server::connect(source).await?;
    let limit = if server.is_mariadb() { "max_statement_time" } else { "max_execution_time" };
    for setting in [
        // A consistent snapshot needs it; one SELECT is consistent by itself.
        "TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        // A piece takes its time, whatever the account's statements may take otherwise: cut short, it would be read
        // again without end.
        &format!("{limit} = 0"),
    ] {
        let set = server.connection().query_drop(format!("SET SESSION {setting}")).await;
        set.map_err(|error| Error::new(ErrorKind::Database, format!("setting {setting}: {error}")))?;
    }
    Ok(server)
}

/// Waits until the next SELECT sees all up to a position. On MariaDB a transaction is open then, which stands exactly
/// at the position that is given back.
async fn see(server: &mut Server, at: &Position) -> Result<Option<Position>> {
    let mut wait = VISIBLE_WAIT;
    loop {
        if server.is_mariadb() {
            let started = server.connection().query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await;
            started.map_err(|error| asked("a snapshot", error))?;
            let position = server.snapshot_position().await?;
            if position.has_reached(at) == Some(true) {
                return Ok(Some(position));
            }
            let ended = server.connection().query_drop("COMMIT").await;
            ended.map_err(|error| asked("a snapshot", error))?;
        } else if server.low_mark().await?.has_reached(at) == Some(true) {
            return Ok(None);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(VISIBLE_WAIT_MAX);
    }
}

struct Found {
    piece: Piece,
    /// How many rows were read, those that the filter leaves out too.
    read: u64,
    /// Whether rows of the answer were not taken: the connection is given up for it.
    is_cut: bool,
}

async fn select(server: &mut Server, table: &Arc<Table>, request: &Request) -> Result<Found> {
    let plan = &request.plan;
    let key = ordinals(plan, table)?;
    let (sql, parameters) = statement(table, &key, request)?;
    let mut piece = Piece::nothing(request, String::new());
    let asked = server.connection().rows(sql, parameters).await;
    let mut answer = asked.map_err(|error| failed(plan, error))?;
    let (mut count, mut last, mut is_cut) = (0, None, false);
    while let Some(row) = answer.next().await.map_err(|error| failed(plan, error))? {
        let row = snapshot::row(table, row)?;
        count += 1;
        let source_key = Key(key.iter().filter_map(|ordinal| row.0.get(*ordinal).cloned()).collect());
        if let Some(projected) = plan.project(table, row)? {
            piece.bytes += projected.0.iter().map(|value| value.weight_bytes() as u64).sum::<u64>();
            piece.rows.push(projected);
        } else {
            piece.bytes += size_of::<Row>() as u64;
        }
        last = Some(source_key);
        if piece.bytes > request.bytes.saturating_mul(OVERRUN) {
            is_cut = count < request.rows;
            break;
        }
    }
    drop(answer);
    piece.is_end = !is_cut && count < request.rows;
    if let Some(source_key) = last {
        let key = plan.copied_key(&source_key)?;
        piece.last = Some((source_key, key));
    }
    Ok(Found { piece, read: count, is_cut })
}

/// The ordinals of the key's columns in the table as it is.
fn ordinals(plan: &CopyPlan, table: &Table) -> Result<Vec<usize>> {
    let ordinals: Option<Vec<_>> = plan.source_key().iter().map(|column| table.ordinal(column)).collect();
    ordinals
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{table} has lost a column of the copy's key")))
}

/// How many rows would have the bytes and the time that a piece should have.
fn next_rows(request: &Request, read: u64, bytes: u64, took: Duration) -> u64 {
    let by_bytes = request.bytes.saturating_mul(read.max(1)) / bytes.max(1);
    let by_time = u64::try_from(u128::from(request.rows) * PIECE_TIME.as_micros() / took.as_micros().max(1));
    // A table's first rows may be unlike the others.
    let most = request.rows.saturating_mul(4).min(ROWS_MAX);
    by_bytes.min(by_time.unwrap_or(ROWS_MAX)).clamp(1, most)
}

/// The SELECT of a piece. Row constructors are not used: MySQL finds no range of an index by them.
fn statement(table: &Table, key: &[usize], request: &Request) -> Result<(String, Params)> {
    let columns: Vec<_> = key.iter().map(|ordinal| &table.columns[*ordinal]).collect();
    let mut sql = format!(
        "SELECT {} FROM {}.{}",
        snapshot::select_list(table),
        quoted(&table.database),
        quoted(&table.name)
    );
    let mut parameters = Vec::new();
    if let Some(after) = &request.after {
        let mut ranges = Vec::new();
        for (last, _) in columns.iter().enumerate() {
            let mut range = Vec::new();
            for (at, column) in columns.iter().enumerate().take(last + 1) {
                let value = after.0.get(at).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Invalid,
                        format!("{table}: the key where reading goes on has lost a part"),
                    )
                })?;
                let (shown, parameter) = parameter(value, &column.kind);
                let comparison = if at == last { ">" } else { "=" };
                range.push(format!("{} {comparison} {shown}", quoted(&column.name)));
                parameters.push(parameter);
            }
            ranges.push(format!("({})", range.join(" AND ")));
        }
        sql.push_str(&format!(" WHERE {}", ranges.join(" OR ")));
    }
    let order: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    sql.push_str(&format!(" ORDER BY {} LIMIT ?", order.join(", ")));
    parameters.push(Parameter::UInt(request.rows));
    Ok((sql, Params::Positional(parameters)))
}

/// The number by which the label of an ENUM or the labels of a SET are sorted; `None` for other types.
pub(super) fn rank(value: &Value, kind: &ColumnType) -> Option<u64> {
    let index =
        |labels: &[String], label: &str| labels.iter().position(|l| l == label).map_or(0, |at| at as u64 + 1);
    match (value, kind) {
        (Value::Text(label), ColumnType::Enum { labels }) => Some(index(labels, label)),
        (Value::Text(set), ColumnType::Set { labels }) => {
            let bits = set.split(',').filter(|label| !label.is_empty()).map(|label| index(labels, label));
            Some(bits.filter(|bit| *bit > 0).fold(0, |sum, bit| sum | 1 << (bit - 1)))
        }
        _ => None,
    }
}

/// A value of a key as it is compared, in the way that ORDER BY sorts.
fn parameter(value: &Value, kind: &ColumnType) -> (String, Parameter) {
    let plain = |parameter| ("?".to_owned(), parameter);
    // Labels would be compared as text; they are sorted by number.
    if let Some(number) = rank(value, kind) {
        return plain(Parameter::UInt(number));
    }
    match (value, kind) {
        // Text would be compared with a number as a DOUBLE.
        (Value::Decimal(digits), ColumnType::Decimal { precision, scale }) => (
            format!("CAST(? AS DECIMAL({precision}, {scale}))"),
            Parameter::Bytes(digits.clone().into_bytes()),
        ),
        (Value::Int(number), _) => plain(Parameter::Int(*number)),
        (Value::UInt(number) | Value::Bit(number), _) => plain(Parameter::UInt(*number)),
        (Value::Float(number), _) => plain(Parameter::Double(f64::from(*number))),
        (Value::Double(number), _) => plain(Parameter::Double(*number)),
        (Value::Year(year), _) => plain(Parameter::UInt(u64::from(*year))),
        (Value::Null, _) => plain(Parameter::NULL),
        (Value::Decimal(text) | Value::Text(text) | Value::Json(text), _) => {
            plain(Parameter::Bytes(text.clone().into_bytes()))
        }
        (Value::Bytes(bytes) | Value::Geometry(bytes) | Value::Vector(bytes), _) => {
            plain(Parameter::Bytes(bytes.clone()))
        }
        (Value::Date(date), _) => plain(Parameter::Date(date.year, date.month, date.day, 0, 0, 0, 0)),
        (Value::DateTime(at), _) => {
            let date = at.date;
            let parameter =
                Parameter::Date(date.year, date.month, date.day, at.hour, at.minute, at.second, at.micros);
            plain(parameter)
        }
        (Value::Time(us), _) => {
            let whole = us.unsigned_abs();
            let (seconds, micros) = (whole / 1_000_000, (whole % 1_000_000) as u32);
            let parts = ((seconds / 86_400) as u32, (seconds / 3600 % 24) as u8, (seconds / 60 % 60) as u8);
            plain(Parameter::Time(*us < 0, parts.0, parts.1, parts.2, (seconds % 60) as u8, micros))
        }
        // 0 is the zero value, which sorts before all others.
        (Value::Timestamp(0), _) => plain(Parameter::Bytes(b"0000-00-00 00:00:00".to_vec())),
        (Value::Timestamp(us), _) => {
            let text = chrono::DateTime::from_timestamp_micros(*us)
                .map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string());
            plain(Parameter::Bytes(text.into_bytes()))
        }
    }
}

fn asked(what: &str, error: mysql_async::Error) -> Error {
    binlog::failed(format_args!("asking the source for {what}"), &error)
}

fn failed(plan: &CopyPlan, error: mysql_async::Error) -> Error {
    let (database, table) = plan.source();
    asked(&format!("rows of {database}.{table}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_as_they_are_sorted() {
        let labels: Arc<[String]> = ["b".to_owned(), "a".to_owned(), "c".to_owned()].into();
        let text = |text: &str| Value::Text(text.into());
        let shown = |value: &Value, kind: &ColumnType| parameter(value, kind);
        assert_eq!(shown(&text("a"), &ColumnType::Enum { labels: labels.clone() }).1, Parameter::UInt(2));
        assert_eq!(shown(&text("b,c"), &ColumnType::Set { labels }).1, Parameter::UInt(5));
        let (sql, _) = shown(&Value::Decimal("1.10".into()), &ColumnType::Decimal { precision: 5, scale: 2 });
        assert_eq!(sql, "CAST(? AS DECIMAL(5, 2))");
        let time = shown(&Value::Time(-90_061_000_001), &ColumnType::Time { fraction: 6 }).1;
        assert_eq!(time, Parameter::Time(true, 1, 1, 1, 1, 1));
    }
}
