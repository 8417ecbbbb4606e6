//! How traffic is protected: mode, protocol, the IKE SA and the CHILD SAs.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    suite::{ChildProposal, IkeProposal},
    units::{ApiDuration, ByteQuantity},
};

/// Encapsulation mode of the SAs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The packet's own addresses stay outside.
    #[default]
    Transport,
    /// The whole packet goes inside.
    Tunnel,
}

/// Security protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// Encapsulating Security Payload (RFC 4303).
    #[default]
    #[serde(rename = "ESP")]
    Esp,
    /// Authentication Header (RFC 4302).
    #[serde(rename = "AH")]
    Ah,
}

/// The IKE SA.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Ike {
    /// Explicit proposals, preferred first; from the suite where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4))]
    pub proposals: Vec<IkeProposal>,
    /// Before this time has passed since it last did so, the peer proves its identity anew, on a new IKE SA that is made
    /// beside the old one; without a new proof the SA ends. Halfway the IKE SA is rekeyed. 10m to 168h.
    #[serde(default = "default_ike_lifetime")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10m') && duration(self) <= duration('168h')")
        .message("ike.lifetime must be between 10m and 168h"))]
    pub lifetime: ApiDuration,
    /// Dead peer detection.
    #[serde(default)]
    pub dpd: DeadPeerDetection,
}

impl Default for Ike {
    fn default() -> Self {
        Self {
            proposals: Vec::new(),
            lifetime: default_ike_lifetime(),
            dpd: DeadPeerDetection::default(),
        }
    }
}

/// How a dead peer is found (RFC 7296 §2.4).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeadPeerDetection {
    /// After this time without a sign of life the peer is asked: 5s to 10m.
    #[serde(default = "default_dpd_interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s') && duration(self) <= duration('10m')")
        .message("ike.dpd.interval must be between 5s and 10m"))]
    pub interval: ApiDuration,
    /// How often a question without an answer is asked again before the peer counts as dead. Every time it is sent twice,
    /// at growing intervals: with 1, 2, 3, 4 … 10 the verdict comes after 6s, 19s, 35s, 51s … 147s. The same holds for
    /// all other requests to a peer that has an IKE SA.
    #[serde(default = "default_dpd_retries")]
    #[schemars(range(min = 1, max = 10))]
    pub max_retries: u8,
    /// What happens then.
    #[serde(default)]
    pub action: DpdAction,
}

impl Default for DeadPeerDetection {
    fn default() -> Self {
        Self {
            interval: default_dpd_interval(),
            max_retries: default_dpd_retries(),
            action: DpdAction::default(),
        }
    }
}

/// What happens to the SAs of a dead peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DpdAction {
    /// They are negotiated anew.
    #[default]
    Restart,
    /// They are removed; the next packet or the peer starts again.
    Clear,
}

/// The CHILD SAs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.extendedSequenceNumbers || self.replayWindow > 0")
        .message("childSA.replayWindow must be greater than 0 with extendedSequenceNumbers")
        .field_path(".replayWindow"),
    validation = Rule::new("self.extendedSequenceNumbers || !has(self.lifetime.packets) || self.lifetime.packets <= 4294967295")
        .message("childSA.lifetime.packets must be at most 4294967295 without extendedSequenceNumbers")
        .field_path(".lifetime.packets")
)]
pub struct ChildSa {
    /// Explicit proposals, preferred first; from the suite where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4))]
    pub proposals: Vec<ChildProposal>,
    /// Hard limits; whichever comes first ends the SA.
    #[serde(default)]
    pub lifetime: ChildSaLifetime,
    /// The soft limit, at which the SA is rekeyed, lies this far below the hard one.
    #[serde(default = "default_rekey_margin")]
    #[schemars(range(min = 1, max = 50))]
    pub rekey_margin_percent: u8,
    /// Size of the replay window in packets; 0 turns replay protection off.
    #[serde(default = "default_replay_window")]
    #[schemars(range(min = 0, max = 4096))]
    pub replay_window: u16,
    /// 64 bit sequence numbers (RFC 4304); offered first.
    #[serde(default = "default_true")]
    pub extended_sequence_numbers: bool,
    /// UDP encapsulation (RFC 3948): where NAT is found, always, or never.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// When the SAs are negotiated.
    #[serde(default)]
    pub initiation: Initiation,
}

impl Default for ChildSa {
    fn default() -> Self {
        Self {
            proposals: Vec::new(),
            lifetime: ChildSaLifetime::default(),
            rekey_margin_percent: default_rekey_margin(),
            replay_window: default_replay_window(),
            extended_sequence_numbers: true,
            encapsulation: Encapsulation::default(),
            initiation: Initiation::default(),
        }
    }
}

/// Hard limits of a CHILD SA.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChildSaLifetime {
    /// Time: 5m to 24h.
    #[serde(default = "default_child_lifetime")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5m') && duration(self) <= duration('24h')")
        .message("childSA.lifetime.time must be between 5m and 24h"))]
    pub time: ApiDuration,
    /// Bytes: at least 1Mi; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).isInteger()")
        .message("childSA.lifetime.bytes must be a whole number of at least 1Mi bytes, such as 64Gi"))]
    pub bytes: Option<ByteQuantity>,
    /// Packets: at least 10000; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10_000))]
    pub packets: Option<u64>,
}

impl Default for ChildSaLifetime {
    fn default() -> Self {
        Self {
            time: default_child_lifetime(),
            bytes: None,
            packets: None,
        }
    }
}

/// UDP encapsulation of ESP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Encapsulation {
    /// Where a NAT is detected.
    #[default]
    Auto,
    /// Always, for networks that drop IP protocol 50.
    Always,
    /// Never.
    Never,
}

/// When CHILD SAs are negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Initiation {
    /// Eager while a node has at most [`Initiation::EAGER_PEERS`] peers in the tunnel, on demand above.
    #[default]
    Auto,
    /// As soon as the tunnel is programmed.
    Eager,
    /// With the first packet.
    OnDemand,
}

impl Initiation {
    /// Up to this many peers of a node in a tunnel, `Auto` means `Eager`.
    pub const EAGER_PEERS: usize = 256;

    /// Whether SAs are negotiated without waiting for a packet.
    pub const fn is_eager(self, peers: usize) -> bool {
        match self {
            Self::Auto => peers <= Self::EAGER_PEERS,
            Self::Eager => true,
            Self::OnDemand => false,
        }
    }
}

const fn default_ike_lifetime() -> ApiDuration {
    ApiDuration::from_hours(24)
}

const fn default_dpd_interval() -> ApiDuration {
    ApiDuration::from_secs(30)
}

const fn default_dpd_retries() -> u8 {
    3
}

const fn default_child_lifetime() -> ApiDuration {
    ApiDuration::from_hours(1)
}

const fn default_rekey_margin() -> u8 {
    10
}

const fn default_replay_window() -> u16 {
    4096
}

const fn default_true() -> bool {
    true
}
