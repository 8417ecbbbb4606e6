//! AES-GCM: test cases 4 and 16 of the specification that NIST SP 800-38D refers to, and each provider opens what the
//! other sealed.

use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::CryptoError;
use proptest::prelude::*;

use super::{PROVIDERS, hex};

const CIPHERS: [Encryption; 2] = [Encryption::AesGcm16Key128, Encryption::AesGcm16Key256];

#[test]
fn published_vectors() {
    let key = "feffe9928665731c6d6a8f9467308308";
    let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let text = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
    let cases = [
        (
            Encryption::AesGcm16Key128,
            hex(key),
            hex("42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
                 21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091
                 5bc94fbc3221a5db94fae95ae7121a47"),
        ),
        (
            Encryption::AesGcm16Key256,
            [hex(key), hex(key)].concat(),
            hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                 8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
                 76fc6ece0f4e1768cddf8853bb2d551b"),
        ),
    ];
    for provider in PROVIDERS {
        for (encryption, key, sealed) in &cases {
            let mut buffer = text.clone();
            provider
                .aead
                .seal(*encryption, key, &nonce, &aad, &mut buffer)
                .unwrap();
            assert_eq!(&buffer, sealed, "{} {encryption:?}", provider.name);
            assert_eq!(
                provider
                    .aead
                    .open(*encryption, key, &nonce, &aad, &mut buffer)
                    .unwrap(),
                text
            );
        }
    }
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    for provider in PROVIDERS {
        for encryption in CIPHERS {
            for length in [0, 15, 17, 24, 31, 33] {
                let key = vec![0; length];
                let mut buffer = vec![0; 16];
                let sealed = provider.aead.seal(encryption, &key, &[0; 12], &[], &mut buffer);
                assert_eq!(sealed, Err(CryptoError::InvalidLength));
                let opened = provider.aead.open(encryption, &key, &[0; 12], &[], &mut buffer);
                assert_eq!(opened, Err(CryptoError::InvalidLength));
            }
        }
    }
}

#[test]
fn r3_a_ciphertext_shorter_than_its_tag_is_refused() {
    for provider in PROVIDERS {
        for encryption in CIPHERS {
            for length in 0..16 {
                let mut buffer = vec![0; length];
                let key = vec![0; encryption.key_length()];
                let opened = provider.aead.open(encryption, &key, &[0; 12], &[], &mut buffer);
                assert_eq!(opened, Err(CryptoError::Unauthenticated));
            }
        }
    }
}

proptest! {
    #[test]
    fn each_provider_opens_what_the_other_sealed(
        key in prop::array::uniform32(any::<u8>()),
        nonce in prop::array::uniform12(any::<u8>()),
        aad in prop::collection::vec(any::<u8>(), 0..64),
        text in prop::collection::vec(any::<u8>(), 0..600),
        flip in any::<prop::sample::Index>(),
    ) {
        for encryption in CIPHERS {
            let key = &key[..encryption.key_length()];
            for (sealer, opener) in [(PROVIDERS[0], PROVIDERS[1]), (PROVIDERS[1], PROVIDERS[0])] {
                let mut sealed = text.clone();
                sealer.aead.seal(encryption, key, &nonce, &aad, &mut sealed).unwrap();
                let mut broken = sealed.clone();
                broken[flip.index(sealed.len())] ^= 1;
                prop_assert_eq!(opener.aead.open(encryption, key, &nonce, &aad, &mut sealed).unwrap(), &text);
                prop_assert!(opener.aead.open(encryption, key, &nonce, &aad, &mut broken).is_err());
            }
        }
    }
}
