//! The trust anchors of an authority, parsed once from its PEM bundle.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha1::{Digest as _, Sha1};
use std::sync::Arc;
use std::time::Duration;
use x509_cert::der::{Decode as _, Encode as _};

use crate::identity::leaf::fingerprint;
use crate::identity::revocation::Revocation;

/// id-kp-ipsecIKE (RFC 4945 §5.1.3.12): 1.3.6.1.5.5.7.3.17.
const EKU_IPSEC_IKE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x11];

/// anyExtendedKeyUsage (RFC 5280 §4.2.1.12): 2.5.29.37.0.
const EKU_ANY: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// Trust anchors in the form that each user needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrustBundle {
    anchors: Vec<TrustAnchor<'static>>,
    fingerprints: Vec<String>,
    key_hashes: Vec<[u8; 20]>,
    revocation: Option<Arc<Revocation>>,
}

/// Why a chain is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChainError {
    /// It does not lead to an anchor, or not at this time, or is not meant for IKE.
    Path(webpki::Error),
    /// A certificate of it is revoked, or nobody knows whether it is; the text is for people.
    Revoked(String),
}

/// The bundle cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authority's bundle {0}")]
pub(crate) struct BundleError(String);

impl TrustBundle {
    /// Parses the certificates in `pem`.
    pub(crate) fn parse(pem: &str) -> Result<Self, BundleError> {
        let mut bundle = Self::default();
        for (number, item) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
            let at = |reason: &dyn std::fmt::Display| {
                BundleError(format!(
                    "has a certificate (number {}) that does not parse: {reason}",
                    number + 1
                ))
            };
            let der = item.map_err(|e| at(&e))?;
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|e| at(&e))?
                .to_owned();
            let spki = x509_cert::Certificate::from_der(&der)
                .and_then(|parsed| parsed.tbs_certificate().subject_public_key_info().to_der())
                .map_err(|e| at(&e))?;
            bundle.anchors.push(anchor);
            bundle.fingerprints.push(fingerprint(&der));
            bundle.key_hashes.push(Sha1::digest(&spki).into());
        }
        if bundle.anchors.is_empty() {
            return Err(BundleError("holds no certificate".to_owned()));
        }
        Ok(bundle)
    }

    /// The same anchors, with what is known about certificates that were taken back.
    pub(crate) fn with_revocation(self, revocation: Option<Arc<Revocation>>) -> Self {
        Self { revocation, ..self }
    }

    /// Which certificate of a chain was taken back.
    pub(crate) fn revoked(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        match self.revocation.as_deref()? {
            Revocation::Lists(lists) => lists.revoked(chain),
            Revocation::Unreadable(_) => None,
        }
    }

    /// SHA-1 of each anchor's SubjectPublicKeyInfo (RFC 7296 §3.7).
    pub(crate) fn key_hashes(&self) -> &[[u8; 20]] {
        &self.key_hashes
    }

    /// Checks that `chain` (leaf first) leads to an anchor, is valid at `at` and is meant for IKE; names the anchor by
    /// its fingerprint.
    pub(crate) fn check_chain(&self, chain: &[CertificateDer<'_>], at: u64) -> Result<&str, webpki::Error> {
        self.check(chain, at, webpki::KeyUsage::required(EKU_IPSEC_IKE))
    }

    /// The same for a chain that no operator has issued: a certificate without extended key usage, or with "any", is meant
    /// for IKE, too (RFC 4945 §5.1.3.12).
    pub(crate) fn check_foreign_chain(
        &self,
        chain: &[CertificateDer<'_>],
        at: u64,
    ) -> Result<&str, ChainError> {
        if let Some(Revocation::Unreadable(problem)) = self.revocation.as_deref() {
            return Err(ChainError::Revoked(format!(
                "nobody knows whether it is revoked: {problem}"
            )));
        }
        let ike = self.check(chain, at, webpki::KeyUsage::required_if_present(EKU_IPSEC_IKE));
        let checked = match ike {
            Err(error @ webpki::Error::RequiredEkuNotFoundContext(_)) => self
                .check(chain, at, webpki::KeyUsage::required(EKU_ANY))
                .map_err(|_| error),
            other => other,
        };
        checked.map_err(|error| {
            if error != webpki::Error::CertRevoked {
                return ChainError::Path(error);
            }
            let found = self.revoked(chain);
            ChainError::Revoked(
                found.unwrap_or_else(|| "it or a certificate of its chain is revoked".to_owned()),
            )
        })
    }

    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        at: u64,
        usage: webpki::KeyUsage,
    ) -> Result<&str, webpki::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(webpki::Error::UnknownIssuer)?;
        let path = webpki::EndEntityCert::try_from(leaf)?;
        let lists = match self.revocation.as_deref() {
            Some(Revocation::Lists(lists)) => lists.lists(),
            Some(Revocation::Unreadable(_)) | None => Vec::new(),
        };
        // Who has no list is not revoked by one. An overdue list says less than it could, and nothing that is wrong:
        // people are told (`RevocationLists::overdue`), and peers stay connected.
        let revocation = webpki::RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(webpki::RevocationCheckDepth::Chain)
                .with_status_policy(webpki::UnknownStatusPolicy::Allow)
                .with_expiration_policy(webpki::ExpirationPolicy::Ignore)
                .build()
        });
        let verified = path.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            usage,
            revocation,
            None,
        )?;
        let position = self.anchors.iter().position(|anchor| anchor == verified.anchor());
        position
            .and_then(|index| self.fingerprints.get(index))
            .map(String::as_str)
            .ok_or(webpki::Error::UnknownIssuer)
    }
}
