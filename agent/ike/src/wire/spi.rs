//! The SPI of a proposal, a notify or a delete: its size follows from the protocol (RFC 7296 §3.3.1).

use super::Protocol;
use super::writer::Writer;
use crate::types::{EspSpi, IkeSpi, SaProtocol};

/// An SPI as proposals and notifies carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spi {
    /// None: the header has it, or there is no SA yet.
    Absent,
    /// Of an ESP or AH SA.
    Esp(EspSpi),
    /// Of an IKE SA that a rekey makes.
    Ike(IkeSpi),
    /// Of another protocol, of another size, or reserved: never matches an SA of ours.
    Other(Vec<u8>),
}

impl From<SaProtocol> for Protocol {
    fn from(protocol: SaProtocol) -> Self {
        match protocol {
            SaProtocol::Esp => Self::ESP,
            SaProtocol::Ah => Self::AH,
        }
    }
}

impl Spi {
    pub(super) fn from_bytes(protocol: Protocol, bytes: &[u8]) -> Self {
        let known = match (protocol, bytes) {
            (_, []) => Some(Self::Absent),
            (Protocol::ESP | Protocol::AH, bytes) => <[u8; 4]>::try_from(bytes)
                .ok()
                .and_then(|b| EspSpi::new(u32::from_be_bytes(b)))
                .map(Self::Esp),
            (Protocol::IKE, bytes) => <[u8; 8]>::try_from(bytes)
                .ok()
                .and_then(|b| IkeSpi::new(u64::from_be_bytes(b)))
                .map(Self::Ike),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(bytes.to_vec()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Esp(_) => 4,
            Self::Ike(_) => 8,
            Self::Other(bytes) => bytes.len(),
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Absent => {}
            Self::Esp(spi) => w.u32(spi.value()),
            Self::Ike(spi) => w.u64(spi.value()),
            Self::Other(bytes) => w.bytes(bytes),
        }
    }
}
