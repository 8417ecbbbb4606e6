//! The algorithms of the configuration and their code points: the one place to extend when one is added.

use super::sa::Transform;
use super::{KeyExchangeMethod, TransformType};
use crate::config::{AdditionalKeyExchange, Encryption, Integrity, Kem, KeyExchange, Prf};

/// ENCR_AES_CBC (RFC 3602 §5).
const AES_CBC: u16 = 12;
/// ENCR_AES_GCM_16 (RFC 5282 §7.2).
const AES_GCM_16: u16 = 20;
/// ENCR_CHACHA20_POLY1305, whose keys have one length only (RFC 7634 §4).
const CHACHA20_POLY1305: u16 = 28;
/// PRF_HMAC_SHA2_256, PRF_HMAC_SHA2_384 and PRF_HMAC_SHA2_512 (RFC 4868 §2.6).
const HMAC_SHA2_256: u16 = 5;
const HMAC_SHA2_384: u16 = 6;
const HMAC_SHA2_512: u16 = 7;
/// Extended sequence numbers (RFC 7296 §3.3.2).
const NO_ESN: u16 = 0;
const ESN: u16 = 1;

/// The methods that a KE payload can name.
const KEY_EXCHANGES: [KeyExchange; 7] = [
    KeyExchange::Ecp256,
    KeyExchange::Ecp384,
    KeyExchange::Ecp521,
    KeyExchange::Modp2048,
    KeyExchange::Modp3072,
    KeyExchange::Modp4096,
    KeyExchange::X25519,
];

impl From<Encryption> for Transform {
    fn from(encryption: Encryption) -> Self {
        match encryption {
            Encryption::AesGcm16Key128 => Self::with_key_length(TransformType::ENCR, AES_GCM_16, 128),
            Encryption::AesGcm16Key256 => Self::with_key_length(TransformType::ENCR, AES_GCM_16, 256),
            Encryption::ChaCha20Poly1305 => Self::new(TransformType::ENCR, CHACHA20_POLY1305),
            Encryption::AesCbcKey128 => Self::with_key_length(TransformType::ENCR, AES_CBC, 128),
            Encryption::AesCbcKey256 => Self::with_key_length(TransformType::ENCR, AES_CBC, 256),
        }
    }
}

impl From<Integrity> for Transform {
    fn from(integrity: Integrity) -> Self {
        // AUTH_HMAC_SHA2_256_128, AUTH_HMAC_SHA2_384_192 and AUTH_HMAC_SHA2_512_256 (RFC 4868 §2.6).
        let id = match integrity {
            Integrity::HmacSha256 => 12,
            Integrity::HmacSha384 => 13,
            Integrity::HmacSha512 => 14,
        };
        Self::new(TransformType::INTEG, id)
    }
}

impl From<Prf> for Transform {
    fn from(prf: Prf) -> Self {
        match prf {
            Prf::HmacSha256 => Self::new(TransformType::PRF, HMAC_SHA2_256),
            Prf::HmacSha384 => Self::new(TransformType::PRF, HMAC_SHA2_384),
            Prf::HmacSha512 => Self::new(TransformType::PRF, HMAC_SHA2_512),
        }
    }
}

impl From<KeyExchange> for Transform {
    fn from(method: KeyExchange) -> Self {
        Self::new(TransformType::KE, KeyExchangeMethod::from(method).0)
    }
}

impl From<AdditionalKeyExchange> for KeyExchangeMethod {
    fn from(method: AdditionalKeyExchange) -> Self {
        match method {
            AdditionalKeyExchange::Kem(kem) => kem.into(),
            AdditionalKeyExchange::Method(method) => method.into(),
        }
    }
}

impl From<Kem> for KeyExchangeMethod {
    fn from(kem: Kem) -> Self {
        match kem {
            Kem::MlKem512 => Self::ML_KEM_512,
            Kem::MlKem768 => Self::ML_KEM_768,
            Kem::MlKem1024 => Self::ML_KEM_1024,
        }
    }
}

impl From<KeyExchange> for KeyExchangeMethod {
    fn from(method: KeyExchange) -> Self {
        match method {
            KeyExchange::Ecp256 => Self::ECP_256,
            KeyExchange::Ecp384 => Self::ECP_384,
            KeyExchange::Ecp521 => Self::ECP_521,
            KeyExchange::Modp2048 => Self::MODP_2048,
            KeyExchange::Modp3072 => Self::MODP_3072,
            KeyExchange::Modp4096 => Self::MODP_4096,
            KeyExchange::X25519 => Self::X25519,
        }
    }
}

impl KeyExchange {
    /// `None` for a method that no configuration can name.
    pub fn from_method(method: KeyExchangeMethod) -> Option<Self> {
        KEY_EXCHANGES
            .into_iter()
            .find(|known| KeyExchangeMethod::from(*known) == method)
    }
}

impl Transform {
    /// Extended sequence numbers, or none.
    pub fn esn(enabled: bool) -> Self {
        Self::new(TransformType::ESN, if enabled { ESN } else { NO_ESN })
    }

    /// An additional key exchange of one of the seven types.
    pub fn additional(kind: TransformType, method: AdditionalKeyExchange) -> Self {
        Self::new(kind, KeyExchangeMethod::from(method).0)
    }

    /// "No key exchange" as one of the choices (RFC 7296 §3.3.6).
    pub fn no_key_exchange() -> Self {
        Self::new(TransformType::KE, KeyExchangeMethod::NONE.0)
    }

    /// "No integrity algorithm", which the offer of a combined-mode cipher may spell out (RFC 7296 §3.3).
    pub fn no_integrity() -> Self {
        Self::new(TransformType::INTEG, 0)
    }
}
