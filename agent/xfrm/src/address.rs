//! Addresses and selectors, and their form in the kernel's structures.
//!
//! The kernel stores every address in 16 bytes and says the family elsewhere; these conversions are the only place that
//! knows this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_xfrm::{AF_INET, AF_INET6, Address, Selector as WireSelector};

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// First address.
    pub address: IpAddr,
    /// Length in bits.
    pub length: u8,
}

impl Prefix {
    /// The block that holds one address.
    pub fn host(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }
}

/// What a policy or an SA matches. `source` is the sender's end in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Sender.
    pub source: Prefix,
    /// Receiver.
    pub destination: Prefix,
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// Source port, or ICMP type; `None` is any.
    pub source_port: Option<u16>,
    /// Destination port, or ICMP code; `None` is any.
    pub destination_port: Option<u16>,
}

impl Selector {
    pub(crate) fn to_wire(self) -> WireSelector {
        let (sport, sport_mask) = port_and_mask(self.source_port);
        let (dport, dport_mask) = port_and_mask(self.destination_port);
        WireSelector {
            daddr: Address::from_ip(&self.destination.address),
            saddr: Address::from_ip(&self.source.address),
            dport,
            dport_mask,
            sport,
            sport_mask,
            family: family(self.destination.address),
            prefixlen_d: self.destination.length,
            prefixlen_s: self.source.length,
            proto: self.protocol,
            ifindex: 0,
            user: 0,
        }
    }

    pub(crate) fn from_wire(wire: &WireSelector) -> Option<Self> {
        Some(Self {
            source: Prefix {
                address: ip(&wire.saddr, wire.family)?,
                length: wire.prefixlen_s,
            },
            destination: Prefix {
                address: ip(&wire.daddr, wire.family)?,
                length: wire.prefixlen_d,
            },
            protocol: wire.proto,
            source_port: (wire.sport_mask != 0).then_some(wire.sport),
            destination_port: (wire.dport_mask != 0).then_some(wire.dport),
        })
    }
}

fn port_and_mask(port: Option<u16>) -> (u16, u16) {
    port.map_or((0, 0), |port| (port, u16::MAX))
}

pub(crate) fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The address in 16 bytes, read with the family that stands elsewhere; `None` for a family that is neither.
pub(crate) fn ip(address: &Address, family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = address.addr;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(Ipv6Addr::from(address.addr).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_survives_the_wire_form() {
        let selector = Selector {
            source: Prefix::host("172.30.0.11".parse().expect("address")),
            destination: Prefix {
                address: "10.0.0.0".parse().expect("address"),
                length: 8,
            },
            protocol: 17,
            source_port: None,
            destination_port: Some(8472),
        };
        assert_eq!(Selector::from_wire(&selector.to_wire()), Some(selector));
        let v6 = Selector {
            source: Prefix::host("fd00::1".parse().expect("address")),
            destination: Prefix::host("fd00::2".parse().expect("address")),
            protocol: 0,
            source_port: Some(0),
            destination_port: None,
        };
        assert_eq!(Selector::from_wire(&v6.to_wire()), Some(v6));
    }

    #[test]
    fn an_unknown_family_has_no_address() {
        assert_eq!(ip(&Address::default(), 0), None);
    }
}
