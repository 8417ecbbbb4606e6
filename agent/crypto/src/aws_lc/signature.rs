//! ECDSA on P-256 with SHA2-256, in the encoding of RFC 7427.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use ipsecmesh_ike::crypto::{CryptoError, SignatureBackend, p256_point};
use ipsecmesh_ike::{SignError, SignatureAlgorithm, Signer};

use crate::key::InvalidPrivateKey;

pub(super) struct Verifier;

impl SignatureBackend for Verifier {
    fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        spki: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let (scheme, point) = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => (&ECDSA_P256_SHA256_ASN1, p256_point(spki)?),
            _ => return Err(CryptoError::Unsupported),
        };
        UnparsedPublicKey::new(scheme, point)
            .verify(message, signature)
            .map_err(|_| CryptoError::Unauthenticated)
    }
}

/// Signs with the ECDSA P-256 key of a certificate.
pub struct EcdsaP256Signer(EcdsaKeyPair);

impl EcdsaP256Signer {
    /// Reads a private key in PKCS #8 (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map(Self)
            .map_err(|_| InvalidPrivateKey)
    }
}

impl Signer for EcdsaP256Signer {
    fn algorithms(&self) -> &[SignatureAlgorithm] {
        &[SignatureAlgorithm::EcdsaP256Sha256]
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => {
                let signature = self
                    .0
                    .sign(&SystemRandom::new(), message)
                    .map_err(|_| SignError)?;
                Ok(signature.as_ref().to_vec())
            }
            _ => Err(SignError),
        }
    }
}
