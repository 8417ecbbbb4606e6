//! Provider against provider, and both against published vectors.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod aead;
mod cbc;
mod hash;
mod kem;
mod key_exchange;
mod modp;
mod signature;

use ipsecmesh_ike::crypto::{CryptoError, SecureRandom};

use super::{PROVIDERS, by_name};

/// Bytes from hexadecimal digits; blanks are ignored.
fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// "Random" bytes that a vector prescribes.
struct Fixed(Vec<u8>);

impl SecureRandom for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

#[test]
fn providers_are_found_by_their_names_only() {
    assert_eq!(by_name("aws-lc-rs").unwrap().name, "aws-lc-rs");
    assert_eq!(by_name("rustcrypto").unwrap().name, "rustcrypto");
    assert!(by_name("").is_none());
    assert!(by_name("openssl").is_none());
}

#[test]
fn random_bytes_differ() {
    for provider in PROVIDERS {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        provider.random.fill(&mut a).unwrap();
        provider.random.fill(&mut b).unwrap();
        assert_ne!(a, b, "{}", provider.name);
        assert_ne!(a, [0; 32], "{}", provider.name);
    }
}
