//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 §1.3.2, §2.18): new SPIs and keys by the roles of this exchange,
//! message IDs from zero, children inherited.

use std::time::Duration;

use super::Exchange;
use crate::collision;
use crate::config::{IkeProposal, KeyExchange};
use crate::crypto::{
    ActiveKeyExchange, IkeSuite, Secret, Skeyseed, confirm_ike, ike_offer, select_ike, without_additional,
};
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
    again: bool,
}

/// One end's contribution and what both agreed on.
struct Agreed<'a> {
    suite: IkeSuite,
    shared: Secret,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    nonce_i: &'a Nonce,
    nonce_r: &'a Nonce,
    role: Role,
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
        let proposals = without_additional(&peer.config.ike_proposals);
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
    pub(super) fn ike_rekey_response(&mut self, id: IkeSaId, request: &Request, payloads: &Payloads) {
        if let Some(error) = payloads.error_notify() {
            let wanted = error.wanted_ke().ok().and_then(KeyExchange::from_method);
            self.ike_rekey_refused(id, request, error.kind, wanted);
            return;
        }
        let new = self.accept_ike_rekey(id, request, payloads);
        let Some(new) = new else {
            self.ike_rekey_refused(id, request, NotifyType::INVALID_SYNTAX, None);
            return;
        };
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

    fn accept_ike_rekey(&mut self, id: IkeSaId, request: &Request, payloads: &Payloads) -> Option<IkeSaId> {
        let (suite, spi) = confirm_ike(&request.proposals, payloads.security_association()?).ok()?;
        let Spi::Ike(spi_r) = spi else { return None };
        let ke = payloads.key_exchange()?;
        let method = request.key_exchange.method();
        if suite.key_exchange != method || ke.method != method.into() {
            return None;
        }
        let shared = request.key_exchange.complete(&ke.data).ok()?;
        let nonce_r = payloads.nonce()?;
        self.make_heir(
            id,
            Agreed {
                suite,
                shared,
                spi_i: request.spi,
                spi_r,
                nonce_i: &request.nonce,
                nonce_r,
                role: Role::Initiator,
            },
        )
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
        if let (NotifyType::INVALID_KE_PAYLOAD, Some(method), false) = (kind, proposed, request.again) {
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
        let busy = !room
            || !sa.is_current()
            || sa.changes_children()
            || sa.held.is_some()
            || !sa.installing.is_empty();
        let answer = if busy {
            Err(Notify::new(NotifyType::TEMPORARY_FAILURE))
        } else {
            self.answer_ike_rekey(id, payloads)
        };
        match answer {
            Ok((new, payloads)) => {
                self.respond(id, ExchangeType::CREATE_CHILD_SA, number, &payloads);
                self.note_peers_heir(id, new);
            }
            Err(notify) => {
                self.respond(
                    id,
                    ExchangeType::CREATE_CHILD_SA,
                    number,
                    &[Payload::Notify(notify)],
                );
            }
        }
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

    fn answer_ike_rekey(
        &mut self,
        id: IkeSaId,
        payloads: &Payloads,
    ) -> Result<(IkeSaId, Vec<Payload>), Notify> {
        let syntax = || Notify::new(NotifyType::INVALID_SYNTAX);
        let failed = || Notify::new(NotifyType::TEMPORARY_FAILURE);
        let sa = self.sas.get(&id).ok_or_else(failed)?;
        let peer = self.peers.get(&sa.peer).ok_or_else(failed)?;
        let offer = payloads.security_association().ok_or_else(syntax)?;
        let nonce_i = payloads.nonce().ok_or_else(syntax)?;
        let ke = payloads.key_exchange().ok_or_else(syntax)?;
        let chosen = select_ike(&without_additional(&peer.config.ike_proposals), offer)
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
        let agreed = Agreed {
            suite: chosen.suite,
            shared,
            spi_i,
            spi_r,
            nonce_i,
            nonce_r: &nonce_r,
            role: Role::Responder,
        };
        let new = self.make_heir(id, agreed).ok_or_else(failed)?;
        let answer = vec![
            Payload::SecurityAssociation(chosen.response(Spi::Ike(spi_r))),
            Payload::Nonce(nonce_r),
            Payload::KeyExchange(KeyExchangeData {
                method: method.into(),
                data: ours.public_value().to_vec(),
            }),
        ];
        Ok((new, answer))
    }

    /// The record of the new SA: it is nobody's current one yet.
    fn make_heir(&mut self, old: IkeSaId, agreed: Agreed<'_>) -> Option<IkeSaId> {
        let sa = self.sas.get(&old)?;
        let Agreed {
            suite,
            shared,
            spi_i,
            spi_r,
            nonce_i,
            nonce_r,
            role,
        } = agreed;
        let mut keys = Skeyseed::rekey(self.provider, &sa.d, suite, &shared, nonce_i, nonce_r)
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
            nonces: (nonce_i, nonce_r),
        };
        let id = IkeSaId(self.next_id());
        let id = self.establish(NewSa { id, ..new });
        // Until one of the ends makes it the current one nothing else ends it.
        self.set_timer(Timer::IkeLinger(id), crate::child::ORPHAN_GRACE);
        Some(id)
    }
}
