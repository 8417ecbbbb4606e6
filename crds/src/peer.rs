//! `IPsecPeer`: the public directory entry of a node. The operator writes it, all agents watch it, and it has no status.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// What every node may know about a node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "ipsecmesh.io",
    version = "v1alpha1",
    kind = "IPsecPeer",
    plural = "ipsecpeers",
    shortname = "ipeer",
    doc = "IPsecPeer is the public directory entry of one node. The operator writes it; do not edit it.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Identity", type_ = "string", json_path = ".spec.identity"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPsecPeerSpec {
    /// UID of the Node: one made anew under the same name is another node.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// Changes when the node boots: peers then drop SAs of the earlier boot.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// The only IKE identity that is accepted from these addresses.
    #[schemars(length(max = 253))]
    pub identity: String,
    /// Addresses, at most one per family takes part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The node's pod networks.
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 49)))]
    pub pod_cidrs: Vec<String>,
    /// Fingerprints of the public keys (SPKI) in use and next; a certificate with another key is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 128)))]
    pub keys: Vec<String>,
    /// The tunnels that the node takes part in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tunnel".into()]))]
    pub memberships: Vec<Membership>,
}

/// A node's part in a tunnel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Name of the `IPsecTunnel`.
    #[schemars(length(max = 63))]
    pub tunnel: String,
    /// Which of the tunnel's selectors choose the node.
    pub side: Side,
    /// The member's own phase while it comes or goes; absent follows the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// Side of a tunnel.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Side {
    /// `local` only.
    Local,
    /// `remote` only.
    Remote,
    /// Both.
    #[default]
    Both,
}

impl Side {
    /// Whether two nodes on these sides make a pair.
    pub const fn pairs_with(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Local, Self::Local) | (Self::Remote, Self::Remote)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Side::{Both, Local, Remote};

    #[test]
    fn pairs_need_both_sides() {
        for (a, b, pair) in [
            (Local, Remote, true),
            (Both, Both, true),
            (Both, Local, true),
            (Local, Local, false),
            (Remote, Remote, false),
        ] {
            assert_eq!((a.pairs_with(b), b.pairs_with(a)), (pair, pair), "{a:?} {b:?}");
        }
    }
}
