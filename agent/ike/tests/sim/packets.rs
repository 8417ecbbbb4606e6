//! Packets between the hosts: each goes by an SA or is blocked (invariant I2), and one that is under way while SAs change
//! arrives (invariant I8).

use std::net::SocketAddr;
use std::time::Duration;

use ipsecmesh_ike::*;

use crate::act::Act;
use crate::kernel::Place;
use crate::node::{id_of, index_of};
use crate::world::{World, pair};

/// The port of ESP that is not carried in UDP.
const NONE: u16 = 0;

/// SAs that somebody has ended are there again, or not, after this time.
const SETTLING: Duration = Duration::from_secs(90);

/// An ESP or AH packet, as it looks where it arrives.
#[derive(Debug)]
pub(crate) struct Packet {
    from: usize,
    to: usize,
    place: Place,
    source: SocketAddr,
    key: Vec<u8>,
    sent: Duration,
    told: bool,
}

impl World {
    /// Every child of a host that is wanted sends a packet.
    pub(crate) fn traffic(&mut self, index: usize, told: bool) {
        let node = &self.nodes[index];
        let children = node.wanted.iter().filter(|(_, wanted)| wanted.present);
        let children: Vec<(usize, ChildId)> = children
            .flat_map(|(peer, wanted)| wanted.config.children.iter().map(|child| (*peer, child.id)))
            .collect();
        for (peer, child) in children {
            self.send_packet(index, peer, child, told);
        }
    }

    fn send_packet(&mut self, from: usize, peer: usize, child: ChildId, told: bool) {
        let Some((place, sa)) = self.nodes[from].kernel.outbound(id_of(peer), child) else {
            if self.settled.contains(&(from, peer, child)) {
                let how = format!("{from} lost every SA of child {} towards {peer}", child.0);
                self.broken("I8", &how);
            }
            let config = self.nodes[from].configured(peer);
            if config.is_some_and(|config| config.initiation == Initiation::OnDemand) {
                self.act(from, &Act::Acquire(peer, child.0));
            }
            return;
        };
        let (protocol, spi, destination) = *place;
        let (local, remote) = sa.encapsulation.unwrap_or((NONE, NONE));
        let (key, fresh) = (sa.key.clone(), sa.generation == self.nodes[from].generation);
        let path = Path {
            local: SocketAddr::new(sa.source, local),
            remote: SocketAddr::new(destination, remote),
        };
        if fresh && self.now >= self.lenient(from, peer) && self.now >= self.unsettled(from, peer) {
            self.settled.insert((from, peer, child));
        }
        if told && let Some(spi) = EspSpi::new(spi) {
            let now = self.nodes[from].clocks(self.now);
            let seen = Command::OutboundSeen { spi };
            let _ = self.nodes[from].endpoint.handle_command(seen, now);
            self.drain(from);
        }
        if local == NONE && (self.network.hides(from) || self.network.hides(peer)) {
            self.broken("I8", &format!("{from} sends without UDP through a NAT"));
            return;
        }
        if let Some((to, path)) = self.network.route(from, path, self.now) {
            let packet = Packet {
                from,
                to,
                place: (protocol, spi, path.local.ip()),
                source: path.remote,
                key,
                sent: self.now,
                told,
            };
            self.on_its_way(packet);
        }
    }

    pub(crate) fn arrive(&mut self, packet: &Packet) {
        let (from, to, spi) = (packet.from, packet.to, packet.place.1);
        let Some(sa) = self.nodes[to]
            .kernel
            .sas
            .get(&packet.place)
            .filter(|sa| sa.inbound)
        else {
            // Since when the ends have been bound to agree.
            let agreed = self.lenient(from, to);
            if packet.sent >= agreed && self.now >= agreed && !self.is_left_over(packet) {
                let sent = packet.sent.as_secs_f64();
                self.broken(
                    "I8",
                    &format!("the packet of {from} through {spi:08x}, sent at {sent:.6}, is lost"),
                );
            }
            return;
        };
        let encapsulated = packet.source.port() != NONE;
        if sa.key != packet.key {
            self.broken(
                "I8",
                &format!("the packet of {from} through {spi:08x} does not open"),
            );
            return;
        }
        if encapsulated != sa.encapsulation.is_some() {
            self.broken("I8", &format!("only one end carries {spi:08x} in UDP"));
            return;
        }
        let moved = encapsulated
            && (sa.source, sa.encapsulation.map(|(port, _)| port))
                != (packet.source.ip(), Some(packet.source.port()));
        let Some(spi) = EspSpi::new(spi).filter(|_| packet.told || moved) else {
            return;
        };
        let now = self.nodes[to].clocks(self.now);
        if moved {
            let remote = packet.source;
            let _ = self.nodes[to]
                .endpoint
                .handle_command(Command::Mapping { spi, remote }, now);
        }
        if packet.told {
            let _ = self.nodes[to]
                .endpoint
                .handle_command(Command::InboundSeen { spi }, now);
        }
        self.drain(to);
    }

    /// Whether a packet was sent by what a previous run had left.
    fn is_left_over(&self, packet: &Packet) -> bool {
        let node = &self.nodes[packet.from];
        packet.sent < node.restarted
            || node.kernel.sas.iter().any(|((protocol, spi, _), sa)| {
                (*protocol, *spi) == (packet.place.0, packet.place.1)
                    && !sa.inbound
                    && sa.generation < node.generation
            })
    }

    /// From when on two hosts have to agree about their SAs.
    pub(crate) fn lenient(&self, one: usize, other: usize) -> Duration {
        self.lenient_until
            .get(&pair(one, other))
            .copied()
            .unwrap_or_default()
    }

    /// Until when the children of two hosts may be without SAs.
    fn unsettled(&self, one: usize, other: usize) -> Duration {
        self.unsettled_until
            .get(&pair(one, other))
            .copied()
            .unwrap_or_default()
    }

    /// Something has happened to the children of two hosts that may leave them without SAs for a while.
    pub(crate) fn unsettle(&mut self, one: usize, other: usize) {
        self.settled
            .retain(|(from, to, _)| pair(*from, *to) != pair(one, other));
        self.unsettled_until.insert(pair(one, other), self.now + SETTLING);
    }

    pub(crate) fn unsettle_all(&mut self, index: usize) {
        for peer in 0..self.nodes.len() {
            self.unsettle(index, peer);
        }
    }

    /// Whether both ends send each child through an SA that the other end has.
    pub(crate) fn connected(&self) -> bool {
        self.pairs()
            .all(|(one, other)| self.sends(one, other) && self.sends(other, one))
    }

    fn sends(&self, from: usize, to: usize) -> bool {
        let node = &self.nodes[from];
        let current = node
            .kernel
            .sas
            .iter()
            .filter(|(_, sa)| !sa.inbound && sa.generation == node.generation && index_of(sa.peer) == to);
        let mut received = current.map(|(place, _)| self.twin(*place, to).is_some_and(|twin| twin.inbound));
        received.next() == Some(true) && received.all(|stands| stands)
    }
}
