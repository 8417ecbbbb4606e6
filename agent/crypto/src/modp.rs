//! The MODP groups 14, 15 and 16 (RFC 3526), for both providers: aws-lc-rs has no exponentiation that is safe to call, so
//! that both take the constant-time one of crypto-bigint. Only peers that have nothing better use them.

use std::sync::LazyLock;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, Secret, SecureRandom};
use zeroize::Zeroizing;

use crate::shared::draw;

/// Our half of a key exchange in a MODP group.
pub(crate) struct Modp {
    method: KeyExchange,
    group: &'static Group,
    private: Zeroizing<BoxedUint>,
    public: Vec<u8>,
}

impl Modp {
    /// Draws a private exponent. Another method is [`CryptoError::Unsupported`].
    pub(crate) fn start(method: KeyExchange, random: &dyn SecureRandom) -> Result<Self, CryptoError> {
        let group = group(method).ok_or(CryptoError::Unsupported)?;
        let private = draw(method, random, |exponent| group.exponent(exponent))?;
        let public = group.power(&group.generator, &private).to_vec();
        Ok(Self {
            method,
            group,
            private,
            public,
        })
    }
}

impl ActiveKeyExchange for Modp {
    fn method(&self) -> KeyExchange {
        self.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let peer = self.group.public_value(peer_public_value)?;
        let shared = self.group.power(&peer, &self.private);
        Ok(Secret::from(shared.as_slice()))
    }
}

/// A group: powers of 2 modulo a safe prime.
struct Group {
    params: BoxedMontyParams,
    generator: BoxedUint,
    /// The prime less one: the greatest value, and of order two.
    greatest: BoxedUint,
}

impl Group {
    fn new(prime: &str) -> Self {
        let bits = u32::try_from(prime.len() * 4).unwrap_or(u32::MAX);
        // INVARIANT: the three primes below are hexadecimal digits and odd; a test starts every group.
        let prime = BoxedUint::from_be_hex(prime, bits).expect("hexadecimal digits");
        let odd = Odd::new(prime.clone()).expect("a prime is odd");
        let one = BoxedUint::one_with_precision(bits);
        Self {
            params: BoxedMontyParams::new_vartime(odd),
            generator: one.wrapping_add(&one),
            greatest: prime.wrapping_sub(&one),
        }
    }

    /// A private exponent; zero is none.
    fn exponent(&self, bytes: &[u8]) -> Option<Zeroizing<BoxedUint>> {
        let bits = u32::try_from(bytes.len() * 8).ok()?;
        let exponent = Zeroizing::new(BoxedUint::from_be_slice(bytes, bits).ok()?);
        let zero = BoxedUint::zero_with_precision(bits);
        (*exponent != zero && bits < self.params.bits_precision()).then_some(exponent)
    }

    /// A peer's public value: of the prime's length, and neither 0, 1 nor the prime less one, nor above it
    /// (RFC 6989 §2.1).
    fn public_value(&self, bytes: &[u8]) -> Result<BoxedUint, CryptoError> {
        let bits = self.params.bits_precision();
        if u32::try_from(bytes.len() * 8) != Ok(bits) {
            return Err(CryptoError::InvalidPublicValue);
        }
        let value = BoxedUint::from_be_slice(bytes, bits).map_err(|_| CryptoError::InvalidPublicValue)?;
        if value >= self.generator && value < self.greatest {
            Ok(value)
        } else {
            Err(CryptoError::InvalidPublicValue)
        }
    }

    /// At the full length of the prime, leading zeros kept (RFC 7296 §2.14).
    fn power(&self, base: &BoxedUint, exponent: &BoxedUint) -> Zeroizing<Vec<u8>> {
        let power = Zeroizing::new(BoxedMontyForm::new(base.clone(), &self.params).pow(exponent));
        let power = Zeroizing::new(power.retrieve());
        Zeroizing::new(power.to_be_bytes().into_vec())
    }
}

fn group(method: KeyExchange) -> Option<&'static Group> {
    match method {
        KeyExchange::Modp2048 => Some(&MODP_2048),
        KeyExchange::Modp3072 => Some(&MODP_3072),
        KeyExchange::Modp4096 => Some(&MODP_4096),
        KeyExchange::Ecp256 | KeyExchange::Ecp384 | KeyExchange::Ecp521 | KeyExchange::X25519 => None,
    }
}

/// `2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476)` (RFC 3526 §3).
static MODP_2048: LazyLock<Group> = LazyLock::new(|| Group::new(PRIME_2048));

/// `2^3072 - 2^3008 - 1 + 2^64 * ([2^2942 pi] + 1690314)` (RFC 3526 §4).
static MODP_3072: LazyLock<Group> = LazyLock::new(|| Group::new(PRIME_3072));

/// `2^4096 - 2^4032 - 1 + 2^64 * ([2^3966 pi] + 240904)` (RFC 3526 §5).
static MODP_4096: LazyLock<Group> = LazyLock::new(|| Group::new(PRIME_4096));

pub(crate) const PRIME_2048: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AACAA68FFFFFFFFFFFFFFFF";

pub(crate) const PRIME_3072: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
    BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF";

pub(crate) const PRIME_4096: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
    BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
    88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6\
    287C59474E6BC05D99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
    93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF";
