//! What two ends agreed on.

use crate::config::{
    AdditionalKeyExchanges, ChildProposal, Encryption, IkeProposal, Integrity, KeyExchange, Prf,
};
use crate::types::SaProtocol;

/// The suite of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// Cipher of SK payloads.
    pub encryption: Encryption,
    /// Integrity algorithm of SK payloads; a combined mode has none.
    pub integrity: Option<Integrity>,
    /// Key derivation and PSK authentication.
    pub prf: Prf,
    /// How the secret was agreed.
    pub key_exchange: KeyExchange,
    /// How other secrets are agreed on, before IKE_AUTH or after CREATE_CHILD_SA (RFC 9370).
    pub additional: AdditionalKeyExchanges,
}

/// The suite of a CHILD SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildSuite {
    /// ESP or AH.
    pub protocol: SaProtocol,
    /// Cipher; AH has none.
    pub encryption: Option<Encryption>,
    /// Integrity algorithm; a combined mode has none.
    pub integrity: Option<Integrity>,
    /// A key exchange of its own, for perfect forward secrecy.
    pub key_exchange: Option<KeyExchange>,
    /// Additional key exchanges that follow it (RFC 9370).
    pub additional: AdditionalKeyExchanges,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl Encryption {
    /// Length of the cipher's key in bytes, without the salt.
    pub fn key_length(self) -> usize {
        match self {
            Self::AesGcm16Key128 | Self::AesCbcKey128 => 16,
            Self::AesGcm16Key256 | Self::ChaCha20Poly1305 | Self::AesCbcKey256 => 32,
        }
    }

    /// Length of the salt that follows the key in the key material (RFC 5282 §7.1, RFC 4106 §8.1, RFC 7634 §2).
    pub fn salt_length(self) -> usize {
        match self {
            Self::AesGcm16Key128 | Self::AesGcm16Key256 | Self::ChaCha20Poly1305 => 4,
            Self::AesCbcKey128 | Self::AesCbcKey256 => 0,
        }
    }

    /// Whether the cipher authenticates by itself.
    pub fn is_combined(self) -> bool {
        match self {
            Self::AesGcm16Key128 | Self::AesGcm16Key256 | Self::ChaCha20Poly1305 => true,
            Self::AesCbcKey128 | Self::AesCbcKey256 => false,
        }
    }
}

impl Integrity {
    /// Length of the key in bytes (RFC 4868 §2.1.1).
    pub fn key_length(self) -> usize {
        self.hmac().output_length()
    }

    /// Length of the check value in bytes: half of the hash (RFC 4868 §2.1.1).
    pub fn check_length(self) -> usize {
        self.hmac().output_length() / 2
    }

    /// The HMAC that the check value is cut from.
    pub(super) fn hmac(self) -> Prf {
        match self {
            Self::HmacSha256 => Prf::HmacSha256,
            Self::HmacSha384 => Prf::HmacSha384,
            Self::HmacSha512 => Prf::HmacSha512,
        }
    }
}

impl IkeProposal {
    /// Whether nothing in it would go without integrity, or with it twice (RFC 7296 §3.3, RFC 5282 §8).
    pub fn is_sound(&self) -> bool {
        is_sound(&self.encryption, &self.integrity)
    }
}

impl ChildProposal {
    /// Whether nothing in it would go without integrity, or with it twice (RFC 7296 §3.3, RFC 4106 §8). AH has an
    /// integrity algorithm and no cipher.
    pub fn is_sound(&self) -> bool {
        match self.protocol {
            SaProtocol::Esp => is_sound(&self.encryption, &self.integrity),
            SaProtocol::Ah => self.encryption.is_empty() && !self.integrity.is_empty(),
        }
    }
}

fn is_sound(encryption: &[Encryption], integrity: &[Integrity]) -> bool {
    let combined = integrity.is_empty();
    !encryption.is_empty() && encryption.iter().all(|cipher| cipher.is_combined() == combined)
}
