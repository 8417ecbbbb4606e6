//! The Nonce payload (RFC 7296 §3.9).

use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::writer::Writer;

/// A nonce of 16 to 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// Length of the nonces that we send: half the output of any negotiable PRF is at most this (RFC 7296 §2.10).
    pub const LENGTH: usize = 32;

    /// The bounds are those of RFC 7296 §3.9.
    pub fn new(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        if (16..=256).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(DecodeError::new("nonce", Malformation::OutOfRange))
        }
    }

    /// The nonce. Crossing exchanges compare nonces as byte strings (RFC 7296 §2.8.1), which `Ord` does.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(r.rest().to_vec())
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.bytes(&self.0);
    }
}

impl From<[u8; Nonce::LENGTH]> for Nonce {
    fn from(bytes: [u8; Nonce::LENGTH]) -> Self {
        Self(bytes.to_vec())
    }
}
