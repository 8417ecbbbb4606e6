//! INFORMATIONAL (RFC 7296 §1.4): deletes, signs of life, and the confirmation that our inbound half stands.

use super::{Exchange, Held, told};
use crate::child::{Half, Leave, Stage};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Event};
use crate::sa::Standing;
use crate::timer::Timer;
use crate::types::{ChildSaId, EspSpi, IkeSaId, SaProtocol};
use crate::wire::{Delete, ExchangeType, NotifyType, Payload, Payloads};

use super::Task;

/// SPIs without a pair that are remembered while a request of ours is under way.
const DELETED_EARLY: usize = 16;

/// An answer to a DELETE that waits until nothing of ours is sent any more.
pub(crate) struct HeldDelete {
    number: u32,
    /// Pairs whose outbound halves still stand.
    waiting: Vec<ChildSaId>,
    /// Our SPIs for the answer.
    spis: Vec<(SaProtocol, EspSpi)>,
    /// The IKE SA is deleted as a whole.
    ike: bool,
}

impl HeldDelete {
    /// Whether the peer deletes the whole SA: then no request of ours makes sense any more.
    pub(super) fn ends_sa(&self) -> bool {
        self.ike
    }
}

impl Endpoint {
    /// An empty request: a liveness check, or the word that our inbound halves stand.
    pub(super) fn request_empty(&mut self, id: IkeSaId, exchange: Exchange) {
        self.request(id, ExchangeType::INFORMATIONAL, &[], exchange);
    }

    pub(super) fn request_delete_child(&mut self, id: IkeSaId, pair: ChildSaId) {
        let Some(child) = self.children.get(&pair) else {
            return;
        };
        if !matches!(child.stage, Stage::Leaving(Leave::Delete, _)) {
            return;
        }
        let delete = Payload::Delete(Delete::Child(child.inbound.protocol, vec![child.inbound.spi]));
        self.request(
            id,
            ExchangeType::INFORMATIONAL,
            &[delete],
            Exchange::DeleteChild(pair),
        );
    }

    pub(super) fn request_delete_spi(&mut self, id: IkeSaId, protocol: SaProtocol, spi: EspSpi) {
        let delete = Payload::Delete(Delete::Child(protocol, vec![spi]));
        self.request(id, ExchangeType::INFORMATIONAL, &[delete], Exchange::DeleteUnused);
    }

    pub(super) fn request_delete_ike(&mut self, id: IkeSaId) {
        let delete = Payload::Delete(Delete::Ike);
        self.request(id, ExchangeType::INFORMATIONAL, &[delete], Exchange::DeleteIke);
    }

    /// The peer has answered our DELETE of a pair: neither end sends through it.
    pub(super) fn child_deleted(&mut self, pair: ChildSaId) {
        if let Some(Stage::Leaving(_, reason)) = self.children.get(&pair).map(|child| child.stage) {
            self.linger(pair, reason);
        }
    }

    /// The peer has heard that our inbound half stands, so that it does not send through the predecessor any more.
    pub(super) fn confirmed(&mut self, id: IkeSaId, replaced: Option<ChildSaId>) {
        let old = replaced.and_then(|old| self.children.get(&old).map(|child| (old, child.stage, child.ike)));
        if let Some((old, Stage::Leaving(_, reason), None)) = old {
            self.linger(old, reason);
        }
        if let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) {
            self.finish_replacement(peer);
        }
    }

    /// The peer was silent for its interval: it is asked (RFC 7296 §2.4).
    pub(crate) fn check_liveness(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let Some(peer) = self.peers.get(&sa.peer) else {
            return;
        };
        let interval = peer.config.liveness.interval;
        let silence = self.now.mono.saturating_since(sa.last_seen);
        if silence < interval {
            self.set_timer(Timer::Liveness(id), interval.saturating_sub(silence));
            return;
        }
        let idle = sa.in_flight.is_none() && sa.queue.is_empty();
        self.set_timer(Timer::Liveness(id), interval);
        if idle {
            self.enqueue(id, Task::Liveness);
            self.pump(id);
        }
    }

    /// An INFORMATIONAL request of the peer.
    pub(super) fn receive_informational(&mut self, id: IkeSaId, number: u32, payloads: &Payloads) {
        if payloads.deletes().any(|delete| *delete == Delete::Ike) {
            self.peer_deletes_ike(id, number);
            return;
        }
        if payloads.notify(NotifyType::AUTHENTICATION_FAILED).is_some() {
            self.peer_disowns(id, number);
            return;
        }
        if payloads.as_slice().is_empty() {
            self.peer_confirms(id);
        }
        let spis = payloads.deletes().flat_map(|delete| {
            let (protocol, spis) = match delete {
                Delete::Child(protocol, spis) => (*protocol, spis.as_slice()),
                Delete::Ike | Delete::Other { .. } => (SaProtocol::Esp, &[][..]),
            };
            spis.iter().map(move |spi| (protocol, *spi))
        });
        let (mut named, mut unknown) = (Vec::new(), Vec::new());
        for (protocol, spi) in spis {
            match self.pair_by_peer_spi(id, protocol, spi) {
                Some(pair) => named.push(pair),
                None => unknown.push(spi),
            }
        }
        self.note_deleted_early(id, &unknown);
        let mut spis = Vec::new();
        for pair in &named {
            spis.extend(self.peer_deletes(id, *pair));
        }
        self.hold_delete(
            id,
            HeldDelete {
                number,
                waiting: named.clone(),
                spis,
                ike: false,
            },
        );
        for pair in named {
            self.renegotiate_after_delete(pair);
        }
    }

    /// The peer has begun, and does not accept our proof: its IKE SA is not there any more, and ours goes as with a DELETE
    /// (RFC 7296 §2.21.2).
    fn peer_disowns(&mut self, id: IkeSaId, number: u32) {
        if let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) {
            let (failure, detail) = told::refused_auth(Some(NotifyType::AUTHENTICATION_FAILED));
            self.event(Event::Failed {
                peer,
                child: None,
                failure,
                detail,
                retry_in: None,
            });
        }
        self.peer_deletes_ike(id, number);
    }

    /// The peer may have made and deleted a pair while its response to our request is under way.
    fn note_deleted_early(&mut self, id: IkeSaId, spis: &[EspSpi]) {
        if let Some(in_flight) = self.sas.get_mut(&id).and_then(|sa| sa.in_flight.as_mut())
            && let Exchange::CreateChild(request) = &mut in_flight.exchange
        {
            let room = DELETED_EARLY.saturating_sub(request.deleted.len());
            request.deleted.extend(spis.iter().take(room));
        }
    }

    /// The peer's inbound halves stand.
    fn peer_confirms(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let current = self.peers.get(&sa.peer).and_then(|peer| peer.current);
        // An SA that was made beside this one is not its heir, and what is said here says nothing of its pairs.
        let heir = current
            .filter(|current| *current != id)
            .and_then(|current| self.sas.get(&current))
            .filter(|heir| heir.origin.established == sa.origin.established);
        let pairs: Vec<ChildSaId> = sa
            .children
            .iter()
            .chain(heir.into_iter().flat_map(|heir| &heir.children))
            .copied()
            .collect();
        for pair in pairs {
            // What was said on an SA that has been rekeyed since says nothing of pairs that its heir has made.
            if self.children.get(&pair).is_some_and(|child| child.made_on <= id) {
                self.install_unless_open(pair);
            }
        }
    }

    /// The peer ends the IKE SA (RFC 7296 §1.4.1): all children go with it, outbound halves before the answer.
    fn peer_deletes_ike(&mut self, id: IkeSaId, number: u32) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if let Some(in_flight) = sa.in_flight.take() {
            self.timers.cancel(Timer::Retransmit(id));
            match in_flight.exchange {
                Exchange::RekeyIke(request) => {
                    if let Some(crossed) = self.crossing_heir(&request) {
                        self.inherit(id, crossed);
                    }
                }
                exchange @ (Exchange::Confirm(_) | Exchange::CreateChild(_)) => {
                    // Put back: the end of the SA cleans up after it.
                    if let Some(sa) = self.sas.get_mut(&id) {
                        sa.in_flight = Some(super::InFlight {
                            exchange,
                            ..in_flight
                        });
                    }
                }
                Exchange::DeleteChild(_)
                | Exchange::DeleteIke
                | Exchange::DeleteUnused
                | Exchange::Liveness => {}
            }
        }
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let reason = match sa.standing {
            Standing::Closing(reason) => reason,
            Standing::Redundant => CloseReason::Redundant,
            Standing::Replaced => CloseReason::Replaced,
            Standing::Closed | Standing::Current => CloseReason::Remote,
        };
        let pairs: Vec<ChildSaId> = sa.children.iter().copied().collect();
        sa.queue.retain(|task| matches!(task, Task::CreateChild(_)));
        self.hold(
            id,
            HeldDelete {
                number,
                waiting: pairs.clone(),
                spis: Vec::new(),
                ike: true,
            },
        );
        for pair in pairs {
            self.peer_deletes_with_ike(pair, reason);
        }
        self.try_answer_delete(id);
    }

    /// Answers a DELETE now, or when the outbound halves are gone.
    fn hold_delete(&mut self, id: IkeSaId, held: HeldDelete) {
        self.hold(id, held);
        self.try_answer_delete(id);
    }

    fn hold(&mut self, id: IkeSaId, held: HeldDelete) {
        for pair in &held.waiting {
            self.held_for.insert(*pair, id);
        }
        if let Some(sa) = self.sas.get_mut(&id) {
            sa.held = Some(Held::Delete(held));
        }
    }

    /// The outbound half of a pair is gone: an answer may have waited for it.
    pub(crate) fn answer_held_delete(&mut self, pair: ChildSaId) {
        if let Some(holder) = self.held_for.get(&pair).copied() {
            self.try_answer_delete(holder);
        }
    }

    fn try_answer_delete(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let Some(Held::Delete(held)) = &sa.held else {
            return;
        };
        let sending = held
            .waiting
            .iter()
            .filter_map(|pair| self.children.get(pair))
            .any(|child| {
                let waits = matches!(child.stage, Stage::Leaving(..));
                waits && !matches!(child.outbound_half, Half::Gone | Half::Planned(_))
            });
        if sending {
            return;
        }
        let Some(Held::Delete(held)) = self.sas.get_mut(&id).and_then(|sa| sa.held.take()) else {
            return;
        };
        for pair in &held.waiting {
            self.held_for.remove(pair);
        }
        let of = |wanted: SaProtocol| {
            let spis = held.spis.iter().filter(|(protocol, _)| *protocol == wanted);
            let spis: Vec<EspSpi> = spis.map(|(_, spi)| *spi).collect();
            (!spis.is_empty()).then_some(Payload::Delete(Delete::Child(wanted, spis)))
        };
        let payloads: Vec<Payload> = [of(SaProtocol::Esp), of(SaProtocol::Ah)]
            .into_iter()
            .flatten()
            .collect();
        self.respond(id, ExchangeType::INFORMATIONAL, held.number, &payloads);
        for pair in held.waiting {
            self.child_deleted(pair);
        }
        if held.ike {
            self.close_by_peer(id);
        } else {
            self.pump(id);
        }
    }

    /// A child that the peer deleted without a successor is negotiated again after a while.
    fn renegotiate_after_delete(&mut self, pair: ChildSaId) {
        let Some(child) = self.children.get(&pair) else {
            return;
        };
        let (peer_id, name) = (child.peer, child.child);
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        let (Some(current), Some(slot)) = (peer.current, peer.slots.get(&name)) else {
            return;
        };
        let idle = slot.negotiation == crate::peer::Negotiation::Idle;
        if slot.wanted && idle && peer.eager() && !self.serves(slot, current) {
            self.slot_deferred(peer_id, name);
        }
    }
}
