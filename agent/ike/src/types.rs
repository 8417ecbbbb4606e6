//! Identifiers of the protocol and of the engine's contract, each a type of its own so that none can stand in for another.

use std::fmt;
use std::net::SocketAddr;

/// An IKE SPI (RFC 7296 §3.1): 64 bits, never zero for an SA that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSpi(std::num::NonZeroU64);

impl IkeSpi {
    /// `None` for zero, which on the wire means "not known yet" (RFC 7296 §2.6).
    pub fn new(value: u64) -> Option<Self> {
        std::num::NonZeroU64::new(value).map(Self)
    }

    /// The value in host order.
    pub fn value(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An SPI of ESP or AH (RFC 4303 §2.1): 256 or above, the values below are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EspSpi(u32);

impl EspSpi {
    /// `None` for the reserved values 0–255.
    pub fn new(value: u32) -> Option<Self> {
        (value > 255).then_some(Self(value))
    }

    /// The value in host order.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for EspSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The protocol of a CHILD SA (RFC 4301 §3.2). Each has SPIs of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SaProtocol {
    /// Encapsulating Security Payload (RFC 4303).
    #[default]
    Esp,
    /// Authentication Header (RFC 4302).
    Ah,
}

impl fmt::Display for SaProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Esp => "ESP",
            Self::Ah => "AH",
        })
    }
}

/// The driver's name for one configured peer, that is for one (node, address family).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// The driver's name for one configured child of a peer: what is protected, not one SA of it.
/// The SAs that a rekey makes one after the other share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u32);

/// The engine's name for one IKE SA; never used twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSaId(pub u64);

/// The engine's name for one pair of CHILD SAs (inbound and outbound); never used twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildSaId(pub u64);

/// The engine's name for one effect that it waits for; never used twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EffectId(pub u64);

/// The two ends of a datagram, as this host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Address and port of this host: port 500, or 4500 (then the driver adds and removes the non-ESP marker).
    pub local: SocketAddr,
    /// Address and port of the peer.
    pub remote: SocketAddr,
}

/// The boot of a node, as a random identifier (decision 20): it changes when, and only when, the peer's kernel
/// state is gone. Compared, never interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);
