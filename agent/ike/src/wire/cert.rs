//! The Certificate and Certificate Request payloads (RFC 7296 §3.6, §3.7).

use super::CertificateEncoding;
use super::error::DecodeError;
use super::reader::Reader;
use super::writer::Writer;

/// One certificate; the leaf comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// How `data` is to be read.
    pub encoding: CertificateEncoding,
    /// The certificate.
    pub data: Vec<u8>,
}

impl Certificate {
    /// A DER-encoded X.509 certificate.
    pub fn x509(der: Vec<u8>) -> Self {
        Self {
            encoding: CertificateEncoding::X509_SIGNATURE,
            data: der,
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let encoding = CertificateEncoding(r.u8("CERT.encoding")?);
        Ok(Self {
            encoding,
            data: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.encoding.0);
        w.bytes(&self.data);
    }
}

/// Trust anchors that the sender accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The encoding that is wanted.
    pub encoding: CertificateEncoding,
    /// SHA-1 hashes of the anchors' SubjectPublicKeyInfo, one after the other, when the encoding is X.509.
    pub authority: Vec<u8>,
}

impl CertificateRequest {
    /// Asks for an X.509 certificate under one of these anchors.
    pub fn x509(authorities: &[[u8; 20]]) -> Self {
        Self {
            encoding: CertificateEncoding::X509_SIGNATURE,
            authority: authorities.concat(),
        }
    }

    /// The hashes of the anchors; a remainder that is no hash is ignored.
    pub fn authorities(&self) -> impl Iterator<Item = &[u8; 20]> {
        self.authority.as_chunks().0.iter()
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let encoding = CertificateEncoding(r.u8("CERTREQ.encoding")?);
        Ok(Self {
            encoding,
            authority: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.encoding.0);
        w.bytes(&self.authority);
    }
}
