//! What happens to a host from outside, and what its driver does then.

use std::time::Duration;

use ipsecmesh_ike::*;

use crate::kernel::Step;
use crate::node::{Wanted, id_of, index_of};
use crate::world::World;

/// What happens to one host. Peers are named by their index.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Traffic waits for an SA.
    Acquire(usize, u32),
    /// The configuration loses or gains children, at this end.
    Children(usize, u32),
    /// Nothing that this host sends arrives at the other for so many seconds.
    Cut(usize, u64),
    /// The kernel's limit of an SA is reached.
    Expire {
        hard: bool,
        which: usize,
    },
    /// Requests to begin come from everywhere, in the name of the peer and of strangers.
    Flood(usize, u64),
    /// No datagram arrives anywhere for so many seconds.
    Outage(u64),
    /// The directory tells the boot of the peer.
    PeerBooted(usize),
    /// The NAT forgets its mappings.
    Rebind,
    /// The kernel refuses a step, after so many that it does not.
    Refuse(Step, u64),
    RekeyChild(usize, u32),
    RekeyIke(usize),
    /// The peer is removed, its configuration is remembered.
    Remove(usize),
    /// The process dies and starts again.
    Restart {
        kernel_lost: bool,
    },
    /// The removed peer is back.
    Return(usize),
    /// The configuration asks for shorter lifetimes, which rekeys everything.
    Shorter(usize),
    /// Every child carries a packet; the driver tells the engine of it or not.
    Traffic {
        told: bool,
    },
    /// The peer is configured with so many children.
    Upsert(usize, u32),
    /// The wall clock jumps by so many seconds.
    WallClock(i64),
}

impl World {
    pub(crate) fn act(&mut self, index: usize, act: &Act) {
        if let Act::Traffic { told } = act {
            self.traffic(index, *told);
            return;
        }
        self.note(&[1], || format!("{index} act {act:?}"));
        self.surroundings(index, act);
        if let Some(command) = self.command(index, act) {
            let now = self.nodes[index].clocks(self.now);
            let _ = self.nodes[index].endpoint.handle_command(command, now);
        }
        let at = self.now;
        self.nodes[index].tell(at);
        self.disown(index);
        self.drain(index);
    }

    /// What changes around the engine.
    fn surroundings(&mut self, index: usize, act: &Act) {
        let seconds = |seconds: &u64| Duration::from_secs(*seconds);
        match act {
            Act::Children(peer, children) => {
                let edited = self.config(index, *peer, *children).children;
                let wanted = self.nodes[index].wanted.get_mut(peer);
                if let Some(wanted) = wanted.filter(|wanted| wanted.config.children.len() != edited.len()) {
                    wanted.config.children = edited;
                    self.unsettle(index, *peer);
                }
            }
            Act::Cut(peer, length) => {
                let end = self.now + seconds(length);
                self.network.cut(index, *peer, end);
                self.forgive_until(index, *peer, end);
            }
            Act::Expire { hard: true, .. } => self.unsettle_all(index),
            Act::Flood(source, count) => self.flood(index, *source, *count),
            Act::Outage(length) => {
                let end = self.now + seconds(length);
                for (one, other) in self.pairs() {
                    self.network.cut(one, other, end);
                    self.network.cut(other, one, end);
                    self.forgive_until(one, other, end);
                }
            }
            Act::PeerBooted(peer) => self.unsettle(index, *peer),
            Act::Rebind => {
                self.network.rebind();
                for (one, other) in self.pairs() {
                    if self.network.hides(one) {
                        self.forgive(one, other);
                    }
                }
            }
            Act::Refuse(step, after) => {
                self.refusing = true;
                self.nodes[index].kernel.refusals.push((*step, *after));
            }
            Act::Remove(peer) => {
                self.unsettle(index, *peer);
                if let Some(wanted) = self.nodes[index].wanted.get_mut(peer) {
                    wanted.present = false;
                }
            }
            Act::Restart { kernel_lost } => self.restart(index, *kernel_lost),
            Act::Return(peer) => {
                if let Some(wanted) = self.nodes[index].wanted.get_mut(peer) {
                    wanted.present = true;
                }
            }
            Act::Shorter(peer) => {
                if let Some(wanted) = self.nodes[index].wanted.get_mut(peer) {
                    wanted.config.ike_lifetime = Duration::from_hours(50);
                    for child in &mut wanted.config.children {
                        child.lifetime.time = Duration::from_hours(12);
                    }
                }
            }
            Act::Upsert(peer, children) => {
                let config = self.config(index, *peer, *children);
                let wanted = Wanted {
                    config,
                    present: true,
                };
                self.nodes[index].wanted.insert(*peer, wanted);
            }
            Act::WallClock(by) => self.nodes[index].wall_clock += by,
            Act::Acquire(..)
            | Act::Expire { hard: false, .. }
            | Act::RekeyChild(..)
            | Act::RekeyIke(_)
            | Act::Traffic { .. } => {}
        }
    }

    /// What the engine is told.
    fn command(&self, index: usize, act: &Act) -> Option<Command> {
        match act {
            Act::Acquire(peer, child) => Some(Command::Acquire {
                peer: id_of(*peer),
                child: ChildId(*child),
            }),
            Act::Expire { hard, which } => {
                let node = &self.nodes[index];
                let own = node.kernel.sas.iter();
                let own: Vec<u32> = own
                    .filter(|(_, sa)| sa.generation == node.generation)
                    .map(|((_, spi, _), _)| *spi)
                    .collect();
                let spi = own.get(which.checked_rem(own.len())?).copied()?;
                EspSpi::new(spi).map(|spi| Command::Expire { spi, hard: *hard })
            }
            Act::PeerBooted(peer) => Some(Command::PeerBooted {
                peer: id_of(*peer),
                boot: BootId([self.nodes[*peer].boot; 16]),
            }),
            Act::RekeyChild(peer, child) => Some(Command::RekeyChild {
                peer: id_of(*peer),
                child: ChildId(*child),
            }),
            Act::RekeyIke(peer) => Some(Command::RekeyIke { peer: id_of(*peer) }),
            Act::Remove(peer) => Some(Command::RemovePeer { peer: id_of(*peer) }),
            Act::Children(..)
            | Act::Cut(..)
            | Act::Flood(..)
            | Act::Outage(_)
            | Act::Rebind
            | Act::Refuse(..)
            | Act::Restart { .. }
            | Act::Return(_)
            | Act::Shorter(_)
            | Act::Traffic { .. }
            | Act::Upsert(..)
            | Act::WallClock(_) => None,
        }
    }

    fn restart(&mut self, index: usize, kernel_lost: bool) {
        // An SA of a previous run whose successor the kernel refuses has nothing to fall back on.
        if kernel_lost || self.refusing || self.weather.refusals > 0 {
            for peer in 0..self.nodes.len() {
                self.forgive(index, peer);
            }
        }
        let at = self.now;
        self.nodes[index].restart(kernel_lost, at);
        self.changed = true;
    }

    /// SAs of a previous run go when nobody wants their child any more: as if it had just been replaced.
    fn disown(&mut self, index: usize) {
        for (peer, child) in self.nodes[index].unwanted() {
            let other = index_of(peer);
            let left = !self.nodes[index].left_over(peer, child).is_empty()
                || !self.nodes[other].left_over(id_of(index), child).is_empty();
            if left {
                // Neither end can tell the other of SAs whose IKE SA died with a previous run.
                self.forgive(index, other);
            }
            self.adopt(index, peer, child);
        }
    }
}
