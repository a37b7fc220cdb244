//! TABLE_MAP: a table as it was when the rows after it were written, with names and types if the server logs them
//! (`binlog_row_metadata = FULL`).

use std::sync::Arc;

use super::bytes::Bytes;
use super::charset::{BINARY, Charset, Charsets};
use super::value::Wire;
use super::{Malformed, Result};
use crate::change::{AddressType, Column, ColumnType, Table};

/// Which table a TABLE_MAP is of; cheap, for deciding whether it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableName<'b> {
    pub(crate) id: u64,
    pub(crate) database: &'b str,
    pub(crate) table: &'b str,
    /// The body without the id, which is the same as long as the table is.
    pub(crate) definition: &'b [u8],
}

/// A table with how its rows are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableMap {
    pub(crate) table: Arc<Table>,
    pub(super) wires: Vec<Wire>,
}

/// Why a TABLE_MAP does not describe a table yet.
#[derive(Debug, PartialEq)]
pub(crate) enum Unusable {
    Because(Malformed),
    /// The table of this character set has to be asked for first.
    Unasked(Arc<str>),
}

impl From<Malformed> for Unusable {
    fn from(error: Malformed) -> Self {
        Self::Because(error)
    }
}

impl Unusable {
    fn of(self, column: &str) -> Self {
        match self {
            Self::Because(error) => Malformed(format!("column `{column}`: {error}")).into(),
            other @ Self::Unasked(_) => other,
        }
    }
}

/// The servers' numbers of types.
mod wire_type {
    pub(super) const TINY: u8 = 1;
    pub(super) const SHORT: u8 = 2;
    pub(super) const LONG: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const OLD_TIMESTAMP: u8 = 7;
    pub(super) const LONGLONG: u8 = 8;
    pub(super) const INT24: u8 = 9;
    pub(super) const DATE: u8 = 10;
    pub(super) const OLD_TIME: u8 = 11;
    pub(super) const OLD_DATETIME: u8 = 12;
    pub(super) const YEAR: u8 = 13;
    pub(super) const VARCHAR: u8 = 15;
    pub(super) const BIT: u8 = 16;
    pub(super) const TIMESTAMP: u8 = 17;
    pub(super) const DATETIME: u8 = 18;
    pub(super) const TIME: u8 = 19;
    pub(super) const BLOB_COMPRESSED: u8 = 140;
    pub(super) const VARCHAR_COMPRESSED: u8 = 141;
    pub(super) const VECTOR: u8 = 242;
    pub(super) const JSON: u8 = 245;
    pub(super) const DECIMAL: u8 = 246;
    pub(super) const ENUM: u8 = 247;
    pub(super) const SET: u8 = 248;
    pub(super) const BLOB: u8 = 252;
    pub(super) const VAR_STRING: u8 = 253;
    pub(super) const STRING: u8 = 254;
    pub(super) const GEOMETRY: u8 = 255;
}
use wire_type as w;

/// A column's type and the bytes that say more about it. ENUM, SET and CHAR come as one type whose metadata hold
/// the real one: here it is resolved.
#[derive(Debug, Clone, Copy)]
struct Coded {
    kind: u8,
    /// What the metadata say: a length, pack length, digits of the fraction, …
    meta: u16,
}

/// The optional metadata.
#[derive(Default)]
struct Metadata {
    unsigned: Vec<bool>,
    names: Vec<String>,
    text_collations: Vec<u16>,
    set_labels: Vec<Vec<Vec<u8>>>,
    enum_labels: Vec<Vec<Vec<u8>>>,
    label_collations: Vec<u16>,
    primary_key: Vec<usize>,
    dimensions: Vec<u32>,
}

impl<'b> TableName<'b> {
    pub(crate) fn parse(body: &'b [u8]) -> Result<Self> {
        let mut bytes = Bytes(body);
        let id = bytes.little(6)?;
        let definition = bytes.0;
        let _flags = bytes.u16()?;
        let mut name = || {
            let length = bytes.u8()?;
            let name = std::str::from_utf8(bytes.take(usize::from(length))?);
            bytes.u8()?;
            name.map_err(|_| Malformed::new("the name of a table is not UTF-8"))
        };
        Ok(Self { id, database: name()?, table: name()?, definition })
    }
}

impl TableMap {
    /// The table of a TABLE_MAP's body. `addresses` are its columns of MariaDB's types that the event calls
    /// binary strings.
    ///
    /// Unless something is missing, the error says what is wrong with the table and what helps.
    pub(crate) fn parse(
        body: &[u8],
        charsets: &Charsets,
        addresses: &[(String, AddressType)],
    ) -> Result<Self, Unusable> {
        let name = TableName::parse(body)?;
        let mut bytes = Bytes(name.definition);
        // Flags, the lengths of the two names and their zeros.
        bytes.take(2 + name.database.len() + 2 + name.table.len() + 2)?;
        let count = bytes.length()?;
        let kinds = bytes.take(count)?;
        let mut described = Bytes(bytes.counted()?);
        let coded = kinds.iter().map(|kind| coded(*kind, &mut described)).collect::<Result<Vec<_>>>()?;
        let nullable = bytes.take(count.div_ceil(8))?;
        let metadata = Metadata::parse(&mut bytes, &coded)?;
        if metadata.names.len() != count {
            return Err(Unusable::Because(Malformed::new(
                "its rows were logged without the names of their columns; \
                 on the source run: SET GLOBAL binlog_row_metadata = 'FULL'",
            )));
        }
        if metadata.primary_key.iter().any(|ordinal| *ordinal >= count) {
            return Err(Unusable::Because(Malformed::new("a primary key of columns that do not exist")));
        }
        let mut given = Given::new(&metadata);
        let mut columns = Vec::with_capacity(count);
        let mut wires = Vec::with_capacity(count);
        for (ordinal, (coded, column)) in coded.iter().zip(&metadata.names).enumerate() {
            let address = addresses.iter().find(|(name, _)| name == column).map(|(_, address)| *address);
            let resolved = given.resolve(*coded, charsets, address);
            let (kind, wire) = resolved.map_err(|unusable| unusable.of(column))?;
            let nullable = nullable[ordinal / 8] >> (ordinal % 8) & 1 == 1;
            columns.push(Column { name: column.clone(), kind, nullable });
            wires.push(wire);
        }
        let table = Table {
            database: name.database.to_owned(),
            name: name.table.to_owned(),
            columns,
            primary_key: metadata.primary_key,
        };
        Ok(Self { table: Arc::new(table), wires })
    }
}

/// A column's type, resolved with its metadata.
fn coded(kind: u8, described: &mut Bytes<'_>) -> Result<Coded> {
    Ok(match kind {
        w::FLOAT
        | w::DOUBLE
        | w::BLOB
        | w::GEOMETRY
        | w::JSON
        | w::VECTOR
        | w::TIMESTAMP
        | w::DATETIME
        | w::TIME
        | w::BLOB_COMPRESSED
        | 249..=251 => Coded { kind, meta: u16::from(described.u8()?) },
        w::VARCHAR | w::VARCHAR_COMPRESSED => Coded { kind, meta: described.u16()? },
        // Bits beyond whole bytes, whole bytes.
        w::BIT => {
            let (rest, whole) = (described.u8()?, described.u8()?);
            Coded { kind, meta: u16::from(whole) * 8 + u16::from(rest) }
        }
        w::DECIMAL => Coded { kind, meta: u16::from_be_bytes([described.u8()?, described.u8()?]) },
        w::STRING | w::VAR_STRING | w::ENUM | w::SET => {
            let (real, length) = (described.u8()?, described.u8()?);
            // A CHAR of more than 255 bytes hides two bits of its length in the type, inverted.
            match real & 0x30 {
                0x30 => Coded { kind: real, meta: u16::from(length) },
                hidden => {
                    Coded { kind: real | 0x30, meta: u16::from(length) | u16::from(hidden ^ 0x30) << 4 }
                }
            }
        }
        _ => Coded { kind, meta: 0 },
    })
}

impl Coded {
    fn is_numeric(self) -> bool {
        matches!(
            self.kind,
            w::TINY
                | w::SHORT
                | w::INT24
                | w::LONG
                | w::LONGLONG
                | w::FLOAT
                | w::DOUBLE
                | w::DECIMAL
                | w::YEAR
        )
    }

    fn is_text(self) -> bool {
        matches!(
            self.kind,
            w::STRING
                | w::VAR_STRING
                | w::VARCHAR
                | w::BLOB
                | w::BLOB_COMPRESSED
                | w::VARCHAR_COMPRESSED
                | 249..=251
        )
    }
}

impl Metadata {
    fn parse(bytes: &mut Bytes<'_>, coded: &[Coded]) -> Result<Self> {
        let count = |wanted: fn(Coded) -> bool| coded.iter().filter(|coded| wanted(**coded)).count();
        let mut all = Self::default();
        while !bytes.is_empty() {
            let field = bytes.u8()?;
            let mut value = Bytes(bytes.counted()?);
            match field {
                // Bits from the highest; each byte has eight.
                1 => {
                    all.unsigned = value
                        .0
                        .iter()
                        .flat_map(|byte| (0..8).map(move |bit| byte << bit & 0x80 != 0))
                        .collect();
                }
                2 => all.text_collations = default_collations(&mut value, count(Coded::is_text))?,
                3 => all.text_collations = collations_of(&mut value)?,
                4 => {
                    while !value.is_empty() {
                        let name = std::str::from_utf8(value.counted()?);
                        let name = name.map_err(|_| Malformed::new("the name of a column is not UTF-8"))?;
                        all.names.push(name.to_owned());
                    }
                }
                5 => all.set_labels = labels(&mut value)?,
                6 => all.enum_labels = labels(&mut value)?,
                8 => {
                    while !value.is_empty() {
                        all.primary_key.push(value.length()?);
                    }
                }
                9 => {
                    while !value.is_empty() {
                        all.primary_key.push(value.length()?);
                        let _prefix = value.length()?;
                    }
                }
                10 => {
                    let labelled = count(|coded| matches!(coded.kind, w::ENUM | w::SET));
                    all.label_collations = default_collations(&mut value, labelled)?;
                }
                11 => all.label_collations = collations_of(&mut value)?,
                13 => {
                    while !value.is_empty() {
                        all.dimensions.push(value.length()? as u32);
                    }
                }
                // Geometry types, visibility, and what later servers add.
                _ => {}
            }
        }
        Ok(all)
    }
}

/// One collation for all but a few columns.
fn default_collations(value: &mut Bytes<'_>, count: usize) -> Result<Vec<u16>> {
    let mut collations = vec![value.length()? as u16; count];
    while !value.is_empty() {
        let (index, collation) = (value.length()?, value.length()? as u16);
        *collations.get_mut(index).ok_or_else(|| Malformed::new("a collation of no column"))? = collation;
    }
    Ok(collations)
}

fn collations_of(value: &mut Bytes<'_>) -> Result<Vec<u16>> {
    let mut collations = Vec::new();
    while !value.is_empty() {
        collations.push(value.length()? as u16);
    }
    Ok(collations)
}

fn labels(value: &mut Bytes<'_>) -> Result<Vec<Vec<Vec<u8>>>> {
    let mut columns = Vec::new();
    while !value.is_empty() {
        let count = value.length()?;
        columns.push((0..count).map(|_| Ok(value.counted()?.to_vec())).collect::<Result<_>>()?);
    }
    Ok(columns)
}

/// Hands each column what the metadata list per kind of column.
struct Given<'m> {
    unsigned: std::iter::Copied<std::slice::Iter<'m, bool>>,
    text: std::iter::Copied<std::slice::Iter<'m, u16>>,
    label_collations: std::iter::Copied<std::slice::Iter<'m, u16>>,
    enums: std::slice::Iter<'m, Vec<Vec<u8>>>,
    sets: std::slice::Iter<'m, Vec<Vec<u8>>>,
    dimensions: std::iter::Copied<std::slice::Iter<'m, u32>>,
}

impl<'m> Given<'m> {
    fn new(metadata: &'m Metadata) -> Self {
        Self {
            unsigned: metadata.unsigned.iter().copied(),
            text: metadata.text_collations.iter().copied(),
            label_collations: metadata.label_collations.iter().copied(),
            enums: metadata.enum_labels.iter(),
            sets: metadata.set_labels.iter(),
            dimensions: metadata.dimensions.iter().copied(),
        }
    }

    fn resolve(
        &mut self,
        coded: Coded,
        charsets: &Charsets,
        address: Option<AddressType>,
    ) -> Result<(ColumnType, Wire), Unusable> {
        let missing = || Malformed::new("the metadata of its type are missing");
        let unsigned = if coded.is_numeric() { self.unsigned.next().ok_or_else(missing)? } else { false };
        let collation = if coded.is_text() { self.text.next().ok_or_else(missing)? } else { BINARY };
        let int = |bytes| (ColumnType::Int { bytes, unsigned }, Wire::Int { bytes, unsigned });
        let fraction = coded.meta as u8;
        Ok(match coded.kind {
            w::TINY => int(1),
            w::SHORT => int(2),
            w::INT24 => int(3),
            w::LONG => int(4),
            w::LONGLONG => int(8),
            w::FLOAT => (ColumnType::Float, Wire::Float),
            w::DOUBLE => (ColumnType::Double, Wire::Double),
            w::DECIMAL => {
                let [precision, scale] = coded.meta.to_be_bytes();
                (ColumnType::Decimal { precision, scale }, Wire::Decimal { precision, scale })
            }
            w::BIT => {
                let bits = coded.meta as u8;
                (ColumnType::Bit { bits }, Wire::Bit { bytes: bits.div_ceil(8) })
            }
            w::YEAR => (ColumnType::Year, Wire::Year),
            w::DATE => (ColumnType::Date, Wire::Date),
            w::TIME => (ColumnType::Time { fraction }, Wire::Time { fraction }),
            w::DATETIME => (ColumnType::DateTime { fraction }, Wire::DateTime { fraction }),
            w::TIMESTAMP => (ColumnType::Timestamp { fraction }, Wire::Timestamp { fraction }),
            w::OLD_TIMESTAMP | w::OLD_TIME | w::OLD_DATETIME => {
                return Err(Unusable::Because(Malformed::new(
                    "it has the format of dates before MySQL 5.6; on the source run ALTER TABLE … FORCE",
                )));
            }
            w::ENUM => {
                let labels = self.labels(true, charsets)?;
                let wire = Wire::Enum { bytes: coded.meta as u8, labels: Arc::clone(&labels) };
                (ColumnType::Enum { labels }, wire)
            }
            w::SET => {
                let labels = self.labels(false, charsets)?;
                let wire = Wire::Set { bytes: coded.meta as u8, labels: Arc::clone(&labels) };
                (ColumnType::Set { labels }, wire)
            }
            w::JSON => (ColumnType::Json, Wire::Json { length_bytes: coded.meta as u8 }),
            w::GEOMETRY => (ColumnType::Geometry, Wire::Geometry { length_bytes: coded.meta as u8 }),
            w::VECTOR => {
                let dimensions = self.dimensions.next().ok_or_else(missing)?;
                (ColumnType::Vector { dimensions }, Wire::Vector { length_bytes: coded.meta as u8 })
            }
            w::STRING | w::VAR_STRING | w::VARCHAR => {
                let length_bytes = if coded.meta > 255 { 2 } else { 1 };
                let fixed = coded.kind != w::VARCHAR;
                match address {
                    Some(address) if fixed => {
                        (ColumnType::Address(address), Wire::Address { length_bytes, address })
                    }
                    _ => string(collation, fixed, u32::from(coded.meta), length_bytes, charsets)?,
                }
            }
            w::BLOB | 249..=251 => {
                let bytes = [0xff, 0xffff, 0xff_ffff, u32::MAX];
                let bytes = bytes.get(usize::from(coded.meta).wrapping_sub(1)).copied();
                let bytes = bytes.ok_or_else(|| Malformed::new("a BLOB of an unknown length"))?;
                string(collation, false, bytes, coded.meta as u8, charsets)?
            }
            w::BLOB_COMPRESSED | w::VARCHAR_COMPRESSED => {
                return Err(Unusable::Because(Malformed::new(
                    "it is COMPRESSED, which is not supported; on the source modify it to be without COMPRESSED",
                )));
            }
            other => return Err(Malformed(format!("it has type {other}, which is not supported")).into()),
        })
    }

    fn labels(&mut self, is_enum: bool, charsets: &Charsets) -> Result<Arc<[String]>, Unusable> {
        let missing = || Malformed::new("its labels are missing");
        let of_column = if is_enum { self.enums.next() } else { self.sets.next() };
        let (_, charset) = charset(self.label_collations.next().ok_or_else(missing)?, charsets)?;
        let decode =
            |label: &Vec<u8>| charset.as_ref().map_or_else(|| utf8(label), |charset| charset.decode(label));
        let labels: Option<_> = of_column.ok_or_else(missing)?.iter().map(decode).collect();
        Ok(labels.ok_or_else(|| Malformed::new("a label is not valid in its character set"))?)
    }
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A column of text or of bytes.
fn string(
    collation: u16,
    fixed: bool,
    bytes: u32,
    length_bytes: u8,
    charsets: &Charsets,
) -> Result<(ColumnType, Wire), Unusable> {
    Ok(match charset(collation, charsets)? {
        (name, Some(charset)) => {
            (ColumnType::Text { charset: name, fixed, bytes }, Wire::Text { length_bytes, charset })
        }
        (_, None) => {
            let padded = if fixed { bytes } else { 0 };
            (ColumnType::Bytes { fixed, bytes }, Wire::Bytes { length_bytes, padded })
        }
    })
}

/// The character set of a collation, `None` for bytes.
fn charset(collation: u16, charsets: &Charsets) -> Result<(Arc<str>, Option<Charset>), Unusable> {
    if collation == BINARY {
        return Ok(("binary".into(), None));
    }
    let name = charsets.collations.get(&collation);
    let name = name.ok_or_else(|| Malformed(format!("the server does not name collation {collation}")))?;
    match charsets.tables.get(name) {
        Some(None) => Err(Unusable::Because(Malformed(format!(
            "its character set {name} is not supported; on the source convert it to utf8mb4"
        )))),
        _ => match Charset::named(name, charsets) {
            Some(charset) => Ok((Arc::clone(name), Some(charset))),
            None => Err(Unusable::Unasked(Arc::clone(name))),
        },
    }
}
