//! MODP groups: the primes of RFC 3526 by their definition, values that OpenSSL 3.0 has computed, and another big-integer
//! library as oracle, since both providers compute with the same.

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::CryptoError;
use num_bigint::BigUint;

use super::{Fixed, PROVIDERS, hex};
use crate::modp::{PRIME_2048, PRIME_3072, PRIME_4096};

const GROUPS: [(KeyExchange, &str); 3] = [
    (KeyExchange::Modp2048, PRIME_2048),
    (KeyExchange::Modp3072, PRIME_3072),
    (KeyExchange::Modp4096, PRIME_4096),
];

/// Private values, and what OpenSSL has made of them.
struct Vector {
    method: KeyExchange,
    /// All but the last two bytes.
    ours: &'static str,
    theirs: &'static str,
    /// The last two bytes of ours; SHA2-256 of the public value and of the shared secret, both of the full length. In the
    /// second the secret begins with a zero byte, in the third the public value.
    ends: [(&'static str, &'static str, &'static str); 3],
}

const VECTORS: [Vector; 3] = [
    Vector {
        method: KeyExchange::Modp2048,
        ours: "880b528aef7f9ea6ae7436e939a4863fd4d49fb637b47fbfa82150df80c37491ff2311969eb3",
        theirs: "aa9142077a21d356b99a5198f54960d54d2a1152b61cfe0175464d4e001dc6a2916a0c36e390bb09",
        ends: [
            (
                "0001",
                "a6e38d8e08bd3df0dd7bfdec57f2ae7150928727c4379ed1d9411d68c851da7b",
                "4ddc645dcfb227f5a8a758308ea62bd782ccf2707fc8750c3315b5a3c06cee75",
            ),
            (
                "00bc",
                "b83571ab0681ea54e53063878ae98597bbda941cb24f550bebdc4e25f6867933",
                "642e8855ee0a2e867075cd66fc201ce101fa8848ec85b0546a0e1058892ba086",
            ),
            (
                "0568",
                "44251a81f841d4ceb0c9b908f79fd24ded39b28dd7f9f4da240e3b94a97d5dc7",
                "b6b79353a5c0eb840af3cffaa04c9195178b5028f88722e2226f68188938e176",
            ),
        ],
    },
    Vector {
        method: KeyExchange::Modp3072,
        ours: "c4d6bb19c11af625db31e3456d85ae61fd7741c2d20b61297bc66ecd2bfe70ba
               eaaffd16be9aa88bd3e6acb9600ca11c1eb692",
        theirs: "19b1934b22dc63cd6dee2d89fff1a2619411a89a5ecd77b2f26c8b257a042199
                 f9e5c7fe01fcc092cfc7b4ee001cd22671a68a8c4e",
        ends: [
            (
                "0001",
                "1de54d07ac315b5712066a03f99ef4de4245d3da9297c37d2375aa904c6331f6",
                "b9f571c8db9df9d73fe0877e5fd83d9dd91b1a1f033fe808925d8a979a73d9a5",
            ),
            (
                "0173",
                "69f58f1b3a1d5d246bc30a445f95a3f1b975709cd398b2227a412e8574b052e3",
                "1019b12f76994553506b84dbc65c2fb9da4c5c8dd63da019cd0413e1bcb5bb5d",
            ),
            (
                "039e",
                "aa0161302798b46fe1de93ff3b20849e3e7f279ae637325ddadae07e0c3c2fee",
                "e965cb44bd7ad754c5402fa3f3049fd0aea75258bee22847902223b68489ca65",
            ),
        ],
    },
    Vector {
        method: KeyExchange::Modp4096,
        ours: "b871999d0cb9100dc8e87f215ef293ea09633319e1e22f0b69b571fabfa9118a
               49ccfddd5c9e519b9dd8d2a91a97ba6446ffb810cbf19c7289b5",
        theirs: "04d5edf9e944fa4929bf6cd6f03cec67bfc7ee6f12486f0cd26f8168b65b1089
                 286e753abb07246846875dbb8c086b1bef9619c6d02447b0f988cbdf",
        ends: [
            (
                "0001",
                "4ba4b565f951df1b46f0dbb19bc537c0f2682d63ebe698a248f218174ec666da",
                "280a07f95fa7728cb73c1b8f546f1fcabf9c030eedcca3584259f58203a60970",
            ),
            (
                "00ab",
                "810b2f20ec5e941c5a893e39a3d4a7fd18fc2137ae2d4ffae7d13986ca50c376",
                "a10c67357ecee830feda2d31e6cc38422da895f378e4bceacbd08545c3db4825",
            ),
            (
                "006a",
                "174658ceec1efcc89bfe13b5eddb21a3082026bf3bc5a966b3f7e8d27c5a2ff8",
                "64345b7bdf618128788582368e80a4fcc99cfeea9f5109eb63261555f39d2702",
            ),
        ],
    },
];

fn exponent_length(method: KeyExchange) -> usize {
    let vector = VECTORS.iter().find(|vector| vector.method == method).unwrap();
    hex(vector.theirs).len()
}

fn prime(digits: &str) -> BigUint {
    BigUint::from_bytes_be(&hex(digits))
}

/// `[2^bits pi]`, by Machin's formula.
fn pi(bits: u32) -> BigUint {
    const GUARD: u32 = 64;
    let one = BigUint::from(1_u8) << (bits + GUARD);
    let arctangent_of_one_by = |x: u32| {
        let (mut term, mut divisor, mut terms) = (&one / x, 1_u32, Vec::new());
        while term != BigUint::ZERO {
            terms.push(&term / divisor);
            term /= x * x;
            divisor += 2;
        }
        let plus: BigUint = terms.iter().step_by(2).sum();
        let minus: BigUint = terms.iter().skip(1).step_by(2).sum();
        plus - minus
    };
    ((arctangent_of_one_by(5) * 4_u8 - arctangent_of_one_by(239)) * 4_u8) >> GUARD
}

#[test]
fn primes_are_those_of_rfc_3526() {
    for ((_, digits), (bits, summand)) in
        GROUPS
            .into_iter()
            .zip([(2048_u32, 124_476_u32), (3072, 1_690_314), (4096, 240_904)])
    {
        let power = |exponent: u32| BigUint::from(1_u8) << exponent;
        let middle = (pi(bits - 130) + summand) << 64_u8;
        let expected = power(bits) - power(bits - 64) - 1_u8 + middle;
        assert_eq!(prime(digits), expected, "{bits}");
    }
}

#[test]
fn values_that_openssl_has_computed() {
    for provider in PROVIDERS {
        for vector in &VECTORS {
            let start = |private: String| {
                let private = Fixed(hex(&private));
                provider.key_exchange.start(vector.method, &private).unwrap()
            };
            let theirs = start(vector.theirs.to_owned());
            for (end, public, shared) in vector.ends {
                let ours = start(format!("{}{end}", vector.ours));
                let hash = |bytes: &[u8]| provider.hash.sha256(&[bytes]).to_vec();
                assert_eq!(
                    hash(ours.public_value()),
                    hex(public),
                    "{:?} {end}",
                    vector.method
                );
                for secret in [
                    ours.complete(theirs.public_value()).unwrap(),
                    theirs.complete(ours.public_value()).unwrap(),
                ] {
                    assert_eq!(hash(secret.expose()), hex(shared), "{:?} {end}", vector.method);
                }
            }
        }
    }
}

#[test]
fn r5_leading_zeros_are_kept_in_modp_groups() {
    for vector in &VECTORS {
        let provider = PROVIDERS[0];
        let start = |private: String| {
            let private = Fixed(hex(&private));
            provider.key_exchange.start(vector.method, &private).unwrap()
        };
        let theirs = start(vector.theirs.to_owned());
        let length = theirs.public_value().len();
        let [_, (zero_secret, ..), (zero_public, ..)] = vector.ends;
        let secret = start(format!("{}{zero_secret}", vector.ours))
            .complete(theirs.public_value())
            .unwrap();
        assert_eq!((secret.expose()[0], secret.expose().len()), (0, length));
        let public = start(format!("{}{zero_public}", vector.ours));
        assert_eq!(
            (public.public_value()[0], public.public_value().len()),
            (0, length)
        );
    }
}

#[test]
fn powers_are_what_another_library_says() {
    for (method, digits) in GROUPS {
        let (modulus, width) = (prime(digits), digits.len() / 2);
        let private = vec![0xff; exponent_length(method)];
        let exponent = BigUint::from_bytes_be(&private);
        let peer = &modulus / 3_u8;
        let power = peer.modpow(&exponent, &modulus).to_bytes_be();
        let peer = peer.to_bytes_be();
        let padded = |bytes: &[u8]| [&vec![0; width - bytes.len()], bytes].concat();
        for provider in PROVIDERS {
            let ours = provider
                .key_exchange
                .start(method, &Fixed(private.clone()))
                .unwrap();
            let secret = ours.complete(&padded(&peer)).unwrap();
            assert_eq!(secret.expose(), padded(&power), "{method:?}");
        }
    }
}

/// RFC 6989 §2.1.
#[test]
fn values_that_give_the_secret_away_are_refused() {
    for provider in PROVIDERS {
        for (method, digits) in GROUPS {
            let ours = provider.key_exchange.start(method, provider.random).unwrap();
            let (modulus, width) = (prime(digits), digits.len() / 2);
            let one = BigUint::from(1_u8);
            for value in [
                BigUint::ZERO,
                one.clone(),
                &modulus - &one,
                modulus.clone(),
                &modulus + &one,
                (one << (8 * width)) - 1_u8,
            ] {
                let bytes = value.to_bytes_be();
                let bytes = [vec![0; width - bytes.len()], bytes].concat();
                let refused = ours.complete(&bytes).map(drop);
                assert_eq!(
                    refused,
                    Err(CryptoError::InvalidPublicValue),
                    "{method:?} {value:x}"
                );
            }
        }
    }
}

#[test]
fn an_exponent_of_zero_is_an_error() {
    for provider in PROVIDERS {
        for vector in &VECTORS {
            let zeros = Fixed(vec![0; hex(vector.theirs).len()]);
            let started = provider.key_exchange.start(vector.method, &zeros);
            assert_eq!(started.err(), Some(CryptoError::Random));
        }
    }
}
