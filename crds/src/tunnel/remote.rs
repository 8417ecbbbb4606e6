//! The far side of a tunnel.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::label_selector;

/// The far side of a tunnel: a union, discriminated by `type`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'External' ? has(self.external) : !has(self.external)")
        .message("remote.external is required when remote.type is External, and forbidden otherwise")
        .field_path(".external"),
    validation = Rule::new("self.type == 'Nodes' || !has(self.nodes)")
        .message("remote.nodes is forbidden when remote.type is External")
        .field_path(".nodes")
)]
pub struct Remote {
    /// Nodes of this cluster, or one external peer.
    #[serde(default, rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("remote.type is immutable; delete and recreate the IPsecTunnel"))]
    pub type_: RemoteType,
    /// The nodes, with type Nodes; absent selects all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesRemote>,
    /// The peer, with type External.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            type_: RemoteType::Nodes,
            nodes: Some(NodesRemote::default()),
            external: None,
        }
    }
}

/// What the far side is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RemoteType {
    /// Nodes of this cluster.
    #[default]
    Nodes,
    /// A host outside the cluster.
    External,
}

/// The far side of a mesh.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodesRemote {
    /// Selects nodes by label; empty selects all. Pairs are unordered: one node of each side, never a node with itself.
    #[serde(default)]
    #[schemars(schema_with = "label_selector")]
    pub node_selector: LabelSelector,
}

/// A peer outside the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// IP address or DNS name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("isIP(self) || self.matches('^([a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?[.])*[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$')")
        .message("must be an IP address or a DNS name, without scheme and port"))]
    pub address: String,
    /// The identity that the peer must prove; its address where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PeerIdentity>,
    /// The identity that our nodes show; the node's FQDN where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_identity: Option<PeerIdentity>,
}

/// An IKE identity (RFC 7296 §3.5).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type != 'IPv4' || (isIP(self.value) && ip(self.value).family() == 4)")
        .message("value must be an IPv4 address when type is IPv4")
        .field_path(".value"),
    validation = Rule::new("self.type != 'IPv6' || (isIP(self.value) && ip(self.value).family() == 6)")
        .message("value must be an IPv6 address when type is IPv6")
        .field_path(".value")
)]
pub struct PeerIdentity {
    /// Kind of identity.
    #[serde(rename = "type")]
    pub type_: IdentityType,
    /// The identity itself.
    #[schemars(length(min = 1, max = 253))]
    pub value: String,
}

/// Kinds of IKE identities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IdentityType {
    /// `ID_FQDN`.
    #[default]
    #[serde(rename = "FQDN")]
    Fqdn,
    /// `ID_RFC822_ADDR`.
    Email,
    /// `ID_IPV4_ADDR`.
    IPv4,
    /// `ID_IPV6_ADDR`.
    IPv6,
    /// `ID_DER_ASN1_DN`, written as in RFC 4514.
    #[serde(rename = "DN")]
    Dn,
    /// `ID_KEY_ID`.
    KeyID,
}
