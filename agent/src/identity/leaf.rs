//! What the agent reads out of a node certificate.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;

/// The fields of a node certificate that decisions rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Serial number in hex.
    pub(crate) serial: String,
    /// Start of validity, seconds since 1970.
    pub(crate) not_before: u64,
    /// End of validity, seconds since 1970.
    pub(crate) not_after: u64,
    /// DNS names of the subjectAltName.
    pub(crate) dns_names: Vec<String>,
    /// URIs of the subjectAltName.
    pub(crate) uris: Vec<String>,
    /// SubjectPublicKeyInfo in DER.
    pub(crate) spki: Vec<u8>,
}

/// The certificate does not parse.
#[derive(Debug, thiserror::Error)]
#[error("the certificate does not parse: {0}")]
pub(crate) struct LeafError(String);

impl Leaf {
    /// Reads `certificate`, without judging it.
    pub(crate) fn parse(certificate: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let parsed =
            x509_cert::Certificate::from_der(certificate.as_ref()).map_err(|e| LeafError(e.to_string()))?;
        let names = webpki::EndEntityCert::try_from(certificate).map_err(|e| LeafError(e.to_string()))?;
        let body = parsed.tbs_certificate();
        Ok(Self {
            serial: hex(body.serial_number().as_bytes()),
            not_before: body.validity().not_before.to_unix_duration().as_secs(),
            not_after: body.validity().not_after.to_unix_duration().as_secs(),
            dns_names: names.valid_dns_names().map(str::to_owned).collect(),
            uris: names.valid_uri_names().map(str::to_owned).collect(),
            spki: names.subject_public_key_info().as_ref().to_vec(),
        })
    }

    /// Fingerprint of the public key, as `IPsecPeer.spec.keys` holds it.
    pub(crate) fn key_fingerprint(&self) -> String {
        fingerprint(&self.spki)
    }
}

/// A time as people read it.
pub(crate) fn date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}

/// `sha256:` and the digest of `der` in hex.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(der)))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
