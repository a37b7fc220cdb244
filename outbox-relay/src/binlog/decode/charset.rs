//! Text of a source's character sets → UTF-8, strictly: what is not valid there is an error, never a `?`.

use std::collections::HashMap;
use std::sync::Arc;

use encoding_rs::Encoding;

/// The character set of each of a server's collations, by the collation's number; asked from the server, since
/// the numbers differ between servers and versions.
#[derive(Debug, Clone, Default)]
pub struct Collations(pub HashMap<u16, Arc<str>>);

/// The collation that means bytes.
pub(super) const BINARY: u16 = 63;

/// How the bytes of a character set are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Charset {
    Utf8,
    Ascii,
    /// `ucs2` too: it is the same without what lies beyond 16 bits.
    Utf16Be,
    Utf16Le,
    Utf32,
    Table(&'static Encoding),
}

impl Charset {
    /// The character set of a server's name for it; `None` for those that are not known here.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "utf8mb4" | "utf8mb3" | "utf8" => Self::Utf8,
            "ascii" => Self::Ascii,
            "utf16" | "ucs2" => Self::Utf16Be,
            "utf16le" => Self::Utf16Le,
            "utf32" => Self::Utf32,
            // The servers' latin1 is cp1252 with its five holes filled by control characters, as here.
            "latin1" => Self::Table(encoding_rs::WINDOWS_1252),
            "cp1250" => Self::Table(encoding_rs::WINDOWS_1250),
            "cp1251" => Self::Table(encoding_rs::WINDOWS_1251),
            "cp1256" => Self::Table(encoding_rs::WINDOWS_1256),
            "cp1257" => Self::Table(encoding_rs::WINDOWS_1257),
            "cp866" => Self::Table(encoding_rs::IBM866),
            "greek" => Self::Table(encoding_rs::ISO_8859_7),
            "hebrew" => Self::Table(encoding_rs::ISO_8859_8),
            "koi8r" => Self::Table(encoding_rs::KOI8_R),
            "koi8u" => Self::Table(encoding_rs::KOI8_U),
            "latin2" => Self::Table(encoding_rs::ISO_8859_2),
            "latin7" => Self::Table(encoding_rs::ISO_8859_13),
            "gbk" => Self::Table(encoding_rs::GBK),
            "gb2312" => Self::Table(encoding_rs::GBK),
            "gb18030" => Self::Table(encoding_rs::GB18030),
            "big5" => Self::Table(encoding_rs::BIG5),
            "euckr" => Self::Table(encoding_rs::EUC_KR),
            "cp932" => Self::Table(encoding_rs::SHIFT_JIS),
            "eucjpms" => Self::Table(encoding_rs::EUC_JP),
            _ => return None,
        })
    }

    /// The text; `None` if the bytes are not valid in this character set.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<String> {
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
            Self::Table(encoding) => encoding
                .decode_without_bom_handling_and_without_replacement(bytes)
                .map(std::borrow::Cow::into_owned),
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
    fn text_is_read_strictly() {
        // T30, T31, T33: the same text in several character sets.
        let gbk = Charset::named("gbk").unwrap();
        assert_eq!(gbk.decode(&[0xc4, 0xe3, 0xba, 0xc3]).as_deref(), Some("你好"));
        let latin1 = Charset::named("latin1").unwrap();
        assert_eq!(latin1.decode(&[0x80, 0xe9, 0x81]).as_deref(), Some("€é\u{81}"));
        assert_eq!(Charset::Utf8.decode(&[0xc3]), None);
        assert_eq!(Charset::Ascii.decode(&[0x80]), None);
        assert_eq!(Charset::Utf16Be.decode(&[0xd8, 0x3d, 0xde, 0]).as_deref(), Some("😀"));
        assert_eq!(Charset::Utf16Be.decode(&[0xd8, 0x3d]), None);
        assert_eq!(Charset::Utf32.decode(&[0, 1, 0xf6]), None);
        assert_eq!(Charset::named("geostd8"), None);
    }
}
