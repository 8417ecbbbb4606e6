//! What a cryptographic operation can fail with. No variant carries data: nothing secret can leak through one.

/// A cryptographic operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// A message, a MAC or a signature does not verify. Unauthenticated: the input is dropped.
    #[error("authentication of the data failed")]
    Unauthenticated,
    /// The peer's public value has the wrong length, is no point of the curve, or leads to an all-zero secret.
    #[error("invalid public value")]
    InvalidPublicValue,
    /// A public key that is not of its kind: a broken structure, or no point of the curve.
    #[error("not a well-formed public key")]
    InvalidPublicKey,
    /// A public key of a kind that nothing is verified with.
    #[error("a public key that is neither ECDSA on P-256, P-384 or P-521, nor Ed25519, nor RSA")]
    UnsupportedPublicKey,
    /// An RSA key that is too short to trust, or too long to compute with.
    #[error("an RSA key that has fewer than 2048 or more than 8192 bits")]
    RsaKeyLength,
    /// A signature algorithm for another kind of key.
    #[error("the signature algorithm is for another kind of key")]
    KeyMismatch,
    /// A key of the wrong length, or more output than prf+ has: a bug of the caller.
    #[error("invalid length")]
    InvalidLength,
    /// All message IVs of a key are used up: the IKE SA had to be rekeyed long before.
    #[error("key exhausted")]
    KeyExhausted,
    /// The message is longer than IKEv2 can express.
    #[error("message too long")]
    MessageTooLong,
    /// The system's random source failed.
    #[error("no randomness")]
    Random,
    /// The provider does not have the algorithm.
    #[error("algorithm not supported by the crypto provider")]
    Unsupported,
}
