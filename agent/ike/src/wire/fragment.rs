//! The Encrypted Fragment payload (RFC 7383 §2.5): its position, read before the integrity check, and its envelope.

use super::error::{DecodeError, Malformation};
use super::message::Envelope;
use super::reader::Reader;

/// Where the sealed part of a fragment lies, and which fragment it claims to be. Nothing of it may be stored before
/// `crypto::Opener::open_fragment` has checked its own check value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentEnvelope {
    /// The claim.
    pub position: FragmentPosition,
    pub(crate) envelope: Envelope,
}

/// Which fragment of how many: `1 ≤ number ≤ total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentPosition {
    number: u16,
    total: u16,
}

impl FragmentEnvelope {
    pub(super) fn decode(outer: Envelope, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let number = r.u16("SKF.fragment_number")?;
        let total = r.u16("SKF.total_fragments")?;
        let position = FragmentPosition::new(number, total)?;
        let start = outer.start + (body.len() - r.len());
        Ok(Self {
            position,
            envelope: Envelope {
                first: outer.first,
                start,
            },
        })
    }
}

impl FragmentPosition {
    /// Neither is zero, and the number is at most the total (RFC 7383 §2.5).
    pub fn new(number: u16, total: u16) -> Result<Self, DecodeError> {
        if number == 0 || number > total {
            return Err(DecodeError::new("SKF.fragment_number", Malformation::OutOfRange));
        }
        Ok(Self { number, total })
    }

    /// From 1.
    pub fn number(self) -> u16 {
        self.number
    }

    /// How many fragments the message has.
    pub fn total(self) -> u16 {
        self.total
    }
}
