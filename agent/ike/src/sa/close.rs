//! The end of an IKE SA: by our DELETE, by the peer's, or without a word.

use std::collections::VecDeque;

use super::{SpiOwner, Standing};
use crate::child::{Half, Leave, ORPHAN_GRACE, Stage};
use crate::config::LivenessAction;
use crate::endpoint::Endpoint;
use crate::exchange::{Exchange, InFlight, Task};
use crate::output::{CloseReason, Event, Failure};
use crate::peer::Negotiation;
use crate::timer::Timer;
use crate::types::{ChildId, ChildSaId, IkeSaId, PeerId};
use crate::wire::Role;

impl Endpoint {
    /// Ends an IKE SA with a DELETE. Its children lose their outbound halves first, so that nothing is sent to an end
    /// that has removed them.
    pub(crate) fn close_with_delete(&mut self, id: IkeSaId, reason: CloseReason) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if matches!(sa.standing, Standing::Closing(_) | Standing::Closed) {
            return;
        }
        sa.standing = Standing::Closing(reason);
        let peer = sa.peer;
        let queue = std::mem::take(&mut sa.queue);
        let asked = sa.asked_child();
        let children: Vec<ChildSaId> = sa.children.iter().copied().collect();
        for timer in [
            Timer::IkeSoft(id),
            Timer::IkeHard(id),
            Timer::Liveness(id),
            Timer::IkeLinger(id),
        ] {
            self.timers.cancel(timer);
        }
        self.abandon(peer, queue, asked);
        for child in children {
            self.retire(child, Leave::WithIke, reason);
        }
        self.close_when_ready(id);
    }

    /// Sends the DELETE of an IKE SA as soon as no child of it can send.
    pub(crate) fn close_when_ready(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let deleting = matches!(
            &sa.in_flight,
            Some(InFlight {
                exchange: Exchange::DeleteIke,
                ..
            })
        );
        let sending = sa
            .children
            .iter()
            .filter_map(|child| self.children.get(child))
            .any(|child| !matches!(child.outbound_half, Half::Gone | Half::Planned(_)));
        if matches!(sa.standing, Standing::Closing(_)) && !deleting && !sending {
            self.enqueue(id, Task::DeleteIke);
            self.pump(id);
        }
    }

    /// The peer has answered our DELETE.
    pub(crate) fn ike_deleted(&mut self, id: IkeSaId) {
        if let Some(Standing::Closing(reason)) = self.sas.get(&id).map(|sa| sa.standing) {
            self.close(id, reason);
        }
    }

    /// The peer has deleted the SA and our answer is on its way: it may have to be repeated.
    pub(crate) fn close_by_peer(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let reason = match sa.standing {
            Standing::Closing(reason) => reason,
            Standing::Redundant => CloseReason::Redundant,
            Standing::Replaced => CloseReason::Replaced,
            Standing::Closed | Standing::Current => CloseReason::Remote,
        };
        sa.standing = Standing::Closed;
        self.wind_up(id, reason);
        self.set_timer(Timer::IkeLinger(id), crate::child::DELETE_GRACE);
    }

    /// The SA is gone; nobody is told.
    pub(crate) fn close(&mut self, id: IkeSaId, reason: CloseReason) {
        self.wind_up(id, reason);
        let Some(sa) = self.sas.remove(&id) else { return };
        if let Some(peer) = self.peers.get_mut(&sa.peer) {
            peer.sas.remove(&id);
        }
        self.timers.cancel(Timer::IkeLinger(id));
        for spi in [sa.spi_i, sa.spi_r] {
            self.release_spi(spi, SpiOwner::Established(id));
        }
    }

    /// Everything that hangs on an SA but the record itself ends.
    fn wind_up(&mut self, id: IkeSaId, reason: CloseReason) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let peer_id = sa.peer;
        let closing = matches!(sa.standing, Standing::Closing(_));
        let asked = sa.asked_child().filter(|_| !closing);
        let (in_flight, queue) = (sa.in_flight.take(), std::mem::take(&mut sa.queue));
        let pending = std::mem::take(&mut sa.pending);
        sa.held = None;
        let announced = std::mem::take(&mut sa.announced);
        let children = std::mem::take(&mut sa.children);
        sa.installing.clear();
        for timer in [
            Timer::Retransmit(id),
            Timer::IkeSoft(id),
            Timer::IkeHard(id),
            Timer::Liveness(id),
        ] {
            self.timers.cancel(timer);
        }
        for pending in &pending {
            self.drop_pending(id, pending);
        }
        match in_flight.map(|in_flight| in_flight.exchange) {
            Some(Exchange::CreateChild(request)) => {
                self.reserved.remove(&request.spi);
            }
            Some(Exchange::RekeyIke(request)) => {
                if let Some(heir) = request.crossed {
                    self.close_with_delete(heir, CloseReason::Redundant);
                }
            }
            Some(Exchange::Confirm(replaced)) => self.confirm_on_heir(id, peer_id, replaced),
            Some(
                Exchange::DeleteChild(_) | Exchange::DeleteIke | Exchange::DeleteUnused | Exchange::Liveness,
            )
            | None => {}
        }
        self.abandon(peer_id, queue, asked);
        for child in children {
            self.detach(child, reason);
        }
        let mut was_current = false;
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            was_current = peer.current == Some(id);
            for place in [&mut peer.current, &mut peer.replacing, &mut peer.redundant] {
                if *place == Some(id) {
                    *place = None;
                }
            }
        }
        if announced {
            self.event(Event::IkeClosed {
                peer: peer_id,
                ike_sa: id,
                reason,
            });
        }
        if was_current {
            self.after_loss(peer_id, reason);
        }
    }

    /// The peer may not have heard our word that our inbound halves stand, and its heir's children wait for it.
    fn confirm_on_heir(&mut self, id: IkeSaId, peer: PeerId, replaced: Option<ChildSaId>) {
        let current = self.peers.get(&peer).and_then(|peer| peer.current);
        if let Some(heir) = current.filter(|current| *current != id) {
            self.enqueue(heir, Task::Confirm(replaced));
            self.pump(heir);
        }
    }

    /// A child ends together with its IKE SA.
    fn detach(&mut self, id: ChildSaId, reason: CloseReason) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.ike = None;
        let reason = match child.stage {
            Stage::Leaving(_, reason) => reason,
            Stage::Inbound | Stage::AwaitSign | Stage::Active | Stage::Redundant | Stage::Lingering => reason,
        };
        if let Stage::Leaving(leave, _) = &mut child.stage {
            *leave = Leave::Linger;
        }
        self.retire(id, Leave::Linger, reason);
    }

    /// The children of a lost IKE SA stay until each is replaced, or for a grace time (decision 20).
    pub(crate) fn orphan_children(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let children = std::mem::take(&mut sa.children);
        for child_id in children {
            let Some(child) = self.children.get_mut(&child_id) else {
                continue;
            };
            child.ike = None;
            match child.stage {
                // The response that would have told the peer of it is never sent.
                Stage::Inbound if child.role == Role::Responder => {
                    self.detach(child_id, CloseReason::Unreachable);
                }
                Stage::Active | Stage::AwaitSign | Stage::Inbound => {
                    self.timers.cancel(Timer::ChildSoft(child_id));
                    // Nothing but traffic can tell now whether the peer's inbound half stands.
                    self.timers.cancel(Timer::ChildOutbound(child_id));
                    self.set_timer(Timer::ChildLinger(child_id), ORPHAN_GRACE);
                }
                Stage::Leaving(..) | Stage::Redundant => self.detach(child_id, CloseReason::Unreachable),
                Stage::Lingering => {}
            }
        }
    }

    /// The peer does not answer: the IKE SA is forgotten.
    pub(crate) fn unreachable(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (peer, current) = (sa.peer, sa.standing == Standing::Current);
        if current {
            self.event(Event::Failed {
                peer,
                child: None,
                failure: Failure::Unreachable,
                detail: "the peer does not answer; its IKE SA is forgotten".to_owned(),
                retry_in: None,
            });
        }
        self.orphan_children(id);
        self.close(id, CloseReason::Unreachable);
    }

    /// The SA that a peer had is gone: when does the next one begin?
    fn after_loss(&mut self, peer_id: PeerId, reason: CloseReason) {
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        if peer.current.is_some() || peer.initiating.is_some() {
            return;
        }
        match reason {
            CloseReason::Unreachable => {
                if peer.config.liveness.action == LivenessAction::Restart {
                    self.start(peer_id);
                } else if let Some(peer) = self.peers.get_mut(&peer_id) {
                    for slot in peer.slots.values_mut() {
                        slot.wanted = false;
                    }
                }
            }
            CloseReason::Expired | CloseReason::Local => self.drive_peer(peer_id),
            CloseReason::DataPlane | CloseReason::Redundant | CloseReason::Remote | CloseReason::Replaced => {
                self.promote_redundant(peer_id);
                self.start_after_failure(peer_id, None);
            }
        }
    }

    /// What was to be negotiated on an SA that ends is negotiated on the next one.
    fn abandon(&mut self, peer: PeerId, queue: VecDeque<Task>, asked: Option<ChildId>) {
        let queued = queue.into_iter().filter_map(|task| match task {
            Task::CreateChild(child) => Some(child),
            Task::Confirm(_)
            | Task::DeleteChild(_)
            | Task::DeleteIke
            | Task::DeleteUnused(..)
            | Task::Liveness
            | Task::RekeyChild(_)
            | Task::RekeyIke => None,
        });
        for child in queued.chain(asked) {
            if let Some(slot) = self.slot_mut(peer, child)
                && slot.negotiation == Negotiation::UnderWay
            {
                slot.negotiation = Negotiation::Idle;
            }
        }
    }

    /// The SA gives way to a wholly new one. What is asked on it is asked on that one, and an answer that still comes
    /// must not take the place of what the new one makes.
    pub(crate) fn give_way(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        sa.standing = Standing::Replaced;
        let (peer, asked) = (sa.peer, sa.asked_child());
        let queue = std::mem::take(&mut sa.queue);
        let (given_up, kept) = queue.into_iter().partition(|task| {
            matches!(
                task,
                Task::CreateChild(_) | Task::Liveness | Task::RekeyChild(_) | Task::RekeyIke
            )
        });
        sa.queue = kept;
        if let Some(in_flight) = &mut sa.in_flight
            && let Exchange::CreateChild(request) = &in_flight.exchange
        {
            self.reserved.remove(&request.spi);
            // What it asks for is not wanted any more: only whether the peer lives.
            in_flight.exchange = Exchange::Liveness;
        }
        self.abandon(peer, given_up, asked);
    }

    /// The old SA that was to be replaced by a wholly new one goes when the new one has all children.
    pub(crate) fn finish_replacement(&mut self, peer_id: PeerId) {
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        let (Some(current), Some(old)) = (peer.current, peer.replacing) else {
            return;
        };
        let complete = peer.slots.values().all(|slot| {
            let taken_over = self.serves(slot, current)
                && slot
                    .current
                    .and_then(|pair| self.children.get(&pair))
                    .is_some_and(|pair| matches!(pair.outbound_half, Half::Installed));
            // What the old SA does not carry, it need not wait for.
            taken_over || !slot.pairs.iter().any(|pair| self.carries(*pair, old))
        });
        // The peer sends through the new pairs as soon as it has heard that they stand here.
        let heard = self.sas.get(&current).is_some_and(|sa| !sa.confirming());
        if complete && heard && current != old {
            self.close_with_delete(old, CloseReason::Replaced);
        }
    }

    /// Whether a pair carries traffic, and belongs to this IKE SA.
    fn carries(&self, pair: ChildSaId, ike: IkeSaId) -> bool {
        let pair = self.children.get(&pair).filter(|pair| pair.ike == Some(ike));
        pair.is_some_and(|pair| matches!(pair.stage, Stage::AwaitSign | Stage::Active))
    }

    /// An IKE SA that lingers for the peer's sake goes.
    pub(crate) fn ike_linger_is_over(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let peer = sa.peer;
        match sa.standing {
            Standing::Closed => self.close(id, CloseReason::Remote),
            Standing::Redundant => {
                self.promote_redundant(peer);
                self.close_if_redundant(id);
            }
            Standing::Replaced => self.close_with_delete(id, CloseReason::Replaced),
            Standing::Closing(_) | Standing::Current => {}
        }
    }

    fn close_if_redundant(&mut self, id: IkeSaId) {
        if self
            .sas
            .get(&id)
            .is_some_and(|sa| sa.standing == Standing::Redundant)
        {
            self.close_with_delete(id, CloseReason::Redundant);
        }
    }

    /// An SA had given way to a wholly new one when its rekey came through: the heir has its children until the new SA has
    /// all of its own, at both ends. A DELETE now would take them from the peer too early.
    pub(crate) fn hand_over(&mut self, old: IkeSaId, heir: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&old) else { return };
        let peer_id = sa.peer;
        let children = std::mem::take(&mut sa.children);
        let installing = std::mem::take(&mut sa.installing);
        for child in &children {
            if let Some(child) = self.children.get_mut(child) {
                child.ike = Some(heir);
            }
        }
        if let Some(heir) = self.sas.get_mut(&heir) {
            heir.children.extend(children);
            heir.installing.extend(installing);
        }
        if let Some(peer) = self.peers.get_mut(&peer_id)
            && peer.replacing == Some(old)
        {
            peer.replacing = Some(heir);
        }
    }

    /// The children, and what is left to do, go over to the SA that a rekey made (RFC 7296 §2.18).
    pub(crate) fn inherit(&mut self, old: IkeSaId, new: IkeSaId) {
        let used = self
            .sas
            .get(&old)
            .is_some_and(|sa| sa.is_current() && self.peers.contains_key(&sa.peer));
        if !used {
            // The old SA is on its way out, and so is its heir.
            self.close_with_delete(new, CloseReason::Redundant);
            return;
        }
        let Some(sa) = self.sas.get_mut(&old) else { return };
        sa.standing = Standing::Replaced;
        let peer_id = sa.peer;
        let queue = std::mem::take(&mut sa.queue);
        let children = std::mem::take(&mut sa.children);
        let installing = std::mem::take(&mut sa.installing);
        for timer in [Timer::IkeSoft(old), Timer::IkeHard(old), Timer::Liveness(old)] {
            self.timers.cancel(timer);
        }
        for child in &children {
            if let Some(child) = self.children.get_mut(child) {
                child.ike = Some(new);
            }
        }
        let Some(heir) = self.sas.get_mut(&new) else {
            return;
        };
        heir.children.extend(children);
        heir.installing.extend(installing);
        heir.queue.extend(
            queue
                .into_iter()
                .filter(|task| *task != Task::RekeyIke && *task != Task::Liveness),
        );
        let patience = heir.role == Role::Responder;
        self.make_current(new, Some(old));
        if let Some(peer) = self.peers.get_mut(&peer_id)
            && peer.replacing == Some(old)
        {
            peer.replacing = Some(new);
        }
        if patience {
            self.set_timer(Timer::IkeLinger(old), ORPHAN_GRACE);
        }
        self.pump(new);
    }
}
