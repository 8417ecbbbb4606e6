//! IKE_AUTH as responder (RFC 7296 §1.2).

use super::child_responder::ChildRequest;
use super::ppk;
use super::receive::malformed;
use crate::auth::{Generation, PeerAuthenticated, Proof};
use crate::collision::Verdict;
use crate::crypto::ChildContext;
use crate::endpoint::Endpoint;
use crate::output::{AnswerReason, CloseReason, Disposition, DropReason, Event, Failure};
use crate::sa::{HalfOpen, HalfOpenOutcome, NewSa, Origin, PpkUse, SpiOwner, Standing};
use crate::timer::Timer;
use crate::types::{IkeSaId, Path};
use crate::wire::{
    Body, ExchangeType, Flags, Header, Identification, MessageId, Notify, NotifyType, Payload, Payloads,
    Role, Version,
};
use std::time::Duration;

/// How long a refused exchange repeats its answer.
const REFUSED_GRACE: Duration = Duration::from_secs(5);

impl Endpoint {
    /// A sealed message for a half-open SA.
    pub(crate) fn receive_auth_request(
        &mut self,
        id: IkeSaId,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        body: &Body,
    ) -> Disposition {
        let Some(half_open) = self.half_open.get_mut(id) else {
            return Disposition::Dropped(DropReason::UnknownSpi);
        };
        if !half_open.takes(path, header) {
            return Disposition::Dropped(DropReason::UnknownSpi);
        }
        // Where additional key exchanges were agreed on there is no way around them.
        let complete = half_open.next_additional().is_none();
        let expected = !header.flags.is_response()
            && header.exchange == ExchangeType::IKE_AUTH
            && header.message_id == MessageId(half_open.expected())
            && complete;
        if !expected && matches!(body, Body::Fragment(_)) {
            return Disposition::Dropped(DropReason::OutsideWindow);
        }
        let opened = match half_open.keys.opener.open_message(self.provider, datagram, body) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Disposition::Accepted,
            Err(_) => return Disposition::Dropped(DropReason::BadIntegrity),
        };
        if !expected {
            return Disposition::Dropped(DropReason::OutsideWindow);
        }
        if let HalfOpenOutcome::Refused(answer) = &half_open.outcome {
            let answer = answer.clone();
            self.transmit_all(path, &answer);
            return Disposition::Answered(AnswerReason::Repeated);
        }
        match opened.into_inner().payloads {
            Ok(payloads) => self.judge_auth_request(id, path, &payloads),
            Err(error) => self.refuse_auth(id, path, malformed(&error)),
        }
        Disposition::Accepted
    }

    fn judge_auth_request(&mut self, id: IkeSaId, path: Path, payloads: &Payloads) {
        let Some(half_open) = self.half_open.get(id) else {
            return;
        };
        let peer = half_open.peer;
        let provider = self.provider;
        let proven = self.authenticate_initiator(half_open, payloads);
        let proven = proven.and_then(|(proven, ppk)| {
            if let (Some(ppk), Some(half_open)) = (ppk, self.half_open.get_mut(id)) {
                let mixed = half_open.keys.mix_in_ppk(provider, &ppk);
                mixed.map_err(|error| error.to_string())?;
                half_open.ppk = PpkUse::Mixed;
            }
            Ok(proven)
        });
        let answer = proven.and_then(|proven| Ok((self.responder_proof(id, proven.generation())?, proven)));
        match answer {
            Ok((answer, proven)) => self.responder_done(id, path, &proven, answer, payloads),
            Err(detail) => {
                self.refuse_auth(
                    id,
                    path,
                    Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED)),
                );
                self.event(Event::Failed {
                    peer,
                    child: None,
                    failure: Failure::Authentication,
                    detail,
                    retry_in: None,
                });
            }
        }
    }

    /// IDr, CERT, AUTH, and the notifies of ours that belong to it.
    fn responder_proof(&self, id: IkeSaId, generation: Generation) -> Result<Vec<Payload>, String> {
        let half_open = self.half_open.get(id).ok_or("the exchange has ended")?;
        let peer = self
            .peers
            .get(&half_open.peer)
            .ok_or("the peer is not configured any more")?;
        let id = Identification::from(&peer.config.local_identity);
        let ours = Proof {
            keys: &half_open.keys.auth,
            signer: Role::Responder,
            message: &half_open.response,
            nonce: &half_open.nonce_i,
            intermediate: half_open.intermediate(),
        };
        let proven = self.prove(half_open.peer, generation, &ours, &id, &half_open.request)?;
        let mut payloads = vec![Payload::IdResponder(id)];
        payloads.extend(proven);
        payloads.push(Payload::Notify(Notify::boot_id(self.config.boot_id)));
        payloads.extend((half_open.ppk == PpkUse::Mixed).then(ppk::used));
        if half_open.nat.peer {
            // Behind a NAT we do not reach it to begin a new IKE SA ourselves.
            payloads.push(Payload::Notify(Notify::auth_lifetime(peer.config.ike_lifetime)));
        }
        Ok(payloads)
    }

    /// One and the same refusal for whatever is wrong, repeated on request for a while.
    fn refuse_auth(&mut self, id: IkeSaId, path: Path, notify: Payload) {
        let Some(half_open) = self.half_open.get_mut(id) else {
            return;
        };
        let header = Header {
            initiator_spi: half_open.spi_i,
            responder_spi: Some(half_open.spi_r),
            version: Version::V2_0,
            exchange: ExchangeType::IKE_AUTH,
            flags: Flags::response(Role::Responder),
            message_id: MessageId(half_open.expected()),
        };
        let Ok(answer) = half_open
            .keys
            .sealer
            .seal_message(self.provider, &header, &[notify])
        else {
            return;
        };
        half_open.outcome = HalfOpenOutcome::Refused(answer.clone());
        self.transmit_all(path, &answer);
        self.set_timer(Timer::HalfOpen(id), REFUSED_GRACE);
    }

    /// The peer is authenticated: the half-open SA becomes an IKE SA.
    fn responder_done(
        &mut self,
        id: IkeSaId,
        path: Path,
        proven: &PeerAuthenticated,
        answer: Vec<Payload>,
        payloads: &Payloads,
    ) {
        self.timers.cancel(Timer::HalfOpen(id));
        let Some(half_open) = self.half_open.remove(id) else {
            return;
        };
        self.release_spi(half_open.spi_r, SpiOwner::HalfOpen(id));
        let peer = half_open.peer;
        let verdict = self.judge_crossing(peer, id, &half_open.nonce_i);
        let boot = payloads
            .notify(NotifyType::IPSECMESH_BOOT_ID)
            .and_then(|n| n.announced_boot().ok());
        let number = half_open.expected();
        let authentication = self.authenticated_now(peer, false);
        let HalfOpen {
            spi_i,
            spi_r,
            nonce_i,
            nonce_r,
            keys,
            nat,
            suite,
            ..
        } = half_open;
        let sa = self.establish(NewSa {
            id,
            peer,
            role: Role::Responder,
            suite,
            spi_i,
            spi_r,
            path,
            nat,
            d: keys.d,
            sealer: keys.sealer,
            opener: keys.opener,
            next_request: 0,
            expected: number + 1,
            origin: Origin {
                ours: false,
                nonce: nonce_i.clone(),
                established: IkeSaId(0),
            },
            authentication,
            identity: proven.identity().clone(),
            boot,
            standing: match verdict {
                Verdict::Redundant => Standing::Redundant,
                Verdict::Wins => Standing::Current,
            },
            nonces: (&nonce_i, &nonce_r),
        });
        self.make_room(peer);
        if verdict == Verdict::Redundant {
            self.set_timer(Timer::IkeLinger(sa), crate::child::DELETE_GRACE);
            let mut answer = answer;
            answer.push(Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE)));
            self.respond(sa, ExchangeType::IKE_AUTH, number, &answer);
            return;
        }
        let contact = payloads.notify(NotifyType::INITIAL_CONTACT).is_some();
        self.supersede(peer, sa, contact, boot);
        let request = ChildRequest {
            number,
            exchange: ExchangeType::IKE_AUTH,
            prefix: &answer,
            payloads,
            context: ChildContext::Auth,
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            rekeys: None,
        };
        if let Err(notify) = self.answer_child(sa, &request) {
            let mut answer = answer;
            answer.extend(notify.map(Payload::Notify));
            self.respond(sa, ExchangeType::IKE_AUTH, number, &answer);
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.failures = 0;
        }
        self.drive_peer(peer);
    }

    /// A newly authenticated SA that the peer made takes the place of the present one.
    fn supersede(
        &mut self,
        peer: crate::types::PeerId,
        new: IkeSaId,
        contact: bool,
        boot: Option<crate::types::BootId>,
    ) {
        let old = self.peers.get(&peer).and_then(|peer| peer.current);
        let Some(old_sa) = old.and_then(|old| self.sas.get(&old)) else {
            self.make_current(new, None);
            return;
        };
        // INITIAL_CONTACT speaks of SAs of the same two identities only (RFC 7296 §2.4).
        let same_identity = self
            .sas
            .get(&new)
            .is_some_and(|new| new.identity == old_sa.identity);
        let rebooted = boot.is_some() && old_sa.boot.is_some() && boot != old_sa.boot;
        let ours_lost = old_sa.origin.ours && crate::collision::crossed(old_sa, new);
        let forgotten = (contact && same_identity) || rebooted;
        self.make_current(new, None);
        let Some(old) = old else { return };
        if ours_lost {
            self.close_with_delete(old, CloseReason::Redundant);
        } else if forgotten {
            self.orphan_children(old);
            self.close(old, CloseReason::Replaced);
        } else {
            self.give_way(old);
            self.set_timer(Timer::IkeLinger(old), crate::child::ORPHAN_GRACE);
        }
    }
}
