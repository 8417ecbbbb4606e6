//! ML-KEM: provider against provider, and what is refused (FIPS 203 §7.2, §7.3).

use ipsecmesh_ike::Kem;
use ipsecmesh_ike::crypto::CryptoError;

use super::PROVIDERS;

/// Mechanism, length of its public key, length of its ciphertext (FIPS 203 table 3).
const MECHANISMS: [(Kem, usize, usize); 3] = [
    (Kem::MlKem512, 800, 768),
    (Kem::MlKem768, 1184, 1088),
    (Kem::MlKem1024, 1568, 1568),
];

#[test]
fn both_providers_agree_in_both_roles() {
    for (kem, public_length, ciphertext_length) in MECHANISMS {
        for initiator in PROVIDERS {
            for responder in PROVIDERS {
                let ours = initiator.kem.generate(kem, initiator.random).expect("a key pair");
                assert_eq!((ours.kem(), ours.public_key().len()), (kem, public_length));
                let (ciphertext, theirs) = responder
                    .kem
                    .encapsulate(kem, ours.public_key(), responder.random)
                    .expect("a secret");
                assert_eq!(ciphertext.len(), ciphertext_length);
                let shared = ours.decapsulate(&ciphertext).expect("a secret");
                assert_eq!(shared.expose(), theirs.expose(), "{kem:?}");
                assert_eq!(shared.expose().len(), 32);
            }
        }
    }
}

#[test]
fn another_ciphertext_gives_another_secret_and_the_same_one_at_both_providers_no_error() {
    for (kem, _, _) in MECHANISMS {
        for provider in PROVIDERS {
            let ours = provider.kem.generate(kem, provider.random).expect("a key pair");
            let (mut ciphertext, theirs) = provider
                .kem
                .encapsulate(kem, ours.public_key(), provider.random)
                .expect("a secret");
            ciphertext[5] ^= 1;
            let shared = ours.decapsulate(&ciphertext).expect("an implicit rejection");
            assert_ne!(shared.expose(), theirs.expose());
        }
    }
}

#[test]
fn values_of_a_wrong_length_or_form_are_refused() {
    for (kem, public_length, ciphertext_length) in MECHANISMS {
        for provider in PROVIDERS {
            let refused = |public_key: &[u8]| {
                provider
                    .kem
                    .encapsulate(kem, public_key, provider.random)
                    .map(drop)
                    .expect_err("refused")
            };
            // A coefficient above the modulus is no key.
            for public_key in [
                vec![],
                vec![0; public_length - 1],
                vec![0; public_length + 1],
                vec![0xff; public_length],
            ] {
                assert_eq!(refused(&public_key), CryptoError::InvalidPublicValue);
            }
            let ours = provider.kem.generate(kem, provider.random).expect("a key pair");
            for length in [0, ciphertext_length - 1, ciphertext_length + 1] {
                let refused = ours.decapsulate(&vec![0; length]).map(drop);
                assert_eq!(refused, Err(CryptoError::InvalidPublicValue));
            }
        }
    }
}
