//! Reserved values: what a unique column holds for the moment in which other rows of the transaction move.

use uuid::Uuid;

use crate::change::{AddressType, Column, ColumnType, Date, DateTime, Value};

/// So many characters or bytes are enough for values that nobody has.
const LENGTH: usize = 20;

/// Of the columns of a unique key the one that is parked: one that takes NULL rather than one with room for reserved
/// values; `None` if there is neither.
pub(super) fn column(columns: &[Column], of_key: &[usize]) -> Option<usize> {
    let find = |is_fit: &dyn Fn(&Column) -> bool| of_key.iter().copied().find(|at| is_fit(&columns[*at]));
    find(&|column| column.nullable).or_else(|| find(&|column| reserved(column).is_some()))
}

/// A value for parking that no row is likely to have, another one with each call; `None` where the type has too few
/// values for that.
pub(super) fn reserved(column: &Column) -> Option<Value> {
    // Version 7: the last 62 bits are random.
    let random = Uuid::now_v7().as_u128() as u64 & (u64::MAX >> 2);
    Some(match &column.kind {
        ColumnType::Int { bytes: 1, .. } => return None,
        // The uppermost quarter, that of numbers without a sign too.
        ColumnType::Int { bytes, unsigned } => {
            let bits = u32::from(*bytes) * 8 - u32::from(!unsigned);
            let top = u64::MAX >> (64 - bits);
            let number = top - random % (top / 4);
            if *unsigned { Value::UInt(number) } else { Value::Int(number as i64) }
        }
        ColumnType::Decimal { precision, scale } => {
            let digits = usize::from(precision - scale).min(18);
            if digits < 5 {
                return None;
            }
            Value::Decimal(format!("9{:01$}", random % 10_u64.pow(digits as u32 - 1), digits - 1))
        }
        ColumnType::Double => Value::Double(1e300 * (1.0 + random as f64 / u64::MAX as f64)),
        ColumnType::Date => Value::Date(late(random)),
        ColumnType::DateTime { .. } => {
            let part = |of: u64, count: u64| (random / of % count) as u8;
            Value::DateTime(DateTime {
                date: late(random),
                hour: part(1 << 30, 24),
                minute: part(1 << 36, 60),
                second: part(1 << 42, 60),
                micros: 0,
            })
        }
        // From 2035.
        ColumnType::Timestamp { .. } => {
            Value::Timestamp((2_051_222_400 + (random % 90_000_000) as i64) * 1_000_000)
        }
        ColumnType::Time { .. } => Value::Time((random % 3_000_000) as i64 * 1_000_000),
        ColumnType::Text { charset, bytes, .. } => {
            let length = (*bytes as usize / widest(charset)).min(LENGTH);
            if length < 4 {
                return None;
            }
            const CHARACTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
            let mut seed = random;
            let text = (0..length).map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(CHARACTERS[(seed >> 40) as usize % CHARACTERS.len()])
            });
            Value::Text(text.collect())
        }
        ColumnType::Bytes { bytes, .. } => {
            let length = (*bytes as usize).min(LENGTH);
            if length < 4 {
                return None;
            }
            let mut value = random.to_le_bytes()[..length.min(8)].to_vec();
            value.resize(length, 0);
            Value::Bytes(value)
        }
        ColumnType::Address(AddressType::Uuid) => Value::Text(Uuid::now_v7().to_string()),
        ColumnType::Address(AddressType::Inet4) => {
            let [a, b, c, ..] = random.to_le_bytes();
            Value::Text(format!("{}.{a}.{b}.{c}", 240 + random % 15))
        }
        ColumnType::Address(AddressType::Inet6) => Value::Text(format!(
            "fd00::{:x}:{:x}:{:x}",
            random & 0xffff,
            random >> 16 & 0xffff,
            random >> 32 & 0xffff
        )),
        _ => return None,
    })
}

/// A date from the year 9000 on.
fn late(random: u64) -> Date {
    Date {
        year: 9000 + (random % 999) as u16,
        month: 1 + (random >> 10) as u8 % 12,
        day: 1 + (random >> 20) as u8 % 28,
    }
}

/// The longest character of a character set, in bytes.
fn widest(charset: &str) -> usize {
    match charset {
        "ascii" | "latin1" | "latin2" | "latin5" | "latin7" | "koi8r" | "koi8u" | "cp1250" | "cp1251"
        | "cp1256" | "cp1257" | "cp850" | "cp852" | "cp866" | "hebrew" | "greek" | "tis620" => 1,
        "ucs2" | "gbk" | "big5" | "gb2312" | "euckr" | "sjis" | "cp932" => 2,
        "utf8mb3" | "utf8" | "ujis" | "eucjpms" => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reserved_values_differ_where_there_is_room() {
        let text = |bytes| ColumnType::Text { charset: "utf8mb4".into(), fixed: false, bytes };
        for kind in [
            ColumnType::Int { bytes: 4, unsigned: false },
            ColumnType::Int { bytes: 8, unsigned: true },
            ColumnType::Decimal { precision: 20, scale: 2 },
            ColumnType::Double,
            ColumnType::Timestamp { fraction: 0 },
            text(400),
            ColumnType::Bytes { fixed: true, bytes: 16 },
            ColumnType::Address(AddressType::Uuid),
        ] {
            let column = Column { name: "c".into(), kind, nullable: false };
            let values: HashSet<_> = (0..200).map(|_| reserved(&column).unwrap()).collect();
            assert!(values.len() > 190, "{:?}", column.kind);
        }
        for kind in [ColumnType::Int { bytes: 1, unsigned: true }, ColumnType::Year, text(12)] {
            assert_eq!(reserved(&Column { name: "c".into(), kind, nullable: false }), None);
        }
    }
}
