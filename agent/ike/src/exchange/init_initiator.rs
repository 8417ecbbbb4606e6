//! IKE_SA_INIT as initiator (RFC 7296 §1.2): the offer, COOKIE, INVALID_KE_PAYLOAD, and every response a candidate.

use std::time::Duration;

use super::{intermediate, ppk, told};
use crate::config::{Encapsulation, Initiation, KeyExchange, PeerAuth, SignatureAlgorithm};
use crate::crypto::{Skeyseed, confirm_ike, ike_offer};
use crate::endpoint::Endpoint;
use crate::nat;
use crate::output::{Disposition, DropReason, Event, Failure};
use crate::peer::{AWAY_LAST, Negotiation};
use crate::sa::{Candidate, Initiating, Offer, SpiOwner, Stage};
use crate::timer::Timer;
use crate::types::{IkeSaId, Path, PeerId};
use crate::wire::{
    ExchangeType, Flags, Header, KeyExchangeData, MessageId, Notify, NotifyType, Payload, Payloads, Role,
    Spi, Version,
};

/// How often COOKIE or INVALID_KE_PAYLOAD may make one exchange begin again.
const MAX_RESTARTS: u8 = 5;

/// A responder adds a CERTREQ and what it is able to. It asks nobody for a cookie who has sent as many bytes as that.
const PADDING: usize = 64;

/// Responses to one offer that are pursued at the same time.
const MAX_CANDIDATES: usize = 4;

/// After a refusal, which anybody could have sent, the offer stays open for this long.
const REFUSAL_GRACE: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Begins an initial exchange. `replaces` is the IKE SA that its success makes superfluous.
    pub(crate) fn begin_init(&mut self, peer_id: PeerId, replaces: Option<IkeSaId>) {
        if !self.can_authenticate(peer_id) {
            return;
        }
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        // A host behind a NAT is reached where its present SA is, and nowhere else (RFC 7296 §2.23).
        let old = replaces.and_then(|old| self.sas.get(&old));
        let path = old.filter(|old| old.nat.peer).map_or_else(
            || Path {
                local: (peer.config.local_address, 500).into(),
                remote: (peer.config.remote_address, 500).into(),
            },
            |old| old.path,
        );
        let method = peer
            .config
            .ike_proposals
            .first()
            .and_then(|p| p.key_exchange.first())
            .copied();
        let (Some(spi), Some(nonce), Some(method)) = (self.draw_ike_spi(), self.draw_nonce(), method) else {
            self.start_after_failure(peer_id, None);
            return;
        };
        let child = self.first_child(peer_id);
        let id = IkeSaId(self.next_id());
        let attempt = Initiating {
            peer: peer_id,
            spi,
            path,
            nonce,
            offers: Vec::new(),
            cookie: None,
            restarts: 0,
            candidates: Vec::new(),
            attempts: 0,
            lost: false,
            replaces,
            speculative: false,
            child,
            refusal: None,
        };
        self.initiating.insert(id, attempt);
        self.by_spi.insert(spi, SpiOwner::Initiating(id));
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.initiating = Some(id);
        }
        self.offer(id, method);
    }

    /// The child that IKE_AUTH negotiates, with an SPI of ours.
    fn first_child(&mut self, peer_id: PeerId) -> Option<(crate::types::ChildId, crate::types::EspSpi)> {
        let peer = self.peers.get(&peer_id)?;
        let child = peer
            .config
            .children
            .iter()
            .map(|child| child.id)
            .find(|child| peer.slots.get(child).is_some_and(|slot| slot.wanted))?;
        let spi = self.draw_esp_spi()?;
        let slot = self.peers.get_mut(&peer_id)?.slots.get_mut(&child)?;
        slot.negotiation = Negotiation::UnderWay;
        self.timers.cancel(Timer::ChildRetry(peer_id, child));
        Some((child, spi))
    }

    /// Sends a new IKE_SA_INIT request of an exchange: the first, or with another method or a cookie.
    fn offer(&mut self, id: IkeSaId, method: KeyExchange) {
        let Some(attempt) = self.initiating.get(&id) else {
            return;
        };
        let Some(peer) = self.peers.get(&attempt.peer) else {
            return;
        };
        let Ok(key_exchange) = self.provider.key_exchange.start(method, self.provider.random) else {
            self.fail_attempt(
                id,
                Failure::Protocol,
                "no key exchange could be started".to_owned(),
            );
            return;
        };
        let header = Header {
            initiator_spi: attempt.spi,
            responder_spi: None,
            version: Version::V2_0,
            exchange: ExchangeType::IKE_SA_INIT,
            flags: Flags::request(Role::Initiator),
            message_id: MessageId(0),
        };
        let mut payloads = Vec::new();
        if let Some(cookie) = &attempt.cookie {
            payloads.push(Payload::Notify(Notify::with_data(
                NotifyType::COOKIE,
                cookie.clone(),
            )));
        }
        payloads.push(Payload::SecurityAssociation(ike_offer(
            &peer.config.ike_proposals,
            &Spi::Absent,
        )));
        payloads.push(Payload::KeyExchange(KeyExchangeData {
            method: method.into(),
            data: key_exchange.public_value().to_vec(),
        }));
        payloads.push(Payload::Nonce(attempt.nonce.clone()));
        payloads.extend(nat::notifies(
            self.provider,
            attempt.spi,
            None,
            attempt.path,
            peer.config.encapsulation,
        ));
        payloads.extend(self.offers_fragments());
        let additional = peer.config.ike_proposals.iter().any(|p| !p.additional.is_empty());
        payloads.extend(additional.then(intermediate::supported));
        payloads.extend(peer.config.ppk.as_ref().map(|_| ppk::announced()));
        if peer.config.auth == PeerAuth::Certificate {
            let hashes = Notify::hash_algorithms(&SignatureAlgorithm::HASHES);
            payloads.push(Payload::Notify(hashes));
        }
        payloads.push(Payload::VendorId(vec![0; PADDING]));
        let Ok(request) = crate::wire::encode(&header, &payloads) else {
            self.fail_attempt(
                id,
                Failure::Protocol,
                "the proposals do not fit into a message".to_owned(),
            );
            return;
        };
        let Some(attempt) = self.initiating.get_mut(&id) else {
            return;
        };
        attempt.offers.push(Offer {
            key_exchange,
            request: request.clone(),
        });
        attempt.attempts = 1;
        let path = attempt.path;
        self.transmit(path, request);
        let wait = self.initiate_wait(1);
        self.set_timer(Timer::Initiate(id), wait);
    }

    /// A response to IKE_SA_INIT came, from anybody.
    pub(crate) fn receive_init_response(
        &mut self,
        path: Path,
        header: &Header,
        payloads: &Payloads,
        datagram: &[u8],
    ) -> Disposition {
        let Some(SpiOwner::Initiating(id)) = self.by_spi.get(&header.initiator_spi).copied() else {
            return Disposition::Dropped(DropReason::Unexpected);
        };
        let Some(attempt) = self.initiating.get(&id) else {
            return Disposition::Dropped(DropReason::Unexpected);
        };
        if header.flags.sender() != Role::Responder || header.message_id != MessageId(0) {
            return Disposition::Dropped(DropReason::Malformed);
        }
        if (path.local.ip(), path.remote.ip()) != (attempt.path.local.ip(), attempt.path.remote.ip()) {
            return Disposition::Dropped(DropReason::UnknownPeer);
        }
        let Some(spi_r) = header.responder_spi else {
            return self.receive_init_refusal(id, payloads);
        };
        // Some peers set their SPI in an error.
        if payloads.error_notify().is_some() {
            return self.receive_init_refusal(id, payloads);
        }
        let known = attempt
            .candidates
            .iter()
            .any(|candidate| candidate.spi_r == spi_r);
        if known || attempt.candidates.len() >= MAX_CANDIDATES {
            return Disposition::Dropped(DropReason::Unexpected);
        }
        match self.add_candidate(id, path, spi_r, payloads, datagram) {
            Some(()) => Disposition::Accepted,
            None => Disposition::Dropped(DropReason::Malformed),
        }
    }

    /// A response that can be a candidate, with the IKE_AUTH request that answers it.
    fn add_candidate(
        &mut self,
        id: IkeSaId,
        path: Path,
        spi_r: crate::types::IkeSpi,
        payloads: &Payloads,
        datagram: &[u8],
    ) -> Option<()> {
        let attempt = self.initiating.get(&id)?;
        let peer = self.peers.get(&attempt.peer)?;
        let (suite, _) = confirm_ike(&peer.config.ike_proposals, payloads.security_association()?).ok()?;
        let ke = payloads.key_exchange()?;
        let nonce_r = payloads.nonce()?.clone();
        let offer = attempt.offers.iter().rev().find(|offer| {
            offer.key_exchange.method() == suite.key_exchange && ke.method == suite.key_exchange.into()
        })?;
        let shared = offer.key_exchange.complete(&ke.data).ok()?;
        let mut keys = Skeyseed::initial(self.provider, suite, &shared, &attempt.nonce, &nonce_r)
            .into_ike_keys(self.provider, attempt.spi, spi_r, Role::Initiator)
            .ok()?;
        if let Some(longest) = self.agreed_fragments(payloads, path) {
            keys.allow_fragments(longest);
        }
        let encapsulation = peer.config.encapsulation;
        let detected = nat::detected(self.provider, payloads, attempt.spi, Some(spi_r), path);
        if detected.is_there() && encapsulation == Encapsulation::Never {
            let detail = "a NAT lies between the hosts and encapsulation is `Never`".to_owned();
            self.refused(id, Failure::Protocol, detail);
            return None;
        }
        if attempt.child.is_none() && payloads.notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED).is_none() {
            let detail =
                "the peer takes no IKE SA without a CHILD SA (RFC 6023), and no traffic asks for one now";
            self.refused(id, Failure::Protocol, detail.to_owned());
            return None;
        }
        let agreed_ppk = match ppk::agreed(peer.config.ppk.as_ref(), payloads) {
            Ok(ppk) => ppk,
            Err(detail) => {
                self.refused(id, Failure::Authentication, detail);
                return None;
            }
        };
        let nat = detected.forced_by(encapsulation);
        let offer = offer.request.clone();
        if !suite.additional.is_empty() {
            payloads.notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)?;
        }
        let candidate = Candidate {
            spi_r,
            nonce_r,
            keys,
            response: datagram.to_vec(),
            path: if nat.encapsulates() {
                nat::float(attempt.path)
            } else {
                attempt.path
            },
            nat,
            request: Vec::new(),
            offer,
            suite,
            stage: Stage::Auth(None),
            ppk: agreed_ppk,
        };
        self.send_next(id, candidate)
    }

    /// The candidate that a sealed message comes from.
    pub(crate) fn candidate(
        &mut self,
        id: IkeSaId,
        path: Path,
        header: &Header,
    ) -> Result<&mut Candidate, DropReason> {
        let attempt = self.initiating.get_mut(&id).ok_or(DropReason::UnknownSpi)?;
        if (path.local.ip(), path.remote.ip()) != (attempt.path.local.ip(), attempt.path.remote.ip()) {
            return Err(DropReason::UnknownPeer);
        }
        let mut candidates = attempt.candidates.iter_mut();
        candidates
            .find(|candidate| Some(candidate.spi_r) == header.responder_spi)
            .ok_or(DropReason::UnknownSpi)
    }

    /// Takes that candidate out of its attempt.
    pub(crate) fn take_candidate(&mut self, id: IkeSaId, header: &Header) -> Option<Candidate> {
        let attempt = self.initiating.get_mut(&id)?;
        let mut spis = attempt.candidates.iter().map(|candidate| Some(candidate.spi_r));
        let position = spis.position(|spi| spi == header.responder_spi)?;
        Some(attempt.candidates.remove(position))
    }

    /// A refusal in clear. Nobody has signed it, so that it only counts when nothing better comes (RFC 7296 §2.21.1).
    fn receive_init_refusal(&mut self, id: IkeSaId, payloads: &Payloads) -> Disposition {
        let unexpected = Disposition::Dropped(DropReason::Unexpected);
        let Some(attempt) = self.initiating.get_mut(&id) else {
            return unexpected;
        };
        if !attempt.candidates.is_empty() {
            return unexpected;
        }
        if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
            let fresh = attempt.cookie.as_ref() != Some(&cookie.data);
            if !(1..=64).contains(&cookie.data.len()) || !fresh || attempt.restarts >= MAX_RESTARTS {
                return unexpected;
            }
            attempt.restarts += 1;
            attempt.cookie = Some(cookie.data.clone());
            if let Some(method) = attempt.offers.last().map(|offer| offer.key_exchange.method()) {
                self.offer(id, method);
            }
            return Disposition::Accepted;
        }
        if let Some(notify) = payloads.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let offered = |attempt: &Initiating, method| {
                attempt
                    .offers
                    .last()
                    .is_some_and(|offer| offer.key_exchange.method() == method)
            };
            let wanted = notify.wanted_ke().ok().and_then(KeyExchange::from_method);
            let proposed = wanted.filter(|wanted| {
                !offered(attempt, *wanted)
                    && self.peers.get(&attempt.peer).is_some_and(|peer| {
                        peer.config
                            .ike_proposals
                            .iter()
                            .any(|p| p.key_exchange.contains(wanted))
                    })
            });
            match proposed {
                Some(method) if attempt.restarts < MAX_RESTARTS => {
                    attempt.restarts += 1;
                    self.offer(id, method);
                    return Disposition::Accepted;
                }
                _ => return unexpected,
            }
        }
        let Some(error) = payloads.error_notify() else {
            return unexpected;
        };
        let (failure, detail) = told::refused_init(error.kind);
        self.refused(id, failure, detail);
        Disposition::Accepted
    }

    /// A response was a refusal: the exchange fails unless another response comes soon.
    pub(crate) fn refused(&mut self, id: IkeSaId, failure: Failure, detail: String) {
        let Some(attempt) = self.initiating.get_mut(&id) else {
            return;
        };
        attempt.refusal = Some((failure, detail));
        if attempt.candidates.is_empty() {
            self.set_timer(Timer::Initiate(id), REFUSAL_GRACE);
        }
    }

    /// The time of an unfinished exchange has come: again, or it failed.
    pub(crate) fn initiate_timeout(&mut self, id: IkeSaId) {
        let tries = self.config.retransmit.tries.max(1);
        let Some(attempt) = self.initiating.get_mut(&id) else {
            return;
        };
        if attempt.candidates.is_empty()
            && let Some((failure, detail)) = attempt.refusal.take()
        {
            self.fail_attempt(id, failure, detail);
            return;
        }
        if attempt.attempts >= tries {
            let (failure, detail) = attempt.refusal.take().unwrap_or_else(|| {
                let detail = format!(
                    "no answer from {} after {tries} transmissions",
                    attempt.path.remote.ip()
                );
                (Failure::Unreachable, detail)
            });
            self.fail_attempt(id, failure, detail);
            return;
        }
        let number = attempt.attempts;
        attempt.attempts += 1;
        let mut datagrams: Vec<(Path, Vec<u8>)> = attempt
            .candidates
            .iter()
            .flat_map(|c| c.request.iter().map(|datagram| (c.path, datagram.clone())))
            .collect();
        // Behind a forged response the right one may have been lost: the offer is repeated as well.
        if (datagrams.is_empty() || number > 1)
            && let Some(offer) = attempt.offers.last()
        {
            datagrams.push((attempt.path, offer.request.clone()));
        }
        let peer = attempt.peer;
        for (path, datagram) in datagrams {
            self.transmit(path, datagram);
        }
        self.event(Event::Retransmitted {
            peer,
            attempt: number,
        });
        let wait = self.initiate_wait(number + 1);
        self.set_timer(Timer::Initiate(id), wait);
    }

    /// The wait after so many transmissions of an initial exchange.
    pub(crate) fn initiate_wait(&mut self, attempts: u32) -> Duration {
        self.retransmit_wait(attempts).min(AWAY_LAST)
    }

    /// An initial exchange of ours has failed.
    pub(crate) fn fail_attempt(&mut self, id: IkeSaId, failure: Failure, detail: String) {
        let Some(attempt) = self.drop_attempt(id) else {
            return;
        };
        let peer = attempt.peer;
        let stands = attempt.replaces.is_some_and(|old| self.sas.contains_key(&old));
        // The exchange that this one lost against may have come to nothing, too.
        let won = self.peers.get(&peer).is_some_and(|peer| peer.current.is_some());
        if (attempt.lost && won) || (attempt.speculative && stands) {
            return;
        }
        self.promote_redundant(peer);
        let retry_in = match attempt.replaces {
            Some(old) if stands => {
                let failures = self.peers.get_mut(&peer).map_or(1, |peer| {
                    peer.failures = peer.failures.saturating_add(1);
                    peer.failures
                });
                let wait = self.backoff(failures);
                self.set_timer(Timer::StartAnew(peer, old), wait);
                Some(wait)
            }
            _ => self.start_after_failure(peer, Some(failure)),
        };
        self.event(Event::Failed {
            peer,
            child: None,
            failure,
            detail,
            retry_in,
        });
    }

    /// Removes the record of an initial exchange of ours. Its child is negotiated otherwise.
    pub(crate) fn drop_attempt(&mut self, id: IkeSaId) -> Option<Initiating> {
        let attempt = self.initiating.remove(&id)?;
        self.timers.cancel(Timer::Initiate(id));
        self.release_spi(attempt.spi, SpiOwner::Initiating(id));
        if let Some((child, spi)) = attempt.child {
            self.reserved.remove(&spi);
            let slot = self
                .peers
                .get_mut(&attempt.peer)
                .and_then(|peer| peer.slots.get_mut(&child));
            if let Some(slot) = slot
                && slot.negotiation == Negotiation::UnderWay
            {
                slot.negotiation = Negotiation::Idle;
            }
        }
        if let Some(peer) = self.peers.get_mut(&attempt.peer)
            && peer.initiating == Some(id)
        {
            peer.initiating = None;
        }
        Some(attempt)
    }

    /// The configuration asks for another IKE SA than `old`.
    pub(crate) fn start_anew(&mut self, peer_id: PeerId, old: IkeSaId) {
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        if peer.initiating.is_some() || peer.current != Some(old) {
            return;
        }
        self.begin_init(peer_id, Some(old));
    }

    /// Whether this end is the first to act on a changed configuration.
    pub(crate) fn leads(&self, peer_id: PeerId) -> bool {
        self.peers
            .get(&peer_id)
            .is_some_and(|peer| !matches!(peer.config.initiation, Initiation::EagerAfter { .. }))
    }
}
