//! Text of a source's character sets → UTF-8, strictly: what is not valid there is an error, never a `?`.
//!
//! Unicode is read here. For every other character set the source itself is asked for its table once: the servers'
//! tables differ from those of libraries (big5, cp866, hebrew, … by some characters), and one wrong character
//! would be a silent difference.

use std::collections::HashMap;
use std::sync::Arc;

/// What a source calls by number or name, and what it means there.
#[derive(Debug, Default)]
pub(crate) struct Charsets {
    /// The character set of each collation, by the collation's number.
    pub(crate) collations: HashMap<u16, Arc<str>>,
    /// The tables of the character sets that were asked for; `None` for those that do not fit into one.
    pub(crate) tables: HashMap<Arc<str>, Option<Arc<CodeTable>>>,
}

/// The collation that means bytes.
pub(super) const BINARY: u16 = 63;

/// How the bytes of a character set are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Charset {
    Utf8,
    Ascii,
    /// `ucs2` too: it is the same without what lies beyond 16 bits.
    Utf16Be,
    Utf16Le,
    Utf32,
    Table(Arc<CodeTable>),
}

/// The characters of a character set of one to three bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CodeTable {
    one: Box<[Option<char>]>,
    /// By both bytes; empty for character sets of single bytes.
    two: Box<[Option<char>]>,
    /// By the last two bytes; the first is always the same.
    three: Box<[Option<char>]>,
}

/// Codes of three bytes begin with this (ujis, eucjpms).
pub(crate) const THREE_BYTES: u8 = 0x8f;

impl CodeTable {
    /// From codes of up to three bytes, as big-endian numbers, with their characters. Codes below 256 are single
    /// bytes.
    pub(crate) fn new(codes: impl IntoIterator<Item = (u32, char)>) -> Self {
        let mut table = Self { one: vec![None; 0x100].into(), two: Box::default(), three: Box::default() };
        for (code, character) in codes {
            let [_, _, high, low] = code.to_be_bytes();
            let place = usize::from(u16::from_be_bytes([high, low]));
            let part = match code {
                0..=0xff => &mut table.one,
                0x100..=0xffff => &mut table.two,
                _ => &mut table.three,
            };
            if part.is_empty() {
                *part = vec![None; 0x1_0000].into();
            }
            part[place] = Some(character);
        }
        table
    }

    fn decode(&self, mut bytes: &[u8]) -> Option<String> {
        let mut text = String::with_capacity(bytes.len());
        while let [first, rest @ ..] = bytes {
            if let Some(character) = self.one[usize::from(*first)] {
                text.push(character);
                bytes = rest;
                continue;
            }
            let pair = |high: u8, low: u8| usize::from(u16::from_be_bytes([high, low]));
            let two = rest.first().and_then(|second| *self.two.get(pair(*first, *second))?);
            if let Some(character) = two {
                text.push(character);
                bytes = &rest[1..];
                continue;
            }
            let [second, third, rest @ ..] = rest else { return None };
            let three = self.three.get(pair(*second, *third)).filter(|_| *first == THREE_BYTES);
            text.push((*three?)?);
            bytes = rest;
        }
        Some(text)
    }
}

impl Charset {
    /// The character set of a server's name for it; `None` if its table has to be asked for first.
    pub(super) fn named(name: &str, charsets: &Charsets) -> Option<Self> {
        Some(match name {
            "utf8mb4" | "utf8mb3" | "utf8" => Self::Utf8,
            "ascii" => Self::Ascii,
            "utf16" | "ucs2" => Self::Utf16Be,
            "utf16le" => Self::Utf16Le,
            "utf32" => Self::Utf32,
            other => Self::Table(Arc::clone(charsets.tables.get(other)?.as_ref()?)),
        })
    }

    /// The text; `None` if the bytes are not valid in this character set.
    pub(super) fn decode(&self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Ascii => bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned()),
            Self::Utf16Be => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => {
                let (units, rest) = bytes.as_chunks::<4>();
                let text = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect();
                if rest.is_empty() { text } else { None }
            }
            Self::Table(table) => table.decode(bytes),
        }
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect::<Result<_, _>>().ok();
    if rest.is_empty() { text } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicode_is_read_strictly() {
        let none = Charsets::default();
        assert_eq!(Charset::Utf8.decode(&[0xc3]), None);
        assert_eq!(Charset::Ascii.decode(&[0x80]), None);
        assert_eq!(Charset::Utf16Be.decode(&[0xd8, 0x3d, 0xde, 0]).as_deref(), Some("😀"));
        assert_eq!(Charset::Utf16Be.decode(&[0xd8, 0x3d]), None);
        assert_eq!(Charset::Utf32.decode(&[0, 1, 0xf6]), None);
        assert_eq!(Charset::named("gbk", &none), None);
    }

    #[test]
    fn codes_of_a_table_may_have_one_to_three_bytes() {
        let table = CodeTable::new([(0x41, 'A'), (0x8ec1, 'ｱ'), (0xc4e3, '你'), (0x8f_b0a1, '丂')]);
        let decode = |bytes: &[u8]| table.decode(bytes);
        assert_eq!(decode(&[0x41, 0xc4, 0xe3, 0x8e, 0xc1, 0x8f, 0xb0, 0xa1]).as_deref(), Some("A你ｱ丂"));
        for wrong in [&[0x80][..], &[0xc4], &[0xc4, 0x41], &[0x8f, 0xb0], &[0x8f, 0xb0, 0xa2]] {
            assert_eq!(decode(wrong), None, "{wrong:x?}");
        }
    }
}
