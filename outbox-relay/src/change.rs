//! What a source's transactions did to rows: the words that readers (binlog, snapshot) and whoever applies,
//! compares or shows the rows have in common.
//!
//! A [`Txn`] is a whole source transaction. Its [`Change`]s have exactly the images that their kind has, and each
//! carries the [`Table`] as it was at that position of the source, not as it is today. The same row, read by a
//! snapshot or from the binlog, has the same [`Value`]s.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use outbox_core::Result;

pub use crate::binlog::position::{FileOffset, Position};
use crate::binlog::spool::Spool;

/// What a piece of memory of its own takes besides what is in it.
const PIECE_BYTES: usize = 16;

/// A table of the source, as it was when its row was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// The database (schema) it is in.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Its columns, generated and invisible ones too, in the order of the table.
    pub columns: Vec<Column>,
    /// Ordinals in `columns` of the primary key's parts, in the key's order; empty without a primary key.
    pub primary_key: Vec<usize>,
}

/// A column of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: ColumnType,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// The type of a column, as far as it decides how its values are read and written. `fraction` is the number of
/// digits of a second, 0 to 6; `bytes` is the longest value in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// TINYINT (1 byte), SMALLINT (2), MEDIUMINT (3), INT (4), BIGINT (8); [`Value::Int`] or [`Value::UInt`].
    #[allow(missing_docs)]
    Int { bytes: u8, unsigned: bool },
    /// FLOAT.
    Float,
    /// DOUBLE.
    Double,
    /// DECIMAL, of `precision` digits of which `scale` stand after the point.
    #[allow(missing_docs)]
    Decimal { precision: u8, scale: u8 },
    /// BIT, 1 to 64.
    #[allow(missing_docs)]
    Bit { bits: u8 },
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// TIME.
    #[allow(missing_docs)]
    Time { fraction: u8 },
    /// DATETIME.
    #[allow(missing_docs)]
    DateTime { fraction: u8 },
    /// TIMESTAMP.
    #[allow(missing_docs)]
    Timestamp { fraction: u8 },
    /// CHAR (`fixed`), VARCHAR and the TEXTs; also MariaDB's JSON, which is text there. `charset` is the source's
    /// character set; the values are UTF-8 whatever it is.
    #[allow(missing_docs)]
    Text { charset: Arc<str>, fixed: bool, bytes: u32 },
    /// BINARY (`fixed`; its values always have `bytes` bytes), VARBINARY and the BLOBs.
    #[allow(missing_docs)]
    Bytes { fixed: bool, bytes: u32 },
    /// ENUM with its labels; the value is the label as [`Value::Text`], empty for the invalid value of index 0.
    #[allow(missing_docs)]
    Enum { labels: Arc<[String]> },
    /// SET with its labels; the value is the labels, joined by commas in the order of the type, as [`Value::Text`].
    #[allow(missing_docs)]
    Set { labels: Arc<[String]> },
    /// MySQL's JSON.
    Json,
    /// GEOMETRY and its kinds.
    Geometry,
    /// MySQL's VECTOR, of at most `dimensions`.
    #[allow(missing_docs)]
    Vector { dimensions: u32 },
    /// MariaDB's UUID, INET4 or INET6: [`Value::Text`] in the server's own notation.
    #[allow(missing_docs)]
    Address(AddressType),
}

/// MariaDB's types of fixed bytes that are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// UUID.
    Uuid,
    /// INET4.
    Inet4,
    /// INET6.
    Inet6,
}

impl Table {
    /// The ordinal of a column by its name, which servers compare without case.
    pub fn ordinal(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name.eq_ignore_ascii_case(column) || c.name == column)
    }

    /// The values of a row in the primary key, in the key's order; empty without one.
    pub fn key<'r>(&self, row: &'r Row) -> impl Iterator<Item = &'r Value> {
        self.primary_key.iter().filter_map(|ordinal| row.0.get(*ordinal))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// One value, the same whether a SELECT or the binlog gave it.
///
/// Equality is equality of what is stored: floating-point numbers by their bits, text by its code points.
#[derive(Debug, Clone)]
pub enum Value {
    /// NULL.
    Null,
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL as the server writes it, with all digits of its scale: `-0.10`.
    Decimal(String),
    /// BIT, as a number.
    Bit(u64),
    /// YEAR; 0 is the zero year.
    Year(u16),
    /// DATE; its parts may be zero.
    Date(Date),
    /// TIME in microseconds, negative before zero.
    Time(i64),
    /// DATETIME, without a time zone; its parts may be zero.
    DateTime(DateTime),
    /// TIMESTAMP in microseconds since 1970 UTC; 0 is the zero value (`0000-00-00 00:00:00`).
    Timestamp(i64),
    /// Text, decoded strictly from the column's character set. Also ENUM, SET, UUID, INET4, INET6.
    Text(String),
    /// Bytes; BINARY with its padding.
    Bytes(Vec<u8>),
    /// MySQL's JSON, as the server prints it.
    Json(String),
    /// A geometry: SRID (4 bytes, little-endian), then WKB, as MySQL and MariaDB store and take it.
    Geometry(Vec<u8>),
    /// A vector: 32-bit floating-point numbers, little-endian.
    Vector(Vec<u8>),
}

/// A calendar date as stored, without any check: month and day may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
}

/// A date and time of day as stored, without any check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct DateTime {
    pub date: Date,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for DateTime {
    /// With six digits of the second, whatever the column has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, hour, minute, second, micros } = self;
        write!(f, "{date} {hour:02}:{minute:02}:{second:02}.{micros:06}")
    }
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// About how many bytes of memory it takes, for limits.
    pub fn weight_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Decimal(text) | Self::Text(text) | Self::Json(text) => PIECE_BYTES + text.len(),
                Self::Bytes(bytes) | Self::Geometry(bytes) | Self::Vector(bytes) => PIECE_BYTES + bytes.len(),
                _ => 0,
            }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Int(a), Self::Int(b))
            | (Self::Time(a), Self::Time(b))
            | (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::UInt(a), Self::UInt(b)) | (Self::Bit(a), Self::Bit(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Double(a), Self::Double(b)) => a.to_bits() == b.to_bits(),
            (Self::Year(a), Self::Year(b)) => a == b,
            (Self::Date(a), Self::Date(b)) => a == b,
            (Self::DateTime(a), Self::DateTime(b)) => a == b,
            (Self::Decimal(a), Self::Decimal(b))
            | (Self::Text(a), Self::Text(b))
            | (Self::Json(a), Self::Json(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b))
            | (Self::Geometry(a), Self::Geometry(b))
            | (Self::Vector(a), Self::Vector(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null => {}
            Self::Int(v) | Self::Time(v) | Self::Timestamp(v) => v.hash(state),
            Self::UInt(v) | Self::Bit(v) => v.hash(state),
            Self::Float(v) => v.to_bits().hash(state),
            Self::Double(v) => v.to_bits().hash(state),
            Self::Year(v) => v.hash(state),
            Self::Date(v) => v.hash(state),
            Self::DateTime(v) => v.hash(state),
            Self::Decimal(v) | Self::Text(v) | Self::Json(v) => v.hash(state),
            Self::Bytes(v) | Self::Geometry(v) | Self::Vector(v) => v.hash(state),
        }
    }
}

/// The values of one row, one per column of its table and in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row(pub Vec<Value>);

/// What happened to one row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table as of this change.
    pub table: Arc<Table>,
    /// The row before and after.
    pub image: Image,
}

/// The images that a kind of change has, always whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Image {
    /// A new row.
    Insert { after: Row },
    /// A changed row; its key may have changed too.
    Update { before: Row, after: Row },
    /// A row that is gone.
    Delete { before: Row },
}

impl Image {
    /// The row before and the row after.
    pub fn into_rows(self) -> (Option<Row>, Option<Row>) {
        match self {
            Self::Insert { after } => (None, Some(after)),
            Self::Update { before, after } => (Some(before), Some(after)),
            Self::Delete { before } => (Some(before), None),
        }
    }
}

impl Change {
    /// The row as it was; `None` for an insert.
    pub fn before(&self) -> Option<&Row> {
        match &self.image {
            Image::Update { before, .. } | Image::Delete { before } => Some(before),
            Image::Insert { .. } => None,
        }
    }

    /// The row as it is now; `None` for a delete.
    pub fn after(&self) -> Option<&Row> {
        match &self.image {
            Image::Insert { after } | Image::Update { after, .. } => Some(after),
            Image::Delete { .. } => None,
        }
    }
}

/// A whole transaction of the source.
#[derive(Debug, Clone)]
pub struct Txn {
    /// Where to resume after this transaction; it contains this transaction.
    pub position: Position,
    /// When it was committed, by the source's clock, in microseconds since 1970 (MariaDB: whole seconds).
    pub committed_at_us: i64,
    /// A checksum over what the transaction did, for recognising it when it is read again (a restored source
    /// may use the same position for another transaction).
    pub checksum: u32,
    /// What it did to the subscribed tables, in order; empty if it touched none of them.
    pub changes: Changes,
    /// DDL and other statements that the source logged as text. A transaction has either these or changes, but
    /// for CREATE TABLE … SELECT, whose statement comes first.
    pub statements: Vec<Statement>,
}

/// A statement that the source logged as text: DDL, TRUNCATE, GRANT and the like, of any database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The database that was the default when it ran; empty if none.
    pub database: String,
    /// Its text; bytes that are not UTF-8 are replaced.
    pub sql: String,
}

/// The changes of one transaction, in order; held in memory or, when large, in a temporary file. A clone shares
/// them.
#[derive(Clone)]
pub struct Changes(Held);

#[derive(Clone)]
enum Held {
    /// As they are.
    Decoded(Arc<[Change]>),
    /// As the source logged them.
    Logged(Arc<Spool>),
}

impl Changes {
    pub(crate) fn logged(spool: Spool) -> Self {
        Self(Held::Logged(Arc::new(spool)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Held::Decoded(changes) => changes.is_empty(),
            Held::Logged(spool) => spool.len() == 0,
        }
    }

    /// About how many bytes they take, for limits on what is gathered.
    pub fn weight_bytes(&self) -> u64 {
        match &self.0 {
            Held::Decoded(changes) => {
                let rows = changes.iter().flat_map(|change| [change.before(), change.after()]).flatten();
                rows.flat_map(|row| &row.0).map(|value| value.weight_bytes() as u64).sum()
            }
            Held::Logged(spool) => spool.bytes(),
        }
    }

    /// The tables that are changed, as of their changes; a table may come more than once.
    pub fn tables(&self) -> Box<dyn Iterator<Item = &Arc<Table>> + '_> {
        match &self.0 {
            Held::Decoded(changes) => Box::new(changes.iter().map(|change| &change.table)),
            Held::Logged(spool) => Box::new(spool.tables()),
        }
    }

    /// The changes in order, decoded as they are asked for; may be called again.
    ///
    /// A change that cannot be decoded is an `Err` whose cause is an [`Undecodable`], and the iteration may go
    /// on with the other tables' changes.
    ///
    /// # Errors
    /// The temporary file cannot be written to its end.
    pub fn iter(&self) -> Result<Box<dyn Iterator<Item = Result<Change>> + Send + '_>> {
        Ok(match &self.0 {
            Held::Decoded(changes) => Box::new(changes.iter().cloned().map(Ok)),
            Held::Logged(spool) => Box::new(spool.changes()?),
        })
    }
}

impl Default for Changes {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<Change>> for Changes {
    fn from(changes: Vec<Change>) -> Self {
        Self(Held::Decoded(changes.into()))
    }
}

impl fmt::Debug for Changes {
    /// How many bytes; never values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changes({} bytes)", self.weight_bytes())
    }
}

/// Why changes of a table cannot be decoded with certainty: the table has to be held until somebody has done
/// what the reason says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// The database of the table.
    pub database: String,
    /// The table.
    pub table: String,
    /// What is wrong and what helps.
    pub reason: String,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}.{}: {}", self.database, self.table, self.reason)
    }
}

impl std::error::Error for Undecodable {}
