//! X25519: RFC 7748 §6.1. ECP-256: RFC 5903 §8.1. And provider against provider.

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{CryptoError, Provider};

use super::{Fixed, PROVIDERS, hex};

const METHODS: [(KeyExchange, usize); 2] = [(KeyExchange::Ecp256, 64), (KeyExchange::X25519, 32)];

/// Private, public and shared values of a published vector.
struct Vector {
    method: KeyExchange,
    ours: &'static str,
    our_public: &'static str,
    theirs: &'static str,
    their_public: &'static str,
    shared: &'static str,
}

const VECTORS: [Vector; 2] = [
    Vector {
        method: KeyExchange::X25519,
        ours: "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        our_public: "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        theirs: "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        their_public: "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        shared: "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    },
    Vector {
        method: KeyExchange::Ecp256,
        ours: "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
        our_public: "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180
                     5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
        theirs: "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
        their_public: "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63
                       56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
        shared: "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
    },
];

fn shared(
    provider: &Provider,
    method: KeyExchange,
    private: &[u8],
    peer: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let active = provider.key_exchange.start(method, &Fixed(private.to_vec()))?;
    active.complete(peer).map(|secret| secret.expose().to_vec())
}

#[test]
fn published_vectors() {
    for provider in PROVIDERS {
        for vector in &VECTORS {
            for (private, public, peer) in [
                (vector.ours, vector.our_public, vector.their_public),
                (vector.theirs, vector.their_public, vector.our_public),
            ] {
                let active = provider
                    .key_exchange
                    .start(vector.method, &Fixed(hex(private)))
                    .unwrap();
                assert_eq!(active.method(), vector.method);
                assert_eq!(active.public_value(), hex(public), "{}", provider.name);
                assert!(
                    active
                        .complete(&hex(peer))
                        .unwrap()
                        .constant_time_eq(&hex(vector.shared))
                );
                // An offer stays open: completing once more is the same.
                assert!(
                    active
                        .complete(&hex(peer))
                        .unwrap()
                        .constant_time_eq(&hex(vector.shared))
                );
            }
        }
    }
}

#[test]
fn both_providers_agree_on_drawn_values() {
    for (method, length) in METHODS {
        for (a, b) in [(PROVIDERS[0], PROVIDERS[1]), (PROVIDERS[1], PROVIDERS[0])] {
            let ours = a.key_exchange.start(method, a.random).unwrap();
            let theirs = b.key_exchange.start(method, b.random).unwrap();
            assert_eq!(ours.public_value().len(), length);
            let secret = ours.complete(theirs.public_value()).unwrap();
            assert!(secret.constant_time_eq(theirs.complete(ours.public_value()).unwrap().expose()));
        }
    }
}

/// One shared secret and one public value in 256 begins with a zero byte: both are sent and hashed at full length.
#[test]
fn r5_leading_zeros_are_kept() {
    for (method, length) in METHODS {
        let vector = VECTORS.iter().find(|vector| vector.method == method).unwrap();
        let peer = hex(vector.their_public);
        let mut seen = (false, false);
        for counter in 1..=u16::MAX {
            let mut private = hex(vector.ours);
            private[30..].copy_from_slice(&counter.to_be_bytes());
            let active = PROVIDERS[0]
                .key_exchange
                .start(method, &Fixed(private.clone()))
                .unwrap();
            let secret = active.complete(&peer).unwrap();
            let zeros = (active.public_value()[0] == 0, secret.expose()[0] == 0);
            if zeros.0 || zeros.1 {
                assert_eq!((active.public_value().len(), secret.expose().len()), (length, 32));
                let other = PROVIDERS[1]
                    .key_exchange
                    .start(method, &Fixed(private.clone()))
                    .unwrap();
                assert_eq!(other.public_value(), active.public_value());
                assert_eq!(
                    shared(PROVIDERS[1], method, &private, &peer).unwrap(),
                    secret.expose()
                );
                seen = (seen.0 || zeros.0, seen.1 || zeros.1);
            }
            if seen == (true, true) {
                break;
            }
        }
        assert_eq!(seen, (true, true), "{method:?}");
    }
}

#[test]
fn values_of_the_wrong_length_are_refused() {
    for provider in PROVIDERS {
        for (method, length) in METHODS {
            let active = provider.key_exchange.start(method, provider.random).unwrap();
            for wrong in [0, 1, 31, 32, 33, 63, 64, 65, 66, 1184] {
                if wrong != length {
                    let completed = active.complete(&vec![4; wrong]);
                    assert_eq!(completed.unwrap_err(), CryptoError::InvalidPublicValue);
                }
            }
        }
    }
}

#[test]
fn values_that_are_no_point_or_of_small_order_are_refused() {
    let mut off_curve = hex(VECTORS[1].their_public);
    off_curve[63] ^= 1;
    let all_zero = vec![0; 64];
    let mut order_one = vec![0; 32];
    order_one[0] = 1;
    let order_eight = hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    let p = hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    for provider in PROVIDERS {
        for value in [&off_curve, &all_zero] {
            let private = hex(VECTORS[1].ours);
            let secret = shared(provider, KeyExchange::Ecp256, &private, value);
            assert_eq!(secret, Err(CryptoError::InvalidPublicValue), "{}", provider.name);
        }
        for value in [&vec![0; 32], &order_one, &order_eight, &p] {
            let private = hex(VECTORS[0].ours);
            let secret = shared(provider, KeyExchange::X25519, &private, value);
            assert_eq!(secret, Err(CryptoError::InvalidPublicValue), "{}", provider.name);
        }
    }
}

#[test]
fn a_broken_random_source_is_an_error_and_not_a_weak_key() {
    for provider in PROVIDERS {
        // Zero and the order of the group are no private values of P-256.
        for scalar in [vec![0; 32], vec![0xff; 32]] {
            let started = provider.key_exchange.start(KeyExchange::Ecp256, &Fixed(scalar));
            assert_eq!(started.err(), Some(CryptoError::Random));
        }
    }
}
