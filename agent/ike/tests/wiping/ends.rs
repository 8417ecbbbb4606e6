//! Two ends in one process, their network and their clock.

use std::collections::VecDeque;
use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;
use zeroize::Zeroizing;

use crate::record::Record;
use crate::support::{endpoint_config, peer_config, with_kem};

/// Key exchanges that are tried.
pub(crate) const METHODS: [KeyExchange; 2] = [KeyExchange::X25519, KeyExchange::Ecp384];

pub(crate) struct Ends {
    hosts: [Endpoint; 2],
    under_way: VecDeque<(usize, Path, Vec<u8>)>,
    held: Vec<(usize, Effect)>,
    record: &'static Record,
    now: Duration,
    /// Whether the data plane keeps its answers back.
    pub(crate) hold: bool,
    /// Halves that it has taken.
    pub(crate) installed: usize,
}

impl Ends {
    /// Both ends have a PSK, a post-quantum preshared key and an additional key exchange.
    pub(crate) fn new(record: &'static Record, provider: &'static Provider, method: KeyExchange) -> Self {
        let secret = |kind| {
            let mut secret = Zeroizing::new(vec![0; 48]);
            provider.random.fill(&mut secret).unwrap();
            record.note(kind, &secret);
            secret
        };
        let (psk, ppk) = (secret("PSK"), secret("PPK"));
        let mut ends = [1, 2]
            .map(|host| Endpoint::new(endpoint_config(host, host), provider, [host; 32], Now::default()));
        for (end, (local, remote)) in ends.iter_mut().zip([(1, 2), (2, 1)]) {
            let mut config = peer_config(local, remote, 2);
            config.auth = PeerAuth::Psk {
                current: psk.clone(),
                previous: None,
            };
            config.ppk = Some(Ppk {
                id: b"name".to_vec(),
                current: ppk.clone(),
                previous: None,
                required: true,
            });
            for proposal in &mut config.ike_proposals {
                proposal.additional = with_kem(Kem::MlKem768);
                proposal.key_exchange = vec![method];
            }
            for child in &mut config.children {
                child.proposals[0].key_exchange = vec![method];
                child.proposals[0].additional = with_kem(Kem::MlKem768);
            }
            if local == 2 {
                config.initiation = Initiation::OnDemand;
            }
            end.handle_command(Command::UpsertPeer(Box::new(config)), Now::default())
                .unwrap();
        }
        Self {
            hosts: ends,
            under_way: VecDeque::new(),
            held: Vec::new(),
            record,
            now: Duration::ZERO,
            hold: false,
            installed: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant::from_origin(self.now),
            wall: WallTime(1_800_000_000 + self.now.as_secs()),
        }
    }

    /// Tells both ends the same.
    pub(crate) fn everything(&mut self, command: impl Fn(PeerId) -> Command) {
        let now = self.now();
        for (end, peer) in self.hosts.iter_mut().zip([2, 1]) {
            end.handle_command(command(PeerId(peer)), now).unwrap();
        }
        self.settle();
    }

    /// Lets so many seconds pass.
    pub(crate) fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        self.settle();
        while self.now < until {
            self.now += Duration::from_millis(100);
            let now = self.now();
            for end in &mut self.hosts {
                end.handle_timeout(now);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            self.drain();
            let Some((to, path, mut datagram)) = self.under_way.pop_front() else {
                return;
            };
            let now = self.now();
            self.hosts[to].handle_datagram(path, &mut datagram, now);
        }
    }

    fn drain(&mut self) {
        for index in 0..2 {
            while let Some(effect) = self.hosts[index].poll_effect() {
                if let EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) =
                    &effect.action
                {
                    self.record.note("cipher key of a CHILD SA", &spec.key.0);
                    self.installed += 1;
                }
                self.held.push((index, effect));
            }
            let mut buffer = Vec::new();
            while let Some(Transmit { path }) = self.hosts[index].poll_transmit(&mut buffer) {
                let back = Path {
                    local: path.remote,
                    remote: path.local,
                };
                self.under_way.push_back((1 - index, back, buffer.clone()));
            }
            while self.hosts[index].poll_event().is_some() {}
        }
        if !self.hold && !self.held.is_empty() {
            let now = self.now();
            for (index, effect) in std::mem::take(&mut self.held) {
                self.hosts[index].handle_effect(effect.id, EffectOutcome::Done, now);
            }
            self.drain();
        }
    }

    /// Nothing is left of any SA.
    pub(crate) fn assert_gone(&self) {
        for end in &self.hosts {
            assert_eq!(end.counts(), Counts::default());
        }
    }
}
