//! Judges the certificates of peers: chain, validity, usage, both names and the pinned key (decisions 3, 23).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ipsecmesh_ike::{CertificateError, CertificateVerifier, Identity, PeerId, WallTime};
use rustls_pki_types::CertificateDer;

use crate::identity::external::ExpectedHost;
use crate::identity::leaf::Leaf;
use crate::identity::trust::TrustBundle;

/// What the directory says about one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedPeer {
    /// The Node's name, for messages.
    pub(crate) node: String,
    /// The DNS name that the certificate must carry: the peer's IKE identity.
    pub(crate) dns_name: String,
    /// The SPIFFE URI that the certificate must carry; it ends in the Node's UID.
    pub(crate) uri: String,
    /// Fingerprints of the keys that the operator signed.
    pub(crate) keys: BTreeSet<String>,
}

/// Everything that a judgement rests on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    /// Trust anchors.
    pub(crate) trust: TrustBundle,
    /// Peers that may exist; an identity that is not here is refused.
    pub(crate) peers: HashMap<PeerId, ExpectedPeer>,
    /// Peers whose certificates nobody here has issued.
    pub(crate) hosts: HashMap<PeerId, ExpectedHost>,
}

/// The verifier of the engine. The directory is exchanged as a whole while exchanges run.
#[derive(Debug, Default)]
pub(crate) struct DirectoryVerifier {
    directory: RwLock<Arc<Directory>>,
    /// The chains of hosts that were accepted last, to be looked at again when their authority revokes some.
    accepted: Mutex<HashMap<PeerId, Vec<CertificateDer<'static>>>>,
}

impl DirectoryVerifier {
    /// Judges by `directory` from now on. Says which peers were accepted before with a certificate that is revoked now.
    pub(crate) fn replace(&self, directory: Directory) -> Vec<(PeerId, String)> {
        let directory = Arc::new(directory);
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&directory);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut revoked = Vec::new();
        accepted.retain(|peer, chain| {
            let Some(host) = directory.hosts.get(peer) else {
                return false;
            };
            let found = host.trust.as_ref().unwrap_or(&directory.trust).revoked(chain);
            let kept = found.is_none();
            revoked.extend(found.map(|reason| (*peer, reason)));
            kept
        });
        revoked
    }

    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CertificateVerifier for DirectoryVerifier {
    fn verify(
        &self,
        peer: PeerId,
        identity: &Identity,
        chain: &[&[u8]],
        at: WallTime,
    ) -> Result<Vec<u8>, CertificateError> {
        let directory = self.directory();
        let certificates = || {
            chain
                .iter()
                .map(|der| CertificateDer::from(*der))
                .collect::<Vec<_>>()
        };
        if let Some(host) = directory.hosts.get(&peer) {
            let chain = certificates();
            let key = host
                .judge(&directory.trust, identity, &chain, at)
                .map_err(|reason| CertificateError(format!("certificate of {}: {reason}", host.name)))?;
            let chain = chain.into_iter().map(CertificateDer::into_owned).collect();
            self.accepted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(peer, chain);
            return Ok(key);
        }
        let expected = directory.peers.get(&peer).ok_or_else(|| {
            CertificateError("the directory has no IPsecPeer for this identity: it is refused".to_owned())
        })?;
        judge(&directory.trust, expected, identity, &certificates(), at)
            .map_err(|reason| CertificateError(format!("certificate of node {}: {reason}", expected.node)))
    }

    fn authorities(&self, peer: PeerId) -> Vec<[u8; 20]> {
        let directory = self.directory();
        let own = directory.hosts.get(&peer).and_then(|host| host.trust.as_ref());
        own.unwrap_or(&directory.trust).key_hashes().to_vec()
    }
}

fn judge(
    trust: &TrustBundle,
    expected: &ExpectedPeer,
    identity: &Identity,
    chain: &[CertificateDer<'_>],
    at: WallTime,
) -> Result<Vec<u8>, String> {
    let certificate = chain.first().ok_or("the peer sent no certificate")?;
    let leaf = Leaf::parse(certificate).map_err(|e| e.to_string())?;
    trust
        .check_chain(chain, at.0)
        .map_err(|e| describe(&e, &leaf, at))?;
    if !matches!(identity, Identity::Fqdn(name) if name.eq_ignore_ascii_case(&expected.dns_name)) {
        return Err(format!(
            "the peer claims {identity:?}, the directory binds {} to it",
            expected.dns_name
        ));
    }
    if !leaf
        .dns_names
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&expected.dns_name))
    {
        return Err(format!(
            "its DNS names are {:?}, expected {}: another node's certificate",
            leaf.dns_names, expected.dns_name
        ));
    }
    if !leaf.uris.contains(&expected.uri) {
        return Err(format!(
            "its URIs are {:?}, expected {}: the Node was made anew or belongs to another cluster; renew its certificate",
            leaf.uris, expected.uri
        ));
    }
    let key = leaf.key_fingerprint();
    if !expected.keys.contains(&key) {
        return Err(format!(
            "its key {key} is not among those pinned in IPsecPeer.spec.keys {:?}: revoked, or not published yet",
            expected.keys
        ));
    }
    Ok(leaf.spki)
}

/// One sentence for people: what is wrong, and what to do.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "dozens of ways to be malformed, which name themselves"
)]
fn describe(error: &webpki::Error, leaf: &Leaf, at: WallTime) -> String {
    match error {
        webpki::Error::CertExpired { .. } => format!(
            "it expired {} s ago (notAfter {}): the node has to renew it, see its IPsecNode",
            at.0.saturating_sub(leaf.not_after),
            leaf.not_after
        ),
        webpki::Error::CertNotValidYet { .. } => format!(
            "it becomes valid in {} s (notBefore {}): compare the clocks of both nodes",
            leaf.not_before.saturating_sub(at.0),
            leaf.not_before
        ),
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage lacks id-kp-ipsecIKE (1.3.6.1.5.5.7.3.17)".to_owned()
        }
        // The second is a root of the same name with another key: one that was made anew, or somebody else's.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            "it was not issued by a certificate in IPsecAuthority.status.bundle: compare certificate.issuer in the \
             status of both IPsecNodes"
                .to_owned()
        }
        other => format!("the chain does not verify: {other}"),
    }
}

#[cfg(test)]
mod tests;
