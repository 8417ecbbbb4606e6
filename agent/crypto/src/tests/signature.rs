//! Signatures: RFC 6979 §A.2, RFC 8032 §7.1, Project Wycheproof for RSASSA-PSS, and each provider verifies what the other
//! signed, with every kind of key.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair};
use ipsecmesh_ike::SignatureAlgorithm::{self, *};
use ipsecmesh_ike::crypto::{CryptoError, PublicKey};
use pkcs8::EncodePrivateKey as _;
use pkcs8::der::Encode as _;
use pkcs8::der::asn1::{OctetStringRef, UintRef};
use rsa::pkcs1::EncodeRsaPrivateKey as _;

use super::{PROVIDERS, hex};
use crate::key::{InvalidPrivateKey, KeyEncoding, PrivateKey, private_key};

const P256: &str = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";
const P384: &str = "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d8
                    96d5724e4c70a825f872c9ea60d2edf5";
const P521: &str = "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa
                    896eb32f1f47c70855836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b83538";
const ED25519: &str = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7";

/// Signed by the deterministic provider: algorithm, key, message, signature.
const VECTORS: [(SignatureAlgorithm, usize, &[u8], &str); 4] = [
    (
        EcdsaSha256,
        0,
        b"sample",
        "3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716
         022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
    (
        EcdsaSha384,
        1,
        b"sample",
        "306602310094edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c
         81a648152e44acf96e36dd1e80fabe4602310099ef4aeb15f178cea1fe40db2603138f130e
         740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
    ),
    (
        EcdsaSha512,
        2,
        b"sample",
        "308187024200c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f17
         4e25a1ee9017b5d450606add152b534931d7d4e8455cc91f9b15bf05ec36e377fa0241617cce7
         cf5064806c467f678d3b4080d6f1cc50af26ca209417308281b68af282623eaa63e5b5c0723d
         8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e44da4a67a",
    ),
    (
        Ed25519,
        3,
        &[0xaf, 0x82],
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac
         18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
];

const PSS_KEY: &str = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100a2b451a07d0aa5f96e4556715135
                       50514a8a5b462ebef717094fa1fee82224e637f9746d3f7cafd31878d80325b6ef5a1700f65903b469429e89d6ea
                       c8845097b5ab393189db92512ed8a7711a1253facd20f79c15e8247f3d3e42e46e48c98e254a2fe9765313a03eff
                       8f17e1a029397a1fa26a8dce26f490ed81299615d9814c22da610428e09c7d9658594266f5c021d0fceca08d945a
                       12be82de4d1ece6b4c03145b5d3495d4ed5411eb878daf05fd7afc3e09ada0f1126422f590975a1969816f48698b
                       cbba1b4d9cae79d460d8f9f85e7975005d9bc22c4e5ac0f7c1a45d12569a62807d3b9a02e5a530e773066f453d1f
                       5b4c2e9cf7820283f742b9d50203010001";
const PSS: &str = "401eb03cdb47ca88033e3030f6bdecbac8f5c8fc1dd6a13d23d379ed9a2b309891d13d74fea9d21d159b9e6d8f37efa24899
                   62e24555f56dd434ff1d31ce4f9f5abd3f22cbea8b691d6a11e44efb83e2bca155e6a164325e0fde2a8865afd5c9f51161a9
                   d615f62af7ec2e31b3e5ab649c164490d31d88cfae35b84aea7925690f929a144b6d2f48e8fb894a52deecd1b9a6496990c4
                   ecf1588699a42cacd10c53af350514e4291ea9a058e77f101e32c1c0cefa61d945f7bc931f8bd19e7ba3169358a60e5a8b01
                   23bc3199b9fdcafe8e519c41ba675491a27b85e44ef2d77277c10fe107293c8290186913bc9a99b640d8da041b64f31eab1d
                   35920985f4a5";

/// One key of each kind in PKCS #8: P-256, P-384, P-521, Ed25519, RSA.
static KEYS: LazyLock<[Vec<u8>; 5]> = LazyLock::new(|| {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let seed: [u8; 32] = hex(ED25519).try_into().unwrap();
    let bytes = |document: pkcs8::SecretDocument| document.as_bytes().to_vec();
    [
        bytes(
            p256::SecretKey::from_slice(&hex(P256))
                .unwrap()
                .to_pkcs8_der()
                .unwrap(),
        ),
        bytes(
            p384::SecretKey::from_slice(&hex(P384))
                .unwrap()
                .to_pkcs8_der()
                .unwrap(),
        ),
        bytes(
            p521::SecretKey::from_slice(&hex(P521))
                .unwrap()
                .to_pkcs8_der()
                .unwrap(),
        ),
        bytes(
            ed25519_dalek::SigningKey::from_bytes(&seed)
                .to_pkcs8_der()
                .unwrap(),
        ),
        AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap().as_ref().to_vec(),
    ]
});

fn signers(pkcs8: &[u8]) -> [Arc<dyn PrivateKey>; 2] {
    PROVIDERS.map(|provider| private_key(provider, KeyEncoding::Pkcs8, pkcs8).unwrap())
}

fn verdicts(
    algorithm: SignatureAlgorithm,
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> [Result<(), CryptoError>; 2] {
    PROVIDERS.map(|provider| provider.signature.verify(algorithm, spki, message, signature))
}

/// What RSASSA-PKCS1-v1_5 looks like from a peer that signs with it.
fn pkcs1(encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let pair = RsaKeyPair::from_pkcs8(&KEYS[4]).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        encoding,
        &aws_lc_rs::rand::SystemRandom::new(),
        message,
        &mut signature,
    )
    .unwrap();
    signature
}

#[test]
fn published_vectors_of_signatures() {
    for (algorithm, key, message, signature) in VECTORS {
        let [_, deterministic] = signers(&KEYS[key]);
        let signature = hex(signature);
        assert_eq!(
            deterministic.sign(algorithm, message).unwrap(),
            signature,
            "{algorithm}"
        );
        let spki = deterministic.public_key();
        assert_eq!(
            verdicts(algorithm, spki, message, &signature),
            [Ok(()), Ok(())],
            "{algorithm}"
        );
        let forged = verdicts(algorithm, spki, b"simple", &signature);
        assert_eq!(forged, [Err(CryptoError::Unauthenticated); 2], "{algorithm}");
    }
    let verdict = verdicts(RsaPssSha256, &hex(PSS_KEY), b"Test", &hex(PSS));
    assert_eq!(verdict, [Ok(()), Ok(())]);
}

#[test]
fn each_provider_verifies_what_either_signed() {
    let expected: [&[SignatureAlgorithm]; 5] = [
        &[EcdsaSha256],
        &[EcdsaSha384],
        &[EcdsaSha512],
        &[Ed25519],
        &[RsaPssSha256, RsaPssSha384, RsaPssSha512],
    ];
    for (pkcs8, expected) in KEYS.iter().zip(expected) {
        let [first, second] = signers(pkcs8);
        assert_eq!(first.public_key(), second.public_key());
        for signer in [first, second] {
            assert_eq!(signer.algorithms(), expected);
            for algorithm in expected {
                for length in [0, 1, 64, 1000] {
                    let message = vec![7; length];
                    let signature = signer.sign(*algorithm, &message).unwrap();
                    let verdict = verdicts(*algorithm, signer.public_key(), &message, &signature);
                    assert_eq!(verdict, [Ok(()), Ok(())], "{algorithm}");
                }
            }
        }
    }
}

#[test]
fn rsa_signatures_of_pkcs1_are_verified_and_never_made() {
    let spki = signers(&KEYS[4])[0].public_key().to_vec();
    let algorithms: [(SignatureAlgorithm, &'static dyn RsaEncoding); 3] = [
        (RsaPkcs1Sha256, &RSA_PKCS1_SHA256),
        (RsaPkcs1Sha384, &RSA_PKCS1_SHA384),
        (RsaPkcs1Sha512, &RSA_PKCS1_SHA512),
    ];
    for (algorithm, encoding) in algorithms {
        let signature = pkcs1(encoding, b"message");
        assert_eq!(
            verdicts(algorithm, &spki, b"message", &signature),
            [Ok(()), Ok(())]
        );
        assert_eq!(
            verdicts(algorithm, &spki, b"massage", &signature),
            [Err(CryptoError::Unauthenticated); 2]
        );
        for signer in signers(&KEYS[4]) {
            assert!(signer.sign(algorithm, b"message").is_err());
        }
    }
}

#[test]
fn an_algorithm_does_not_verify_with_another_kind_of_key_or_another_hash() {
    for (kind, pkcs8) in KEYS.iter().enumerate() {
        let signer = &signers(pkcs8)[0];
        let algorithm = signer.algorithms()[0];
        let signature = signer.sign(algorithm, b"message").unwrap();
        for (other, kinds) in [
            (EcdsaSha256, 0..3),
            (EcdsaSha384, 0..3),
            (EcdsaSha512, 0..3),
            (Ed25519, 3..4),
            (RsaPkcs1Sha256, 4..5),
            (RsaPssSha256, 4..5),
            (RsaPssSha512, 4..5),
        ] {
            if other == algorithm {
                continue;
            }
            let verdict = verdicts(other, signer.public_key(), b"message", &signature);
            for verdict in verdict {
                let error = verdict.unwrap_err();
                let expected = if kinds.contains(&kind) {
                    CryptoError::Unauthenticated
                } else {
                    CryptoError::KeyMismatch
                };
                assert_eq!(error, expected, "{algorithm} as {other}");
            }
        }
    }
}

/// RFC 7427 §3 leaves the hash to the signer: peers exist that sign with the longest one whatever the curve is.
#[test]
fn ecdsa_verifies_with_hashes_longer_than_the_curve() {
    let [first, _] = signers(&KEYS[0]);
    let mut spki = first.public_key().to_vec();
    let key = p256::ecdsa::SigningKey::from_slice(&hex(P256)).unwrap();
    let digest = <sha2::Sha512 as sha2::Digest>::digest(b"message");
    let signature: p256::ecdsa::Signature =
        p256::ecdsa::signature::hazmat::PrehashSigner::sign_prehash(&key, &digest).unwrap();
    let der = signature.to_der();
    assert_eq!(
        verdicts(EcdsaSha512, &spki, b"message", der.as_bytes()),
        [Ok(()), Ok(())]
    );
    *spki.last_mut().unwrap() ^= 1;
    assert!(
        verdicts(EcdsaSha512, &spki, b"message", der.as_bytes())
            .iter()
            .all(Result::is_err)
    );
}

#[test]
fn every_changed_truncated_or_extended_signature_is_refused() {
    for pkcs8 in KEYS.iter() {
        let signer = &signers(pkcs8)[1];
        let algorithm = signer.algorithms()[0];
        let signature = signer.sign(algorithm, b"message").unwrap();
        let refused = |signature: &[u8], at: usize| {
            let verdict = verdicts(algorithm, signer.public_key(), b"message", signature);
            assert_eq!(
                verdict,
                [Err(CryptoError::Unauthenticated); 2],
                "{algorithm} {at}"
            );
        };
        for at in (0..signature.len()).step_by(if signature.len() > 100 { 17 } else { 1 }) {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            refused(&changed, at);
            refused(&signature[..at], at);
        }
        refused(&[signature.as_slice(), &[0]].concat(), signature.len());
    }
}

#[test]
fn keys_that_are_broken_or_of_another_kind_are_refused() {
    for pkcs8 in KEYS.iter() {
        let spki = signers(pkcs8)[0].public_key().to_vec();
        assert!(PublicKey::parse(&spki).is_ok());
        for length in (0..spki.len()).step_by(if spki.len() > 100 { 13 } else { 1 }) {
            assert_eq!(
                PublicKey::parse(&spki[..length]),
                Err(CryptoError::InvalidPublicKey)
            );
        }
        let extended = [spki.as_slice(), &[0]].concat();
        assert_eq!(PublicKey::parse(&extended), Err(CryptoError::InvalidPublicKey));
        assert!(private_key(PROVIDERS[0], KeyEncoding::Pkcs8, &pkcs8[1..]).is_err());
    }
    let mut spki = signers(&KEYS[0])[0].public_key().to_vec();
    *spki.last_mut().unwrap() ^= 1;
    for verdict in verdicts(EcdsaSha256, &spki, b"sample", &hex(VECTORS[0].3)) {
        assert!(verdict.is_err(), "off the curve");
    }
    let mut compressed = signers(&KEYS[0])[0].public_key().to_vec();
    compressed[26] = 2;
    assert_eq!(PublicKey::parse(&compressed), Err(CryptoError::InvalidPublicKey));
    // secp256k1.
    let other = hex("3056301006072a8648ce3d020106052b8104000a034200");
    let other = [other, vec![4; 65]].concat();
    assert_eq!(PublicKey::parse(&other), Err(CryptoError::UnsupportedPublicKey));
}

#[test]
fn short_rsa_keys_are_refused_with_their_length() {
    for (bytes, bits) in [(128, 1024), (255, 2040), (1025, 8200)] {
        let number = vec![0xff; bytes];
        let number = UintRef::new(&number).unwrap();
        let exponent = UintRef::new(&[1, 0, 1]).unwrap();
        let key = rsa::pkcs1::RsaPrivateKeyRef {
            modulus: number,
            public_exponent: exponent,
            private_exponent: number,
            prime1: exponent,
            prime2: exponent,
            exponent1: exponent,
            exponent2: exponent,
            coefficient: exponent,
            other_prime_infos: None,
        };
        let der = key.to_der().unwrap();
        for provider in PROVIDERS {
            let error = private_key(provider, KeyEncoding::Pkcs1, &der).unwrap_err();
            assert_eq!(error, InvalidPrivateKey::RsaKeyLength(bits));
        }
        let public = rsa::pkcs1::RsaPublicKeyRef {
            modulus: number,
            public_exponent: exponent,
        };
        let key = public.to_der().unwrap();
        let spki = pkcs8::spki::SubjectPublicKeyInfoRef {
            algorithm: rsa::pkcs1::ALGORITHM_ID,
            subject_public_key: pkcs8::der::asn1::BitStringRef::from_bytes(&key).unwrap(),
        };
        let spki = spki.to_der().unwrap();
        let verdict = verdicts(RsaPssSha256, &spki, b"message", &[0; 128]);
        assert_eq!(verdict, [Err(CryptoError::RsaKeyLength); 2]);
    }
}

#[test]
fn keys_come_in_the_older_encodings_too() {
    let sec1 = p384::SecretKey::from_slice(&hex(P384))
        .unwrap()
        .to_sec1_der()
        .unwrap();
    let pkcs1 = rsa::pkcs8::DecodePrivateKey::from_pkcs8_der(&KEYS[4])
        .map(|key: rsa::PrivateKey| key.to_pkcs1_der().unwrap())
        .unwrap();
    for provider in PROVIDERS {
        let key = private_key(provider, KeyEncoding::Sec1, &sec1).unwrap();
        assert_eq!(key.public_key(), signers(&KEYS[1])[0].public_key());
        let key = private_key(provider, KeyEncoding::Pkcs1, pkcs1.as_bytes()).unwrap();
        assert_eq!(key.public_key(), signers(&KEYS[4])[0].public_key());
        assert!(private_key(provider, KeyEncoding::Pkcs8, &sec1).is_err());
        assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
    }
}

#[test]
fn a_private_key_of_another_kind_is_named() {
    // X25519 (RFC 8410 §3): it agrees on secrets, and signs nothing.
    let algorithm = pkcs8::AlgorithmIdentifierRef {
        oid: pkcs8::der::asn1::ObjectIdentifier::new_unwrap("1.3.101.110"),
        parameters: None,
    };
    let key = OctetStringRef::new(&[4; 34]).unwrap();
    let der = pkcs8::PrivateKeyInfoRef::new(algorithm, key).to_der().unwrap();
    let error = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, &der).unwrap_err();
    assert_eq!(error, InvalidPrivateKey::Unsupported("1.3.101.110".to_owned()));
}
