//! IKE_INTERMEDIATE (RFC 9242) with additional key exchanges (RFC 9370): their secrets are mixed into all keys before
//! anybody authenticates, so that who records traffic today needs to break every one of them.

use crate::config::AdditionalKeyExchange;
use crate::crypto::{IkeKeys, Intermediate, Opened, Skeyseed, unsealed};
use crate::endpoint::Endpoint;
use crate::output::{AnswerReason, Disposition, DropReason, Failure};
use crate::sa::{Candidate, HalfOpen, HalfOpenOutcome, Passed, Stage};
use crate::timer::Timer;
use crate::types::{IkeSaId, Path};
use crate::wire::{
    Body, ExchangeType, Flags, Header, KeyExchangeData, MessageId, Notify, NotifyType, Payload, Payloads,
    Role, Version,
};

/// What IKE_SA_INIT says about these exchanges (RFC 9242 §3.1).
pub(super) fn supported() -> Payload {
    Payload::Notify(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED))
}

/// The KE payload of an additional key exchange.
pub(super) fn key_payload(method: AdditionalKeyExchange, data: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method: method.into(),
        data: data.to_vec(),
    })
}

/// What the KE payload of this method says.
pub(super) fn key_data(payloads: &Payloads, method: AdditionalKeyExchange) -> Option<&[u8]> {
    let ke = payloads.key_exchange()?;
    (ke.method == method.into()).then_some(ke.data.as_slice())
}

impl Endpoint {
    /// Sends one candidate what comes next: our half of an additional key exchange, or IKE_AUTH.
    pub(super) fn send_next(&mut self, id: IkeSaId, candidate: Candidate) -> Option<()> {
        let done = Intermediate::done(candidate.intermediate());
        match candidate.suite.additional.after(done) {
            Some(method) => self.send_intermediate(id, candidate, method),
            None => self.send_auth(id, candidate),
        }
    }

    fn send_intermediate(
        &mut self,
        id: IkeSaId,
        mut candidate: Candidate,
        method: AdditionalKeyExchange,
    ) -> Option<()> {
        let attempt = self.initiating.get_mut(&id)?;
        let started = self.provider.start_additional(method).ok()?;
        let header = Header {
            initiator_spi: attempt.spi,
            responder_spi: Some(candidate.spi_r),
            version: Version::V2_0,
            exchange: ExchangeType::IKE_INTERMEDIATE,
            flags: Flags::request(Role::Initiator),
            message_id: MessageId(candidate.request_id()),
        };
        let payloads = [key_payload(method, started.public_value())];
        let covered = unsealed(&header, &payloads)?;
        let sealer = &mut candidate.keys.sealer;
        candidate.request = sealer.seal_message(self.provider, &header, &payloads).ok()?;
        let before = match candidate.stage {
            Stage::Auth(done) | Stage::Intermediate { before: done, .. } => done,
        };
        candidate.stage = Stage::Intermediate {
            started,
            covered,
            before,
        };
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
            && header.message_id == MessageId(candidate.request_id())
            && matches!(candidate.stage, Stage::Intermediate { .. });
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
                Some(()) => drop(self.send_next(id, candidate)),
                None => self.refused(id, Failure::Protocol, told(&opened)),
            }
        }
        Disposition::Accepted
    }

    /// The initiator's keys after the response.
    fn mix_in_response(&self, id: IkeSaId, candidate: &mut Candidate, opened: &Opened) -> Option<()> {
        let attempt = self.initiating.get(&id)?;
        let Stage::Intermediate {
            started,
            covered,
            before,
        } = &candidate.stage
        else {
            return None;
        };
        let payloads = opened.payloads.as_ref().ok()?;
        let shared = started.complete(key_data(payloads, started.method())?).ok()?;
        let (keys, response) = (&candidate.keys.auth, opened.intermediate.as_ref()?);
        let intermediate = Intermediate::new(self.provider, keys, before.as_ref(), covered, response);
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
        if header.flags.is_response() || !waiting {
            return Disposition::Dropped(DropReason::OutsideWindow);
        }
        let (number, expected) = (header.message_id.0, half_open.expected());
        if let Some(passed) = &mut half_open.passed
            && Some(number) == expected.checked_sub(1)
        {
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
        let Some(method) = half_open.next_additional().filter(|_| number == expected) else {
            return Disposition::Dropped(DropReason::OutsideWindow);
        };
        let opened = match half_open.keys.opener.open_message(provider, datagram, body) {
            Ok(Some(opened)) => opened.into_inner(),
            Ok(None) => return Disposition::Accepted,
            Err(_) => return Disposition::Dropped(DropReason::BadIntegrity),
        };
        if let Some(response) = self.mix_in_request(id, method, &opened) {
            self.transmit_all(path, &response);
        } else {
            self.refuse_intermediate(id, path);
        }
        Disposition::Accepted
    }

    /// The responder's keys after the request; its response.
    fn mix_in_request(
        &mut self,
        id: IkeSaId,
        method: AdditionalKeyExchange,
        opened: &Opened,
    ) -> Option<Vec<Vec<u8>>> {
        let provider = self.provider;
        let half_open = self.half_open.get_mut(id)?;
        let theirs = key_data(opened.payloads.as_ref().ok()?, method)?;
        let (ours, shared) = provider.answer_additional(method, theirs).ok()?;
        let header = response_header(half_open);
        let payloads = [key_payload(method, &ours)];
        let covered = unsealed(&header, &payloads)?;
        let request = opened.intermediate.as_ref()?;
        let (keys, before) = (&half_open.keys.auth, half_open.intermediate());
        let intermediate = Intermediate::new(provider, keys, before, request, &covered);
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
        message_id: MessageId(half_open.expected()),
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
