//! What two ends agreed on.

use crate::config::{Encryption, Kem, KeyExchange, Prf};

/// The suite of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// Cipher of SK payloads.
    pub encryption: Encryption,
    /// Key derivation and PSK authentication.
    pub prf: Prf,
    /// How the secret was agreed.
    pub key_exchange: KeyExchange,
    /// How another secret is agreed on before IKE_AUTH (RFC 9370).
    pub additional: Option<Kem>,
}

/// The suite of a CHILD SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildSuite {
    /// Cipher of ESP.
    pub encryption: Encryption,
    /// A key exchange of its own, for perfect forward secrecy.
    pub key_exchange: Option<KeyExchange>,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl Encryption {
    /// Length of the cipher's key in bytes, without the salt.
    pub fn key_length(self) -> usize {
        match self {
            Self::AesGcm16Key128 => 16,
            Self::AesGcm16Key256 | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Length of the salt that follows the key in the key material (RFC 5282 §7.1, RFC 4106 §8.1, RFC 7634 §2).
    pub fn salt_length(self) -> usize {
        match self {
            Self::AesGcm16Key128 | Self::AesGcm16Key256 | Self::ChaCha20Poly1305 => 4,
        }
    }
}
