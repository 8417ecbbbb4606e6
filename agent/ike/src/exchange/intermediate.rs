//! IKE_INTERMEDIATE (RFC 9242) with one additional key exchange (RFC 9370): a secret of a key encapsulation mechanism is
//! mixed into all keys before anybody authenticates, so that who records traffic today needs to break both.

use crate::config::Kem;
use crate::crypto::{IkeKeys, Intermediate, Opened, Skeyseed, unsealed};
use crate::endpoint::Endpoint;
use crate::output::{AnswerReason, Disposition, DropReason, Failure};
use crate::sa::{Candidate, HalfOpen, HalfOpenOutcome, Passed, Stage};
use crate::timer::Timer;
use crate::types::{IkeSaId, Path};
use crate::wire::{
    Body, ExchangeType, Flags, Header, KeyExchangeData, MessageId, Notify, NotifyType, Payload, Role, Version,
};

/// The one IKE_INTERMEDIATE exchange follows IKE_SA_INIT.
const ID: MessageId = MessageId(1);

/// What IKE_SA_INIT says about these exchanges (RFC 9242 §3.1).
pub(super) fn supported() -> Payload {
    Payload::Notify(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED))
}

fn key_payload(kem: Kem, data: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method: kem.into(),
        data: data.to_vec(),
    })
}

/// The KE payload of this mechanism.
fn key_data(opened: &Opened, kem: Kem) -> Option<&[u8]> {
    let ke = opened.payloads.as_ref().ok()?.key_exchange()?;
    (ke.method == kem.into()).then_some(ke.data.as_slice())
}

impl Endpoint {
    /// Sends our half of the additional key exchange to one candidate.
    pub(super) fn send_intermediate(
        &mut self,
        id: IkeSaId,
        mut candidate: Candidate,
        kem: Kem,
    ) -> Option<()> {
        let attempt = self.initiating.get_mut(&id)?;
        let started = self.provider.kem.generate(kem, self.provider.random).ok()?;
        let header = Header {
            initiator_spi: attempt.spi,
            responder_spi: Some(candidate.spi_r),
            version: Version::V2_0,
            exchange: ExchangeType::IKE_INTERMEDIATE,
            flags: Flags::request(Role::Initiator),
            message_id: ID,
        };
        let payloads = [key_payload(kem, started.public_key())];
        let covered = unsealed(&header, &payloads)?;
        let sealer = &mut candidate.keys.sealer;
        candidate.request = sealer.seal_message(self.provider, &header, &payloads).ok()?;
        candidate.stage = Stage::Intermediate(started, covered);
        let (path, datagrams) = (candidate.path, candidate.request.clone());
        attempt.candidates.push(candidate);
        attempt.attempts = 1;
        self.transmit_all(path, &datagrams);
        let wait = self.initiate_wait(1);
        self.set_timer(Timer::Initiate(id), wait);
        Some(())
    }

    /// A sealed IKE_INTERMEDIATE message for an exchange of ours that is not finished.
    pub(super) fn receive_intermediate_response(
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
            && header.message_id == ID
            && matches!(candidate.stage, Stage::Intermediate(..));
        if !expected {
            return Disposition::Dropped(DropReason::Unexpected);
        }
        let opened = match candidate.keys.opener.open_message(provider, datagram, body) {
            Ok(Some(opened)) => opened.into_inner(),
            Ok(None) => return Disposition::Accepted,
            Err(_) => return Disposition::Dropped(DropReason::BadIntegrity),
        };
        if let Some(mut candidate) = self.take_candidate(id, header) {
            match self.mix_in_response(id, &mut candidate, &opened) {
                Some(()) => drop(self.send_auth(id, candidate)),
                None => self.refused(id, Failure::Protocol, told(&opened)),
            }
        }
        Disposition::Accepted
    }

    /// The initiator's keys after the response.
    fn mix_in_response(&self, id: IkeSaId, candidate: &mut Candidate, opened: &Opened) -> Option<()> {
        let attempt = self.initiating.get(&id)?;
        let Stage::Intermediate(started, request) = &candidate.stage else {
            return None;
        };
        let shared = started.decapsulate(key_data(opened, started.kem())?).ok()?;
        let response = opened.intermediate.as_ref()?;
        let intermediate = Intermediate::new(self.provider, &candidate.keys.auth, request, response);
        let mut keys = Skeyseed::additional(
            self.provider,
            &candidate.keys.d,
            candidate.suite,
            &shared,
            &attempt.nonce,
            &candidate.nonce_r,
        )
        .into_ike_keys(self.provider, attempt.spi, candidate.spi_r, Role::Initiator)
        .ok()?;
        keys.fragments_as(&candidate.keys.sealer);
        candidate.keys = keys;
        candidate.stage = Stage::Auth(Some(intermediate));
        Some(())
    }

    /// A sealed IKE_INTERMEDIATE message for a half-open SA.
    pub(super) fn receive_intermediate_request(
        &mut self,
        id: IkeSaId,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        body: &Body,
    ) -> Disposition {
        let provider = self.provider;
        let Some(half_open) = self.half_open.get_mut(id).filter(|sa| sa.takes(path, header)) else {
            return Disposition::Dropped(DropReason::UnknownSpi);
        };
        let waiting = matches!(half_open.outcome, HalfOpenOutcome::Waiting);
        let (Some(kem), true) = (half_open.suite.additional, waiting) else {
            return Disposition::Dropped(DropReason::OutsideWindow);
        };
        if header.flags.is_response() || header.message_id != ID {
            return Disposition::Dropped(DropReason::OutsideWindow);
        }
        if let Some(passed) = &mut half_open.passed {
            let again = match body {
                Body::Fragment(fragment) => passed
                    .opener
                    .open_fragment(provider, datagram, *fragment)
                    .map(|_| fragment.position.number() == 1),
                Body::Plain(_) | Body::Protected(_) => {
                    passed.opener.open_message(provider, datagram, body).map(|_| true)
                }
            };
            let response = passed.response.clone();
            return match again {
                Ok(true) => {
                    self.transmit_all(path, &response);
                    Disposition::Answered(AnswerReason::Repeated)
                }
                Ok(false) => Disposition::Dropped(DropReason::OutsideWindow),
                Err(_) => Disposition::Dropped(DropReason::BadIntegrity),
            };
        }
        let opened = match half_open.keys.opener.open_message(provider, datagram, body) {
            Ok(Some(opened)) => opened.into_inner(),
            Ok(None) => return Disposition::Accepted,
            Err(_) => return Disposition::Dropped(DropReason::BadIntegrity),
        };
        if let Some(response) = self.mix_in_request(id, kem, &opened) {
            self.transmit_all(path, &response);
        } else {
            self.refuse_intermediate(id, path);
        }
        Disposition::Accepted
    }

    /// The responder's keys after the request; its response.
    fn mix_in_request(&mut self, id: IkeSaId, kem: Kem, opened: &Opened) -> Option<Vec<Vec<u8>>> {
        let provider = self.provider;
        let half_open = self.half_open.get_mut(id)?;
        let public_key = key_data(opened, kem)?;
        let (ciphertext, shared) = provider.kem.encapsulate(kem, public_key, provider.random).ok()?;
        let header = response_header(half_open);
        let payloads = [key_payload(kem, &ciphertext)];
        let covered = unsealed(&header, &payloads)?;
        let request = opened.intermediate.as_ref()?;
        let intermediate = Intermediate::new(provider, &half_open.keys.auth, request, &covered);
        let mut keys: IkeKeys = Skeyseed::additional(
            provider,
            &half_open.keys.d,
            half_open.suite,
            &shared,
            &half_open.nonce_i,
            &half_open.nonce_r,
        )
        .into_ike_keys(provider, half_open.spi_i, half_open.spi_r, Role::Responder)
        .ok()?;
        keys.fragments_as(&half_open.keys.sealer);
        let sealer = &mut half_open.keys.sealer;
        let response = sealer.seal_message(provider, &header, &payloads).ok()?;
        let before = std::mem::replace(&mut half_open.keys, keys);
        half_open.passed = Some(Passed {
            intermediate,
            opener: before.opener,
            response: response.clone(),
        });
        Some(response)
    }

    /// The request authenticates, but what it says is no key exchange: the exchange ends.
    fn refuse_intermediate(&mut self, id: IkeSaId, path: Path) {
        let Some(half_open) = self.half_open.get_mut(id) else {
            return;
        };
        let header = response_header(half_open);
        let refused = [Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX))];
        if let Ok(datagrams) = half_open
            .keys
            .sealer
            .seal_message(self.provider, &header, &refused)
        {
            self.transmit_all(path, &datagrams);
        }
        self.forget_half_open(id);
    }
}

fn response_header(half_open: &HalfOpen) -> Header {
    Header {
        initiator_spi: half_open.spi_i,
        responder_spi: Some(half_open.spi_r),
        version: Version::V2_0,
        exchange: ExchangeType::IKE_INTERMEDIATE,
        flags: Flags::response(Role::Responder),
        message_id: ID,
    }
}

/// Why a response is no key exchange.
fn told(opened: &Opened) -> String {
    let kind = opened
        .payloads
        .as_ref()
        .ok()
        .and_then(|payloads| payloads.error_notify())
        .map(|notify| notify.kind);
    match kind {
        Some(kind) => format!("the peer answered IKE_INTERMEDIATE with {kind}"),
        None => "the peer answered IKE_INTERMEDIATE without a valid additional key exchange".to_owned(),
    }
}
