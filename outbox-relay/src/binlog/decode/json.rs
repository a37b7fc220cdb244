//! MySQL's binary JSON → the text that its SELECT gives, to the byte: `2.0` stays `2.0`, keys stay in the server's
//! order, decimals and dates inside keep their digits.

use std::fmt::Write as _;

use super::bytes::Bytes;
use super::{Malformed, Result, decimal, temporal};

/// Deeper than the server allows (100).
const DEPTH_MAX: usize = 128;

/// The text of a document.
pub(super) fn text(document: &[u8]) -> Result<String> {
    let mut text = String::with_capacity(document.len());
    match document.split_first() {
        // An empty document is what a JSON column holds that was NOT NULL and got no value.
        None => text.push_str("null"),
        Some((kind, value)) => print(*kind, value, &mut text, 0)?,
    }
    Ok(text)
}

fn print(kind: u8, value: &[u8], text: &mut String, depth: usize) -> Result<()> {
    let mut bytes = Bytes(value);
    // Writing to a String cannot fail.
    let _ = match kind {
        0x00 => return container(value, false, true, text, depth),
        0x01 => return container(value, true, true, text, depth),
        0x02 => return container(value, false, false, text, depth),
        0x03 => return container(value, true, false, text, depth),
        0x04 => return literal(bytes.u8()?, text),
        0x05 => write!(text, "{}", bytes.u16()? as i16),
        0x06 => write!(text, "{}", bytes.u16()?),
        0x07 => write!(text, "{}", bytes.u32()? as i32),
        0x08 => write!(text, "{}", bytes.u32()?),
        0x09 => write!(text, "{}", bytes.u64()? as i64),
        0x0a => write!(text, "{}", bytes.u64()?),
        0x0b => {
            double(f64::from_bits(bytes.u64()?), text);
            Ok(())
        }
        0x0c => {
            let length = variable(&mut bytes)?;
            return quoted(bytes.take(length)?, text);
        }
        0x0f => return opaque(&mut bytes, text),
        other => return Err(Malformed(format!("JSON of type {other}"))),
    };
    Ok(())
}

fn literal(literal: u8, text: &mut String) -> Result<()> {
    text.push_str(match literal {
        0 => "null",
        1 => "true",
        2 => "false",
        other => return Err(Malformed(format!("JSON's literal {other}"))),
    });
    Ok(())
}

/// A length in groups of seven bits, the lowest first.
fn variable(bytes: &mut Bytes<'_>) -> Result<usize> {
    let mut length = 0;
    for group in 0..5 {
        let byte = bytes.u8()?;
        length |= usize::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(Malformed::new("a length in JSON without an end"))
}

/// An object or array. Small ones have offsets of 2 bytes, large ones of 4; scalars that fit there stand in place
/// of their offset.
fn container(value: &[u8], is_large: bool, is_object: bool, text: &mut String, depth: usize) -> Result<()> {
    if depth >= DEPTH_MAX {
        return Err(Malformed::new("JSON that is nested too deeply"));
    }
    let width = if is_large { 4 } else { 2 };
    let part = |from: usize, length: usize| -> Result<&[u8]> {
        value
            .get(from..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| Malformed::new("JSON that ends early"))
    };
    let number =
        |at: usize, width: usize| -> Result<usize> { Ok(Bytes(part(at, width)?).little(width)? as usize) };
    let count = number(0, width)?;
    let keys = 2 * width;
    let values = if is_object { keys + count * (width + 2) } else { keys };
    text.push(if is_object { '{' } else { '[' });
    for index in 0..count {
        if index > 0 {
            text.push_str(", ");
        }
        if is_object {
            let entry = keys + index * (width + 2);
            quoted(part(number(entry, width)?, number(entry + width, 2)?)?, text)?;
            text.push_str(": ");
        }
        let entry = values + index * (width + 1);
        let kind = part(entry, 1)?[0];
        let is_inlined = matches!(kind, 0x04..=0x06) || (is_large && matches!(kind, 0x07 | 0x08));
        if is_inlined {
            print(kind, part(entry + 1, width)?, text, depth)?;
        } else {
            let offset = number(entry + 1, width)?;
            let rest = value.get(offset..).ok_or_else(|| Malformed::new("JSON that ends early"))?;
            print(kind, rest, text, depth + 1)?;
        }
    }
    text.push(if is_object { '}' } else { ']' });
    Ok(())
}

fn quoted(bytes: &[u8], text: &mut String) -> Result<()> {
    let string =
        std::str::from_utf8(bytes).map_err(|_| Malformed::new("a text in JSON that is not UTF-8"))?;
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(text, "\\u{:04x}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push('"');
    Ok(())
}

/// As the server prints it: the fewest digits that give the number back; without an exponent from 1e-15 to 1e15 and
/// where all digits are used anyway; a number that looks whole gets `.0`.
pub(crate) fn double(number: f64, text: &mut String) {
    if number == 0.0 {
        text.push_str(if number.is_sign_negative() { "-0.0" } else { "0.0" });
        return;
    }
    // `d.ddde±x` of the fewest digits.
    let shortest = format!("{:e}", number.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (length, point) = (digits.len() as i32, exponent + 1);
    if number < 0.0 {
        text.push('-');
    }
    if point >= -14 && (point <= 15 || length > point) {
        if point <= 0 {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
            text.push_str(&digits);
        } else if length > point {
            let (whole, part) = digits.split_at(point as usize);
            let _ = write!(text, "{whole}.{part}");
        } else {
            text.push_str(&digits);
            text.extend(std::iter::repeat_n('0', (point - length) as usize));
            text.push_str(".0");
        }
    } else {
        let (first, rest) = digits.split_at(1);
        let _ = write!(text, "{first}{}{rest}e{exponent}", if rest.is_empty() { "" } else { "." });
    }
}

/// A value of an SQL type inside JSON.
fn opaque(bytes: &mut Bytes<'_>, text: &mut String) -> Result<()> {
    const TIMESTAMP: u8 = 7;
    const DATE: u8 = 10;
    const TIME: u8 = 11;
    const DATETIME: u8 = 12;
    const DECIMAL: u8 = 246;
    let kind = bytes.u8()?;
    let length = variable(bytes)?;
    let mut value = Bytes(bytes.take(length)?);
    // Writing to a String cannot fail.
    let _ = match kind {
        DECIMAL => {
            let (precision, scale) = (value.u8()?, value.u8()?);
            text.push_str(&decimal::decimal(&mut value, precision, scale)?);
            Ok(())
        }
        DATE => write!(text, "\"{}\"", temporal::packed_datetime(value.u64()? as i64).date),
        DATETIME | TIMESTAMP => write!(text, "\"{}\"", temporal::packed_datetime(value.u64()? as i64)),
        TIME => {
            let micros = temporal::packed_time(value.u64()? as i64);
            let (sign, absolute) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
            let (seconds, micros) = (absolute / 1_000_000, absolute % 1_000_000);
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            write!(text, "\"{sign}{hours:02}:{minutes:02}:{seconds:02}.{micros:06}\"")
        }
        other => {
            let _ = write!(text, "\"base64:type{other}:");
            base64(value.0, text);
            text.push('"');
            Ok(())
        }
    };
    Ok(())
}

/// With a line break after each 76 characters, which JSON writes as `\n`, as the server does.
fn base64(bytes: &[u8], text: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (index, chunk) in bytes.chunks(3).enumerate() {
        if index > 0 && index % 19 == 0 {
            text.push_str("\\n");
        }
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for position in 0..4 {
            if position > chunk.len() {
                text.push('=');
            } else {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * position) & 0x3f) as usize]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_as_the_server_prints_them() {
        let cases = [
            (2.0, "2.0"),
            (-0.0, "-0.0"),
            (1e15, "1e15"),
            (123_456_789_012_345.0, "123456789012345.0"),
            (1e-5, "0.00001"),
            (1.5e-300, "1.5e-300"),
            (f64::MAX, "1.7976931348623157e308"),
            (0.1, "0.1"),
            (-12.5, "-12.5"),
        ];
        for (number, expected) in cases {
            let mut text = String::new();
            double(number, &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn bytes_that_are_no_json_are_refused() {
        for kind in 0..=20_u8 {
            for length in 0..40_u8 {
                let document: Vec<u8> =
                    std::iter::once(kind).chain((0..length).map(|b| b.wrapping_mul(37))).collect();
                let _ = text(&document);
            }
        }
        // An array that contains itself.
        let cyclic = [0x02, 1, 0, 7, 0, 0x02, 0, 0];
        assert!(text(&cyclic).is_err());
    }

    #[test]
    fn base64_is_padded() {
        let mut text = String::new();
        base64(&[0, 0xff], &mut text);
        assert_eq!(text, "AP8=");
    }
}
