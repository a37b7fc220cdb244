//! Numbers in JSON that its text does not bring over: MySQL keeps a DECIMAL within JSON with all its digits and prints
//! them, but reads `1.10` back as the DOUBLE 1.1. A document with such a number is written as an expression of SQL.

use super::sql;
use crate::binlog::json_double;

/// Deeper than the servers allow (100).
const DEPTH_MAX: usize = 128;

/// The expression that makes a document; `None` if its text does.
pub(super) fn expression(text: &str) -> Option<String> {
    if !has_decimal(text) {
        return None;
    }
    let mut parser = Parser { rest: text.trim_start(), sql: String::with_capacity(text.len() * 2) };
    let is_scalar = !parser.rest.starts_with(['{', '[']);
    parser.value(0)?;
    // What is no JSON is left to the server, which says so.
    if !parser.rest.trim_start().is_empty() {
        return None;
    }
    Some(if is_scalar { format!("cast({} as json)", parser.sql) } else { parser.sql })
}

/// Whether a number stands in it, outside of texts, that is a DECIMAL.
fn has_decimal(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        if rest.starts_with('"') {
            let Some(string) = string(rest) else { return false };
            rest = &rest[string.len()..];
        } else {
            let number = number(rest);
            if is_decimal(number) {
                return true;
            }
            rest = &rest[number.len().max(1)..];
        }
    }
    false
}

/// The string that a text begins with, with its quotes.
fn string(text: &str) -> Option<&str> {
    let mut is_escaped = false;
    let end = text.bytes().enumerate().skip(1).find(|(_, byte)| {
        let is_end = !is_escaped && *byte == b'"';
        is_escaped = !is_escaped && *byte == b'\\';
        is_end
    });
    end.map(|(at, _)| &text[..=at])
}

/// The number that a text begins with.
fn number(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

/// Whether it is one as JSON has them: `1-2` and a date are not, and would mean something in SQL.
fn is_number(number: &str) -> bool {
    serde_json::from_str::<serde_json::Number>(number).is_ok()
}

/// Whether the server would print other digits for the number that it reads. One with an exponent is no DECIMAL.
fn is_decimal(number: &str) -> bool {
    if !is_number(number) || number.contains(['e', 'E']) {
        return false;
    }
    if !number.contains('.') {
        return number.parse::<i64>().is_err() && number.parse::<u64>().is_err();
    }
    let Ok(double) = number.parse::<f64>() else { return false };
    let mut printed = String::new();
    json_double(double, &mut printed);
    printed != number
}

struct Parser<'t> {
    rest: &'t str,
    sql: String,
}

impl Parser<'_> {
    /// Takes a value and writes its expression; `None`: it is no JSON.
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.rest = self.rest.trim_start();
        match self.rest.bytes().next()? {
            b'{' => self.members(depth, '}', true),
            b'[' => self.members(depth, ']', false),
            b'"' => self.text(),
            b'-' | b'0'..=b'9' => {
                let number = number(self.rest);
                if !is_number(number) {
                    return None;
                }
                let is_double = !is_decimal(number) && number.contains(['.', 'e', 'E']);
                self.sql.push_str(&if is_double {
                    format!("cast('{number}' as json)")
                } else {
                    number.into()
                });
                self.rest = &self.rest[number.len()..];
                Some(())
            }
            _ => {
                let word = ["true", "false", "null"].into_iter().find(|word| self.rest.starts_with(word))?;
                self.sql.push_str(word);
                self.rest = &self.rest[word.len()..];
                Some(())
            }
        }
    }

    fn text(&mut self) -> Option<()> {
        let string = string(self.rest)?;
        sql::text(&mut self.sql, &serde_json::from_str::<String>(string).ok()?);
        self.rest = &self.rest[string.len()..];
        Some(())
    }

    fn members(&mut self, depth: usize, end: char, is_object: bool) -> Option<()> {
        self.sql.push_str(if is_object { "json_object(" } else { "json_array(" });
        self.rest = self.rest[1..].trim_start();
        let mut is_first = true;
        while !self.rest.starts_with(end) {
            if !is_first {
                self.rest = self.rest.strip_prefix(',')?.trim_start();
                self.sql.push_str(", ");
            }
            is_first = false;
            if is_object {
                self.text()?;
                self.sql.push_str(", ");
                self.rest = self.rest.trim_start().strip_prefix(':')?;
            }
            self.value(depth + 1)?;
            self.rest = self.rest.trim_start();
        }
        self.rest = &self.rest[1..];
        self.sql.push(')');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_brings_its_numbers_over_stays_text() {
        for text in [
            "{\"a\": 2.0, \"b\": [0.1, 1e300, -5, 18446744073709551615]}",
            "\"1.10\"",
            "{\"1.10\": \"\\\"1.10\"}",
            "-9223372036854775808",
            "no json 1.10 \"",
        ] {
            assert_eq!(expression(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        let cases = [
            ("1.10", "cast(1.10 as json)"),
            ("18446744073709551616", "cast(18446744073709551616 as json)"),
            ("[1.10, 2.5, {}]", "json_array(1.10, cast('2.5' as json), json_object())"),
            (
                "{\"it's\": {\"a\": -0.10}, \"n\": null, \"t\": true}",
                "json_object('it''s', json_object('a', -0.10), 'n', null, 't', true)",
            ),
        ];
        for (text, sql) in cases {
            assert_eq!(expression(text).as_deref(), Some(sql), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_left_to_the_server() {
        for text in
            ["1.10 x", "[1.10", "{1.10}", "{\"a\" 1.10}", "[1.10 2]", "[,1.10]", &"[1.10,".repeat(300)]
        {
            assert_eq!(expression(text), None, "{text}");
        }
    }
}
