//! CREATE_CHILD_SA for CHILD SAs (RFC 7296 §1.3.1, §1.3.3): new ones and rekeys, with and without a key exchange.

use super::Exchange;
use super::follow_up::{Advance, FollowUp, Secrets};
use crate::child::{Agreement, Leave, Stage, selectors};
use crate::collision;
use crate::config::{ChildConfig, KeyExchange, Mode, TrafficSelector};
use crate::crypto::{
    ActiveKeyExchange, ChildContext, ChildKeymat, ChildSuite, Secret, child_offer, confirm_child,
};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Failure};
use crate::peer::Negotiation;
use crate::sa::Standing;
use crate::types::{ChildId, ChildSaId, EspSpi, IkeSaId, SaProtocol};
use crate::wire::{
    ExchangeType, KeyExchangeData, Nonce, Notify, NotifyType, Payload, Payloads, Role, Spi, TrafficSelectors,
};

/// A request of ours for a pair.
pub(crate) struct Request {
    pub(crate) child: ChildId,
    protocol: SaProtocol,
    pub(crate) spi: EspSpi,
    pub(crate) rekeys: Option<ChildSaId>,
    /// The pair that a crossing request of the peer has made.
    pub(crate) crossed: Option<ChildSaId>,
    /// The peer's inbound half of that pair stands, by its word.
    pub(crate) crossed_stands: bool,
    /// SPIs of no pair of ours that the peer has deleted since: its response may come later than its DELETE.
    pub(crate) deleted: Vec<EspSpi>,
    nonce: Nonce,
    key_exchange: Option<Box<dyn ActiveKeyExchange>>,
    /// What was agreed on, while additional key exchanges are under way.
    under_way: Option<(Confirmed, FollowUp)>,
    /// INVALID_KE_PAYLOAD or STATE_NOT_FOUND has made us begin again.
    again: bool,
}

/// What a response has agreed on.
pub(crate) struct Confirmed {
    suite: ChildSuite,
    outbound: EspSpi,
    local: Vec<TrafficSelector>,
    remote: Vec<TrafficSelector>,
    shared: Option<Secret>,
    nonce_r: Nonce,
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
    /// What was asked for: the configuration may say something else by now.
    pub(crate) protocol: SaProtocol,
    pub(crate) spi: EspSpi,
    pub(crate) rekeys: Option<ChildSaId>,
}

impl Request {
    fn answered<'a>(&'a self, nonce_r: &'a Nonce) -> AnsweredChild<'a> {
        let method = self.key_exchange.as_ref().map(|started| started.method().into());
        AnsweredChild {
            child: self.child,
            spi: self.spi,
            rekeys: self.rekeys,
            nonce_i: &self.nonce,
            nonce_r,
            context: ChildContext::Create(method),
            key_exchange: self.key_exchange.as_deref(),
        }
    }

    fn settled(&self) -> Settled {
        Settled {
            child: self.child,
            protocol: self.protocol,
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
        let replaced = self.sas.get(&id).is_some_and(|sa| sa.is_being_replaced(pair));
        if fit && replaced {
            // The peer is about to.
            self.rekey_later(pair);
            return;
        }
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
        payloads
            .extend(old.map(|old| Payload::Notify(Notify::rekey_sa(old.inbound.protocol, old.inbound.spi))));
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
            protocol: self.protocol_of(peer_id, child),
            spi,
            rekeys,
            crossed: None,
            crossed_stands: false,
            deleted: Vec::new(),
            nonce,
            key_exchange,
            under_way: None,
            again,
        };
        self.request(
            id,
            ExchangeType::CREATE_CHILD_SA,
            &payloads,
            Exchange::CreateChild(Box::new(request)),
        );
    }

    /// The response to a request of ours. Whether a crossing pair of the peer stays is known with the last one.
    pub(super) fn child_response(&mut self, id: IkeSaId, mut request: Box<Request>, payloads: &Payloads) {
        let Some(standing) = self.sas.get(&id).map(|sa| sa.standing) else {
            return;
        };
        if standing == Standing::Current {
            let answer = self.read_answer(id, &mut request, payloads);
            if let Some((_, follow_up)) = &request.under_way {
                let payloads = follow_up.payloads();
                let exchange = Exchange::CreateChild(request);
                self.request(id, ExchangeType::IKE_FOLLOWUP_KE, &payloads, exchange);
                return;
            }
            if let Some(answer) = answer {
                self.judge_child_answer(id, &request, answer);
            }
        } else {
            // Whatever it says goes with the IKE SA.
            self.reserved.remove(&request.spi);
            if !matches!(standing, Standing::Closing(_)) && request.rekeys.is_none() {
                self.negotiated(id, request.child);
                if let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) {
                    self.drive_peer(peer);
                }
            }
        }
        if let Some(crossed) = request.crossed.filter(|_| request.crossed_stands) {
            self.install_on_sign(crossed);
        }
    }

    fn judge_child_answer(&mut self, id: IkeSaId, request: &Request, answer: Answer) {
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
        let again = match answer {
            Answer::Refused(NotifyType::INVALID_KE_PAYLOAD, method) => method,
            // The peer has forgotten what we speak of (RFC 9370 §2.2.4).
            Answer::Refused(NotifyType::STATE_NOT_FOUND, _) => {
                request.key_exchange.as_ref().map(|started| started.method())
            }
            Answer::Agreed(_) | Answer::Refused(..) | Answer::Silent | Answer::Unacceptable(..) => None,
        };
        if let Some(method) = again
            && !request.again
            && self.proposes(id, request.child, method)
        {
            self.request_pair(id, request.child, request.rekeys, Some(method));
            return;
        }
        self.settle_child_answer(id, &request.settled(), answer);
    }

    /// What the response says. `None` while additional key exchanges are left: the next is in the request.
    fn read_answer(&mut self, id: IkeSaId, request: &mut Request, payloads: &Payloads) -> Option<Answer> {
        let unacceptable = |detail: &str| Some(Answer::Unacceptable(Failure::Protocol, detail.to_owned()));
        let (confirmed, secrets) = if let Some((confirmed, follow_up)) = request.under_way.take() {
            match follow_up.advance(self.provider, payloads) {
                Advance::Done(secrets) => (confirmed, secrets),
                Advance::More(follow_up) => {
                    request.under_way = Some((confirmed, follow_up));
                    return None;
                }
                Advance::Refused(kind) => return Some(Answer::Refused(kind, None)),
                Advance::Unacceptable(detail) => return unacceptable(detail),
            }
        } else {
            if let Some(error) = payloads.error_notify() {
                let wanted = error.wanted_ke().ok().and_then(KeyExchange::from_method);
                return Some(Answer::Refused(error.kind, wanted));
            }
            let (Some(nonce_r), Some(_)) = (payloads.nonce(), payloads.security_association()) else {
                return Some(Answer::Silent);
            };
            if request.deleted.iter().any(|spi| answers_with(payloads, *spi)) {
                return Some(Answer::Refused(NotifyType::TEMPORARY_FAILURE, None));
            }
            let confirmed = match self.confirm_child_answer(id, &request.answered(nonce_r), payloads) {
                Ok(confirmed) => confirmed,
                Err((failure, detail)) => return Some(Answer::Unacceptable(failure, detail)),
            };
            match FollowUp::begin(self.provider, confirmed.suite.additional, payloads) {
                Ok(None) => (confirmed, Secrets::default()),
                Ok(Some(follow_up)) => {
                    request.under_way = Some((confirmed, follow_up));
                    return None;
                }
                Err(detail) => return unacceptable(detail),
            }
        };
        if request.deleted.contains(&confirmed.outbound) {
            return Some(Answer::Refused(NotifyType::TEMPORARY_FAILURE, None));
        }
        let nonce_r = confirmed.nonce_r.clone();
        let made = self.make_pair(id, &request.answered(&nonce_r), confirmed, secrets.as_slice());
        Some(match made {
            Ok(pair) => Answer::Agreed(pair),
            Err((failure, detail)) => Answer::Unacceptable(failure, detail),
        })
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
        let made = self
            .confirm_child_answer(id, answered, payloads)
            .and_then(|confirmed| self.make_pair(id, answered, confirmed, &[]));
        match made {
            Ok(pair) => Answer::Agreed(pair),
            Err((failure, detail)) => Answer::Unacceptable(failure, detail),
        }
    }

    /// What a response agrees to, where that can be accepted.
    fn confirm_child_answer(
        &self,
        id: IkeSaId,
        answered: &AnsweredChild<'_>,
        payloads: &Payloads,
    ) -> Result<Confirmed, (Failure, String)> {
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
            return Err(protocol("the response has no SPI"));
        };
        if !self.passes(id, suite.protocol) {
            return Err(protocol(
                "AH does not pass the NAT between the ends: set spec.protocol to ESP at both",
            ));
        }
        let echoed = payloads.notify(NotifyType::USE_TRANSPORT_MODE).is_some();
        if echoed != (config.mode == Mode::Transport) {
            let detail =
                "the peer did not agree to the mode of the child; compare both ends' modes".to_owned();
            return Err((Failure::TrafficSelectors, detail));
        }
        let (local, remote) = self.confirm_selectors(id, &config, answered.rekeys, payloads)?;
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
        Ok(Confirmed {
            suite,
            outbound,
            local,
            remote,
            shared,
            nonce_r: answered.nonce_r.clone(),
        })
    }

    /// Makes the pair; `more` are the secrets of additional key exchanges.
    fn make_pair(
        &mut self,
        id: IkeSaId,
        answered: &AnsweredChild<'_>,
        confirmed: Confirmed,
        more: &[Secret],
    ) -> Result<ChildSaId, (Failure, String)> {
        let gone = || {
            let detail = "the child is not configured any more".to_owned();
            (Failure::Protocol, detail)
        };
        let sa = self.sas.get(&id).ok_or_else(gone)?;
        let peer = self.peers.get(&sa.peer).ok_or_else(gone)?;
        let Confirmed {
            suite,
            outbound,
            local,
            remote,
            shared,
            nonce_r,
        } = confirmed;
        let (ni, nr) = (answered.nonce_i, &nonce_r);
        let keys = ChildKeymat::derive(self.provider, &sa.d, suite, shared.as_ref(), more, ni, nr)
            .map_err(|error| (Failure::Protocol, error.to_string()))?
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
            spi_told: true,
            outbound,
            local_selectors: local,
            remote_selectors: remote,
            nonces: (ni, nr),
            replaces,
        })
        .ok_or_else(gone)
    }

    /// Whether packets of this protocol arrive: AH covers the addresses, which a NAT changes, and has no form in UDP
    /// (RFC 3715 §2.1, RFC 3948 §1).
    pub(super) fn passes(&self, id: IkeSaId, protocol: SaProtocol) -> bool {
        let through_udp = self.sas.get(&id).is_some_and(|sa| sa.nat.encapsulates());
        protocol == SaProtocol::Esp || !through_udp
    }

    /// What the peer chose lies within what was offered; a rekey changes nothing (RFC 7296 §2.9, §2.8).
    fn confirm_selectors(
        &self,
        id: IkeSaId,
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
        let sa = self.sas.get(&id).ok_or_else(outside)?;
        let (here, there) = sa.translated(config.mode == Mode::Transport);
        let local = selectors::seen(ts_i.ip(), here);
        let remote = selectors::seen(ts_r.ip(), there);
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
}

/// Whether the pair that a response makes is the one that the peer receives on with this SPI.
fn answers_with(payloads: &Payloads, spi: EspSpi) -> bool {
    payloads
        .security_association()
        .is_some_and(|sa| sa.proposals.iter().any(|proposal| proposal.spi == Spi::Esp(spi)))
}
