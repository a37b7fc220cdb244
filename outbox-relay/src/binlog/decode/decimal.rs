//! DECIMAL: groups of nine digits in four bytes, the rest in as few as it takes.

use std::fmt::Write as _;

use super::bytes::Bytes;
use super::{Malformed, Result};

/// Bytes of a group with so many digits.
const GROUP_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// The digits as the server writes them.
pub(super) fn decimal(bytes: &mut Bytes<'_>, precision: u8, scale: u8) -> Result<String> {
    let (precision, scale) = (usize::from(precision), usize::from(scale));
    let Some(whole) = precision.checked_sub(scale).filter(|_| precision > 0 && precision <= 81) else {
        return Err(Malformed(format!("DECIMAL({precision},{scale})")));
    };
    let size = |digits: usize| digits / 9 * 4 + GROUP_BYTES[digits % 9];
    let total = size(whole) + size(scale);
    let raw = bytes.take(total)?;
    // The first bit is set for positive numbers; negative ones are inverted.
    let negative = raw[0] & 0x80 == 0;
    let mut plain = [0; 40];
    let plain = plain.get_mut(..total).ok_or_else(|| Malformed::new("a DECIMAL that is too long"))?;
    for (to, from) in plain.iter_mut().zip(raw) {
        *to = if negative { !from } else { *from };
    }
    plain[0] ^= 0x80;

    let mut groups = Bytes(plain);
    let mut text = String::with_capacity(precision + 3);
    if negative {
        text.push('-');
    }
    let start = text.len();
    let group = |groups: &mut Bytes<'_>, digits: usize, text: &mut String, pad: bool| -> Result<()> {
        if digits == 0 {
            return Ok(());
        }
        let number = groups.big(GROUP_BYTES[digits])?;
        // Writing to a String cannot fail.
        let _ = if pad { write!(text, "{number:0digits$}") } else { write!(text, "{number}") };
        Ok(())
    };
    for index in 0..=whole / 9 {
        let digits = if index == 0 { whole % 9 } else { 9 };
        let leading = text.len() == start;
        group(&mut groups, digits, &mut text, !leading)?;
        if leading && text[start..] == *"0" {
            text.truncate(start);
        }
    }
    if text.len() == start {
        text.push('0');
    }
    if scale > 0 {
        text.push('.');
        for index in 0..=scale / 9 {
            let digits = if index == scale / 9 { scale % 9 } else { 9 };
            group(&mut groups, digits, &mut text, true)?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_written() {
        let cases: [(&[u8], u8, u8, &str); 5] = [
            (&[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2], 14, 4, "1234567890.1234"),
            (&[0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d], 14, 4, "-1234567890.1234"),
            (&[0x80, 0, 1], 5, 5, "0.00001"),
            (&[0x80, 0, 0, 0, 0], 10, 0, "0"),
            (&[0x7f, 0xff, 0xff, 0xff, 0xfe], 10, 0, "-1"),
        ];
        for (bytes, precision, scale, text) in cases {
            assert_eq!(decimal(&mut Bytes(bytes), precision, scale).unwrap(), text);
        }
        assert!(decimal(&mut Bytes(&[0x80]), 10, 0).is_err());
    }
}
