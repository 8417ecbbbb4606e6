//! What the engine needs from a cryptographic library.

use std::fmt;

use super::error::CryptoError;
use super::sealing::CBC_BLOCK;
use super::secret::Secret;
use crate::config::{Encryption, Kem, KeyExchange, Prf, SignatureAlgorithm};

/// Length of an AEAD nonce: salt and explicit IV (RFC 5282 §4, RFC 4106 §4).
pub const NONCE_LENGTH: usize = 12;

/// Length of an AEAD tag: all suites have the full 16 bytes.
pub const TAG_LENGTH: usize = 16;

/// A cryptographic library, as the engine sees it. A test may replace one field by another implementation.
#[derive(Clone, Copy)]
pub struct Provider {
    /// Name for logs and status.
    pub name: &'static str,
    /// The only source of randomness: nonces, SPIs, cookie secrets and the private values of key exchanges.
    pub random: &'static dyn SecureRandom,
    /// Pseudorandom functions.
    pub prf: &'static dyn PrfBackend,
    /// Combined-mode ciphers.
    pub aead: &'static dyn AeadBackend,
    /// Ciphers that do not authenticate.
    pub cbc: &'static dyn CbcBackend,
    /// Key exchange methods.
    pub key_exchange: &'static dyn KeyExchangeBackend,
    /// Key encapsulation mechanisms.
    pub kem: &'static dyn KemBackend,
    /// Unkeyed hashes.
    pub hash: &'static dyn HashBackend,
    /// Verification of signatures.
    pub signature: &'static dyn SignatureBackend,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(&self.name).finish()
    }
}

/// A cryptographically secure random source.
pub trait SecureRandom: Send + Sync {
    /// Fills all of `out`, or fails.
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError>;
}

/// Pseudorandom functions (RFC 7296 §2.13).
pub trait PrfBackend: Send + Sync {
    /// `prf` under `key`, to be applied any number of times.
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf>;
}

/// A pseudorandom function under a key.
pub trait KeyedPrf: Send + Sync {
    /// The function applied to `parts` as if they were one string. As long as the PRF's output.
    fn apply(&self, parts: &[&[u8]]) -> Secret;
}

/// AES in CBC mode without any padding (RFC 3602). Another cipher is [`CryptoError::Unsupported`], a text of another length
/// than whole blocks [`CryptoError::InvalidLength`].
pub trait CbcBackend: Send + Sync {
    /// Encrypts in place.
    fn encrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError>;

    /// Decrypts in place what a check value has proven to be the peer's.
    fn decrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError>;
}

/// Combined-mode ciphers. Another cipher is [`CryptoError::Unsupported`].
pub trait AeadBackend: Send + Sync {
    /// Encrypts `in_out` in place and appends the tag. `key` is without the salt.
    fn seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError>;

    /// Checks the tag at the end of `in_out` and decrypts in place; the plaintext is what lies in front of the tag.
    /// On failure `in_out` holds nothing of use.
    fn open<'a>(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError>;
}

/// Key exchange methods.
pub trait KeyExchangeBackend: Send + Sync {
    /// Whether it has a method. A configuration that names another one is refused.
    fn has(&self, method: KeyExchange) -> bool;

    /// Draws a private value from `random`.
    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError>;
}

/// Our half of a key exchange.
pub trait ActiveKeyExchange: Send + Sync {
    /// Its method.
    fn method(&self) -> KeyExchange;

    /// What goes into the KE payload: of fixed length, leading zeros kept (RFC 5903 §7, RFC 8031 §2).
    fn public_value(&self) -> &[u8];

    /// The shared secret: of fixed length, leading zeros kept. Fails for a value of the wrong length, for no point of
    /// the curve, and for an all-zero result (RFC 7748 §6.1). It borrows, because an offer stays open until one of
    /// possibly several responses authenticates.
    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError>;
}

/// Key encapsulation mechanisms (RFC 9370, FIPS 203). A library may draw from its own generator instead of `random`.
pub trait KemBackend: Send + Sync {
    /// Whether it has a mechanism. A configuration that names another one is refused.
    fn has(&self, kem: Kem) -> bool;

    /// A new key pair: the initiator's half.
    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError>;

    /// A secret and what the holder of `public_key` learns it from: the responder's half. Fails for a key that is not
    /// well-formed (FIPS 203 §7.2).
    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError>;
}

/// The initiator's half of a key encapsulation.
pub trait Decapsulator: Send + Sync {
    /// Its mechanism.
    fn kem(&self) -> Kem;

    /// What goes into the KE payload.
    fn public_key(&self) -> &[u8];

    /// The secret in a ciphertext. One of the right length always gives a secret; a wrong one gives another than the
    /// sender's (FIPS 203 §6.3).
    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError>;
}

/// Unkeyed hashes of `parts` as if they were one string.
pub trait HashBackend: Send + Sync {
    /// SHA-1: for NAT detection and CERTREQ only, where the RFC leaves no choice (RFC 7296 §2.23, §3.7).
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20];

    /// SHA2-256.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
}

/// Verification of signatures.
pub trait SignatureBackend: Send + Sync {
    /// Verifies the signature over `message` (not its hash) with the key of a DER SubjectPublicKeyInfo.
    fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        spki: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError>;
}
