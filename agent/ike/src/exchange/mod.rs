//! Exchanges: from a datagram to the exchange that it belongs to, and the requests that are under way.

pub(crate) mod auth_initiator;
pub(crate) mod auth_responder;
mod child_match;
mod child_outcome;
pub(crate) mod child_responder;
pub(crate) mod create_child;
mod diagnosis;
pub(crate) mod follow_up;
pub(crate) mod informational;
pub(crate) mod init_initiator;
pub(crate) mod init_responder;
mod intermediate;
mod ppk;
mod receive;
pub(crate) mod rekey_ike;
pub(crate) mod suspicion;
mod told;
mod window;

use crate::endpoint::Endpoint;
use crate::sa::{IkeSa, Standing};
use crate::types::{ChildId, ChildSaId, EspSpi, IkeSaId, Path, SaProtocol};
use crate::wire::{Notify, NotifyType, Payload, Payloads};

pub(crate) use child_outcome::REKEY_AGAIN;
pub(crate) use child_responder::HeldChild;
pub(crate) use informational::HeldDelete;

/// The request of ours that waits for its response: one at a time (RFC 7296 §2.3).
pub(crate) struct InFlight {
    pub(crate) id: u32,
    /// The message, or its fragments; sent again bit by bit (RFC 7296 §2.1).
    pub(crate) datagrams: Vec<Vec<u8>>,
    /// Transmissions so far.
    pub(crate) attempts: u32,
    pub(crate) exchange: Exchange,
}

/// What a request of ours is for.
pub(crate) enum Exchange {
    /// Our inbound half stands; then the predecessor's inbound half may go.
    Confirm(Option<ChildSaId>),
    CreateChild(Box<create_child::Request>),
    DeleteChild(ChildSaId),
    DeleteIke,
    DeleteUnused,
    Liveness,
    RekeyIke(Box<rekey_ike::Request>),
}

/// A request that is to be made as soon as none is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Confirm(Option<ChildSaId>),
    CreateChild(ChildId),
    DeleteChild(ChildSaId),
    DeleteIke,
    /// A pair that the peer has made of our SPI and that we cannot accept.
    DeleteUnused(SaProtocol, EspSpi),
    Liveness,
    RekeyChild(ChildSaId),
    RekeyIke,
}

/// A response that waits for the data plane.
pub(crate) enum Held {
    Child(Box<HeldChild>),
    Delete(HeldDelete),
}

impl IkeSa {
    /// Whether our DELETE for a pair is under way.
    pub(crate) fn deletes(&self, child: ChildSaId) -> bool {
        matches!(&self.in_flight, Some(InFlight { exchange: Exchange::DeleteChild(id), .. }) if *id == child)
    }

    /// Whether our word that an inbound half stands is still to be answered.
    pub(crate) fn confirming(&self) -> bool {
        let queued = self.queue.iter().any(|task| matches!(task, Task::Confirm(_)));
        let under_way = matches!(
            &self.in_flight,
            Some(InFlight {
                exchange: Exchange::Confirm(_),
                ..
            })
        );
        queued || under_way
    }

    /// The child that our request under way negotiates, unless it is a rekey.
    pub(crate) fn asked_child(&self) -> Option<ChildId> {
        match self.in_flight.as_ref().map(|in_flight| &in_flight.exchange) {
            Some(Exchange::CreateChild(request)) if request.rekeys.is_none() => Some(request.child),
            _ => None,
        }
    }

    /// Whether a CHILD SA is being made, rekeyed or closed by our request (RFC 7296 §2.25.2).
    pub(crate) fn changes_children(&self) -> bool {
        self.in_flight
            .as_ref()
            .is_some_and(|in_flight| match in_flight.exchange {
                Exchange::CreateChild(_) | Exchange::DeleteChild(_) | Exchange::DeleteUnused => true,
                Exchange::Confirm(_) | Exchange::DeleteIke | Exchange::Liveness | Exchange::RekeyIke(_) => {
                    false
                }
            })
    }

    /// Whether a rekey of this IKE SA by the peer has to wait (RFC 7296 §2.25.2).
    pub(super) fn defers_rekey(&self) -> bool {
        !self.is_current() || self.changes_children() || self.held.is_some() || !self.installing.is_empty()
    }

    /// Whether the peer has deleted the SA, and the answer waits for the data plane.
    pub(crate) fn ends(&self) -> bool {
        matches!(&self.held, Some(Held::Delete(held)) if held.ends_sa())
    }

    /// Whether the IKE SA is being rekeyed by our request.
    pub(crate) fn rekeys(&self) -> bool {
        matches!(
            &self.in_flight,
            Some(InFlight {
                exchange: Exchange::RekeyIke(_),
                ..
            })
        )
    }
}

impl Endpoint {
    /// What IKE_SA_INIT says about fragments (RFC 7383 §2.3).
    fn offers_fragments(&self) -> Option<Payload> {
        let notify = Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        self.config.fragment_size.map(|_| Payload::Notify(notify))
    }

    /// The longest message in one datagram, when the peer's IKE_SA_INIT says that it takes fragments and so does ours.
    fn agreed_fragments(&self, theirs: &Payloads, path: Path) -> Option<usize> {
        theirs.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)?;
        self.config.longest_message(path)
    }

    /// Puts a request into the queue of an IKE SA, once.
    pub(crate) fn enqueue(&mut self, id: IkeSaId, task: Task) {
        // Before anything that the peer takes for a sign that all of our inbound halves stand: a pair that lost a collision
        // must not carry its traffic.
        let first = match task {
            Task::DeleteUnused(..) => true,
            Task::DeleteChild(pair) => self.is_redundant(pair),
            Task::Confirm(_)
            | Task::CreateChild(_)
            | Task::DeleteIke
            | Task::Liveness
            | Task::RekeyChild(_)
            | Task::RekeyIke => false,
        };
        if let Some(sa) = self.sas.get_mut(&id)
            && sa.standing != Standing::Closed
            && !sa.queue.contains(&task)
        {
            if first {
                sa.queue.push_front(task);
            } else {
                sa.queue.push_back(task);
            }
        }
    }

    /// Takes the requests about a pair out of the queue.
    pub(crate) fn dequeue_child(&mut self, ike: IkeSaId, child: ChildSaId) {
        if let Some(sa) = self.sas.get_mut(&ike) {
            sa.queue
                .retain(|task| *task != Task::DeleteChild(child) && *task != Task::RekeyChild(child));
        }
    }

    /// Begins the next request of an IKE SA when none is under way.
    pub(crate) fn pump(&mut self, id: IkeSaId) {
        while let Some(task) = self.next_task(id) {
            match task {
                Task::Confirm(replaced) => self.request_empty(id, Exchange::Confirm(replaced)),
                Task::CreateChild(child) => self.request_child(id, child),
                Task::DeleteChild(child) => self.request_delete_child(id, child),
                Task::DeleteIke => self.request_delete_ike(id),
                Task::DeleteUnused(protocol, spi) => self.request_delete_spi(id, protocol, spi),
                Task::Liveness => self.request_empty(id, Exchange::Liveness),
                Task::RekeyChild(child) => self.request_child_rekey(id, child),
                Task::RekeyIke => self.request_ike_rekey(id),
            }
        }
    }

    fn next_task(&mut self, id: IkeSaId) -> Option<Task> {
        let sa = self.sas.get(&id)?;
        if sa.in_flight.is_some() || sa.standing == Standing::Closed || sa.ends() {
            return None;
        }
        let position = sa.queue.iter().position(|task| self.may_begin(sa, task))?;
        self.sas.get_mut(&id)?.queue.remove(position)
    }

    /// Whether a task may begin now. An empty message says that our inbound halves stand, so it waits for them, and so
    /// does the DELETE of a pair for newer ones of the same child; a rekey of the IKE SA waits for all that is about to
    /// change its children, and they wait for the peer's rekey to end.
    fn may_begin(&self, sa: &IkeSa, task: &Task) -> bool {
        match task {
            Task::Confirm(_) | Task::Liveness => sa.installing.is_empty(),
            Task::RekeyIke => sa.held.is_none() && sa.installing.is_empty() && sa.pending.is_empty(),
            Task::DeleteChild(pair) => {
                let mut installing = sa.installing.iter();
                !sa.is_being_rekeyed()
                    && !installing.any(|other| other > pair && self.child_of(*other) == self.child_of(*pair))
            }
            Task::CreateChild(_) | Task::RekeyChild(_) => !sa.is_being_rekeyed(),
            Task::DeleteIke | Task::DeleteUnused(..) => true,
        }
    }

    fn child_of(&self, pair: ChildSaId) -> Option<ChildId> {
        self.children.get(&pair).map(|pair| pair.child)
    }
}
