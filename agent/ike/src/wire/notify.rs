//! The Notify payload (RFC 7296 §3.10): a type, the SA that it is about, and data that the type defines.

use std::time::Duration;

use super::auth::{decode_hash_algorithms, encode_hash_algorithms};
use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::spi::Spi;
use super::writer::Writer;
use super::{HashAlgorithm, KeyExchangeMethod, NotifyType, PayloadType, Protocol};
use crate::types::{BootId, EspSpi, SaProtocol};

/// A name that stands for one key, as opposed to what only the sender can read (RFC 8784 §5.1).
const PPK_ID_FIXED: u8 = 2;

/// An error or a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of `spi`; none for the IKE SA that carries the notify.
    pub protocol: Protocol,
    /// The SA that it is about, where it is not the IKE SA.
    pub spi: Spi,
    /// What it says.
    pub kind: NotifyType,
    /// Data that `kind` defines.
    pub data: Vec<u8>,
}

impl Notify {
    /// About the IKE SA, or the exchange, that carries it; without data.
    pub fn new(kind: NotifyType) -> Self {
        Self::with_data(kind, Vec::new())
    }

    /// About the IKE SA, or the exchange, that carries it.
    pub fn with_data(kind: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::NONE,
            spi: Spi::Absent,
            kind,
            data,
        }
    }

    /// REKEY_SA: the SPI is that which the sender of the notify expects in inbound packets (RFC 7296 §1.3.3).
    pub fn rekey_sa(protocol: SaProtocol, inbound: EspSpi) -> Self {
        Self::about(NotifyType::REKEY_SA, protocol, inbound)
    }

    /// CHILD_SA_NOT_FOUND: repeats the SPI of the REKEY_SA that it answers (RFC 7296 §2.25).
    pub fn child_sa_not_found(protocol: SaProtocol, spi: EspSpi) -> Self {
        Self::about(NotifyType::CHILD_SA_NOT_FOUND, protocol, spi)
    }

    /// INVALID_KE_PAYLOAD with the method that is wanted (RFC 7296 §1.2).
    pub fn invalid_ke(wanted: KeyExchangeMethod) -> Self {
        Self::with_data(NotifyType::INVALID_KE_PAYLOAD, wanted.0.to_be_bytes().to_vec())
    }

    /// UNSUPPORTED_CRITICAL_PAYLOAD with the payload's type (RFC 7296 §2.5).
    pub fn unsupported_critical(kind: PayloadType) -> Self {
        Self::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
    }

    /// SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4).
    pub fn hash_algorithms(algorithms: &[HashAlgorithm]) -> Self {
        Self::with_data(
            NotifyType::SIGNATURE_HASH_ALGORITHMS,
            encode_hash_algorithms(algorithms),
        )
    }

    /// The boot of the sender's node.
    pub fn boot_id(boot: BootId) -> Self {
        Self::with_data(NotifyType::IPSECMESH_BOOT_ID, boot.0.to_vec())
    }

    /// PPK_IDENTITY of an initiator: PPK_ID_FIXED, the name of a key that both ends have (RFC 8784 §5.1).
    pub fn ppk_identity(id: &[u8]) -> Self {
        let mut data = vec![PPK_ID_FIXED];
        data.extend_from_slice(id);
        Self::with_data(NotifyType::PPK_IDENTITY, data)
    }

    /// AUTH_LIFETIME: for so long the sender believes that the receiver is who it has proven to be (RFC 4478 §3).
    pub fn auth_lifetime(time: Duration) -> Self {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Self::with_data(NotifyType::AUTH_LIFETIME, seconds.to_be_bytes().to_vec())
    }

    /// The SPI of REKEY_SA or CHILD_SA_NOT_FOUND.
    pub fn child_spi(&self) -> Result<(SaProtocol, EspSpi), DecodeError> {
        match (self.protocol, &self.spi) {
            (Protocol::ESP, Spi::Esp(spi)) => Ok((SaProtocol::Esp, *spi)),
            (Protocol::AH, Spi::Esp(spi)) => Ok((SaProtocol::Ah, *spi)),
            _ => Err(DecodeError::new("notify.spi", Malformation::OutOfRange)),
        }
    }

    /// The method that INVALID_KE_PAYLOAD asks for.
    pub fn wanted_ke(&self) -> Result<KeyExchangeMethod, DecodeError> {
        let mut r = Reader::new(&self.data);
        let method = r.u16("INVALID_KE_PAYLOAD.method")?;
        r.finish("INVALID_KE_PAYLOAD")?;
        Ok(KeyExchangeMethod(method))
    }

    /// The name in PPK_IDENTITY of an initiator.
    pub fn named_ppk(&self) -> Result<&[u8], DecodeError> {
        match self.data.split_first() {
            Some((&PPK_ID_FIXED, id)) if !id.is_empty() => Ok(id),
            _ => Err(DecodeError::new("PPK_IDENTITY", Malformation::OutOfRange)),
        }
    }

    /// The time that AUTH_LIFETIME names.
    pub fn announced_lifetime(&self) -> Result<Duration, DecodeError> {
        let mut r = Reader::new(&self.data);
        let seconds = r.u32("AUTH_LIFETIME")?;
        r.finish("AUTH_LIFETIME")?;
        Ok(Duration::from_secs(u64::from(seconds)))
    }

    /// What SIGNATURE_HASH_ALGORITHMS announces.
    pub fn announced_hashes(&self) -> Result<Vec<HashAlgorithm>, DecodeError> {
        decode_hash_algorithms(&self.data)
    }

    /// The boot that IPSECMESH_BOOT_ID names.
    pub fn announced_boot(&self) -> Result<BootId, DecodeError> {
        let mut r = Reader::new(&self.data);
        let boot = BootId(r.array("IPSECMESH_BOOT_ID")?);
        r.finish("IPSECMESH_BOOT_ID")?;
        Ok(boot)
    }

    /// The type and the data of a notify, in place.
    pub(super) fn glance(body: &[u8]) -> Result<(NotifyType, &[u8]), DecodeError> {
        let mut r = Reader::new(body);
        r.u8("notify.protocol")?;
        let spi_size = r.u8("notify.spi_size")?;
        let kind = NotifyType(r.u16("notify.type")?);
        r.take(usize::from(spi_size), "notify.spi")?;
        Ok((kind, r.rest()))
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = Protocol(r.u8("notify.protocol")?);
        let spi_size = r.u8("notify.spi_size")?;
        let kind = NotifyType(r.u16("notify.type")?);
        let spi = Spi::from_bytes(protocol, r.take(usize::from(spi_size), "notify.spi")?);
        Ok(Self {
            protocol,
            spi,
            kind,
            data: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.protocol.0);
        w.count_u8(self.spi.len(), "notify.spi");
        w.u16(self.kind.0);
        self.spi.encode(w);
        w.bytes(&self.data);
    }

    fn about(kind: NotifyType, protocol: SaProtocol, spi: EspSpi) -> Self {
        Self {
            protocol: protocol.into(),
            spi: Spi::Esp(spi),
            kind,
            data: Vec::new(),
        }
    }
}
