//! The API of ipsecmesh: custom resources, their defaults, validation rules and conditions.
//!
//! | module | holds |
//! |---|---|
//! | [`tunnel`] | `IPsecTunnel`: what is protected and how; written by users |
//! | [`authority`] | `IPsecAuthority`: a certificate authority; written by users |
//! | [`peer`] | `IPsecPeer`: the public directory entry of a node; written by the operator |
//! | [`node`] | `IPsecNode`: the private channel and the status of a node; written by the operator and that node's agent |
//! | [`condition`] | condition types, reasons, and the merge that keeps transition times |
//! | [`phase`] | the phases of a rollout, what each demands of a packet, overrides and their hash |
//! | [`suite`] | names of algorithms, proposals, named suites |
//! | [`support`] | which fields of a tunnel or an authority ask for behaviour that is not live yet |
//! | [`rank`] | which of two overlapping tunnels wins |
//! | [`identity`] | the identity of a node as certificate names and IKE identity |
//! | [`sealing`] | credentials sealed to one node: what is sealed, and what a ciphertext is bound to |
//! | [`check`] | what the API server says of an object, without an API server |
//! | [`units`] | durations and byte counts |
//! | [`generate`] | the definitions as files |
//! | [`schema`] | the definitions as the API server gets them |
//!
//! Nothing here reads a clock, a file or the network.

#![expect(
    unreachable_pub,
    reason = "the derive of KubeSchema repeats each public struct inside a function"
)]

pub mod authority;
pub mod check;
pub mod condition;
pub mod generate;
pub mod identity;
pub mod node;
pub mod peer;
pub mod phase;
pub mod rank;
pub mod schema;
pub mod sealing;
pub mod suite;
pub mod support;
pub mod tunnel;
pub mod units;

pub use authority::{IPsecAuthority, IPsecAuthoritySpec, IPsecAuthorityStatus};
pub use node::{IPsecNode, IPsecNodeSpec, IPsecNodeStatus};
pub use peer::{IPsecPeer, IPsecPeerSpec};
pub use phase::{Demand, Demands, Phase};
pub use tunnel::{IPsecTunnel, IPsecTunnelSpec, IPsecTunnelStatus};

/// The API group of all kinds. `kube`'s derive wants literals, so the four kinds repeat it; a test holds them to this.
pub const GROUP: &str = "ipsecmesh.io";

/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// Finalizer on tunnels: the phases of a deletion come before the object goes.
pub const FINALIZER: &str = "ipsecmesh.io/teardown";

/// Taint that keeps pods off a node until its agent is ready.
pub const AGENT_NOT_READY_TAINT: &str = "ipsecmesh.io/agent-not-ready";

/// Signer name of certificate signing requests for nodes.
pub const SIGNER: &str = "ipsecmesh.io/node";

/// Server-side apply's field manager of the operator.
pub const CONTROLLER_FIELD_MANAGER: &str = "ipsecmesh-controller";

/// Server-side apply's field manager of the agents.
pub const AGENT_FIELD_MANAGER: &str = "ipsecmesh-agent";

/// Type of the Secrets that hold pre-shared keys.
pub const PSK_SECRET_TYPE: &str = "ipsecmesh.io/psk";
