//! The Delete payload (RFC 7296 §3.11).

use super::Protocol;
use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::writer::Writer;
use crate::types::{EspSpi, SaProtocol};

/// Which SAs the sender deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that carries the message.
    Ike,
    /// SAs of ESP or AH, by the SPIs that the sender of the payload expects in inbound packets.
    Child(SaProtocol, Vec<EspSpi>),
    /// SAs of a protocol that we never negotiate.
    Other {
        /// The protocol.
        protocol: Protocol,
        /// Length of one SPI.
        spi_size: u8,
        /// The SPIs, one after the other.
        spis: Vec<u8>,
    },
}

impl Delete {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = Protocol(r.u8("delete.protocol")?);
        let spi_size = r.u8("delete.spi_size")?;
        let count = r.u16("delete.spi_count")?;
        match (protocol, spi_size, count) {
            (Protocol::IKE, 0, 0) => Ok(Self::Ike),
            (Protocol::ESP | Protocol::AH, 4, count) => {
                let mut spis = Vec::new();
                for _ in 0..count {
                    let spi = EspSpi::new(r.u32("delete.spi")?);
                    spis.push(spi.ok_or(DecodeError::new("delete.spi", Malformation::OutOfRange))?);
                }
                let protocol = if protocol == Protocol::AH {
                    SaProtocol::Ah
                } else {
                    SaProtocol::Esp
                };
                Ok(Self::Child(protocol, spis))
            }
            (Protocol::ESP | Protocol::AH | Protocol::IKE, ..) => {
                Err(DecodeError::new("delete.spi_size", Malformation::OutOfRange))
            }
            (_, 0, count) if count > 0 => Err(DecodeError::new("delete.spi_size", Malformation::OutOfRange)),
            (protocol, spi_size, count) => {
                let spis = r
                    .take(usize::from(spi_size) * usize::from(count), "delete.spi")?
                    .to_vec();
                Ok(Self::Other {
                    protocol,
                    spi_size,
                    spis,
                })
            }
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Ike => {
                w.u8(Protocol::IKE.0);
                w.u8(0);
                w.u16(0);
            }
            Self::Child(protocol, spis) => {
                w.u8(Protocol::from(*protocol).0);
                w.u8(4);
                w.count_u16(spis.len(), "delete.spi");
                for spi in spis {
                    w.u32(spi.value());
                }
            }
            Self::Other {
                protocol,
                spi_size,
                spis,
            } => {
                w.u8(protocol.0);
                w.u8(*spi_size);
                w.count_u16(
                    spis.len().checked_div(usize::from(*spi_size)).unwrap_or(0),
                    "delete.spi",
                );
                w.bytes(spis);
            }
        }
    }
}
