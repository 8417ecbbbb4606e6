//! What a library leaves on the stack: round keys, blocks of key material, shared secrets. Every primitive that sees a key
//! runs below a frame of ours, and what it has used of the stack is overwritten when it is done.

use ipsecmesh_ike::crypto::{
    ActiveKeyExchange, AeadBackend, CBC_BLOCK, CbcBackend, CryptoError, Decapsulator, KemBackend,
    KeyExchangeBackend, KeyedPrf, NONCE_LENGTH, PrfBackend, Secret, SecureRandom,
};
use ipsecmesh_ike::{Encryption, Kem, KeyExchange, Prf};
use zeroize::Zeroize as _;

/// Words of eight bytes that an HMAC needs: 4 KiB.
const HASHING: usize = 512;

/// That a cipher needs, with its expanded key in wide registers: 16 KiB.
const SEALING: usize = 2048;

/// That a key exchange needs, with its polynomials or points: 64 KiB.
const EXCHANGE: usize = 8192;

/// A backend whose calls leave nothing on the stack.
pub(crate) struct Wiped<B>(pub(crate) B);

impl<B: PrfBackend> PrfBackend for Wiped<B> {
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf> {
        wiped::<HASHING, _>(|| Box::new(Wiped(self.0.keyed(prf, key))))
    }
}

impl KeyedPrf for Wiped<Box<dyn KeyedPrf>> {
    fn apply(&self, parts: &[&[u8]]) -> Secret {
        wiped::<HASHING, _>(|| self.0.apply(parts))
    }
}

impl<B: AeadBackend> AeadBackend for Wiped<B> {
    fn seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        wiped::<SEALING, _>(|| self.0.seal(encryption, key, nonce, aad, in_out))
    }

    fn open<'a>(
        &self,
        encryption: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError> {
        wiped::<SEALING, _>(|| self.0.open(encryption, key, nonce, aad, in_out))
    }
}

impl<B: CbcBackend> CbcBackend for Wiped<B> {
    fn encrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        wiped::<SEALING, _>(|| self.0.encrypt(encryption, key, iv, in_out))
    }

    fn decrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        wiped::<SEALING, _>(|| self.0.decrypt(encryption, key, iv, in_out))
    }
}

impl<B: KeyExchangeBackend> KeyExchangeBackend for Wiped<B> {
    fn has(&self, method: KeyExchange) -> bool {
        self.0.has(method)
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let started = wiped::<EXCHANGE, _>(|| self.0.start(method, random))?;
        Ok(Box::new(Wiped(started)))
    }
}

impl ActiveKeyExchange for Wiped<Box<dyn ActiveKeyExchange>> {
    fn method(&self) -> KeyExchange {
        self.0.method()
    }

    fn public_value(&self) -> &[u8] {
        self.0.public_value()
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        wiped::<EXCHANGE, _>(|| self.0.complete(peer_public_value))
    }
}

impl<B: KemBackend> KemBackend for Wiped<B> {
    fn has(&self, kem: Kem) -> bool {
        self.0.has(kem)
    }

    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        let generated = wiped::<EXCHANGE, _>(|| self.0.generate(kem, random))?;
        Ok(Box::new(Wiped(generated)))
    }

    fn encapsulate(
        &self,
        kem: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        wiped::<EXCHANGE, _>(|| self.0.encapsulate(kem, public_key, random))
    }
}

impl Decapsulator for Wiped<Box<dyn Decapsulator>> {
    fn kem(&self) -> Kem {
        self.0.kem()
    }

    fn public_key(&self) -> &[u8] {
        self.0.public_key()
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError> {
        wiped::<EXCHANGE, _>(|| self.0.decapsulate(ciphertext))
    }
}

/// Carries out `work`, and then overwrites so many words of the stack below this frame.
#[inline(never)]
fn wiped<const WORDS: usize, T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    overwrite::<WORDS>();
    done
}

/// Begins where [`overwrite`] will: nothing of `work` is inlined into the frame above.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite<const WORDS: usize>() {
    let mut area = [0_u64; WORDS];
    area.zeroize();
    std::hint::black_box(&area);
}
