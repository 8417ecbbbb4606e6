//! Hosts, one virtual clock, and what happens when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use ipsecmesh_ike::wire::Message;
use ipsecmesh_ike::*;

use crate::act::Act;
use crate::chance::{Dice, Weather};
use crate::kernel::{Bug, KernelSa, Place, misfit};
use crate::mix::{Ends, Mix};
use crate::network::Network;
use crate::node::{Node, index_of};
use crate::packets::Packet;
use crate::watch::Watch;

/// More steps than any run needs.
const STEPS: u32 = 400_000;

/// How long a kernel with [`Bug::EarlyAnswer`] takes.
const LATE: Duration = Duration::from_millis(30);

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) dice: Dice,
    /// What an attacker does is drawn apart: a run with and one without are otherwise the same.
    pub(crate) attacker: Dice,
    /// What a flood consists of is drawn apart from that: it comes with and without forged datagrams.
    pub(crate) flooder: Dice,
    pub(crate) weather: Weather,
    /// How each pair is configured, by the lower and the higher index.
    pub(crate) mixes: BTreeMap<(usize, usize), Mix>,
    /// The children of each pair.
    pub(crate) children: BTreeMap<(usize, usize), u32>,
    /// Some kernel refuses something in this run.
    pub(crate) refusing: bool,
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    pub(crate) trace: String,
    pub(crate) tracing: bool,
    pub(crate) trace_hash: u64,
    /// A kernel has changed since the SAs were looked at.
    pub(crate) changed: bool,
    /// From when on an outbound SA without its inbound SA at the peer is a failure, for each pair.
    pub(crate) lenient_until: BTreeMap<(usize, usize), Duration>,
    /// Children that have carried packets, and that nothing has happened to since.
    pub(crate) settled: BTreeSet<(usize, usize, ChildId)>,
    /// Until when no child of a pair is expected to carry packets.
    pub(crate) unsettled_until: BTreeMap<(usize, usize), Duration>,
    pub(crate) watch: Watch,
    /// Datagrams that were accepted, for who replays them.
    pub(crate) heard: Vec<(usize, Path, Vec<u8>)>,
    /// The rule that was broken, and how.
    pub(crate) failure: Option<String>,
}

#[derive(Debug)]
enum Happening {
    Act {
        node: usize,
        act: Act,
    },
    Adopted {
        node: usize,
        place: Place,
    },
    Arrive(Box<Packet>),
    Deliver {
        to: usize,
        path: Path,
        datagram: Vec<u8>,
    },
    Install {
        node: usize,
        place: Place,
        sa: KernelSa,
    },
    Kernel {
        node: usize,
        generation: u32,
    },
}

/// The lower index first.
pub(crate) fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl World {
    /// So many hosts, all of whose pairs are configured alike.
    pub(crate) fn new(seed: u64, hosts: usize) -> Self {
        Self {
            now: Duration::ZERO,
            nodes: (0..hosts).map(|index| Node::new(seed, index)).collect(),
            network: Network::new(hosts),
            dice: Dice(seed ^ 0xdead_beef),
            attacker: Dice(seed ^ 0x0bad_cafe),
            flooder: Dice(seed ^ 0x0f10_0d5e),
            weather: Weather::FAIR,
            mixes: BTreeMap::new(),
            children: BTreeMap::new(),
            refusing: false,
            queue: BTreeMap::new(),
            serial: 0,
            trace: String::new(),
            tracing: false,
            trace_hash: 0xcbf2_9ce4_8422_2325,
            changed: false,
            lenient_until: BTreeMap::new(),
            settled: BTreeSet::new(),
            unsettled_until: BTreeMap::new(),
            watch: Watch::default(),
            heard: Vec::new(),
            failure: None,
        }
    }

    pub(crate) fn plant(&mut self, bug: Bug) {
        for node in &mut self.nodes {
            node.kernel.bug = bug;
        }
    }

    /// Every pair of hosts once.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let hosts = self.nodes.len();
        (0..hosts).flat_map(move |one| (one + 1..hosts).map(move |other| (one, other)))
    }

    /// How one host is to be configured for another, with so many children.
    pub(crate) fn config(&self, local: usize, remote: usize, children: u32) -> PeerConfig {
        let mix = self.mixes.get(&pair(local, remote)).cloned().unwrap_or_default();
        let ends = Ends {
            local: (self.nodes[local].host, Network::inside(local)),
            remote: (self.nodes[remote].host, self.network.outside(remote)),
        };
        mix.config(ends, children)
    }

    pub(crate) fn at(&mut self, when: Duration, node: usize, act: Act) {
        self.push(when, Happening::Act { node, act });
    }

    fn push(&mut self, when: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.insert((when, self.serial), happening);
    }

    /// A rule is broken. The first one counts.
    pub(crate) fn broken(&mut self, rule: &str, how: &str) {
        if self.failure.is_none() {
            self.failure = Some(format!("{rule}: {how}"));
        }
    }

    /// A line of the trace, which is only made when somebody reads it, and what stands for it in the hash.
    pub(crate) fn note(&mut self, bytes: &[u8], line: impl FnOnce() -> String) {
        let at = self.now.as_nanos().to_le_bytes();
        for chunk in at.chunks(8).chain(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = self.trace_hash ^ u64::from_le_bytes(word);
            self.trace_hash = mixed.wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        self.remark(line);
    }

    /// A line of the trace that the hash does not cover.
    pub(crate) fn remark(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            let _ = writeln!(self.trace, "{:>11.6} {}", self.now.as_secs_f64(), line());
        }
    }

    /// Runs until `end`, or until a rule is broken.
    pub(crate) fn run(&mut self, end: Duration) {
        let mut steps = 0_u32;
        while self.failure.is_none() {
            let timeout = |node: &Node| node.endpoint.poll_timeout().map(|(at, _)| at.since_origin());
            let due = self.nodes.iter().enumerate();
            let due = due
                .filter_map(|(index, node)| Some((timeout(node)?, index)))
                .min();
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [due.map(|(at, _)| at), queued].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            steps += 1;
            if steps > STEPS {
                self.broken("rest", "the run does not end");
                return;
            }
            if queued.is_some_and(|at| at <= self.now) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
            } else if let Some((_, index)) = due {
                let reason = self.nodes[index]
                    .endpoint
                    .poll_timeout()
                    .map(|(_, reason)| reason);
                let now = self.nodes[index].clocks(self.now);
                self.nodes[index].endpoint.handle_timeout(now);
                self.note(&index.to_le_bytes(), || format!("{index} timer {reason:?}"));
                self.drain(index);
            }
            if self.changed {
                self.changed = false;
                self.check_pairs();
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Act { node, act } => self.act(node, &act),
            Happening::Adopted { node, place } => {
                let generation = self.nodes[node].generation;
                let sas = &mut self.nodes[node].kernel.sas;
                if sas.get(&place).is_some_and(|sa| sa.generation < generation) {
                    sas.remove(&place);
                    self.changed = true;
                }
            }
            Happening::Arrive(packet) => self.arrive(&packet),
            Happening::Deliver { to, path, datagram } => self.deliver(to, path, datagram),
            Happening::Install { node, place, sa } => {
                self.nodes[node].kernel.sas.insert(place, sa);
                self.changed = true;
            }
            Happening::Kernel { node, generation } => self.kernel_turn(node, generation),
        }
    }

    fn deliver(&mut self, to: usize, path: Path, mut datagram: Vec<u8>) {
        if self.attacker.percent(self.weather.forgeries) {
            self.forge(to, path, &datagram);
        }
        self.watch_response(&datagram);
        let original = (self.weather.forgeries > 0 || self.tracing).then(|| datagram.clone());
        let now = self.nodes[to].clocks(self.now);
        let disposition = self.nodes[to].endpoint.handle_datagram(path, &mut datagram, now);
        self.note(&[u8::try_from(to).unwrap_or_default()], || {
            let line = describe(original.as_deref().unwrap_or_default());
            format!("{to} <- {} {line} {disposition:?}", path.remote)
        });
        if let Some(original) = original
            && self.weather.forgeries > 0
            && disposition == Disposition::Accepted
        {
            self.heard.push((to, path, original));
        }
        self.drain(to);
    }

    /// Carries out the outputs of a node, in the order of the contract.
    pub(crate) fn drain(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].endpoint.poll_effect() {
            self.emitted(index, &effect);
            let generation = self.nodes[index].generation;
            let (low, high) = self.weather.kernel;
            let wait = self.dice.millis(low, high);
            self.nodes[index].effects.push_back(effect);
            self.push(
                self.now + wait,
                Happening::Kernel {
                    node: index,
                    generation,
                },
            );
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.nodes[index].endpoint.poll_transmit(&mut buffer) {
            self.watch_request(index, transmit.path, &buffer);
            self.note(&buffer, || {
                format!("{index} -> {} {}", transmit.path.remote, describe(&buffer))
            });
            self.send(index, transmit.path, &buffer);
        }
        while let Some(event) = self.nodes[index].endpoint.poll_event() {
            self.remark(|| format!("{index} event {event:?}"));
            if let Event::ChildEstablished { peer, child, .. } = event {
                self.adopt(index, peer, child);
            }
            let at = self.now;
            self.nodes[index].events.push((at, event));
        }
    }

    /// What the engine asks for has to fit the policies that stand (invariant I2).
    fn emitted(&mut self, index: usize, effect: &Effect) {
        if let EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) = &effect.action {
            let configured = self.nodes[index].configured(index_of(spec.peer));
            if let Some(how) = misfit(&effect.action, configured) {
                let spi = spec.name.spi;
                self.broken("I2", &format!("{index} installs {spi}, an SA {how}"));
            }
        }
    }

    /// SAs of a previous run go when the new pair stands: outbound first.
    pub(crate) fn adopt(&mut self, index: usize, peer: PeerId, child: ChildId) {
        for (place, inbound) in self.nodes[index].left_over(peer, child) {
            let wait = Duration::from_secs(if inbound { 35 } else { 1 });
            self.push(self.now + wait, Happening::Adopted { node: index, place });
        }
    }

    fn send(&mut self, from: usize, path: Path, datagram: &[u8]) {
        let Some((to, path)) = self.network.route(from, path, self.now) else {
            return;
        };
        let copies = 1 + u64::from(self.dice.percent(self.weather.duplicates));
        for _ in 0..copies {
            if self.dice.percent(self.weather.loss) {
                continue;
            }
            let (low, high) = self.weather.delay;
            let wait = self.dice.millis(low, high);
            let datagram = datagram.to_vec();
            self.push(self.now + wait, Happening::Deliver { to, path, datagram });
        }
    }

    /// A datagram is on its way to a host, sent by nobody of this world.
    pub(crate) fn inject(&mut self, to: usize, path: Path, datagram: Vec<u8>) {
        let (low, high) = self.weather.delay;
        let wait = self.dice.millis(low, high);
        self.push(self.now + wait, Happening::Deliver { to, path, datagram });
    }

    pub(crate) fn on_its_way(&mut self, packet: Packet) {
        let (low, high) = self.weather.delay;
        let wait = self.dice.millis(low, high);
        self.push(self.now + wait, Happening::Arrive(Box::new(packet)));
    }

    /// The kernel carries out the oldest effect of a node.
    fn kernel_turn(&mut self, index: usize, generation: u32) {
        if self.nodes[index].generation != generation {
            return;
        }
        let Some(effect) = self.nodes[index].effects.pop_front() else {
            return;
        };
        let by_chance = self.dice.percent(self.weather.refusals);
        let in_use = self.dice.percent(50);
        let removes = matches!(
            effect.action,
            EffectAction::RemoveInbound(_) | EffectAction::RemoveOutbound(_)
        );
        let installed = match &effect.action {
            EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) => Some(spec.peer),
            EffectAction::Encapsulate(..)
            | EffectAction::RemoveInbound(_)
            | EffectAction::RemoveOutbound(_) => None,
        };
        self.serial += 1;
        let serial = self.serial;
        let kernel = &mut self.nodes[index].kernel;
        let refused = kernel.refuses(&effect.action) || (by_chance && !removes);
        let outcome = refused.then(|| {
            if installed.is_some() && in_use {
                EffectOutcome::SpiInUse
            } else {
                EffectOutcome::Failed("simulated".to_owned())
            }
        });
        let (outcome, late) = kernel.carry_out(&effect.action, outcome, generation, serial);
        if let Some(peer) = installed.filter(|_| refused) {
            self.unsettle(index, index_of(peer));
        }
        if let Some((place, sa)) = late {
            self.push(
                self.now + LATE,
                Happening::Install {
                    node: index,
                    place,
                    sa,
                },
            );
        }
        self.note(&[u8::from(refused)], || {
            format!("{index} kernel {:?} {outcome:?}", effect.action)
        });
        self.check_pairs();
        let now = self.nodes[index].clocks(self.now);
        self.nodes[index].endpoint.handle_effect(effect.id, outcome, now);
        self.drain(index);
    }
}

pub(crate) fn describe(datagram: &[u8]) -> String {
    match Message::parse(datagram) {
        Ok(message) => {
            let header = message.header;
            let kind = if header.flags.is_response() {
                "response"
            } else {
                "request"
            };
            format!(
                "{} {kind} {} {}_{} {} bytes",
                header.exchange,
                header.message_id,
                header.initiator_spi,
                header
                    .responder_spi
                    .map_or_else(|| "-".to_owned(), |spi| spi.to_string()),
                datagram.len(),
            )
        }
        Err(error) => format!("unreadable: {error}"),
    }
}
