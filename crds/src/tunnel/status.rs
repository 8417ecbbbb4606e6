//! What the operator reports about a tunnel, and what agents follow.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::OverlayEntry;
use crate::{
    phase::Phase,
    schema::conditions,
    suite::{ChildProposal, IkeProposal},
};

/// Status of a tunnel; the operator writes all of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IPsecTunnelStatus {
    /// The generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The phase that agents follow; absent until the first one is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The overlay as resolved from the spec or from what agents detected; agents enforce this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub effective_overlay: Vec<EffectiveOverlay>,
    /// One word on what happens to the traffic, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub enforcement: Option<String>,
    /// How many nodes take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// How many pairs of nodes take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairCounts>,
    /// Text for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<TunnelSummary>,
    /// The proposals in force, resolved from the suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_proposals: Option<EffectiveProposals>,
    /// The roots of the external peer, from `auth.certificate.trustBundleRef`; agents judge the peer by these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_bundle: Option<TrustBundle>,
    /// Some of the pairs that fail, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failing_pairs: Vec<FailingPair>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// The phase that agents follow.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Counts the times that this tunnel was started from the first phase.
    #[serde(default)]
    pub generation: i64,
    /// The present phase.
    pub phase: Phase,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// One encapsulation in force.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveOverlay {
    /// IP protocol. 0 is every protocol between the pod networks of the nodes: `traffic.type: PodNetwork`.
    #[schemars(range(max = 255))]
    pub protocol: u8,
    /// Destination port, in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The entry's own phase while an edit adds or removes it; absent follows the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

impl EffectiveOverlay {
    /// The entry without its phase.
    pub const fn entry(&self) -> OverlayEntry {
        OverlayEntry {
            protocol: self.protocol,
            port: self.port,
        }
    }
}

impl From<OverlayEntry> for EffectiveOverlay {
    fn from(entry: OverlayEntry) -> Self {
        Self {
            protocol: entry.protocol,
            port: entry.port,
            phase: None,
        }
    }
}

/// Counts of nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that the selectors choose and that are ready.
    #[serde(default)]
    pub selected: u32,
    /// Those of them whose agent reports every policy in place.
    #[serde(default)]
    pub programmed: u32,
}

/// Counts of pairs of nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PairCounts {
    /// Pairs that the selectors make.
    #[serde(default)]
    pub desired: u32,
    /// Pairs that fail.
    #[serde(default)]
    pub failing: u32,
}

/// Text for the columns of `kubectl get`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TunnelSummary {
    /// Programmed and selected nodes, such as `42/42`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub nodes: String,
}

/// The proposals in force.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveProposals {
    /// For IKE SAs, preferred first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub ike: Vec<IkeProposal>,
    /// For CHILD SAs, preferred first.
    #[serde(default, rename = "childSA", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub child_sa: Vec<ChildProposal>,
}

/// The roots of an external peer, as the operator read them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundle {
    /// Name of the `ConfigMap`.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Key in it.
    #[schemars(length(max = 253))]
    pub key: String,
    /// Fingerprint of the certificates.
    #[schemars(length(max = 128))]
    pub hash: String,
    /// The certificates in PEM, without anything else that stood between them.
    #[schemars(length(max = 16384))]
    pub certificates: String,
}

/// A pair that fails.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FailingPair {
    /// The node that reports it.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The other node, or the external peer's address.
    #[schemars(length(max = 253))]
    pub peer: String,
    /// Why, as a reason of `crate::condition::Reason`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened and what to do.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
