//! IKE_SA_INIT as responder (RFC 7296 §1.2, §2.6): bounded before it allocates, stateless until a cookie came back
//! when there is load.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{diagnosis, intermediate, ppk};
use crate::config::{Encapsulation, IkeProposal, PeerAuth, SignatureAlgorithm};
use crate::crypto::{IkeSuite, Skeyseed, ike_offer, select_ike};
use crate::endpoint::Endpoint;
use crate::nat;
use crate::output::{AnswerReason, Disposition, DropReason, Event, Failure};
use crate::sa::{HalfOpen, HalfOpenOutcome, PpkUse, SpiOwner};
use crate::timer::Timer;
use crate::types::{IkeSaId, IkeSpi, Path, PeerId};
use crate::wire::{
    ExchangeType, Flags, Glance, Header, KeyExchangeData, Message, MessageId, Nonce, Notify, NotifyType,
    Payload, Payloads, Role, Spi, Version,
};

/// Why a peer is refused where ESP in UDP is forbidden.
const BEHIND_NAT: &str =
    "there is a NAT between the ends, and childSA.encapsulation is Never here: set it to Auto";
/// Half-open SAs from one address above which that address is asked for a cookie.
const COOKIE_THRESHOLD_PER_SOURCE: usize = 3;

/// A longer request to begin is nobody's: 3000 bytes are to be taken (RFC 7296 §2), and each half-open SA keeps its own.
const LONGEST_REQUEST: usize = 4096;

/// The half-open SAs, by what can name them.
#[derive(Default)]
pub(crate) struct HalfOpenTable {
    by_id: BTreeMap<IkeSaId, HalfOpen>,
    by_initiator: BTreeMap<(IpAddr, IkeSpi), Vec<IkeSaId>>,
    per_source: BTreeMap<IpAddr, usize>,
}

impl HalfOpenTable {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: IkeSaId) -> Option<&HalfOpen> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: IkeSaId) -> Option<&mut HalfOpen> {
        self.by_id.get_mut(&id)
    }

    fn insert(&mut self, id: IkeSaId, sa: HalfOpen) {
        let source = sa.path.remote.ip();
        *self.per_source.entry(source).or_default() += 1;
        self.by_initiator.entry((source, sa.spi_i)).or_default().push(id);
        self.by_id.insert(id, sa);
    }

    pub(crate) fn remove(&mut self, id: IkeSaId) -> Option<HalfOpen> {
        let sa = self.by_id.remove(&id)?;
        let source = sa.path.remote.ip();
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
        if let Some(ids) = self.by_initiator.get_mut(&(source, sa.spi_i)) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_initiator.remove(&(source, sa.spi_i));
            }
        }
        Some(sa)
    }

    /// Those of one peer.
    pub(crate) fn of_peer(&self, source: IpAddr, peer: PeerId) -> Vec<IkeSaId> {
        if self.count_of(source) == 0 {
            return Vec::new();
        }
        self.by_id
            .iter()
            .filter(|(_, sa)| sa.peer == peer)
            .map(|(id, _)| *id)
            .collect()
    }

    fn count_of(&self, source: IpAddr) -> usize {
        self.per_source.get(&source).copied().unwrap_or(0)
    }

    fn begun_by(&self, source: IpAddr, spi: IkeSpi) -> impl Iterator<Item = &HalfOpen> {
        self.by_initiator
            .get(&(source, spi))
            .into_iter()
            .flatten()
            .filter_map(|id| self.by_id.get(id))
    }
}

impl Endpoint {
    /// What a request to begin has to pass before anything of it is copied or computed with. Under load an initiator shows
    /// that it receives at its address first (RFC 7296 §2.6).
    pub(super) fn screen(
        &mut self,
        path: Path,
        message: &Message<'_>,
        datagram: &[u8],
    ) -> Result<(), Disposition> {
        let header = &message.header;
        let first = header.responder_spi.is_none() && header.message_id == MessageId(0);
        if !first || header.flags.sender() != Role::Initiator || datagram.len() > LONGEST_REQUEST {
            return Err(Disposition::Dropped(DropReason::Malformed));
        }
        let source = path.remote.ip();
        if !self.by_address.contains_key(&(path.local.ip(), source)) {
            return Err(Disposition::Dropped(DropReason::UnknownPeer));
        }
        let repeated = self
            .half_open
            .begun_by(source, header.initiator_spi)
            .find(|sa| sa.request == datagram);
        if let Some(response) = repeated.map(|sa| sa.response.clone()) {
            self.transmit(path, response);
            return Err(Disposition::Answered(AnswerReason::Repeated));
        }
        if self.half_open.len() >= self.config.limits.half_open {
            return Err(Disposition::Dropped(DropReason::HalfOpenLimit));
        }
        let load = self.half_open.len() >= self.config.limits.cookie_threshold
            || self.half_open.count_of(source) >= COOKIE_THRESHOLD_PER_SOURCE;
        if load {
            let malformed = |_| Disposition::Dropped(DropReason::Malformed);
            let glance = message.glance().map_err(malformed)?;
            self.challenge(path, header, glance, datagram.len())?;
        }
        Ok(())
    }

    /// An IKE_SA_INIT request that has passed the screen.
    pub(crate) fn receive_init_request(
        &mut self,
        path: Path,
        header: &Header,
        payloads: &Payloads,
        datagram: &[u8],
    ) -> Disposition {
        let source = path.remote.ip();
        let Some(peer) = self.by_address.get(&(path.local.ip(), source)).copied() else {
            return Disposition::Dropped(DropReason::UnknownPeer);
        };
        if self.half_open.count_of(source) >= self.config.limits.half_open_per_source {
            return Disposition::Dropped(DropReason::HalfOpenLimit);
        }
        if !self.can_authenticate(peer) {
            return Disposition::Dropped(DropReason::NoCredentials);
        }
        self.answer_init(peer, path, header, payloads, datagram)
    }

    /// Passes who returns a cookie of ours, asks for one who has none, and is silent to all others.
    fn challenge(
        &mut self,
        path: Path,
        header: &Header,
        glance: Glance<'_>,
        received: usize,
    ) -> Result<(), Disposition> {
        let (now, source, spi) = (self.now.mono, path.remote.ip(), header.initiator_spi);
        let Some(nonce) = glance.nonce else {
            return Err(Disposition::Dropped(DropReason::Malformed));
        };
        if let Some(cookie) = glance.cookie {
            let ours = self
                .cookies
                .accepts(self.provider, now, source, spi, nonce, cookie);
            return if ours {
                Ok(())
            } else {
                Err(Disposition::Dropped(DropReason::BadCookie))
            };
        }
        let Ok(cookie) = self.cookies.bake(self.provider, now, source, spi, nonce) else {
            return Err(Disposition::Dropped(DropReason::HalfOpenLimit));
        };
        let notify = Notify::with_data(NotifyType::COOKIE, cookie);
        Err(self.answer_stateless(path, header, notify, AnswerReason::Cookie, received))
    }

    fn answer_init(
        &mut self,
        peer_id: PeerId,
        path: Path,
        header: &Header,
        payloads: &Payloads,
        datagram: &[u8],
    ) -> Disposition {
        let malformed = Disposition::Dropped(DropReason::Malformed);
        let (Some(offer), Some(ke), Some(nonce_i)) = (
            payloads.security_association(),
            payloads.key_exchange(),
            payloads.nonce(),
        ) else {
            return malformed;
        };
        if self.began_already(peer_id, path, header.initiator_spi, nonce_i) {
            return Disposition::Dropped(DropReason::Unexpected);
        }
        let Some(peer) = self.peers.get(&peer_id) else {
            return malformed;
        };
        let proposals = usable(&peer.config.ike_proposals, payloads);
        let Some(chosen) = select_ike(&proposals, offer) else {
            let reason = || diagnosis::no_common(offer, &ike_offer(&proposals, &Spi::Absent));
            return self.refuse_init(peer_id, path, header, datagram.len(), reason);
        };
        let suite = chosen.suite;
        if ke.method != suite.key_exchange.into() {
            let notify = Notify::invalid_ke(suite.key_exchange.into());
            return self.answer_stateless(path, header, notify, AnswerReason::InvalidKe, datagram.len());
        }
        let (auth, encapsulation) = (peer.config.auth.clone(), peer.config.encapsulation);
        // An end that must have one says so in IKE_AUTH, where the answer is sealed.
        let ppk_use = match ppk::agreed(peer.config.ppk.as_ref(), payloads) {
            Ok(true) => PpkUse::Announced,
            Ok(false) | Err(_) => PpkUse::Absent,
        };
        let detected = nat::detected(self.provider, payloads, header.initiator_spi, None, path);
        if detected.is_there() && encapsulation == Encapsulation::Never {
            return self.refuse_init(peer_id, path, header, datagram.len(), || BEHIND_NAT.to_owned());
        }
        let (Some(spi_r), Some(nonce_r)) = (self.draw_ike_spi(), self.draw_nonce()) else {
            return malformed;
        };
        let spi_i = header.initiator_spi;
        let mut rest = vec![Payload::Nonce(nonce_r.clone())];
        rest.extend(nat::notifies(
            self.provider,
            spi_i,
            Some(spi_r),
            path,
            encapsulation,
        ));
        rest.extend(self.abilities(peer_id, &auth, suite, ppk_use));
        let answer = |ke: KeyExchangeData| {
            let mut answer = vec![
                Payload::SecurityAssociation(chosen.response(Spi::Absent)),
                Payload::KeyExchange(ke),
            ];
            answer.extend_from_slice(&rest);
            crate::wire::encode(&init_response(spi_i, spi_r), &answer)
        };
        // The peer's public value is as long as ours will be, and nothing has been computed with it yet.
        let longer = answer(ke.clone()).is_ok_and(|response| response.len() > datagram.len());
        if longer && let Err(disposition) = self.challenge(path, header, payloads.glance(), datagram.len()) {
            return disposition;
        }
        let Ok(key_exchange) = self
            .provider
            .key_exchange
            .start(suite.key_exchange, self.provider.random)
        else {
            return malformed;
        };
        let Ok(shared) = key_exchange.complete(&ke.data) else {
            return malformed;
        };
        let keys = Skeyseed::initial(self.provider, suite, &shared, nonce_i, &nonce_r).into_ike_keys(
            self.provider,
            spi_i,
            spi_r,
            Role::Responder,
        );
        let response = answer(KeyExchangeData {
            method: suite.key_exchange.into(),
            data: key_exchange.public_value().to_vec(),
        });
        let (Ok(mut keys), Ok(response)) = (keys, response) else {
            return malformed;
        };
        if let Some(longest) = self.agreed_fragments(payloads, path) {
            keys.allow_fragments(longest);
        }
        self.keep_half_open(HalfOpen {
            peer: peer_id,
            spi_i,
            spi_r,
            path,
            request: datagram.to_vec(),
            response,
            nonce_i: nonce_i.clone(),
            nonce_r,
            keys,
            nat: detected.forced_by(encapsulation),
            suite,
            passed: None,
            ppk: ppk_use,
            outcome: HalfOpenOutcome::Waiting,
        })
    }

    /// The response goes, and the exchange waits for what follows.
    fn keep_half_open(&mut self, sa: HalfOpen) -> Disposition {
        let id = IkeSaId(self.next_id());
        self.by_spi.insert(sa.spi_r, SpiOwner::HalfOpen(id));
        self.set_timer(Timer::HalfOpen(id), self.config.limits.half_open_timeout);
        self.transmit(sa.path, sa.response.clone());
        self.half_open.insert(id, sa);
        Disposition::Accepted
    }

    /// What a response says of this end besides the choice.
    fn abilities(&self, peer: PeerId, auth: &PeerAuth, suite: IkeSuite, ppk: PpkUse) -> Vec<Payload> {
        let mut payloads: Vec<Payload> = self.offers_fragments().into_iter().collect();
        let childless = Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED);
        payloads.push(Payload::Notify(childless));
        payloads.extend((!suite.additional.is_empty()).then(intermediate::supported));
        payloads.extend((ppk == PpkUse::Announced).then(ppk::announced));
        if *auth == PeerAuth::Certificate {
            payloads.push(self.certificate_request(peer));
            let hashes = Notify::hash_algorithms(&SignatureAlgorithm::HASHES);
            payloads.push(Payload::Notify(hashes));
        }
        payloads
    }

    /// What was refused in clear is told to people here once: anybody may have sent it in the peer's name. Where an IKE SA
    /// stands it says nothing.
    fn refuse_init(
        &mut self,
        id: PeerId,
        path: Path,
        header: &Header,
        received: usize,
        reason: impl FnOnce() -> String,
    ) -> Disposition {
        let notify = Notify::new(NotifyType::NO_PROPOSAL_CHOSEN);
        let answered = self.answer_stateless(path, header, notify, AnswerReason::NoProposalChosen, received);
        let told = self.peers.get_mut(&id).is_none_or(|peer| {
            peer.current.is_some() || std::mem::replace(&mut peer.told_refused_init, true)
        });
        if told {
            return answered;
        }
        let detail = format!(
            "an IKE_SA_INIT request from the peer's address was refused, no proposal in common: {}; give both ends the same \
             ike.proposals or suite",
            reason()
        );
        self.event(Event::Failed {
            peer: id,
            child: None,
            failure: Failure::NoProposalChosen,
            detail,
            retry_in: None,
        });
        answered
    }

    /// Whether the exchange is known in another form: a late copy from before a cookie, or of a request that has
    /// become an SA since. A second SA of one exchange would take the place of the first.
    fn began_already(&self, peer: PeerId, path: Path, spi: IkeSpi, nonce: &Nonce) -> bool {
        let half_open = self
            .half_open
            .begun_by(path.remote.ip(), spi)
            .any(|sa| sa.nonce_i == *nonce);
        let places = self
            .peers
            .get(&peer)
            .map(|peer| [peer.current, peer.redundant, peer.replacing]);
        half_open
            || places
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|id| self.sas.get(&id))
                .any(|sa| !sa.origin.ours && sa.origin.nonce == *nonce)
    }

    /// A half-open SA goes.
    pub(crate) fn forget_half_open(&mut self, id: IkeSaId) {
        self.timers.cancel(Timer::HalfOpen(id));
        if let Some(sa) = self.half_open.remove(id) {
            self.release_spi(sa.spi_r, SpiOwner::HalfOpen(id));
        }
    }
}

/// Our proposals, without those that need more exchanges where the peer has none (RFC 9370 §2.2.1).
fn usable(ours: &[IkeProposal], theirs: &Payloads) -> Vec<IkeProposal> {
    let more = theirs
        .notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
        .is_some();
    let proposals = ours
        .iter()
        .filter(|proposal| more || proposal.additional.is_empty());
    proposals.cloned().collect()
}

/// The header of an `IKE_SA_INIT` response (RFC 7296 §3.1).
fn init_response(initiator_spi: IkeSpi, responder_spi: IkeSpi) -> Header {
    Header {
        initiator_spi,
        responder_spi: Some(responder_spi),
        version: Version::V2_0,
        exchange: ExchangeType::IKE_SA_INIT,
        flags: Flags::response(Role::Responder),
        message_id: MessageId(0),
    }
}
