//! The IKE header (RFC 7296 §3.1).

use std::fmt;

use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::{ExchangeType, PayloadType};
use crate::types::IkeSpi;

/// Length of the header on the wire.
pub(crate) const HEADER_LENGTH: usize = 28;

/// What the header says, but for the length and the first payload's type, which belong to the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the original initiator of the IKE SA; never zero.
    pub initiator_spi: IkeSpi,
    /// Chosen by the original responder; `None` (zero on the wire) in the first request and in stateless answers.
    pub responder_spi: Option<IkeSpi>,
    /// Version of the protocol.
    pub version: Version,
    /// The exchange.
    pub exchange: ExchangeType,
    /// Who sends, and whether it answers.
    pub flags: Flags,
    /// Binds a response to its request.
    pub message_id: MessageId,
}

impl Header {
    /// Reads the header, the type of the first payload, and the length of the whole message.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<(Self, PayloadType, u32), DecodeError> {
        let initiator_spi = IkeSpi::new(r.u64("header.initiator_spi")?)
            .ok_or(DecodeError::new("header.initiator_spi", Malformation::OutOfRange))?;
        let responder_spi = IkeSpi::new(r.u64("header.responder_spi")?);
        let first = PayloadType(r.u8("header.next_payload")?);
        let version = Version(r.u8("header.version")?);
        let exchange = ExchangeType(r.u8("header.exchange_type")?);
        let flags = Flags(r.u8("header.flags")?);
        let message_id = MessageId(r.u32("header.message_id")?);
        let length = r.u32("header.length")?;
        Ok((
            Self {
                initiator_spi,
                responder_spi,
                version,
                exchange,
                flags,
                message_id,
            },
            first,
            length,
        ))
    }
}

/// Version of the protocol: two nibbles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u8);

impl Version {
    /// IKEv2: what we send.
    pub const V2_0: Self = Self(0x20);

    /// A receiver of another major version answers INVALID_MAJOR_VERSION (RFC 7296 §2.5).
    pub fn major(self) -> u8 {
        self.0 >> 4
    }

    /// Ignored on receipt (RFC 7296 §2.5).
    pub fn minor(self) -> u8 {
        self.0 & 0x0f
    }
}

/// The flags of the header. Two independent facts: the Initiator bit says that the sender is the *original initiator
/// of the IKE SA*, the Response bit that the message is a response; requests flow in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    const INITIATOR: u8 = 0x08;
    const RESPONSE: u8 = 0x20;

    /// Of a request sent by `sender`.
    pub fn request(sender: Role) -> Self {
        Self(match sender {
            Role::Initiator => Self::INITIATOR,
            Role::Responder => 0,
        })
    }

    /// Of a response sent by `sender`.
    pub fn response(sender: Role) -> Self {
        Self(Self::request(sender).0 | Self::RESPONSE)
    }

    /// The sender's role in the IKE SA.
    pub fn sender(self) -> Role {
        if self.0 & Self::INITIATOR != 0 {
            Role::Initiator
        } else {
            Role::Responder
        }
    }

    /// Whether the message answers a request.
    pub fn is_response(self) -> bool {
        self.0 & Self::RESPONSE != 0
    }

    /// The byte on the wire.
    pub fn value(self) -> u8 {
        self.0
    }
}

/// Which end of an IKE SA: who sent the request that made it (IKE_SA_INIT, or CREATE_CHILD_SA for a rekey).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Sent that request.
    Initiator,
    /// Answered it.
    Responder,
}

impl Role {
    /// The other end.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// A message ID (RFC 7296 §2.2): counts the requests of one end of one IKE SA from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u32);

impl MessageId {
    /// `None` after the last one: the IKE SA has to be rekeyed long before.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
