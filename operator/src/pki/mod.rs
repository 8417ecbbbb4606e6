//! The certificate authority and the credentials of external peers: the only room of the operator that touches key bytes.

pub(crate) mod bundle;
pub(crate) mod ca;
pub(crate) mod profile;
pub(crate) mod psk;
pub(crate) mod sealing;
pub(crate) mod signer;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `sha256:` and the lower-case hex digest of `bytes`: the form of every fingerprint in our API.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    format!("sha256:{}", hex(digest.as_ref()))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Whole seconds since the epoch: X.509 knows nothing finer.
fn unix(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
