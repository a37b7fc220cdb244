//! Expression and row → true, false or unknown.

use std::borrow::Cow;
use std::cmp::Ordering;

use outbox_core::{Error, ErrorKind, Result};

use super::{Comparison, Expression, Literal, Operand};
use crate::change::{ColumnType, Row, Table, Value};
use crate::replication::sql::{date_from, date_time_from, micros_of, time_from};

type Written = Operand<String, Literal>;
type Bound = Operand<usize, Value>;

/// What can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Number,
    Text,
    Bytes,
    Date,
    DateTime,
    Timestamp,
    Time,
}

fn class(kind: &ColumnType) -> Option<Class> {
    Some(match kind {
        ColumnType::Int { .. }
        | ColumnType::Float
        | ColumnType::Double
        | ColumnType::Decimal { .. }
        | ColumnType::Bit { .. }
        | ColumnType::Year => Class::Number,
        ColumnType::Text { .. }
        | ColumnType::Enum { .. }
        | ColumnType::Set { .. }
        | ColumnType::Address(_) => Class::Text,
        ColumnType::Bytes { .. } => Class::Bytes,
        ColumnType::Date => Class::Date,
        ColumnType::DateTime { .. } => Class::DateTime,
        ColumnType::Timestamp { .. } => Class::Timestamp,
        ColumnType::Time { .. } => Class::Time,
        ColumnType::Json | ColumnType::Geometry | ColumnType::Vector { .. } => return None,
    })
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::Invalid, format!("filter: {text}"))
}

pub(super) fn bind(
    expression: &Expression<String, Literal>,
    table: &Table,
) -> Result<Expression<usize, Value>> {
    let boxed = |inner: &Expression<String, Literal>| bind(inner, table).map(Box::new);
    Ok(match expression {
        Expression::Or(left, right) => Expression::Or(boxed(left)?, boxed(right)?),
        Expression::And(left, right) => Expression::And(boxed(left)?, boxed(right)?),
        Expression::Not(inner) => Expression::Not(boxed(inner)?),
        Expression::Compare(comparison, left, right) => {
            let mut bound = operands(&[left, right], table)?.into_iter();
            match (bound.next(), bound.next()) {
                (Some(left), Some(right)) => Expression::Compare(*comparison, left, right),
                _ => Expression::Constant(None),
            }
        }
        Expression::In(left, list) => {
            let all: Vec<_> = std::iter::once(left).chain(list).collect();
            let mut bound = operands(&all, table)?;
            let left = bound.remove(0);
            Expression::In(left, bound)
        }
        Expression::Between(value, low, high) => {
            let mut bound = operands(&[value, low, high], table)?.into_iter();
            match (bound.next(), bound.next(), bound.next()) {
                (Some(value), Some(low), Some(high)) => Expression::Between(value, low, high),
                _ => Expression::Constant(None),
            }
        }
        Expression::IsNull(operand) => Expression::IsNull(match operand {
            Operand::Column(name) => Operand::Column(ordinal(name, table)?),
            Operand::Literal(Literal::Null) => Operand::Literal(Value::Null),
            Operand::Literal(_) => Operand::Literal(Value::Int(1)),
        }),
        Expression::Like(operand, pattern) => match operand {
            Operand::Column(name) => {
                let column = ordinal(name, table)?;
                if class(&table.columns[column].kind) != Some(Class::Text) {
                    return Err(invalid(format!("LIKE needs a text, and `{name}` is none")));
                }
                Expression::Like(Operand::Column(column), pattern.clone())
            }
            Operand::Literal(Literal::Text(text)) => {
                Expression::Like(Operand::Literal(Value::Text(text.clone())), pattern.clone())
            }
            Operand::Literal(_) => return Err(invalid("LIKE needs a text".into())),
        },
        Expression::Constant(value) => Expression::Constant(*value),
    })
}

fn ordinal(name: &str, table: &Table) -> Result<usize> {
    table.ordinal(name).ok_or_else(|| invalid(format!("{table} has no column `{name}`")))
}

/// Operands that are compared with each other: all of one class, the literals made values of it.
fn operands(written: &[&Written], table: &Table) -> Result<Vec<Bound>> {
    let mut found: Option<(Class, &str)> = None;
    for operand in written {
        let Operand::Column(name) = operand else { continue };
        let kind = &table.columns[ordinal(name, table)?].kind;
        let class = class(kind).ok_or_else(|| invalid(format!("`{name}` is of a type that has no order")))?;
        match found {
            Some((other, with)) if other != class => {
                return Err(invalid(format!("`{name}` and `{with}` are of types that do not compare")));
            }
            _ => found = Some((class, name)),
        }
    }
    let class = match found {
        Some((class, _)) => class,
        None if written.iter().all(|o| matches!(o, Operand::Literal(Literal::Text(_) | Literal::Null))) => {
            Class::Text
        }
        None => Class::Number,
    };
    let about = found.map_or("a value", |(_, name)| name);
    let bound = written.iter().map(|operand| match operand {
        Operand::Column(name) => Ok(Operand::Column(ordinal(name, table)?)),
        Operand::Literal(literal) => value(literal, class).map(Operand::Literal).ok_or_else(|| {
            let expected = match class {
                Class::Number => "a number",
                Class::Text => "a text in quotes",
                Class::Bytes => "bytes as x'00ff' or a text in quotes",
                Class::Date => "a date as '2024-12-31'",
                Class::DateTime | Class::Timestamp => {
                    "a time as '2024-12-31 23:59:59', in UTC for a TIMESTAMP"
                }
                Class::Time => "a time as '23:59:59'",
            };
            invalid(format!("`{about}` compares with {expected}"))
        }),
    });
    bound.collect()
}

fn value(literal: &Literal, class: Class) -> Option<Value> {
    Some(match (literal, class) {
        (Literal::Null, _) => Value::Null,
        (Literal::Number(text), Class::Number) => match text.parse() {
            Ok(number) => Value::Int(number),
            Err(_) if text.contains(['e', 'E']) => Value::Double(text.parse().ok()?),
            Err(_) => Value::Decimal(text.clone()),
        },
        (Literal::Text(text), Class::Text) => Value::Text(text.clone()),
        (Literal::Text(text), Class::Bytes) => Value::Bytes(text.clone().into_bytes()),
        (Literal::Bytes(bytes), Class::Bytes) => Value::Bytes(bytes.clone()),
        (Literal::Text(text), Class::Date) => Value::Date(date_from(text)?),
        (Literal::Text(text), Class::DateTime) => Value::DateTime(date_time_from(text)?),
        (Literal::Text(text), Class::Timestamp) => Value::Timestamp(micros_of(&date_time_from(text)?)),
        (Literal::Text(text), Class::Time) => Value::Time(time_from(text)?),
        _ => return None,
    })
}

/// Three-valued: `None` is unknown.
pub(super) fn truth(expression: &Expression<usize, Value>, row: &Row) -> Option<bool> {
    match expression {
        Expression::Or(left, right) => match (truth(left, row), truth(right, row)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        Expression::And(left, right) => match (truth(left, row), truth(right, row)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        Expression::Not(inner) => truth(inner, row).map(|truth| !truth),
        Expression::Compare(Comparison::Same, left, right) => {
            let (left, right) = (of(left, row), of(right, row));
            Some(match (left.is_null(), right.is_null()) {
                (false, false) => order(left, right) == Some(Ordering::Equal),
                (left, right) => left && right,
            })
        }
        Expression::Compare(comparison, left, right) => {
            let order = order(of(left, row), of(right, row))?;
            Some(match comparison {
                Comparison::Equal | Comparison::Same => order.is_eq(),
                Comparison::NotEqual => order.is_ne(),
                Comparison::Less => order.is_lt(),
                Comparison::LessOrEqual => order.is_le(),
                Comparison::Greater => order.is_gt(),
                Comparison::GreaterOrEqual => order.is_ge(),
            })
        }
        Expression::In(left, list) => {
            let left = of(left, row);
            let mut is_unknown = false;
            for value in list {
                match order(left, of(value, row)) {
                    Some(Ordering::Equal) => return Some(true),
                    Some(_) => {}
                    None => is_unknown = true,
                }
            }
            (!is_unknown).then_some(false)
        }
        Expression::Between(value, low, high) => {
            let value = of(value, row);
            let (from, to) = (order(value, of(low, row)), order(value, of(high, row)));
            match (from.map(Ordering::is_ge), to.map(Ordering::is_le)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            }
        }
        Expression::IsNull(operand) => Some(of(operand, row).is_null()),
        Expression::Like(operand, pattern) => match of(operand, row) {
            Value::Text(text) => {
                let (text, pattern): (Vec<_>, Vec<_>) = (text.chars().collect(), pattern.chars().collect());
                Some(like(&text, &pattern))
            }
            _ => None,
        },
        Expression::Constant(value) => *value,
    }
}

fn of<'r>(operand: &'r Bound, row: &'r Row) -> &'r Value {
    match operand {
        Operand::Column(ordinal) => row.0.get(*ordinal).unwrap_or(&Value::Null),
        Operand::Literal(value) => value,
    }
}

/// `None` if one is NULL.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
        (Value::DateTime(a), Value::DateTime(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) | (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
        _ => match (number(left)?, number(right)?) {
            (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
            (Number::Float(a), b) => a.partial_cmp(&b.float()),
            (a, Number::Float(b)) => a.float().partial_cmp(&b),
            (a, b) => Some(decimals(&a.digits(), &b.digits())),
        },
    }
}

enum Number<'v> {
    Whole(i128),
    Decimal(&'v str),
    Float(f64),
}

fn number(value: &Value) -> Option<Number<'_>> {
    Some(match value {
        Value::Int(number) => Number::Whole((*number).into()),
        Value::UInt(number) | Value::Bit(number) => Number::Whole((*number).into()),
        Value::Year(year) => Number::Whole((*year).into()),
        Value::Decimal(digits) => Number::Decimal(digits),
        Value::Float(number) => Number::Float((*number).into()),
        Value::Double(number) => Number::Float(*number),
        _ => return None,
    })
}

impl Number<'_> {
    fn float(&self) -> f64 {
        match self {
            Self::Whole(number) => *number as f64,
            Self::Decimal(digits) => digits.parse().unwrap_or(f64::NAN),
            Self::Float(number) => *number,
        }
    }

    fn digits(&self) -> Cow<'_, str> {
        match self {
            Self::Whole(number) => Cow::Owned(number.to_string()),
            Self::Decimal(digits) => Cow::Borrowed(digits),
            Self::Float(number) => Cow::Owned(number.to_string()),
        }
    }
}

/// `-1.50` against `-1.5`, exactly.
fn decimals(left: &str, right: &str) -> Ordering {
    fn parts(text: &str) -> (bool, &str, &str) {
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        (negative && !(whole.is_empty() && part.is_empty()), whole, part)
    }
    let ((negative, whole, part), (other_negative, other_whole, other_part)) = (parts(left), parts(right));
    if negative != other_negative {
        return other_negative.cmp(&negative);
    }
    let order = (whole.len(), whole, part).cmp(&(other_whole.len(), other_whole, other_part));
    if negative { order.reverse() } else { order }
}

/// `%` any text, `_` any character, a backslash takes the next one as it is.
fn like(text: &[char], pattern: &[char]) -> bool {
    let (mut t, mut p) = (0, 0);
    // Where the last `%` stands, and how far what it stands for goes.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some('%') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('_') => (t < text.len()).then_some(1),
            Some('\\') if p + 1 < pattern.len() => (text.get(t) == pattern.get(p + 1)).then_some(2),
            Some(c) => (text.get(t) == Some(c)).then_some(1),
            None if t == text.len() => return true,
            None => None,
        };
        match (step, star) {
            (Some(width), _) => {
                t += 1;
                p += width;
            }
            (None, Some((at, taken))) if taken < text.len() => {
                star = Some((at, taken + 1));
                t = taken + 1;
                p = at + 1;
            }
            (None, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Filter;
    use super::*;
    use crate::change::Column;

    fn table() -> Table {
        let column = |name: &str, kind| Column { name: name.into(), kind, nullable: true };
        let text = ColumnType::Text { charset: Arc::from("utf8mb4"), fixed: false, bytes: 80 };
        Table {
            database: "d".into(),
            name: "t".into(),
            columns: vec![
                column("id", ColumnType::Int { bytes: 8, unsigned: false }),
                column("status", text),
                column("price", ColumnType::Decimal { precision: 10, scale: 2 }),
                column("at", ColumnType::Timestamp { fraction: 0 }),
                column("j", ColumnType::Json),
            ],
            primary_key: vec![0],
        }
    }

    fn takes(filter: &str, row: &[Value]) -> Option<bool> {
        let bound = bind(&parse(filter).0, &table()).unwrap();
        truth(&bound, &Row(row.to_vec()))
    }

    fn parse(filter: &str) -> Filter {
        Filter::parse(filter).unwrap()
    }

    #[test]
    fn conditions_are_those_of_sql() {
        let row = [
            Value::Int(7),
            Value::Text("ON".into()),
            Value::Decimal("-1.50".into()),
            Value::Timestamp(1_704_067_200_000_000),
            Value::Null,
        ];
        for (filter, expected) in [
            ("id = 7", Some(true)),
            ("`ID` <> 7.0", Some(false)),
            ("id = 7e0", Some(true)),
            ("status = 'ON'", Some(true)),
            ("status = 'on'", Some(false)),
            ("status = 'ON '", Some(false)),
            ("price = -1.5 and price < -1.49", Some(true)),
            ("price between -2 and 0", Some(true)),
            ("price not between -2 and 0", Some(false)),
            ("at >= '2024-01-01'", Some(true)),
            ("at < '2024-01-01 00:00:00'", Some(false)),
            ("j is null and not id is null", Some(true)),
            ("j is not null", Some(false)),
            ("id = null", None),
            ("id <=> null", Some(false)),
            ("null <=> null", Some(true)),
            ("id = null or id = 7", Some(true)),
            ("id = null and id = 8", Some(false)),
            ("not id = null", None),
            ("id in (1, null)", None),
            ("id in (7, null)", Some(true)),
            ("id not in (1, 2)", Some(true)),
            ("id between null and 3", Some(false)),
            ("status like 'O_'", Some(true)),
            ("status like '%N%'", Some(true)),
            ("status like 'O\\_'", Some(false)),
            ("true", Some(true)),
            ("not (id = 7 or false)", Some(false)),
        ] {
            assert_eq!(takes(filter, &row), expected, "{filter}");
        }
    }

    #[test]
    fn types_that_do_not_compare_are_refused() {
        for (filter, what) in [
            ("id = 'x'", "compares with a number"),
            ("status = 1", "a text"),
            ("at > 'yesterday'", "2024-12-31 23:59:59"),
            ("nothing = 1", "no column `nothing`"),
            ("j = 'x'", "no order"),
            ("id = status", "do not compare"),
            ("id like 'x'", "LIKE"),
        ] {
            let error = parse(filter).bind(&table()).unwrap_err().to_string();
            assert!(error.contains(what), "{filter}: {error}");
        }
    }

    proptest! {
        #[test]
        fn decimals_compare_as_numbers(a in -99_999_i64..99_999, b in -99_999_i64..99_999) {
            let text = |n: i64| {
                format!("{}{:03}.{:02}0", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100)
            };
            prop_assert_eq!(decimals(&text(a), &text(b)), a.cmp(&b));
        }

        #[test]
        fn like_is_as_by_recursion(text in "[ab]{0,8}", pattern in "[ab%_]{0,6}") {
            fn slow(text: &[char], pattern: &[char]) -> bool {
                match pattern.first() {
                    None => text.is_empty(),
                    Some('%') => (0..=text.len()).any(|skip| slow(&text[skip..], &pattern[1..])),
                    Some(c) => {
                        !text.is_empty() && (*c == '_' || *c == text[0]) && slow(&text[1..], &pattern[1..])
                    }
                }
            }
            let (text, pattern): (Vec<_>, Vec<_>) = (text.chars().collect(), pattern.chars().collect());
            prop_assert_eq!(like(&text, &pattern), slow(&text, &pattern));
        }
    }
}
