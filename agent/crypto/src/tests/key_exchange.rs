//! X25519: RFC 7748 §6.1. ECP-256, ECP-384, ECP-521: RFC 5903 §8. And provider against provider.

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{CryptoError, Provider};

use super::{Fixed, PROVIDERS, hex};

/// Methods with the lengths of their public values and of their secrets.
const METHODS: [(KeyExchange, usize, usize); 7] = [
    (KeyExchange::Ecp256, 64, 32),
    (KeyExchange::Ecp384, 96, 48),
    (KeyExchange::Ecp521, 132, 66),
    (KeyExchange::X25519, 32, 32),
    (KeyExchange::Modp2048, 256, 256),
    (KeyExchange::Modp3072, 384, 384),
    (KeyExchange::Modp4096, 512, 512),
];

/// Those on curves; MODP groups have tests of their own.
const CURVES: usize = 4;

/// Private, public and shared values of a published vector.
struct Vector {
    method: KeyExchange,
    ours: &'static str,
    our_public: &'static str,
    theirs: &'static str,
    their_public: &'static str,
    shared: &'static str,
}

const VECTORS: [Vector; 4] = [
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
    Vector {
        method: KeyExchange::Ecp384,
        ours: "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655
               e35b538041e649ee3faef896783ab194",
        our_public: "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6
                     de3ac808acb4bdb4c88732aee95f41aa
                     9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38e
                     eb9fcff3c2c947dae69b4c634573a81c",
        theirs: "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942
                 e0308312916b8ed2960e4bd55a7448fc",
        their_public: "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d
                       0d1ac43a0336def96fda41d0774a3571
                       dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1ff
                       f83fa40142209dff5eaad96db9e6386c",
        shared: "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4
                 d603135569b9e9d09cf5d4a270f59746",
    },
    Vector {
        method: KeyExchange::Ecp521,
        ours: "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a0
               95aa85a30fe1c2952c6771d937ba9777f5957b2639bab072462f68c27a57382d4a52",
        our_public: "0015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbe
                     e1e3bf42e00b8e380aeae57c2d107564941885942af5a7f4601723c4195d176ced3e
                     017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10a
                     d8a788015ac405d7799dc75e7b7d5b6cf2261a6a7f1507438bf01beb6ca3926f9582",
        theirs: "0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e
                 9c677d600b343757a3bdbf2a3163e4c2f869cca7458aa4a4effc311f5cb151685eb9",
        their_public: "00d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a21
                       9b97c356436adc6e95bb0352f6be64a6c2912d4ef2d0433ced2b6171640012d9460f
                       015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87
                       220b6536c5c408a1d2aebb8e86d678ae49cb57091f4732296579ab44fcd17f0fc56a",
        shared: "01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04
                 d1427e73ca4baa240a34786859810c06b3c715a3a8cc3151f2bee417996d19f3ddea",
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
    for (method, length, _) in METHODS {
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
    for (method, length, secret_length) in METHODS.into_iter().take(CURVES) {
        let vector = VECTORS.iter().find(|vector| vector.method == method).unwrap();
        let peer = hex(vector.their_public);
        let mut seen = (false, false);
        for counter in 1..=u16::MAX {
            let mut private = hex(vector.ours);
            private[secret_length - 2..].copy_from_slice(&counter.to_be_bytes());
            let active = PROVIDERS[0]
                .key_exchange
                .start(method, &Fixed(private.clone()))
                .unwrap();
            let secret = active.complete(&peer).unwrap();
            // The first byte of a value of ECP-521 has one bit only: there it is the second that counts.
            let first = usize::from(method == KeyExchange::Ecp521);
            let zeros = (
                active.public_value()[..=first] == [0; 2][..=first],
                secret.expose()[..=first] == [0; 2][..=first],
            );
            if zeros.0 || zeros.1 {
                assert_eq!(
                    (active.public_value().len(), secret.expose().len()),
                    (length, secret_length)
                );
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
        for (method, length, _) in METHODS {
            let active = provider.key_exchange.start(method, provider.random).unwrap();
            for wrong in [
                0, 1, 31, 32, 33, 63, 64, 65, 66, 96, 97, 131, 132, 133, 255, 256, 257, 384, 512, 1184,
            ] {
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
    let mut order_one = vec![0; 32];
    order_one[0] = 1;
    let order_eight = hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    let p = hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    for provider in PROVIDERS {
        for vector in &VECTORS[1..] {
            let mut off_curve = hex(vector.their_public);
            *off_curve.last_mut().unwrap() ^= 1;
            let all_zero = vec![0; off_curve.len()];
            for value in [&off_curve, &all_zero] {
                let secret = shared(provider, vector.method, &hex(vector.ours), value);
                assert_eq!(secret, Err(CryptoError::InvalidPublicValue), "{}", provider.name);
            }
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
        // Zero and the order of the group are no private values of the NIST curves.
        for (method, _, length) in METHODS
            .into_iter()
            .take(CURVES)
            .filter(|method| method.0 != KeyExchange::X25519)
        {
            for scalar in [vec![0; length], vec![0xff; length]] {
                let started = provider.key_exchange.start(method, &Fixed(scalar));
                assert_eq!(started.err(), Some(CryptoError::Random));
            }
        }
    }
}
