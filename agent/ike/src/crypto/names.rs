//! Names of algorithms as people and the API write them.

use std::fmt;

use super::suite::IkeSuite;
use crate::config::{
    AdditionalKeyExchange, Encryption, Integrity, Kem, KeyExchange, Prf, SignatureAlgorithm,
};

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AesGcm16Key128 => "AES-GCM-16-128",
            Self::AesGcm16Key256 => "AES-GCM-16-256",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::AesCbcKey128 => "AES-CBC-128",
            Self::AesCbcKey256 => "AES-CBC-256",
        })
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256 => "HMAC-SHA2-256-128",
            Self::HmacSha384 => "HMAC-SHA2-384-192",
            Self::HmacSha512 => "HMAC-SHA2-512-256",
        })
    }
}

impl fmt::Display for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256 => "HMAC-SHA2-256",
            Self::HmacSha384 => "HMAC-SHA2-384",
            Self::HmacSha512 => "HMAC-SHA2-512",
        })
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ecp256 => "ECP-256",
            Self::Ecp384 => "ECP-384",
            Self::Ecp521 => "ECP-521",
            Self::Modp2048 => "MODP-2048",
            Self::Modp3072 => "MODP-3072",
            Self::Modp4096 => "MODP-4096",
            Self::X25519 => "X25519",
        })
    }
}

impl fmt::Display for Kem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MlKem512 => "ML-KEM-512",
            Self::MlKem768 => "ML-KEM-768",
            Self::MlKem1024 => "ML-KEM-1024",
        })
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaSha256 => "ECDSA with SHA2-256",
            Self::EcdsaSha384 => "ECDSA with SHA2-384",
            Self::EcdsaSha512 => "ECDSA with SHA2-512",
            Self::Ed25519 => "Ed25519",
            Self::RsaPkcs1Sha256 => "RSASSA-PKCS1-v1_5 with SHA2-256",
            Self::RsaPkcs1Sha384 => "RSASSA-PKCS1-v1_5 with SHA2-384",
            Self::RsaPkcs1Sha512 => "RSASSA-PKCS1-v1_5 with SHA2-512",
            Self::RsaPssSha256 => "RSASSA-PSS with SHA2-256",
            Self::RsaPssSha384 => "RSASSA-PSS with SHA2-384",
            Self::RsaPssSha512 => "RSASSA-PSS with SHA2-512",
        })
    }
}

impl fmt::Display for AdditionalKeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kem(kem) => kem.fmt(f),
            Self::Method(method) => method.fmt(f),
        }
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        if let Some(integrity) = self.integrity {
            write!(f, "/{integrity}")?;
        }
        write!(f, "/{}/{}", self.prf, self.key_exchange)?;
        self.additional.iter().try_for_each(|one| write!(f, "+{one}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdditionalKeyExchanges;

    #[test]
    fn a_suite_reads_as_the_api_writes_it() {
        let suite = IkeSuite {
            encryption: Encryption::AesGcm16Key256,
            integrity: None,
            prf: Prf::HmacSha384,
            key_exchange: KeyExchange::X25519,
            additional: AdditionalKeyExchanges::new(&[
                AdditionalKeyExchange::Kem(Kem::MlKem768),
                AdditionalKeyExchange::Method(KeyExchange::Ecp384),
            ])
            .unwrap_or_default(),
        };
        assert_eq!(
            suite.to_string(),
            "AES-GCM-16-256/HMAC-SHA2-384/X25519+ML-KEM-768+ECP-384"
        );
    }
}
