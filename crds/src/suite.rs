//! Names of algorithms, proposals made of them, and the named suites.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tunnel::Protocol;

macro_rules! algorithms {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All of them, in the order of the API.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As written in the API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

algorithms! {
    /// Ciphers. Weak ones have no name here, so that the API server refuses them.
    Encryption {
        /// AES-GCM with 128 bit keys and a tag of 16 octets (RFC 4106, RFC 5282).
        AesGcm16With128 = "AES-GCM-16-128",
        /// AES-GCM with 256 bit keys and a tag of 16 octets (RFC 4106, RFC 5282).
        AesGcm16With256 = "AES-GCM-16-256",
        /// ChaCha20-Poly1305 (RFC 7634).
        ChaCha20Poly1305 = "ChaCha20-Poly1305",
        /// AES-CBC with 256 bit keys (RFC 3602); needs integrity.
        AesCbc256 = "AES-CBC-256",
        /// AES-CBC with 128 bit keys (RFC 3602); needs integrity.
        AesCbc128 = "AES-CBC-128",
    }
}

impl Encryption {
    /// Whether the cipher authenticates by itself.
    pub const fn is_aead(self) -> bool {
        !matches!(self, Self::AesCbc128 | Self::AesCbc256)
    }
}

algorithms! {
    /// Integrity algorithms (RFC 4868).
    Integrity {
        /// HMAC-SHA2-256, cut to 128 bits.
        HmacSha2With256 = "HMAC-SHA2-256-128",
        /// HMAC-SHA2-384, cut to 192 bits.
        HmacSha2With384 = "HMAC-SHA2-384-192",
        /// HMAC-SHA2-512, cut to 256 bits.
        HmacSha2With512 = "HMAC-SHA2-512-256",
    }
}

algorithms! {
    /// Pseudo-random functions of IKE (RFC 4868).
    Prf {
        /// HMAC-SHA2-256.
        HmacSha2With256 = "HMAC-SHA2-256",
        /// HMAC-SHA2-384.
        HmacSha2With384 = "HMAC-SHA2-384",
        /// HMAC-SHA2-512.
        HmacSha2With512 = "HMAC-SHA2-512",
    }
}

algorithms! {
    /// Key exchange methods.
    KeyExchange {
        /// Curve25519 (RFC 8031).
        X25519 = "X25519",
        /// NIST P-256 (RFC 5903).
        Ecp256 = "ECP-256",
        /// NIST P-384 (RFC 5903).
        Ecp384 = "ECP-384",
        /// NIST P-521 (RFC 5903).
        Ecp521 = "ECP-521",
        /// 2048 bit group (RFC 3526).
        Modp2048 = "MODP-2048",
        /// 3072 bit group (RFC 3526).
        Modp3072 = "MODP-3072",
        /// 4096 bit group (RFC 3526).
        Modp4096 = "MODP-4096",
    }
}

impl KeyExchange {
    /// Whether it is a group of integers modulo a prime: for external peers only.
    pub const fn is_modp(self) -> bool {
        matches!(self, Self::Modp2048 | Self::Modp3072 | Self::Modp4096)
    }
}

algorithms! {
    /// Additional key exchanges (RFC 9370): key encapsulation, and every method that can stand alone.
    AdditionalKeyExchange {
        /// ML-KEM-512 (FIPS 203).
        MlKem512 = "ML-KEM-512",
        /// ML-KEM-768 (FIPS 203).
        MlKem768 = "ML-KEM-768",
        /// ML-KEM-1024 (FIPS 203).
        MlKem1024 = "ML-KEM-1024",
        /// Curve25519 (RFC 8031).
        X25519 = "X25519",
        /// NIST P-256 (RFC 5903).
        Ecp256 = "ECP-256",
        /// NIST P-384 (RFC 5903).
        Ecp384 = "ECP-384",
        /// NIST P-521 (RFC 5903).
        Ecp521 = "ECP-521",
        /// 2048 bit group (RFC 3526).
        Modp2048 = "MODP-2048",
        /// 3072 bit group (RFC 3526).
        Modp3072 = "MODP-3072",
        /// 4096 bit group (RFC 3526).
        Modp4096 = "MODP-4096",
    }
}

impl AdditionalKeyExchange {
    /// Whether it is a group of integers modulo a prime: for external peers only.
    pub const fn is_modp(self) -> bool {
        matches!(self, Self::Modp2048 | Self::Modp3072 | Self::Modp4096)
    }
}

/// One proposal for the IKE SA: any combination of one algorithm per list.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(INTEGRITY_RULE).message(INTEGRITY_MESSAGE).field_path(".integrity"))]
#[x_kube(validation = Rule::new(ONCE_RULE).message(ONCE_MESSAGE).field_path(".additionalKeyExchange"))]
pub struct IkeProposal {
    /// Ciphers, in order of preference.
    #[schemars(length(min = 1, max = 4))]
    pub encryption: Vec<Encryption>,
    /// Integrity algorithms: required with AES-CBC, forbidden with AEAD ciphers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 3))]
    pub integrity: Vec<Integrity>,
    /// Pseudo-random functions.
    #[schemars(length(min = 1, max = 3))]
    pub prf: Vec<Prf>,
    /// Key exchange methods.
    #[schemars(length(min = 1, max = 6))]
    pub key_exchange: Vec<KeyExchange>,
    /// Additional key exchanges (RFC 9370), each once, in this order: a peer must agree to all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 7))]
    pub additional_key_exchange: Vec<AdditionalKeyExchange>,
}

/// One proposal for CHILD SAs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(INTEGRITY_RULE).message(INTEGRITY_MESSAGE).field_path(".integrity"))]
#[x_kube(validation = Rule::new(ONCE_RULE).message(ONCE_MESSAGE).field_path(".additionalKeyExchange"))]
#[x_kube(validation = Rule::new(FIRST_RULE).message(FIRST_MESSAGE).field_path(".keyExchange"))]
pub struct ChildProposal {
    /// Ciphers, in order of preference: required with protocol ESP, forbidden with AH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4))]
    pub encryption: Vec<Encryption>,
    /// Integrity algorithms: required with AES-CBC and with AH, forbidden with AEAD ciphers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 3))]
    pub integrity: Vec<Integrity>,
    /// Key exchange methods for forward secrecy of rekeyed CHILD SAs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 6))]
    pub key_exchange: Vec<KeyExchange>,
    /// Additional key exchanges (RFC 9370) when CHILD SAs are rekeyed, each once, in this order: a peer must agree to all of
    /// them and to one of `keyExchange`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 7))]
    pub additional_key_exchange: Vec<AdditionalKeyExchange>,
}

const INTEGRITY_RULE: &str = "!has(self.encryption) || (self.encryption.all(e, e.startsWith('AES-CBC')) ? has(self.integrity) : \
     (!self.encryption.exists(e, e.startsWith('AES-CBC')) && !has(self.integrity)))";
const INTEGRITY_MESSAGE: &str = "AEAD and AES-CBC ciphers need separate proposals; integrity is required with AES-CBC and forbidden with AEAD";

const ONCE_RULE: &str = "!has(self.additionalKeyExchange) || \
     self.additionalKeyExchange.all(a, self.additionalKeyExchange.exists_one(b, a == b))";
const ONCE_MESSAGE: &str = "each additional key exchange may occur once";
const FIRST_RULE: &str = "!has(self.additionalKeyExchange) || has(self.keyExchange)";
const FIRST_MESSAGE: &str = "additional key exchanges need a key exchange that they follow";

/// A named set of proposals, which may improve with releases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Suite {
    /// AES-256-GCM, SHA-384 and X25519, with ML-KEM-768 where the peer has it.
    #[default]
    Default,
    /// Only algorithms that FIPS 140-3 modules can have.
    #[serde(rename = "FIPS")]
    Fips,
    /// The Commercial National Security Algorithm suite 2.0.
    #[serde(rename = "CNSA2")]
    Cnsa2,
}

impl Suite {
    /// As written in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::Fips => "FIPS",
            Self::Cnsa2 => "CNSA2",
        }
    }

    /// Its proposals for IKE SAs, preferred first.
    pub fn ike(self) -> Vec<IkeProposal> {
        use AdditionalKeyExchange::{MlKem768, MlKem1024};
        use KeyExchange::{Ecp256, Ecp384, X25519};
        let proposal = |key_exchange: &[KeyExchange], additional: &[AdditionalKeyExchange]| IkeProposal {
            encryption: vec![Encryption::AesGcm16With256],
            integrity: Vec::new(),
            prf: vec![Prf::HmacSha2With384],
            key_exchange: key_exchange.to_vec(),
            additional_key_exchange: additional.to_vec(),
        };
        match self {
            // The second stands alone: a peer without ML-KEM falls back to it.
            Self::Default => vec![proposal(&[X25519], &[MlKem768]), proposal(&[X25519], &[])],
            Self::Fips => vec![proposal(&[Ecp384, Ecp256], &[])],
            Self::Cnsa2 => vec![proposal(&[Ecp384], &[MlKem1024])],
        }
    }

    /// Its proposals for CHILD SAs, preferred first. They have no additional key exchange of their own: their keys hang
    /// on SK_d, and with it on the additional key exchange that made the IKE SA.
    pub fn child(self) -> Vec<ChildProposal> {
        use KeyExchange::{Ecp256, Ecp384, X25519};
        let (encryption, key_exchange): (&[_], &[_]) = match self {
            Self::Default => (
                &[Encryption::AesGcm16With256, Encryption::ChaCha20Poly1305],
                &[X25519],
            ),
            Self::Fips => (&[Encryption::AesGcm16With256], &[Ecp384, Ecp256]),
            Self::Cnsa2 => (&[Encryption::AesGcm16With256], &[Ecp384]),
        };
        vec![ChildProposal {
            encryption: encryption.to_vec(),
            integrity: Vec::new(),
            key_exchange: key_exchange.to_vec(),
            additional_key_exchange: Vec::new(),
        }]
    }

    /// The same for a protocol: AH takes integrity algorithms where ESP takes ciphers.
    pub fn child_of(self, protocol: Protocol) -> Vec<ChildProposal> {
        let mut proposals = self.child();
        if protocol == Protocol::Ah {
            for proposal in &mut proposals {
                proposal.encryption = Vec::new();
                proposal.integrity = match self {
                    Self::Default | Self::Fips => {
                        vec![Integrity::HmacSha2With256, Integrity::HmacSha2With512]
                    }
                    Self::Cnsa2 => vec![Integrity::HmacSha2With384],
                };
            }
        }
        proposals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        for cipher in Encryption::ALL {
            assert_eq!(serde_json::to_value(cipher).expect("a string"), cipher.as_str());
        }
        for method in KeyExchange::ALL {
            assert_eq!(serde_json::to_value(method).expect("a string"), method.as_str());
        }
    }

    #[test]
    fn only_cnsa2_insists_on_ml_kem() {
        let insists = |suite: Suite| suite.ike().iter().all(|p| !p.additional_key_exchange.is_empty());
        assert!(insists(Suite::Cnsa2) && !insists(Suite::Default) && !insists(Suite::Fips));
    }

    #[test]
    fn suites_hold_no_cipher_without_authentication() {
        for suite in [Suite::Default, Suite::Fips, Suite::Cnsa2] {
            assert!(
                suite
                    .ike()
                    .iter()
                    .flat_map(|p| &p.encryption)
                    .all(|c| c.is_aead())
            );
            assert!(
                suite
                    .child()
                    .iter()
                    .flat_map(|p| &p.encryption)
                    .all(|c| c.is_aead())
            );
        }
    }
}
