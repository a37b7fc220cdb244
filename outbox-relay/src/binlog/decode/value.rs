//! One value of a row image.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use uuid::Uuid;

use super::bytes::Bytes;
use super::charset::Charset;
use super::{Malformed, Result, decimal, json, temporal};
use crate::change::{AddressType, Value};

/// How the values of a column are written. `length_bytes` is how many bytes of length stand before the value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wire {
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        bytes: u8,
    },
    Year,
    Date,
    Time {
        fraction: u8,
    },
    DateTime {
        fraction: u8,
    },
    Timestamp {
        fraction: u8,
    },
    Text {
        length_bytes: u8,
        charset: Charset,
    },
    /// `padded` is what BINARY is filled up to with zeros, which the server strips; else 0.
    Bytes {
        length_bytes: u8,
        padded: u32,
    },
    Enum {
        bytes: u8,
        labels: Arc<[String]>,
    },
    Set {
        bytes: u8,
        labels: Arc<[String]>,
    },
    Json {
        length_bytes: u8,
    },
    Geometry {
        length_bytes: u8,
    },
    Vector {
        length_bytes: u8,
    },
    Address {
        length_bytes: u8,
        address: AddressType,
    },
}

impl Wire {
    /// Reads the next value, which is not NULL.
    pub(super) fn read(&self, bytes: &mut Bytes<'_>) -> Result<Value> {
        Ok(match self {
            Self::Int { bytes: size, unsigned } => {
                let raw = bytes.little(usize::from(*size))?;
                if *unsigned {
                    Value::UInt(raw)
                } else {
                    // Shifts the sign into place and spreads it.
                    let unused = 64 - 8 * u32::from(*size);
                    Value::Int((raw << unused) as i64 >> unused)
                }
            }
            Self::Float => Value::Float(f32::from_bits(bytes.u32()?)),
            Self::Double => Value::Double(f64::from_bits(bytes.u64()?)),
            Self::Decimal { precision, scale } => {
                Value::Decimal(decimal::decimal(bytes, *precision, *scale)?)
            }
            Self::Bit { bytes: size } => Value::Bit(bytes.big(usize::from(*size))?),
            Self::Year => match bytes.u8()? {
                0 => Value::Year(0),
                year => Value::Year(1900 + u16::from(year)),
            },
            Self::Date => Value::Date(temporal::date(bytes)?),
            Self::Time { fraction } => Value::Time(temporal::time(bytes, *fraction)?),
            Self::DateTime { fraction } => Value::DateTime(temporal::datetime(bytes, *fraction)?),
            Self::Timestamp { fraction } => Value::Timestamp(temporal::timestamp(bytes, *fraction)?),
            Self::Text { length_bytes, charset } => {
                let text = charset.decode(bytes.prefixed(*length_bytes)?);
                Value::Text(text.ok_or_else(|| Malformed::new("a text is not valid in its character set"))?)
            }
            Self::Bytes { length_bytes, padded } => {
                let mut value = bytes.prefixed(*length_bytes)?.to_vec();
                if value.len() < *padded as usize {
                    value.resize(*padded as usize, 0);
                }
                Value::Bytes(value)
            }
            Self::Enum { bytes: size, labels } => {
                let label = match bytes.little(usize::from(*size))? {
                    0 => Some(String::new()),
                    index => usize::try_from(index - 1).ok().and_then(|index| labels.get(index)).cloned(),
                };
                Value::Text(label.ok_or_else(|| Malformed::new("an ENUM's value has no label"))?)
            }
            Self::Set { bytes: size, labels } => Value::Text(set(bytes.little(usize::from(*size))?, labels)?),
            Self::Json { length_bytes } => Value::Json(json::text(bytes.prefixed(*length_bytes)?)?),
            Self::Geometry { length_bytes } => Value::Geometry(bytes.prefixed(*length_bytes)?.to_vec()),
            Self::Vector { length_bytes } => Value::Vector(bytes.prefixed(*length_bytes)?.to_vec()),
            Self::Address { length_bytes, address } => {
                Value::Text(address_text(*address, bytes.prefixed(*length_bytes)?)?)
            }
        })
    }
}

fn set(bits: u64, labels: &[String]) -> Result<String> {
    let mut text = String::new();
    for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
        let label = labels.get(bit).ok_or_else(|| Malformed::new("a SET's value has no label"))?;
        let _ = write!(text, "{}{label}", if text.is_empty() { "" } else { "," });
    }
    Ok(text)
}

/// The server strips trailing zeros of these too.
fn address_text(address: AddressType, stored: &[u8]) -> Result<String> {
    let mut bytes = [0; 16];
    let fitting =
        bytes.get_mut(..stored.len()).ok_or_else(|| Malformed::new("an address of more than 16 bytes"))?;
    fitting.copy_from_slice(stored);
    Ok(match address {
        AddressType::Uuid => Uuid::from_bytes(bytes).to_string(),
        AddressType::Inet4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).to_string(),
        AddressType::Inet6 => Ipv6Addr::from(bytes).to_string(),
    })
}
