//! AES-CBC: NIST SP 800-38A §F.2, and each provider decrypts what the other encrypted.

use ipsecmesh_ike::Encryption;
use ipsecmesh_ike::crypto::CryptoError;
use proptest::prelude::*;

use super::{PROVIDERS, hex};

const CIPHERS: [Encryption; 2] = [Encryption::AesCbcKey128, Encryption::AesCbcKey256];

#[test]
fn published_vectors_of_aes_cbc() {
    let iv: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
    let text = hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51");
    let cases = [
        (
            Encryption::AesCbcKey128,
            "2b7e151628aed2a6abf7158809cf4f3c",
            "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2",
        ),
        (
            Encryption::AesCbcKey256,
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d",
        ),
    ];
    for provider in PROVIDERS {
        for (cipher, key, sealed) in cases {
            let mut buffer = text.clone();
            provider.cbc.encrypt(cipher, &hex(key), &iv, &mut buffer).unwrap();
            assert_eq!(buffer, hex(sealed), "{}", provider.name);
            provider.cbc.decrypt(cipher, &hex(key), &iv, &mut buffer).unwrap();
            assert_eq!(buffer, text, "{}", provider.name);
        }
    }
}

#[test]
fn other_lengths_and_other_ciphers_are_refused() {
    for provider in PROVIDERS {
        for cipher in CIPHERS {
            let key = vec![0; cipher.key_length()];
            for length in [1, 15, 17, 31] {
                let mut buffer = vec![0; length];
                let refused = Err(CryptoError::InvalidLength);
                assert_eq!(provider.cbc.encrypt(cipher, &key, &[0; 16], &mut buffer), refused);
                assert_eq!(provider.cbc.decrypt(cipher, &key, &[0; 16], &mut buffer), refused);
            }
            let mut buffer = vec![0; 32];
            let short = provider.cbc.encrypt(cipher, &key[1..], &[0; 16], &mut buffer);
            assert_eq!(short, Err(CryptoError::InvalidLength));
            let sealed = provider.aead.seal(cipher, &key, &[0; 12], &[], &mut buffer);
            assert_eq!(sealed, Err(CryptoError::Unsupported));
        }
        let mut buffer = vec![0; 16];
        let combined = provider
            .cbc
            .encrypt(Encryption::AesGcm16Key128, &[0; 16], &[0; 16], &mut buffer);
        assert_eq!(combined, Err(CryptoError::Unsupported));
    }
}

proptest! {
    #[test]
    fn each_provider_decrypts_what_the_other_encrypted(
        key in prop::array::uniform32(any::<u8>()),
        iv in prop::array::uniform16(any::<u8>()),
        blocks in 0_usize..40,
        first in any::<u8>(),
    ) {
        let text: Vec<u8> = (0..blocks * 16).map(|at| first.wrapping_add(at.to_le_bytes()[0])).collect();
        for cipher in CIPHERS {
            let key = &key[..cipher.key_length()];
            for (one, other) in [(PROVIDERS[0], PROVIDERS[1]), (PROVIDERS[1], PROVIDERS[0])] {
                let mut buffer = text.clone();
                one.cbc.encrypt(cipher, key, &iv, &mut buffer).unwrap();
                other.cbc.decrypt(cipher, key, &iv, &mut buffer).unwrap();
                prop_assert_eq!(&buffer, &text);
            }
        }
    }
}
