//! The end of a pair: outbound half first, then the DELETE exchange, then the inbound half after a grace time, so
//! that no packet under way is lost (make before break).

use std::time::Duration;

use super::{Half, Leave, Stage};
use crate::endpoint::Endpoint;
use crate::exchange::{Exchange, Task};
use crate::output::{CloseReason, Event};
use crate::timer::Timer;
use crate::types::{ChildSaId, EspSpi, IkeSaId, SaProtocol};
use crate::wire::Role;

/// How long the inbound half of an old pair takes packets that are under way.
const INBOUND_GRACE: Duration = Duration::from_secs(5);

/// How long pairs of a lost IKE SA stay without a replacement (decision 20).
pub(crate) const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// How long the peer has to delete what it has to delete.
pub(crate) const DELETE_GRACE: Duration = Duration::from_secs(10);

impl Endpoint {
    /// A newer pair carries our traffic. Who made it deletes the old one, on the IKE SA that both belong to.
    pub(super) fn replaced(&mut self, old: ChildSaId, new: ChildSaId) {
        let Some(new) = self.children.get(&new) else {
            return;
        };
        let (role, ike) = (new.role, new.ike);
        let Some(old_pair) = self.children.get(&old) else {
            return;
        };
        let leave = match (old_pair.ike, role) {
            (None, Role::Responder) => Leave::Linger,
            (Some(_), Role::Initiator) if old_pair.ike == ike => Leave::Delete,
            (None, Role::Initiator) | (Some(_), _) => Leave::Await,
        };
        self.retire(old, leave, CloseReason::Replaced);
    }

    /// The end of a pair begins. An answer that the peer waits for is never forgotten.
    pub(crate) fn retire(&mut self, id: ChildSaId, leave: Leave, reason: CloseReason) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let (leave, reason) = match child.stage {
            Stage::Lingering => return,
            Stage::Leaving(kept @ (Leave::Answer | Leave::WithIke), reason) => (kept, reason),
            Stage::Leaving(Leave::Delete, reason) if leave == Leave::Await => (Leave::Delete, reason),
            Stage::Leaving(..) | Stage::Inbound | Stage::AwaitSign | Stage::Active | Stage::Redundant => {
                (leave, reason)
            }
        };
        child.stage = Stage::Leaving(leave, reason);
        let (peer, name) = (child.peer, child.child);
        let successors = child.successors.clone();
        let successor = successors.into_iter().rev().find(|next| self.is_usable(*next));
        if let Some(slot) = self.slot_mut(peer, name) {
            slot.pairs.retain(|pair| *pair != id);
            if slot.current == Some(id) {
                slot.current = successor;
            }
        }
        self.release_predecessor(id);
        for timer in [
            Timer::ChildSoft(id),
            Timer::ChildHard(id),
            Timer::ChildOutbound(id),
        ] {
            self.timers.cancel(timer);
        }
        if self.remove_outbound(id) {
            self.outbound_gone(id);
        }
    }

    /// The outbound half of a leaving pair is gone.
    pub(super) fn outbound_gone(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let Stage::Leaving(leave, reason) = child.stage else {
            return;
        };
        let ike = child.ike;
        match (leave, ike) {
            (Leave::Await, _) => self.set_timer(Timer::ChildLinger(id), DELETE_GRACE),
            (Leave::Linger, _) | (_, None) => self.linger(id, reason),
            (Leave::Delete, Some(ike)) => self.enqueue(ike, Task::DeleteChild(id)),
            (Leave::Answer | Leave::WithIke, Some(_)) => {}
        }
        self.answer_held_delete(id);
        if let Some(ike) = ike {
            self.close_when_ready(ike);
            self.pump(ike);
        }
    }

    /// Both ends have stopped sending: the inbound half stays for packets under way.
    pub(crate) fn linger(&mut self, id: ChildSaId, reason: CloseReason) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if child.stage == Stage::Lingering {
            return;
        }
        child.stage = Stage::Lingering;
        let (peer, name, announced, ike) = (child.peer, child.child, child.announced, child.ike);
        if let Some(sa) = ike.and_then(|ike| self.sas.get_mut(&ike)) {
            // Until here a half that was refused has kept back our word that all inbound halves stand.
            sa.installing.remove(&id);
        }
        if announced {
            self.event(Event::ChildClosed {
                peer,
                child: name,
                child_sa: id,
                reason,
            });
        }
        self.remove_outbound(id);
        self.set_timer(Timer::ChildLinger(id), INBOUND_GRACE);
    }

    /// The grace time of a pair is over.
    pub(crate) fn linger_is_over(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let (peer, ike) = (child.peer, child.ike);
        match child.stage {
            Stage::Lingering => self.remove_inbound(id),
            Stage::Leaving(_, reason) => self.linger(id, reason),
            Stage::Redundant if ike.is_some() => self.retire(id, Leave::Delete, CloseReason::Redundant),
            Stage::Inbound | Stage::AwaitSign | Stage::Active | Stage::Redundant => {
                self.retire(id, Leave::Linger, CloseReason::Unreachable);
                self.drive_peer(peer);
            }
        }
    }

    /// Whether a pair leaves because it lost a collision.
    pub(crate) fn is_redundant(&self, id: ChildSaId) -> bool {
        let child = self.children.get(&id);
        child.is_some_and(|child| matches!(child.stage, Stage::Leaving(_, CloseReason::Redundant)))
    }

    /// A crossing exchange made this pair redundant: its creator, the peer, deletes it.
    pub(crate) fn make_redundant(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if !matches!(child.stage, Stage::Inbound | Stage::AwaitSign) {
            return;
        }
        child.stage = Stage::Redundant;
        child.replaces = None;
        self.timers.cancel(Timer::ChildOutbound(id));
        self.timers.cancel(Timer::ChildSoft(id));
        self.set_timer(Timer::ChildLinger(id), DELETE_GRACE);
    }

    /// The peer deletes a pair. Returns our SPI for the answer, unless our own DELETE for it is under way
    /// (RFC 7296 §1.4.1).
    pub(crate) fn peer_deletes(&mut self, ike: IkeSaId, id: ChildSaId) -> Option<(SaProtocol, EspSpi)> {
        let child = self.children.get(&id)?;
        let spi = (child.inbound.protocol, child.inbound.spi);
        let stage = child.stage;
        for successor in self.successors(id) {
            self.install_on_sign(successor);
        }
        let (succeeded, waits) = self.taken_over(id);
        if stage == Stage::Lingering {
            return None;
        }
        let crossing = self.sas.get(&ike).is_some_and(|sa| sa.deletes(id));
        self.dequeue_child(ike, id);
        let reason = match stage {
            Stage::Leaving(_, reason) => reason,
            Stage::Redundant => CloseReason::Redundant,
            Stage::Inbound | Stage::AwaitSign | Stage::Active | Stage::Lingering if succeeded => {
                CloseReason::Replaced
            }
            Stage::Inbound | Stage::AwaitSign | Stage::Active | Stage::Lingering => CloseReason::Remote,
        };
        if waits && let Some(child) = self.children.get_mut(&id) {
            // The successor takes over first; then `replaced` removes our outbound half.
            child.stage = Stage::Leaving(Leave::Answer, reason);
        } else {
            if let Some(child) = self.children.get_mut(&id)
                && let Stage::Leaving(leave, _) = &mut child.stage
            {
                *leave = Leave::Answer;
            }
            self.retire(id, Leave::Answer, reason);
        }
        (!crossing).then_some(spi)
    }

    /// Pairs that are to replace this one.
    fn successors(&self, id: ChildSaId) -> Vec<ChildSaId> {
        let child = self.children.get(&id);
        child.map(|child| child.successors.clone()).unwrap_or_default()
    }

    /// Whether a pair has a successor, and whether one is about to take over.
    fn taken_over(&self, id: ChildSaId) -> (bool, bool) {
        let (mut succeeded, mut waits) = (false, false);
        for successor in self.successors(id) {
            let Some(next) = self.children.get(&successor) else {
                continue;
            };
            succeeded |= matches!(next.stage, Stage::Inbound | Stage::AwaitSign | Stage::Active);
            waits |= match next.stage {
                Stage::Inbound => next.role == Role::Initiator,
                Stage::Active => matches!(next.outbound_half, Half::Installing { .. }),
                Stage::AwaitSign | Stage::Leaving(..) | Stage::Lingering | Stage::Redundant => false,
            };
        }
        (succeeded, waits)
    }

    /// The peer deletes a pair with its IKE SA. One that a wholly new IKE SA has replaced sends until its successor does
    /// (RFC 7296 §2.8.3).
    pub(crate) fn peer_deletes_with_ike(&mut self, id: ChildSaId, reason: CloseReason) {
        for successor in self.successors(id) {
            let next = self.children.get(&successor).and_then(|next| next.ike);
            // A peer that does not confirm says so with its DELETE; one of our kind has said so before, or takes all down.
            if next
                .and_then(|ike| self.sas.get(&ike))
                .is_some_and(|ike| ike.is_current() && !ike.confirms())
            {
                self.install_on_sign(successor);
            }
        }
        let (_, waits) = self.taken_over(id);
        let sends = self.is_usable(id);
        match self.children.get_mut(&id) {
            // `replaced` removes our outbound half as soon as the successor's stands.
            Some(child) if waits && sends => child.stage = Stage::Leaving(Leave::WithIke, reason),
            Some(_) | None => self.retire(id, Leave::WithIke, reason),
        }
    }

    /// The peer's inbound half stands, by its word or by its traffic.
    pub(crate) fn install_on_sign(&mut self, id: ChildSaId) {
        let waits = self
            .children
            .get(&id)
            .is_some_and(|child| child.role == Role::Responder && child.stage == Stage::AwaitSign);
        if waits {
            self.install_outbound(id);
        }
    }

    /// The same, unless our own request for the same child crosses the one that made the pair. Which of the two stays is
    /// known when the response is there (RFC 7296 §2.8.1): until then the predecessor carries our traffic, because the
    /// creator of the pair that loses deletes it.
    pub(crate) fn install_unless_open(&mut self, id: ChildSaId) {
        let made_on = self.children.get(&id).map(|child| child.made_on);
        let sa = made_on.and_then(|ike| self.sas.get_mut(&ike));
        if let Some(in_flight) = sa.and_then(|sa| sa.in_flight.as_mut())
            && let Exchange::CreateChild(request) = &mut in_flight.exchange
            && request.crossed == Some(id)
        {
            request.crossed_stands = true;
            return;
        }
        self.install_on_sign(id);
    }

    /// A pair did not come to stand: what it was to replace stays, or goes without waiting for it.
    pub(super) fn release_predecessor(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let Some(old) = child.replaces.take() else { return };
        let (peer, name) = (child.peer, child.child);
        if let Some(Stage::Leaving(leave, reason)) = self.children.get(&old).map(|child| child.stage) {
            self.retire(old, leave, reason);
        } else if self.is_usable(old) {
            let slot = self
                .peers
                .get_mut(&peer)
                .and_then(|peer| peer.slots.get_mut(&name));
            if let Some(slot) = slot
                && slot.current.is_none_or(|current| current == id)
            {
                slot.current = Some(old);
            }
        }
    }
}
