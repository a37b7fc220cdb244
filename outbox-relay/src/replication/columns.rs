//! What a configuration writes of a copy's columns: `name`, `price as unit_price`, `hash(email) as email_hash`,
//! `'eu' as shard`, `7 as shard`.

use outbox_core::{Error, ErrorKind, Result};

use super::project::Origin;
use crate::change::Value;

/// A column of a copy as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) origin: Origin,
    /// Its name in the target.
    pub(super) name: String,
}

/// Where a column of the source stands among those of a copy: itself rather than its hash.
pub(super) fn place(written: &[Written], name: &str) -> Option<usize> {
    let is_of = |column: &Written, hashed: bool| match &column.origin {
        Origin::Column(origin) => !hashed && origin.eq_ignore_ascii_case(name),
        Origin::Hash(origin) => hashed && origin.eq_ignore_ascii_case(name),
        Origin::Constant(_) => false,
    };
    let find = |hashed| written.iter().position(|column| is_of(column, hashed));
    find(false).or_else(|| find(true))
}

/// Parses one column.
///
/// # Errors
/// `Invalid`, with the text.
pub(super) fn parse(text: &str) -> Result<Written> {
    written(text.trim()).ok_or_else(|| {
        let expected = "expected `name`, `name as other`, `hash(name) as other` or `'text' as other`";
        Error::new(ErrorKind::Invalid, format!("column `{text}`: {expected}"))
    })
}

fn written(text: &str) -> Option<Written> {
    let (origin, rest) = origin(text)?;
    let rest = rest.trim();
    if rest.is_empty() {
        // Whose name it has is clear for a column only.
        let Origin::Column(name) = &origin else { return None };
        return Some(Written { name: name.clone(), origin });
    }
    let rest = rest.get(..2).filter(|word| word.eq_ignore_ascii_case("as")).map(|_| &rest[2..])?;
    let (name, rest) = name(rest.strip_prefix(char::is_whitespace)?.trim_start())?;
    rest.trim().is_empty().then_some(Written { origin, name })
}

fn origin(text: &str) -> Option<(Origin, &str)> {
    if let Some(mut rest) = text.strip_prefix('\'') {
        let mut constant = String::new();
        loop {
            let end = rest.find('\'')?;
            constant.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            let Some(after) = rest.strip_prefix('\'') else {
                return Some((Origin::Constant(Value::Text(constant)), rest));
            };
            constant.push('\'');
            rest = after;
        }
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        let (number, rest) = text.split_once(char::is_whitespace)?;
        return Some((Origin::Constant(Value::Int(number.parse().ok()?)), rest));
    }
    let (first, rest) = name(text)?;
    match rest.trim_start().strip_prefix('(') {
        Some(inside) if first.eq_ignore_ascii_case("hash") => {
            let (column, rest) = name(inside.trim_start())?;
            Some((Origin::Hash(column), rest.trim_start().strip_prefix(')')?))
        }
        Some(_) => None,
        None => Some((Origin::Column(first), rest)),
    }
}

/// A name, in backticks or not, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let end = rest.find('`').filter(|end| *end > 0)?;
        return Some((rest[..end].to_owned(), &rest[end + 1..]));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$'))).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read() {
        let column = |name: &str| Origin::Column(name.into());
        let text = |text: &str| Origin::Constant(Value::Text(text.into()));
        for (written, origin, name) in [
            ("id", column("id"), "id"),
            (" price AS unit_price ", column("price"), "unit_price"),
            ("`a b` as `c d`", column("a b"), "c d"),
            ("hash(email) as email_hash", Origin::Hash("email".into()), "email_hash"),
            ("HASH( `email` ) as h", Origin::Hash("email".into()), "h"),
            ("hash", column("hash"), "hash"),
            ("'eu' as shard", text("eu"), "shard"),
            ("'it''s' as shard", text("it's"), "shard"),
            ("3 as shard", Origin::Constant(Value::Int(3)), "shard"),
        ] {
            assert_eq!(parse(written).unwrap(), Written { origin, name: name.into() }, "{written}");
        }
        for wrong in
            ["", "a b", "hash(email)", "'eu'", "a as", "upper(a) as b", "a as b c", "'eu as b", "asb asx y"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
