//! The answer to a SELECT → values. By the binary protocol only: the text protocol rounds FLOAT.

use mysql_async::Value as Answer;
use outbox_core::{Error, ErrorKind, Result};

use crate::change::{ColumnType, Date, DateTime, Row, Table, Value};
use crate::replication::sql::quoted;

const DAY_US: i64 = 24 * HOUR_US;
const HOUR_US: i64 = 3600 * SECOND_US;
const SECOND_US: i64 = 1_000_000;

/// The columns of a table for a SELECT, in its order, for [`row`]. It has to run as a prepared statement, in a
/// session as [`Server::connect`](crate::binlog::Server::connect) makes it.
pub fn select_list(table: &Table) -> String {
    let quoted: Vec<_> = table.columns.iter().map(|column| quoted(&column.name)).collect();
    quoted.join(", ")
}

/// The row of an answer to a SELECT of [`select_list`].
///
/// # Errors
/// `Invalid` when a value is not of its column's type: the table was altered meanwhile.
pub fn row(table: &Table, answer: mysql_async::Row) -> Result<Row> {
    let answers = answer.unwrap();
    let changed = |column: &str| {
        let text =
            format!("{table}, column `{column}`: not of the type that it had; describe the table again");
        Error::new(ErrorKind::Invalid, text)
    };
    if answers.len() != table.columns.len() {
        return Err(changed("*"));
    }
    let values = table.columns.iter().zip(answers);
    values
        .map(|(column, answer)| value(&column.kind, answer).ok_or_else(|| changed(&column.name)))
        .collect::<Result<_>>()
        .map(Row)
}

fn value(kind: &ColumnType, answer: Answer) -> Option<Value> {
    Some(match (kind, answer) {
        (_, Answer::NULL) => Value::Null,
        (ColumnType::Int { unsigned: false, .. }, Answer::Int(number)) => Value::Int(number),
        (ColumnType::Int { unsigned: true, .. }, Answer::Int(number)) => Value::UInt(number.try_into().ok()?),
        (ColumnType::Int { unsigned: true, .. }, Answer::UInt(number)) => Value::UInt(number),
        (ColumnType::Float, Answer::Float(number)) => Value::Float(number),
        (ColumnType::Double, Answer::Double(number)) => Value::Double(number),
        (ColumnType::Decimal { .. }, Answer::Bytes(digits)) => {
            Value::Decimal(String::from_utf8(digits).ok()?)
        }
        (ColumnType::Bit { .. }, Answer::Bytes(bytes)) if bytes.len() <= 8 => {
            Value::Bit(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        }
        (ColumnType::Year, Answer::Int(year)) => Value::Year(year.try_into().ok()?),
        (ColumnType::Year, Answer::UInt(year)) => Value::Year(year.try_into().ok()?),
        (ColumnType::Date, Answer::Date(year, month, day, ..)) => Value::Date(Date { year, month, day }),
        (ColumnType::Time { .. }, Answer::Time(negative, days, hours, minutes, seconds, micros)) => {
            let whole = i64::from(days) * DAY_US
                + i64::from(hours) * HOUR_US
                + (i64::from(minutes) * 60 + i64::from(seconds)) * SECOND_US
                + i64::from(micros);
            Value::Time(if negative { -whole } else { whole })
        }
        (ColumnType::DateTime { .. }, Answer::Date(year, month, day, hour, minute, second, micros)) => {
            Value::DateTime(DateTime { date: Date { year, month, day }, hour, minute, second, micros })
        }
        (ColumnType::Timestamp { .. }, Answer::Date(0, 0, 0, ..)) => Value::Timestamp(0),
        (ColumnType::Timestamp { .. }, Answer::Date(year, month, day, hour, minute, second, micros)) => {
            let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
            Value::Timestamp(days(year, month, day) * DAY_US + seconds * SECOND_US + i64::from(micros))
        }
        (
            ColumnType::Text { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Set { .. }
            | ColumnType::Address(_),
            Answer::Bytes(text),
        ) => Value::Text(String::from_utf8(text).ok()?),
        (ColumnType::Bytes { .. }, Answer::Bytes(bytes)) => Value::Bytes(bytes),
        (ColumnType::Json, Answer::Bytes(text)) => Value::Json(String::from_utf8(text).ok()?),
        (ColumnType::Geometry, Answer::Bytes(bytes)) => Value::Geometry(bytes),
        (ColumnType::Vector { .. }, Answer::Bytes(bytes)) => Value::Vector(bytes),
        _ => return None,
    })
}

/// Days from 1970-01-01, which is 719,528 days after the year 0's first.
pub(crate) fn days(year: u16, month: u8, day: u8) -> i64 {
    // Counted from March, so that the leap day is the year's last.
    let (year, month) =
        if month > 2 { (i64::from(year), month - 3) } else { (i64::from(year) - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * i64::from(month) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2038, 1, 19), 24_855);
    }
}
