//! Statements of Diesel's with their values written into the text, for MySQL and MariaDB: an INSERT of many rows
//! takes them half as long again as a prepared statement, which is prepared anew for each count of rows.

use std::fmt::Write as _;

use diesel::connection::{Connection as _, SimpleConnection as _};
use diesel::deserialize::FromSql;
use diesel::mysql::data_types::MysqlTime;
use diesel::mysql::{Mysql, MysqlConnection, MysqlQueryBuilder, MysqlType, MysqlValue};
use diesel::query_builder::bind_collector::RawBytesBindCollector;
use diesel::query_builder::{QueryBuilder as _, QueryFragment, QueryId};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sql_types::Timestamp;

use super::rendered::push_plain;
use crate::error::{ErrorKind, database_kind};

/// A longer text could pass the server's `max_allowed_packet` (16 MiB at first), which is what a prepared
/// statement sends its values in too, but as they are.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Executes an INSERT of many rows, written out where that can be done with certainty, else prepared.
///
/// # Errors
/// Any of Diesel's.
pub(crate) fn insert_many(
    connection: &mut MysqlConnection,
    statement: &(impl QueryFragment<Mysql> + QueryId),
) -> QueryResult<()> {
    if let Some(sql) = written_out(statement)? {
        match connection.batch_execute(&sql) {
            // Diesel knows no kinds of errors for text. The statement has done nothing, so the prepared one meets
            // the same duplicate and names it; after a deadlock or a lost connection there is nothing to repeat.
            Err(error @ Error::DatabaseError(DatabaseErrorKind::Unknown, _))
                if database_kind(&error) != ErrorKind::Outage => {}
            other => return other,
        }
    }
    connection.execute_returning_count(statement).map(drop)
}

/// The statement with its values in the places of the placeholders; `None` when one of them has no certain form
/// in text, or the text around them is more than names, words and punctuation.
fn written_out(statement: &impl QueryFragment<Mysql>) -> QueryResult<Option<String>> {
    let mut builder = MysqlQueryBuilder::new();
    statement.to_sql(&mut builder, &Mysql)?;
    let mut values = RawBytesBindCollector::<Mysql>::new();
    statement.collect_binds(&mut values, &mut (), &Mysql)?;
    let bytes: usize = values.binds.iter().flatten().map(|bytes| 2 * bytes.len() + 16).sum();
    if bytes > TEXT_BYTES_MAX {
        return Ok(None);
    }
    Ok(fill_in(&builder.finish(), values.metadata.iter().copied().zip(&values.binds), bytes))
}

fn fill_in<'v>(
    sql: &str,
    mut values: impl Iterator<Item = (MysqlType, &'v Option<Vec<u8>>)>,
    bytes: usize,
) -> Option<String> {
    let mut out = String::with_capacity(sql.len() + bytes);
    let mut is_name = false;
    for part in sql.split_inclusive(['`', '?', '\'', '"', '#', '-', '/']) {
        let end = part.chars().next_back()?;
        match end {
            '`' => is_name = !is_name,
            _ if is_name => {}
            '?' => {
                out.push_str(&part[..part.len() - 1]);
                let (ty, value) = values.next()?;
                match value {
                    Some(value) => push_literal(&mut out, ty, value)?,
                    None => out.push_str("NULL"),
                }
                continue;
            }
            // Quoted text or a comment, in which a `?` is none.
            '\'' | '"' | '#' | '-' | '/' => return None,
            _ => {}
        }
        out.push_str(part);
    }
    values.next().is_none().then_some(out)
}

/// A value in the bytes in which Diesel binds it.
fn push_literal(sql: &mut String, ty: MysqlType, value: &[u8]) -> Option<()> {
    // Writing into a String cannot fail.
    let _ = match ty {
        MysqlType::Tiny => write!(sql, "{}", i8::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::UnsignedTiny => write!(sql, "{}", u8::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::Short => write!(sql, "{}", i16::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::UnsignedShort => write!(sql, "{}", u16::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::Long => write!(sql, "{}", i32::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::UnsignedLong => write!(sql, "{}", u32::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::LongLong => write!(sql, "{}", i64::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::UnsignedLongLong => write!(sql, "{}", u64::from_ne_bytes(value.try_into().ok()?)),
        MysqlType::String | MysqlType::Enum | MysqlType::Set => {
            push_plain(sql, "_utf8mb4 ", value);
            Ok(())
        }
        MysqlType::Blob => {
            push_plain(sql, "_binary ", value);
            Ok(())
        }
        MysqlType::Date | MysqlType::DateTime | MysqlType::Timestamp => {
            let value = MysqlValue::new(value, MysqlType::Timestamp);
            let t = <MysqlTime as FromSql<Timestamp, Mysql>>::from_sql(value).ok()?;
            write!(sql, "'{:04}-{:02}-{:02}", t.year, t.month, t.day).and_then(|()| match ty {
                MysqlType::Date => write!(sql, "'"),
                _ => write!(sql, " {:02}:{:02}:{:02}.{:06}'", t.hour, t.minute, t.second, t.second_part),
            })
        }
        // Floats, decimals, times of day that may be negative, bits: they go as they are bound.
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(sql: &str, values: &[(MysqlType, Option<Vec<u8>>)]) -> Option<String> {
        fill_in(sql, values.iter().map(|(ty, value)| (*ty, value)), 0)
    }

    #[test]
    fn each_placeholder_gets_its_value() {
        let values = [
            (MysqlType::LongLong, Some((-7_i64).to_ne_bytes().to_vec())),
            (MysqlType::String, Some(b"'?".to_vec())),
            (MysqlType::Blob, Some(vec![0, 255])),
            (MysqlType::Tiny, None),
        ];
        let sql = "INSERT INTO `a?``?` (`b`) VALUES (?, ?, ?), (?, DEFAULT)";
        let expected =
            "INSERT INTO `a?``?` (`b`) VALUES (-7, _utf8mb4 '''?', _binary x'00ff'), (NULL, DEFAULT)";
        assert_eq!(filled(sql, &values).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_not_certain_is_left_to_a_prepared_statement() {
        let one = [(MysqlType::Tiny, Some(vec![1]))];
        assert_eq!(filled("(?)", &one).as_deref(), Some("(1)"));
        assert_eq!(filled("('?', ?)", &one), None, "quoted");
        assert_eq!(filled("(? /* ? */)", &one), None, "a comment");
        assert_eq!(filled("(?, ?)", &one), None, "a value is missing");
        assert_eq!(filled("()", &one), None, "a value is left");
        assert_eq!(filled("(?)", &[(MysqlType::Double, Some(vec![0; 8]))]), None, "a float");
        assert_eq!(filled("(?)", &[(MysqlType::Long, Some(vec![0; 3]))]), None, "of another size");
    }

    proptest! {
        /// Whatever text is bound, nothing in the literal ends it.
        #[test]
        fn text_cannot_leave_its_literal(text in "\\PC*") {
            let sql = filled("(?)", &[(MysqlType::String, Some(text.clone().into_bytes()))]).unwrap();
            let literal = sql.strip_prefix("(_utf8mb4 ").and_then(|rest| rest.strip_suffix("')")).unwrap();
            let inner = literal.strip_prefix("x'").or(literal.strip_prefix('\'')).unwrap();
            prop_assert!(!inner.replace("''", "").contains('\'') && !inner.contains('\\'), "{}", inner);
        }
    }
}
