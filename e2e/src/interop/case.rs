//! What two ends agree on, in words of our own; each implementation has a room that says it in its own language.

use std::net::IpAddr;

use super::{ground::Side, wire::Protection};

/// What the two ends want of each other.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// How they prove who they are.
    pub auth: Auth,
    /// Algorithms of IKE and CHILD SAs.
    pub suite: Suite,
    /// Whether whole packets go inside.
    pub mode: Mode,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Whether the hosts speak IPv6 with each other.
    pub outer_v6: bool,
    /// Whether the networks behind them do; what counts in tunnel mode.
    pub inner_v6: bool,
    /// What is between them.
    pub path: Path,
}

/// Proof of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A pre-shared key.
    Psk,
}

/// Algorithms, for IKE and for CHILD SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-GCM-16-256, HMAC-SHA2-384, X25519.
    Gcm256,
    /// AES-GCM-16-128, HMAC-SHA2-256, ECP-256.
    Gcm128,
}

/// Encapsulation mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The packet's own addresses stay outside.
    Transport,
    /// The whole packet goes inside.
    Tunnel,
}

/// Security protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Encapsulating Security Payload.
    Esp,
    /// Authentication Header.
    Ah,
}

/// What is between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A router.
    Plain,
    /// A router, and both ends want UDP all the same.
    ForcedUdp,
    /// A NAT that this side stands behind.
    Nat(Side),
}

/// What a case begins with: the default suite over IPv4, both ends on plain ground.
pub const PLAIN: Case = Case {
    auth: Auth::Psk,
    suite: Suite::Gcm256,
    mode: Mode::Transport,
    protocol: Protocol::Esp,
    outer_v6: false,
    inner_v6: false,
    path: Path::Plain,
};

/// The secret of both ends where they have one.
pub const SECRET: &str = "a pre-shared key of the interoperability tests, in clear";

impl Case {
    /// The side behind a NAT.
    pub fn hidden(&self) -> Option<Side> {
        match self.path {
            Path::Nat(side) => Some(side),
            Path::Plain | Path::ForcedUdp => None,
        }
    }

    /// The address under which `side` sees the other.
    pub fn seen_from(&self, side: Side) -> IpAddr {
        if self.hidden() == Some(side.other()) {
            side.gateway(self.outer_v6)
        } else {
            side.other().address(self.outer_v6)
        }
    }

    /// Source and destination of what `side` sends through the SAs.
    pub fn flow(&self, side: Side) -> (IpAddr, IpAddr) {
        match self.mode {
            Mode::Transport => (side.address(self.outer_v6), self.seen_from(side)),
            Mode::Tunnel => (side.inner(self.inner_v6), side.other().inner(self.inner_v6)),
        }
    }

    /// How its packets look on the wire.
    pub fn protection(&self) -> Protection {
        match (self.protocol, self.path) {
            (Protocol::Ah, _) => Protection::Ah,
            (Protocol::Esp, Path::Plain) => Protection::Esp,
            (Protocol::Esp, Path::ForcedUdp | Path::Nat(_)) => Protection::Udp,
        }
    }
}

/// The name that a side proves.
pub fn identity(side: Side) -> String {
    format!("{}.example.com", side.name())
}
