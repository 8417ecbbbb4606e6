//! Public keys as certificates carry them: which kind a SubjectPublicKeyInfo is, and where its key is.

use std::fmt;

use super::error::CryptoError;
use crate::der::{BIT_STRING, Der, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};

/// Shortest RSA modulus, in bits (RFC 8247 §3.2.1 asks for 2048).
pub const RSA_SHORTEST: usize = 2048;
/// Longest RSA modulus, in bits: what a peer's key can cost us has an end.
pub const RSA_LONGEST: usize = 8192;

/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// secp256r1 (RFC 5480 §2.1.1.1).
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// secp384r1.
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// secp521r1.
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// id-Ed25519 (RFC 8410 §3).
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// rsaEncryption (RFC 3279 §2.3.1).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// First byte of a point that is not compressed (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// A public key that signatures are verified with. Whether a point lies on its curve is for the provider to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKey<'a> {
    /// Ed25519.
    Ed25519(&'a [u8; 32]),
    /// A point of P-256, not compressed.
    P256(&'a [u8; 65]),
    /// A point of P-384, not compressed.
    P384(&'a [u8; 97]),
    /// A point of P-521, not compressed.
    P521(&'a [u8; 133]),
    /// An `RSAPublicKey` in DER (RFC 8017 §A.1.1) with a modulus of [`RSA_SHORTEST`] to [`RSA_LONGEST`] bits.
    Rsa(&'a [u8]),
}

impl<'a> PublicKey<'a> {
    /// Reads a DER SubjectPublicKeyInfo.
    pub fn parse(spki: &'a [u8]) -> Result<Self, CryptoError> {
        let (algorithm, key) = algorithm_and_key(spki).ok_or(CryptoError::InvalidPublicKey)?;
        let mut algorithm = algorithm;
        let kind = algorithm
            .content(OBJECT_IDENTIFIER)
            .ok_or(CryptoError::InvalidPublicKey)?;
        match kind {
            EC => {
                let curve = algorithm.content(OBJECT_IDENTIFIER);
                let (Some(curve), [UNCOMPRESSED, ..]) = (curve, key) else {
                    return Err(CryptoError::InvalidPublicKey);
                };
                let found = match curve {
                    P256 => key.try_into().map(Self::P256),
                    P384 => key.try_into().map(Self::P384),
                    P521 => key.try_into().map(Self::P521),
                    _ => return Err(CryptoError::UnsupportedPublicKey),
                };
                found
                    .ok()
                    .filter(|_| algorithm.is_empty())
                    .ok_or(CryptoError::InvalidPublicKey)
            }
            ED25519 if algorithm.is_empty() => key
                .try_into()
                .map(Self::Ed25519)
                .map_err(|_| CryptoError::InvalidPublicKey),
            RSA => {
                let bits = algorithm
                    .null_or_end()
                    .and_then(|()| modulus_bits(key))
                    .ok_or(CryptoError::InvalidPublicKey)?;
                if (RSA_SHORTEST..=RSA_LONGEST).contains(&bits) {
                    Ok(Self::Rsa(key))
                } else {
                    Err(CryptoError::RsaKeyLength)
                }
            }
            _ => Err(CryptoError::UnsupportedPublicKey),
        }
    }
}

impl fmt::Display for PublicKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(_) => f.write_str("Ed25519"),
            Self::P256(_) => f.write_str("ECDSA P-256"),
            Self::P384(_) => f.write_str("ECDSA P-384"),
            Self::P521(_) => f.write_str("ECDSA P-521"),
            Self::Rsa(key) => write!(f, "RSA {}", modulus_bits(key).unwrap_or_default()),
        }
    }
}

/// `SEQUENCE { SEQUENCE { algorithm }, BIT STRING { no unused bits, key } }` (RFC 5280 §4.1.2.7).
fn algorithm_and_key(spki: &[u8]) -> Option<(Der<'_>, &[u8])> {
    let mut outer = Der::new(spki);
    let mut info = outer.nested(SEQUENCE)?;
    let algorithm = info.nested(SEQUENCE)?;
    let key = info.content(BIT_STRING)?.strip_prefix(&[0])?;
    outer.end()?;
    info.end()?;
    Some((algorithm, key))
}

/// Length of the modulus in `SEQUENCE { INTEGER modulus, INTEGER publicExponent }`.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let mut outer = Der::new(key);
    let mut numbers = outer.nested(SEQUENCE)?;
    let modulus = numbers.content(INTEGER)?;
    numbers.content(INTEGER)?;
    outer.end()?;
    numbers.end()?;
    // A leading zero keeps the number positive; DER has it only where it is needed.
    let modulus = match modulus {
        [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => rest,
        [0x01..0x80, ..] => modulus,
        _ => return None,
    };
    let first = modulus.first()?;
    Some(modulus.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or_default())
}
