//! The pure-Rust provider.

mod aead;
mod cbc;
mod kem;
mod key_exchange;
mod signature;

use hmac::{Hmac, KeyInit, Mac};
use ipsecmesh_ike::Prf;
use ipsecmesh_ike::crypto::{CryptoError, HashBackend, KeyedPrf, PrfBackend, Provider, Secret, SecureRandom};
use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha256, Sha384, Sha512};

use crate::stack::Wiped;

pub(crate) use signature::private_key;

/// aes-gcm, chacha20poly1305, cbc, sha2, hmac, x25519-dalek, p256, p384, p521, ed25519-dalek, rsa, crypto-bigint, ml-kem.
pub static PROVIDER: Provider = Provider {
    name: "rustcrypto",
    random: &OsRandom,
    prf: &Wiped(HmacPrf),
    aead: &Wiped(aead::Aead),
    cbc: &Wiped(cbc::AesCbc),
    key_exchange: &Wiped(key_exchange::Agreement),
    kem: &Wiped(kem::MlKem),
    hash: &Hashes,
    signature: &signature::Verifier,
};

/// The operating system's generator.
struct OsRandom;

impl SecureRandom for OsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        getrandom::fill(out).map_err(|_| CryptoError::Random)
    }
}

/// HMAC (RFC 4868).
struct HmacPrf;

impl PrfBackend for HmacPrf {
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf> {
        match prf {
            Prf::HmacSha256 => Box::new(HmacKey(hmac::<Hmac<Sha256>>(key))),
            Prf::HmacSha384 => Box::new(HmacKey(hmac::<Hmac<Sha384>>(key))),
            Prf::HmacSha512 => Box::new(HmacKey(hmac::<Hmac<Sha512>>(key))),
        }
    }
}

/// The state of an HMAC after its key: cloned for each use.
struct HmacKey<M>(M);

impl<M: Mac + Clone + Send + Sync> KeyedPrf for HmacKey<M> {
    fn apply(&self, parts: &[&[u8]]) -> Secret {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        Secret::from(mac.finalize().into_bytes().as_slice())
    }
}

fn hmac<M: Mac + KeyInit>(key: &[u8]) -> M {
    // INVARIANT: HMAC is defined for keys of every length (RFC 2104 §2).
    <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// SHA-1 and SHA2-256.
struct Hashes;

impl HashBackend for Hashes {
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        digest_of::<Sha1>(parts).into()
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        digest_of::<Sha256>(parts).into()
    }
}

fn digest_of<D: Digest>(parts: &[&[u8]]) -> sha2::digest::Output<D> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}
