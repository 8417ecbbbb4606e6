//! IKE_AUTH as initiator (RFC 7296 §1.2).

use super::Task;
use super::create_child::{AnsweredChild, Settled};
use super::told;
use crate::auth::Proof;
use crate::config::{Mode, PeerAuth};
use crate::crypto::{ChildContext, child_offer};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Disposition, DropReason, Failure};
use crate::sa::{Candidate, Initiating, NewSa, Origin, Stage, Standing};
use crate::types::{IkeSaId, Path};
use crate::wire::{
    Body, ExchangeType, Flags, Header, Identification, MessageId, Notify, NotifyType, Payload, Payloads,
    Role, Spi, TrafficSelectors, Version,
};

impl Endpoint {
    /// Sends the IKE_AUTH request to one candidate. `None` when it cannot be made; the reason is kept as a refusal.
    pub(crate) fn send_auth(&mut self, id: IkeSaId, mut candidate: Candidate) -> Option<()> {
        let attempt = self.initiating.get(&id)?;
        let payloads = match self.auth_payloads(attempt, &candidate) {
            Ok(payloads) => payloads,
            Err(detail) => {
                self.refused(id, Failure::Authentication, detail);
                return None;
            }
        };
        let header = Header {
            initiator_spi: attempt.spi,
            responder_spi: Some(candidate.spi_r),
            version: Version::V2_0,
            exchange: ExchangeType::IKE_AUTH,
            flags: Flags::request(Role::Initiator),
            message_id: MessageId(candidate.request_id()),
        };
        candidate.request = candidate
            .keys
            .sealer
            .seal_message(self.provider, &header, &payloads)
            .ok()?;
        let (path, datagrams) = (candidate.path, candidate.request.clone());
        let attempt = self.initiating.get_mut(&id)?;
        attempt.candidates.push(candidate);
        attempt.attempts = 1;
        self.transmit_all(path, &datagrams);
        let wait = self.initiate_wait(1);
        self.set_timer(crate::timer::Timer::Initiate(id), wait);
        Some(())
    }

    fn auth_payloads(&self, attempt: &Initiating, candidate: &Candidate) -> Result<Vec<Payload>, String> {
        let peer = self
            .peers
            .get(&attempt.peer)
            .ok_or("the peer is not configured any more")?;
        let id = Identification::from(&peer.config.local_identity);
        let proof = Proof {
            keys: &candidate.keys.auth,
            signer: Role::Initiator,
            message: &candidate.offer,
            nonce: &candidate.nonce_r,
            intermediate: candidate.intermediate(),
        };
        let ppk = peer.config.ppk.as_ref().filter(|_| candidate.ppk);
        let proven = self.prove_with_ppk(attempt.peer, &proof, ppk, &id, &candidate.response)?;
        let mut payloads = vec![Payload::IdInitiator(id)];
        if peer.current.is_none() {
            payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
        }
        payloads.push(Payload::IdResponder(Identification::from(
            &peer.config.remote_identity,
        )));
        payloads.push(Payload::Notify(Notify::boot_id(self.config.boot_id)));
        if peer.config.auth == PeerAuth::Certificate {
            payloads.push(self.certificate_request(attempt.peer));
        }
        payloads.extend(proven);
        if let Some((child, spi)) = attempt.child
            && let Some(child) = peer.child(child)
        {
            if child.mode == Mode::Transport {
                payloads.push(Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)));
            }
            let offer = child_offer(&child.proposals, child.esn, ChildContext::Auth, &Spi::Esp(spi));
            payloads.push(Payload::SecurityAssociation(offer));
            let selectors = |list: &[_]| list.iter().copied().collect::<TrafficSelectors>();
            payloads.push(Payload::TsInitiator(selectors(&child.local_selectors)));
            payloads.push(Payload::TsResponder(selectors(&child.remote_selectors)));
        }
        Ok(payloads)
    }

    /// A sealed message for an exchange of ours that is not finished.
    pub(crate) fn receive_auth_response(
        &mut self,
        id: IkeSaId,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        body: &Body,
    ) -> Disposition {
        let provider = self.provider;
        let candidate = match self.candidate(id, path, header) {
            Ok(candidate) => candidate,
            Err(reason) => return Disposition::Dropped(reason),
        };
        let expected = header.flags.is_response()
            && header.flags.sender() == Role::Responder
            && header.exchange == ExchangeType::IKE_AUTH
            && matches!(candidate.stage, Stage::Auth(_))
            && header.message_id == MessageId(candidate.request_id());
        if !expected && matches!(body, Body::Fragment(_)) {
            return Disposition::Dropped(DropReason::Unexpected);
        }
        let opened = match candidate.keys.opener.open_message(provider, datagram, body) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Disposition::Accepted,
            Err(_) => return Disposition::Dropped(DropReason::BadIntegrity),
        };
        if !expected {
            return Disposition::Dropped(DropReason::Unexpected);
        }
        if let Some(candidate) = self.take_candidate(id, header) {
            let payloads = opened.into_inner().payloads.unwrap_or_default();
            self.judge_auth_response(id, candidate, &payloads);
        }
        Disposition::Accepted
    }

    /// The peer's proof, or its refusal. Errors may come without IDr, so that they are read first.
    fn judge_auth_response(&mut self, id: IkeSaId, mut candidate: Candidate, payloads: &Payloads) {
        let Some(attempt) = self.initiating.get(&id) else {
            return;
        };
        if payloads.auth().is_none() {
            let kind = payloads.error_notify().map(|notify| notify.kind);
            let (failure, detail) = told::refused_auth(kind);
            self.refused(id, failure, detail);
            return;
        }
        if let Err(detail) = self.mix_in_answered_ppk(attempt.peer, &mut candidate, payloads) {
            self.refuse_responder(id, candidate);
            self.refused(id, Failure::Authentication, detail);
            return;
        }
        let proof = Proof {
            keys: &candidate.keys.auth,
            signer: Role::Responder,
            message: &candidate.response,
            nonce: &attempt.nonce,
            intermediate: candidate.intermediate(),
        };
        match self.authenticate(attempt.peer, &proof, payloads) {
            Ok(proven) => self.initiator_done(id, candidate, &proven, payloads),
            Err(detail) => {
                self.refuse_responder(id, candidate);
                self.refused(id, Failure::Authentication, detail);
            }
        }
    }

    /// The responder believes that the SA stands: it is told that it does not (RFC 7296 §2.21.2).
    fn refuse_responder(&mut self, id: IkeSaId, mut candidate: Candidate) {
        let Some(attempt) = self.initiating.get(&id) else {
            return;
        };
        let header = Header {
            initiator_spi: attempt.spi,
            responder_spi: Some(candidate.spi_r),
            version: Version::V2_0,
            exchange: ExchangeType::INFORMATIONAL,
            flags: Flags::request(Role::Initiator),
            message_id: MessageId(candidate.request_id() + 1),
        };
        let payloads = [
            Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED)),
            Payload::Delete(crate::wire::Delete::Ike),
        ];
        if let Ok(datagram) = candidate.keys.sealer.seal(self.provider, &header, &payloads) {
            self.transmit(candidate.path, datagram);
        }
    }

    /// The peer is authenticated: the exchange becomes an IKE SA.
    fn initiator_done(
        &mut self,
        id: IkeSaId,
        candidate: Candidate,
        proven: &crate::auth::PeerAuthenticated,
        payloads: &Payloads,
    ) {
        let Some(attempt) = self.drop_attempt(id) else {
            return;
        };
        let mut authentication = self.authenticated_now(attempt.peer, true);
        let believed = payloads.notify(NotifyType::AUTH_LIFETIME);
        if let Some(Ok(time)) = believed.map(Notify::announced_lifetime) {
            authentication.believed_for(time);
        }
        let next_request = candidate.request_id() + 1;
        let Candidate {
            spi_r,
            nonce_r,
            keys,
            path,
            nat,
            suite,
            ..
        } = candidate;
        let sa = self.establish(NewSa {
            id,
            peer: attempt.peer,
            role: Role::Initiator,
            suite,
            spi_i: attempt.spi,
            spi_r,
            path,
            nat,
            d: keys.d,
            sealer: keys.sealer,
            opener: keys.opener,
            next_request,
            expected: 0,
            origin: Origin {
                ours: true,
                nonce: attempt.nonce.clone(),
                established: IkeSaId(0),
            },
            authentication,
            identity: proven.identity().clone(),
            boot: payloads
                .notify(NotifyType::IPSECMESH_BOOT_ID)
                .and_then(|n| n.announced_boot().ok()),
            standing: if attempt.lost {
                Standing::Redundant
            } else {
                Standing::Current
            },
            nonces: (&attempt.nonce, &nonce_r),
        });
        if attempt.lost {
            self.refuse_answered_child(sa, &attempt, payloads);
            self.close_with_delete(sa, CloseReason::Redundant);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&attempt.peer) {
            peer.failures = 0;
            // The SA to be replaced may have been rekeyed since.
            let before = std::mem::replace(&mut peer.replacing, attempt.replaces.and(peer.current));
            if let Some(old) = peer.replacing {
                self.give_way(old);
            }
            if let Some(before) = before {
                self.close_with_delete(before, CloseReason::Replaced);
            }
        }
        self.make_current(sa, None);
        if let Some((child, spi)) = attempt.child {
            let answered = AnsweredChild {
                child,
                spi,
                rekeys: None,
                nonce_i: &attempt.nonce,
                nonce_r: &nonce_r,
                context: ChildContext::Auth,
                key_exchange: None,
            };
            let answer = self.read_child_answer(sa, &answered, payloads);
            self.settle_child_answer(
                sa,
                &Settled {
                    child,
                    protocol: self.protocol_of(attempt.peer, child),
                    spi,
                    rekeys: None,
                },
                answer,
            );
        }
        self.drive_peer(attempt.peer);
        self.finish_replacement(attempt.peer);
        self.pump(sa);
    }

    /// A crossing exchange won, and the peer did not know it yet when it answered: its pair goes with the IKE SA.
    fn refuse_answered_child(&mut self, sa: IkeSaId, attempt: &Initiating, payloads: &Payloads) {
        if let (Some((child, spi)), Some(_)) = (attempt.child, payloads.security_association()) {
            let protocol = self.protocol_of(attempt.peer, child);
            self.enqueue(sa, Task::DeleteUnused(protocol, spi));
        }
    }
}
