//! The Authentication payload (RFC 7296 §3.8), the data of method 14 (RFC 7427 §3), and the announcement of hash
//! algorithms (RFC 7427 §4).

use super::error::{DecodeError, EncodeError, Malformation};
use super::reader::Reader;
use super::writer::Writer;
use super::{AuthMethod, HashAlgorithm};
use crate::config::SignatureAlgorithm;

/// Proof of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// How `data` is to be read.
    pub method: AuthMethod,
    /// A MAC or a signature.
    pub data: Vec<u8>,
}

impl Auth {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let method = AuthMethod(r.u8("AUTH.method")?);
        r.array::<3>("AUTH.reserved")?;
        Ok(Self {
            method,
            data: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.method.0);
        w.bytes(&[0; 3]);
        w.bytes(&self.data);
    }
}

/// The data of an AUTH payload of method 14: which algorithm, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureAuth {
    /// The algorithm; only those that we verify decode.
    pub algorithm: SignatureAlgorithm,
    /// The signature in the algorithm's encoding.
    pub signature: Vec<u8>,
}

impl SignatureAuth {
    /// Reads the data of an AUTH payload; an algorithm that we do not verify is out of range.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        let length = r.u8("AUTH.algorithm_length")?;
        let identifier = r.take(usize::from(length), "AUTH.algorithm")?;
        let algorithm = SignatureAlgorithm::from_identifier(identifier)
            .ok_or(DecodeError::new("AUTH.algorithm", Malformation::OutOfRange))?;
        if r.is_empty() {
            return Err(DecodeError::new("AUTH.signature", Malformation::Truncated));
        }
        Ok(Self {
            algorithm,
            signature: r.rest().to_vec(),
        })
    }

    /// The AUTH payload.
    pub fn to_auth(&self) -> Result<Auth, EncodeError> {
        let identifier = self.algorithm.identifier();
        let mut w = Writer::default();
        w.count_u8(identifier.len(), "AUTH.algorithm");
        w.bytes(identifier);
        w.bytes(&self.signature);
        Ok(Auth {
            method: AuthMethod::DIGITAL_SIGNATURE,
            data: w.finish()?,
        })
    }
}

/// The data of SIGNATURE_HASH_ALGORITHMS.
pub fn encode_hash_algorithms(algorithms: &[HashAlgorithm]) -> Vec<u8> {
    algorithms
        .iter()
        .flat_map(|algorithm| algorithm.0.to_be_bytes())
        .collect()
}

/// Reads the data of SIGNATURE_HASH_ALGORITHMS.
pub fn decode_hash_algorithms(data: &[u8]) -> Result<Vec<HashAlgorithm>, DecodeError> {
    let mut r = Reader::new(data);
    let mut algorithms = Vec::new();
    while !r.is_empty() {
        algorithms.push(HashAlgorithm(r.u16("SIGNATURE_HASH_ALGORITHMS")?));
    }
    Ok(algorithms)
}
