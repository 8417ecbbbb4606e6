//! Builds messages. Lengths and counts are written by the writer itself, so no encoder computes one.

use super::error::EncodeError;

/// A growing message. A structure that outgrows its length field is remembered and reported by [`Writer::finish`].
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    overflow: Option<&'static str>,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// One-byte count or length of something that `field` names.
    pub(super) fn count_u8(&mut self, count: usize, field: &'static str) {
        let count = u8::try_from(count).unwrap_or_else(|_| {
            self.overflow.get_or_insert(field);
            u8::MAX
        });
        self.u8(count);
    }

    /// Two-byte count of something that `field` names.
    pub(super) fn count_u16(&mut self, count: usize, field: &'static str) {
        let count = u16::try_from(count).unwrap_or_else(|_| {
            self.overflow.get_or_insert(field);
            u16::MAX
        });
        self.u16(count);
    }

    /// A 16-bit length field and what it covers: `before` bytes written already (the part of the structure in front
    /// of its length field), the field itself, and what `body` writes.
    pub(super) fn sized_u16(&mut self, before: usize, field: &'static str, body: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.u16(0);
        body(self);
        let length = self.bytes.len() - at + before;
        match (u16::try_from(length), self.bytes.get_mut(at..at + 2)) {
            (Ok(length), Some(slot)) => slot.copy_from_slice(&length.to_be_bytes()),
            _ => {
                self.overflow.get_or_insert(field);
            }
        }
    }

    /// A 32-bit length field at the end of `before` bytes, covering all of the message.
    pub(super) fn sized_u32(&mut self, before: usize, field: &'static str, body: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.u32(0);
        body(self);
        let length = self.bytes.len() - at + before;
        match (u32::try_from(length), self.bytes.get_mut(at..at + 4)) {
            (Ok(length), Some(slot)) => slot.copy_from_slice(&length.to_be_bytes()),
            _ => {
                self.overflow.get_or_insert(field);
            }
        }
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, EncodeError> {
        match self.overflow {
            None => Ok(self.bytes),
            Some(field) => Err(EncodeError { field }),
        }
    }
}
