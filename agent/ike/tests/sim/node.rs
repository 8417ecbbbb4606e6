//! One host: its engine, its kernel, and the driver between them, which also keeps what it was told to want.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ipsecmesh_ike::*;

use crate::kernel::{Kernel, Place};
use crate::support::{cheap, endpoint_config};

/// Seconds since 1970 at the beginning of a run.
const WALL_CLOCK: u64 = 1_800_000_000;

pub(crate) struct Node {
    pub(crate) host: u8,
    pub(crate) endpoint: Endpoint,
    pub(crate) kernel: Kernel,
    /// What the kernel has not carried out yet.
    pub(crate) effects: VecDeque<Effect>,
    /// Counts the lives of the process.
    pub(crate) generation: u32,
    pub(crate) restarted: Duration,
    pub(crate) boot: u8,
    pub(crate) events: Vec<(Duration, Event)>,
    /// The peers by their index.
    pub(crate) wanted: BTreeMap<usize, Wanted>,
    /// How far the wall clock is off, in seconds.
    pub(crate) wall_clock: i64,
    seed: u64,
}

/// A peer as it is configured, or was before it was removed.
pub(crate) struct Wanted {
    pub(crate) config: PeerConfig,
    pub(crate) present: bool,
}

/// The index of a peer.
pub(crate) fn index_of(peer: PeerId) -> usize {
    usize::try_from(peer.0).unwrap_or_default().saturating_sub(1)
}

/// The engine's name for the node with this index.
pub(crate) fn id_of(index: usize) -> PeerId {
    PeerId(u64::try_from(index).unwrap_or_default() + 1)
}

impl Node {
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        let host = u8::try_from(index + 1).unwrap_or_default();
        let jitter = [u8::try_from(seed % 251).unwrap_or(0) ^ host; 32];
        Self {
            host,
            endpoint: engine(seed, host, host, jitter, Now::at(Duration::ZERO, 0)),
            kernel: Kernel::default(),
            effects: VecDeque::new(),
            generation: 0,
            restarted: Duration::ZERO,
            boot: host,
            events: Vec::new(),
            wanted: BTreeMap::new(),
            wall_clock: 0,
            seed,
        }
    }

    /// Both clocks: the wall clock may be wrong, the monotonic one is not.
    pub(crate) fn clocks(&self, at: Duration) -> Now {
        Now::at(at, self.wall_clock)
    }

    /// The configuration of a peer that is not removed.
    pub(crate) fn configured(&self, peer: usize) -> Option<&PeerConfig> {
        self.wanted
            .get(&peer)
            .filter(|wanted| wanted.present)
            .map(|wanted| &wanted.config)
    }

    /// The process dies and starts again, with or without the machine.
    pub(crate) fn restart(&mut self, kernel_lost: bool, at: Duration) {
        self.generation += 1;
        self.restarted = at;
        self.effects.clear();
        if kernel_lost {
            self.kernel.sas.clear();
            self.boot = self.boot.wrapping_add(16);
        }
        let jitter = [self.boot ^ u8::try_from(self.generation % 200).unwrap_or(0); 32];
        self.endpoint = engine(self.seed, self.host, self.boot, jitter, self.clocks(at));
    }

    /// The driver says what it wants whenever anything changes: the same again is nothing.
    pub(crate) fn tell(&mut self, at: Duration) {
        let now = self.clocks(at);
        for wanted in self.wanted.values().filter(|wanted| wanted.present) {
            let upsert = Command::UpsertPeer(Box::new(wanted.config.clone()));
            let _ = self.endpoint.handle_command(upsert, now);
        }
    }

    /// The SAs of a child that a previous run has left.
    pub(crate) fn left_over(&self, peer: PeerId, child: ChildId) -> Vec<(Place, bool)> {
        let old = self
            .kernel
            .sas
            .iter()
            .filter(|(_, sa)| sa.generation < self.generation && sa.peer == peer && sa.child == child);
        old.map(|(place, sa)| (*place, sa.inbound)).collect()
    }

    /// Children of which the kernel has SAs and that nobody wants any more.
    pub(crate) fn unwanted(&self) -> Vec<(PeerId, ChildId)> {
        let wanted = |peer: PeerId, child: ChildId| {
            self.configured(index_of(peer))
                .is_some_and(|config| config.children.iter().any(|known| known.id == child))
        };
        let mut unwanted: Vec<(PeerId, ChildId)> = Vec::new();
        for sa in self.kernel.sas.values() {
            if !wanted(sa.peer, sa.child) && !unwanted.contains(&(sa.peer, sa.child)) {
                unwanted.push((sa.peer, sa.child));
            }
        }
        unwanted
    }
}

trait At {
    fn at(mono: Duration, wall_clock: i64) -> Self;
}

impl At for Now {
    fn at(mono: Duration, wall_clock: i64) -> Self {
        let right = WALL_CLOCK + mono.as_secs();
        Self {
            mono: Instant::from_origin(mono),
            wall: WallTime(right.saturating_add_signed(wall_clock)),
        }
    }
}

/// Without fragments, with the usual ones, or with many: each end as its seed says.
fn engine(seed: u64, host: u8, boot: u8, jitter: [u8; 32], now: Now) -> Endpoint {
    let own = seed / 3_u64.pow(u32::from(host) - 1);
    let config = EndpointConfig {
        fragment_size: match own % 3 {
            0 => None,
            1 => Some(EndpointConfig::FRAGMENT_SIZE),
            _ => Some(240),
        },
        ..endpoint_config(host, boot)
    };
    Endpoint::new(config, cheap::provider(), jitter, now)
}
