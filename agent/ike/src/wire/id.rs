//! The Identification payloads (RFC 7296 §3.5) and what they say in terms of the configuration.

use std::net::IpAddr;

use super::IdType;
use super::error::DecodeError;
use super::reader::Reader;
use super::writer::Writer;
use crate::config::Identity;
use crate::distinguished_name::DistinguishedName;

/// IDi or IDr. The reserved bytes are kept because AUTH covers them as they were sent (RFC 7296 §2.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    kind: IdType,
    reserved: [u8; 3],
    data: Vec<u8>,
}

impl Identification {
    /// What kind of identity.
    pub fn kind(&self) -> IdType {
        self.kind
    }

    /// The payload without its generic header: what `prf(SK_p, ID')` covers (RFC 7296 §2.15).
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![self.kind.0];
        body.extend_from_slice(&self.reserved);
        body.extend_from_slice(&self.data);
        body
    }

    /// In terms of the configuration; `None` for a kind that no configuration can name, or data that is not of its
    /// kind.
    pub fn identity(&self) -> Option<Identity> {
        match self.kind {
            IdType::IPV4_ADDR => {
                let octets: [u8; 4] = self.data.as_slice().try_into().ok()?;
                Some(Identity::Address(IpAddr::from(octets)))
            }
            IdType::IPV6_ADDR => {
                let octets: [u8; 16] = self.data.as_slice().try_into().ok()?;
                Some(Identity::Address(IpAddr::from(octets)))
            }
            IdType::FQDN if self.data.is_ascii() && !self.data.is_empty() => {
                String::from_utf8(self.data.clone()).ok().map(Identity::Fqdn)
            }
            IdType::RFC822_ADDR if self.data.is_ascii() && !self.data.is_empty() => {
                String::from_utf8(self.data.clone()).ok().map(Identity::Email)
            }
            IdType::DER_ASN1_DN => DistinguishedName::from_der(&self.data).map(Identity::Dn),
            IdType::KEY_ID => Some(Identity::KeyId(self.data.clone())),
            _ => None,
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = IdType(r.u8("ID.type")?);
        let reserved = r.array("ID.reserved")?;
        Ok(Self {
            kind,
            reserved,
            data: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.kind.0);
        w.bytes(&self.reserved);
        w.bytes(&self.data);
    }
}

impl From<&Identity> for Identification {
    fn from(identity: &Identity) -> Self {
        let (kind, data) = match identity {
            Identity::Address(IpAddr::V4(address)) => (IdType::IPV4_ADDR, address.octets().to_vec()),
            Identity::Address(IpAddr::V6(address)) => (IdType::IPV6_ADDR, address.octets().to_vec()),
            Identity::Dn(name) => (IdType::DER_ASN1_DN, name.as_der().to_vec()),
            Identity::Email(address) => (IdType::RFC822_ADDR, address.as_bytes().to_vec()),
            Identity::Fqdn(name) => (IdType::FQDN, name.as_bytes().to_vec()),
            Identity::KeyId(id) => (IdType::KEY_ID, id.clone()),
        };
        Self {
            kind,
            reserved: [0; 3],
            data,
        }
    }
}
