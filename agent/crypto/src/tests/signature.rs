//! ECDSA: RFC 6979 §A.2.5, and each provider verifies what the other signed.

use ipsecmesh_ike::crypto::CryptoError;
use ipsecmesh_ike::{SignatureAlgorithm, Signer};
use p256::pkcs8::EncodePrivateKey;

use super::{PROVIDERS, hex};
use crate::{aws_lc, rustcrypto};

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::EcdsaP256Sha256;
const PRIVATE: &str = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";
const SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d03010703420004
                    60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6
                    7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
const SAMPLE: &str = "3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716
                      022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";

fn pkcs8() -> Vec<u8> {
    let key = p256::SecretKey::from_slice(&hex(PRIVATE)).unwrap();
    key.to_pkcs8_der().unwrap().as_bytes().to_vec()
}

fn signers() -> [Box<dyn Signer>; 2] {
    let der = pkcs8();
    [
        Box::new(aws_lc::EcdsaP256Signer::from_pkcs8(&der).unwrap()),
        Box::new(rustcrypto::EcdsaP256Signer::from_pkcs8(&der).unwrap()),
    ]
}

#[test]
fn the_vector_of_rfc_6979_verifies() {
    for provider in PROVIDERS {
        assert_eq!(
            provider
                .signature
                .verify(ALGORITHM, &hex(SPKI), b"sample", &hex(SAMPLE)),
            Ok(())
        );
        let forged = provider
            .signature
            .verify(ALGORITHM, &hex(SPKI), b"simple", &hex(SAMPLE));
        assert_eq!(forged, Err(CryptoError::Unauthenticated));
    }
    assert_eq!(signers()[1].sign(ALGORITHM, b"sample").unwrap(), hex(SAMPLE));
}

#[test]
fn each_provider_verifies_what_either_signed() {
    for signer in signers() {
        assert_eq!(signer.algorithms(), [ALGORITHM]);
        for length in [0, 1, 64, 1000] {
            let message = vec![7; length];
            let signature = signer.sign(ALGORITHM, &message).unwrap();
            for provider in PROVIDERS {
                assert_eq!(
                    provider
                        .signature
                        .verify(ALGORITHM, &hex(SPKI), &message, &signature),
                    Ok(())
                );
            }
        }
    }
}

#[test]
fn every_changed_truncated_or_extended_signature_is_refused() {
    let signature = hex(SAMPLE);
    for provider in PROVIDERS {
        let verify = |signature: &[u8]| {
            provider
                .signature
                .verify(ALGORITHM, &hex(SPKI), b"sample", signature)
        };
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(
                verify(&changed),
                Err(CryptoError::Unauthenticated),
                "{} {at}",
                provider.name
            );
            assert_eq!(
                verify(&signature[..at]),
                Err(CryptoError::Unauthenticated),
                "{} {at}",
                provider.name
            );
        }
        let extended = [signature.as_slice(), &[0]].concat();
        assert_eq!(verify(&extended), Err(CryptoError::Unauthenticated));
    }
}

#[test]
fn keys_that_are_not_p256_are_refused() {
    let spki = hex(SPKI);
    let mut other_curve = spki.clone();
    other_curve[22] = 0x08;
    let mut compressed = spki.clone();
    compressed[26] = 0x02;
    let mut off_curve = spki.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    for provider in PROVIDERS {
        let verify = |spki: &[u8]| {
            provider
                .signature
                .verify(ALGORITHM, spki, b"sample", &hex(SAMPLE))
        };
        assert_eq!(verify(&other_curve), Err(CryptoError::InvalidPublicKey));
        assert_eq!(verify(&compressed), Err(CryptoError::InvalidPublicKey));
        assert!(verify(&off_curve).is_err());
        for length in 0..spki.len() {
            assert_eq!(verify(&spki[..length]), Err(CryptoError::InvalidPublicKey));
        }
        assert_eq!(
            verify(&[spki.as_slice(), &[0]].concat()),
            Err(CryptoError::InvalidPublicKey)
        );
    }
    assert!(aws_lc::EcdsaP256Signer::from_pkcs8(&pkcs8()[1..]).is_err());
    assert!(rustcrypto::EcdsaP256Signer::from_pkcs8(&pkcs8()[1..]).is_err());
}
