//! Messages, or the ids of applied ones, as the text of one INSERT. For MySQL and MariaDB, where a prepared statement
//! with thousands of placeholders, prepared anew for each count of rows, takes several times as long; for PostgreSQL,
//! where text can travel together with COMMIT.

use std::fmt::Write as _;

use crate::message::Message;
#[cfg(feature = "mysql")]
use crate::message::MessageId;
use crate::schema::NewOutboxRow;

/// How a database reads bytes and text.
#[derive(Debug)]
pub(crate) struct Dialect {
    push_bytes: fn(&mut String, &[u8]),
    push_text: fn(&mut String, &str),
}

/// Text as its bytes, which the columns take as it is.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(crate) const MYSQL: Dialect = Dialect {
    push_bytes: |sql, bytes| push_plain(sql, "_binary ", bytes),
    push_text: |sql, text| push_plain(sql, "_binary ", text.as_bytes()),
};
/// With `E` before them, literals are read alike whatever `standard_conforming_strings` says.
#[cfg(feature = "postgres")]
pub(crate) const POSTGRES: Dialect = Dialect { push_bytes: push_bytea, push_text: push_escaped };

/// About how long the values of the messages are, in bytes.
pub(crate) fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.payload().len() + 400).sum()
}

/// `INSERT INTO outbox … VALUES (x'…', …), …`.
pub(crate) fn insert(messages: &[Message], dialect: &Dialect) -> String {
    let mut sql = String::with_capacity(2 * bytes(messages));
    sql.push_str(
        "insert into outbox (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload) values",
    );
    for (number, message) in messages.iter().enumerate() {
        let row = NewOutboxRow::of(message);
        sql.push_str(if number == 0 { " (" } else { ", (" });
        (dialect.push_bytes)(&mut sql, row.message_id);
        // Writing into a String cannot fail.
        let _ = write!(sql, ", {}", row.bucket);
        for text in [row.aggregate_type, row.aggregate_id, row.event_type] {
            sql.push_str(", ");
            (dialect.push_text)(&mut sql, text);
        }
        for bytes in [&row.headers, row.payload] {
            sql.push_str(", ");
            (dialect.push_bytes)(&mut sql, bytes);
        }
        sql.push(')');
    }
    sql
}

/// An INSERT of messages that a consumer has applied.
#[cfg(feature = "mysql")]
pub(crate) fn insert_applied(consumer: &str, ids: &[MessageId], dialect: &Dialect) -> String {
    let mut sql = String::with_capacity(ids.len() * (2 * consumer.len() + 50) + 50);
    sql.push_str("INSERT INTO `inbox` (`consumer`, `message_id`) VALUES");
    for (number, id) in ids.iter().enumerate() {
        sql.push_str(if number == 0 { " (" } else { ", (" });
        (dialect.push_text)(&mut sql, consumer);
        sql.push_str(", ");
        (dialect.push_bytes)(&mut sql, id.as_bytes());
        sql.push(')');
    }
    sql
}

/// Hexadecimal digits between two texts.
pub(crate) fn push_hex(sql: &mut String, [before, after]: &[&str; 2], bytes: &[u8]) {
    sql.push_str(before);
    data_encoding::HEXLOWER.encode_append(bytes, sql);
    sql.push_str(after);
}

/// A literal that MySQL and MariaDB read alike in every SQL mode and client's character set: as it is where all is plain
/// ASCII, as JSON mostly is, else in digits, which are twice as long to send and to read.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(crate) fn push_plain(sql: &mut String, introducer: &str, bytes: &[u8]) {
    sql.push_str(introducer);
    let plain = std::str::from_utf8(bytes).ok();
    let plain = plain.filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\\'));
    let Some(plain) = plain else { return push_hex(sql, &["x'", "'"], bytes) };
    sql.push('\'');
    push_doubling(sql, plain, &['\'']);
    sql.push('\'');
}

/// A text with each of these characters twice.
fn push_doubling(sql: &mut String, text: &str, twice: &[char]) {
    for part in text.split_inclusive(twice) {
        sql.push_str(part);
        sql.extend(part.chars().next_back().filter(|last| twice.contains(last)));
    }
}

/// The shorter of the two forms that `bytea` reads: digits, or bytes as they are with escapes for what is not plain
/// ASCII. JSON is mostly that, and PostgreSQL reads it several times as fast as digits.
#[cfg(feature = "postgres")]
fn push_bytea(sql: &mut String, bytes: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\'' | b'\\');
    let escaped = bytes.iter().filter(|byte| !is_plain(byte)).count();
    if 4 * escaped > bytes.len() {
        return push_hex(sql, &[r"E'\\x", "'"], bytes);
    }
    sql.push_str("E'");
    for part in bytes.split_inclusive(|byte| !is_plain(byte)) {
        let (last, plain) = match part.split_last() {
            Some((last, plain)) if !is_plain(last) => (Some(last), plain),
            _ => (None, part),
        };
        sql.push_str(&String::from_utf8_lossy(plain));
        if let Some(last) = last {
            // Writing into a String cannot fail. The literal makes one backslash of two.
            let _ = write!(sql, r"\\{last:03o}");
        }
    }
    sql.push('\'');
}

#[cfg(feature = "postgres")]
fn push_escaped(sql: &mut String, text: &str) {
    sql.push_str("E'");
    push_doubling(sql, text, &['\'', '\\']);
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGITS: Dialect = Dialect {
        push_bytes: |sql, bytes| push_hex(sql, &["x'", "'"], bytes),
        push_text: |sql, text| push_hex(sql, &["t'", "'"], text.as_bytes()),
    };

    proptest! {
        /// Between the quotes there is nothing but digits, whatever the values are, and they come back.
        #[test]
        fn values_are_digits_and_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sql = String::new();
            push_hex(&mut sql, &["x'", "'"], &bytes);
            let digits = sql.strip_prefix("x'").and_then(|rest| rest.strip_suffix('\'')).unwrap();
            prop_assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let back: Vec<u8> = (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            prop_assert_eq!(back, bytes);
        }

        /// Read as MySQL reads it, the bytes come back, and its end is the literal's end.
        #[cfg(feature = "mysql")]
        #[test]
        fn plain_comes_back(bytes in prop_oneof![
            "[a-z'{}:\"\\\\ -]{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..20),
        ]) {
            let mut sql = String::new();
            push_plain(&mut sql, "_binary ", &bytes);
            let literal = sql.strip_prefix("_binary ").unwrap();
            prop_assert!(literal.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\\'), "{}", literal);
            let back = match literal.strip_prefix("x'") {
                Some(digits) => {
                    data_encoding::HEXLOWER.decode(digits.strip_suffix('\'').unwrap().as_bytes()).unwrap()
                }
                None => {
                    let inner = literal.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
                    prop_assert!(!inner.replace("''", "").contains('\''), "{}", literal);
                    inner.replace("''", "'").into_bytes()
                }
            };
            prop_assert_eq!(back, bytes);
        }

        /// Read as PostgreSQL reads the literal and then the `bytea`, the bytes come back, and its end is theirs.
        #[cfg(feature = "postgres")]
        #[test]
        fn bytea_comes_back(text in "[a-z'\\\\\"{}:,\\n\\x00ü]{0,40}", noise in proptest::collection::vec(any::<u8>(), 0..4)) {
            let bytes = [noise, text.into_bytes()].concat();
            let mut sql = String::new();
            push_bytea(&mut sql, &bytes);
            let inner = sql.strip_prefix("E'").and_then(|rest| rest.strip_suffix('\'')).unwrap();
            prop_assert!(inner.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\''), "{}", inner);
            let value = inner.replace(r"\\", r"\");
            let back = match value.strip_prefix(r"\x") {
                Some(digits) => data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap(),
                None => {
                    let mut parts = value.split('\\');
                    let mut back = parts.next().unwrap().as_bytes().to_vec();
                    for part in parts {
                        back.push(u8::from_str_radix(&part[..3], 8).unwrap());
                        back.extend(part[3..].bytes());
                    }
                    back
                }
            };
            prop_assert_eq!(back, bytes);
        }

        /// Read as PostgreSQL reads it, an escaped text comes back, and its end is the literal's end.
        #[cfg(feature = "postgres")]
        #[test]
        fn escaped_text_comes_back(text in "[a'\\\\ü]{0,12}") {
            let mut sql = String::new();
            push_escaped(&mut sql, &text);
            let mut rest = sql.strip_prefix("E'").unwrap().chars();
            let mut back = String::new();
            loop {
                match rest.next().unwrap() {
                    '\\' => back.push(rest.next().unwrap()),
                    '\'' if rest.as_str().starts_with('\'') => back.extend(rest.next()),
                    '\'' => break,
                    other => back.push(other),
                }
            }
            prop_assert_eq!(rest.as_str(), "");
            prop_assert_eq!(back, text);
        }

        #[test]
        fn a_statement_has_a_row_for_each_message(keys in proptest::collection::vec("\\PC{1,20}", 1..5)) {
            let messages: Vec<_> =
                keys.iter().map(|key| Message::new("a", key, "e", b"'); --".to_vec()).unwrap()).collect();
            let sql = insert(&messages, &DIGITS);
            prop_assert_eq!(sql.matches('(').count(), 1 + keys.len());
            prop_assert_eq!(sql.matches("x'").count(), 3 * keys.len());
            prop_assert_eq!(sql.matches("t'").count(), 3 * keys.len());
            prop_assert!(!sql.contains("--"));
        }
    }
}
