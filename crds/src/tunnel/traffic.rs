//! Which traffic a tunnel protects.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The protected traffic: a union, discriminated by `type`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'Custom' ? has(self.selectors) : !has(self.selectors)")
        .message("traffic.selectors is required when traffic.type is Custom, and forbidden otherwise")
        .field_path(".selectors"),
    validation = Rule::new("self.type == 'Overlay' || !has(self.overlay)")
        .message("traffic.overlay is forbidden unless traffic.type is Overlay")
        .field_path(".overlay")
)]
pub struct Traffic {
    /// Overlay: the encapsulated pod traffic. `PodNetwork`: pod addresses. Host: everything between the hosts. Custom: selectors.
    #[serde(default, rename = "type")]
    pub type_: TrafficType,
    /// The overlay's encapsulation; detected on the nodes where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub overlay: Vec<OverlayEntry>,
    /// The selectors, with type Custom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub selectors: Vec<Selector>,
    /// Explicit exceptions that stay in clear. IKE and IPv6 neighbour discovery always do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub bypass: Vec<Selector>,
}

/// Kinds of protected traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TrafficType {
    /// The CNI's encapsulated pod traffic between the hosts.
    #[default]
    Overlay,
    /// Packets between pod addresses, for CNIs that route natively.
    PodNetwork,
    /// All packets between the hosts.
    Host,
    /// What the selectors say.
    Custom,
}

/// One encapsulation: an IP protocol and, where it has ports, the destination port in both directions.
#[derive(
    KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.port) || self.protocol in [6, 17, 132]")
    .message("port needs protocol 6 (TCP), 17 (UDP) or 132 (SCTP)")
    .field_path(".port"))]
pub struct OverlayEntry {
    /// IP protocol: 17 for VXLAN and Geneve, 4 for IPIP, 47 for GRE.
    #[schemars(range(min = 1, max = 255))]
    pub protocol: u8,
    /// Destination port: 4789 or 8472 for VXLAN, 6081 for Geneve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// A selector of packets, seen from the local node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(!has(self.localPort) && !has(self.remotePort)) || (has(self.protocol) && self.protocol in [6, 17, 132])")
        .message("localPort and remotePort need protocol 6 (TCP), 17 (UDP) or 132 (SCTP)")
        .field_path(".protocol"),
    validation = Rule::new("!has(self.localCIDR) || !has(self.remoteCIDR) || !isCIDR(self.localCIDR) || !isCIDR(self.remoteCIDR) || cidr(self.localCIDR).ip().family() == cidr(self.remoteCIDR).ip().family()")
        .message("localCIDR and remoteCIDR must be of the same address family")
        .field_path(".remoteCIDR")
)]
pub struct Selector {
    /// IP protocol; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub protocol: Option<u8>,
    /// Port on the local node; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub local_port: Option<u16>,
    /// Port at the far side; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub remote_port: Option<u16>,
    /// Inner addresses behind the local node, with mode Tunnel.
    #[serde(default, rename = "localCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("must be a CIDR such as 10.0.0.0/16 or fd00::/64"))]
    pub local_cidr: Option<String>,
    /// Inner addresses behind the far side, with mode Tunnel.
    #[serde(default, rename = "remoteCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("must be a CIDR such as 10.0.0.0/16 or fd00::/64"))]
    pub remote_cidr: Option<String>,
}
