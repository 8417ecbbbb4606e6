//! Signatures in the encoding of RFC 7427: ECDSA, Ed25519, RSA.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1,
    ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA512_ASN1,
    ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_ASN1_SIGNING,
    ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use ipsecmesh_ike::crypto::{CryptoError, PublicKey, SignatureBackend};
use ipsecmesh_ike::{SignError, SignatureAlgorithm, Signer};

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
        let scheme = scheme(algorithm, key).ok_or(CryptoError::KeyMismatch)?;
        let bytes: &[u8] = match key {
            PublicKey::Ed25519(key) => key,
            PublicKey::P256(point) => point,
            PublicKey::P384(point) => point,
            PublicKey::P521(point) => point,
            PublicKey::Rsa(key) => key,
        };
        UnparsedPublicKey::new(scheme, bytes)
            .verify(message, signature)
            .map_err(|_| CryptoError::Unauthenticated)
    }
}

/// The library's name for an algorithm with a kind of key.
fn scheme(algorithm: SignatureAlgorithm, key: PublicKey<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    use PublicKey::{P256, P384, P521, Rsa};
    use SignatureAlgorithm::{
        EcdsaSha256, EcdsaSha384, EcdsaSha512, Ed25519, RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512,
        RsaPssSha256, RsaPssSha384, RsaPssSha512,
    };
    Some(match (algorithm, key) {
        (EcdsaSha256, P256(_)) => &ECDSA_P256_SHA256_ASN1,
        (EcdsaSha256, P384(_)) => &ECDSA_P384_SHA256_ASN1,
        (EcdsaSha256, P521(_)) => &ECDSA_P521_SHA256_ASN1,
        (EcdsaSha384, P256(_)) => &ECDSA_P256_SHA384_ASN1,
        (EcdsaSha384, P384(_)) => &ECDSA_P384_SHA384_ASN1,
        (EcdsaSha384, P521(_)) => &ECDSA_P521_SHA384_ASN1,
        (EcdsaSha512, P256(_)) => &ECDSA_P256_SHA512_ASN1,
        (EcdsaSha512, P384(_)) => &ECDSA_P384_SHA512_ASN1,
        (EcdsaSha512, P521(_)) => &ECDSA_P521_SHA512_ASN1,
        (Ed25519, PublicKey::Ed25519(_)) => &ED25519,
        (RsaPkcs1Sha256, Rsa(_)) => &RSA_PKCS1_2048_8192_SHA256,
        (RsaPkcs1Sha384, Rsa(_)) => &RSA_PKCS1_2048_8192_SHA384,
        (RsaPkcs1Sha512, Rsa(_)) => &RSA_PKCS1_2048_8192_SHA512,
        (RsaPssSha256, Rsa(_)) => &RSA_PSS_2048_8192_SHA256,
        (RsaPssSha384, Rsa(_)) => &RSA_PSS_2048_8192_SHA384,
        (RsaPssSha512, Rsa(_)) => &RSA_PSS_2048_8192_SHA512,
        (EcdsaSha256 | EcdsaSha384 | EcdsaSha512, PublicKey::Ed25519(_) | Rsa(_))
        | (Ed25519, P256(_) | P384(_) | P521(_) | Rsa(_))
        | (
            RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 | RsaPssSha256 | RsaPssSha384 | RsaPssSha512,
            PublicKey::Ed25519(_) | P256(_) | P384(_) | P521(_),
        ) => return None,
    })
}

/// Reads a private key of a known kind in PKCS #8.
pub(crate) fn private_key(kind: Kind, pkcs8: &[u8]) -> Option<Arc<dyn PrivateKey>> {
    Some(match kind {
        Kind::Ed25519 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
            key(public(pair.public_key())?, Pair::Ed25519(pair))
        }
        Kind::P256 => ecdsa(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &[SignatureAlgorithm::EcdsaSha256],
            pkcs8,
        )?,
        Kind::P384 => ecdsa(
            &ECDSA_P384_SHA384_ASN1_SIGNING,
            &[SignatureAlgorithm::EcdsaSha384],
            pkcs8,
        )?,
        Kind::P521 => ecdsa(
            &ECDSA_P521_SHA512_ASN1_SIGNING,
            &[SignatureAlgorithm::EcdsaSha512],
            pkcs8,
        )?,
        Kind::Rsa => {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).ok()?;
            key(public(pair.public_key())?, Pair::Rsa(pair))
        }
    })
}

fn ecdsa(
    scheme: &'static EcdsaSigningAlgorithm,
    algorithms: &'static [SignatureAlgorithm],
    pkcs8: &[u8],
) -> Option<Arc<dyn PrivateKey>> {
    let pair = EcdsaKeyPair::from_pkcs8(scheme, pkcs8).ok()?;
    Some(key(public(pair.public_key())?, Pair::Ecdsa(pair, algorithms)))
}

fn public(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Option<Vec<u8>> {
    Some(key.as_der().ok()?.as_ref().to_vec())
}

fn key(public: Vec<u8>, pair: Pair) -> Arc<dyn PrivateKey> {
    Arc::new(Key { pair, public })
}

struct Key {
    pair: Pair,
    public: Vec<u8>,
}

enum Pair {
    Ecdsa(EcdsaKeyPair, &'static [SignatureAlgorithm]),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
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
            Pair::Ecdsa(_, algorithms) => algorithms,
            Pair::Ed25519(_) => &[SignatureAlgorithm::Ed25519],
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
            Pair::Ecdsa(pair, _) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| SignError)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => {
                let signature = pair.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let encoding = pss(algorithm).ok_or(SignError)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| SignError)?;
                Ok(signature)
            }
        }
    }
}

/// RSA signs with PSS alone: PKCS #1 v1.5 is for what peers send (RFC 8247 §3.2).
fn pss(algorithm: SignatureAlgorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        SignatureAlgorithm::RsaPssSha256 => Some(&RSA_PSS_SHA256),
        SignatureAlgorithm::RsaPssSha384 => Some(&RSA_PSS_SHA384),
        SignatureAlgorithm::RsaPssSha512 => Some(&RSA_PSS_SHA512),
        SignatureAlgorithm::EcdsaSha256
        | SignatureAlgorithm::EcdsaSha384
        | SignatureAlgorithm::EcdsaSha512
        | SignatureAlgorithm::Ed25519
        | SignatureAlgorithm::RsaPkcs1Sha256
        | SignatureAlgorithm::RsaPkcs1Sha384
        | SignatureAlgorithm::RsaPkcs1Sha512 => None,
    }
}
