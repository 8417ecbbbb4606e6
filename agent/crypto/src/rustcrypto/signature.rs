//! ECDSA on P-256 with SHA2-256, in the encoding of RFC 7427.

use ipsecmesh_ike::crypto::{CryptoError, SignatureBackend, p256_point};
use ipsecmesh_ike::{SignError, SignatureAlgorithm, Signer};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::DecodePrivateKey;

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
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => {
                let key = VerifyingKey::from_sec1_bytes(p256_point(spki)?)
                    .map_err(|_| CryptoError::InvalidPublicKey)?;
                let signature =
                    DerSignature::from_bytes(signature).map_err(|_| CryptoError::Unauthenticated)?;
                key.verify(message, &signature)
                    .map_err(|_| CryptoError::Unauthenticated)
            }
            _ => Err(CryptoError::Unsupported),
        }
    }
}

/// Signs with the ECDSA P-256 key of a certificate; nonces are deterministic (RFC 6979).
pub struct EcdsaP256Signer(SigningKey);

impl EcdsaP256Signer {
    /// Reads a private key in PKCS #8 (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        SigningKey::from_pkcs8_der(der)
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
                let signature: DerSignature = self.0.try_sign(message).map_err(|_| SignError)?;
                Ok(signature.as_bytes().to_vec())
            }
            _ => Err(SignError),
        }
    }
}
