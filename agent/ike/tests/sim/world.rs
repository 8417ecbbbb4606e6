//! Two endpoints, two kernels, one virtual clock and a network that drops, duplicates, delays and reorders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::wire::Message;
use ipsecmesh_ike::*;

use crate::chance::{Dice, Weather};
use crate::support::{address_of, endpoint_config, peer_config};
use crate::watch::Watch;

/// One SA in a simulated kernel.
#[derive(Clone, Debug)]
pub(crate) struct KernelSa {
    pub(crate) key: Vec<u8>,
    pub(crate) inbound: bool,
    pub(crate) child: ChildId,
    pub(crate) generation: u32,
    pub(crate) serial: u64,
}

/// What the driver plants into a run to see whether the checks catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// The driver reports an inbound SA as installed a while before it is.
    EarlyAnswer,
    /// The driver removes inbound SAs as soon as a rekey is through.
    NoGrace,
    /// The kernel keeps what it was told to remove.
    Forgets,
    /// The kernel installs outbound SAs with a wrong key.
    WrongKey,
}

type SaKeyName = (u32, IpAddr, IpAddr);

pub(crate) struct Node {
    pub(crate) host: u8,
    pub(crate) endpoint: Endpoint,
    pub(crate) provider: &'static Provider,
    pub(crate) kernel: BTreeMap<SaKeyName, KernelSa>,
    effects: VecDeque<Effect>,
    pub(crate) generation: u32,
    pub(crate) restarted: Duration,
    pub(crate) boot: u8,
    pub(crate) events: Vec<(Duration, Event)>,
    config: Option<PeerConfig>,
    configured: bool,
    seen: BTreeMap<EspSpi, u64>,
}

#[derive(Debug)]
enum Happening {
    Deliver {
        to: usize,
        path: Path,
        datagram: Vec<u8>,
    },
    Kernel {
        node: usize,
        generation: u32,
    },
    Install {
        node: usize,
        name: SaKeyName,
        sa: KernelSa,
    },
    Adopted {
        node: usize,
        name: SaKeyName,
    },
    Act {
        node: usize,
        act: Act,
    },
}

/// What happens to a node from outside.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Upsert(Box<PeerConfig>),
    /// The configuration loses or gains children, at this end.
    Children(u32),
    /// The configuration asks for shorter lifetimes, which rekeys everything.
    Shorter,
    /// The peer is removed, its configuration is remembered.
    Remove,
    /// The removed peer is back.
    Return,
    RekeyChild(u32),
    RekeyIke,
    /// The process dies and starts again.
    Restart {
        kernel_lost: bool,
    },
    Expire {
        hard: bool,
    },
    /// The directory tells the boot of the other node.
    PeerBooted,
    /// No datagram arrives for so many seconds.
    Outage(u64),
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: [Node; 2],
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    seed: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    pub(crate) trace: String,
    pub(crate) tracing: bool,
    pub(crate) trace_hash: u64,
    pub(crate) bug: Bug,
    /// Until when no datagram arrives.
    dark_until: Duration,
    /// From when on an outbound SA without its inbound SA at the peer is a failure.
    pub(crate) lenient_until: Duration,
    pub(crate) watch: Watch,
    pub(crate) failure: Option<String>,
}

fn now(at: Duration) -> Now {
    Now {
        mono: Instant::from_origin(at),
        wall: WallTime(1_800_000_000 + at.as_secs()),
    }
}

/// Without fragments, with the usual ones, or with many: each end as its seed says.
fn fragmenting(seed: u64, index: usize, config: EndpointConfig) -> EndpointConfig {
    let own = if index == 0 { seed } else { seed / 3 };
    EndpointConfig {
        fragment_size: match own % 3 {
            0 => None,
            1 => Some(EndpointConfig::FRAGMENT_SIZE),
            _ => Some(240),
        },
        ..config
    }
}

impl World {
    pub(crate) fn new(seed: u64, providers: [&'static Provider; 2]) -> Self {
        let node = |index: usize, host: u8| Node {
            host,
            endpoint: Endpoint::new(
                fragmenting(seed, index, endpoint_config(host, host)),
                providers[index],
                [u8::try_from(seed % 251).unwrap_or(0) ^ host; 32],
                now(Duration::ZERO),
            ),
            provider: providers[index],
            kernel: BTreeMap::new(),
            effects: VecDeque::new(),
            generation: 0,
            restarted: Duration::ZERO,
            boot: host,
            events: Vec::new(),
            config: None,
            configured: false,
            seen: BTreeMap::new(),
        };
        Self {
            now: Duration::ZERO,
            nodes: [node(0, 1), node(1, 2)],
            dice: Dice(seed ^ 0xdead_beef),
            weather: Weather::FAIR,
            seed,
            queue: BTreeMap::new(),
            serial: 0,
            trace: String::new(),
            tracing: false,
            trace_hash: 0,
            bug: Bug::None,
            dark_until: Duration::ZERO,
            lenient_until: Duration::ZERO,
            watch: Watch::default(),
            failure: None,
        }
    }

    pub(crate) fn at(&mut self, when: Duration, node: usize, act: Act) {
        self.push(when, Happening::Act { node, act });
    }

    fn push(&mut self, when: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.insert((when, self.serial), happening);
    }

    fn note(&mut self, line: &str) {
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.tracing {
            let _ = writeln!(self.trace, "{:>11.6} {line}", self.now.as_secs_f64());
        }
    }

    /// Runs until `end`, or until a check fails.
    pub(crate) fn run(&mut self, end: Duration) {
        let mut steps = 0_u32;
        while self.failure.is_none() {
            let timeout = |node: &Node| node.endpoint.poll_timeout().map(|(at, _)| at.since_origin());
            let due = [timeout(&self.nodes[0]), timeout(&self.nodes[1])];
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [due[0], due[1], queued].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            steps += 1;
            if steps > 200_000 {
                self.failure = Some("the run does not come to rest".to_owned());
                return;
            }
            if queued.is_some_and(|at| at <= self.now) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
            } else {
                for (index, due) in due.into_iter().enumerate() {
                    if due.is_some_and(|at| at <= self.now) {
                        let endpoint = &mut self.nodes[index].endpoint;
                        let reason = endpoint.poll_timeout().map(|(_, reason)| reason);
                        endpoint.handle_timeout(now(self.now));
                        self.note(&format!("{index} timer {reason:?}"));
                        self.drain(index);
                    }
                }
            }
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver {
                to,
                path,
                mut datagram,
            } => {
                self.watch_response(&datagram);
                let line = describe(&datagram);
                let disposition = self.nodes[to]
                    .endpoint
                    .handle_datagram(path, &mut datagram, now(self.now));
                self.note(&format!("{to} <- {line} {disposition:?}"));
                self.drain(to);
            }
            Happening::Kernel { node, generation } => self.kernel_turn(node, generation),
            Happening::Install { node, name, sa } => {
                self.nodes[node].kernel.insert(name, sa);
            }
            Happening::Adopted { node, name } => {
                let generation = self.nodes[node].generation;
                if self.nodes[node]
                    .kernel
                    .get(&name)
                    .is_some_and(|sa| sa.generation < generation)
                {
                    self.nodes[node].kernel.remove(&name);
                }
            }
            Happening::Act { node, act } => self.act(node, &act),
        }
    }

    fn act(&mut self, index: usize, act: &Act) {
        self.note(&format!("{index} act {act:?}"));
        if let Act::Restart { kernel_lost } = act {
            self.restart(index, *kernel_lost);
        }
        if let Act::Outage(seconds) = act {
            self.dark_until = self.now + Duration::from_secs(*seconds);
            self.forgive_until(self.dark_until);
        }
        let other = &self.nodes[1 - index];
        let (other_host, other_boot) = (other.host, other.boot);
        let node = &mut self.nodes[index];
        let peer = PeerId(u64::from(other_host));
        let command = match act {
            Act::Upsert(config) => {
                node.config = Some((**config).clone());
                node.configured = true;
                None
            }
            Act::Children(children) => {
                if let Some(config) = &mut node.config {
                    config.children = peer_config(node.host, other_host, *children).children;
                }
                None
            }
            Act::Shorter => {
                if let Some(config) = &mut node.config {
                    config.ike_lifetime = Duration::from_hours(50);
                    for child in &mut config.children {
                        child.lifetime.time = Duration::from_hours(12);
                    }
                }
                None
            }
            Act::Remove => {
                node.configured = false;
                Some(Command::RemovePeer { peer })
            }
            Act::Return => {
                node.configured = true;
                None
            }
            Act::RekeyChild(child) => Some(Command::RekeyChild {
                peer,
                child: ChildId(*child),
            }),
            Act::RekeyIke => Some(Command::RekeyIke { peer }),
            Act::PeerBooted => Some(Command::PeerBooted {
                peer,
                boot: BootId([other_boot; 16]),
            }),
            Act::Expire { hard } => {
                let generation = node.generation;
                let pick = node.kernel.iter().find(|(_, sa)| sa.generation == generation);
                pick.and_then(|((spi, ..), _)| EspSpi::new(*spi))
                    .map(|spi| Command::Expire { spi, hard: *hard })
            }
            Act::Restart { .. } | Act::Outage(_) => None,
        };
        let at = now(self.now);
        // The driver says what it wants whenever anything changes: the same again is nothing.
        let wanted = node.config.clone().filter(|_| node.configured);
        let upsert = wanted.map(|config| Command::UpsertPeer(Box::new(config)));
        for command in command.into_iter().chain(upsert) {
            let _ = node.endpoint.handle_command(command, at);
        }
        self.disown(index);
        self.drain(index);
    }

    /// The process dies and starts again, with or without the machine.
    fn restart(&mut self, index: usize, kernel_lost: bool) {
        // An SA of a previous run whose successor the kernel refuses has nothing to fall back on.
        if kernel_lost || self.weather.refusals > 0 {
            self.forgive();
        }
        let node = &mut self.nodes[index];
        node.generation += 1;
        node.restarted = self.now;
        node.effects.clear();
        if kernel_lost {
            node.kernel.clear();
            node.boot = node.boot.wrapping_add(16);
        }
        let seed = [node.boot ^ u8::try_from(node.generation % 200).unwrap_or(0); 32];
        let config = fragmenting(self.seed, index, endpoint_config(node.host, node.boot));
        node.endpoint = Endpoint::new(config, node.provider, seed, now(self.now));
    }

    /// Carries out the outputs of a node, in the order of the contract.
    fn drain(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].endpoint.poll_effect() {
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
            self.watch_request(index, &buffer);
            let line = describe(&buffer);
            self.note(&format!("{index} -> {line}"));
            self.send(index, transmit.path, &buffer);
        }
        while let Some(event) = self.nodes[index].endpoint.poll_event() {
            self.note(&format!("{index} event {event:?}"));
            if let Event::ChildEstablished { child, .. } = event {
                self.adopt(index, child);
            }
            let at = self.now;
            self.nodes[index].events.push((at, event));
        }
    }

    /// SAs of a previous run go when the new pair stands: outbound first.
    fn adopt(&mut self, index: usize, child: ChildId) {
        let node = &self.nodes[index];
        let own = address_of(node.host);
        let old: Vec<SaKeyName> = node
            .kernel
            .iter()
            .filter(|(_, sa)| sa.generation < node.generation && sa.child == child)
            .map(|(name, _)| *name)
            .collect();
        for name in old {
            let wait = Duration::from_secs(if name.1 == own { 1 } else { 10 });
            self.push(self.now + wait, Happening::Adopted { node: index, name });
        }
    }

    /// SAs of a previous run go when nobody wants their child any more: as if it had just been replaced.
    fn disown(&mut self, index: usize) {
        let node = &self.nodes[index];
        let wanted = |child: ChildId| {
            let config = node.config.as_ref().filter(|_| node.configured);
            config.is_some_and(|config| config.children.iter().any(|known| known.id == child))
        };
        let children: BTreeSet<ChildId> = node.kernel.values().map(|sa| sa.child).collect();
        let unwanted: Vec<ChildId> = children.into_iter().filter(|child| !wanted(*child)).collect();
        let left = |node: &Node, child: &ChildId| {
            let of_child = node.kernel.values().filter(|sa| sa.child == *child);
            of_child.into_iter().any(|sa| sa.generation < node.generation)
        };
        if unwanted
            .iter()
            .any(|child| self.nodes.iter().any(|node| left(node, child)))
        {
            // Neither end can tell the other of SAs whose IKE SA died with a previous run.
            self.forgive();
        }
        for child in unwanted {
            self.adopt(index, child);
        }
    }

    fn send(&mut self, from: usize, path: Path, datagram: &[u8]) {
        let path = Path {
            local: path.remote,
            remote: path.local,
        };
        let copies = 1 + u64::from(self.dice.percent(self.weather.duplicates));
        for _ in 0..copies {
            if self.dice.percent(self.weather.loss) || self.now < self.dark_until {
                continue;
            }
            let (low, high) = self.weather.delay;
            let wait = self.dice.millis(low, high);
            self.push(
                self.now + wait,
                Happening::Deliver {
                    to: 1 - from,
                    path,
                    datagram: datagram.to_vec(),
                },
            );
        }
    }

    /// The kernel carries out the oldest effect of a node.
    fn kernel_turn(&mut self, index: usize, generation: u32) {
        if self.nodes[index].generation != generation {
            return;
        }
        let Some(effect) = self.nodes[index].effects.pop_front() else {
            return;
        };
        let refuse = self.dice.percent(self.weather.refusals);
        let in_use = self.dice.percent(50);
        let line = format!("{index} kernel {:?}", effect.action);
        self.serial += 1;
        let serial = self.serial;
        let key = |name: &SaName| (name.spi.value(), name.source, name.destination);
        let outcome = match &effect.action {
            EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) => {
                let inbound = matches!(effect.action, EffectAction::InstallInbound(_));
                let name = key(&spec.name);
                if refuse && in_use {
                    EffectOutcome::SpiInUse
                } else if refuse {
                    EffectOutcome::Failed("simulated".to_owned())
                } else if self.nodes[index].kernel.contains_key(&name) {
                    EffectOutcome::SpiInUse
                } else {
                    let mut key = spec.key.0.to_vec();
                    if self.bug == Bug::WrongKey && !inbound {
                        key[0] ^= 1;
                    }
                    let sa = KernelSa {
                        key,
                        inbound,
                        child: spec.child,
                        generation,
                        serial,
                    };
                    if self.bug == Bug::EarlyAnswer && inbound {
                        self.push(
                            self.now + Duration::from_millis(30),
                            Happening::Install {
                                node: index,
                                name,
                                sa,
                            },
                        );
                    } else {
                        self.nodes[index].kernel.insert(name, sa);
                    }
                    EffectOutcome::Done
                }
            }
            EffectAction::Encapsulate(..) if refuse => EffectOutcome::Failed("simulated".to_owned()),
            EffectAction::Encapsulate(..) => EffectOutcome::Done,
            EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => {
                if self.bug != Bug::Forgets {
                    self.nodes[index].kernel.remove(&key(name));
                }
                EffectOutcome::Done
            }
        };
        self.note(&format!("{line} {outcome:?}"));
        self.check();
        if self.bug == Bug::NoGrace && matches!(effect.action, EffectAction::InstallInbound(_)) {
            self.drop_older_inbound(index, serial);
        }
        self.nodes[index]
            .endpoint
            .handle_effect(effect.id, outcome, now(self.now));
        self.drain(index);
    }

    fn drop_older_inbound(&mut self, index: usize, serial: u64) {
        self.nodes[index]
            .kernel
            .retain(|_, sa| !sa.inbound || sa.serial == serial);
    }

    /// A packet of each outbound SA arrives: the driver reports it at the other end.
    pub(crate) fn traffic(&mut self) {
        for index in 0..2 {
            let newest: Vec<EspSpi> = self.nodes[index]
                .kernel
                .iter()
                .filter(|(_, sa)| !sa.inbound)
                .filter_map(|(name, _)| EspSpi::new(name.0))
                .collect();
            for spi in newest {
                let _ = self.nodes[index]
                    .endpoint
                    .handle_command(Command::OutboundSeen { spi }, now(self.now));
                self.drain(index);
                *self.nodes[1 - index].seen.entry(spi).or_default() += 1;
                let _ = self.nodes[1 - index]
                    .endpoint
                    .handle_command(Command::InboundSeen { spi }, now(self.now));
                self.drain(1 - index);
            }
        }
    }
}

fn describe(datagram: &[u8]) -> String {
    match Message::parse(datagram) {
        Ok(message) => {
            let header = message.header;
            format!(
                "{} {} {} {}_{} {} bytes",
                header.exchange,
                if header.flags.is_response() {
                    "response"
                } else {
                    "request"
                },
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
