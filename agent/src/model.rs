//! The objects of the API as the agent works with them: parsed once, so that nothing behind this point can meet a bad
//! address, an unknown algorithm or a missing default. [`crate::source::convert`] makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crds::IPsecNodeStatus;
use ipsecmesh_crds::node::SealedCredential;
use ipsecmesh_crds::phase::Phase;
use ipsecmesh_dataplane::Prefix;
use ipsecmesh_ike::{
    BootId, ChildProposal, Encapsulation, Identity, IkeProposal, Lifetime, Liveness, Mode, SaProtocol,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// One encapsulation that carries pod traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// IP protocol.
    pub(crate) protocol: u8,
    /// Destination port, for protocols that have ports.
    pub(crate) port: Option<u16>,
}

impl Overlay {
    /// No encapsulation at all: every protocol between the pod networks of two nodes (`traffic.type: PodNetwork`).
    pub(crate) const POD_NETWORK: Self = Self {
        protocol: 0,
        port: None,
    };
}

/// One entry of `IPsecTunnel.status.effectiveOverlay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverlayEntry {
    /// What is selected.
    pub(crate) overlay: Overlay,
    /// Its own phase while an edit adds or removes it.
    pub(crate) phase: Option<Phase>,
}

/// `IPsecTunnel.status.rollout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// Counts the runs through the phases.
    pub(crate) generation: i64,
    /// Where the tunnel stands.
    pub(crate) phase: Phase,
}

/// Who starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Eager in small meshes, on demand in large ones (decision 4).
    Auto,
    /// At programming time.
    Eager,
    /// When traffic comes.
    OnDemand,
}

/// Who is at the far side of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// Nodes of the directory.
    Nodes,
    /// A host that is in no directory.
    External(Box<External>),
}

/// A host that is in no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// IP address or DNS name.
    pub(crate) address: String,
    /// The identity that it must prove; its address where absent.
    pub(crate) identity: Option<Identity>,
    /// The identity that this host shows; its own name where absent.
    pub(crate) local_identity: Option<Identity>,
    /// How both prove themselves.
    pub(crate) auth: ExternalAuth,
    /// The post-quantum preshared key besides that: its name, and whether it is a must. The key is found under the
    /// tunnel's name.
    pub(crate) ppk: Option<(String, bool)>,
    /// What is protected: one CHILD SA each.
    pub(crate) selectors: Vec<PacketSelector>,
    /// What stays in clear all the same.
    pub(crate) bypass: Vec<PacketSelector>,
}

/// How this host and an external peer prove themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExternalAuth {
    /// Certificates: this host's of an authority, the peer's of that authority or of a bundle of its own.
    Certificate {
        /// Name of the authority.
        authority: String,
        /// The peer's roots, where they are others: (name, key).
        trust_bundle: Option<(String, String)>,
    },
    /// A pre-shared key, found under the tunnel's name.
    Psk,
}

/// Packets, seen from this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PacketSelector {
    /// IP protocol; 0 is any.
    pub(crate) protocol: u8,
    /// Port on this side; `None` is any.
    pub(crate) local_port: Option<u16>,
    /// Port on the far side; `None` is any.
    pub(crate) remote_port: Option<u16>,
    /// Addresses behind this host; `None` is its own.
    pub(crate) local: Option<Prefix>,
    /// Addresses behind the peer; `None` is its own.
    pub(crate) remote: Option<Prefix>,
}

/// A pre-shared key in both generations; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Psk {
    /// Used to prove this host, and accepted.
    pub(crate) current: Zeroizing<Vec<u8>>,
    /// Accepted while the peer may still use it.
    pub(crate) previous: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(redacted)")
    }
}

/// The two ends of a pair of hosts as the host's routes have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Address of this host.
    pub(crate) local: IpAddr,
    /// Address of the peer.
    pub(crate) remote: IpAddr,
}

/// What became of each external address.
pub(crate) type Resolved = BTreeMap<String, Result<Ends, String>>;

/// A tunnel between nodes, or between this host and an external peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Its name.
    pub(crate) name: String,
    /// Its UID: a tunnel made anew under the same name is another one.
    pub(crate) uid: String,
    /// Its place in the order of overlaps: 0 is the highest rank.
    pub(crate) order: usize,
    /// Rank of its policies before the width of the selector counts: 0 wins.
    pub(crate) policy_rank: u16,
    /// Nothing of it is changed.
    pub(crate) suspended: bool,
    /// Where it stands, once the controller has accepted it.
    pub(crate) rollout: Option<Rollout>,
    /// Who is at the far side.
    pub(crate) remote: Remote,
    /// What is selected between two nodes.
    pub(crate) overlay: Vec<OverlayEntry>,
    /// Cleartext is never an alternative.
    pub(crate) block: bool,
    /// Transport or tunnel.
    pub(crate) mode: Mode,
    /// ESP or AH.
    pub(crate) protocol: SaProtocol,
    /// Who starts.
    pub(crate) start: Start,
    /// ESP in UDP.
    pub(crate) encapsulation: Encapsulation,
    /// Proposals of the IKE SA.
    pub(crate) ike_proposals: Vec<IkeProposal>,
    /// Lifetime of the IKE SA.
    pub(crate) ike_lifetime: Duration,
    /// Liveness checks.
    pub(crate) liveness: Liveness,
    /// Proposals of the CHILD SA.
    pub(crate) child_proposals: Vec<ChildProposal>,
    /// Hard limits of a CHILD SA.
    pub(crate) lifetime: Lifetime,
    /// Distance of the soft limits.
    pub(crate) rekey_margin_percent: u8,
    /// Extended sequence numbers.
    pub(crate) esn: bool,
    /// Anti-replay window.
    pub(crate) replay_window: u32,
}

impl Tunnel {
    /// The far side, when it is no node.
    pub(crate) const fn external(&self) -> Option<&External> {
        match &self.remote {
            Remote::External(external) => Some(external),
            Remote::Nodes => None,
        }
    }

    /// Whether its SAs can be negotiated: it has proposals for both kinds.
    pub(crate) fn is_negotiable(&self) -> bool {
        !self.ike_proposals.is_empty() && !self.child_proposals.is_empty()
    }
}

/// A node's part in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The tunnel's name.
    pub(crate) tunnel: String,
    /// The node is in the local set.
    pub(crate) local: bool,
    /// The node is in the remote set.
    pub(crate) remote: bool,
    /// Its own phase while an edit adds or removes it.
    pub(crate) phase: Option<Phase>,
}

impl Membership {
    /// Whether two nodes with these parts in one tunnel make a pair of it.
    pub(crate) const fn pairs_with(&self, other: &Self) -> bool {
        (self.local && other.remote) || (other.local && self.remote)
    }
}

/// A node in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The Node's name.
    pub(crate) node: String,
    /// The Node's UID.
    pub(crate) uid: String,
    /// The boot that it runs under.
    pub(crate) boot: Option<BootId>,
    /// Its IKE identity.
    pub(crate) identity: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its pod networks.
    pub(crate) pods: Vec<Prefix>,
    /// Fingerprints of its keys.
    pub(crate) keys: BTreeSet<String>,
    /// Its part in tunnels.
    pub(crate) memberships: Vec<Membership>,
}

impl Peer {
    /// Its part in `tunnel`.
    pub(crate) fn membership(&self, tunnel: &str) -> Option<&Membership> {
        self.memberships
            .iter()
            .find(|membership| membership.tunnel == tunnel)
    }

    /// Its first address of the family of `like`: one address per family takes part (decision 28).
    pub(crate) fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

/// The authority as far as this node needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Its name.
    pub(crate) name: String,
    /// Trust domain of the SPIFFE URIs.
    pub(crate) trust_domain: String,
    /// Lifetime of node certificates.
    pub(crate) lifetime: Duration,
    /// Share of the lifetime after which a certificate is renewed.
    pub(crate) renew_at_percent: u64,
    /// Trust anchors in PEM.
    pub(crate) bundle: String,
    /// Hash of the bundle, as the status has it.
    pub(crate) bundle_hash: Option<String>,
}

/// This node's own object.
#[derive(Clone, Debug)]
pub(crate) struct OwnNode {
    /// Its UID as an object, for Events.
    pub(crate) object_uid: String,
    /// UID of the Node.
    pub(crate) node_uid: String,
    /// Generation of its spec.
    pub(crate) generation: i64,
    /// Raised when the certificate is to be renewed.
    pub(crate) certificate_generation: i64,
    /// Credentials that are sealed to it.
    pub(crate) sealed: Vec<SealedCredential>,
    /// What an earlier run, or this one, has reported. It is our own writing: a change of it changes nothing.
    pub(crate) status: Option<Arc<IPsecNodeStatus>>,
}

impl PartialEq for OwnNode {
    fn eq(&self, other: &Self) -> bool {
        let of = |node: &Self| {
            (
                node.object_uid.clone(),
                node.generation,
                node.certificate_generation,
            )
        };
        of(self) == of(other)
    }
}

impl Eq for OwnNode {}
