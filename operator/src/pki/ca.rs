//! The certificate authority's key and certificate: made once, kept in a Secret, used to issue the nodes' leaves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_cert::der::{DecodePem as _, Encode as _};
use zeroize::Zeroizing;

use super::profile::{self, NodeProfile};
use super::{fingerprint, hex};

/// The Secret's key that holds the root certificate.
const CERTIFICATE: &str = "ca.crt";
/// The Secret's key that holds the private key.
const PRIVATE_KEY: &str = "ca.key";

/// Why there is no usable authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    /// A key of the Secret is absent or empty although the other one is there.
    #[error(
        "the Secret holds only a part of the authority: {0} is missing; restore it, or empty the Secret to start anew"
    )]
    Missing(&'static str),
    /// A key of the Secret does not parse; the cause is not shown because it may quote key bytes.
    #[error("{0} in the Secret is not valid PEM of the expected kind")]
    Malformed(&'static str),
    /// Certificate and key do not belong together.
    #[error("ca.crt and ca.key in the Secret do not belong together")]
    Mismatch,
    /// The root is past its end.
    #[error("the root certificate expired")]
    Expired,
    /// Building or signing failed.
    #[error("cannot build the certificate: {0}")]
    Build(#[from] rcgen::Error),
}

/// A root certificate with its key, ready to issue.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    fingerprint: String,
    not_after: SystemTime,
}

/// A certificate as it was issued.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The certificate alone, PEM; peers hold the root already.
    pub(crate) pem: String,
    /// The serial number in hex.
    pub(crate) serial: String,
    /// The end of its validity.
    pub(crate) not_after: SystemTime,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("fingerprint", &self.fingerprint)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new root with a new ECDSA P-256 key; gives it and the Secret's data that keeps it.
    pub(crate) fn generate(
        trust_domain: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(Self, BTreeMap<String, ByteString>), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let certificate = profile::root(trust_domain, now, lifetime)?.self_signed(&key)?;
        let pem = certificate.pem();
        let data = BTreeMap::from([
            (CERTIFICATE.to_owned(), ByteString(pem.clone().into_bytes())),
            (PRIVATE_KEY.to_owned(), ByteString(key_pem.as_bytes().to_vec())),
        ]);
        Ok((Self::assemble(&pem, key, now)?, data))
    }

    /// Reads the authority from its Secret; `None` when the Secret is still empty.
    pub(crate) fn load(secret: &Secret, now: SystemTime) -> Result<Option<Self>, CaError> {
        let entry = |name: &str| {
            secret
                .data
                .as_ref()?
                .get(name)
                .filter(|value| !value.0.is_empty())
        };
        let (certificate, key) = match (entry(CERTIFICATE), entry(PRIVATE_KEY)) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(CaError::Missing(PRIVATE_KEY)),
            (None, Some(_)) => return Err(CaError::Missing(CERTIFICATE)),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let pem = std::str::from_utf8(&certificate.0).map_err(|_e| CaError::Malformed(CERTIFICATE))?;
        let key_pem = std::str::from_utf8(&key.0).map_err(|_e| CaError::Malformed(PRIVATE_KEY))?;
        let key = KeyPair::from_pem(key_pem).map_err(|_e| CaError::Malformed(PRIVATE_KEY))?;
        Self::assemble(pem, key, now).map(Some)
    }

    /// Issues a leaf for `profile`, valid for `lifetime` but not beyond the root.
    pub(crate) fn issue(
        &self,
        profile: &NodeProfile,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if self.not_after <= now {
            return Err(CaError::Expired);
        }
        let not_after = (now + lifetime).min(self.not_after);
        let (params, key) = profile::leaf(profile, now, not_after)?;
        let serial = params
            .serial_number
            .as_ref()
            .map(|serial| hex(&serial.to_bytes()))
            .unwrap_or_default();
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            pem: certificate.pem(),
            serial,
            not_after,
        })
    }

    /// The root certificate, PEM: public.
    pub(crate) fn bundle(&self) -> &str {
        &self.pem
    }

    /// The root certificate's fingerprint.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The end of the root's validity.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn assemble(pem: &str, key: KeyPair, now: SystemTime) -> Result<Self, CaError> {
        let certificate =
            x509_cert::Certificate::from_pem(pem).map_err(|_e| CaError::Malformed(CERTIFICATE))?;
        let der = certificate
            .to_der()
            .map_err(|_e| CaError::Malformed(CERTIFICATE))?;
        let tbs = certificate.tbs_certificate();
        if tbs.subject_public_key_info().subject_public_key.raw_bytes() != key.public_key_raw() {
            return Err(CaError::Mismatch);
        }
        let not_after = UNIX_EPOCH + tbs.validity().not_after.to_unix_duration();
        if not_after <= now {
            return Err(CaError::Expired);
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der.as_slice().into(), key)?,
            pem: pem.to_owned(),
            fingerprint: fingerprint(&der),
            not_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_hours(8760);

    fn secret(data: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    #[test]
    fn an_authority_survives_its_secret() {
        let now = SystemTime::now();
        let (made, data) = CertificateAuthority::generate("example.test", YEAR, now).expect("generate");
        let loaded = CertificateAuthority::load(&secret(data), now)
            .expect("load")
            .expect("not empty");
        assert_eq!(loaded.fingerprint(), made.fingerprint());
        assert_eq!(loaded.bundle(), made.bundle());
        let left = loaded.not_after().duration_since(now).expect("in the future");
        assert!(left <= YEAR && left + Duration::from_secs(2) > YEAR, "{left:?}");
    }

    #[test]
    fn an_empty_secret_is_no_error_and_a_broken_one_is_precise() {
        let now = SystemTime::now();
        assert!(
            CertificateAuthority::load(&Secret::default(), now)
                .expect("empty")
                .is_none()
        );
        let (_, data) = CertificateAuthority::generate("example.test", YEAR, now).expect("generate");
        let (_, other) = CertificateAuthority::generate("example.test", YEAR, now).expect("generate");
        let mut half = data.clone();
        half.remove(PRIVATE_KEY);
        let mut swapped = data.clone();
        swapped.insert(PRIVATE_KEY.to_owned(), other[PRIVATE_KEY].clone());
        let mut garbage = data.clone();
        garbage.insert(PRIVATE_KEY.to_owned(), ByteString(b"-----BEGIN secret".to_vec()));
        let cases = [
            (half, now, "ca.key is missing"),
            (swapped, now, "do not belong together"),
            (garbage, now, "ca.key in the Secret is not valid PEM"),
            (data, now + 2 * YEAR, "expired"),
        ];
        for (data, now, expected) in cases {
            let error = CertificateAuthority::load(&secret(data), now)
                .expect_err(expected)
                .to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("BEGIN"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let (made, data) =
            CertificateAuthority::generate("example.test", YEAR, SystemTime::now()).expect("generate");
        let key = std::str::from_utf8(&data[PRIVATE_KEY].0)
            .expect("PEM")
            .lines()
            .nth(1)
            .expect("a line")
            .to_owned();
        assert!(!format!("{made:?}").contains(&key));
    }
}
