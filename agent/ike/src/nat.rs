//! NAT detection (RFC 7296 §2.23): hashes of what each end sees, compared by the other.

use std::net::{IpAddr, SocketAddr};

use crate::config::Encapsulation;
use crate::crypto::Provider;
use crate::types::{IkeSpi, Path};
use crate::wire::{Notify, NotifyType, Payload, Payloads};

/// The port of IKE and ESP behind a NAT (RFC 3948).
pub(crate) const NAT_PORT: u16 = 4500;

/// The two notifies of an IKE_SA_INIT message. Forced encapsulation pretends a NAT by a source that cannot be.
pub(crate) fn notifies(
    provider: &Provider,
    spi_i: IkeSpi,
    spi_r: Option<IkeSpi>,
    path: Path,
    encapsulation: Encapsulation,
) -> [Payload; 2] {
    let source = match encapsulation {
        Encapsulation::Always => SocketAddr::new(unspecified(path.local.ip()), 0),
        Encapsulation::Auto | Encapsulation::Never => path.local,
    };
    let hashed = |kind, address| {
        Payload::Notify(Notify::with_data(
            kind,
            hash(provider, spi_i, spi_r, address).to_vec(),
        ))
    };
    [
        hashed(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        hashed(NotifyType::NAT_DETECTION_DESTINATION_IP, path.remote),
    ]
}

/// Where NATs lie between the ends, and whether ESP travels in UDP because of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// At our end: its mapping is kept open (RFC 3948 §4).
    pub(crate) us: bool,
    /// At the peer's end: its address and port may change.
    pub(crate) peer: bool,
    /// None has to be there.
    pub(crate) forced: bool,
}

impl Nat {
    /// ESP travels in UDP, and IKE on port 4500.
    pub(crate) const fn encapsulates(self) -> bool {
        self.us || self.peer || self.forced
    }

    /// There is one.
    pub(crate) const fn is_there(self) -> bool {
        self.us || self.peer
    }

    /// The end behind a NAT does not follow one that is not: somebody between them could send packets on from elsewhere
    /// (RFC 7296 §2.23).
    pub(crate) const fn peer_may_move(self) -> bool {
        self.encapsulates() && (self.peer || !self.us)
    }

    /// As the configuration wants it.
    pub(crate) fn forced_by(self, encapsulation: Encapsulation) -> Self {
        Self {
            forced: encapsulation == Encapsulation::Always,
            ..self
        }
    }
}

/// Where NATs lie, judged by a message of the peer. A peer that sends no hashes has no NAT traversal.
pub(crate) fn detected(
    provider: &Provider,
    payloads: &Payloads,
    spi_i: IkeSpi,
    spi_r: Option<IkeSpi>,
    path: Path,
) -> Nat {
    let of = |wanted: NotifyType| payloads.notifies().filter(move |notify| notify.kind == wanted);
    let peers_hash = hash(provider, spi_i, spi_r, path.remote);
    let our_hash = hash(provider, spi_i, spi_r, path.local);
    let mut sources = of(NotifyType::NAT_DETECTION_SOURCE_IP).peekable();
    let mut destinations = of(NotifyType::NAT_DETECTION_DESTINATION_IP).peekable();
    let peer = sources.peek().is_some() && !sources.any(|notify| notify.data == peers_hash);
    let us = destinations.peek().is_some() && !destinations.any(|notify| notify.data == our_hash);
    Nat {
        us,
        peer,
        forced: false,
    }
}

/// The path after the float to port 4500.
pub(crate) fn float(path: Path) -> Path {
    let port = |address: SocketAddr, from_standard: u16| {
        if address.port() == from_standard {
            SocketAddr::new(address.ip(), NAT_PORT)
        } else {
            address
        }
    };
    Path {
        local: SocketAddr::new(path.local.ip(), NAT_PORT),
        remote: port(path.remote, 500),
    }
}

fn hash(provider: &Provider, spi_i: IkeSpi, spi_r: Option<IkeSpi>, address: SocketAddr) -> [u8; 20] {
    let spi_i = spi_i.value().to_be_bytes();
    let spi_r = spi_r.map_or(0, IkeSpi::value).to_be_bytes();
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => provider.hash.sha1(&[&spi_i, &spi_r, &ip.octets(), &port]),
        IpAddr::V6(ip) => provider.hash.sha1(&[&spi_i, &spi_r, &ip.octets(), &port]),
    }
}

fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}
