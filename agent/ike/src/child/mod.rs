//! A pair of CHILD SAs: its two halves in the data plane, and the stages of its life.

mod halves;
mod mapping;
mod retire;
pub(crate) mod selectors;

use crate::config::TrafficSelector;
use crate::crypto::{ChildKeys, ChildSuite};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, SaName, SaSpec};
use crate::time::Instant;
use crate::timer::Timer;
use crate::types::{ChildId, ChildSaId, EspSpi, IkeSaId, PeerId, SaProtocol};
use crate::wire::{Nonce, Role};

pub(crate) use halves::Half;
pub(crate) use retire::{DELETE_GRACE, ORPHAN_GRACE};

/// A pair of CHILD SAs.
pub(crate) struct ChildSa {
    pub(crate) peer: PeerId,
    pub(crate) child: ChildId,
    /// The IKE SA that it belongs to; `None` when that one is gone without a word.
    pub(crate) ike: Option<IkeSaId>,
    /// The IKE SA of the exchange that made it.
    pub(crate) made_on: IkeSaId,
    /// Ours in the exchange that made it.
    pub(crate) role: Role,
    pub(crate) inbound: SaName,
    pub(crate) outbound: SaName,
    pub(crate) inbound_half: Half,
    pub(crate) outbound_half: Half,
    pub(crate) stage: Stage,
    /// The pair that this one replaces as soon as it carries our traffic.
    pub(crate) replaces: Option<ChildSaId>,
    /// Pairs that are to replace this one: more than one only while a collision is open.
    pub(crate) successors: Vec<ChildSaId>,
    /// The lower nonce of the exchange that made it (RFC 7296 §2.8.1).
    pub(crate) low_nonce: Nonce,
    pub(crate) local_selectors: Vec<TrafficSelector>,
    pub(crate) remote_selectors: Vec<TrafficSelector>,
    /// Told to the driver as established.
    pub(crate) announced: bool,
    /// The peer knows our SPI: another one is not possible any more.
    pub(crate) spi_told: bool,
    /// How many SPIs the data plane has refused.
    pub(crate) refused_spis: u8,
}

/// The stages of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The inbound half is being installed.
    Inbound,
    /// We answered: the outbound half waits for a sign that the peer's inbound half stands.
    AwaitSign,
    /// The outbound half is being installed, or stands.
    Active,
    /// The redundant one of a collision: its outbound half is never installed.
    Redundant,
    /// The outbound half goes or is gone; what follows is in the value.
    Leaving(Leave, CloseReason),
    /// Only the inbound half stands, for packets under way.
    Lingering,
}

/// What follows when the outbound half of a leaving pair is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Our answer to the peer's DELETE waits for it.
    Answer,
    /// The peer deletes the pair.
    Await,
    /// We delete the pair.
    Delete,
    /// Nobody is there to be told.
    Linger,
    /// It goes with its IKE SA.
    WithIke,
}

/// What is agreed about a new pair.
pub(crate) struct Agreement<'a> {
    pub(crate) ike: IkeSaId,
    pub(crate) child: ChildId,
    pub(crate) role: Role,
    pub(crate) suite: ChildSuite,
    pub(crate) keys: ChildKeys,
    pub(crate) inbound: EspSpi,
    /// The peer knows it.
    pub(crate) spi_told: bool,
    pub(crate) outbound: EspSpi,
    pub(crate) local_selectors: Vec<TrafficSelector>,
    pub(crate) remote_selectors: Vec<TrafficSelector>,
    pub(crate) nonces: (&'a Nonce, &'a Nonce),
    pub(crate) replaces: Option<ChildSaId>,
}

impl Endpoint {
    /// ESP or AH, as a child is configured.
    pub(crate) fn protocol_of(&self, peer: PeerId, child: ChildId) -> SaProtocol {
        let config = self.peers.get(&peer).and_then(|peer| peer.child(child));
        config
            .and_then(|child| child.proposals.first())
            .map(|proposal| proposal.protocol)
            .unwrap_or_default()
    }

    /// Makes the record of a new pair and asks for its inbound half. `None` when the peer or child is not configured
    /// any more.
    pub(crate) fn create_child(&mut self, agreed: Agreement<'_>) -> Option<ChildSaId> {
        let sa = self.sas.get(&agreed.ike)?;
        let (peer_id, path, nat) = (sa.peer, sa.path, sa.nat);
        let config = self.peers.get(&peer_id)?.child(agreed.child)?.clone();
        let id = ChildSaId(self.next_id());
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let inbound = SaName {
            protocol: agreed.suite.protocol,
            spi: agreed.inbound,
            source: remote,
            destination: local,
        };
        let outbound = SaName {
            protocol: agreed.suite.protocol,
            spi: agreed.outbound,
            source: local,
            destination: remote,
        };
        let soft_percent = 100 - u32::from(config.rekey_margin_percent.clamp(1, 50));
        let spec =
            |name, key, ports: (u16, u16), source: &[TrafficSelector], destination: &[TrafficSelector]| {
                Box::new(SaSpec {
                    name,
                    child_sa: id,
                    peer: peer_id,
                    child: agreed.child,
                    mode: config.mode,
                    encryption: agreed.suite.encryption,
                    integrity: agreed.suite.integrity,
                    key,
                    esn: agreed.suite.esn,
                    replay_window: config.replay_window,
                    reqid: config.reqid,
                    encapsulation: nat.encapsulates().then_some(ports),
                    keepalive: nat.us,
                    source_selectors: source.to_vec(),
                    destination_selectors: destination.to_vec(),
                    lifetime: config.lifetime,
                    soft_lifetime: soft_limits(&config.lifetime, soft_percent),
                })
            };
        let (local_port, remote_port) = (path.local.port(), path.remote.port());
        let (local_ts, remote_ts) = (&agreed.local_selectors, &agreed.remote_selectors);
        let child_sa = ChildSa {
            peer: peer_id,
            child: agreed.child,
            ike: Some(agreed.ike),
            made_on: agreed.ike,
            role: agreed.role,
            inbound,
            outbound,
            inbound_half: Half::Planned(spec(
                inbound,
                agreed.keys.inbound,
                (remote_port, local_port),
                remote_ts,
                local_ts,
            )),
            outbound_half: Half::Planned(spec(
                outbound,
                agreed.keys.outbound,
                (local_port, remote_port),
                local_ts,
                remote_ts,
            )),
            stage: Stage::Inbound,
            replaces: agreed.replaces,
            successors: Vec::new(),
            low_nonce: agreed.nonces.0.min(agreed.nonces.1).clone(),
            local_selectors: agreed.local_selectors,
            remote_selectors: agreed.remote_selectors,
            announced: false,
            spi_told: agreed.spi_told,
            refused_spis: 0,
        };
        if let Some(old) = agreed.replaces.and_then(|old| self.children.get_mut(&old)) {
            old.successors.push(id);
        }
        if let Some(slot) = self.slot_mut(peer_id, agreed.child) {
            slot.pairs.push(id);
            slot.records.insert(id);
        }
        self.reserved.remove(&agreed.inbound);
        self.children.insert(id, child_sa);
        self.inbound.insert(agreed.inbound, id);
        self.outbound.insert((agreed.outbound, id));
        if let Some(sa) = self.sas.get_mut(&agreed.ike) {
            sa.children.insert(id);
            if agreed.role == Role::Initiator {
                sa.installing.insert(id);
            }
        }
        let soft = self
            .jitter
            .percent(config.lifetime.time, soft_percent.saturating_sub(5), soft_percent);
        self.set_timer(Timer::ChildSoft(id), soft);
        self.set_timer(Timer::ChildHard(id), config.lifetime.time);
        self.install_inbound(id);
        Some(id)
    }

    /// Removes the record of a pair of which nothing stands any more.
    pub(crate) fn forget_child(&mut self, id: ChildSaId) {
        self.release_predecessor(id);
        let Some(child) = self.children.remove(&id) else {
            return;
        };
        self.inbound.remove(&child.inbound.spi);
        self.outbound.remove(&(child.outbound.spi, id));
        self.held_for.remove(&id);
        if let Some(sa) = child.ike.and_then(|ike| self.sas.get_mut(&ike)) {
            sa.children.remove(&id);
            sa.installing.remove(&id);
        }
        for timer in [
            Timer::ChildSoft(id),
            Timer::ChildHard(id),
            Timer::ChildLinger(id),
            Timer::ChildOutbound(id),
        ] {
            self.timers.cancel(timer);
        }
        if let Some(slot) = self.slot_mut(child.peer, child.child) {
            slot.pairs.retain(|pair| *pair != id);
            slot.records.remove(&id);
            if slot.current == Some(id) {
                slot.current = None;
            }
        }
    }

    /// Whether a pair can carry traffic of its child from now on.
    pub(crate) fn is_usable(&self, id: ChildSaId) -> bool {
        self.children
            .get(&id)
            .is_some_and(|child| matches!(child.stage, Stage::Inbound | Stage::AwaitSign | Stage::Active))
    }

    /// Draws an SPI for a new pair: 256 or above, unique among ours.
    pub(crate) fn draw_esp_spi(&mut self) -> Option<EspSpi> {
        for _ in 0..64 {
            let mut bytes = [0; 4];
            self.provider.random.fill(&mut bytes).ok()?;
            if let Some(spi) = EspSpi::new(u32::from_be_bytes(bytes))
                && !self.inbound.contains_key(&spi)
                && self.reserved.insert(spi)
            {
                return Some(spi);
            }
        }
        None
    }

    /// When a pair came to be usable matters only to its peer's last sign of life.
    pub(crate) fn child_is_alive(&mut self, spi: EspSpi, now: Instant) {
        let Some(id) = self.inbound.get(&spi).copied() else {
            return;
        };
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let waits = child.stage == Stage::AwaitSign;
        if let Some(sa) = child.ike.and_then(|ike| self.sas.get_mut(&ike)) {
            sa.last_seen = now;
        }
        if waits {
            self.install_outbound(id);
        }
    }
}

fn soft_limits(hard: &crate::config::Lifetime, percent: u32) -> crate::config::Lifetime {
    let share = |limit: u64| limit / 100 * u64::from(percent) + limit % 100 * u64::from(percent) / 100;
    crate::config::Lifetime {
        time: hard.time * percent / 100,
        bytes: hard.bytes.map(share),
        packets: hard.packets.map(share),
    }
}
