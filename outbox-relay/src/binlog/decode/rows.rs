//! Row events → changes with whole images.

use std::borrow::Cow;
use std::sync::Arc;

use super::bytes::Bytes;
use super::payload::inflate;
use super::{Malformed, Result, TableMap};
use crate::change::{Change, Image, Row, Value};

/// The table that a rows event belongs to.
pub(crate) fn table_id(body: &[u8]) -> Result<u64> {
    Bytes(body).little(6)
}

/// The changes of one rows event, decoded one after the other.
pub(crate) struct Rows<'e> {
    map: Arc<TableMap>,
    kind: Kind,
    rows: Cow<'e, [u8]>,
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

impl<'e> Rows<'e> {
    /// Begins to read the body of a rows event.
    ///
    /// The error says what is wrong with the table and what helps.
    pub(crate) fn open(event_kind: u8, body: Cow<'e, [u8]>, map: Arc<TableMap>) -> Result<Self> {
        let (kind, has_extra, is_compressed) = match event_kind {
            23 => (Kind::Insert, false, false),
            24 => (Kind::Update, false, false),
            25 => (Kind::Delete, false, false),
            30 => (Kind::Insert, true, false),
            31 => (Kind::Update, true, false),
            32 => (Kind::Delete, true, false),
            166 => (Kind::Insert, false, true),
            167 => (Kind::Update, false, true),
            168 => (Kind::Delete, false, true),
            169 => (Kind::Insert, true, true),
            170 => (Kind::Update, true, true),
            171 => (Kind::Delete, true, true),
            other => return Err(Malformed(format!("event {other} has no rows"))),
        };
        let mut bytes = Bytes(&body);
        let _table_and_flags = bytes.take(8)?;
        if has_extra {
            let length = bytes.u16()?;
            bytes.take(usize::from(length).saturating_sub(2))?;
        }
        let columns = bytes.length()?;
        if columns != map.wires.len() {
            return Err(Malformed(format!(
                "a row of {columns} columns where the table has {}",
                map.wires.len()
            )));
        }
        for _ in 0..if kind == Kind::Update { 2 } else { 1 } {
            let present = bytes.take(columns.div_ceil(8))?;
            if (0..columns).any(|column| present[column / 8] >> (column % 8) & 1 == 0) {
                return Err(Malformed::new(
                    "a row was logged without some of its columns; on the source run: \
                     SET GLOBAL binlog_row_image = 'FULL', and end the sessions that still have another value",
                ));
            }
        }
        let at = body.len() - bytes.0.len();
        Ok(if is_compressed {
            Self { map, kind, rows: inflate(bytes.0)?.into(), at: 0 }
        } else {
            Self { map, kind, rows: body, at }
        })
    }

    fn change(&mut self) -> Result<Change> {
        let mut bytes = Bytes(&self.rows[self.at..]);
        let image = match self.kind {
            Kind::Insert => Image::Insert { after: row(&mut bytes, &self.map)? },
            Kind::Delete => Image::Delete { before: row(&mut bytes, &self.map)? },
            Kind::Update => {
                Image::Update { before: row(&mut bytes, &self.map)?, after: row(&mut bytes, &self.map)? }
            }
        };
        self.at = self.rows.len() - bytes.0.len();
        Ok(Change { table: Arc::clone(&self.map.table), image })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Change>;

    /// After an error there is nothing more: where the next row begins is not known.
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.rows.len() {
            return None;
        }
        let change = self.change();
        if change.is_err() {
            self.at = self.rows.len();
        }
        Some(change)
    }
}

fn row(bytes: &mut Bytes<'_>, map: &TableMap) -> Result<Row> {
    let nulls = bytes.take(map.wires.len().div_ceil(8))?;
    let mut values = Vec::with_capacity(map.wires.len());
    for (column, wire) in map.wires.iter().enumerate() {
        let value = if nulls[column / 8] >> (column % 8) & 1 == 1 {
            Value::Null
        } else {
            wire.read(bytes).map_err(|Malformed(error)| {
                let name = map.table.columns.get(column).map_or("?", |column| column.name.as_str());
                Malformed(format!("column `{name}`: {error}"))
            })?
        };
        values.push(value);
    }
    Ok(Row(values))
}
