//! The message window of an IKE SA (RFC 7296 §2.1–§2.3): size one in both directions, bit-identical repetition of
//! requests, cached responses.

use std::time::Duration;

use super::suspicion::SUSPICIOUS;
use super::{Exchange, InFlight};
use crate::endpoint::Endpoint;
use crate::output::Event;
use crate::sa::{IkeSa, Standing};
use crate::timer::Timer;
use crate::types::IkeSaId;
use crate::wire::{ExchangeType, Flags, Header, MessageId, Payload, Version};

/// Transmissions of a DELETE of an IKE SA: the peer may be gone, and then nobody cares.
const DELETE_TRIES: u32 = 4;

impl IkeSa {
    fn header(&self, exchange: ExchangeType, flags: Flags, id: u32) -> Header {
        Header {
            initiator_spi: self.spi_i,
            responder_spi: Some(self.spi_r),
            version: Version::V2_0,
            exchange,
            flags,
            message_id: MessageId(id),
        }
    }
}

impl Endpoint {
    /// Sends a request. The SA has none under way.
    pub(crate) fn request(
        &mut self,
        id: IkeSaId,
        kind: ExchangeType,
        payloads: &[Payload],
        exchange: Exchange,
    ) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let number = sa.next_request;
        let header = sa.header(kind, Flags::request(sa.role), number);
        let Ok(datagrams) = sa.sealer.seal_message(self.provider, &header, payloads) else {
            return;
        };
        sa.next_request += 1;
        let path = sa.path;
        sa.in_flight = Some(InFlight {
            id: number,
            datagrams: datagrams.clone(),
            attempts: 1,
            exchange,
        });
        self.transmit_all(path, &datagrams);
        let wait = self.retransmit_wait(1);
        self.set_timer(Timer::Retransmit(id), wait);
    }

    /// Sends the response to the peer's last request, and keeps it for repetitions.
    pub(crate) fn respond(&mut self, id: IkeSaId, kind: ExchangeType, number: u32, payloads: &[Payload]) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let header = sa.header(kind, Flags::response(sa.role), number);
        let Ok(datagrams) = sa.sealer.seal_message(self.provider, &header, payloads) else {
            return;
        };
        sa.cached = Some((number, datagrams.clone()));
        let path = sa.path;
        self.transmit_all(path, &datagrams);
    }

    /// The time of the request under way has come: again, or the peer does not answer.
    pub(crate) fn retransmit(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let Some(in_flight) = sa.in_flight.as_mut() else {
            return;
        };
        let limit = match self.peers.get(&sa.peer) {
            Some(peer) => peer.config.liveness.transmissions(),
            None => self.config.retransmit.tries,
        };
        let limit = match in_flight.exchange {
            Exchange::DeleteIke => limit.min(DELETE_TRIES),
            Exchange::Confirm(_)
            | Exchange::CreateChild(_)
            | Exchange::DeleteChild(_)
            | Exchange::DeleteUnused
            | Exchange::Liveness
            | Exchange::RekeyIke(_) => limit,
        };
        if in_flight.attempts >= limit {
            self.unanswered(id);
            return;
        }
        let suspicious = in_flight.attempts == SUSPICIOUS && matches!(in_flight.exchange, Exchange::Liveness);
        let (attempt, peer, path) = (in_flight.attempts, sa.peer, sa.path);
        in_flight.attempts += 1;
        let datagrams = in_flight.datagrams.clone();
        self.transmit_all(path, &datagrams);
        self.event(Event::Retransmitted { peer, attempt });
        let wait = self.retransmit_wait(attempt + 1);
        self.set_timer(Timer::Retransmit(id), wait);
        if suspicious {
            self.suspect(id);
        }
    }

    fn unanswered(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        match sa.standing {
            Standing::Closing(reason) => self.close(id, reason),
            Standing::Current | Standing::Redundant | Standing::Replaced | Standing::Closed => {
                self.unreachable(id);
            }
        }
    }

    /// The wait after so many transmissions (RFC 7296 §2.1), with jitter.
    pub(crate) fn retransmit_wait(&mut self, attempts: u32) -> Duration {
        let settings = self.config.retransmit;
        let mut wait = settings.initial;
        for _ in 1..attempts {
            wait = (wait * settings.factor_percent / 100).min(settings.cap);
        }
        self.jitter.percent(wait, 90, 110)
    }
}
