//! The events that begin a transaction and name it.

use uuid::Uuid;

use super::bytes::Bytes;
use super::{Malformed, Result};
use crate::binlog::position::{Gtid, MariaDbGtid, MySqlGtid};

/// Flags of MariaDB's GTID event.
const STANDALONE: u8 = 0x1;

/// The beginning of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GtidEvent {
    pub(crate) gtid: Gtid,
    /// The commit by the clock of the server that sends it, in microseconds since 1970; only of MySQL.
    pub(crate) committed_at_us: Option<i64>,
    /// The transaction is the one event that follows.
    pub(crate) is_standalone: bool,
}

/// MySQL's GTID and ANONYMOUS_GTID.
pub(crate) fn mysql_gtid(body: &[u8]) -> Result<GtidEvent> {
    let mut bytes = Bytes(body);
    let _flags = bytes.u8()?;
    let mut server = [0; 16];
    server.copy_from_slice(bytes.take(16)?);
    let number = bytes.u64()?;
    let mut committed_at_us = None;
    // Logical clock (a byte that says 2 and two numbers), then the commit's time in 7 bytes; its highest bit says
    // that another one follows.
    if bytes.0.first() == Some(&2) && bytes.0.len() >= 24 {
        bytes.take(17)?;
        committed_at_us = Some((bytes.little(7)? & !(1 << 55)) as i64);
    }
    let gtid = Gtid::MySql(MySqlGtid { server: Uuid::from_bytes(server), tag: String::new(), number });
    Ok(GtidEvent { gtid, committed_at_us, is_standalone: false })
}

/// MySQL's GTID with a tag (8.3 and later), which has numbered fields of variable length.
pub(crate) fn mysql_tagged_gtid(body: &[u8]) -> Result<GtidEvent> {
    let mut bytes = Bytes(body);
    let _version = variable(&mut bytes)?;
    let _message_bytes = variable(&mut bytes)?;
    let _last_field_to_know = variable(&mut bytes)?;
    let (mut server, mut tag, mut number, mut committed_at_us) = ([0; 16], String::new(), 0, None);
    while !bytes.is_empty() {
        match variable(&mut bytes)? {
            0 => drop(variable(&mut bytes)?),
            1 => {
                for byte in &mut server {
                    *byte =
                        u8::try_from(variable(&mut bytes)?).map_err(|_| Malformed::new("a UUID's byte"))?;
                }
            }
            // Signed: the lowest bit is the sign.
            2 => number = variable(&mut bytes)? >> 1,
            3 => {
                let length =
                    usize::try_from(variable(&mut bytes)?).map_err(|_| Malformed::new("a tag's length"))?;
                tag = String::from_utf8_lossy(bytes.take(length)?).into_owned();
            }
            4 | 5 => drop(variable(&mut bytes)?),
            6 => {
                committed_at_us = i64::try_from(variable(&mut bytes)?).ok();
                // What follows is of no use here.
                break;
            }
            other => return Err(Malformed(format!("field {other} of a tagged GTID"))),
        }
    }
    if number == 0 {
        return Err(Malformed::new("a tagged GTID without a number"));
    }
    let gtid = Gtid::MySql(MySqlGtid { server: Uuid::from_bytes(server), tag, number });
    Ok(GtidEvent { gtid, committed_at_us, is_standalone: false })
}

/// A number of 1 to 9 bytes: as many low bits are set as bytes follow the first.
fn variable(bytes: &mut Bytes<'_>) -> Result<u64> {
    let first = bytes.u8()?;
    let following = first.trailing_ones();
    let rest = bytes.little(following as usize)?;
    Ok(match following {
        0..=6 => u64::from(first >> (following + 1)) | rest << (7 - following),
        // Nothing of the first byte is left.
        _ => rest,
    })
}

/// MariaDB's GTID; the server is in the event's header.
pub(crate) fn mariadb_gtid(server: u32, body: &[u8]) -> Result<GtidEvent> {
    let mut bytes = Bytes(body);
    let number = bytes.u64()?;
    let domain = bytes.u32()?;
    let flags = bytes.u8()?;
    Ok(GtidEvent {
        gtid: Gtid::MariaDb(MariaDbGtid { domain, server, number }),
        committed_at_us: None,
        is_standalone: flags & STANDALONE != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_length_are_read() {
        let cases: [(&[u8], u64); 5] = [
            (&[0x02], 1),
            (&[0xfe], 127),
            (&[0x01, 0x02], 128),
            (&[0x7f, 0, 0, 0, 0, 0, 0, 1], 1 << 48),
            (&[0xff, 1, 0, 0, 0, 0, 0, 0, 0x80], 1 << 63 | 1),
        ];
        for (bytes, number) in cases {
            assert_eq!(variable(&mut Bytes(bytes)).unwrap(), number, "{bytes:x?}");
        }
    }
}
