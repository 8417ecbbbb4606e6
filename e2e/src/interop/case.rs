//! What two ends agree on, in words of our own; each implementation has a room that says it in its own language.

use std::net::IpAddr;

use super::{ground::Side, wire::Protection};
use crate::error::{Error, Result};

/// What the two ends want of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Certificates with keys on P-256.
    Ecdsa,
    /// Certificates with Ed25519 keys.
    Ed25519,
    /// A pre-shared key.
    Psk,
    /// Certificates with RSA keys of 2048 bits.
    Rsa,
}

/// Algorithms, for IKE and for CHILD SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-CBC-256 with HMAC-SHA2-256-128, ECP-384.
    Cbc,
    /// ChaCha20-Poly1305, HMAC-SHA2-512, ECP-521.
    ChaCha,
    /// What our agent proposes without being told: AES-GCM-16-256, HMAC-SHA2-384, X25519 with ML-KEM-768 if the other end
    /// has it.
    Default,
    /// AES-GCM-16-128, HMAC-SHA2-256, ECP-256.
    Gcm128,
    /// AES-GCM-16-256, HMAC-SHA2-384, X25519.
    Gcm256,
    /// AES-CBC-128 with HMAC-SHA2-512-256, MODP-2048.
    Modp,
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
    /// Authentication Header.
    Ah,
    /// Encapsulating Security Payload.
    Esp,
}

/// What is between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A router, and both ends want UDP all the same.
    ForcedUdp,
    /// A NAT that this side stands behind.
    Nat(Side),
    /// A router.
    Plain,
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

impl Case {
    /// Reads a name such as `psk_cbc_tunnel_esp_6in4_nat`: what is inside stands before the `in`, and nothing at the end
    /// is a plain path. `hidden` is the side that stands behind the NAT of `nat`; the other one does with `theirnat`.
    pub fn named(name: &str, hidden: Side) -> Result<Self> {
        let unknown = || Error::observed(format!("{name} is no name of a case"));
        let mut words = name.split('_');
        let mut word = || words.next().unwrap_or_default();
        let auth = match word() {
            "ecdsa" => Auth::Ecdsa,
            "ed25519" => Auth::Ed25519,
            "psk" => Auth::Psk,
            "rsa" => Auth::Rsa,
            _ => return Err(unknown()),
        };
        let suite = match word() {
            "cbc" => Suite::Cbc,
            "chacha" => Suite::ChaCha,
            "default" => Suite::Default,
            "gcm128" => Suite::Gcm128,
            "gcm256" => Suite::Gcm256,
            "modp" => Suite::Modp,
            _ => return Err(unknown()),
        };
        let mode = match word() {
            "transport" => Mode::Transport,
            "tunnel" => Mode::Tunnel,
            _ => return Err(unknown()),
        };
        let protocol = match word() {
            "ah" => Protocol::Ah,
            "esp" => Protocol::Esp,
            _ => return Err(unknown()),
        };
        let (inner_v6, outer_v6) = match word() {
            "v4" => (false, false),
            "v6" => (true, true),
            "4in6" => (false, true),
            "6in4" => (true, false),
            _ => return Err(unknown()),
        };
        let path = match word() {
            "" => Path::Plain,
            "nat" => Path::Nat(hidden),
            "theirnat" => Path::Nat(hidden.other()),
            "udp" => Path::ForcedUdp,
            _ => return Err(unknown()),
        };
        Ok(Self {
            auth,
            suite,
            mode,
            protocol,
            outer_v6,
            inner_v6,
            path,
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_all_of_a_case() {
        assert_eq!(
            Case::named("psk_gcm256_transport_esp_v4", Side::Left).expect("named"),
            PLAIN
        );
        let case = Case::named("ecdsa_cbc_tunnel_esp_6in4_theirnat", Side::Left).expect("named");
        assert_eq!((case.outer_v6, case.inner_v6), (false, true));
        assert_eq!(case.hidden(), Some(Side::Right));
        assert_eq!(case.protection(), Protection::Udp);
        assert!(Case::named("psk_gcm256_transport_esp_v5", Side::Left).is_err());
    }
}
