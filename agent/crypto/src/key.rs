//! Private keys of certificates: the forms that they come in, and why one is refused.

use std::fmt;
use std::sync::Arc;

use ipsecmesh_ike::Signer;
use ipsecmesh_ike::crypto::{Provider, RSA_LONGEST, RSA_SHORTEST};
use pkcs8::der::asn1::{ObjectIdentifier, OctetStringRef};
use pkcs8::der::{AnyRef, Decode as _};
use pkcs8::{AlgorithmIdentifierRef, PrivateKeyInfoRef, SecretDocument};
use rsa::pkcs1::RsaPrivateKeyRef;

use crate::{aws_lc, rustcrypto};

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A private key that signs, with its public half.
pub trait PrivateKey: Signer + fmt::Debug {
    /// The SubjectPublicKeyInfo in DER, as the key's certificate has it.
    fn public_key(&self) -> &[u8];
}

/// How the bytes of a private key are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// RSA alone: PEM label `RSA PRIVATE KEY` (RFC 8017 §A.1.2).
    Pkcs1,
    /// Any kind: PEM label `PRIVATE KEY` (RFC 5958).
    Pkcs8,
    /// ECDSA alone: PEM label `EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// Why bytes are no private key that signs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateKey {
    /// The structure, or the numbers in it, are not those of a key.
    #[error("not a well-formed private key")]
    Malformed,
    /// An RSA key that nobody should trust, or that costs too much.
    #[error("an RSA key of {0} bits; {RSA_SHORTEST} to {RSA_LONGEST} are accepted")]
    RsaKeyLength(usize),
    /// A kind that nothing is signed with.
    #[error(
        "a key of kind {0}; ECDSA on P-256, P-384 or P-521, Ed25519 and RSA with {RSA_SHORTEST} bits or more are accepted"
    )]
    Unsupported(String),
}

/// Reads a private key, for `provider` to sign with.
pub fn private_key(
    provider: &Provider,
    encoding: KeyEncoding,
    der: &[u8],
) -> Result<Arc<dyn PrivateKey>, InvalidPrivateKey> {
    let document = pkcs8_of(encoding, der).ok_or(InvalidPrivateKey::Malformed)?;
    let kind = kind(document.as_bytes())?;
    let read = if provider.name == rustcrypto::PROVIDER.name {
        rustcrypto::private_key
    } else {
        aws_lc::private_key
    };
    read(kind, document.as_bytes()).ok_or(InvalidPrivateKey::Malformed)
}

/// What a private key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ed25519,
    P256,
    P384,
    P521,
    Rsa,
}

/// The key in PKCS #8, whatever it was in.
fn pkcs8_of(encoding: KeyEncoding, der: &[u8]) -> Option<SecretDocument> {
    let key = || OctetStringRef::new(der).ok();
    match encoding {
        KeyEncoding::Pkcs8 => SecretDocument::try_from(der).ok(),
        KeyEncoding::Pkcs1 => {
            let algorithm = AlgorithmIdentifierRef {
                oid: RSA,
                parameters: Some(AnyRef::NULL),
            };
            SecretDocument::encode_msg(&PrivateKeyInfoRef::new(algorithm, key()?)).ok()
        }
        KeyEncoding::Sec1 => {
            let curve = sec1::EcPrivateKey::from_der(der)
                .ok()?
                .parameters?
                .named_curve()?;
            let algorithm = AlgorithmIdentifierRef {
                oid: EC,
                parameters: Some(AnyRef::from(&curve)),
            };
            SecretDocument::encode_msg(&PrivateKeyInfoRef::new(algorithm, key()?)).ok()
        }
    }
}

fn kind(pkcs8: &[u8]) -> Result<Kind, InvalidPrivateKey> {
    let info = PrivateKeyInfoRef::from_der(pkcs8).map_err(|_| InvalidPrivateKey::Malformed)?;
    match info.algorithm.oid {
        ED25519 => Ok(Kind::Ed25519),
        EC => match info.algorithm.parameters_oid() {
            Ok(P256) => Ok(Kind::P256),
            Ok(P384) => Ok(Kind::P384),
            Ok(P521) => Ok(Kind::P521),
            Ok(curve) => Err(InvalidPrivateKey::Unsupported(format!(
                "ECDSA on the curve {curve}"
            ))),
            Err(_) => Err(InvalidPrivateKey::Malformed),
        },
        RSA => {
            let bits = modulus_bits(info.private_key.as_bytes()).ok_or(InvalidPrivateKey::Malformed)?;
            if (RSA_SHORTEST..=RSA_LONGEST).contains(&bits) {
                Ok(Kind::Rsa)
            } else {
                Err(InvalidPrivateKey::RsaKeyLength(bits))
            }
        }
        other => Err(InvalidPrivateKey::Unsupported(other.to_string())),
    }
}

fn modulus_bits(pkcs1: &[u8]) -> Option<usize> {
    let key = RsaPrivateKeyRef::from_der(pkcs1).ok()?;
    let modulus = key.modulus.as_bytes();
    let zeros = usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    Some(modulus.len() * 8 - zeros)
}
