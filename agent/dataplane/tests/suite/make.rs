//! Objects for the cases.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipsecmesh_dataplane::{Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};
use ipsecmesh_ike::{
    ChildId, ChildSaId, Encryption, EspSpi, Lifetime, Mode, PeerId, SaKey, SaName, SaProtocol, SaSpec,
    TrafficSelector,
};

/// A reqid of our range.
pub(crate) const REQID: u32 = 0x1950_0042;
/// The overlay's port.
pub(crate) const PORT: u16 = 8472;

const UDP: u8 = 17;

/// This host.
pub(crate) fn here() -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 1).into()
}

/// The other host.
pub(crate) fn there() -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 2).into()
}

/// This host over IPv6.
pub(crate) fn here6() -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 51, 0, 0, 0, 1).into()
}

/// The other host over IPv6.
pub(crate) fn there6() -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 51, 0, 0, 0, 2).into()
}

/// A host's own block.
pub(crate) fn host(address: IpAddr) -> Prefix {
    Prefix {
        address,
        length: if address.is_ipv4() { 32 } else { 128 },
    }
}

/// The overlay's selector from one host to another.
pub(crate) fn overlay(source: IpAddr, destination: IpAddr) -> Selector {
    Selector {
        source: host(source),
        destination: host(destination),
        protocol: UDP,
        source_port: None,
        destination_port: Some(PORT),
    }
}

/// A policy for the overlay between two hosts.
pub(crate) fn protect(direction: Direction, source: IpAddr, destination: IpAddr, demand: Demand) -> Policy {
    Policy {
        key: PolicyKey {
            direction,
            selector: overlay(source, destination),
        },
        action: PolicyAction::Protect {
            demand,
            protocol: SaProtocol::Esp,
            reqid: REQID,
            tunnel: false,
            source,
            destination,
        },
        rank: 10,
    }
}

/// An SPI.
pub(crate) fn spi(value: u32) -> EspSpi {
    EspSpi::new(value).expect("not reserved")
}

/// The name of an SA.
pub(crate) fn name(value: u32, source: IpAddr, destination: IpAddr) -> SaName {
    SaName {
        protocol: SaProtocol::Esp,
        spi: spi(value),
        source,
        destination,
    }
}

/// One half of a pair: AES-GCM-16-256, ESN, window 4096, no limits.
pub(crate) fn half(name: SaName) -> SaSpec {
    let lifetime = Lifetime {
        time: Duration::from_hours(1),
        bytes: None,
        packets: None,
    };
    let selector = |address| TrafficSelector {
        protocol: UDP,
        first_port: 0,
        last_port: u16::MAX,
        first_address: address,
        last_address: address,
    };
    SaSpec {
        name,
        child_sa: ChildSaId(1),
        peer: PeerId(1),
        child: ChildId(1),
        mode: Mode::Transport,
        encryption: Some(Encryption::AesGcm16Key256),
        integrity: None,
        key: SaKey(vec![7; 36].into()),
        esn: true,
        replay_window: 4096,
        reqid: REQID,
        encapsulation: None,
        keepalive: false,
        source_selectors: vec![selector(name.source)],
        destination_selectors: vec![selector(name.destination)],
        lifetime,
        soft_lifetime: lifetime,
    }
}
