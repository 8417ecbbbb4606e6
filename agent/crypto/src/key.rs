//! What both providers share about private keys of certificates.

/// Bytes that are no ECDSA P-256 private key in PKCS #8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ECDSA P-256 private key in PKCS #8 (DER)")]
pub struct InvalidPrivateKey;
