//! Steps of a key exchange that do not depend on the library.

use ipsecmesh_ike::crypto::{CryptoError, Secret, SecureRandom, constant_time_eq};
use zeroize::Zeroizing;

/// Length of private values and shared secrets of X25519 and P-256.
pub(crate) const SCALAR_LENGTH: usize = 32;

/// Prefix of an uncompressed point (SEC 1 §2.3.3), which KE payloads leave out (RFC 5903 §7).
pub(crate) const UNCOMPRESSED: u8 = 0x04;

/// Draws private values until `accept` takes one. P-256 refuses fewer than one in 2^32, so a second refusal in a row
/// means that the random source is broken.
pub(crate) fn draw<T>(
    random: &dyn SecureRandom,
    accept: impl Fn(&[u8; SCALAR_LENGTH]) -> Option<T>,
) -> Result<T, CryptoError> {
    const ATTEMPTS: usize = 4;
    for _ in 0..ATTEMPTS {
        let mut scalar = Zeroizing::new([0; SCALAR_LENGTH]);
        random.fill(scalar.as_mut())?;
        if let Some(accepted) = accept(&scalar) {
            return Ok(accepted);
        }
    }
    Err(CryptoError::Random)
}

/// A shared secret of the full length; all zeros means that the peer's value has a small order (RFC 7748 §6.1).
pub(crate) fn shared_secret(bytes: &[u8]) -> Result<Secret, CryptoError> {
    if bytes.len() != SCALAR_LENGTH || constant_time_eq(bytes, &[0; SCALAR_LENGTH]) {
        return Err(CryptoError::InvalidPublicValue);
    }
    Ok(Secret::from(bytes))
}

/// The point of a KE payload with the prefix that libraries want.
pub(crate) fn p256_public(value: &[u8]) -> Result<[u8; 65], CryptoError> {
    let coordinates: &[u8; 64] = value.try_into().map_err(|_| CryptoError::InvalidPublicValue)?;
    let mut point = [UNCOMPRESSED; 65];
    for (to, from) in point.iter_mut().skip(1).zip(coordinates) {
        *to = *from;
    }
    Ok(point)
}
