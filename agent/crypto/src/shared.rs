//! Steps of a key exchange that do not depend on the library.

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{CryptoError, Secret, SecureRandom, constant_time_eq};
use zeroize::Zeroizing;

/// Prefix of an uncompressed point (SEC 1 §2.3.3), which KE payloads leave out (RFC 5903 §7).
const UNCOMPRESSED: u8 = 0x04;

/// Length of private values, which on curves is also that of shared secrets and of coordinates. Exponents of MODP groups
/// are as long as the greater estimate of RFC 3526 §8.
pub(crate) const fn scalar_length(method: KeyExchange) -> usize {
    match method {
        KeyExchange::Ecp256 | KeyExchange::X25519 => 32,
        KeyExchange::Ecp384 => 48,
        KeyExchange::Ecp521 => 66,
        KeyExchange::Modp2048 => 40,
        KeyExchange::Modp3072 => 53,
        KeyExchange::Modp4096 => 60,
    }
}

/// Whether public values are points with two coordinates.
const fn has_points(method: KeyExchange) -> bool {
    match method {
        KeyExchange::Ecp256 | KeyExchange::Ecp384 | KeyExchange::Ecp521 => true,
        KeyExchange::Modp2048 | KeyExchange::Modp3072 | KeyExchange::Modp4096 | KeyExchange::X25519 => false,
    }
}

/// Draws private values until `accept` takes one. The curves refuse fewer than one in 2^32, so a second refusal in a row
/// means that the random source is broken.
pub(crate) fn draw<T>(
    method: KeyExchange,
    random: &dyn SecureRandom,
    accept: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, CryptoError> {
    const ATTEMPTS: usize = 4;
    for _ in 0..ATTEMPTS {
        let mut scalar = Zeroizing::new(vec![0; scalar_length(method)]);
        random.fill(&mut scalar)?;
        if let (KeyExchange::Ecp521, Some(first)) = (method, scalar.first_mut()) {
            // The order of the group has 521 bits.
            *first &= 1;
        }
        if let Some(accepted) = accept(&scalar) {
            return Ok(accepted);
        }
    }
    Err(CryptoError::Random)
}

/// A shared secret of the full length; all zeros means that the peer's value has a small order (RFC 7748 §6.1).
pub(crate) fn shared_secret(bytes: &[u8], length: usize) -> Result<Secret, CryptoError> {
    if bytes.len() != length || constant_time_eq(bytes, &vec![0; length]) {
        return Err(CryptoError::InvalidPublicValue);
    }
    Ok(Secret::from(bytes))
}

/// What a KE payload says, in the form that libraries want: a point gets its prefix.
pub(crate) fn point_of(method: KeyExchange, value: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let points = has_points(method);
    let length = if points {
        2 * scalar_length(method)
    } else {
        scalar_length(method)
    };
    if value.len() != length {
        return Err(CryptoError::InvalidPublicValue);
    }
    let prefix: &[u8] = if points { &[UNCOMPRESSED] } else { &[] };
    Ok([prefix, value].concat())
}

/// The reverse of [`point_of`].
pub(crate) fn public_value_of(method: KeyExchange, point: &[u8]) -> &[u8] {
    if has_points(method) {
        point.strip_prefix(&[UNCOMPRESSED]).unwrap_or_default()
    } else {
        point
    }
}
