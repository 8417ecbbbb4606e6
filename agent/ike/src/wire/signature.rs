//! Signature algorithms as AUTH of method 14 names them: AlgorithmIdentifiers in DER (RFC 7427 §3, appendix A).

use super::HashAlgorithm;
use crate::config::SignatureAlgorithm;
use crate::der::{Der, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};

/// id-RSASSA-PSS (RFC 4055 §3.1).
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// id-mgf1 (RFC 4055 §2.2).
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
/// id-sha256, id-sha384 and id-sha512 but for their last byte, which is 1, 2 and 3 (RFC 4055 §2.1).
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
// Context-specific tags of the fields of RSASSA-PSS-params.
const PSS_HASH: u8 = 0xa0;
const PSS_MASK: u8 = 0xa1;
const PSS_SALT: u8 = 0xa2;
const PSS_TRAILER: u8 = 0xa3;

impl SignatureAlgorithm {
    /// The hashes of everything that we verify, for SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4, RFC 8420 §2).
    pub const HASHES: [HashAlgorithm; 4] = [
        HashAlgorithm::SHA2_256,
        HashAlgorithm::SHA2_384,
        HashAlgorithm::SHA2_512,
        HashAlgorithm::IDENTITY,
    ];

    /// The hash that the peer must have announced before we sign with this algorithm (RFC 7427 §4).
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Self::EcdsaSha256 | Self::RsaPkcs1Sha256 | Self::RsaPssSha256 => HashAlgorithm::SHA2_256,
            Self::EcdsaSha384 | Self::RsaPkcs1Sha384 | Self::RsaPssSha384 => HashAlgorithm::SHA2_384,
            Self::EcdsaSha512 | Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => HashAlgorithm::SHA2_512,
            Self::Ed25519 => HashAlgorithm::IDENTITY,
        }
    }

    /// The AlgorithmIdentifier in DER.
    pub(super) fn identifier(self) -> &'static [u8] {
        match self {
            // ecdsa-with-SHA2, without parameters (RFC 7427 §A.3).
            Self::EcdsaSha256 => &[
                0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
            ],
            Self::EcdsaSha384 => &[
                0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03,
            ],
            Self::EcdsaSha512 => &[
                0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04,
            ],
            // id-Ed25519, without parameters (RFC 8420 §A.1).
            Self::Ed25519 => &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
            // shaXXXWithRSAEncryption, with NULL (RFC 7427 §A.1).
            Self::RsaPkcs1Sha256 => const { &pkcs1(0x0b) },
            Self::RsaPkcs1Sha384 => const { &pkcs1(0x0c) },
            Self::RsaPkcs1Sha512 => const { &pkcs1(0x0d) },
            // RSASSA-PSS with its parameters spelled out, but for the trailer, which is the default (RFC 7427 §A.4).
            Self::RsaPssSha256 => const { &pss(1, 32) },
            Self::RsaPssSha384 => const { &pss(2, 48) },
            Self::RsaPssSha512 => const { &pss(3, 64) },
        }
    }

    /// Reads an AlgorithmIdentifier. RSA comes in more than one spelling: NULL parameters may be left out (RFC 4055 §2.1,
    /// §5), the default trailer may be said. `None` for what we do not verify, such as anything with SHA-1.
    pub(super) fn from_identifier(identifier: &[u8]) -> Option<Self> {
        let known = [
            Self::EcdsaSha256,
            Self::EcdsaSha384,
            Self::EcdsaSha512,
            Self::Ed25519,
            Self::RsaPkcs1Sha256,
            Self::RsaPkcs1Sha384,
            Self::RsaPkcs1Sha512,
        ];
        let exact = known
            .into_iter()
            .find(|algorithm| algorithm.identifier() == identifier);
        exact.or_else(|| rsa(identifier))
    }
}

fn rsa(identifier: &[u8]) -> Option<SignatureAlgorithm> {
    let mut outer = Der::new(identifier);
    let mut inner = outer.nested(SEQUENCE)?;
    outer.end()?;
    let kind = inner.content(OBJECT_IDENTIFIER)?;
    if kind == RSASSA_PSS {
        let parameters = inner.nested(SEQUENCE)?;
        inner.end()?;
        return pss_parameters(parameters);
    }
    inner.null_or_end()?;
    let [prefix @ .., last] = kind else { return None };
    match last {
        0x0b if *prefix == PKCS1_PREFIX => Some(SignatureAlgorithm::RsaPkcs1Sha256),
        0x0c if *prefix == PKCS1_PREFIX => Some(SignatureAlgorithm::RsaPkcs1Sha384),
        0x0d if *prefix == PKCS1_PREFIX => Some(SignatureAlgorithm::RsaPkcs1Sha512),
        _ => None,
    }
}

/// pkcs-1 (RFC 8017 §C).
const PKCS1_PREFIX: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];

/// One hash for the message and for MGF1, and a salt of its length. The defaults are SHA-1's and refused with it.
fn pss_parameters(mut parameters: Der<'_>) -> Option<SignatureAlgorithm> {
    let hash = hash(parameters.nested(PSS_HASH)?)?;
    let mut generator = parameters.nested(PSS_MASK)?;
    let mut mask = generator.nested(SEQUENCE)?;
    generator.end()?;
    if mask.content(OBJECT_IDENTIFIER)? != MGF1 || self::hash(mask)? != hash {
        return None;
    }
    let mut salt = parameters.nested(PSS_SALT)?;
    let length = salt.content(INTEGER)?;
    salt.end()?;
    if !parameters.is_empty() {
        let mut trailer = parameters.nested(PSS_TRAILER)?;
        if trailer.content(INTEGER)? != [1] {
            return None;
        }
        trailer.end()?;
    }
    parameters.end()?;
    match (hash, length) {
        (1, [32]) => Some(SignatureAlgorithm::RsaPssSha256),
        (2, [48]) => Some(SignatureAlgorithm::RsaPssSha384),
        (3, [64]) => Some(SignatureAlgorithm::RsaPssSha512),
        _ => None,
    }
}

/// The last byte of the hash that the only element names.
fn hash(mut holder: Der<'_>) -> Option<u8> {
    let mut identifier = holder.nested(SEQUENCE)?;
    holder.end()?;
    let [prefix @ .., last] = identifier.content(OBJECT_IDENTIFIER)? else {
        return None;
    };
    identifier.null_or_end()?;
    (prefix == SHA2).then_some(*last)
}

const fn pkcs1(hash: u8) -> [u8; 15] {
    [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, hash, 0x05, 0x00,
    ]
}

const fn pss(hash: u8, salt: u8) -> [u8; 67] {
    [
        0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, // RSASSA-PSS
        0x30, 0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash,
        0x05, 0x00, // hashAlgorithm
        0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d,
        0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash, 0x05, 0x00, // MGF1
        0xa2, 0x03, 0x02, 0x01, salt, // saltLength
    ]
}
