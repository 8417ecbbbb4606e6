//! `IPsecTunnel`: which traffic between which nodes is protected, and how.

pub mod auth;
pub mod protection;
pub mod remote;
pub mod status;
pub mod traffic;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    auth::{Auth, AuthType, AuthorityRef, CertificateAuth, PpkAuth, PskAuth, SecretKeyRef, TrustBundleRef},
    protection::{
        ChildSa, ChildSaLifetime, DeadPeerDetection, DpdAction, Encapsulation, Ike, Initiation, Mode,
        Protocol,
    },
    remote::{External, IdentityType, NodesRemote, PeerIdentity, Remote, RemoteType},
    status::{
        EffectiveOverlay, EffectiveProposals, FailingPair, IPsecTunnelStatus, NodeCounts, PairCounts,
        Rollout, TrustBundle, TunnelSummary,
    },
    traffic::{OverlayEntry, Selector, Traffic, TrafficType},
};
use crate::{
    schema::label_selector,
    suite::{ChildProposal, IkeProposal, Suite},
};

/// What is protected between which nodes, and how. An empty spec is a full mesh of all Linux nodes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ipsecmesh.io",
    version = "v1alpha1",
    kind = "IPsecTunnel",
    plural = "ipsectunnels",
    shortname = "itun",
    category = "ipsec",
    doc = "IPsecTunnel protects traffic between nodes, or between nodes and an external peer, with IPsec. `spec: {}` is a full mesh of all Linux nodes.",
    status = "IPsecTunnelStatus",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.mode",
    selectable = ".spec.remote.type",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Remote", type_ = "string", json_path = ".spec.remote.type"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.failurePolicy"),
    printcolumn(name = "Enforcement", type_ = "string", json_path = ".status.enforcement"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes"),
    printcolumn(name = "Failing", type_ = "integer", json_path = ".status.pairs.failing"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.protocol != 'AH' || self.childSA.encapsulation != 'Always'")
        .message("protocol AH cannot be UDP-encapsulated: set childSA.encapsulation to Never or use ESP")
        .field_path(".childSA.encapsulation"),
    validation = Rule::new("!has(self.childSA.proposals) || self.childSA.proposals.all(p, has(p.encryption) == (self.protocol == 'ESP'))")
        .message("childSA.proposals[].encryption is required with protocol ESP and forbidden with protocol AH")
        .field_path(".childSA.proposals"),
    validation = Rule::new("self.traffic.type != 'PodNetwork' || self.mode == 'Tunnel'")
        .message("traffic.type PodNetwork requires mode Tunnel: pod addresses are on the wire and must be hidden inside ESP")
        .field_path(".mode"),
    validation = Rule::new("self.mode == 'Tunnel' || !has(self.traffic.selectors) || self.traffic.selectors.all(s, !has(s.localCIDR) && !has(s.remoteCIDR))")
        .message("localCIDR/remoteCIDR in traffic.selectors require mode Tunnel")
        .field_path(".traffic.selectors"),
    validation = Rule::new("self.remote.type == 'Nodes' || self.traffic.type == 'Custom' || self.traffic.type == 'Host'")
        .message("traffic.type must be Host or Custom when remote.type is External")
        .field_path(".traffic.type"),
    validation = Rule::new("!has(self.auth.ppk) || self.remote.type == 'External'")
        .message("auth.ppk requires remote.type External: nodes of the mesh have ML-KEM instead")
        .field_path(".auth.ppk"),
    validation = Rule::new("!has(self.suite) || (!has(self.ike.proposals) && !has(self.childSA.proposals))")
        .message("suite and explicit proposals are mutually exclusive")
        .field_path(".suite"),
    validation = Rule::new("duration(self.childSA.lifetime.time) <= duration(self.ike.lifetime)")
        .message("childSA.lifetime.time must not exceed ike.lifetime")
        .field_path(".childSA.lifetime.time")
)]
pub struct IPsecTunnelSpec {
    /// Stops reconciling this tunnel; the data plane stays as it is.
    #[serde(default)]
    pub suspend: bool,
    /// The higher priority wins where tunnels overlap.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: u16,
    /// While true, deleting the tunnel and edits that weaken it are refused.
    #[serde(default)]
    pub deletion_protection: bool,
    /// The near side: nodes of this cluster.
    #[serde(default)]
    pub local: Local,
    /// The far side: nodes of this cluster, or an external peer.
    #[serde(default)]
    pub remote: Remote,
    /// Which traffic between the two sides is protected.
    #[serde(default)]
    pub traffic: Traffic,
    /// Transport protects packets between the hosts; Tunnel hides inner addresses.
    #[serde(default)]
    pub mode: Mode,
    /// ESP encrypts; AH gives integrity only.
    #[serde(default)]
    pub protocol: Protocol,
    /// A named set of algorithms, instead of explicit proposals. Default where neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<Suite>,
    /// The IKE SA.
    #[serde(default)]
    pub ike: Ike,
    /// The CHILD SAs, which carry the traffic.
    #[serde(default, rename = "childSA")]
    pub child_sa: ChildSa,
    /// How the peers prove who they are.
    #[serde(default)]
    pub auth: Auth,
    /// Block: never cleartext once enforcing. Allow: cleartext where there is no SA, and both are accepted.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Gated: each phase waits for all ready nodes. Immediate: the same order without the waiting.
    #[serde(default)]
    pub rollout: RolloutMode,
}

impl IPsecTunnelSpec {
    /// The suite in force; `None` where both kinds of proposals are explicit.
    pub fn effective_suite(&self) -> Option<Suite> {
        let explicit = !self.ike.proposals.is_empty() && !self.child_sa.proposals.is_empty();
        (!explicit).then(|| self.suite.unwrap_or_default())
    }

    /// The proposals for IKE SAs that are in force.
    pub fn effective_ike_proposals(&self) -> Vec<IkeProposal> {
        match self.ike.proposals.as_slice() {
            [] => self.suite.unwrap_or_default().ike(),
            explicit => explicit.to_vec(),
        }
    }

    /// The proposals for CHILD SAs that are in force.
    pub fn effective_child_proposals(&self) -> Vec<ChildProposal> {
        match self.child_sa.proposals.as_slice() {
            [] => self.suite.unwrap_or_default().child_of(self.protocol),
            explicit => explicit.to_vec(),
        }
    }

    /// The selector of the far side's nodes; `None` when the far side is external.
    pub fn remote_selector(&self) -> Option<LabelSelector> {
        match self.remote.type_ {
            RemoteType::Nodes => Some(self.remote.nodes.clone().unwrap_or_default().node_selector),
            RemoteType::External => None,
        }
    }
}

impl Default for IPsecTunnelSpec {
    fn default() -> Self {
        Self {
            suspend: false,
            priority: default_priority(),
            deletion_protection: false,
            local: Local::default(),
            remote: Remote::default(),
            traffic: Traffic::default(),
            mode: Mode::default(),
            protocol: Protocol::default(),
            suite: None,
            ike: Ike::default(),
            child_sa: ChildSa::default(),
            auth: Auth::default(),
            failure_policy: FailurePolicy::default(),
            rollout: RolloutMode::default(),
        }
    }
}

/// The near side of a tunnel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Local {
    /// Selects nodes by label; empty selects all. Only Linux nodes count.
    #[serde(default)]
    #[schemars(schema_with = "label_selector")]
    pub node_selector: LabelSelector,
}

/// What happens to selected traffic without an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// It is dropped, once the tunnel enforces.
    #[default]
    Block,
    /// It passes in clear.
    Allow,
}

/// How a tunnel moves through its phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutMode {
    /// Each phase waits until every ready selected node reports the one before.
    #[default]
    Gated,
    /// The same order without waiting.
    Immediate,
}

const fn default_priority() -> u16 {
    100
}
