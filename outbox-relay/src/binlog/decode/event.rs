//! The frame of an event: header, checksum, and the small events that carry no rows.

use std::fmt::Write as _;

use super::bytes::Bytes;
use super::{Malformed, Result};

/// Bytes of an event's header.
pub(crate) const HEADER_BYTES: usize = 19;
/// Bytes of the checksum at its end.
const CHECKSUM_BYTES: usize = 4;

/// Flags of an event.
const BINLOG_IN_USE: u16 = 0x1;
const ARTIFICIAL: u16 = 0x20;
const IGNORABLE: u16 = 0x80;

/// The header of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Seconds since 1970.
    pub(crate) timestamp: u32,
    pub(crate) kind: u8,
    pub(crate) server: u32,
    /// With the header and the checksum.
    pub(crate) size: u32,
    /// Where the event ends in its file, modulo 2³²; 0 where the server does not say.
    pub(crate) end: u32,
    flags: u16,
}

/// The types of events that we act upon, or know that we need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Query,
    QueryCompressed,
    Rotate,
    FormatDescription,
    Xid,
    TableMap,
    Rows,
    PartialUpdate,
    Incident,
    Heartbeat,
    MySqlGtid,
    Anonymous,
    MySqlTaggedGtid,
    MariaDbGtid,
    XaPrepare,
    Payload,
    /// Logs rows as a file to load: only of sessions that log statements.
    LoadStatement,
    /// Nothing for us: STOP, INTVAR, RAND, USER_VAR, IGNORABLE, ROWS_QUERY, PREVIOUS_GTIDS, group replication's
    /// two, and MariaDB's ANNOTATE_ROWS, BINLOG_CHECKPOINT, GTID_LIST, START_ENCRYPTION.
    Nothing,
    Unknown,
}

impl Header {
    /// The header at the start of an event.
    pub(crate) fn parse(event: &[u8]) -> Result<Self> {
        let mut bytes = Bytes(event);
        Ok(Self {
            timestamp: bytes.u32()?,
            kind: bytes.u8()?,
            server: bytes.u32()?,
            size: bytes.u32()?,
            end: bytes.u32()?,
            flags: bytes.u16()?,
        })
    }

    pub(crate) fn event_type(&self) -> EventType {
        match self.kind {
            2 => EventType::Query,
            165 => EventType::QueryCompressed,
            4 => EventType::Rotate,
            15 => EventType::FormatDescription,
            16 => EventType::Xid,
            17 | 18 => EventType::LoadStatement,
            19 => EventType::TableMap,
            23..=25 | 30..=32 | 166..=171 => EventType::Rows,
            39 => EventType::PartialUpdate,
            26 => EventType::Incident,
            27 | 41 => EventType::Heartbeat,
            33 => EventType::MySqlGtid,
            34 => EventType::Anonymous,
            42 => EventType::MySqlTaggedGtid,
            162 => EventType::MariaDbGtid,
            38 => EventType::XaPrepare,
            40 => EventType::Payload,
            3 | 5 | 13 | 14 | 28 | 29 | 35 | 36 | 37 | 160 | 161 | 163 | 164 => EventType::Nothing,
            _ => EventType::Unknown,
        }
    }

    /// Made by the server for this connection; it does not stand in the file.
    pub(crate) fn is_artificial(&self) -> bool {
        self.flags & ARTIFICIAL != 0
    }

    /// Whoever does not know its type may go on.
    pub(crate) fn is_ignorable(&self) -> bool {
        self.flags & IGNORABLE != 0
    }
}

/// How the events of a stream are framed, as its format description says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Format {
    /// Whether events end with a checksum; `None` before the first format description.
    checksum: Option<bool>,
}

impl Format {
    /// The header and the body of an event whose checksum is right.
    ///
    /// A format description changes the format for what follows.
    pub(crate) fn open<'e>(&mut self, event: &'e [u8]) -> Result<(Header, &'e [u8])> {
        let header = Header::parse(event)?;
        if header.size as usize != event.len() || event.len() < HEADER_BYTES {
            return Err(Malformed(format!("an event of {} bytes says {}", event.len(), header.size)));
        }
        let is_description = header.event_type() == EventType::FormatDescription;
        let checksummed = match self.checksum {
            _ if is_description => true,
            Some(checksum) => checksum,
            // The rotation that the server invents before the first description: MariaDB adds a checksum, MySQL
            // does not, and nothing says so.
            None => checksum_is_right(&header, event),
        };
        if !checksummed {
            return Ok((header, &event[HEADER_BYTES..]));
        }
        if event.len() < HEADER_BYTES + CHECKSUM_BYTES || !checksum_is_right(&header, event) {
            return Err(Malformed(format!("the checksum of an event of type {} is wrong", header.kind)));
        }
        let body = &event[HEADER_BYTES..event.len() - CHECKSUM_BYTES];
        if is_description {
            self.checksum = Some(description(body)?);
        }
        Ok((header, body))
    }
}

fn checksum_is_right(header: &Header, event: &[u8]) -> bool {
    let Some((content, checksum)) = event.split_last_chunk::<CHECKSUM_BYTES>() else { return false };
    if content.len() < HEADER_BYTES {
        return false;
    }
    let mut hasher = crc32fast::Hasher::new();
    // The description of the file in use is summed without the flag that says so.
    hasher.update(&content[..17]);
    hasher.update(&(header.flags & !BINLOG_IN_USE).to_le_bytes());
    hasher.update(&content[HEADER_BYTES..]);
    hasher.finalize() == u32::from_le_bytes(*checksum)
}

/// Whether the events after this format description have checksums.
fn description(body: &[u8]) -> Result<bool> {
    let mut bytes = Bytes(body);
    let version = bytes.u16()?;
    if version != 4 {
        return Err(Malformed(format!("the binary log has version {version}, not 4")));
    }
    let _server_version = bytes.take(50)?;
    let _created = bytes.u32()?;
    if usize::from(bytes.u8()?) != HEADER_BYTES {
        return Err(Malformed::new("the header of events has an unknown length"));
    }
    match bytes.0.last() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(Malformed::new("the checksum of events is of an unknown kind")),
    }
}

/// The file that a rotation leads to, and the offset in it.
pub(crate) fn rotate(body: &[u8]) -> Result<(String, u64)> {
    let mut bytes = Bytes(body);
    let offset = bytes.u64()?;
    let name =
        std::str::from_utf8(bytes.0).map_err(|_| Malformed::new("the name of a binlog file is not UTF-8"))?;
    Ok((name.trim_end_matches('\0').to_owned(), offset))
}

/// A statement that was logged as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryEvent<'e> {
    pub(crate) database: String,
    pub(crate) sql: &'e [u8],
}

impl<'e> QueryEvent<'e> {
    pub(crate) fn parse(body: &'e [u8]) -> Result<Self> {
        let mut bytes = Bytes(body);
        let _thread_and_time = bytes.take(8)?;
        let database_bytes = bytes.u8()?;
        let _error = bytes.u16()?;
        let variables = bytes.u16()?;
        bytes.take(usize::from(variables))?;
        let database = bytes.take(usize::from(database_bytes))?;
        bytes.u8()?;
        Ok(Self { database: String::from_utf8_lossy(database).into_owned(), sql: bytes.0 })
    }
}

/// The end of the first phase of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct XaPrepare {
    /// Whether it is committed with it.
    pub(crate) one_phase: bool,
    /// Its id as the server writes it in `XA COMMIT`: `X'78',X'',1`.
    pub(crate) xid: String,
}

impl XaPrepare {
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let mut bytes = Bytes(body);
        let one_phase = bytes.u8()? != 0;
        let format = bytes.u32()?;
        let (global, branch) = (bytes.u32()? as usize, bytes.u32()? as usize);
        let (global, branch) = (bytes.take(global)?, bytes.take(branch)?);
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        Ok(Self { one_phase, xid: format!("X'{}',X'{}',{format}", hex(global), hex(branch)) })
    }
}
