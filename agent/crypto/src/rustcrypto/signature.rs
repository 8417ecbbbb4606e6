//! Signatures in the encoding of RFC 7427: ECDSA, Ed25519, RSA.

use std::fmt;
use std::sync::Arc;

use ipsecmesh_ike::crypto::{CryptoError, PublicKey, SignatureBackend};
use ipsecmesh_ike::{SignError, SignatureAlgorithm, Signer};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::signature::{SignatureEncoding as _, Signer as _, Verifier as _};
use pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::{pkcs1v15, pss};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::key::{Kind, PrivateKey};

pub(super) struct Verifier;

impl SignatureBackend for Verifier {
    fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        spki: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let key = PublicKey::parse(spki)?;
        if let SignatureAlgorithm::Ed25519 = algorithm {
            let PublicKey::Ed25519(key) = key else {
                return Err(CryptoError::KeyMismatch);
            };
            return ed25519(key, message, signature);
        }
        match key {
            PublicKey::Ed25519(_) => Err(CryptoError::KeyMismatch),
            PublicKey::P256(_) | PublicKey::P384(_) | PublicKey::P521(_) => {
                let hash = match algorithm {
                    SignatureAlgorithm::EcdsaSha256 => Sha256::digest(message).to_vec(),
                    SignatureAlgorithm::EcdsaSha384 => Sha384::digest(message).to_vec(),
                    SignatureAlgorithm::EcdsaSha512 => Sha512::digest(message).to_vec(),
                    SignatureAlgorithm::Ed25519
                    | SignatureAlgorithm::RsaPkcs1Sha256
                    | SignatureAlgorithm::RsaPkcs1Sha384
                    | SignatureAlgorithm::RsaPkcs1Sha512
                    | SignatureAlgorithm::RsaPssSha256
                    | SignatureAlgorithm::RsaPssSha384
                    | SignatureAlgorithm::RsaPssSha512 => return Err(CryptoError::KeyMismatch),
                };
                ecdsa(key, &hash, signature)
            }
            PublicKey::Rsa(key) => rsa(algorithm, key, message, signature),
        }
    }
}

fn ed25519(key: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| CryptoError::InvalidPublicKey)?;
    let signature =
        ed25519_dalek::Signature::from_slice(signature).map_err(|_| CryptoError::Unauthenticated)?;
    key.verify_strict(message, &signature)
        .map_err(|_| CryptoError::Unauthenticated)
}

/// The same steps on each curve: the crates share no trait that would say them once in fewer words.
macro_rules! ecdsa_on {
    ($curve:ident, $point:expr, $hash:expr, $signature:expr) => {{
        let key = $curve::ecdsa::VerifyingKey::from_sec1_bytes($point)
            .map_err(|_| CryptoError::InvalidPublicKey)?;
        let signature =
            $curve::ecdsa::Signature::from_der($signature).map_err(|_| CryptoError::Unauthenticated)?;
        key.verify_prehash($hash, &signature)
            .map_err(|_| CryptoError::Unauthenticated)
    }};
}

fn ecdsa(key: PublicKey<'_>, hash: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    match key {
        PublicKey::P256(point) => ecdsa_on!(p256, point, hash, signature),
        PublicKey::P384(point) => ecdsa_on!(p384, point, hash, signature),
        PublicKey::P521(point) => ecdsa_on!(p521, point, hash, signature),
        PublicKey::Ed25519(_) | PublicKey::Rsa(_) => Err(CryptoError::KeyMismatch),
    }
}

fn rsa(
    algorithm: SignatureAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let key = rsa::PublicKey::from_pkcs1_der(key).map_err(|_| CryptoError::InvalidPublicKey)?;
    let pkcs1 = || pkcs1v15::Signature::try_from(signature).map_err(|_| CryptoError::Unauthenticated);
    let salted = || pss::Signature::try_from(signature).map_err(|_| CryptoError::Unauthenticated);
    let verified = match algorithm {
        SignatureAlgorithm::RsaPkcs1Sha256 => {
            pkcs1v15::VerifyingKey::<Sha256>::new(key).verify(message, &pkcs1()?)
        }
        SignatureAlgorithm::RsaPkcs1Sha384 => {
            pkcs1v15::VerifyingKey::<Sha384>::new(key).verify(message, &pkcs1()?)
        }
        SignatureAlgorithm::RsaPkcs1Sha512 => {
            pkcs1v15::VerifyingKey::<Sha512>::new(key).verify(message, &pkcs1()?)
        }
        SignatureAlgorithm::RsaPssSha256 => pss::VerifyingKey::<Sha256>::new(key).verify(message, &salted()?),
        SignatureAlgorithm::RsaPssSha384 => pss::VerifyingKey::<Sha384>::new(key).verify(message, &salted()?),
        SignatureAlgorithm::RsaPssSha512 => pss::VerifyingKey::<Sha512>::new(key).verify(message, &salted()?),
        SignatureAlgorithm::EcdsaSha256
        | SignatureAlgorithm::EcdsaSha384
        | SignatureAlgorithm::EcdsaSha512
        | SignatureAlgorithm::Ed25519 => return Err(CryptoError::KeyMismatch),
    };
    verified.map_err(|_| CryptoError::Unauthenticated)
}

/// Reads a private key of a known kind in PKCS #8. ECDSA's nonces are deterministic (RFC 6979), RSA is blinded.
pub(crate) fn private_key(kind: Kind, pkcs8: &[u8]) -> Option<Arc<dyn PrivateKey>> {
    let (pair, public) = match kind {
        Kind::Ed25519 => {
            let pair = ed25519_dalek::SigningKey::from_pkcs8_der(pkcs8).ok()?;
            let public = pair.verifying_key().to_public_key_der();
            (Pair::Ed25519(pair), public)
        }
        Kind::P256 => {
            let pair = p256::ecdsa::SigningKey::from_pkcs8_der(pkcs8).ok()?;
            let public = pair.verifying_key().to_public_key_der();
            (Pair::P256(pair), public)
        }
        Kind::P384 => {
            let pair = p384::ecdsa::SigningKey::from_pkcs8_der(pkcs8).ok()?;
            let public = pair.verifying_key().to_public_key_der();
            (Pair::P384(pair), public)
        }
        Kind::P521 => {
            let pair = p521::ecdsa::SigningKey::from_pkcs8_der(pkcs8).ok()?;
            let public = pair.verifying_key().to_public_key_der();
            (Pair::P521(pair), public)
        }
        Kind::Rsa => {
            let pair = rsa::PrivateKey::from_pkcs8_der(pkcs8).ok()?;
            let public = pair.as_public_key().to_public_key_der();
            (Pair::Rsa(Box::new(pair)), public)
        }
    };
    let public = public.ok()?.into_vec();
    Some(Arc::new(Key { pair, public }))
}

struct Key {
    pair: Pair,
    public: Vec<u8>,
}

enum Pair {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
    Rsa(Box<rsa::PrivateKey>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl PrivateKey for Key {
    fn public_key(&self) -> &[u8] {
        &self.public
    }
}

impl Signer for Key {
    fn algorithms(&self) -> &[SignatureAlgorithm] {
        match &self.pair {
            Pair::Ed25519(_) => &[SignatureAlgorithm::Ed25519],
            Pair::P256(_) => &[SignatureAlgorithm::EcdsaSha256],
            Pair::P384(_) => &[SignatureAlgorithm::EcdsaSha384],
            Pair::P521(_) => &[SignatureAlgorithm::EcdsaSha512],
            Pair::Rsa(_) => &[
                SignatureAlgorithm::RsaPssSha256,
                SignatureAlgorithm::RsaPssSha384,
                SignatureAlgorithm::RsaPssSha512,
            ],
        }
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !self.algorithms().contains(&algorithm) {
            return Err(SignError);
        }
        match &self.pair {
            Pair::Ed25519(pair) => {
                let signature = pair.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.to_vec())
            }
            Pair::P256(pair) => {
                let signature: p256::ecdsa::DerSignature = pair.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.to_vec())
            }
            Pair::P384(pair) => {
                let signature: p384::ecdsa::DerSignature = pair.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.to_vec())
            }
            Pair::P521(pair) => {
                let signature: p521::ecdsa::DerSignature = pair.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.to_vec())
            }
            Pair::Rsa(pair) => salted(pair, algorithm, message),
        }
    }
}

/// RSA signs with PSS alone: PKCS #1 v1.5 is for what peers send (RFC 8247 §3.2).
fn salted(
    pair: &rsa::PrivateKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, SignError> {
    let pair = pair.clone();
    let signature = match algorithm {
        SignatureAlgorithm::RsaPssSha256 => pss::SigningKey::<Sha256>::new(pair).try_sign(message),
        SignatureAlgorithm::RsaPssSha384 => pss::SigningKey::<Sha384>::new(pair).try_sign(message),
        SignatureAlgorithm::RsaPssSha512 => pss::SigningKey::<Sha512>::new(pair).try_sign(message),
        SignatureAlgorithm::EcdsaSha256
        | SignatureAlgorithm::EcdsaSha384
        | SignatureAlgorithm::EcdsaSha512
        | SignatureAlgorithm::Ed25519
        | SignatureAlgorithm::RsaPkcs1Sha256
        | SignatureAlgorithm::RsaPkcs1Sha384
        | SignatureAlgorithm::RsaPkcs1Sha512 => return Err(SignError),
    };
    Ok(signature.map_err(|_| SignError)?.to_vec())
}
