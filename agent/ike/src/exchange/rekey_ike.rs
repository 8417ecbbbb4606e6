//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 §1.3.2, §2.18): new SPIs and keys by the roles of this exchange,
//! message IDs from zero, children inherited.

use std::time::Duration;

use super::Exchange;
use super::follow_up::{Advance, Agreed, FollowUp, Secrets};
use crate::collision;
use crate::config::{IkeProposal, KeyExchange};
use crate::crypto::{ActiveKeyExchange, IkeSuite, Secret, Skeyseed, confirm_ike, ike_offer, select_ike};
use crate::endpoint::Endpoint;
use crate::exchange::Task;
use crate::output::{CloseReason, Event, Failure};
use crate::sa::{NewSa, Standing};
use crate::timer::Timer;
use crate::types::{IkeSaId, IkeSpi};
use crate::wire::{ExchangeType, KeyExchangeData, Nonce, Notify, NotifyType, Payload, Payloads, Role, Spi};

/// The wait after a refused rekey.
const RETRY: Duration = Duration::from_secs(10);

/// A request of ours to rekey the IKE SA.
pub(crate) struct Request {
    spi: IkeSpi,
    nonce: Nonce,
    /// What was offered: the peer may not be configured any more when its response comes.
    proposals: Vec<IkeProposal>,
    key_exchange: Box<dyn ActiveKeyExchange>,
    /// The SA that a crossing request of the peer has made.
    pub(crate) crossed: Option<IkeSaId>,
    /// What was agreed on, while additional key exchanges are under way.
    under_way: Option<(Heir, FollowUp)>,
    again: bool,
}

/// What both ends agreed on in CREATE_CHILD_SA.
struct Heir {
    suite: IkeSuite,
    shared: Secret,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    nonce_i: Nonce,
    nonce_r: Nonce,
    role: Role,
}

/// A rekey of the peer that waits for additional key exchanges.
pub(crate) struct PendingIke(Heir);

/// What a response to a request of ours leads to.
enum Answer {
    /// A new SA.
    Agreed(IkeSaId),
    /// Another request.
    More,
    Refused(NotifyType, Option<KeyExchange>),
}

impl Endpoint {
    /// A new IKE SA instead of this one, now.
    pub(crate) fn rekey_ike(&mut self, id: IkeSaId) {
        if self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current) {
            self.enqueue(id, Task::RekeyIke);
            self.pump(id);
        }
    }

    pub(super) fn request_ike_rekey(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id).filter(|sa| sa.is_current()) else {
            return;
        };
        let Some(peer) = self.peers.get(&sa.peer) else {
            return;
        };
        let method = peer
            .config
            .ike_proposals
            .first()
            .and_then(|p| p.key_exchange.first())
            .copied();
        if let Some(method) = method {
            self.send_ike_rekey(id, method, false);
        }
    }

    fn send_ike_rekey(&mut self, id: IkeSaId, method: KeyExchange, again: bool) {
        let Some(peer) = self.sas.get(&id).and_then(|sa| self.peers.get(&sa.peer)) else {
            return;
        };
        let proposals = peer.config.ike_proposals.clone();
        let key_exchange = self.provider.key_exchange.start(method, self.provider.random);
        let (Some(spi), Some(nonce), Ok(key_exchange)) =
            (self.draw_ike_spi(), self.draw_nonce(), key_exchange)
        else {
            self.ike_soft_in(id, RETRY);
            return;
        };
        let payloads = [
            Payload::SecurityAssociation(ike_offer(&proposals, &Spi::Ike(spi))),
            Payload::Nonce(nonce.clone()),
            Payload::KeyExchange(KeyExchangeData {
                method: method.into(),
                data: key_exchange.public_value().to_vec(),
            }),
        ];
        let request = Request {
            spi,
            nonce,
            proposals,
            key_exchange,
            crossed: None,
            under_way: None,
            again,
        };
        self.request(
            id,
            ExchangeType::CREATE_CHILD_SA,
            &payloads,
            Exchange::RekeyIke(Box::new(request)),
        );
    }

    /// The response to our rekey.
    pub(super) fn ike_rekey_response(&mut self, id: IkeSaId, mut request: Box<Request>, payloads: &Payloads) {
        let new = match self.read_ike_rekey(id, &mut request, payloads) {
            Answer::Agreed(new) => new,
            Answer::More => {
                self.follow_up_ike_rekey(id, request);
                return;
            }
            Answer::Refused(kind, wanted) => {
                self.ike_rekey_refused(id, &request, kind, wanted);
                return;
            }
        };
        let request = &*request;
        let replaced = self.sas.get(&id).map(|sa| sa.standing) == Some(Standing::Replaced);
        if replaced && request.crossed.is_none() {
            self.hand_over(id, new);
            self.close_with_delete(id, CloseReason::Replaced);
            return;
        }
        if !self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current) {
            // The old SA is on its way out, and so are its heirs.
            for heir in [Some(new), request.crossed].into_iter().flatten() {
                self.close_with_delete(heir, CloseReason::Redundant);
            }
            return;
        }
        if let Some(crossed) = self.crossing_heir(request)
            && let (Some(our), Some(their)) = (self.sas.get(&new), self.sas.get(&crossed))
        {
            if collision::loses(&our.low_nonce, &their.low_nonce) {
                self.inherit(id, crossed);
                self.close_with_delete(new, CloseReason::Redundant);
                return;
            }
            if let Some(theirs) = self.sas.get_mut(&crossed) {
                theirs.standing = Standing::Redundant;
            }
            self.set_timer(Timer::IkeLinger(crossed), crate::child::DELETE_GRACE);
        }
        self.inherit(id, new);
        self.close_with_delete(id, CloseReason::Replaced);
    }

    /// The SA that a crossing request of the peer has made, unless the peer has ended it since.
    pub(super) fn crossing_heir(&self, request: &Request) -> Option<IkeSaId> {
        request.crossed.filter(|heir| {
            self.sas
                .get(heir)
                .is_some_and(|sa| !matches!(sa.standing, Standing::Closing(_) | Standing::Closed))
        })
    }

    fn read_ike_rekey(&mut self, id: IkeSaId, request: &mut Request, payloads: &Payloads) -> Answer {
        let syntax = Answer::Refused(NotifyType::INVALID_SYNTAX, None);
        let (heir, secrets) = if let Some((heir, follow_up)) = request.under_way.take() {
            match follow_up.advance(self.provider, payloads) {
                Advance::Done(secrets) => (heir, secrets),
                Advance::More(follow_up) => {
                    request.under_way = Some((heir, follow_up));
                    return Answer::More;
                }
                Advance::Refused(kind) => return Answer::Refused(kind, None),
                Advance::Unacceptable(_) => return syntax,
            }
        } else {
            if let Some(error) = payloads.error_notify() {
                let wanted = error.wanted_ke().ok().and_then(KeyExchange::from_method);
                return Answer::Refused(error.kind, wanted);
            }
            let Some(heir) = confirm_ike_rekey(request, payloads) else {
                return syntax;
            };
            match FollowUp::begin(self.provider, heir.suite.additional, payloads) {
                Ok(None) => (heir, Secrets::default()),
                Ok(Some(follow_up)) => {
                    request.under_way = Some((heir, follow_up));
                    return Answer::More;
                }
                Err(_) => return syntax,
            }
        };
        match self.make_heir(id, &heir, &secrets) {
            Some(new) => Answer::Agreed(new),
            None => syntax,
        }
    }

    /// The next additional key exchange of our rekey.
    fn follow_up_ike_rekey(&mut self, id: IkeSaId, request: Box<Request>) {
        let current = self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current);
        match &request.under_way {
            Some((_, follow_up)) if current => {
                let payloads = follow_up.payloads();
                let exchange = Exchange::RekeyIke(request);
                self.request(id, ExchangeType::IKE_FOLLOWUP_KE, &payloads, exchange);
            }
            // The old SA is on its way out, and so is its heir.
            _ => {
                if let Some(heir) = request.crossed {
                    self.close_with_delete(heir, CloseReason::Redundant);
                }
            }
        }
    }

    fn ike_rekey_refused(
        &mut self,
        id: IkeSaId,
        request: &Request,
        kind: NotifyType,
        wanted: Option<KeyExchange>,
    ) {
        if let Some(crossed) = self.crossing_heir(request) {
            self.inherit(id, crossed);
            return;
        }
        let Some(sa) = self.sas.get(&id).filter(|sa| sa.is_current()) else {
            return;
        };
        let peer = sa.peer;
        let proposed = wanted.filter(|wanted| {
            self.peers.get(&peer).is_some_and(|peer| {
                peer.config
                    .ike_proposals
                    .iter()
                    .any(|p| p.key_exchange.contains(wanted))
            })
        });
        let again = match kind {
            NotifyType::INVALID_KE_PAYLOAD => proposed,
            // The peer has forgotten what we speak of (RFC 9370 §2.2.4).
            NotifyType::STATE_NOT_FOUND => Some(request.key_exchange.method()),
            _ => None,
        };
        if let (Some(method), false) = (again, request.again) {
            self.send_ike_rekey(id, method, true);
            return;
        }
        if kind == NotifyType::TEMPORARY_FAILURE {
            let wait = self
                .jitter
                .between(Duration::from_millis(500), Duration::from_millis(1500));
            self.ike_soft_in(id, wait);
            return;
        }
        let wait = self.jitter.between(RETRY, 2 * RETRY);
        self.ike_soft_in(id, wait);
        let failure = match kind {
            NotifyType::NO_ADDITIONAL_SAS => {
                // No rekey, but a new IKE SA beside this one (RFC 7296 §1.3).
                self.start_anew(peer, id);
                Failure::NoAdditionalSas
            }
            NotifyType::NO_PROPOSAL_CHOSEN => Failure::NoProposalChosen,
            _ => Failure::Protocol,
        };
        let detail = format!("the peer refused to rekey the IKE SA with {kind}; the present one stays");
        self.event(Event::Failed {
            peer,
            child: None,
            failure,
            detail,
            retry_in: Some(wait),
        });
    }

    /// The peer's request to rekey the IKE SA.
    pub(super) fn receive_ike_rekey(&mut self, id: IkeSaId, number: u32, payloads: &Payloads) {
        let Some(sa) = self.sas.get(&id) else { return };
        let room = self.peers.get(&sa.peer).is_some_and(crate::peer::Peer::has_room);
        let answer = if !room || sa.defers_rekey() {
            Err(Notify::new(NotifyType::TEMPORARY_FAILURE))
        } else {
            self.answer_ike_rekey(id, payloads)
        };
        match answer {
            Ok((new, payloads)) => {
                self.respond(id, ExchangeType::CREATE_CHILD_SA, number, &payloads);
                if let Some(new) = new {
                    self.note_peers_heir(id, new);
                }
            }
            Err(notify) => {
                let refused = [Payload::Notify(notify)];
                self.respond(id, ExchangeType::CREATE_CHILD_SA, number, &refused);
            }
        }
    }

    /// All additional key exchanges of the peer's rekey are done; `last` answers the last of them.
    pub(super) fn finish_ike_rekey_answer(
        &mut self,
        id: IkeSaId,
        number: u32,
        pending: &PendingIke,
        secrets: &Secrets,
        last: Payload,
    ) -> Result<(), Notify> {
        let deferred = self.sas.get(&id).is_none_or(crate::sa::IkeSa::defers_rekey);
        let new = if deferred {
            None
        } else {
            self.make_heir(id, &pending.0, secrets)
        };
        let new = new.ok_or_else(|| Notify::new(NotifyType::TEMPORARY_FAILURE))?;
        self.respond(id, ExchangeType::IKE_FOLLOWUP_KE, number, &[last]);
        self.note_peers_heir(id, new);
        Ok(())
    }

    /// Our own request may cross the peer's: then its response decides.
    fn note_peers_heir(&mut self, id: IkeSaId, new: IkeSaId) {
        if let Some(sa) = self.sas.get_mut(&id)
            && let Some(in_flight) = &mut sa.in_flight
            && let Exchange::RekeyIke(ours) = &mut in_flight.exchange
        {
            ours.crossed = Some(new);
            return;
        }
        self.inherit(id, new);
    }

    /// The answer, and the new SA unless additional key exchanges come first.
    fn answer_ike_rekey(
        &mut self,
        id: IkeSaId,
        payloads: &Payloads,
    ) -> Result<(Option<IkeSaId>, Vec<Payload>), Notify> {
        let syntax = || Notify::new(NotifyType::INVALID_SYNTAX);
        let failed = || Notify::new(NotifyType::TEMPORARY_FAILURE);
        let sa = self.sas.get(&id).ok_or_else(failed)?;
        let peer = self.peers.get(&sa.peer).ok_or_else(failed)?;
        let offer = payloads.security_association().ok_or_else(syntax)?;
        let nonce_i = payloads.nonce().ok_or_else(syntax)?;
        let ke = payloads.key_exchange().ok_or_else(syntax)?;
        let chosen = select_ike(&peer.config.ike_proposals, offer)
            .ok_or_else(|| Notify::new(NotifyType::NO_PROPOSAL_CHOSEN))?;
        let Spi::Ike(spi_i) = chosen.peer_spi else {
            return Err(syntax());
        };
        let method = chosen.suite.key_exchange;
        if ke.method != method.into() {
            return Err(Notify::invalid_ke(method.into()));
        }
        let ours = self
            .provider
            .key_exchange
            .start(method, self.provider.random)
            .map_err(|_| failed())?;
        let shared = ours.complete(&ke.data).map_err(|_| syntax())?;
        let spi_r = self.draw_ike_spi().ok_or_else(failed)?;
        let nonce_r = self.draw_nonce().ok_or_else(failed)?;
        let heir = Heir {
            suite: chosen.suite,
            shared,
            spi_i,
            spi_r,
            nonce_i: nonce_i.clone(),
            nonce_r: nonce_r.clone(),
            role: Role::Responder,
        };
        let mut answer = vec![
            Payload::SecurityAssociation(chosen.response(Spi::Ike(spi_r))),
            Payload::Nonce(nonce_r),
            Payload::KeyExchange(KeyExchangeData {
                method: method.into(),
                data: ours.public_value().to_vec(),
            }),
        ];
        let additional = heir.suite.additional;
        if additional.is_empty() {
            let new = self
                .make_heir(id, &heir, &Secrets::default())
                .ok_or_else(failed)?;
            return Ok((Some(new), answer));
        }
        let pending = Agreed::Ike(Box::new(PendingIke(heir)));
        answer.push(self.await_follow_up(id, additional, pending));
        Ok((None, answer))
    }

    /// The record of the new SA: it is nobody's current one yet.
    fn make_heir(&mut self, old: IkeSaId, heir: &Heir, more: &Secrets) -> Option<IkeSaId> {
        let sa = self.sas.get(&old)?;
        let (suite, role, spi_i, spi_r) = (heir.suite, heir.role, heir.spi_i, heir.spi_r);
        let nonces = (&heir.nonce_i, &heir.nonce_r);
        let shared = (&heir.shared, more.as_slice());
        let mut keys = Skeyseed::rekey(self.provider, &sa.d, suite, shared, nonces.0, nonces.1)
            .into_ike_keys(self.provider, spi_i, spi_r, role)
            .ok()?;
        keys.fragments_as(&sa.sealer);
        let new = NewSa {
            id: IkeSaId(0),
            peer: sa.peer,
            role,
            suite,
            spi_i,
            spi_r,
            path: sa.path,
            nat: sa.nat,
            d: keys.d,
            sealer: keys.sealer,
            opener: keys.opener,
            next_request: 0,
            expected: 0,
            origin: sa.origin.clone(),
            authentication: sa.authentication,
            identity: sa.identity.clone(),
            boot: sa.boot,
            standing: Standing::Replaced,
            nonces,
        };
        let id = IkeSaId(self.next_id());
        let id = self.establish(NewSa { id, ..new });
        // Until one of the ends makes it the current one nothing else ends it.
        self.set_timer(Timer::IkeLinger(id), crate::child::ORPHAN_GRACE);
        Some(id)
    }
}

/// What the response to our CREATE_CHILD_SA request agrees to.
fn confirm_ike_rekey(request: &Request, payloads: &Payloads) -> Option<Heir> {
    let (suite, spi) = confirm_ike(&request.proposals, payloads.security_association()?).ok()?;
    let Spi::Ike(spi_r) = spi else { return None };
    let ke = payloads.key_exchange()?;
    let method = request.key_exchange.method();
    if suite.key_exchange != method || ke.method != method.into() {
        return None;
    }
    Some(Heir {
        suite,
        shared: request.key_exchange.complete(&ke.data).ok()?,
        spi_i: request.spi,
        spi_r,
        nonce_i: request.nonce.clone(),
        nonce_r: payloads.nonce()?.clone(),
        role: Role::Initiator,
    })
}
