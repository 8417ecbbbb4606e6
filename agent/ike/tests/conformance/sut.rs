//! The engine under test on host 1, with a driver that carries out what it asks for, and a virtual clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;

use crate::support::{address_of, cheap, endpoint_config, peer_config, psk};

/// The secret of host 1 and host 2.
pub(crate) const SECRET: &[u8] = b"a secret of both";

/// The peer.
pub(crate) const PEER: PeerId = PeerId(2);

pub(crate) struct Sut {
    pub(crate) endpoint: Endpoint,
    pub(crate) now: Duration,
    /// What it has sent.
    pub(crate) sent: VecDeque<(Path, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
    /// Effects that have no answer while the kernel is held.
    pub(crate) held: VecDeque<Effect>,
    /// Whether effects wait for [`Sut::release`].
    pub(crate) hold: bool,
    /// Installed halves by SPI; the value tells whether it is inbound.
    pub(crate) kernel: BTreeMap<u32, bool>,
    /// Every effect so far, spelled out.
    pub(crate) log: Vec<String>,
    /// Encapsulation of the last half that was installed.
    pub(crate) encapsulation: Option<(u16, u16)>,
    /// Selectors of the last half that was installed: source, destination.
    pub(crate) selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
}

/// Host 1's view of the path to another host.
pub(crate) fn path_to(host: u8, local_port: u16, remote_port: u16) -> Path {
    Path {
        local: SocketAddr::new(address_of(1), local_port),
        remote: SocketAddr::new(address_of(host), remote_port),
    }
}

/// Host 1's configuration of host 2 with a shared secret.
pub(crate) fn configured(children: u32) -> PeerConfig {
    let mut config = peer_config(1, 2, children);
    config.auth = psk(SECRET);
    config
}

/// The same, but host 1 only answers.
pub(crate) fn answering(children: u32) -> PeerConfig {
    let mut config = configured(children);
    config.initiation = Initiation::OnDemand;
    config
}

impl Sut {
    /// An engine without peers.
    pub(crate) fn empty(config: EndpointConfig, provider: &'static Provider) -> Self {
        cheap::seed(7);
        Self {
            endpoint: Endpoint::new(config, provider, [7; 32], Now::default()),
            now: Duration::ZERO,
            sent: VecDeque::new(),
            events: Vec::new(),
            held: VecDeque::new(),
            hold: false,
            kernel: BTreeMap::new(),
            log: Vec::new(),
            encapsulation: None,
            selectors: (Vec::new(), Vec::new()),
        }
    }

    /// An engine that knows one peer.
    pub(crate) fn with(config: PeerConfig) -> Self {
        let mut sut = Self::empty(endpoint_config(1, 1), cheap::provider());
        sut.command(Command::UpsertPeer(Box::new(config)));
        sut
    }

    pub(crate) fn with_limits(config: PeerConfig, limits: Limits) -> Self {
        let endpoint = EndpointConfig {
            limits,
            ..endpoint_config(1, 1)
        };
        let mut sut = Self::empty(endpoint, cheap::provider());
        sut.command(Command::UpsertPeer(Box::new(config)));
        sut
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: Instant::from_origin(self.now),
            wall: WallTime(1_800_000_000 + self.now.as_secs()),
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        let now = self.now();
        self.endpoint
            .handle_command(command, now)
            .expect("the command is valid");
        self.drain();
    }

    /// A datagram arrives.
    pub(crate) fn give(&mut self, path: Path, datagram: &[u8]) -> Disposition {
        let now = self.now();
        let disposition = self.endpoint.handle_datagram(path, &mut datagram.to_vec(), now);
        self.drain();
        disposition
    }

    /// A datagram arrives, and there is exactly one answer.
    pub(crate) fn ask(&mut self, path: Path, datagram: &[u8]) -> Vec<u8> {
        assert!(self.sent.is_empty(), "something was sent before");
        self.give(path, datagram);
        let answer = self.take().1;
        assert!(self.sent.is_empty(), "more than one answer");
        answer
    }

    /// The next datagram that was sent.
    pub(crate) fn take(&mut self) -> (Path, Vec<u8>) {
        self.sent.pop_front().expect("a datagram is sent")
    }

    /// Nothing was sent.
    pub(crate) fn assert_silent(&self) {
        assert_eq!(self.sent.len(), 0, "something was sent");
    }

    /// Time passes; timers fire when they are due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.endpoint.poll_timeout() {
            if at.since_origin() > end {
                break;
            }
            self.now = self.now.max(at.since_origin());
            let now = self.now();
            self.endpoint.handle_timeout(now);
            self.drain();
        }
        self.now = end;
    }

    /// Time passes until something is sent.
    pub(crate) fn pass_until_sent(&mut self, most: Duration) -> Duration {
        let start = self.now;
        while self.sent.is_empty() {
            let (at, _) = self.endpoint.poll_timeout().expect("a timer runs");
            assert!(
                at.since_origin() <= start + most,
                "nothing is sent within {most:?}"
            );
            self.pass(at.since_origin().saturating_sub(self.now));
        }
        self.now.saturating_sub(start)
    }

    /// The kernel answers for the oldest effect that waits.
    pub(crate) fn release(&mut self, outcome: Option<EffectOutcome>) {
        let effect = self.held.pop_front().expect("an effect waits");
        let line = format!("{:?}", effect.action);
        self.log
            .push(line.split([' ', '(']).next().unwrap_or_default().to_owned());
        let outcome = outcome.unwrap_or(EffectOutcome::Done);
        if outcome == EffectOutcome::Done {
            match &effect.action {
                EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) => {
                    let inbound = matches!(effect.action, EffectAction::InstallInbound(_));
                    self.encapsulation = spec.encapsulation;
                    self.selectors = (spec.source_selectors.clone(), spec.destination_selectors.clone());
                    self.kernel.insert(spec.name.spi.value(), inbound);
                }
                EffectAction::Encapsulate(name, ports) => {
                    assert!(self.kernel.contains_key(&name.spi.value()), "an SA that stands");
                    self.encapsulation = Some(*ports);
                }
                EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => {
                    self.kernel.remove(&name.spi.value());
                }
            }
        }
        let now = self.now();
        self.endpoint.handle_effect(effect.id, outcome, now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.endpoint.poll_effect() {
            self.held.push_back(effect);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(&mut buffer) {
            self.sent.push_back((transmit.path, buffer.clone()));
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.events.push(event);
        }
        if !self.hold && !self.held.is_empty() {
            self.release(None);
        }
    }

    /// Inbound and outbound halves that stand.
    pub(crate) fn halves(&self) -> (usize, usize) {
        let inbound = self.kernel.values().filter(|inbound| **inbound).count();
        (inbound, self.kernel.len() - inbound)
    }

    /// What went wrong so far.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        let failure = |event: &Event| {
            if let Event::Failed { failure, .. } = event {
                Some(*failure)
            } else {
                None
            }
        };
        self.events.iter().filter_map(failure).collect()
    }

    /// What people are told of the last thing that went wrong.
    pub(crate) fn last_detail(&self) -> &str {
        let mut details = self.events.iter().rev().filter_map(|event| {
            if let Event::Failed { detail, .. } = event {
                Some(detail.as_str())
            } else {
                None
            }
        });
        details.next().unwrap_or_default()
    }

    /// How many pairs have been told as established.
    pub(crate) fn established(&self) -> usize {
        let established = |event: &&Event| matches!(event, Event::ChildEstablished { .. });
        self.events.iter().filter(established).count()
    }
}
