//! Events → whole transactions. It holds what is open and gives nothing out before its end is seen; the position it
//! gives with a transaction is one from which reading can go on without losing or repeating any.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use outbox_core::{Error, ErrorKind, Result};
use tracing::debug;

use super::decode::{
    Charsets, CodeTable, EventType, Format, GtidEvent, HEADER_BYTES, Header, Malformed, Payload, QueryEvent,
    TableMap, TableName, Unusable, XaPrepare, inflate_query, mariadb_gtid, mysql_gtid, mysql_tagged_gtid,
    rotate, table_id,
};
use super::position::{FileOffset, Gtid, Gtids, Position};
use super::spool::{Spool, Subscribed};
use super::statement::{self, Control};
use super::tables::Tables;
use crate::change::{AddressType, Changes, Statement, Txn, Undecodable};

/// The table that MySQL names in a rows event that only ends a statement.
const NO_TABLE: u64 = 0x00ff_ffff;

/// What is kept of transactions, and where.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Row events of one transaction above this many bytes go to disk.
    pub(crate) memory_bytes_max: usize,
    /// Where temporary files are made.
    pub(crate) folder: PathBuf,
}

/// What an event led to.
pub(crate) enum Outcome {
    Nothing,
    Txn(Box<Txn>),
    /// A heartbeat: there is nothing newer.
    Quiet,
    /// MariaDB does not say which binary strings are UUID, INET4 or INET6: the same event again after
    /// [`Assembler::describe`].
    Describe {
        database: String,
        table: String,
    },
    /// The table of a character set is not known: the same event again after [`Assembler::teach`].
    Charset(Arc<str>),
}

/// The state between events.
pub(crate) struct Assembler {
    tables: Arc<Tables>,
    charsets: Charsets,
    limits: Limits,
    is_mariadb: bool,
    /// Whether the source has found the place where it was asked to begin.
    is_flowing: bool,
    format: Format,
    known: HashMap<u64, Known>,
    /// Per definition of a table.
    addresses: HashMap<Box<[u8]>, Vec<(String, AddressType)>>,
    /// What has been given out, or was before this reader began.
    done: Position,
    /// How far the stream has been read, up to a transaction's end; behind `done` while it is read again for the
    /// sake of prepared transactions.
    progress: Position,
    /// Where the stream is, within a transaction too.
    file: Option<FileOffset>,
    open: Option<Open>,
    prepared: Vec<Prepared>,
    skipped_events: u64,
}

struct Known {
    definition: Box<[u8]>,
    /// `None` if nobody subscribed it.
    table: Option<Subscribed>,
}

/// A transaction that has begun.
#[derive(Default)]
struct Open {
    gtid: Option<Gtid>,
    committed_at_us: Option<i64>,
    /// It is more than one statement: only a commit ends it.
    is_started: bool,
    rows: Spool,
    statements: Vec<Statement>,
    savepoints: Vec<(Vec<u8>, usize)>,
    checksum: crc32fast::Hasher,
}

impl Open {
    /// The same as it began.
    fn begun(&self) -> Self {
        Self { gtid: self.gtid.clone(), committed_at_us: self.committed_at_us, ..Self::default() }
    }
}

/// An XA transaction after its first phase.
struct Prepared {
    xid: String,
    rows: Spool,
    checksum: crc32fast::Hasher,
    /// Where reading has to begin to see it again.
    before: Position,
}

impl Assembler {
    pub(crate) fn new(
        from: Position,
        tables: Arc<Tables>,
        charsets: Charsets,
        limits: Limits,
        is_mariadb: bool,
    ) -> Self {
        let progress = from.replay_from.as_deref().unwrap_or(&from).clone();
        let file = progress.file.clone();
        Self {
            tables,
            charsets,
            limits,
            is_mariadb,
            is_flowing: false,
            format: Format::default(),
            known: HashMap::new(),
            addresses: HashMap::new(),
            done: Position { replay_from: None, ..from },
            progress,
            file,
            open: None,
            prepared: Vec::new(),
            skipped_events: 0,
        }
    }

    /// How many events of unknown, but ignorable types were skipped.
    pub(crate) fn skipped_events(&self) -> u64 {
        self.skipped_events
    }

    /// Whether the source has found the place where it was asked to begin, which may take it long.
    pub(crate) fn is_flowing(&self) -> bool {
        self.is_flowing
    }

    /// Where the stream is in the source's files, if everything before has been given out.
    pub(crate) fn whole_file(&self) -> Option<&FileOffset> {
        let is_behind = match (&self.done.file, &self.file) {
            (Some(done), Some(here)) => here.partial_cmp(done).is_some_and(std::cmp::Ordering::is_lt),
            _ => false,
        };
        self.file.as_ref().filter(|_| self.open.is_none() && !is_behind)
    }

    /// The table of a character set that was asked for; `None` if there can be none.
    pub(crate) fn teach(&mut self, charset: Arc<str>, table: Option<CodeTable>) {
        self.charsets.tables.insert(charset, table.map(Arc::new));
    }

    /// Which columns of the table that was asked for are of MariaDB's types.
    pub(crate) fn describe(&mut self, event: &[u8], columns: Vec<(String, AddressType)>) -> Result<()> {
        let (_, body) = self.format.open(event).map_err(broken)?;
        let name = TableName::parse(body).map_err(broken)?;
        self.addresses.insert(name.definition.into(), columns);
        Ok(())
    }

    /// Takes an event as it came, with header and checksum.
    ///
    /// # Errors
    /// `Outage` for bytes that were damaged on their way; anything else means that going on would lose something.
    pub(crate) fn event(&mut self, event: &[u8]) -> Result<Outcome> {
        let (header, body) = self.format.open(event).map_err(broken)?;
        let outcome = match header.event_type() {
            EventType::Payload => self.payload(body)?,
            _ => self.plain(&header, body, Some(&header))?,
        };
        Ok(outcome)
    }

    /// A transaction that was written compressed: its events one after the other.
    fn payload(&mut self, body: &[u8]) -> Result<Outcome> {
        let begun = self.open.as_ref().map(Open::begun);
        let mut payload = Payload::open(body).map_err(|error| self.stop(&error.0))?;
        let mut event = Vec::new();
        let mut outcome = Outcome::Nothing;
        while let Some(header) = payload.next(&mut event).map_err(|error| self.stop(&error.0))? {
            match self.plain(&header, &event[HEADER_BYTES..], None)? {
                Outcome::Txn(txn) => outcome = Outcome::Txn(txn),
                asked @ (Outcome::Describe { .. } | Outcome::Charset(_)) => {
                    // All of it comes again.
                    self.open = begun;
                    return Ok(asked);
                }
                Outcome::Nothing | Outcome::Quiet => {}
            }
        }
        if self.open.is_some() {
            return Err(self.stop("a compressed transaction without its end"));
        }
        Ok(outcome)
    }

    /// An event; `placed` is the header if it stands in the file by itself.
    fn plain(&mut self, header: &Header, body: &[u8], placed: Option<&Header>) -> Result<Outcome> {
        let kind = header.event_type();
        self.is_flowing |= self.open.is_some() || kind == EventType::Heartbeat;
        if let Some(header) = placed.filter(|_| !matches!(kind, EventType::Rotate)) {
            self.advance(header, kind);
        }
        match kind {
            EventType::Rotate => self.rotate(header, body)?,
            EventType::Heartbeat => return Ok(Outcome::Quiet),
            EventType::FormatDescription | EventType::Nothing => {}
            EventType::MySqlGtid => self.begin(mysql_gtid(body).map_err(broken)?)?,
            EventType::MySqlTaggedGtid => self.begin(mysql_tagged_gtid(body).map_err(broken)?)?,
            EventType::MariaDbGtid => self.begin(mariadb_gtid(header.server, body).map_err(broken)?)?,
            EventType::Anonymous => self.begin_anonymous(mysql_gtid(body).map_err(broken)?)?,
            EventType::Query | EventType::QueryCompressed => {
                let is_compressed = kind == EventType::QueryCompressed;
                return self.query(header, QueryEvent::parse(body).map_err(broken)?, is_compressed);
            }
            EventType::TableMap => return self.table_map(body),
            EventType::Rows => self.rows(header.kind, body)?,
            EventType::PartialUpdate => self.partial_update(body)?,
            EventType::Xid => return self.end(header, End::Commit),
            EventType::XaPrepare => {
                let prepare = XaPrepare::parse(body).map_err(broken)?;
                let end = if prepare.one_phase { End::Commit } else { End::Prepare(prepare.xid) };
                return self.end(header, end);
            }
            EventType::Incident => {
                return Err(self.stop("the source lost events (INCIDENT): its copies have to be built anew"));
            }
            EventType::LoadStatement => {
                return Err(self.stop(
                    "a session logs statements; on the source run: SET GLOBAL binlog_format = 'ROW', \
                     and end the sessions that still have another value",
                ));
            }
            EventType::Payload => return Err(self.stop("a compressed transaction within another")),
            EventType::Unknown if header.is_ignorable() => self.skipped_events += 1,
            EventType::Unknown => {
                return Err(self.stop(&format!(
                    "an event of the unknown type {}, which must not be ignored: this version of the source is \
                     not supported",
                    header.kind
                )));
            }
        }
        Ok(Outcome::Nothing)
    }

    /// Moves the place in the file behind an event.
    fn advance(&mut self, header: &Header, kind: EventType) {
        let Some(file) = &mut self.file else { return };
        // A description that is sent again where reading begins stands elsewhere and has no place.
        if header.is_artificial() || (kind == EventType::FormatDescription && header.end == 0) {
            return;
        }
        // The header's place is modulo 2³², and MariaDB has none within transactions since 11.4. A heartbeat
        // stands nowhere: it only says how far the server is.
        let next = file.offset + u64::from(header.size);
        let is_heartbeat = kind == EventType::Heartbeat;
        if header.end == 0 {
            file.offset = if is_heartbeat { file.offset } else { next };
        } else if next as u32 == header.end && !is_heartbeat {
            file.offset = next;
        } else {
            file.offset = file.offset & !0xffff_ffff | u64::from(header.end);
        }
    }

    fn rotate(&mut self, header: &Header, body: &[u8]) -> Result<()> {
        let (name, offset) = rotate(body).map_err(broken)?;
        // A transaction never spans files: what is open was lost by a server that crashed while it wrote. A made-up
        // rotation to the same file comes with each connection.
        if self.open.take().is_some() {
            debug!(file = name, "a transaction without an end, dropped by the source");
        }
        if !header.is_artificial() {
            self.known.clear();
        }
        self.file = Some(FileOffset { name, offset });
        Ok(())
    }

    fn begin(&mut self, event: GtidEvent) -> Result<()> {
        if self.open.is_some() {
            return Err(self.stop("a transaction without an end"));
        }
        // MariaDB has no BEGIN: its event says whether more than one event follows.
        let is_started = matches!(event.gtid, Gtid::MariaDb(_)) && !event.is_standalone;
        self.open = Some(Open {
            gtid: Some(event.gtid),
            committed_at_us: event.committed_at_us,
            is_started,
            ..Open::default()
        });
        Ok(())
    }

    fn begin_anonymous(&mut self, event: GtidEvent) -> Result<()> {
        if self.done.gtids.is_some() {
            return Err(self.stop(
                "a transaction without a GTID; on the source run: SET PERSIST gtid_mode = 'ON', or begin anew by file",
            ));
        }
        self.begin(event)?;
        if let Some(open) = &mut self.open {
            open.gtid = None;
        }
        Ok(())
    }

    fn query(&mut self, header: &Header, query: QueryEvent<'_>, is_compressed: bool) -> Result<Outcome> {
        let sql = inflate_query(query.sql, is_compressed).map_err(|error| self.stop(&error.0))?;
        // Without GTIDs nothing comes before it.
        let open = self.open.get_or_insert_default();
        match statement::control(&sql) {
            Control::Begin => open.is_started = true,
            Control::Commit => return self.end(header, End::Commit),
            Control::Rollback => return self.end(header, End::Rollback),
            Control::XaEnd => {}
            Control::XaCommit(xid) => return self.end(header, End::XaCommit(xid.to_owned())),
            Control::XaRollback(xid) => return self.end(header, End::XaRollback(xid.to_owned())),
            Control::Savepoint(name) => open.savepoints.push((name.to_owned(), open.rows.len())),
            Control::RollbackTo(name) => {
                let found = open.savepoints.iter().rposition(|(savepoint, _)| savepoint == name);
                let Some(found) = found else {
                    return Err(self.stop("a rollback to a savepoint that was not logged"));
                };
                open.rows.truncate(open.savepoints[found].1);
                open.savepoints.truncate(found + 1);
            }
            Control::Other => {
                if statement::changes_rows(&sql) && self.tables.is_mentioned(&query.database, &sql) {
                    return Err(self.stop(
                        "a change that names a subscribed table was logged as a statement, not as rows; on the \
                         source run: SET GLOBAL binlog_format = 'ROW', and end the sessions that still have \
                         another value",
                    ));
                }
                open.checksum.update(&sql);
                let is_whole = !open.is_started && !statement::starts_transaction(&sql);
                open.is_started |= !is_whole;
                let sql = String::from_utf8_lossy(&sql).into_owned();
                open.statements.push(Statement { database: query.database, sql });
                if is_whole {
                    return self.end(header, End::Commit);
                }
            }
        }
        Ok(Outcome::Nothing)
    }

    fn table_map(&mut self, body: &[u8]) -> Result<Outcome> {
        let name = TableName::parse(body).map_err(broken)?;
        if self.known.get(&name.id).is_some_and(|known| *known.definition == *name.definition) {
            return Ok(Outcome::Nothing);
        }
        let table = if self.tables.contains(name.database, name.table) {
            let addresses = match self.addresses.get(name.definition) {
                Some(addresses) => addresses.as_slice(),
                None if self.is_mariadb => {
                    let (database, table) = (name.database.to_owned(), name.table.to_owned());
                    return Ok(Outcome::Describe { database, table });
                }
                None => &[],
            };
            Some(match TableMap::parse(body, &self.charsets, addresses) {
                Ok(map) => Subscribed::Known(Arc::new(map)),
                Err(Unusable::Because(error)) => undecodable(&name, error.0),
                Err(Unusable::Unasked(charset)) => return Ok(Outcome::Charset(charset)),
            })
        } else {
            None
        };
        self.known.insert(name.id, Known { definition: name.definition.into(), table });
        Ok(Outcome::Nothing)
    }

    fn rows(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let id = table_id(body).map_err(broken)?;
        let Some(known) = self.known.get(&id) else {
            return if id == NO_TABLE {
                Ok(())
            } else {
                Err(self.stop("rows of a table that was not described"))
            };
        };
        // Without GTIDs and BEGIN nothing of a transaction has been seen before.
        let open = self.open.get_or_insert_default();
        // Not the table's number, which differs after a restart.
        open.checksum.update(&[kind]);
        open.checksum.update(body.get(6..).unwrap_or_default());
        if let Some(table) = &known.table {
            open.rows.push(table, kind, body, self.limits.memory_bytes_max, &self.limits.folder)?;
        }
        Ok(())
    }

    /// An update of parts of JSON documents: the documents before are not known here.
    fn partial_update(&mut self, body: &[u8]) -> Result<()> {
        let id = table_id(body).map_err(broken)?;
        let known = self.known.get_mut(&id);
        if let Some(Known { table: Some(table), .. }) = known {
            let (database, name) = match &*table {
                Subscribed::Known(map) => (map.table.database.clone(), map.table.name.clone()),
                Subscribed::Undecodable(why) => (why.database.clone(), why.table.clone()),
            };
            let reason = "JSON was logged in parts; on the source run: \
                          SET GLOBAL binlog_row_value_options = '', and end the sessions that still have another value";
            let why = Subscribed::Undecodable(Arc::new(Undecodable {
                database,
                table: name,
                reason: reason.into(),
            }));
            let open = self.open.get_or_insert_default();
            open.rows.push(&why, 0, body, self.limits.memory_bytes_max, &self.limits.folder)?;
        }
        Ok(())
    }

    /// Ends the open transaction.
    fn end(&mut self, header: &Header, end: End) -> Result<Outcome> {
        let mut open = self.open.take().unwrap_or_default();
        // Copied only where it is kept: this is done for every transaction.
        let before = matches!(end, End::Prepare(_)).then(|| self.progress.clone());
        self.progress.file.clone_from(&self.file);
        let is_repeated = match (&open.gtid, &mut self.progress.gtids, &mut self.done.gtids) {
            (Some(gtid), Some(progress), Some(done)) => {
                let is_repeated = done.contains(gtid);
                add(progress, gtid)?;
                add(done, gtid)?;
                is_repeated
            }
            (None, Some(_), Some(_)) if !self.is_mariadb => {
                return Err(self.stop("a transaction without a GTID, where all have to have one"));
            }
            _ => matches!(
                (&self.done.file, &self.file),
                (Some(done), Some(here)) if here.partial_cmp(done).is_some_and(std::cmp::Ordering::is_le)
            ),
        };
        if !is_repeated {
            self.done.file.clone_from(&self.file);
        }
        match end {
            End::Commit => {}
            End::Rollback => open.rows = Spool::default(),
            End::Prepare(xid) => {
                let rows = std::mem::take(&mut open.rows);
                let before = before.unwrap_or_default();
                self.prepared.push(Prepared { xid, rows, checksum: open.checksum.clone(), before });
            }
            End::XaCommit(xid) => {
                let prepared = self.settle(&xid).ok_or_else(|| {
                    self.stop(&format!(
                        "XA transaction {xid} was prepared before the place where reading began, so that its rows \
                         are not known: its copies have to be built anew, while XA RECOVER shows nothing"
                    ))
                })?;
                open.rows = prepared.rows;
                open.checksum = prepared.checksum;
            }
            // One that was prepared before the start is of no interest.
            End::XaRollback(xid) => drop(self.settle(&xid)),
        }
        if is_repeated {
            return Ok(Outcome::Nothing);
        }
        let replay_from = self.prepared.first().map(|first| Box::new(first.before.clone()));
        Ok(Outcome::Txn(Box::new(Txn {
            position: Position { replay_from, ..self.done.clone() },
            committed_at_us: open.committed_at_us.unwrap_or(i64::from(header.timestamp) * 1_000_000),
            checksum: open.checksum.finalize(),
            changes: Changes::logged(open.rows),
            statements: open.statements,
        })))
    }

    fn settle(&mut self, xid: &str) -> Option<Prepared> {
        let found = self.prepared.iter().position(|prepared| prepared.xid.eq_ignore_ascii_case(xid))?;
        Some(self.prepared.remove(found))
    }

    /// The error for what must not be passed over.
    fn stop(&self, why: &str) -> Error {
        let at = self.file.as_ref().map_or_else(String::new, |file| format!(" at {file}"));
        Error::new(ErrorKind::Invalid, format!("reading the binary log{at}: {why}"))
    }
}

/// How a transaction ends.
enum End {
    Commit,
    Rollback,
    Prepare(String),
    XaCommit(String),
    XaRollback(String),
}

/// Adds a transaction. MariaDB's positions are the last of a domain: they must not go back while it is read again.
fn add(gtids: &mut Gtids, gtid: &Gtid) -> Result<()> {
    if gtids.contains(gtid) { Ok(()) } else { gtids.add(gtid) }
}

fn undecodable(name: &TableName<'_>, reason: String) -> Subscribed {
    let (database, table) = (name.database.to_owned(), name.table.to_owned());
    Subscribed::Undecodable(Arc::new(Undecodable { database, table, reason }))
}

/// Bytes that make no sense were damaged on their way, or the server is one that we do not know: a new connection
/// tells, since it reads the same again.
fn broken(error: Malformed) -> Error {
    Error::new(ErrorKind::Outage, format!("reading the binary log: {error}"))
}

#[cfg(test)]
mod tests;
