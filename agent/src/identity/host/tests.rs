//! Keys and certificates as people bring them.

use ipsecmesh_crypto::PROVIDERS;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};

use super::*;

fn pair(algorithm: &'static SignatureAlgorithm) -> (String, KeyPair) {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let names = vec!["a.example.com".to_owned()];
    let certificate = CertificateParams::new(names)
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("a certificate");
    (certificate.pem(), key)
}

fn refused(chain: &str, key: &str) -> String {
    certificate(chain, key, PROVIDERS[0]).expect_err("refused")
}

#[test]
fn keys_of_every_kind_are_read_and_sign() {
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_ED25519,
        &PKCS_RSA_SHA256,
    ] {
        let (chain, key) = pair(algorithm);
        for provider in PROVIDERS {
            let read = certificate(&chain, &key.serialize_pem(), provider).expect("read");
            let algorithm = *read.key.algorithms().first().expect("an algorithm");
            let signature = read.key.sign(algorithm, b"message").expect("signed");
            for verifier in PROVIDERS {
                let verdict = verifier
                    .signature
                    .verify(algorithm, &read.leaf.spki, b"message", &signature);
                assert_eq!(verdict, Ok(()), "{algorithm}");
            }
        }
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_file_and_fix() {
    let (chain, key) = pair(&PKCS_ECDSA_P256_SHA256);
    let (_, other) = pair(&PKCS_ED25519);
    let key = key.serialize_pem();
    let cases = [
        (
            "tls.crt: the certificate is for another key: the first certificate in it",
            refused(&chain, &other.serialize_pem()),
        ),
        ("tls.crt holds 0 certificates", refused("", &key)),
        ("tls.crt holds 9 certificates", refused(&chain.repeat(9), &key)),
        (
            "tls.crt: not PEM",
            refused(&chain.replace("-----END", "-----AND"), &key),
        ),
        ("tls.key: it holds no private key in PEM", refused(&chain, &chain)),
        (
            "tls.key: it is encrypted",
            refused(&chain, &key.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        ),
        (
            "tls.key: not a well-formed private key: write it anew",
            refused(
                &chain,
                "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
            ),
        ),
    ];
    for (says, said) in cases {
        assert!(said.starts_with(says), "{said:?} does not say {says:?}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_time() {
    let (chain, key) = pair(&PKCS_ED25519);
    let mut leaf = certificate(&chain, &key.serialize_pem(), PROVIDERS[0])
        .expect("read")
        .leaf;
    (leaf.not_before, leaf.not_after) = (1_800_000_000, 1_900_000_000);
    assert_eq!(check_time(&leaf, 1_850_000_000), Ok(()));
    let late = check_time(&leaf, 1_900_000_001).expect_err("late");
    assert!(late.contains("it expired at 2030-03-17T17:46:40Z"), "{late}");
    let early = check_time(&leaf, 1_799_999_999).expect_err("early");
    assert!(early.contains("becomes valid at 2027-01-15T08:00:00Z"), "{early}");
}
