//! What can be wrong with bytes from the network, and with what we would send.

use super::PayloadType;

/// A message or payload that does not parse. Its fault class is *decode*: before the integrity check it can only be
/// dropped and counted, after it the peer hears INVALID_SYNTAX or UNSUPPORTED_CRITICAL_PAYLOAD (RFC 7296 §2.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {malformation}")]
pub struct DecodeError {
    /// What was being read.
    pub field: &'static str,
    /// What is wrong with it.
    pub malformation: Malformation,
}

impl DecodeError {
    pub(super) fn new(field: &'static str, malformation: Malformation) -> Self {
        Self { field, malformation }
    }

    /// The payload type that UNSUPPORTED_CRITICAL_PAYLOAD has to name, when that is what is wrong.
    pub fn unsupported_critical(&self) -> Option<PayloadType> {
        match self.malformation {
            Malformation::UnsupportedCritical(kind) => Some(kind),
            Malformation::Duplicate
            | Malformation::Limit
            | Malformation::OutOfRange
            | Malformation::Trailing
            | Malformation::Truncated => None,
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// A payload that may occur once occurs again.
    #[error("occurs more than once")]
    Duplicate,
    /// More of them than is accepted.
    #[error("too many")]
    Limit,
    /// A value or a length that the RFC does not allow there.
    #[error("value out of range")]
    OutOfRange,
    /// Bytes are left over after the last field.
    #[error("trailing bytes")]
    Trailing,
    /// The bytes end before the field does.
    #[error("truncated")]
    Truncated,
    /// A payload that we do not know is marked critical (RFC 7296 §2.5).
    #[error("unsupported critical payload {0}")]
    UnsupportedCritical(PayloadType),
}

/// A message that cannot be expressed: a structure longer than its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is too long for its length field")]
pub struct EncodeError {
    /// The structure.
    pub field: &'static str,
}
