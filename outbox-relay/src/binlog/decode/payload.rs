//! Compressed events: MySQL's whole transactions (zstd), MariaDB's rows and statements (zlib).

use std::borrow::Cow;
use std::io::Read;

use super::bytes::Bytes;
use super::event::{HEADER_BYTES, Header};
use super::{Malformed, Result};

/// The largest event that a server can write: its largest packet.
const EVENT_BYTES_MAX: usize = 1 << 30;

/// The events of one compressed transaction, unpacked one after the other.
pub(crate) struct Payload<'p>(Box<dyn Read + Send + 'p>);

impl<'p> Payload<'p> {
    /// Begins to unpack the body of a TRANSACTION_PAYLOAD event.
    pub(crate) fn open(body: &'p [u8]) -> Result<Self> {
        const END: usize = 0;
        const COMPRESSION: usize = 2;
        let mut bytes = Bytes(body);
        let mut compression = None;
        loop {
            let field = bytes.length()?;
            if field == END {
                break;
            }
            let mut value = Bytes(bytes.counted()?);
            if field == COMPRESSION {
                compression = Some(value.length()?);
            }
        }
        let content = bytes.0;
        match compression {
            Some(0) => {
                let unpacked = zstd::stream::read::Decoder::with_buffer(content);
                Ok(Self(Box::new(unpacked.map_err(|error| Malformed(format!("zstd: {error}")))?)))
            }
            // 255; the server's length encoding has no shorter form for it.
            Some(255) => Ok(Self(Box::new(content))),
            other => Err(Malformed(format!("a transaction compressed by an unknown method ({other:?})"))),
        }
    }

    /// The next event, put into `event`: its header, or `None` at the end.
    pub(crate) fn next(&mut self, event: &mut Vec<u8>) -> Result<Option<Header>> {
        let broken = |error: std::io::Error| Malformed(format!("a compressed transaction: {error}"));
        event.clear();
        event.resize(HEADER_BYTES, 0);
        // The first byte tells the end from a broken header.
        if self.0.read(&mut event[..1]).map_err(broken)? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut event[1..]).map_err(broken)?;
        let header = Header::parse(event)?;
        let size = header.size as usize;
        if !(HEADER_BYTES..=EVENT_BYTES_MAX).contains(&size) {
            return Err(Malformed(format!("an event of {size} bytes in a compressed transaction")));
        }
        let body = (size - HEADER_BYTES) as u64;
        let read = (&mut self.0).take(body).read_to_end(event).map_err(broken)?;
        if read as u64 != body {
            return Err(Malformed::new("a compressed transaction ends in the middle of an event"));
        }
        Ok(Some(header))
    }
}

/// Unpacks what MariaDB has compressed: a byte 0x8N, the unpacked length in N bytes, zlib.
pub(super) fn inflate(content: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Bytes(content);
    let head = bytes.u8()?;
    if head & 0xf8 != 0x80 {
        return Err(Malformed::new("an event compressed by an unknown method"));
    }
    let length = usize::try_from(bytes.big(usize::from(head & 7))?).unwrap_or(usize::MAX);
    if length > EVENT_BYTES_MAX {
        return Err(Malformed::new("a compressed event that is too large"));
    }
    let mut plain = Vec::with_capacity(length);
    flate2::read::ZlibDecoder::new(bytes.0)
        .take(length as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Malformed(format!("a compressed event: {error}")))?;
    if plain.len() != length {
        return Err(Malformed(format!("a compressed event of {} bytes says {length}", plain.len())));
    }
    Ok(plain)
}

/// The text of a statement, unpacked if it is of MariaDB's compressed kind.
pub(crate) fn inflate_query(sql: &[u8], is_compressed: bool) -> Result<Cow<'_, [u8]>> {
    Ok(if is_compressed { inflate(sql)?.into() } else { sql.into() })
}
