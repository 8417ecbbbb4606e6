//! Where the desired state comes from. What is behind this door knows Kubernetes; what is in front of it knows only
//! [`crate::model`].

pub(crate) mod convert;
pub(crate) mod kube;
pub(crate) mod manifests;
pub(crate) mod resolve;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::revocation::Revocation;
use crate::model::{Authority, OwnNode, Peer, Psk, Tunnel};

/// Everything that the API says to this node, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every kind was listed once. Before that nothing may be concluded from what is missing.
    pub(crate) synced: bool,
    /// Tunnels in the order of overlaps: the first wins.
    pub(crate) tunnels: Vec<Tunnel>,
    /// All other nodes of the directory, by name.
    pub(crate) peers: Vec<Peer>,
    /// This node in the directory.
    pub(crate) own: Option<Peer>,
    /// This node's private channel.
    pub(crate) node: Option<OwnNode>,
    /// Authorities by name.
    pub(crate) authorities: BTreeMap<String, Authority>,
    /// Pre-shared keys, by the name of the tunnel.
    pub(crate) psks: BTreeMap<String, Psk>,
    /// Post-quantum preshared keys, by the name of the tunnel.
    pub(crate) ppks: BTreeMap<String, Psk>,
    /// Roots of external peers in PEM, by name and key.
    pub(crate) bundles: BTreeMap<(String, String), String>,
    /// What is known about certificates that were taken back, by the folder of the roots.
    pub(crate) revocations: BTreeMap<String, Arc<Revocation>>,
    /// The objects are a host's own files: nobody has certified their peers or pinned their keys.
    pub(crate) host: bool,
    /// Objects that cannot be used, with the reason.
    pub(crate) refused: BTreeMap<String, String>,
}

impl Snapshot {
    /// What is known about the certificates that the authorities of a folder have taken back.
    pub(crate) fn revocation(&self, folder: &str) -> Option<Arc<Revocation>> {
        self.revocations.get(folder).cloned()
    }

    /// The authority `name`; on a host, where its certificate comes from whatever authority its files name, that one.
    pub(crate) fn authority(&self, name: &str) -> Option<&Authority> {
        let first = || self.authorities.values().next().filter(|_| self.host);
        self.authorities.get(name).or_else(first)
    }
}
