//! Messages as the text of one INSERT, for MySQL and MariaDB: a prepared statement with thousands of
//! placeholders, which is prepared anew for each count of rows, takes them several times as long. Every value
//! is written in hexadecimal digits, so there is nothing to quote.

use std::fmt::Write as _;

use crate::message::Message;
use crate::schema::NewOutboxRow;

/// `INSERT INTO outbox … VALUES (x'…', …), …`.
pub(crate) fn insert(messages: &[Message]) -> String {
    let bytes: usize = messages.iter().map(|message| message.payload().len() + 300).sum();
    let mut sql = String::with_capacity(2 * bytes);
    sql.push_str(
        "insert into outbox (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload) values",
    );
    for (number, message) in messages.iter().enumerate() {
        let row = NewOutboxRow::of(message);
        sql.push_str(if number == 0 { " (" } else { ", (" });
        push_hex(&mut sql, row.message_id);
        // Writing into a String cannot fail.
        let _ = write!(sql, ", {}, ", row.bucket);
        for (place, value) in [
            row.aggregate_type.as_bytes(),
            row.aggregate_id.as_bytes(),
            row.event_type.as_bytes(),
            &row.headers,
            row.payload,
        ]
        .into_iter()
        .enumerate()
        {
            if place > 0 {
                sql.push_str(", ");
            }
            push_hex(&mut sql, value);
        }
        sql.push(')');
    }
    sql
}

fn push_hex(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sql.push_str("x'");
    for byte in bytes {
        sql.push(char::from(DIGITS[usize::from(byte >> 4)]));
        sql.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Between the quotes there is nothing but digits, whatever the values are, and they come back.
        #[test]
        fn values_are_digits_and_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sql = String::new();
            push_hex(&mut sql, &bytes);
            let digits = sql.strip_prefix("x'").and_then(|rest| rest.strip_suffix('\'')).unwrap();
            prop_assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let back: Vec<u8> = (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn a_statement_has_a_row_for_each_message(keys in proptest::collection::vec("\\PC{1,20}", 1..5)) {
            let messages: Vec<_> =
                keys.iter().map(|key| Message::new("a", key, "e", b"'); --".to_vec()).unwrap()).collect();
            let sql = insert(&messages);
            prop_assert_eq!(sql.matches('(').count(), 1 + keys.len());
            prop_assert_eq!(sql.matches("x'").count(), 6 * keys.len());
            prop_assert!(!sql.contains("--"));
        }
    }
}
