//! The default provider, on aws-lc-rs.

mod cbc;
mod kem;
mod key_exchange;
mod signature;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::{digest, hmac};
use ipsecmesh_ike::crypto::{
    AeadBackend, CryptoError, HashBackend, KeyedPrf, NONCE_LENGTH, PrfBackend, Provider, Secret,
    SecureRandom, TAG_LENGTH,
};
use ipsecmesh_ike::{Encryption, Prf};

use crate::stack::Wiped;

pub(crate) use signature::private_key;

/// aws-lc-rs: the default. Its MODP groups are those of the other provider.
pub static PROVIDER: Provider = Provider {
    name: "aws-lc-rs",
    random: &OsRandom,
    prf: &Wiped(Hmac),
    aead: &Wiped(Aead),
    cbc: &Wiped(cbc::AesCbc),
    key_exchange: &Wiped(key_exchange::Agreement),
    kem: &Wiped(kem::MlKem),
    hash: &Digest,
    signature: &signature::Verifier,
};

/// The library's generator, which the operating system seeds.
struct OsRandom;

impl SecureRandom for OsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        aws_lc_rs::rand::SecureRandom::fill(&SystemRandom::new(), out).map_err(|_| CryptoError::Random)
    }
}

/// HMAC (RFC 4868).
struct Hmac;

impl PrfBackend for Hmac {
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf> {
        let algorithm = match prf {
            Prf::HmacSha384 => hmac::HMAC_SHA384,
            Prf::HmacSha256 => hmac::HMAC_SHA256,
            Prf::HmacSha512 => hmac::HMAC_SHA512,
        };
        Box::new(HmacKey(hmac::Key::new(algorithm, key)))
    }
}

struct HmacKey(hmac::Key);

impl KeyedPrf for HmacKey {
    fn apply(&self, parts: &[&[u8]]) -> Secret {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        Secret::from(context.sign().as_ref())
    }
}

/// AES-GCM with a 16-byte tag (RFC 5282, RFC 4106) and ChaCha20-Poly1305 (RFC 7634).
struct Aead;

impl AeadBackend for Aead {
    fn seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        aead_key(encryption, key)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), in_out)
            .map_err(|_| CryptoError::MessageTooLong)
    }

    fn open<'a>(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError> {
        if in_out.len() < TAG_LENGTH {
            return Err(CryptoError::Unauthenticated);
        }
        aead_key(encryption, key)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), in_out)
            .map(|plaintext| &*plaintext)
            .map_err(|_| CryptoError::Unauthenticated)
    }
}

fn aead_key(encryption: Encryption, key: &[u8]) -> Result<LessSafeKey, CryptoError> {
    let algorithm = match encryption {
        Encryption::AesGcm16Key128 => &AES_128_GCM,
        Encryption::AesGcm16Key256 => &AES_256_GCM,
        Encryption::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Encryption::AesCbcKey128 | Encryption::AesCbcKey256 => return Err(CryptoError::Unsupported),
    };
    UnboundKey::new(algorithm, key)
        .map(LessSafeKey::new)
        .map_err(|_| CryptoError::InvalidLength)
}

/// SHA-1 and SHA2-256.
struct Digest;

impl HashBackend for Digest {
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        digest_of(&digest::SHA1_FOR_LEGACY_USE_ONLY, parts)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        digest_of(&digest::SHA256, parts)
    }
}

fn digest_of<const N: usize>(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> [u8; N] {
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    let mut output = [0; N];
    for (to, from) in output.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    output
}
