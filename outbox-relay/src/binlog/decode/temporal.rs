//! Dates and times in the formats of MySQL 5.6 and later, which MariaDB shares.

use super::Result;
use super::bytes::Bytes;
use crate::change::{Date, DateTime};

/// Microseconds in an hour, a minute, a second.
const HOUR_US: i64 = 60 * MINUTE_US;
const MINUTE_US: i64 = 60 * SECOND_US;
const SECOND_US: i64 = 1_000_000;

/// DATE: 5 bits of day, 4 of month, 15 of year.
pub(super) fn date(bytes: &mut Bytes<'_>) -> Result<Date> {
    let packed = bytes.little(3)?;
    Ok(Date { year: (packed >> 9) as u16, month: (packed >> 5 & 0xf) as u8, day: (packed & 0x1f) as u8 })
}

/// The microseconds that follow the seconds: two digits in each byte.
fn micros(bytes: &mut Bytes<'_>, fraction: u8) -> Result<u32> {
    let count = usize::from(fraction).div_ceil(2);
    Ok(bytes.big(count)? as u32 * [1_000_000, 10_000, 100, 1][count.min(3)])
}

/// TIMESTAMP, in microseconds since 1970.
pub(super) fn timestamp(bytes: &mut Bytes<'_>, fraction: u8) -> Result<i64> {
    let seconds = bytes.big(4)? as i64;
    Ok(seconds * SECOND_US + i64::from(micros(bytes, fraction)?))
}

/// DATETIME.
pub(super) fn datetime(bytes: &mut Bytes<'_>, fraction: u8) -> Result<DateTime> {
    // The sign is always positive: no server takes a negative date.
    let packed = bytes.big(5)? as i64 - (1 << 39);
    let micros = micros(bytes, fraction)?;
    Ok(unpacked(packed, micros))
}

fn unpacked(packed: i64, micros: u32) -> DateTime {
    let (days, time) = (packed >> 17, packed & 0x1_ffff);
    let months = days >> 5;
    DateTime {
        date: Date { year: (months / 13) as u16, month: (months % 13) as u8, day: (days & 0x1f) as u8 },
        hour: (time >> 12) as u8,
        minute: (time >> 6 & 0x3f) as u8,
        second: (time & 0x3f) as u8,
        micros,
    }
}

/// TIME, in microseconds. Fraction and whole are one number, which is negative as a whole.
pub(super) fn time(bytes: &mut Bytes<'_>, fraction: u8) -> Result<i64> {
    let count = usize::from(fraction).div_ceil(2);
    let bits = 8 * (3 + count);
    let packed = bytes.big(3 + count)? as i64 - (1 << (bits - 1));
    let (whole, part) = (packed.abs() >> (8 * count), packed.abs() & ((1 << (8 * count)) - 1));
    let micros = part * [0, 10_000, 100, 1][count.min(3)];
    let absolute =
        (whole >> 12 & 0x3ff) * HOUR_US + (whole >> 6 & 0x3f) * MINUTE_US + (whole & 0x3f) * SECOND_US;
    Ok((absolute + micros) * packed.signum())
}

/// A DATE or DATETIME inside JSON: the packed form, with the microseconds in the lowest three bytes.
pub(super) fn packed_datetime(packed: i64) -> DateTime {
    let packed = packed.wrapping_abs();
    unpacked(packed >> 24, (packed & 0xff_ffff) as u32)
}

/// A TIME inside JSON, in microseconds.
pub(super) fn packed_time(packed: i64) -> i64 {
    let absolute = packed.wrapping_abs();
    let whole = absolute >> 24;
    let time = (whole >> 12 & 0x3ff) * HOUR_US + (whole >> 6 & 0x3f) * MINUTE_US + (whole & 0x3f) * SECOND_US;
    (time + (absolute & 0xff_ffff)) * packed.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_times_keep_their_fraction() {
        // -01:02:03.4 as TIME(1) and TIME(2), which others read as 623 hours.
        let expected = -(HOUR_US + 2 * MINUTE_US + 3 * SECOND_US + 400_000);
        let packed = ((1 << 12 | 2 << 6 | 3_i64) << 8) + 40;
        let raw = ((1_i64 << 31) - packed).to_be_bytes();
        assert_eq!(time(&mut Bytes(&raw[4..]), 2).unwrap(), expected);
        assert_eq!(time(&mut Bytes(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]), 6).unwrap(), -1);
        assert_eq!(time(&mut Bytes(&[0x80, 0, 0]), 0).unwrap(), 0);
    }
}
