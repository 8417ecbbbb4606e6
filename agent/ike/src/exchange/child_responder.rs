//! The responder's half of making a CHILD SA, in IKE_AUTH and in CREATE_CHILD_SA (RFC 7296 §1.2, §1.3.1, §1.3.3). The
//! response leaves when the inbound half stands.

use super::child_match::Match;
use super::follow_up::{self, Secrets};
use super::{Exchange, Held, diagnosis};
use crate::child::Agreement;
use crate::config::{ChildConfig, Mode, TrafficSelector};
use crate::crypto::{ChildContext, ChildKeymat, ChildSuite, Chosen, Secret, child_offer, select_child};
use crate::endpoint::Endpoint;
use crate::output::{Event, Failure};
use crate::types::{ChildId, ChildSaId, EspSpi, IkeSaId, SaProtocol};
use crate::wire::{
    ExchangeType, KeyExchangeData, Nonce, Notify, NotifyType, Payload, Payloads, Protocol, Role, Spi,
    TrafficSelectors,
};

/// So many children of ours are named where a peer asks for none of them.
const MOST_TOLD: usize = 4;

/// What the peer asks for.
pub(crate) struct ChildRequest<'a> {
    pub(crate) number: u32,
    pub(crate) exchange: ExchangeType,
    /// What stands in front of the child's payloads in the response.
    pub(crate) prefix: &'a [Payload],
    pub(crate) payloads: &'a Payloads,
    pub(crate) context: ChildContext,
    pub(crate) nonce_i: &'a Nonce,
    pub(crate) nonce_r: &'a Nonce,
    /// The pair that REKEY_SA names.
    pub(crate) rekeys: Option<ChildSaId>,
}

/// A response that waits until the inbound half of its pair stands.
pub(crate) struct HeldChild {
    number: u32,
    exchange: ExchangeType,
    prefix: Vec<Payload>,
    pair: ChildSaId,
    /// After additional key exchanges they have been told already.
    terms: Option<Terms>,
}

/// What a response says of a pair.
struct Terms {
    chosen: Chosen<ChildSuite>,
    transport: bool,
    nonce: Option<Nonce>,
    key_exchange: Option<KeyExchangeData>,
    ts_i: Vec<TrafficSelector>,
    ts_r: Vec<TrafficSelector>,
}

impl Terms {
    fn payloads(self, inbound: EspSpi) -> Vec<Payload> {
        let mut payloads = Vec::new();
        if self.transport {
            payloads.push(Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)));
        }
        payloads.push(Payload::SecurityAssociation(
            self.chosen.response(Spi::Esp(inbound)),
        ));
        payloads.extend(self.nonce.map(Payload::Nonce));
        payloads.extend(self.key_exchange.map(Payload::KeyExchange));
        payloads.push(Payload::TsInitiator(
            self.ts_i.into_iter().collect::<TrafficSelectors>(),
        ));
        payloads.push(Payload::TsResponder(
            self.ts_r.into_iter().collect::<TrafficSelectors>(),
        ));
        payloads
    }
}

/// What is agreed about a pair but its keys.
struct Agreed {
    found: Match,
    suite: ChildSuite,
    outbound: EspSpi,
    inbound: EspSpi,
    shared: Option<Secret>,
    nonce_i: Nonce,
    nonce_r: Nonce,
    rekeys: Option<ChildSaId>,
}

/// A pair of the peer that waits for additional key exchanges, and what REKEY_SA has named.
pub(crate) struct PendingChild {
    agreed: Agreed,
    named: Option<(SaProtocol, EspSpi)>,
    /// The newest pair that we had of this child.
    newest: Option<ChildSaId>,
}

impl PendingChild {
    /// Our SPI: the peer knows it.
    pub(super) fn inbound(&self) -> EspSpi {
        self.agreed.inbound
    }

    /// The pair that it is to replace.
    pub(super) fn replaces(&self) -> Option<ChildSaId> {
        self.agreed.rekeys
    }
}

impl Endpoint {
    /// Begins the answer to a request for a pair. The error is what to answer at once; `None` when nothing was asked.
    pub(crate) fn answer_child(
        &mut self,
        id: IkeSaId,
        request: &ChildRequest<'_>,
    ) -> Result<(), Option<Notify>> {
        let outcome = self.begin_pair(id, request);
        if let Err(Some(notify)) = &outcome {
            self.tell_refused_child(id, request, notify.kind);
        }
        outcome
    }

    /// A request that meets nothing of ours is told to people here as well: the peer learns a number only.
    fn tell_refused_child(&mut self, id: IkeSaId, request: &ChildRequest<'_>, kind: NotifyType) {
        let Some(peer) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        let Some(config) = self.peers.get(&peer).map(|peer| &peer.config) else {
            return;
        };
        let payloads = request.payloads;
        let transport = payloads.notify(NotifyType::USE_TRANSPORT_MODE).is_some();
        let (failure, detail) = match kind {
            NotifyType::TS_UNACCEPTABLE => {
                let asked = |list: Option<&TrafficSelectors>| {
                    list.map_or_else(String::new, |list| diagnosis::selectors(list.ip()))
                };
                let ours = config.children.iter().map(|child| {
                    let mode = if child.mode == Mode::Transport {
                        "transport"
                    } else {
                        "tunnel"
                    };
                    let (local, remote) = (&child.local_selectors, &child.remote_selectors);
                    format!(
                        "{} with {} in {mode} mode",
                        diagnosis::selectors(local),
                        diagnosis::selectors(remote)
                    )
                });
                let detail = format!(
                    "the peer asks for {} here with {} there in {} mode, configured is {}: make the selectors and modes of both \
                     ends mirror each other",
                    asked(payloads.ts_responder()),
                    asked(payloads.ts_initiator()),
                    if transport { "transport" } else { "tunnel" },
                    ours.take(MOST_TOLD).collect::<Vec<_>>().join("; ")
                );
                (Failure::TrafficSelectors, detail)
            }
            NotifyType::NO_PROPOSAL_CHOSEN => {
                let first = config.children.first();
                let offers = payloads.security_association().zip(first).map(|(theirs, child)| {
                    let ours = child_offer(&child.proposals, child.esn, request.context, &Spi::Absent);
                    diagnosis::no_common(theirs, &ours)
                });
                let detail = format!(
                    "no proposal for the CHILD SA in common: {}; give both ends the same childSA.proposals or suite",
                    offers.unwrap_or_default()
                );
                (Failure::NoProposalChosen, detail)
            }
            _ => return,
        };
        self.event(Event::Failed {
            peer,
            child: None,
            failure,
            detail,
            retry_in: None,
        });
    }

    fn begin_pair(&mut self, id: IkeSaId, request: &ChildRequest<'_>) -> Result<(), Option<Notify>> {
        let payloads = request.payloads;
        let (Some(offer), Some(ts_i), Some(ts_r)) = (
            payloads.security_association(),
            payloads.ts_initiator(),
            payloads.ts_responder(),
        ) else {
            // IKE_AUTH without a child is a request of its own (RFC 6023); CREATE_CHILD_SA without one is none.
            let asked = request.exchange == ExchangeType::CREATE_CHILD_SA;
            return Err(asked.then(|| Notify::new(NotifyType::INVALID_SYNTAX)));
        };
        let refuse = |kind| Some(Notify::new(kind));
        let transport = payloads.notify(NotifyType::USE_TRANSPORT_MODE).is_some();
        let matched = self
            .match_child(id, request.rekeys, ts_i, ts_r, transport)
            .ok_or_else(|| refuse(NotifyType::TS_UNACCEPTABLE))?;
        if !self.has_room(id, matched.config.id) {
            return Err(refuse(match request.rekeys {
                Some(_) => NotifyType::TEMPORARY_FAILURE,
                None => NotifyType::NO_ADDITIONAL_SAS,
            }));
        }
        let chosen = select_child(
            &matched.config.proposals,
            matched.config.esn,
            request.context,
            offer,
        )
        .ok_or_else(|| refuse(NotifyType::NO_PROPOSAL_CHOSEN))?;
        let Spi::Esp(outbound) = chosen.peer_spi else {
            return Err(refuse(NotifyType::NO_PROPOSAL_CHOSEN));
        };
        if !self.passes(id, chosen.suite.protocol) {
            return Err(refuse(NotifyType::NO_PROPOSAL_CHOSEN));
        }
        let (key_exchange, shared) = self.answer_key_exchange(chosen.suite, payloads)?;
        let inbound = self
            .draw_esp_spi()
            .ok_or_else(|| refuse(NotifyType::TEMPORARY_FAILURE))?;
        let in_create = request.exchange == ExchangeType::CREATE_CHILD_SA;
        let suite = chosen.suite;
        let terms = Terms {
            chosen,
            transport: matched.config.mode == Mode::Transport,
            nonce: in_create.then(|| request.nonce_r.clone()),
            key_exchange,
            ts_i: matched.remote.clone(),
            ts_r: matched.local.clone(),
        };
        let agreed = Agreed {
            found: matched,
            suite,
            outbound,
            inbound,
            shared,
            nonce_i: request.nonce_i.clone(),
            nonce_r: request.nonce_r.clone(),
            rekeys: request.rekeys,
        };
        if !suite.additional.is_empty() {
            let agreed_child = agreed.found.config.id;
            let named = payloads.notify(NotifyType::REKEY_SA);
            let pending = PendingChild {
                agreed,
                named: named.and_then(|notify| notify.child_spi().ok()),
                newest: self.newest_pair(id, agreed_child),
            };
            let mut answer = terms.payloads(inbound);
            let pending = follow_up::Agreed::Child(Box::new(pending));
            answer.push(self.await_follow_up(id, suite.additional, pending));
            self.respond(id, request.exchange, request.number, &answer);
            return Ok(());
        }
        let held = |pair| HeldChild {
            number: request.number,
            exchange: request.exchange,
            prefix: request.prefix.to_vec(),
            pair,
            terms: Some(terms),
        };
        if self.make_answered_pair(id, agreed, None, held).is_none() {
            self.reserved.remove(&inbound);
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        Ok(())
    }

    /// Whether old pairs of a child leave room for another one (RFC 7296 §1.3).
    fn has_room(&self, id: IkeSaId, child: ChildId) -> bool {
        let peer = self.sas.get(&id).and_then(|sa| self.peers.get(&sa.peer));
        peer.and_then(|peer| peer.slots.get(&child))
            .is_some_and(crate::peer::Slot::has_room)
    }

    /// All additional key exchanges for a pair of the peer are done; `last` answers the last of them.
    pub(super) fn finish_child_answer(
        &mut self,
        id: IkeSaId,
        number: u32,
        pending: PendingChild,
        secrets: &Secrets,
        last: Payload,
    ) -> Result<(), Notify> {
        let failed = || Notify::new(NotifyType::TEMPORARY_FAILURE);
        let busy = self.sas.get(&id).is_none_or(|sa| !sa.is_current() || sa.rekeys());
        if busy || !self.has_room(id, pending.agreed.found.config.id) {
            return Err(failed());
        }
        let newest = self.newest_pair(id, pending.agreed.found.config.id);
        let overtaken = newest
            .filter(|_| newest != pending.newest)
            .and_then(|pair| self.children.get(&pair))
            .is_some_and(|pair| pair.role == Role::Initiator);
        if overtaken {
            // A request of ours that crossed this one is through: its pair stays, whatever the nonces (RFC 7296 §2.25).
            return Err(failed());
        }
        if let Some(old) = pending.replaces() {
            self.judge_rekey_target(old)
                .map_err(|kind| match (kind, pending.named) {
                    (NotifyType::CHILD_SA_NOT_FOUND, Some((protocol, spi))) => {
                        Notify::child_sa_not_found(protocol, spi)
                    }
                    (kind, _) => Notify::new(kind),
                })?;
        }
        let held = |pair| HeldChild {
            number,
            exchange: ExchangeType::IKE_FOLLOWUP_KE,
            prefix: vec![last],
            pair,
            terms: None,
        };
        self.make_answered_pair(id, pending.agreed, Some(secrets), held)
            .ok_or_else(failed)
    }

    /// Makes a pair as the responder; the response leaves when its inbound half stands. `secrets` are those of additional
    /// key exchanges, in which our SPI has been told.
    fn make_answered_pair(
        &mut self,
        id: IkeSaId,
        agreed: Agreed,
        secrets: Option<&Secrets>,
        held: impl FnOnce(ChildSaId) -> HeldChild,
    ) -> Option<()> {
        let Agreed {
            found,
            suite,
            outbound,
            inbound,
            shared,
            nonce_i,
            nonce_r,
            rekeys,
        } = agreed;
        let more = secrets.map(Secrets::as_slice).unwrap_or_default();
        let d = &self.sas.get(&id)?.d;
        let keys =
            ChildKeymat::derive(self.provider, d, suite, shared.as_ref(), more, &nonce_i, &nonce_r).ok()?;
        let replaces = rekeys.or_else(|| self.occupant(id, &found.config));
        let pair = self.create_child(Agreement {
            ike: id,
            child: found.config.id,
            role: Role::Responder,
            suite,
            keys: keys.into_keys(Role::Responder),
            inbound,
            spi_told: secrets.is_some(),
            outbound,
            local_selectors: found.local,
            remote_selectors: found.remote,
            nonces: (&nonce_i, &nonce_r),
            replaces,
        })?;
        self.note_answered_pair(id, pair, &found.config, rekeys.is_some());
        if let Some(sa) = self.sas.get_mut(&id) {
            sa.held = Some(Held::Child(Box::new(held(pair))));
            self.held_for.insert(pair, id);
        }
        Some(())
    }

    fn newest_pair(&self, id: IkeSaId, child: ChildId) -> Option<ChildSaId> {
        let peer = self.sas.get(&id)?.peer;
        let slot = self.peers.get(&peer)?.slots.get(&child)?;
        slot.pairs.last().copied()
    }

    /// The pair that a new one of the same child replaces although the peer did not say so: it has lost it.
    fn occupant(&self, id: IkeSaId, config: &ChildConfig) -> Option<ChildSaId> {
        let peer = self.sas.get(&id)?.peer;
        self.peers
            .get(&peer)?
            .slots
            .get(&config.id)?
            .current
            .filter(|pair| self.is_usable(*pair))
    }

    /// Where the new pair belongs, and whether a request of ours for the same child crosses it.
    fn note_answered_pair(&mut self, id: IkeSaId, pair: ChildSaId, config: &ChildConfig, rekey: bool) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let peer = sa.peer;
        let mut crosses = false;
        if let Some(in_flight) = &mut sa.in_flight
            && let Exchange::CreateChild(ours) = &mut in_flight.exchange
            && ours.child == config.id
        {
            ours.crossed = Some(pair);
            ours.crossed_stands = false;
            crosses = true;
        }
        if let Some(slot) = self
            .peers
            .get_mut(&peer)
            .and_then(|peer| peer.slots.get_mut(&config.id))
        {
            slot.wanted = true;
            if !rekey {
                slot.current = Some(pair);
            }
            if slot.negotiation == crate::peer::Negotiation::Waiting && !crosses {
                slot.negotiation = crate::peer::Negotiation::Idle;
                self.timers
                    .cancel(crate::timer::Timer::ChildRetry(peer, config.id));
            }
        }
    }

    /// Our public value and the shared secret, where the suite has a key exchange of its own.
    fn answer_key_exchange(
        &self,
        suite: ChildSuite,
        payloads: &Payloads,
    ) -> Result<(Option<KeyExchangeData>, Option<Secret>), Option<Notify>> {
        let Some(method) = suite.key_exchange else {
            return Ok((None, None));
        };
        let ke = payloads.key_exchange().filter(|ke| ke.method == method.into());
        let Some(ke) = ke else {
            return Err(Some(Notify::invalid_ke(method.into())));
        };
        let ours = self
            .provider
            .key_exchange
            .start(method, self.provider.random)
            .map_err(|_| Some(Notify::new(NotifyType::TEMPORARY_FAILURE)))?;
        let shared = ours
            .complete(&ke.data)
            .map_err(|_| Some(Notify::new(NotifyType::INVALID_SYNTAX)))?;
        let answer = KeyExchangeData {
            method: method.into(),
            data: ours.public_value().to_vec(),
        };
        Ok((Some(answer), Some(shared)))
    }

    /// The data plane has answered for the inbound half of a pair that a response waits for. Tells whether one did.
    pub(crate) fn answer_held_child(&mut self, pair: ChildSaId, stands: bool) -> bool {
        // A rekey of the IKE SA may have moved the pair; the response belongs to the SA of its request.
        let Some(holder) = self.held_for.remove(&pair) else {
            return false;
        };
        let Some(sa) = self.sas.get_mut(&holder) else {
            return false;
        };
        let held = match sa.held.take() {
            Some(Held::Child(held)) if held.pair == pair => *held,
            other => {
                sa.held = other;
                return false;
            }
        };
        let mut payloads = held.prefix;
        let inbound = self.children.get(&pair).map(|child| child.inbound.spi);
        match inbound.filter(|_| stands) {
            Some(spi) => payloads.extend(held.terms.into_iter().flat_map(|terms| terms.payloads(spi))),
            None => payloads.push(Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))),
        }
        self.respond(holder, held.exchange, held.number, &payloads);
        self.pump(holder);
        true
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
                let (protocol, spi) = notify
                    .child_spi()
                    .map_err(|_| refuse(NotifyType::INVALID_SYNTAX))?;
                let not_found = || Some(Notify::child_sa_not_found(protocol, spi));
                let old = self.pair_by_peer_spi(id, protocol, spi).ok_or_else(not_found)?;
                match self.judge_rekey_target(old) {
                    Ok(()) => Some(old),
                    Err(NotifyType::CHILD_SA_NOT_FOUND) => return Err(not_found()),
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
}
