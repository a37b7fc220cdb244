//! The row events of one transaction, kept as they came and decoded when they are asked for: in memory, and above
//! a limit in a temporary file without a name, which is gone with the process.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use outbox_core::{Error, ErrorKind, Result};

use super::decode::{Malformed, Rows, TableMap};
use crate::change::{Change, Table, Undecodable};

/// Row events in their order.
#[derive(Default)]
pub(crate) struct Spool {
    entries: Vec<Entry>,
    bytes: u64,
    /// All of the events, or none once there is a file.
    memory: Vec<u8>,
    file: Option<Mutex<BufWriter<File>>>,
}

/// A row event.
struct Entry {
    table: Subscribed,
    kind: u8,
    offset: u64,
    length: usize,
}

/// A subscribed table, or why its rows cannot be decoded.
#[derive(Clone)]
pub(crate) enum Subscribed {
    Known(Arc<TableMap>),
    Undecodable(Arc<Undecodable>),
}

impl Spool {
    /// Adds the body of a row event; above `memory_bytes_max` in all they go to a file in `folder`.
    pub(crate) fn push(
        &mut self,
        table: &Subscribed,
        kind: u8,
        body: &[u8],
        memory_bytes_max: usize,
        folder: &Path,
    ) -> Result<()> {
        let failed =
            |error| Error::with_source(ErrorKind::Outage, "writing a large transaction to disk", error);
        if self.file.is_none() && self.memory.len() + body.len() > memory_bytes_max {
            let mut file = BufWriter::new(tempfile::tempfile_in(folder).map_err(failed)?);
            file.write_all(&self.memory).map_err(failed)?;
            self.memory = Vec::new();
            self.file = Some(Mutex::new(file));
        }
        match &mut self.file {
            Some(file) => {
                let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
                file.write_all(body).map_err(failed)?;
            }
            None => self.memory.extend_from_slice(body),
        }
        self.entries.push(Entry { table: table.clone(), kind, offset: self.bytes, length: body.len() });
        self.bytes += body.len() as u64;
        Ok(())
    }

    /// How many events there are; a mark for [`truncate`](Self::truncate).
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets the events after a mark: the source rolled back to a savepoint.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
    }

    /// What the events take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The tables of the events, some more than once.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.entries.iter().filter_map(|entry| match &entry.table {
            Subscribed::Known(map) => Some(&map.table),
            Subscribed::Undecodable(_) => None,
        })
    }

    /// The changes, decoded one after the other. An error of a table ends the changes of that event only.
    pub(crate) fn changes(&self) -> Result<impl Iterator<Item = Result<Change>>> {
        if let Some(file) = &self.file {
            let flushed = file.lock().unwrap_or_else(PoisonError::into_inner).flush();
            flushed.map_err(|error| {
                Error::with_source(ErrorKind::Outage, "writing a large transaction to disk", error)
            })?;
        }
        Ok(self.entries.iter().flat_map(|entry| match self.rows(entry) {
            Ok((rows, blame)) => {
                let rows = rows.map(move |row| row.map_err(|error| blame.error(error)));
                Box::new(rows) as Box<dyn Iterator<Item = _> + Send>
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }))
    }

    fn rows(&self, entry: &Entry) -> Result<(Rows<'_>, Blame)> {
        let map = match &entry.table {
            Subscribed::Known(map) => Arc::clone(map),
            Subscribed::Undecodable(why) => return Err(undecodable(Undecodable::clone(why))),
        };
        let blame = Blame(Arc::clone(&map.table));
        let body = self.body(entry)?;
        let rows = Rows::open(entry.kind, body, map).map_err(|error| blame.error(error))?;
        Ok((rows, blame))
    }

    fn body(&self, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        let Some(file) = &self.file else {
            let start = entry.offset as usize;
            return Ok(self.memory[start..start + entry.length].into());
        };
        let mut body = vec![0; entry.length];
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.get_mut();
        let read = file.seek(SeekFrom::Start(entry.offset)).and_then(|_| file.read_exact(&mut body));
        read.map_err(|error| {
            Error::with_source(ErrorKind::Outage, "reading a large transaction from disk", error)
        })?;
        Ok(body.into())
    }
}

/// The table that a decoding error is blamed on.
struct Blame(Arc<Table>);

impl Blame {
    fn error(&self, error: Malformed) -> Error {
        undecodable(Undecodable {
            database: self.0.database.clone(),
            table: self.0.name.clone(),
            reason: error.to_string(),
        })
    }
}

pub(crate) fn undecodable(why: Undecodable) -> Error {
    Error::with_source(ErrorKind::Invalid, "reading the binary log", why)
}
