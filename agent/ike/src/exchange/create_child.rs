//! CREATE_CHILD_SA for CHILD SAs (RFC 7296 §1.3.1, §1.3.3): new ones and rekeys, with and without a key exchange.

use std::time::Duration;

use super::child_responder::ChildRequest;
use super::{Exchange, Task};
use crate::child::{Agreement, Leave, Stage, selectors};
use crate::collision;
use crate::config::{ChildConfig, KeyExchange, Mode, TrafficSelector};
use crate::crypto::{ActiveKeyExchange, ChildContext, ChildKeymat, child_offer, confirm_child};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Event, Failure};
use crate::peer::Negotiation;
use crate::timer::Timer;
use crate::types::{ChildId, ChildSaId, EspSpi, IkeSaId, PeerId};
use crate::wire::{
    ExchangeType, KeyExchangeData, Nonce, Notify, NotifyType, Payload, Payloads, Protocol, Role, Spi,
    TrafficSelectors,
};

/// A request of ours for a pair.
pub(crate) struct Request {
    pub(crate) child: ChildId,
    pub(crate) spi: EspSpi,
    pub(crate) rekeys: Option<ChildSaId>,
    /// The pair that a crossing request of the peer has made.
    pub(crate) crossed: Option<ChildSaId>,
    nonce: Nonce,
    key_exchange: Option<Box<dyn ActiveKeyExchange>>,
    /// INVALID_KE_PAYLOAD has made us begin again.
    again: bool,
}

/// What a response is read against.
pub(crate) struct AnsweredChild<'a> {
    pub(crate) child: ChildId,
    pub(crate) spi: EspSpi,
    pub(crate) rekeys: Option<ChildSaId>,
    pub(crate) nonce_i: &'a Nonce,
    pub(crate) nonce_r: &'a Nonce,
    pub(crate) context: ChildContext,
    pub(crate) key_exchange: Option<&'a dyn ActiveKeyExchange>,
}

/// What was asked for, once the answer is read.
pub(crate) struct Settled {
    pub(crate) child: ChildId,
    pub(crate) spi: EspSpi,
    pub(crate) rekeys: Option<ChildSaId>,
}

impl Request {
    fn settled(&self) -> Settled {
        Settled {
            child: self.child,
            spi: self.spi,
            rekeys: self.rekeys,
        }
    }
}

/// What a response says.
pub(crate) enum Answer {
    /// There is a pair; its inbound half is asked for.
    Agreed(ChildSaId),
    /// There is none.
    Refused(NotifyType, Option<KeyExchange>),
    /// The peer has made one that we cannot accept.
    Unacceptable(Failure, String),
    /// The response has no payloads for a child.
    Silent,
}

impl Endpoint {
    /// Begins a request for a child that lacks a pair.
    pub(super) fn request_child(&mut self, id: IkeSaId, child: ChildId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (peer_id, current) = (sa.peer, sa.is_current());
        let Some(slot) = self.peers.get(&peer_id).and_then(|peer| peer.slots.get(&child)) else {
            return;
        };
        let served = self.serves(slot, id) && !slot.stale;
        if !current || !slot.wanted || served {
            if let Some(slot) = self.slot_mut(peer_id, child) {
                slot.negotiation = Negotiation::Idle;
            }
            return;
        }
        if let Some(slot) = self.slot_mut(peer_id, child) {
            slot.stale = false;
        }
        self.request_pair(id, child, None, None);
    }

    /// Begins the rekey of a pair.
    pub(super) fn request_child_rekey(&mut self, id: IkeSaId, pair: ChildSaId) {
        let Some(child) = self.children.get(&pair) else {
            return;
        };
        let name = child.child;
        if child.stage == Stage::AwaitSign {
            // The peer may not have our response yet, and would not know what we speak of.
            self.rekey_later(pair);
            return;
        }
        let fit = child.stage == Stage::Active && child.ike == Some(id);
        let succeeded = child.successors.iter().any(|next| self.is_usable(*next));
        if fit && !succeeded && self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current) {
            self.request_pair(id, name, Some(pair), None);
        }
    }

    fn request_pair(
        &mut self,
        id: IkeSaId,
        child: ChildId,
        rekeys: Option<ChildSaId>,
        method: Option<KeyExchange>,
    ) {
        let Some(peer_id) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        let Some(config) = self
            .peers
            .get(&peer_id)
            .and_then(|peer| peer.child(child))
            .cloned()
        else {
            return;
        };
        let again = method.is_some();
        let method = method.or_else(|| {
            config
                .proposals
                .first()
                .and_then(|p| p.key_exchange.first())
                .copied()
        });
        let key_exchange =
            match method.map(|method| self.provider.key_exchange.start(method, self.provider.random)) {
                Some(Ok(started)) => Some(started),
                Some(Err(_)) => {
                    self.slot_failed(peer_id, child);
                    return;
                }
                None => None,
            };
        let (Some(spi), Some(nonce)) = (self.draw_esp_spi(), self.draw_nonce()) else {
            self.slot_failed(peer_id, child);
            return;
        };
        let old = rekeys.and_then(|old| self.children.get(&old));
        let (local, remote) = match old {
            Some(old) => (old.local_selectors.clone(), old.remote_selectors.clone()),
            None => (config.local_selectors.clone(), config.remote_selectors.clone()),
        };
        let mut payloads = Vec::new();
        payloads.extend(old.map(|old| Payload::Notify(Notify::rekey_sa(old.inbound.spi))));
        if config.mode == Mode::Transport {
            payloads.push(Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)));
        }
        let context = ChildContext::Create(method.map(Into::into));
        let offer = child_offer(&config.proposals, config.esn, context, &Spi::Esp(spi));
        payloads.push(Payload::SecurityAssociation(offer));
        payloads.push(Payload::Nonce(nonce.clone()));
        payloads.extend(key_exchange.as_ref().map(|started| {
            Payload::KeyExchange(KeyExchangeData {
                method: started.method().into(),
                data: started.public_value().to_vec(),
            })
        }));
        payloads.push(Payload::TsInitiator(
            local.into_iter().collect::<TrafficSelectors>(),
        ));
        payloads.push(Payload::TsResponder(
            remote.into_iter().collect::<TrafficSelectors>(),
        ));
        let request = Request {
            child,
            spi,
            rekeys,
            crossed: None,
            nonce,
            key_exchange,
            again,
        };
        self.request(
            id,
            ExchangeType::CREATE_CHILD_SA,
            &payloads,
            Exchange::CreateChild(Box::new(request)),
        );
    }

    /// The response to a request of ours.
    pub(super) fn child_response(&mut self, id: IkeSaId, request: Request, payloads: &Payloads) {
        let current = self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current);
        let nonce_r = payloads.nonce().cloned();
        let answer = match (&nonce_r, payloads.error_notify()) {
            (_, Some(error)) => {
                let wanted = error.wanted_ke().ok().and_then(KeyExchange::from_method);
                Answer::Refused(error.kind, wanted)
            }
            (Some(nonce_r), None) if current => {
                let context = request
                    .key_exchange
                    .as_ref()
                    .map(|started| started.method().into());
                let answered = AnsweredChild {
                    child: request.child,
                    spi: request.spi,
                    rekeys: request.rekeys,
                    nonce_i: &request.nonce,
                    nonce_r,
                    context: ChildContext::Create(context),
                    key_exchange: request.key_exchange.as_deref(),
                };
                self.read_child_answer(id, &answered, payloads)
            }
            _ => Answer::Silent,
        };
        self.reserved.remove(&request.spi);
        if let Answer::Agreed(pair) = answer
            && let Some(crossed) = request.crossed
            && self.lost_against(pair, crossed)
        {
            self.negotiated(id, request.child);
            if let Some(slot) = self
                .sas
                .get(&id)
                .map(|sa| sa.peer)
                .and_then(|peer| self.slot_mut(peer, request.child))
                && slot.current == Some(pair)
            {
                slot.current = Some(crossed);
            }
            if let Some(child) = self.children.get_mut(&pair) {
                child.stage = Stage::Redundant;
                child.replaces = None;
            }
            self.retire(pair, Leave::Delete, CloseReason::Redundant);
            return;
        }
        if let Answer::Refused(NotifyType::INVALID_KE_PAYLOAD, Some(method)) = answer
            && !request.again
            && self.proposes(id, request.child, method)
        {
            self.request_pair(id, request.child, request.rekeys, Some(method));
            return;
        }
        self.settle_child_answer(id, &request.settled(), answer);
    }

    /// Whether our new pair lost against the one that the peer's crossing request has made. The loser's creator
    /// deletes it; the winner's deletes what both replace (RFC 7296 §2.8.1).
    fn lost_against(&mut self, ours: ChildSaId, theirs: ChildSaId) -> bool {
        let (Some(our), Some(their)) = (self.children.get(&ours), self.children.get(&theirs)) else {
            return false;
        };
        if !matches!(their.stage, Stage::Inbound | Stage::AwaitSign | Stage::Active) {
            return false;
        }
        if collision::loses(&our.low_nonce, &their.low_nonce) {
            return true;
        }
        self.make_redundant(theirs);
        false
    }

    fn proposes(&self, id: IkeSaId, child: ChildId, method: KeyExchange) -> bool {
        self.sas
            .get(&id)
            .and_then(|sa| self.peers.get(&sa.peer))
            .and_then(|peer| peer.child(child))
            .is_some_and(|child| child.proposals.iter().any(|p| p.key_exchange.contains(&method)))
    }

    fn negotiated(&mut self, id: IkeSaId, child: ChildId) {
        let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        if let Some(slot) = self.slot_mut(peer, child) {
            slot.negotiation = Negotiation::Idle;
        }
    }

    /// Reads a response with a pair, and asks for its inbound half when it can be accepted.
    pub(crate) fn read_child_answer(
        &mut self,
        id: IkeSaId,
        answered: &AnsweredChild<'_>,
        payloads: &Payloads,
    ) -> Answer {
        if let Some(error) = payloads.error_notify() {
            return Answer::Refused(error.kind, None);
        }
        if payloads.security_association().is_none() {
            return Answer::Silent;
        }
        match self.accept_child_answer(id, answered, payloads) {
            Ok(pair) => Answer::Agreed(pair),
            Err((failure, detail)) => Answer::Unacceptable(failure, detail),
        }
    }

    fn accept_child_answer(
        &mut self,
        id: IkeSaId,
        answered: &AnsweredChild<'_>,
        payloads: &Payloads,
    ) -> Result<ChildSaId, (Failure, String)> {
        let protocol = |detail: &str| (Failure::Protocol, detail.to_owned());
        let gone = || protocol("the child is not configured any more");
        let sa = self.sas.get(&id).ok_or_else(gone)?;
        let peer = self.peers.get(&sa.peer).ok_or_else(gone)?;
        let config = peer.child(answered.child).ok_or_else(gone)?.clone();
        let chosen = payloads
            .security_association()
            .ok_or_else(|| protocol("the response has no SA payload"))?;
        let (suite, spi) = confirm_child(&config.proposals, config.esn, answered.context, chosen)
            .map_err(|error| protocol(&error.to_string()))?;
        let Spi::Esp(outbound) = spi else {
            return Err(protocol("the response has no ESP SPI"));
        };
        let echoed = payloads.notify(NotifyType::USE_TRANSPORT_MODE).is_some();
        if echoed != (config.mode == Mode::Transport) {
            let detail =
                "the peer did not agree to the mode of the child; compare both ends' modes".to_owned();
            return Err((Failure::TrafficSelectors, detail));
        }
        let (local, remote) = self.confirm_selectors(&config, answered.rekeys, payloads)?;
        let shared = match (suite.key_exchange, answered.key_exchange) {
            (None, _) => None,
            (Some(_), Some(started)) => {
                let ke = payloads
                    .key_exchange()
                    .filter(|ke| ke.method == started.method().into())
                    .ok_or_else(|| protocol("the response has no KE payload"))?;
                Some(
                    started
                        .complete(&ke.data)
                        .map_err(|error| protocol(&error.to_string()))?,
                )
            }
            (Some(_), None) => {
                return Err(protocol("the response chose a key exchange that was not offered"));
            }
        };
        let (ni, nr) = (answered.nonce_i, answered.nonce_r);
        let keys = ChildKeymat::derive(self.provider, &sa.d, suite, shared.as_ref(), ni, nr)
            .map_err(|error| protocol(&error.to_string()))?
            .into_keys(Role::Initiator);
        let slot = peer.slots.get(&answered.child);
        let replaces = answered
            .rekeys
            .or_else(|| slot.and_then(|slot| slot.current))
            .filter(|old| self.is_usable(*old));
        self.create_child(Agreement {
            ike: id,
            child: answered.child,
            role: Role::Initiator,
            suite,
            keys,
            inbound: answered.spi,
            outbound,
            local_selectors: local,
            remote_selectors: remote,
            nonces: (ni, nr),
            replaces,
        })
        .ok_or_else(gone)
    }

    /// What the peer chose lies within what was offered; a rekey changes nothing (RFC 7296 §2.9, §2.8).
    fn confirm_selectors(
        &self,
        config: &ChildConfig,
        rekeys: Option<ChildSaId>,
        payloads: &Payloads,
    ) -> Result<(Vec<TrafficSelector>, Vec<TrafficSelector>), (Failure, String)> {
        let outside = || {
            (
                Failure::TrafficSelectors,
                "the peer chose selectors that were not offered".to_owned(),
            )
        };
        let (ts_i, ts_r) = payloads
            .ts_initiator()
            .zip(payloads.ts_responder())
            .ok_or_else(outside)?;
        let local: Vec<TrafficSelector> = ts_i.ip().copied().collect();
        let remote: Vec<TrafficSelector> = ts_r.ip().copied().collect();
        let old = rekeys.and_then(|old| self.children.get(&old));
        let (offered_local, offered_remote) = match old {
            Some(old) => (&old.local_selectors, &old.remote_selectors),
            None => (&config.local_selectors, &config.remote_selectors),
        };
        let known = ts_i.selectors.len() == local.len() && ts_r.selectors.len() == remote.len();
        let inside = selectors::within(local.iter(), offered_local)
            && selectors::within(remote.iter(), offered_remote);
        let whole = rekeys.is_none()
            || (selectors::same(&local, offered_local) && selectors::same(&remote, offered_remote));
        if known && inside && whole {
            Ok((local, remote))
        } else {
            Err(outside())
        }
    }

    /// What follows from a response.
    pub(crate) fn settle_child_answer(&mut self, id: IkeSaId, settled: &Settled, answer: Answer) {
        let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        let Settled { child, spi, rekeys } = *settled;
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
            Answer::Refused(NotifyType::CHILD_SA_NOT_FOUND, _) => {
                if let Some(old) = rekeys {
                    self.peer_lost(peer, child, old);
                }
            }
            Answer::Refused(kind, _) => {
                let (failure, detail) = refusal(kind);
                self.child_failed(peer, child, rekeys, failure, detail);
            }
            Answer::Unacceptable(failure, detail) => {
                self.enqueue(id, Task::DeleteUnused(spi));
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
    fn rekey_later(&mut self, old: ChildSaId) {
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

    /// The soft limit of a pair.
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

    /// A CREATE_CHILD_SA request of the peer.
    pub(super) fn receive_create_child(&mut self, id: IkeSaId, number: u32, payloads: &Payloads) {
        let ike = payloads.security_association().is_some_and(|sa| {
            sa.proposals
                .iter()
                .any(|proposal| proposal.protocol == Protocol::IKE)
        });
        if ike {
            self.receive_ike_rekey(id, number, payloads);
            return;
        }
        if let Err(notify) = self.begin_child_answer(id, number, payloads) {
            let payloads: Vec<Payload> = notify.into_iter().map(Payload::Notify).collect();
            self.respond(id, ExchangeType::CREATE_CHILD_SA, number, &payloads);
        }
    }

    fn begin_child_answer(
        &mut self,
        id: IkeSaId,
        number: u32,
        payloads: &Payloads,
    ) -> Result<(), Option<Notify>> {
        let refuse = |kind| Some(Notify::new(kind));
        let busy = self.sas.get(&id).is_none_or(|sa| !sa.is_current() || sa.rekeys());
        if busy {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        let rekeys = match payloads.notify(NotifyType::REKEY_SA) {
            None => None,
            Some(notify) => {
                let spi = notify.esp_spi().map_err(|_| refuse(NotifyType::INVALID_SYNTAX))?;
                let old = self
                    .pair_by_peer_spi(id, spi)
                    .ok_or_else(|| Some(Notify::child_sa_not_found(spi)))?;
                match self.judge_rekey_target(old) {
                    Ok(()) => Some(old),
                    Err(NotifyType::CHILD_SA_NOT_FOUND) => return Err(Some(Notify::child_sa_not_found(spi))),
                    Err(kind) => return Err(refuse(kind)),
                }
            }
        };
        let nonce_i = payloads
            .nonce()
            .ok_or_else(|| refuse(NotifyType::INVALID_SYNTAX))?;
        let nonce_r = self
            .draw_nonce()
            .ok_or_else(|| refuse(NotifyType::TEMPORARY_FAILURE))?;
        let request = ChildRequest {
            number,
            exchange: ExchangeType::CREATE_CHILD_SA,
            prefix: &[],
            payloads,
            context: ChildContext::Create(payloads.key_exchange().map(|ke| ke.method)),
            nonce_i,
            nonce_r: &nonce_r,
            rekeys,
        };
        self.answer_child(id, &request)
    }

    /// The pair that the peer names by the SPI that it receives on.
    pub(super) fn pair_by_peer_spi(&self, id: IkeSaId, spi: EspSpi) -> Option<ChildSaId> {
        let peer = self.sas.get(&id)?.peer;
        self.outbound
            .range((spi, ChildSaId(0))..=(spi, ChildSaId(u64::MAX)))
            .map(|(_, pair)| *pair)
            .find(|pair| {
                self.children
                    .get(pair)
                    .is_some_and(|child| child.peer == peer && child.ike.is_some())
            })
    }
}

/// The wait after a rekey that the peer refused.
const REKEY_RETRY: Duration = Duration::from_secs(10);

/// What a refusal of the peer means to people.
fn refusal(kind: NotifyType) -> (Failure, String) {
    match kind {
        NotifyType::NO_PROPOSAL_CHOSEN => (
            Failure::NoProposalChosen,
            "the peer accepts none of the ESP proposals; compare both ends' suites".to_owned(),
        ),
        NotifyType::TS_UNACCEPTABLE => (
            Failure::TrafficSelectors,
            "the peer has no child with these traffic selectors; compare both ends' configurations"
                .to_owned(),
        ),
        kind => (
            Failure::Protocol,
            format!("the peer refused the CHILD SA with {kind}"),
        ),
    }
}
