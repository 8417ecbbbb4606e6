//! A provider whose primitives are worthless and fast, so that thousands of runs fit into a minute. It keeps what the
//! engine relies on: both ends derive the same keys, and what another key has sealed does not open.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use ipsecmesh_ike::crypto::{
    ActiveKeyExchange, AeadBackend, CBC_BLOCK, CbcBackend, CryptoError, Decapsulator, HashBackend,
    KemBackend, KeyExchangeBackend, KeyedPrf, NONCE_LENGTH, PrfBackend, Provider, Secret, SecureRandom,
    SignatureBackend, TAG_LENGTH,
};
use ipsecmesh_ike::{Encryption, Kem, KeyExchange, Prf, SignatureAlgorithm};

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(1) };
    static RECORD: RefCell<Option<BTreeSet<Vec<u8>>>> = const { RefCell::new(None) };
}

/// From now on keys and derived material of this thread are remembered.
pub(crate) fn record() {
    RECORD.set(Some(BTreeSet::new()));
}

/// What was remembered since [`record`]; nothing more is.
pub(crate) fn recorded() -> BTreeSet<Vec<u8>> {
    RECORD.take().unwrap_or_default()
}

fn remember(secret: &[u8]) {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.insert(secret.to_vec());
        }
    });
}

/// Begins the random sequence of this thread anew.
pub(crate) fn seed(seed: u64) {
    STATE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555);
}

pub(crate) fn provider() -> &'static Provider {
    &Provider {
        name: "cheap",
        random: &Cheap,
        prf: &Cheap,
        aead: &Cheap,
        cbc: &Cheap,
        key_exchange: &Cheap,
        kem: &Cheap,
        hash: &Cheap,
        signature: &Cheap,
    }
}

pub(crate) fn signature(name: &[u8], message: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    expand(digest(&[b"signature", name, message]), &mut out);
    out
}

#[derive(Debug)]
pub(crate) struct Cheap;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn digest(parts: &[&[u8]]) -> u64 {
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut word = 0_u64;
    let mut filled = 0;
    let mut length = 0_u64;
    for byte in parts.iter().copied().flatten() {
        word = (word << 8) | u64::from(*byte);
        filled += 1;
        length += 1;
        if filled == 8 {
            state = mix(state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            filled = 0;
            word = 0;
        }
    }
    mix(mix(state ^ word) ^ length)
}

fn expand(seed: u64, out: &mut [u8]) {
    let mut state = seed;
    for chunk in out.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bytes = mix(state).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

impl SecureRandom for Cheap {
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        let state = STATE.get().wrapping_add(1);
        STATE.set(state);
        expand(mix(state), out);
        Ok(())
    }
}

struct Keyed(Prf, u64);

impl KeyedPrf for Keyed {
    fn apply(&self, parts: &[&[u8]]) -> Secret {
        let mut out = vec![0; self.0.output_length()];
        expand(mix(self.1 ^ digest(parts)), &mut out);
        remember(&out);
        Secret::from(out.as_slice())
    }
}

impl PrfBackend for Cheap {
    fn keyed(&self, prf: Prf, key: &[u8]) -> Box<dyn KeyedPrf> {
        Box::new(Keyed(prf, digest(&[key])))
    }
}

impl CbcBackend for Cheap {
    fn encrypt(
        &self,
        _: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        remember(key);
        let mut stream = vec![0; in_out.len()];
        expand(digest(&[b"cbc", key, iv]), &mut stream);
        for (byte, mask) in in_out.iter_mut().zip(stream) {
            *byte ^= mask;
        }
        Ok(())
    }

    fn decrypt(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8; CBC_BLOCK],
        in_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.encrypt(encryption, key, iv, in_out)
    }
}

impl AeadBackend for Cheap {
    fn seal(
        &self,
        _: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        remember(key);
        let mut tag = [0; TAG_LENGTH];
        expand(digest(&[key, nonce, aad, in_out]), &mut tag);
        xor(key, nonce, in_out);
        in_out.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(
        &self,
        _: Encryption,
        key: &[u8],
        nonce: &[u8; NONCE_LENGTH],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a [u8], CryptoError> {
        let split = in_out
            .len()
            .checked_sub(TAG_LENGTH)
            .ok_or(CryptoError::Unauthenticated)?;
        let (content, tag) = in_out.split_at_mut(split);
        xor(key, nonce, content);
        let mut expected = [0; TAG_LENGTH];
        expand(digest(&[key, nonce, aad, content]), &mut expected);
        if *tag == expected {
            Ok(content)
        } else {
            Err(CryptoError::Unauthenticated)
        }
    }
}

fn xor(key: &[u8], nonce: &[u8], data: &mut [u8]) {
    let mut stream = vec![0; data.len()];
    expand(digest(&[b"stream", key, nonce]), &mut stream);
    for (byte, mask) in data.iter_mut().zip(stream) {
        *byte ^= mask;
    }
}

const MODULUS: u64 = (1 << 61) - 1;

fn power(base: u64, mut exponent: u64) -> u64 {
    let multiply =
        |a: u64, b: u64| u64::try_from(u128::from(a) * u128::from(b) % u128::from(MODULUS)).unwrap_or(0);
    let (mut result, mut base) = (1, base % MODULUS);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

struct Exchange {
    method: KeyExchange,
    secret: u64,
    public: Vec<u8>,
}

impl KeyExchangeBackend for Cheap {
    fn has(&self, _: KeyExchange) -> bool {
        true
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let mut secret = [0; 8];
        random.fill(&mut secret)?;
        let secret = u64::from_le_bytes(secret) >> 4;
        let mut public = vec![0; 24];
        public.extend_from_slice(&power(3, secret).to_be_bytes());
        Ok(Box::new(Exchange {
            method,
            secret,
            public,
        }))
    }
}

impl ActiveKeyExchange for Exchange {
    fn method(&self) -> KeyExchange {
        self.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer: &[u8]) -> Result<Secret, CryptoError> {
        let value = peer
            .get(24..32)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes);
        match value {
            Some(value) if peer.len() == 32 && value != 0 => {
                let shared = power(value, self.secret).to_be_bytes();
                remember(&shared);
                Ok(Secret::from(&shared[..]))
            }
            _ => Err(CryptoError::InvalidPublicValue),
        }
    }
}

struct Encapsulated {
    kem: Kem,
    secret: u64,
    public: Vec<u8>,
}

/// As long as those of ML-KEM-768, so that they do not fit into one datagram.
const PUBLIC: usize = 1184;
const CIPHERTEXT: usize = 1088;

fn padded(length: usize, value: u64) -> Vec<u8> {
    let mut bytes = vec![0; length - 8];
    bytes.extend_from_slice(&value.to_be_bytes());
    bytes
}

fn unpadded(length: usize, bytes: &[u8]) -> Result<u64, CryptoError> {
    let value = bytes.last_chunk::<8>().filter(|_| bytes.len() == length);
    let value = value.map(|value| u64::from_be_bytes(*value));
    value
        .filter(|value| *value != 0)
        .ok_or(CryptoError::InvalidPublicValue)
}

fn exponent(random: &dyn SecureRandom) -> Result<u64, CryptoError> {
    let mut secret = [0; 8];
    random.fill(&mut secret)?;
    Ok(u64::from_le_bytes(secret) >> 4)
}

fn encapsulated(shared: u64) -> Secret {
    let shared = shared.to_be_bytes();
    remember(&shared);
    Secret::from(&shared[..])
}

impl KemBackend for Cheap {
    fn has(&self, _: Kem) -> bool {
        true
    }

    fn generate(&self, kem: Kem, random: &dyn SecureRandom) -> Result<Box<dyn Decapsulator>, CryptoError> {
        let secret = exponent(random)?;
        let public = padded(PUBLIC, power(3, secret));
        Ok(Box::new(Encapsulated { kem, secret, public }))
    }

    fn encapsulate(
        &self,
        _: Kem,
        public_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        let theirs = unpadded(PUBLIC, public_key)?;
        let secret = exponent(random)?;
        let shared = encapsulated(power(theirs, secret));
        Ok((padded(CIPHERTEXT, power(3, secret)), shared))
    }
}

impl Decapsulator for Encapsulated {
    fn kem(&self) -> Kem {
        self.kem
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, CryptoError> {
        unpadded(CIPHERTEXT, ciphertext).map(|theirs| encapsulated(power(theirs, self.secret)))
    }
}

impl HashBackend for Cheap {
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut out = [0; 20];
        expand(digest(parts), &mut out);
        out
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        expand(digest(parts), &mut out);
        out
    }
}

impl SignatureBackend for Cheap {
    fn verify(
        &self,
        _: SignatureAlgorithm,
        spki: &[u8],
        message: &[u8],
        signed: &[u8],
    ) -> Result<(), CryptoError> {
        if signed == signature(spki, message) {
            Ok(())
        } else {
            Err(CryptoError::Unauthenticated)
        }
    }
}
