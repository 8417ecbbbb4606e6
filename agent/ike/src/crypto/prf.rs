//! Output lengths of the PRFs, and prf+ (RFC 7296 §2.13).

use zeroize::Zeroizing;

use super::error::CryptoError;
use super::provider::KeyedPrf;
use super::secret::Secret;
use crate::config::Prf;

impl Prf {
    /// Length of the output, which is also the length of the keys that are derived for it (RFC 7296 §2.14).
    pub fn output_length(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

/// The first `length` bytes of
///
/// ```text
/// prf+ (K,S) = T1 | T2 | T3 | T4 | ...
/// T1 = prf (K, S | 0x01)
/// Tn = prf (K, T(n-1) | S | n)
/// ```
///
/// where `K` is `key` and `S` is `seed`. The counter is one byte and begins at 1: more than 255 blocks do not exist.
pub fn prf_plus(key: &dyn KeyedPrf, seed: &[&[u8]], length: usize) -> Result<Secret, CryptoError> {
    let mut output = Zeroizing::new(Vec::with_capacity(length + 64));
    let mut previous = Secret::from(&[][..]);
    for counter in 1..=u8::MAX {
        if output.len() >= length {
            break;
        }
        let counter = [counter];
        let parts: Vec<&[u8]> = [previous.expose()]
            .into_iter()
            .chain(seed.iter().copied())
            .chain([&counter[..]])
            .collect();
        let block = key.apply(&parts);
        output.extend_from_slice(block.expose());
        previous = block;
    }
    if output.len() < length {
        return Err(CryptoError::InvalidLength);
    }
    output.truncate(length);
    Ok(Secret::new(output))
}
