//! From a datagram to the exchange that it belongs to. Nothing changes before the integrity check has passed, but for
//! IKE_SA_INIT, which is bounded.

use super::{Exchange, Task};
use crate::crypto::{IntegrityChecked, Opened};
use crate::endpoint::Endpoint;
use crate::output::{AnswerReason, Disposition, DropReason};
use crate::sa::{SpiOwner, Standing};
use crate::types::{IkeSaId, IkeSpi, Path};
use crate::wire::{
    Body, DecodeError, ExchangeType, Flags, Header, Message, Notify, NotifyType, Payload, Payloads, Role,
    Version,
};

impl Endpoint {
    pub(crate) fn receive(&mut self, path: Path, datagram: &mut [u8]) -> Disposition {
        let Ok(message) = Message::parse(datagram) else {
            return Disposition::Dropped(DropReason::Malformed);
        };
        let header = message.header;
        if header.version.major() != 2 {
            return self.other_version(path, &header, datagram.len());
        }
        let begins = header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.is_response();
        if begins && let Err(disposition) = self.screen(path, &message, datagram) {
            return disposition;
        }
        let body = match message.body() {
            Ok(body) => body,
            Err(error) => return self.unreadable(path, &header, &error, datagram.len()),
        };
        if header.exchange == ExchangeType::IKE_SA_INIT {
            let Body::Plain(payloads) = body else {
                return Disposition::Dropped(DropReason::Malformed);
            };
            return if header.flags.is_response() {
                self.receive_init_response(path, &header, &payloads, datagram)
            } else {
                self.receive_init_request(path, &header, &payloads, datagram)
            };
        }
        let ours = match header.flags.sender() {
            Role::Initiator => header.responder_spi,
            Role::Responder => Some(header.initiator_spi),
        };
        let Some(owner) = ours.and_then(|spi| self.by_spi.get(&spi).copied()) else {
            return self.unknown_spi(path, &header, &body, datagram.len());
        };
        match owner {
            SpiOwner::Established(id) => self.receive_sealed(id, path, &header, datagram, &body),
            SpiOwner::HalfOpen(id) if header.exchange == ExchangeType::IKE_INTERMEDIATE => {
                self.receive_intermediate_request(id, path, &header, datagram, &body)
            }
            SpiOwner::Initiating(id) if header.exchange == ExchangeType::IKE_INTERMEDIATE => {
                self.receive_intermediate_response(id, path, &header, datagram, &body)
            }
            SpiOwner::HalfOpen(id) => self.receive_auth_request(id, path, &header, datagram, &body),
            SpiOwner::Initiating(id) => self.receive_auth_response(id, path, &header, datagram, &body),
        }
    }

    /// A message for an established SA. What is in clear is nobody's: a live SA does not care (RFC 7296 §2.21.4).
    fn receive_sealed(
        &mut self,
        id: IkeSaId,
        path: Path,
        header: &Header,
        datagram: &mut [u8],
        body: &Body,
    ) -> Disposition {
        let Some(sa) = self.sas.get_mut(&id) else {
            return Disposition::Dropped(DropReason::UnknownSpi);
        };
        let spis = (header.initiator_spi, header.responder_spi);
        if spis != (sa.spi_i, Some(sa.spi_r))
            || header.flags.sender() != sa.role.peer()
            || (path.local.ip(), path.remote.ip()) != (sa.path.local.ip(), sa.path.remote.ip())
        {
            return Disposition::Dropped(DropReason::UnknownSpi);
        }
        if let Body::Plain(payloads) = body {
            return self.take_hint(id, header, payloads);
        }
        if let Body::Fragment(fragment) = body {
            let number = header.message_id.0;
            let request = !header.flags.is_response();
            if request && sa.expected.checked_sub(1) == Some(number) {
                // One answer for all fragments of a repeated request (RFC 7383 §2.6.1).
                let opened = sa.opener.open_fragment(self.provider, datagram, *fragment);
                return match opened {
                    Ok(_) if fragment.position.number() == 1 => self.repeat(id, number, path),
                    Ok(_) => Disposition::Dropped(DropReason::OutsideWindow),
                    Err(_) => Disposition::Dropped(DropReason::BadIntegrity),
                };
            }
            // Only the message that the window lets in is put together.
            let due = if request {
                sa.expected == number && sa.standing != Standing::Closed
            } else {
                sa.in_flight
                    .as_ref()
                    .is_some_and(|in_flight| in_flight.id == number)
            };
            if !due {
                return Disposition::Dropped(DropReason::OutsideWindow);
            }
        }
        match sa.opener.open_message(self.provider, datagram, body) {
            Ok(Some(opened)) => self.receive_opened(id, path, opened),
            Ok(None) => Disposition::Accepted,
            Err(_) => Disposition::Dropped(DropReason::BadIntegrity),
        }
    }

    /// A message of an established SA whose integrity is proven.
    fn receive_opened(&mut self, id: IkeSaId, path: Path, opened: IntegrityChecked<Opened>) -> Disposition {
        let Opened { header, payloads, .. } = opened.into_inner();
        let Some(sa) = self.sas.get_mut(&id) else {
            return Disposition::Dropped(DropReason::UnknownSpi);
        };
        let number = header.message_id.0;
        if header.flags.is_response() {
            if sa
                .in_flight
                .as_ref()
                .is_none_or(|in_flight| in_flight.id != number)
            {
                return Disposition::Dropped(DropReason::Unexpected);
            }
            self.sign_of_life(id, path);
            self.receive_response(id, payloads);
            return Disposition::Accepted;
        }
        if sa.expected.checked_sub(1) == Some(number) {
            return self.repeat(id, number, path);
        }
        if number != sa.expected || sa.standing == Standing::Closed {
            return Disposition::Dropped(DropReason::OutsideWindow);
        }
        let Some(next) = number.checked_add(1) else {
            return Disposition::Dropped(DropReason::OutsideWindow);
        };
        sa.expected = next;
        self.sign_of_life(id, path);
        match payloads {
            Ok(payloads) => self.receive_request(id, header.exchange, number, &payloads),
            Err(error) => {
                self.respond(id, header.exchange, number, &[malformed(&error)]);
                if error.unsupported_critical().is_none() {
                    self.ask_whether_it_stands(id);
                    self.pump(id);
                }
            }
        }
        Disposition::Accepted
    }

    /// A request came again: the response goes again (RFC 7296 §2.1), where it has been made.
    fn repeat(&mut self, id: IkeSaId, number: u32, path: Path) -> Disposition {
        match self.sas.get(&id).and_then(|sa| sa.cached.clone()) {
            Some((cached, datagrams)) if cached == number => {
                self.transmit_all(path, &datagrams);
                Disposition::Answered(AnswerReason::Repeated)
            }
            _ => Disposition::Dropped(DropReason::OutsideWindow),
        }
    }

    /// A fresh authenticated message: the peer lives, and behind a NAT it is where the message came from
    /// (RFC 7296 §2.23).
    fn sign_of_life(&mut self, id: IkeSaId, path: Path) {
        let now = self.now.mono;
        if let Some(sa) = self.sas.get_mut(&id) {
            sa.last_seen = now;
        }
        self.acquit(id);
        self.follow(id, path);
    }

    fn receive_request(&mut self, id: IkeSaId, kind: ExchangeType, number: u32, payloads: &Payloads) {
        match kind {
            ExchangeType::CREATE_CHILD_SA => self.receive_create_child(id, number, payloads),
            ExchangeType::IKE_FOLLOWUP_KE => self.receive_follow_up(id, number, payloads),
            ExchangeType::INFORMATIONAL => self.receive_informational(id, number, payloads),
            _ => {
                let refused = Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX));
                self.respond(id, kind, number, &[refused]);
            }
        }
    }

    fn receive_response(&mut self, id: IkeSaId, payloads: Result<Payloads, DecodeError>) {
        let Some(in_flight) = self.sas.get_mut(&id).and_then(|sa| sa.in_flight.take()) else {
            return;
        };
        self.timers.cancel(crate::timer::Timer::Retransmit(id));
        // A response that does not parse is one that says nothing.
        let payloads = payloads.unwrap_or_default();
        if payloads.notify(NotifyType::INVALID_SYNTAX).is_some() {
            self.ask_whether_it_stands(id);
        }
        match in_flight.exchange {
            Exchange::Confirm(replaced) => self.confirmed(id, replaced),
            Exchange::CreateChild(request) => self.child_response(id, request, &payloads),
            Exchange::DeleteChild(child) => self.child_deleted(child),
            Exchange::DeleteIke => self.ike_deleted(id),
            Exchange::DeleteUnused | Exchange::Liveness => {}
            Exchange::RekeyIke(request) => self.ike_rekey_response(id, request, &payloads),
        }
        self.pump(id);
    }

    /// INVALID_SYNTAX ends the IKE SA at a peer that takes it as RFC 7296 §2.21.3 says, and nobody tells. At one that does
    /// not the SA works on. So it is asked, and silence or its word begins a new SA.
    fn ask_whether_it_stands(&mut self, id: IkeSaId) {
        if self.sas.get(&id).is_some_and(crate::sa::IkeSa::is_current) {
            self.enqueue(id, Task::Liveness);
        }
    }

    /// An unknown critical payload is named to a configured peer that begins (RFC 7296 §2.5); all else that cannot be
    /// read is ignored.
    fn unreadable(
        &mut self,
        path: Path,
        header: &Header,
        error: &DecodeError,
        received: usize,
    ) -> Disposition {
        match error.unsupported_critical() {
            Some(kind) if self.begins(path, header) => self.answer_stateless(
                path,
                header,
                Notify::unsupported_critical(kind),
                AnswerReason::UnsupportedCritical,
                received,
            ),
            _ => Disposition::Dropped(DropReason::Malformed),
        }
    }

    /// Whether a message claims to be the first of a configured peer.
    fn begins(&self, path: Path, header: &Header) -> bool {
        self.by_address.contains_key(&(path.local.ip(), path.remote.ip()))
            && header.exchange == ExchangeType::IKE_SA_INIT
            && !header.flags.is_response()
            && header.responder_spi.is_none()
    }

    /// Another major version: told so to a configured peer that begins, and ignored otherwise (RFC 7296 §2.5).
    fn other_version(&mut self, path: Path, header: &Header, received: usize) -> Disposition {
        if !self.begins(path, header) || header.version.major() < 2 {
            return Disposition::Dropped(DropReason::Malformed);
        }
        self.answer_stateless(
            path,
            header,
            Notify::new(NotifyType::INVALID_MAJOR_VERSION),
            AnswerReason::InvalidMajorVersion,
            received,
        )
    }

    /// An answer without any state for the sender, and no longer than what it sent: nobody is flooded through us.
    pub(crate) fn answer_stateless(
        &mut self,
        path: Path,
        request: &Header,
        notify: Notify,
        reason: AnswerReason,
        received: usize,
    ) -> Disposition {
        let header = Header {
            initiator_spi: request.initiator_spi,
            responder_spi: None,
            version: Version::V2_0,
            exchange: ExchangeType::IKE_SA_INIT,
            flags: Flags::response(Role::Responder),
            message_id: request.message_id,
        };
        match crate::wire::encode(&header, &[Payload::Notify(notify)]) {
            Ok(datagram) if datagram.len() <= received => {
                self.transmit(path, datagram);
                Disposition::Answered(reason)
            }
            Ok(_) | Err(_) => Disposition::Dropped(DropReason::Malformed),
        }
    }

    /// An IKE SPI of ours is free again.
    pub(crate) fn release_spi(&mut self, spi: IkeSpi, owner: SpiOwner) {
        if self.by_spi.get(&spi) == Some(&owner) {
            self.by_spi.remove(&spi);
        }
    }
}

/// What a request that authenticates but does not parse is answered with (RFC 7296 §2.5, §2.21.2).
pub(crate) fn malformed(error: &DecodeError) -> Payload {
    Payload::Notify(match error.unsupported_critical() {
        Some(kind) => Notify::unsupported_critical(kind),
        None => Notify::new(NotifyType::INVALID_SYNTAX),
    })
}
