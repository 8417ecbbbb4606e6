//! What follows when a negotiation of a pair has ended, or a pair's lifetime.

use std::time::Duration;

use super::Task;
use super::create_child::{Answer, Settled};
use super::told;
use crate::child::Leave;
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Event, Failure};
use crate::peer::Negotiation;
use crate::timer::Timer;
use crate::types::{ChildId, ChildSaId, IkeSaId, PeerId};
use crate::wire::NotifyType;

/// The wait after a rekey that the peer refused.
const REKEY_RETRY: Duration = Duration::from_secs(10);

/// The wait after a rekey of which nothing was heard: longer than all transmissions of a request.
pub(crate) const REKEY_AGAIN: Duration = Duration::from_mins(1);

impl Endpoint {
    /// What follows from a response.
    pub(crate) fn settle_child_answer(&mut self, id: IkeSaId, settled: &Settled, answer: Answer) {
        let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        let Settled {
            child,
            protocol,
            spi,
            rekeys,
        } = *settled;
        match answer {
            Answer::Agreed(pair) => {
                if let Some(slot) = self.slot_mut(peer, child) {
                    slot.negotiation = Negotiation::Idle;
                    if rekeys.is_none() {
                        slot.current = Some(pair);
                    }
                }
            }
            Answer::Refused(NotifyType::TEMPORARY_FAILURE, _) => match rekeys {
                Some(old) => self.rekey_later(old),
                None => self.slot_deferred(peer, child),
            },
            Answer::Refused(NotifyType::CHILD_SA_NOT_FOUND, _) if rekeys.is_some() => {
                if let Some(old) = rekeys {
                    self.peer_lost(peer, child, old);
                }
            }
            Answer::Refused(kind, _) => {
                if kind == NotifyType::NO_ADDITIONAL_SAS && rekeys.is_some() {
                    // A peer that takes one exchange of pairs only wants a new IKE SA for the next (RFC 7296 §1.3).
                    self.start_anew(peer, id);
                }
                let (failure, detail) = told::refused_child(kind);
                self.child_failed(peer, child, rekeys, failure, detail);
            }
            Answer::Unacceptable(failure, detail) => {
                self.enqueue(id, Task::DeleteUnused(protocol, spi));
                self.child_failed(peer, child, rekeys, failure, detail);
            }
            Answer::Silent => {
                let detail = "the peer's response has no CHILD SA".to_owned();
                self.child_failed(peer, child, rekeys, Failure::Protocol, detail);
            }
        }
    }

    /// A negotiation of a child failed. A pair that was to be rekeyed stays.
    fn child_failed(
        &mut self,
        peer: PeerId,
        child: ChildId,
        rekeys: Option<ChildSaId>,
        failure: Failure,
        detail: String,
    ) {
        let retry_in = match rekeys {
            Some(old) => {
                let wait = self.jitter.between(REKEY_RETRY, 2 * REKEY_RETRY);
                if self.is_usable(old) {
                    self.set_timer(Timer::ChildSoft(old), wait);
                }
                Some(wait)
            }
            None => self.slot_failed(peer, child),
        };
        self.event(Event::Failed {
            peer,
            child: Some(child),
            failure,
            detail,
            retry_in,
        });
    }

    /// The peer asks for patience: the rekey is tried again soon, unless the peer's own takes its place.
    pub(super) fn rekey_later(&mut self, old: ChildSaId) {
        let wait = self
            .jitter
            .between(Duration::from_millis(500), Duration::from_millis(1500));
        let succeeded = self
            .children
            .get(&old)
            .is_some_and(|child| child.successors.iter().any(|next| self.is_usable(*next)));
        if self.is_usable(old) && !succeeded {
            self.set_timer(Timer::ChildSoft(old), wait);
        }
    }

    /// The peer does not have the pair that was to be rekeyed: a new one instead (RFC 7296 §2.25.1).
    fn peer_lost(&mut self, peer: PeerId, child: ChildId, old: ChildSaId) {
        let succeeded = self
            .children
            .get(&old)
            .is_none_or(|child| child.successors.iter().any(|next| self.is_usable(*next)));
        if succeeded || !self.is_usable(old) {
            return;
        }
        self.retire(old, Leave::Linger, CloseReason::Remote);
        self.negotiate(peer, child);
    }

    /// The soft limit of a pair has come. Whatever becomes of the rekey: while the pair stands, it is tried again.
    pub(crate) fn child_soft(&mut self, pair: ChildSaId) {
        if self.is_usable(pair) {
            let wait = self.jitter.between(REKEY_AGAIN, 2 * REKEY_AGAIN);
            self.set_timer(Timer::ChildSoft(pair), wait);
            self.rekey_child(pair);
        }
    }

    /// A new pair instead of this one, now.
    pub(crate) fn rekey_child(&mut self, pair: ChildSaId) {
        let Some(child) = self.children.get(&pair) else {
            return;
        };
        if let (true, Some(ike)) = (self.is_usable(pair), child.ike) {
            self.enqueue(ike, Task::RekeyChild(pair));
            self.pump(ike);
        }
    }

    /// The hard limit of a pair: it ends at both ends, and a new one begins.
    pub(crate) fn child_expired(&mut self, pair: ChildSaId) {
        let Some(child) = self.children.get(&pair) else {
            return;
        };
        let (peer, name, ike) = (child.peer, child.child, child.ike);
        if !self.is_usable(pair) {
            return;
        }
        let leave = if ike.is_some() {
            Leave::Delete
        } else {
            Leave::Linger
        };
        self.retire(pair, leave, CloseReason::Expired);
        if self
            .peers
            .get(&peer)
            .is_some_and(|peer| peer.current.is_some() && peer.current == ike)
        {
            self.negotiate(peer, name);
        }
    }
}
