//! Who this node is: its key, its certificate, and how the certificates of others are judged.

pub(crate) mod csr;
pub(crate) mod external;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod handshake;
pub(crate) mod host;
pub(crate) mod keystore;
pub(crate) mod leaf;
pub(crate) mod renew;
pub(crate) mod revocation;
pub(crate) mod sealing;
pub(crate) mod signer;
pub(crate) mod trust;
pub(crate) mod verifier;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipsecmesh_ike::PeerId;

use crate::desired::Desired;
use crate::identity::external::ExpectedHost;
use crate::identity::renew::Wanted;
use crate::identity::trust::{BundleError, TrustBundle};
use crate::identity::verifier::{Directory, ExpectedPeer};
use crate::model::{Authority, ExternalAuth, Tunnel};
use crate::source::{Snapshot, convert};

/// The certificate that this node needs; `None` until the API has said who the node is and who issues.
pub(crate) fn wanted(snapshot: &Snapshot, authority: &Authority) -> Result<Option<Wanted>, BundleError> {
    let (Some(own), Some(node)) = (&snapshot.own, &snapshot.node) else {
        return Ok(None);
    };
    let identity = convert::identity(own, authority);
    Ok(Some(Wanted {
        node: own.node.clone(),
        dns_name: identity.dns_name(),
        uri: identity.uri(),
        authority: authority.name.clone(),
        lifetime: authority.lifetime,
        renew_at_percent: authority.renew_at_percent,
        generation: node.certificate_generation,
        pinned: own.keys.clone(),
        trust: Arc::new(TrustBundle::parse(&authority.bundle)?),
    }))
}

/// What the certificates of all desired peers are judged by. A host that knows each peer by a bundle of its own has no
/// authority.
pub(crate) fn directory(
    snapshot: &Snapshot,
    desired: &Desired,
    authority: Option<&Authority>,
) -> Result<Directory, BundleError> {
    let trust = match authority {
        Some(authority) => TrustBundle::parse(&authority.bundle)?
            .with_revocation(snapshot.revocation(&authority_folder(&authority.name))),
        None => TrustBundle::default(),
    };
    let by_name: HashMap<&str, _> = snapshot
        .peers
        .iter()
        .map(|peer| (peer.node.as_str(), peer))
        .collect();
    let expected = |node: &str| {
        let peer = by_name.get(node)?;
        let identity = convert::identity(peer, authority?);
        Some(ExpectedPeer {
            node: peer.node.clone(),
            dns_name: identity.dns_name(),
            uri: identity.uri(),
            keys: peer.keys.clone(),
        })
    };
    let hosts = hosts(snapshot, desired);
    let peers = desired
        .peers
        .iter()
        .filter(|(id, _)| !hosts.contains_key(id))
        .filter_map(|(id, peer)| Some((*id, expected(&peer.node)?)))
        .collect();
    Ok(Directory { trust, peers, hosts })
}

/// Where a host has the files of an authority, in the folder of the manifests.
pub(crate) fn authority_folder(name: &str) -> String {
    format!("certificates/{name}")
}

/// Where a host has the roots of peers, likewise.
pub(crate) fn bundle_folder(name: &str) -> String {
    format!("bundles/{name}")
}

/// The peers that no operator has certified: external ones, and all that a host knows from files.
fn hosts(snapshot: &Snapshot, desired: &Desired) -> HashMap<PeerId, ExpectedHost> {
    let mut hosts = HashMap::new();
    for (id, peer) in &desired.peers {
        let external = snapshot
            .tunnels
            .iter()
            .filter_map(Tunnel::external)
            .find(|external| external.address == peer.node);
        let (trust, keys) = match external.map(|external| &external.auth) {
            Some(ExternalAuth::Certificate { trust_bundle, .. }) => {
                let roots = |name: &(String, String)| match snapshot
                    .bundles
                    .get(name)
                    .map(|pem| TrustBundle::parse(pem))
                {
                    Some(Ok(roots)) => roots.with_revocation(snapshot.revocation(&bundle_folder(&name.0))),
                    // A peer with roots of its own is never judged by the authority's.
                    None => TrustBundle::default(),
                    Some(Err(error)) => {
                        tracing::error!(peer = peer.node, %error, "no certificate of the peer is accepted");
                        TrustBundle::default()
                    }
                };
                (trust_bundle.as_ref().map(roots), BTreeSet::new())
            }
            None if snapshot.host => (None, peer.trust.keys.clone()),
            Some(ExternalAuth::Psk) | None => continue,
        };
        let expected = ExpectedHost {
            name: peer.node.clone(),
            identity: peer.config.remote_identity.clone(),
            keys,
            trust,
        };
        hosts.insert(*id, expected);
    }
    hosts
}
