//! `IPsecNode`: the private channel of a node (spec, by the operator) and its report (status, by its agent).

#![expect(clippy::duplicated_attributes, reason = "columns share their types")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{phase::Phase, schema::conditions};

/// What the operator tells one node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "ipsecmesh.io",
    version = "v1alpha1",
    kind = "IPsecNode",
    plural = "ipsecnodes",
    shortname = "inode",
    category = "ipsec",
    doc = "IPsecNode is the private channel of one node: the operator writes its spec, the node's agent its status.",
    status = "IPsecNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Tunnels", type_ = "integer", json_path = ".status.summary.tunnels"),
    printcolumn(name = "Up", type_ = "integer", json_path = ".status.summary.up"),
    printcolumn(name = "Idle", type_ = "integer", json_path = ".status.summary.idle"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.summary.failed"),
    printcolumn(
        name = "Cert Expires",
        type_ = "string",
        json_path = ".status.certificate.notAfter"
    ),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agent.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPsecNodeSpec {
    /// UID of the Node.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// Raised, the node renews its certificate now.
    #[serde(default)]
    pub certificate_generation: i64,
    /// Pre-shared keys of tunnels to external peers, sealed to this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tunnel".into()]))]
    pub sealed_credentials: Vec<SealedCredential>,
}

/// Secrets of a tunnel that only one node can read (`crate::sealing`).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SealedCredential {
    /// Name of the `IPsecTunnel`.
    #[schemars(length(max = 63))]
    pub tunnel: String,
    /// Version of the Secret.
    #[serde(rename = "keyID")]
    #[schemars(length(max = 64))]
    pub key_id: String,
    /// The sealing key that it is for.
    #[schemars(length(max = 128))]
    pub recipient: String,
    /// HPKE ciphertext (RFC 9180), in base64. It is bound to the node, the tunnel and the `keyID`.
    #[schemars(length(max = 8192))]
    pub ciphertext: String,
}

/// What the node's agent reports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IPsecNodeStatus {
    /// The generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The agent and its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    /// The public key that credentials are sealed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing_key: Option<SealingKey>,
    /// The certificate in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateInfo>,
    /// Fingerprint of the trusted bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub bundle_hash: Option<String>,
    /// Which data plane runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<DataplaneInfo>,
    /// The encapsulations that the agent detected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub overlay: Vec<DetectedOverlay>,
    /// How far each tunnel is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tunnels: Vec<TunnelReport>,
    /// Some of the pairs that fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failures: Vec<Failure>,
    /// Numbers for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<NodeSummary>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// The agent and its host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Version of the agent.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub version: String,
    /// Release of the kernel.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub kernel: String,
    /// The boot that the agent runs in.
    #[serde(default, rename = "bootID")]
    #[schemars(length(max = 64))]
    pub boot_id: String,
}

/// A public key that credentials are sealed to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SealingKey {
    /// Its algorithm: X25519.
    #[schemars(length(max = 32))]
    pub algorithm: String,
    /// The key, in base64.
    #[schemars(length(max = 128))]
    pub public_key: String,
    /// The public key of the node's certificate (SPKI, in base64); the operator compares it with `IPsecPeer.spec.keys`.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub signing_key: String,
    /// Signature of the certificate's key over the node's name and UID and the sealing key, in base64.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub signature: String,
}

/// The certificate in use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// Name of the `IPsecAuthority`.
    #[schemars(length(max = 63))]
    pub authority: String,
    /// Serial number, in hexadecimal.
    #[schemars(length(max = 64))]
    pub serial: String,
    /// Fingerprint of the root that signed it.
    #[schemars(length(max = 128))]
    pub issuer: String,
    /// When it ends.
    pub not_after: Time,
}

/// Which data plane runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneInfo {
    /// The backend.
    #[serde(default)]
    pub backend: Backend,
    /// Whether the kernel drops the first packet of a negotiation (`net.core.xfrm_larval_drop`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larval_drop: Option<bool>,
}

/// Backends of the data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// The kernel's XFRM.
    #[default]
    Kernel,
    /// ESP in user space.
    Userspace,
}

/// An encapsulation that the agent detected.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DetectedOverlay {
    /// IP protocol.
    #[schemars(range(min = 1, max = 255))]
    pub protocol: u8,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub device: Option<String>,
    /// Its MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// How far a tunnel is on this node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TunnelReport {
    /// Name of the `IPsecTunnel`.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The phase that stands.
    #[serde(default)]
    pub rollout: RolloutEcho,
    /// Whether every policy of it is in place.
    #[serde(default)]
    pub programmed: bool,
    /// Its peers.
    #[serde(default)]
    pub peers: PeerCounts,
}

/// The phase that stands on a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutEcho {
    /// The generation of the rollout.
    #[serde(default)]
    pub generation: i64,
    /// The phase.
    #[serde(default)]
    pub phase: Phase,
    /// Hash over the overrides that are in force (`crate::phase::transition_hash`); absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub transition: Option<String>,
}

/// Counts of peers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PeerCounts {
    /// That the tunnel wants.
    #[serde(default)]
    pub desired: u32,
    /// With SAs.
    #[serde(default)]
    pub established: u32,
    /// Without SAs and without traffic.
    #[serde(default)]
    pub idle: u32,
    /// That fail.
    #[serde(default)]
    pub failed: u32,
}

/// A pair that fails.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Name of the `IPsecTunnel`.
    #[schemars(length(max = 63))]
    pub tunnel: String,
    /// The other node, or the external peer's address.
    #[schemars(length(max = 253))]
    pub peer: String,
    /// Why.
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

/// Numbers for the columns of `kubectl get`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// Tunnels.
    #[serde(default)]
    pub tunnels: u32,
    /// Peers with SAs.
    #[serde(default)]
    pub up: u32,
    /// Peers without SAs and without traffic.
    #[serde(default)]
    pub idle: u32,
    /// Peers that fail.
    #[serde(default)]
    pub failed: u32,
}
