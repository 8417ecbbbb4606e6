//! AES-GCM: test cases 4 and 16 of the specification that NIST SP 800-38D refers to. ChaCha20-Poly1305: RFC 8439 §2.8.2.
//! And each provider opens what the other sealed.

use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::CryptoError;
use proptest::prelude::*;

use super::{PROVIDERS, hex};

const CIPHERS: [Encryption; 3] = [
    Encryption::AesGcm16Key128,
    Encryption::AesGcm16Key256,
    Encryption::ChaCha20Poly1305,
];

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
fn a_published_vector_of_chacha20_poly1305() {
    let key = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 12] = hex("070000004041424344454647").try_into().unwrap();
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let text = hex("4c616469657320616e642047656e746c656d656e206f662074686520636c6173
                    73206f66202739393a204966204920636f756c64206f6666657220796f75206f
                    6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73
                    637265656e20776f756c642062652069742e");
    let sealed = hex("d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
                      3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
                      92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
                      3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691");
    for provider in PROVIDERS {
        let (backend, cipher) = (provider.aead, Encryption::ChaCha20Poly1305);
        let mut buffer = text.clone();
        backend.seal(cipher, &key, &nonce, &aad, &mut buffer).unwrap();
        assert_eq!(buffer, sealed, "{}", provider.name);
        assert_eq!(
            backend.open(cipher, &key, &nonce, &aad, &mut buffer).unwrap(),
            text
        );
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
