//! A cursor over received bytes that cannot panic: every read is checked, and every failure names its field.

use super::error::{DecodeError, Malformation};

/// What is left to read of one structure. A nested structure gets a reader of its own, bounded by its length field,
/// so it can never read past its end; [`Reader::finish`] makes left-over bytes an error.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::new(field, Malformation::Truncated))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::new(field, Malformation::Truncated))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A nested structure whose length field says `length`, of which `consumed` bytes (up to and with the length
    /// field) have been read already.
    pub(super) fn nested(
        &mut self,
        length: u16,
        consumed: usize,
        field: &'static str,
    ) -> Result<Reader<'a>, DecodeError> {
        let body = usize::from(length)
            .checked_sub(consumed)
            .ok_or(DecodeError::new(field, Malformation::OutOfRange))?;
        self.take(body, field).map(Reader::new)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The structure ends here.
    pub(super) fn finish(&self, field: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::new(field, Malformation::Trailing))
        }
    }
}
