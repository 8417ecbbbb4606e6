//! The two crypto providers of the IKEv2 engine: aws-lc-rs and pure Rust.
//!
//! Both are complete, and each is the other's oracle: the tests run every suite provider against provider and against
//! published vectors. Nothing else of the engine links a cryptographic library.

pub mod aws_lc;
mod key;
mod modp;
pub mod rustcrypto;
mod shared;
mod stack;

pub use key::{InvalidPrivateKey, KeyEncoding, PrivateKey, private_key};

use ipsecmesh_ike::crypto::Provider;

/// Every provider, the default first.
pub static PROVIDERS: [&Provider; 2] = [&aws_lc::PROVIDER, &rustcrypto::PROVIDER];

/// The provider that a configuration names: `aws-lc-rs` or `rustcrypto`.
pub fn by_name(name: &str) -> Option<&'static Provider> {
    PROVIDERS.into_iter().find(|provider| provider.name == name)
}

#[cfg(test)]
mod tests;
