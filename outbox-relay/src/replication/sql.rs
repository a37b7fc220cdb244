//! Names and values in SQL, and values as JSON. The only place that writes either.

use std::fmt::Write as _;

use outbox_core::{Error, ErrorKind, Result};
use serde_json::{Value as Json, json};

use super::json;
use crate::change::{Column, ColumnType, Date, DateTime, Value};
use crate::snapshot::days;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// A name in backticks.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Appends a value as a literal for a column of the target.
///
/// It means the same whatever the session's `sql_mode` is. Texts are for a session in `utf8mb4`, times for one in UTC.
/// What does not fit into the column is left to the server, which refuses it in a strict mode.
pub fn literal(sql: &mut String, value: &Value, kind: &ColumnType) {
    // Writing into a String cannot fail.
    let _ = match value {
        Value::Null => write!(sql, "NULL"),
        // FLOAT and DOUBLE compare and store what a YEAR or BIT column takes as a number too.
        Value::Int(number) => write!(sql, "{number}"),
        Value::UInt(number) | Value::Bit(number) => write!(sql, "{number}"),
        // 0 as a text would be the year 2000.
        Value::Year(year) => write!(sql, "{year}"),
        // Widened: a column compares as DOUBLE, and gets back exactly this when it is narrowed.
        Value::Float(number) => return double(sql, f64::from(*number)),
        Value::Double(number) => return double(sql, *number),
        Value::Decimal(digits) => write!(sql, "{digits}"),
        Value::Date(date) => write!(sql, "'{date}'"),
        Value::Time(micros) => write!(sql, "'{}'", time_text(*micros)),
        Value::DateTime(time) => write!(sql, "'{time}'"),
        Value::Timestamp(micros) => write!(sql, "'{}'", date_time(*micros)),
        Value::Text(text) if matches!(kind, ColumnType::Bytes { .. }) => return hex(sql, text.as_bytes()),
        Value::Json(text) if matches!(kind, ColumnType::Json) => {
            return match json::expression(text) {
                Some(expression) => sql.push_str(&expression),
                None => self::text(sql, text),
            };
        }
        Value::Text(text) | Value::Json(text) => return self::text(sql, text),
        Value::Bytes(bytes) | Value::Geometry(bytes) | Value::Vector(bytes) => return hex(sql, bytes),
    };
}

/// Appends a text, for a session in `utf8mb4`: to say so with each text costs a server a fifth of the time of an INSERT.
/// A backslash means different things in different modes, so such a text goes as hex digits.
pub fn text(sql: &mut String, text: &str) {
    if text.contains('\\') {
        sql.push_str("_utf8mb4 ");
        return hex(sql, text.as_bytes());
    }
    sql.push('\'');
    let mut parts = text.split('\'');
    sql.push_str(parts.next().unwrap_or_default());
    for part in parts {
        sql.push_str("''");
        sql.push_str(part);
    }
    sql.push('\'');
}

fn hex(sql: &mut String, bytes: &[u8]) {
    sql.push_str("x'");
    digits(sql, bytes);
    sql.push('\'');
}

fn digits(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    sql.reserve(bytes.len() * 2 + 1);
    for byte in bytes {
        sql.push(char::from(DIGITS[usize::from(byte >> 4)]));
        sql.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Whether a value means the same as a [`field`] as it does as a [`literal`]. What is not sure is not.
pub(super) fn is_field(value: &Value, column: &Column) -> bool {
    use ColumnType as Kind;
    match (value, &column.kind) {
        // NULL would become the column's default where it is not allowed.
        (Value::Null, Kind::Bit { .. } | Kind::Geometry | Kind::Vector { .. }) => false,
        (Value::Null, _) => column.nullable,
        (Value::Int(_) | Value::UInt(_) | Value::Decimal(_), kind) => {
            matches!(
                kind,
                Kind::Int { .. } | Kind::Decimal { .. } | Kind::Float | Kind::Double | Kind::Text { .. }
            )
        }
        (Value::Float(number), Kind::Float | Kind::Double) => !f64::from(*number).is_subnormal(),
        (Value::Double(number), Kind::Float | Kind::Double) => !number.is_subnormal(),
        // As a text it would be the year 2000.
        (Value::Year(year), Kind::Year) => *year != 0,
        (Value::Date(_), kind) => matches!(kind, Kind::Date | Kind::DateTime { .. }),
        (Value::Time(_), kind) => matches!(kind, Kind::Time { .. }),
        (Value::DateTime(_) | Value::Timestamp(_), kind) => {
            matches!(kind, Kind::DateTime { .. } | Kind::Timestamp { .. })
        }
        // The invalid value of an ENUM is an empty text.
        (Value::Text(text), Kind::Enum { .. }) => !text.is_empty(),
        (Value::Text(_), kind) => {
            matches!(kind, Kind::Text { .. } | Kind::Set { .. } | Kind::Address(_) | Kind::Bytes { .. })
        }
        (Value::Json(text), Kind::Json) => json::expression(text).is_none(),
        (Value::Json(_), kind) => matches!(kind, Kind::Text { .. }),
        (Value::Bytes(_), kind) => matches!(kind, Kind::Bytes { .. }),
        _ => false,
    }
}

/// Appends a value as a field of a line for LOAD DATA, as it reads a file by default: `\N` is NULL, and a backslash
/// stands before what would end a field or a line. Bytes are hex digits. Only of what [`is_field`].
pub(super) fn field(line: &mut String, value: &Value, column: &Column) {
    let is_bytes = matches!(column.kind, ColumnType::Bytes { .. });
    match value {
        Value::Null => line.push_str("\\N"),
        Value::Bytes(bytes) => digits(line, bytes),
        Value::Text(text) if is_bytes => digits(line, text.as_bytes()),
        Value::Text(text) | Value::Json(text) => {
            let mut rest = text.as_str();
            while let Some(at) = rest.find(['\\', '\t', '\n', '\0']) {
                let (plain, special) = rest.split_at(at);
                line.push_str(plain);
                line.push_str(match special.as_bytes()[0] {
                    b'\t' => "\\t",
                    b'\n' => "\\n",
                    0 => "\\0",
                    _ => "\\\\",
                });
                rest = &special[1..];
            }
            line.push_str(rest);
        }
        other => {
            let from = line.len();
            literal(line, other, &column.kind);
            // What a literal has around a time or a negative zero.
            if line[from..].starts_with('\'') {
                line.pop();
                line.remove(from);
            }
        }
    }
}

fn double(sql: &mut String, number: f64) {
    let _ = if number == 0.0 && number.is_sign_negative() {
        // As a number its sign would be lost.
        write!(sql, "'-0'")
    } else if number.is_subnormal() {
        // The servers' parsers round these; multiplying by a power of two is exact.
        let (up, down) = (2_f64.powi(600), 2_f64.powi(-600));
        write!(sql, "({:e}*{down:e})", number * up)
    } else {
        write!(sql, "{number:e}")
    };
}

/// Microseconds as the text of a TIME: `-838:59:59.000000`.
fn time_text(micros: i64) -> String {
    let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let (seconds, part) = (micros / 1_000_000, micros % 1_000_000);
    format!("{sign}{:02}:{:02}:{:02}.{part:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Microseconds since 1970 as date and time in UTC; 0 is the zero value, as in [`Value::Timestamp`].
pub(super) fn date_time(micros: i64) -> DateTime {
    if micros == 0 {
        let date = Date { year: 0, month: 0, day: 0 };
        return DateTime { date, hour: 0, minute: 0, second: 0, micros: 0 };
    }
    let (day, rest) = (micros.div_euclid(DAY_US), micros.rem_euclid(DAY_US));
    let seconds = rest / SECOND_US;
    DateTime {
        date: date(day),
        hour: (seconds / 3600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        micros: (rest % SECOND_US) as u32,
    }
}

/// Days since 1970 as a date: the year and the month are looked for, as [`days`] is the other way.
fn date(day: i64) -> Date {
    let mut year = (1970 + day / 366).clamp(0, 9999) as u16;
    if day < 0 {
        year = (1969 + day / 365).clamp(0, 9999) as u16;
    }
    while year < 9999 && days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    Date { year, month, day: (day - days(year, month, 1) + 1) as u8 }
}

/// Microseconds since 1970 of a date and time in UTC; 0 for the zero value.
pub(super) fn micros_of(time: &DateTime) -> i64 {
    let DateTime { date, hour, minute, second, micros } = *time;
    if date.month == 0 {
        return 0;
    }
    let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second);
    days(date.year, date.month, date.day) * DAY_US + seconds * SECOND_US + i64::from(micros)
}

/// Values as JSON text, for the tables of state: each as an object of its kind and a text.
pub(super) fn to_json(values: &[Value]) -> String {
    let values = values.iter().map(|value| match value {
        Value::Null => Json::Null,
        Value::Int(v) => json!({ "int": v.to_string() }),
        Value::UInt(v) => json!({ "uint": v.to_string() }),
        // By their bits: a text may round.
        Value::Float(v) => json!({ "float": v.to_bits().to_string(), "is": v }),
        Value::Double(v) => json!({ "double": v.to_bits().to_string(), "is": v }),
        Value::Decimal(v) => json!({ "decimal": v }),
        Value::Bit(v) => json!({ "bit": v.to_string() }),
        Value::Year(v) => json!({ "year": v.to_string() }),
        Value::Date(v) => json!({ "date": v.to_string() }),
        Value::Time(v) => json!({ "time_us": v.to_string(), "is": time_text(*v) }),
        Value::DateTime(v) => json!({ "datetime": v.to_string() }),
        Value::Timestamp(v) => json!({ "timestamp_us": v.to_string(), "is": date_time(*v).to_string() }),
        Value::Text(v) => json!({ "text": v }),
        Value::Json(v) => json!({ "json": v }),
        Value::Bytes(v) => json!({ "bytes": hex_of(v) }),
        Value::Geometry(v) => json!({ "geometry": hex_of(v) }),
        Value::Vector(v) => json!({ "vector": hex_of(v) }),
    });
    Json::Array(values.collect()).to_string()
}

/// What [`to_json`] wrote.
///
/// # Errors
/// `Invalid` when it is something else.
pub(super) fn from_json(text: &str) -> Result<Vec<Value>> {
    let wrong = || Error::new(ErrorKind::Invalid, "a stored key or row is not what was written");
    let Ok(Json::Array(values)) = serde_json::from_str(text) else { return Err(wrong()) };
    values.iter().map(|value| value_from_json(value).ok_or_else(wrong)).collect()
}

fn value_from_json(value: &Json) -> Option<Value> {
    let Json::Object(object) = value else { return value.is_null().then_some(Value::Null) };
    let (kind, text) = object.iter().find(|(kind, _)| *kind != "is")?;
    let text = text.as_str()?;
    Some(match kind.as_str() {
        "int" => Value::Int(text.parse().ok()?),
        "uint" => Value::UInt(text.parse().ok()?),
        "float" => Value::Float(f32::from_bits(text.parse().ok()?)),
        "double" => Value::Double(f64::from_bits(text.parse().ok()?)),
        "decimal" if text.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'.') => {
            Value::Decimal(text.to_owned())
        }
        "bit" => Value::Bit(text.parse().ok()?),
        "year" => Value::Year(text.parse().ok()?),
        "date" => Value::Date(date_from(text)?),
        "time_us" => Value::Time(text.parse().ok()?),
        "datetime" => Value::DateTime(date_time_from(text)?),
        "timestamp_us" => Value::Timestamp(text.parse().ok()?),
        "text" => Value::Text(text.to_owned()),
        "json" => Value::Json(text.to_owned()),
        "bytes" => Value::Bytes(from_hex(text)?),
        "geometry" => Value::Geometry(from_hex(text)?),
        "vector" => Value::Vector(from_hex(text)?),
        _ => return None,
    })
}

fn hex_of(bytes: &[u8]) -> String {
    let mut sql = String::new();
    hex(&mut sql, bytes);
    sql[2..sql.len() - 1].to_owned()
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// `2024-02-31` → a date, without any check but of the form.
pub(super) fn date_from(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let date = Date {
        year: parts.next()?.parse().ok()?,
        month: parts.next()?.parse().ok()?,
        day: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(date)
}

/// `2024-02-31`, `2024-02-31 01:02:03`, `2024-02-31 01:02:03.5` → date and time.
pub(super) fn date_time_from(text: &str) -> Option<DateTime> {
    let Some((day, time)) = text.split_once([' ', 'T']) else {
        return Some(DateTime { date: date_from(text)?, hour: 0, minute: 0, second: 0, micros: 0 });
    };
    let micros = time_from(time)?;
    let seconds = u64::try_from(micros).ok()? / 1_000_000;
    Some(DateTime {
        date: date_from(day)?,
        hour: u8::try_from(seconds / 3600).ok()?,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        micros: (micros % SECOND_US) as u32,
    })
}

/// `-838:59:59.000001` → microseconds.
pub(super) fn time_from(text: &str) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (clock, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.len() > 6 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut parts = clock.split(':');
    let mut part_of = |max: i64| parts.next()?.parse::<i64>().ok().filter(|n| (0..=max).contains(n));
    let (hours, minutes) = (part_of(838)?, part_of(59)?);
    let seconds = if clock.matches(':').count() > 1 { part_of(59)? } else { 0 };
    let micros: i64 = format!("{part:0<6}").parse().ok()?;
    let whole = ((hours * 60 + minutes) * 60 + seconds) * SECOND_US + micros;
    parts.next().is_none().then_some(if negative { -whole } else { whole })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sql_of(value: Value) -> String {
        let mut sql = String::new();
        literal(&mut sql, &value, &ColumnType::Double);
        sql
    }

    pub(crate) fn value() -> impl Strategy<Value = Value> {
        let date =
            (0..10_000_u16, 0..13_u8, 0..32_u8).prop_map(|(year, month, day)| Date { year, month, day });
        let time = (date.clone(), 0..24_u8, 0..60_u8, 0..60_u8, 0..1_000_000_u32)
            .prop_map(|(date, hour, minute, second, micros)| DateTime { date, hour, minute, second, micros });
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::UInt),
            any::<f32>().prop_map(Value::Float),
            any::<f64>().prop_map(Value::Double),
            "-?[0-9]{1,20}\\.[0-9]{1,10}".prop_map(Value::Decimal),
            any::<u64>().prop_map(Value::Bit),
            date.prop_map(Value::Date),
            time.prop_map(Value::DateTime),
            (-3_020_399_999_999..3_020_399_999_999_i64).prop_map(Value::Time),
            (0..4_294_967_295_999_999_i64).prop_map(Value::Timestamp),
            ".{0,20}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn names_are_one_name(name in ".{0,20}") {
            let quoted = quoted(&name);
            let inner = quoted.strip_prefix('`').unwrap().strip_suffix('`').unwrap();
            prop_assert_eq!(inner.replace("``", ""), name.replace('`', ""));
            prop_assert_eq!(inner.matches('`').count(), 2 * name.matches('`').count());
        }

        #[test]
        fn a_text_ends_where_it_ends_in_every_mode(text in "[a-z'\"\\\\\u{0}\n%?:`é😀]{0,20}") {
            let sql = sql_of(Value::Text(text.clone()));
            prop_assert!(!sql.contains('\\'));
            match sql.strip_prefix("_utf8mb4 x'") {
                Some(digits) => {
                    let bytes = from_hex(digits.strip_suffix('\'').unwrap()).unwrap();
                    prop_assert_eq!(bytes, text.as_bytes());
                }
                None => {
                    let inner = sql.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
                    prop_assert!(!inner.replace("''", "").contains('\''));
                    prop_assert_eq!(inner.replace("''", "'"), text);
                }
            }
        }

        #[test]
        fn numbers_keep_their_bits(bits in any::<u64>(), narrow in any::<u32>()) {
            let parsed = |sql: &str| match sql.trim_matches(['(', ')', '\'']).split_once('*') {
                Some((a, b)) => a.parse::<f64>().unwrap() * b.parse::<f64>().unwrap(),
                None => sql.trim_matches('\'').parse().unwrap(),
            };
            let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(narrow));
            if wide.is_finite() {
                prop_assert_eq!(parsed(&sql_of(Value::Double(wide))).to_bits(), bits);
            }
            if narrow.is_finite() {
                prop_assert_eq!((parsed(&sql_of(Value::Float(narrow))) as f32).to_bits(), narrow.to_bits());
            }
        }

        #[test]
        fn what_is_stored_is_read_again(values in prop::collection::vec(value(), 0..6)) {
            prop_assert_eq!(from_json(&to_json(&values))?, values);
        }

        #[test]
        fn times_come_back(micros in 1..253_402_300_799_999_999_i64) {
            prop_assert_eq!(micros_of(&date_time(micros)), micros);
            prop_assert_eq!(date_time_from(&date_time(micros).to_string()), Some(date_time(micros)));
        }

        #[test]
        fn clocks_come_back(micros in -3_020_399_999_999..3_020_399_999_999_i64) {
            prop_assert_eq!(time_from(&time_text(micros)), Some(micros));
        }
    }

    #[test]
    fn literals_are_as_the_servers_take_them() {
        assert_eq!(sql_of(Value::Double(-0.0)), "'-0'");
        assert_eq!(sql_of(Value::Float(-0.0)), "'-0'");
        assert_eq!(sql_of(Value::Float(0.1)), "1.0000000149011612e-1");
        assert_eq!(sql_of(Value::Time(-1)), "'-00:00:00.000001'");
        assert_eq!(sql_of(Value::Timestamp(0)), "'0000-00-00 00:00:00.000000'");
        assert_eq!(sql_of(Value::Year(0)), "0");
        assert_eq!(sql_of(Value::Text("it's".into())), "'it''s'");
        assert_eq!(sql_of(Value::Bytes(vec![0, 255])), "x'00FF'");
    }
}
