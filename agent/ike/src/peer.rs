//! One configured peer: its children's slots, and when an IKE SA with it is started.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{ChildConfig, Initiation, PeerAuth, PeerConfig};
use crate::endpoint::Endpoint;
use crate::exchange::Task;
use crate::output::{CloseReason, Event, Failure};
use crate::timer::Timer;
use crate::types::{BootId, ChildId, ChildSaId, IkeSaId, PeerId};
use crate::wire::Role;

/// Back-off after a failed negotiation: from the first to the second, doubling.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(30);

/// A peer that does not answer is asked at least this often, so that it has its SAs within seconds when it comes back.
pub(crate) const AWAY_LAST: Duration = Duration::from_secs(3);

/// The pause before an exchange that follows one without any answer.
const AWAY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Whoever has authenticated can make no more IKE SAs than this at a time: old ones linger for a while.
const IKE_SAS: usize = 16;

/// And no more pairs of one child.
const PAIRS: usize = 32;

/// The original responder leaves a missing child to the original initiator for this long.
const RESPONDER_PATIENCE: Duration = Duration::from_secs(2);

/// One configured peer.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// The IKE SA that is used.
    pub(crate) current: Option<IkeSaId>,
    /// Our initial exchange with it.
    pub(crate) initiating: Option<IkeSaId>,
    /// An authenticated IKE SA that lost against an exchange of ours.
    pub(crate) redundant: Option<IkeSaId>,
    /// The IKE SA that goes when its successor has all children.
    pub(crate) replacing: Option<IkeSaId>,
    pub(crate) slots: BTreeMap<ChildId, Slot>,
    /// Every IKE SA with it, on its way in or out as well.
    pub(crate) sas: BTreeSet<IkeSaId>,
    /// Failed initial exchanges in a row.
    pub(crate) failures: u32,
    /// The boot that the directory names.
    pub(crate) boot: Option<BootId>,
    /// The driver knows that the credentials are missing.
    pub(crate) told_no_credentials: bool,
    /// The driver knows that a request in clear from the peer's address was refused: it is told once, whoever sent it.
    pub(crate) told_refused_init: bool,
}

/// The place of one configured child.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The pair that is used, or will be as soon as its halves stand.
    pub(crate) current: Option<ChildSaId>,
    /// Traffic or the configuration asks for it.
    pub(crate) wanted: bool,
    pub(crate) negotiation: Negotiation,
    /// All pairs that could carry its traffic, the oldest first: one that comes to stand replaces all older ones.
    pub(crate) pairs: Vec<ChildSaId>,
    /// Every pair that has a record, on its way in or out as well.
    pub(crate) records: BTreeSet<ChildSaId>,
    /// The configuration asks for another pair than the present one, and not by a rekey.
    pub(crate) stale: bool,
    /// Failed negotiations in a row.
    pub(crate) failures: u32,
}

/// What is done about a child that lacks a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Negotiation {
    /// Nothing yet.
    #[default]
    Idle,
    /// A task or an exchange is under way.
    UnderWay,
    /// A timer runs.
    Waiting,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig) -> Self {
        let wanted = config.initiation != Initiation::OnDemand;
        let slots = config
            .children
            .iter()
            .map(|child| {
                (
                    child.id,
                    Slot {
                        wanted,
                        ..Slot::default()
                    },
                )
            })
            .collect();
        Self {
            config,
            current: None,
            initiating: None,
            redundant: None,
            replacing: None,
            slots,
            sas: BTreeSet::new(),
            failures: 0,
            boot: None,
            told_no_credentials: false,
            told_refused_init: false,
        }
    }

    /// The configuration of one child.
    pub(crate) fn child(&self, id: ChildId) -> Option<&ChildConfig> {
        self.config.children.iter().find(|child| child.id == id)
    }

    /// Whether the peer may make another IKE SA now.
    pub(crate) fn has_room(&self) -> bool {
        self.sas.len() < IKE_SAS
    }

    /// Whether an IKE SA is to stand without traffic asking for it.
    pub(crate) fn eager(&self) -> bool {
        self.config.initiation != Initiation::OnDemand
    }
}

impl Slot {
    /// Whether the peer may make another pair of the child now.
    pub(crate) fn has_room(&self) -> bool {
        self.records.len() < PAIRS
    }
}

impl Endpoint {
    /// A peer that has authenticated again and again leaves no more behind than there is room for.
    pub(crate) fn make_room(&mut self, id: PeerId) {
        while let Some(peer) = self.peers.get(&id).filter(|peer| peer.sas.len() > IKE_SAS) {
            let Some(oldest) = peer.sas.iter().find(|sa| peer.current != Some(**sa)).copied() else {
                return;
            };
            self.close(oldest, CloseReason::Replaced);
        }
    }

    /// Begins what is missing: the IKE SA, or children on it. Does nothing when nothing is missing.
    pub(crate) fn drive_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(current) = peer.current else {
            let wanted = peer.slots.values().any(|slot| slot.wanted);
            if peer.initiating.is_none() && wanted && !self.timers.is_set(Timer::Start(id)) {
                let wait = match peer.config.initiation {
                    Initiation::EagerAfter { grace } => grace,
                    Initiation::Eager | Initiation::OnDemand => Duration::ZERO,
                };
                self.schedule_start(id, wait);
            }
            return;
        };
        let Some(sa) = self.sas.get(&current) else { return };
        let ours = sa.role == Role::Initiator;
        let missing: Vec<ChildId> = peer
            .slots
            .iter()
            .filter(|(_, slot)| slot.wanted && slot.negotiation == Negotiation::Idle)
            .filter(|(_, slot)| slot.stale || !self.serves(slot, current))
            .map(|(id, _)| *id)
            .collect();
        for child in missing {
            if ours {
                self.negotiate(id, child);
            } else {
                let wait = self.jitter.percent(RESPONDER_PATIENCE, 100, 150);
                self.wait_for_slot(id, child, wait);
            }
        }
    }

    /// Whether the pair of a slot belongs to the IKE SA that is used.
    pub(crate) fn serves(&self, slot: &Slot, current: IkeSaId) -> bool {
        slot.current.is_some_and(|pair| {
            self.is_usable(pair)
                && self
                    .children
                    .get(&pair)
                    .is_some_and(|pair| pair.ike == Some(current))
        })
    }

    /// The place of a child, where it is configured.
    pub(crate) fn slot_mut(&mut self, peer: PeerId, child: ChildId) -> Option<&mut Slot> {
        self.peers.get_mut(&peer)?.slots.get_mut(&child)
    }

    /// Negotiates a child on the IKE SA that is used.
    pub(crate) fn negotiate(&mut self, id: PeerId, child: ChildId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(current) = peer.current else { return };
        let Some(slot) = peer.slots.get_mut(&child) else {
            return;
        };
        slot.negotiation = Negotiation::UnderWay;
        self.timers.cancel(Timer::ChildRetry(id, child));
        self.enqueue(current, Task::CreateChild(child));
        self.pump(current);
    }

    /// A child's time has come.
    pub(crate) fn retry_child(&mut self, id: PeerId, child: ChildId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let current = peer.current;
        let Some(slot) = peer.slots.get_mut(&child) else {
            return;
        };
        slot.negotiation = Negotiation::Idle;
        let served = match (
            current,
            self.peers.get(&id).and_then(|peer| peer.slots.get(&child)),
        ) {
            (Some(current), Some(slot)) => (self.serves(slot, current) && !slot.stale) || !slot.wanted,
            _ => false,
        };
        match current {
            Some(_) if !served => self.negotiate(id, child),
            Some(_) => {}
            None => self.drive_peer(id),
        }
    }

    /// Lets a slot wait before it is negotiated.
    pub(crate) fn wait_for_slot(&mut self, id: PeerId, child: ChildId, wait: Duration) {
        if let Some(slot) = self
            .peers
            .get_mut(&id)
            .and_then(|peer| peer.slots.get_mut(&child))
        {
            slot.negotiation = Negotiation::Waiting;
            self.set_timer(Timer::ChildRetry(id, child), wait);
        }
    }

    /// A negotiation of a child failed: it is tried again after a while. Returns how long that is.
    pub(crate) fn slot_failed(&mut self, id: PeerId, child: ChildId) -> Option<Duration> {
        let slot = self.peers.get_mut(&id)?.slots.get_mut(&child)?;
        slot.failures = slot.failures.saturating_add(1);
        let failures = slot.failures;
        let wait = self.backoff(failures);
        self.wait_for_slot(id, child, wait);
        Some(wait)
    }

    /// The peer asks for patience (TEMPORARY_FAILURE, RFC 7296 §2.25).
    pub(crate) fn slot_deferred(&mut self, id: PeerId, child: ChildId) {
        let wait = self
            .jitter
            .between(Duration::from_millis(300), Duration::from_millis(1200));
        self.wait_for_slot(id, child, wait);
    }

    /// The wait after so many failures in a row, with jitter.
    pub(crate) fn backoff(&mut self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(5);
        let wait = (BACKOFF_FIRST * 2_u32.pow(doublings)).min(BACKOFF_LAST);
        self.jitter.percent(wait, 80, 120)
    }

    /// Begins an initial exchange after a while, unless one begins earlier.
    pub(crate) fn schedule_start(&mut self, id: PeerId, wait: Duration) {
        if wait.is_zero() {
            self.timers.cancel(Timer::Start(id));
            self.start(id);
        } else {
            self.set_timer(Timer::Start(id), wait);
        }
    }

    /// Begins an initial exchange, when there is reason for one.
    pub(crate) fn start(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.initiating.is_some() || peer.current.is_some() {
            return;
        }
        self.begin_init(id, None);
    }

    /// An initial exchange failed, or an IKE SA was lost: when does the next one begin?
    pub(crate) fn start_after_failure(&mut self, id: PeerId, failure: Option<Failure>) -> Option<Duration> {
        let peer = self.peers.get_mut(&id)?;
        peer.failures = peer.failures.saturating_add(1);
        if peer.current.is_some() || !peer.eager() {
            return None;
        }
        let failures = peer.failures;
        let wait = match failure {
            // It has just been waited for.
            Some(Failure::Unreachable) => self.jitter.between(AWAY_PAUSE.0, AWAY_PAUSE.1),
            _ => self.backoff(failures),
        };
        self.set_timer(Timer::Start(id), wait);
        Some(wait)
    }

    /// Whether this host can prove itself to the peer now; the driver is told once when it cannot.
    pub(crate) fn can_authenticate(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        if peer.config.auth != PeerAuth::Certificate || self.config.credentials.is_some() {
            return true;
        }
        if !peer.told_no_credentials {
            peer.told_no_credentials = true;
            self.event(Event::Failed {
                peer: id,
                child: None,
                failure: Failure::NoCredentials,
                detail: "this host has no certificate yet; exchanges with this peer wait for it".to_owned(),
                retry_in: None,
            });
        }
        false
    }
}
