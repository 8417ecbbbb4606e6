//! What others see of the engine: a view that its events are folded into. Level-triggered: whoever misses a change
//! finds the present state the next time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipsecmesh_ike::crypto::IkeSuite;
use ipsecmesh_ike::{
    ChildId, ChildSaId, CloseReason, Encryption, EspSpi, Event, Failure, IkeSaId, IkeSpi, Mode, PeerId,
    SaProtocol,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::wall;
use crate::metrics::Metrics;
use crate::probe::Obstacle;

/// Without an answer to this many transmissions a peer is reported, long before the engine gives the attempt up.
const REPORT_AFTER: u32 = 4;

/// The present state of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// What keeps the engine from starting.
    pub(crate) obstacle: Option<Obstacle>,
    /// The engine runs: data plane and sockets are open.
    pub(crate) running: bool,
    /// The last revision of the desired state that stands completely.
    pub(crate) programmed: u64,
    /// What the data plane refused, by object.
    pub(crate) refused: BTreeMap<String, String>,
    /// Peers of the engine.
    pub(crate) peers: BTreeMap<PeerId, PeerView>,
    /// Policies of ours in the data plane.
    pub(crate) policies: usize,
    /// SAs that a previous run left and that still stand.
    pub(crate) adopted: usize,
    /// Policies and SAs that are not ours.
    pub(crate) foreign: (usize, usize),
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerView {
    /// The Node's name.
    pub(crate) node: String,
    /// Its IKE SA.
    pub(crate) ike: Option<IkeView>,
    /// Its pairs of CHILD SAs.
    pub(crate) children: BTreeMap<ChildId, ChildView>,
    /// What is wrong with it.
    pub(crate) failure: Option<FailureView>,
}

/// An IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IkeView {
    /// The engine's name for it.
    pub(crate) id: IkeSaId,
    /// SPI of the initiator.
    pub(crate) initiator_spi: IkeSpi,
    /// SPI of the responder.
    pub(crate) responder_spi: IkeSpi,
    /// What both ends agreed on.
    pub(crate) suite: IkeSuite,
    /// Seconds since 1970.
    pub(crate) since: u64,
}

/// A pair of CHILD SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChildView {
    /// The engine's name for it.
    pub(crate) id: ChildSaId,
    /// Inbound SPI.
    pub(crate) inbound: EspSpi,
    /// Outbound SPI.
    pub(crate) outbound: EspSpi,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// How packets travel; known as soon as the data plane has it.
    pub(crate) shape: Option<SaShape>,
    /// What came through it when last counted.
    pub(crate) received: Traffic,
    /// What went through it when last counted.
    pub(crate) sent: Traffic,
}

/// How the packets of a CHILD SA travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaShape {
    /// ESP or AH.
    pub(crate) protocol: SaProtocol,
    /// Transport or tunnel.
    pub(crate) mode: Mode,
    /// Cipher; none with AH.
    pub(crate) encryption: Option<Encryption>,
    /// Extended sequence numbers.
    pub(crate) esn: bool,
    /// In UDP.
    pub(crate) udp: bool,
}

/// What went through an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Packets.
    pub(crate) packets: u64,
}

/// What is wrong with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailureView {
    /// Its kind.
    pub(crate) failure: Failure,
    /// The child that it concerns, if only one.
    pub(crate) child: Option<ChildId>,
    /// One sentence for people.
    pub(crate) detail: String,
    /// Seconds since 1970.
    pub(crate) since: u64,
}

impl View {
    /// Folds one event of the engine.
    pub(crate) fn fold(&mut self, event: &Event, metrics: &Metrics) {
        let now = wall().as_secs();
        match event {
            Event::ChildEstablished {
                peer,
                child,
                child_sa,
                inbound,
                outbound,
                replaces,
            } => {
                metrics.child_established(replaces.is_some());
                let view = self.peers.entry(*peer).or_default();
                view.children.insert(
                    *child,
                    ChildView {
                        id: *child_sa,
                        inbound: *inbound,
                        outbound: *outbound,
                        since: now,
                        shape: None,
                        received: Traffic::default(),
                        sent: Traffic::default(),
                    },
                );
                view.failure
                    .take_if(|failure| failure.child.is_none_or(|failed| failed == *child));
            }
            Event::ChildClosed {
                peer,
                child,
                child_sa,
                ..
            } => {
                if let Some(view) = self.peers.get_mut(peer)
                    && view
                        .children
                        .get(child)
                        .is_some_and(|present| present.id == *child_sa)
                {
                    view.children.remove(child);
                }
            }
            Event::IkeEstablished {
                peer,
                ike_sa,
                initiator_spi,
                responder_spi,
                suite,
                replaces,
            } => {
                metrics.ike_established(replaces.is_some());
                let view = self.peers.entry(*peer).or_default();
                view.ike = Some(IkeView {
                    id: *ike_sa,
                    initiator_spi: *initiator_spi,
                    responder_spi: *responder_spi,
                    suite: *suite,
                    since: now,
                });
                view.failure.take_if(|failure| failure.child.is_none());
            }
            Event::IkeClosed { peer, ike_sa, reason } => {
                let Some(view) = self.peers.get_mut(peer) else {
                    return;
                };
                let present = view.ike.take_if(|ike| ike.id == *ike_sa).is_some();
                if present && *reason == CloseReason::Unreachable {
                    let detail =
                        "the peer stopped answering; SAs stay until they are replaced or expire".to_owned();
                    view.fail(Failure::Unreachable, None, detail, now);
                }
            }
            Event::Failed {
                peer,
                child,
                failure,
                detail,
                ..
            } => {
                metrics.handshake_failed(*failure);
                self.peers
                    .entry(*peer)
                    .or_default()
                    .fail(*failure, *child, detail.clone(), now);
            }
            Event::Retransmitted { peer, attempt } => {
                metrics.retransmitted();
                let view = self.peers.entry(*peer).or_default();
                if *attempt >= REPORT_AFTER && view.ike.is_none() && view.failure.is_none() {
                    let detail = format!(
                        "no answer to {attempt} transmissions: is the agent running there, are UDP 500 and 4500 open?"
                    );
                    view.fail(Failure::Unreachable, None, detail, now);
                }
            }
            // The engine may learn to say more: nothing here rests on it.
            _ => {}
        }
    }

    /// IKE SAs and pairs of CHILD SAs that stand.
    pub(crate) fn sa_counts(&self) -> (usize, usize) {
        let ike = self.peers.values().filter(|peer| peer.ike.is_some()).count();
        (ike, self.peers.values().map(|peer| peer.children.len()).sum())
    }
}

impl PeerView {
    /// Keeps the time since when the same thing is wrong.
    fn fail(&mut self, failure: Failure, child: Option<ChildId>, detail: String, now: u64) {
        let since = self
            .failure
            .as_ref()
            .filter(|present| present.failure == failure && present.child == child)
            .map_or(now, |present| present.since);
        self.failure = Some(FailureView {
            failure,
            child,
            detail,
            since,
        });
    }
}

/// The view, shared between the engine's thread and the rest.
#[derive(Clone, Debug)]
pub(crate) struct SharedView {
    view: Arc<Mutex<View>>,
    version: watch::Sender<u64>,
}

impl SharedView {
    /// An empty view.
    pub(crate) fn new() -> Self {
        Self {
            view: Arc::default(),
            version: watch::Sender::new(0),
        }
    }

    /// Changes the view and wakes its readers.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes figures that nobody waits for.
    pub(crate) fn note(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
    }

    /// Reads the view. Keep it short: the engine waits.
    pub(crate) fn read<T>(&self, reader: impl FnOnce(&View) -> T) -> T {
        reader(&self.lock())
    }

    /// Signals every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
