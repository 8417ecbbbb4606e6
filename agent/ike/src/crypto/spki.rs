//! P-256 public keys as certificates carry them.

use super::error::CryptoError;

/// A SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480 §2.1): id-ecPublicKey with the named curve
/// secp256r1, then a bit string of 65 bytes without unused bits.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// First byte of a point that is not compressed (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// The point of a DER SubjectPublicKeyInfo, uncompressed. Fails unless it is a P-256 key in its one usual encoding;
/// whether the point lies on the curve is for the provider to check.
pub fn p256_point(spki: &[u8]) -> Result<&[u8; 65], CryptoError> {
    let point = spki
        .strip_prefix(&P256_PREFIX)
        .ok_or(CryptoError::InvalidPublicKey)?;
    let point: &[u8; 65] = point.try_into().map_err(|_| CryptoError::InvalidPublicKey)?;
    match point {
        [UNCOMPRESSED, ..] => Ok(point),
        _ => Err(CryptoError::InvalidPublicKey),
    }
}
