//! The one type that key material lives in.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::output::SaKey;

/// Key material: wiped when dropped, never shown, compared in constant time only. Not `Clone`, so that there is one
/// copy to wipe.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, for a primitive.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Comparison whose time does not depend on the content.
    pub fn constant_time_eq(&self, other: &[u8]) -> bool {
        constant_time_eq(&self.0, other)
    }

    pub(super) fn into_sa_key(self) -> SaKey {
        SaKey(self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

/// Comparison of MACs and cookies whose time does not depend on the content.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
