//! Judges the certificates of peers that no cluster has issued: chain, validity, usage and the name that the files expect.

use std::collections::BTreeSet;

use ipsecmesh_ike::{Identity, WallTime};
use rustls_pki_types::CertificateDer;

use crate::identity::leaf::Leaf;
use crate::identity::trust::{ChainError, TrustBundle};

/// What is expected of a peer whose certificate somebody else has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedHost {
    /// The peer's name, for messages.
    pub(crate) name: String,
    /// The identity that its certificate must carry.
    pub(crate) identity: Identity,
    /// Fingerprints of its keys, where they are pinned.
    pub(crate) keys: BTreeSet<String>,
    /// Its roots, where they are not the authority's.
    pub(crate) trust: Option<TrustBundle>,
}

impl ExpectedHost {
    /// The public key of the leaf, or what is wrong and what to do.
    pub(super) fn judge(
        &self,
        authority: &TrustBundle,
        claimed: &Identity,
        chain: &[CertificateDer<'_>],
        at: WallTime,
    ) -> Result<Vec<u8>, String> {
        let certificate = chain.first().ok_or("the peer sent no certificate")?;
        let leaf = Leaf::parse(certificate).map_err(|e| e.to_string())?;
        let trust = self.trust.as_ref().unwrap_or(authority);
        trust
            .check_foreign_chain(chain, at.0)
            .map_err(|error| match error {
                ChainError::Path(error) => describe(&error, &leaf, at),
                ChainError::Revoked(text) => text,
            })?;
        if !leaf.signs {
            return Err(
                "its key usage has neither digitalSignature nor nonRepudiation (RFC 4945 §5.1.3.2): issue one that has, or \
                 one without key usage"
                    .to_owned(),
            );
        }
        if !claimed.matches(&self.identity) {
            return Err(format!(
                "the peer claims {claimed}, spec.remote.external.identity says {}",
                self.identity
            ));
        }
        // The whole subject, byte by byte (RFC 4945 §3.1.5).
        let subject = !matches!(claimed, Identity::Dn(name) if leaf.subject != name.as_der());
        if !subject || !leaf.carries(claimed) {
            return Err(format!(
                "it does not carry {claimed}, only {}: issue one that does, or correct spec.remote.external.identity",
                leaf.identities()
            ));
        }
        let key = leaf.key_fingerprint();
        if !self.keys.is_empty() && !self.keys.contains(&key) {
            return Err(format!(
                "its key {key} is not among those in IPsecPeer.spec.keys {:?}",
                self.keys
            ));
        }
        Ok(leaf.spki)
    }
}

/// One sentence for people.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "dozens of ways to be malformed, which name themselves"
)]
fn describe(error: &webpki::Error, leaf: &Leaf, at: WallTime) -> String {
    match error {
        webpki::Error::CertExpired { .. } => format!(
            "it expired {} s ago: its owner has to renew it",
            at.0.saturating_sub(leaf.not_after)
        ),
        webpki::Error::CertNotValidYet { .. } => format!(
            "it becomes valid in {} s: compare the clocks of both hosts",
            leaf.not_before.saturating_sub(at.0)
        ),
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage has neither id-kp-ipsecIKE (1.3.6.1.5.5.7.3.17) nor anyExtendedKeyUsage".to_owned()
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            "no root here has issued it, or not with the intermediate certificates that came with it: put the peer's roots \
             into certificates/<authority>/ca.crt, or name them with spec.auth.certificate.trustBundleRef"
                .to_owned()
        }
        webpki::Error::InvalidCrlSignatureForPublicKey => {
            "the revocation list (crl.pem) of its authority is not signed by that authority: fetch the right one".to_owned()
        }
        webpki::Error::IssuerNotCrlSigner => {
            "its authority may not sign revocation lists (its key usage lacks cRLSign): take crl.pem away, or issue the \
             authority's certificate anew"
                .to_owned()
        }
        other => format!("the chain does not verify: {other}"),
    }
}

#[cfg(test)]
mod tests;
