//! What is looked for: every key that passes through a provider, in pieces of 16 bytes and masked, so that the list is
//! not itself what is found.

use std::sync::Mutex;

use ipsecmesh_ike::crypto::{
    ActiveKeyExchange, AeadBackend, CryptoError, Decapsulator, KemBackend, KeyExchangeBackend, KeyedPrf,
    NONCE_LENGTH, PrfBackend, Provider, Secret, SecureRandom,
};
use ipsecmesh_ike::{Encryption, Kem, KeyExchange, Prf};

pub(crate) const PIECE: usize = 16;

const MASK: u8 = 0xa5;

/// A piece of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) kind: &'static str,
    masked: [u8; PIECE],
}

impl Piece {
    pub(crate) fn byte(&self, index: usize) -> u8 {
        self.masked[index] ^ MASK
    }
}

#[derive(Default)]
pub(crate) struct Record(Mutex<Vec<Piece>>);

impl Record {
    /// Notes a key. Short ones and what is left over are no pieces.
    pub(crate) fn note(&self, kind: &'static str, key: &[u8]) {
        let mut pieces = self.0.lock().unwrap();
        for piece in key.chunks_exact(PIECE) {
            let mut masked = [0; PIECE];
            for (to, from) in masked.iter_mut().zip(piece) {
                *to = from ^ MASK;
            }
            if !pieces.iter().any(|known| known.masked == masked) {
                pieces.push(Piece { kind, masked });
            }
        }
    }

    pub(crate) fn pieces(&self) -> Vec<Piece> {
        self.0.lock().unwrap().clone()
    }

    /// A provider that notes every key that it is given or makes.
    pub(crate) fn watched(&'static self, inner: &'static Provider) -> &'static Provider {
        let watched: &'static Watched = Box::leak(Box::new(Watched { record: self, inner }));
        Box::leak(Box::new(Provider {
            prf: watched,
            aead: watched,
            key_exchange: watched,
            kem: watched,
            ..*inner
        }))
    }
}

struct Watched {
    record: &'static Record,
    inner: &'static Provider,
}

impl PrfBackend for Watched {
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf> {
        // Ni | Nr, which everybody sees, are the only ones of this length.
        if key.len() != 64 {
            self.record.note("PRF key", key);
        }
        self.inner.prf.keyed(prf, key)
    }
}

impl AeadBackend for Watched {
    fn seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.record.note("cipher key", key);
        self.inner.aead.seal(encryption, key, nonce, aad, in_out)
    }

    fn open<'a>(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError> {
        self.record.note("cipher key", key);
        self.inner.aead.open(encryption, key, nonce, aad, in_out)
    }
}

/// Notes private values as they are drawn.
struct Drawn<'a> {
    record: &'static Record,
    inner: &'a dyn SecureRandom,
}

impl SecureRandom for Drawn<'_> {
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        self.inner.fill(out)?;
        self.record.note("private value", out);
        Ok(())
    }
}

impl KeyExchangeBackend for Watched {
    fn has(&self, method: KeyExchange) -> bool {
        self.inner.key_exchange.has(method)
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let record = self.record;
        let inner = self.inner.key_exchange.start(
            method,
            &Drawn {
                record,
                inner: random,
            },
        )?;
        Ok(Box::new(Exchange { record, inner }))
    }
}

struct Exchange {
    record: &'static Record,
    inner: Box<dyn ActiveKeyExchange>,
}

impl ActiveKeyExchange for Exchange {
    fn method(&self) -> KeyExchange {
        self.inner.method()
    }

    fn public_value(&self) -> &[u8] {
        self.inner.public_value()
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let shared = self.inner.complete(peer_public_value)?;
        self.record.note("shared secret", shared.expose());
        Ok(shared)
    }
}

impl KemBackend for Watched {
    fn has(&self, kem: Kem) -> bool {
        self.inner.kem.has(kem)
    }

    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        let record = self.record;
        let inner = self.inner.kem.generate(
            kem,
            &Drawn {
                record,
                inner: random,
            },
        )?;
        Ok(Box::new(Capsule { record, inner }))
    }

    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        let record = self.record;
        let drawn = Drawn {
            record,
            inner: random,
        };
        let (ciphertext, shared) = self.inner.kem.encapsulate(kem, public_key, &drawn)?;
        self.record.note("shared secret", shared.expose());
        Ok((ciphertext, shared))
    }
}

struct Capsule {
    record: &'static Record,
    inner: Box<dyn Decapsulator>,
}

impl Decapsulator for Capsule {
    fn kem(&self) -> Kem {
        self.inner.kem()
    }

    fn public_key(&self) -> &[u8] {
        self.inner.public_key()
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError> {
        let shared = self.inner.decapsulate(ciphertext)?;
        self.record.note("shared secret", shared.expose());
        Ok(shared)
    }
}
