//! Policies as the agent wants them: typed, comparable, free of any kernel's encoding.

use std::net::IpAddr;

use ipsecmesh_ike::SaProtocol;

/// How much a direction of a policy demands (`docs/ARCHITECTURE.md`, phases).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Demand {
    /// ESP where there is an SA, cleartext where there is none (`level use`).
    Optional,
    /// ESP or nothing.
    Required,
}

/// Direction of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards this host.
    Inbound,
    /// From this host, and through it towards a peer.
    Outbound,
    /// Through this host, from a peer: what tunnel mode has taken out and what is for others behind this host.
    Forward,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// First address.
    pub address: IpAddr,
    /// Length in bits.
    pub length: u8,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What a policy matches. In both directions `source` is the sender's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Sender.
    pub source: Prefix,
    /// Receiver.
    pub destination: Prefix,
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// Source port; `None` is any. For ICMP the type.
    pub source_port: Option<u16>,
    /// Destination port; `None` is any. For ICMP the code.
    pub destination_port: Option<u16>,
}

/// What names a policy: the kernel holds one per direction and selector (decision 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Direction.
    pub direction: Direction,
    /// Selector.
    pub selector: Selector,
}

/// One policy of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Policy {
    /// What it matches.
    pub key: PolicyKey,
    /// What it does.
    pub action: PolicyAction,
    /// Rank within our range: 0 wins.
    pub rank: u16,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyAction {
    /// Packets pass in clear (IKE itself, explicit exceptions).
    Bypass,
    /// Packets are dropped (decision 30: ICMP errors about selected traffic).
    Discard,
    /// Packets go through an SA with this template.
    Protect {
        /// Optional or required.
        demand: Demand,
        /// ESP or AH.
        protocol: SaProtocol,
        /// Binds it to SAs.
        reqid: u32,
        /// Transport or tunnel.
        tunnel: bool,
        /// Outer source (the local or remote host's address in transport mode). In tunnel mode its family is
        /// independent of the selector's.
        source: IpAddr,
        /// Outer destination.
        destination: IpAddr,
    },
}
