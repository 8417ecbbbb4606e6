//! The network between the hosts: who has which address, what a NAT makes of it, and where nothing passes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipsecmesh_ike::Path;

use crate::support::address_of;

pub(crate) struct Network {
    hosts: usize,
    /// From which host to which nothing arrives, and until when.
    cuts: BTreeMap<(usize, usize), Duration>,
    nat: Option<Nat>,
}

/// A NAT in front of one host: one mapping for each port of the host, the same towards everybody (RFC 4787 §4.1),
/// and nothing comes in where there is no mapping.
struct Nat {
    host: usize,
    outside: IpAddr,
    /// Port of the host, port outside.
    mappings: Vec<(u16, u16)>,
    next_port: u16,
    /// The first mappings keep the host's ports.
    preserves: bool,
}

impl Network {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            hosts,
            cuts: BTreeMap::new(),
            nat: None,
        }
    }

    /// From now on the host is reached through a NAT only.
    pub(crate) fn hide(&mut self, host: usize, preserves: bool) {
        self.nat = Some(Nat {
            host,
            outside: IpAddr::from([192, 0, 2, 1]),
            mappings: Vec::new(),
            next_port: 20_000,
            preserves,
        });
    }

    /// The NAT forgets its mappings: the next ones have other ports.
    pub(crate) fn rebind(&mut self) {
        if let Some(nat) = &mut self.nat {
            nat.mappings.clear();
            nat.preserves = false;
        }
    }

    /// Whether the host is behind the NAT.
    pub(crate) fn hides(&self, host: usize) -> bool {
        self.nat.as_ref().is_some_and(|nat| nat.host == host)
    }

    /// The address that a host has itself.
    pub(crate) fn inside(host: usize) -> IpAddr {
        address_of(u8::try_from(host + 1).unwrap_or_default())
    }

    /// The address under which others know a host.
    pub(crate) fn outside(&self, host: usize) -> IpAddr {
        let nat = self.nat.as_ref().filter(|nat| nat.host == host);
        nat.map_or_else(|| Self::inside(host), |nat| nat.outside)
    }

    /// Nothing arrives from one host at another until then.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Duration) {
        let end = self.cuts.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// To whom a datagram goes, and between which ends it seems to go there. `None` where it does not arrive.
    pub(crate) fn route(&mut self, from: usize, path: Path, now: Duration) -> Option<(usize, Path)> {
        let source = match &mut self.nat {
            Some(nat) if nat.host == from => SocketAddr::new(nat.outside, nat.map(path.local.port())),
            Some(_) | None => path.local,
        };
        let to = (0..self.hosts).find(|host| self.outside(*host) == path.remote.ip())?;
        if self.cuts.get(&(from, to)).is_some_and(|until| now < *until) {
            return None;
        }
        let destination = match &self.nat {
            Some(nat) if nat.host == to => {
                let (inside, _) = nat
                    .mappings
                    .iter()
                    .find(|(_, outside)| *outside == path.remote.port())?;
                SocketAddr::new(Self::inside(to), *inside)
            }
            Some(_) | None => path.remote,
        };
        Some((
            to,
            Path {
                local: destination,
                remote: source,
            },
        ))
    }
}

impl Nat {
    fn map(&mut self, inside: u16) -> u16 {
        if let Some((_, outside)) = self.mappings.iter().find(|(known, _)| *known == inside) {
            return *outside;
        }
        let outside = if self.preserves {
            inside
        } else {
            self.next_port += 1;
            self.next_port
        };
        self.mappings.push((inside, outside));
        outside
    }
}
