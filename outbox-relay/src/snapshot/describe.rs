//! A table as the source's `information_schema` has it today; the same as the binary log says of its newest rows.

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};

use crate::binlog::{Link, Server, failed};
use crate::change::{AddressType, Column, ColumnType, Table};

/// What `information_schema.COLUMNS` says of a column.
pub(crate) struct Described {
    pub(crate) name: String,
    data_type: String,
    pub(crate) column_type: String,
    is_nullable: bool,
    charset: Option<String>,
    octets: Option<u64>,
    precision: Option<u64>,
    scale: Option<u64>,
    fraction: Option<u64>,
    pub(crate) collation: Option<String>,
    /// The expression of a generated column.
    pub(crate) generation: Option<String>,
    /// Whether an INSERT may leave it out.
    pub(crate) has_default: bool,
    /// Whether an UPDATE that leaves it out sets it to the time.
    pub(crate) is_touched: bool,
}

/// The table of this name; `None` if there is none.
///
/// # Errors
/// `Outage` when the server cannot be reached, `Database` when it refuses, `Invalid` when a column has a type that
/// is not known here.
pub async fn describe(server: &mut Server, database: &str, name: &str) -> Result<Option<Table>> {
    Ok(describe_whole(server.connection(), database, name).await?.map(|(table, _)| table))
}

/// The table with all that is said of each of its columns, which is as it was at one time: one statement asks for it.
pub(crate) async fn describe_whole(
    connection: &mut Link,
    database: &str,
    name: &str,
) -> Result<Option<(Table, Vec<Described>)>> {
    let failed = |error| failed(format_args!("describing {database}.{name}"), &error);
    // A row of an answer has twelve values at most.
    let has = |flags: u8, flag| flags & flag != 0;
    let described = connection
        .exec_map(
            "SELECT COLUMN_NAME, LOWER(DATA_TYPE), COLUMN_TYPE, IS_NULLABLE = 'YES', CHARACTER_SET_NAME, \
             CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE, DATETIME_PRECISION, COLLATION_NAME, \
             NULLIF(GENERATION_EXPRESSION, ''), \
             (IS_NULLABLE = 'YES' OR COLUMN_DEFAULT IS NOT NULL OR EXTRA LIKE '%auto_increment%') \
             + 2 * (EXTRA LIKE '%on update%') FROM \
             information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
            (database, name),
            |(
                name,
                data_type,
                column_type,
                is_nullable,
                charset,
                octets,
                precision,
                scale,
                fraction,
                collation,
                generation,
                flags,
            )| Described {
                name,
                data_type,
                column_type,
                is_nullable,
                charset,
                octets,
                precision,
                scale,
                fraction,
                collation,
                generation,
                has_default: has(flags, 1),
                is_touched: has(flags, 2),
            },
        )
        .await
        .map_err(failed)?;
    if described.is_empty() {
        return Ok(None);
    }
    let key: Vec<String> = connection
        .exec(
            "SELECT COLUMN_NAME FROM information_schema.STATISTICS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX",
            (database, name),
        )
        .await
        .map_err(failed)?;
    let primary_key =
        key.iter().filter_map(|part| described.iter().position(|column| column.name == *part)).collect();
    let columns = described.iter().map(|described| {
        let unknown = || {
            let column = format!("{database}.{name}, column `{}`", described.name);
            Error::new(
                ErrorKind::Invalid,
                format!("{column}: type {} is not supported", described.column_type),
            )
        };
        let kind = described.kind().ok_or_else(unknown)?;
        Ok(Column { kind, nullable: described.is_nullable, name: described.name.clone() })
    });
    let columns = columns.collect::<Result<_>>()?;
    let table = Table { database: database.to_owned(), name: name.to_owned(), columns, primary_key };
    Ok(Some((table, described)))
}

impl Described {
    fn kind(&self) -> Option<ColumnType> {
        let unsigned = self.column_type.contains(" unsigned");
        let int = |bytes| ColumnType::Int { bytes, unsigned };
        let fraction = self.fraction.unwrap_or(0) as u8;
        let bytes = self.octets.map_or(0, |octets| u32::try_from(octets).unwrap_or(u32::MAX));
        let string = |fixed| match self.charset.as_deref() {
            None | Some("binary") => ColumnType::Bytes { fixed, bytes },
            Some(charset) => ColumnType::Text { charset: charset.into(), fixed, bytes },
        };
        Some(match self.data_type.as_str() {
            "tinyint" => int(1),
            "smallint" => int(2),
            "mediumint" => int(3),
            "int" => int(4),
            "bigint" => int(8),
            "float" => ColumnType::Float,
            "double" => ColumnType::Double,
            "decimal" => ColumnType::Decimal { precision: self.precision? as u8, scale: self.scale? as u8 },
            "bit" => ColumnType::Bit { bits: self.precision? as u8 },
            "year" => ColumnType::Year,
            "date" => ColumnType::Date,
            "time" => ColumnType::Time { fraction },
            "datetime" => ColumnType::DateTime { fraction },
            "timestamp" => ColumnType::Timestamp { fraction },
            "char" | "binary" => string(true),
            "varchar" | "varbinary" | "tinytext" | "text" | "mediumtext" | "longtext" | "tinyblob"
            | "blob" | "mediumblob" | "longblob" => string(false),
            "enum" => ColumnType::Enum { labels: labels(&self.column_type)?.into() },
            "set" => ColumnType::Set { labels: labels(&self.column_type)?.into() },
            "json" => ColumnType::Json,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" => ColumnType::Geometry,
            "vector" => {
                let (_, dimensions) = self.column_type.split_once('(')?;
                ColumnType::Vector { dimensions: dimensions.strip_suffix(')')?.parse().ok()? }
            }
            "uuid" => ColumnType::Address(AddressType::Uuid),
            "inet4" => ColumnType::Address(AddressType::Inet4),
            "inet6" => ColumnType::Address(AddressType::Inet6),
            _ => return None,
        })
    }
}

/// The labels of `enum('a','b')`; a quote stands twice, a few others behind a backslash.
fn labels(column_type: &str) -> Option<Vec<String>> {
    let (_, list) = column_type.split_once('(')?;
    let mut labels = Vec::new();
    let mut rest = list.chars().peekable();
    while rest.next()? == '\'' {
        let mut label = String::new();
        loop {
            match rest.next()? {
                '\'' if rest.next_if_eq(&'\'').is_some() => label.push('\''),
                '\'' => break,
                '\\' => label.push(match rest.next()? {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }),
                c => label.push(c),
            }
        }
        labels.push(label);
        if rest.next()? == ')' {
            return Some(labels);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unquoted() {
        assert_eq!(labels("enum('a','b''c',')','')").unwrap(), ["a", "b'c", ")", ""]);
        assert_eq!(labels("set('x\\\\y')").unwrap(), ["x\\y"]);
        assert_eq!(labels("enum('a'"), None);
    }
}
