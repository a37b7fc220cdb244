//! A cursor over the bytes of an event; every read is checked.

use super::{Malformed, Result};

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.0.len() {
            return Err(Malformed(format!("{count} bytes expected, {} left", self.0.len())));
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A little-endian number of up to 8 bytes.
    pub(crate) fn little(&mut self, count: usize) -> Result<u64> {
        let mut wide = [0; 8];
        let bytes = self.take(count)?;
        wide.get_mut(..count)
            .ok_or_else(|| Malformed::new("a number of more than 8 bytes"))?
            .copy_from_slice(bytes);
        Ok(u64::from_le_bytes(wide))
    }

    /// A big-endian number of up to 8 bytes.
    pub(crate) fn big(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A length-encoded number.
    pub(crate) fn length(&mut self) -> Result<usize> {
        let number = match self.u8()? {
            0xfc => self.little(2)?,
            0xfd => self.little(3)?,
            0xfe => self.little(8)?,
            small @ 0..=0xfa => u64::from(small),
            _ => return Err(Malformed::new("a length that is none")),
        };
        usize::try_from(number).map_err(|_| Malformed::new("a length beyond memory"))
    }

    /// Bytes with their length-encoded length before them.
    pub(crate) fn counted(&mut self) -> Result<&'a [u8]> {
        let count = self.length()?;
        self.take(count)
    }

    /// Bytes with their length before them, which itself has so many bytes.
    pub(crate) fn prefixed(&mut self, length_bytes: u8) -> Result<&'a [u8]> {
        let count = self.little(usize::from(length_bytes))?;
        self.take(usize::try_from(count).map_err(|_| Malformed::new("a length beyond memory"))?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
