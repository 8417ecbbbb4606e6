//! The key schedule, sealed messages and negotiation, with both crypto providers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod negotiation;
mod nist;
mod sealed;

use ipsecmesh_crypto::PROVIDERS;

/// Bytes from hexadecimal digits; blanks are ignored.
fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}
