//! A peer that may have lost its SAs: found within seconds, without believing anybody who has not authenticated.
//!
//! RFC 7296 §2.4 lets an end take unprotected hints as a reason to ask, and no more. Here a hint, or silence where an
//! answer is due, begins a new IKE SA *beside* the old one. A peer that has lost everything has a new SA within a round
//! trip or two; one that has not loses nothing, because the old SAs carry traffic until the new ones stand. That needs
//! no token as in RFC 6290, and works with peers that have none.

use std::time::Duration;

use crate::config::LivenessAction;
use crate::endpoint::Endpoint;
use crate::exchange::{Exchange, Task};
use crate::output::{AnswerReason, Disposition, DropReason};
use crate::time::Instant;
use crate::types::{ChildSaId, EspSpi, IkeSaId, Path};
use crate::wire::{Body, ExchangeType, Flags, Header, Notify, NotifyType, Payload, Payloads, Version};

/// Traffic goes out and nothing comes back for this long: the peer is asked, whatever its interval is.
const ONE_WAY: Duration = Duration::from_secs(1);

/// So many transmissions of a liveness check without an answer are suspicious: 3 s with the default waits.
pub(super) const SUSPICIOUS: u32 = 3;

/// One IKE SA is suspected this often at most: whoever can forge hints makes us work no more than that.
const AGAIN: Duration = Duration::from_secs(10);

/// Answers to messages for unknown SAs: so many at once, and so many per second from then on.
const HINTS: u32 = 32;

/// Bounds the answers to messages that nobody here can authenticate.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    given: u32,
    since: Instant,
}

impl Hints {
    fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.since) >= Duration::from_secs(1) {
            *self = Self { given: 0, since: now };
        }
        self.given += 1;
        self.given <= HINTS
    }
}

impl Endpoint {
    /// ESP leaves through a pair. Where nothing has come back for a while the peer is asked whether it is there.
    pub(crate) fn child_sends(&mut self, spi: EspSpi) {
        let id = self
            .outbound
            .range((spi, ChildSaId(0))..=(spi, ChildSaId(u64::MAX)))
            .find_map(|(_, pair)| self.children.get(pair)?.ike);
        let Some((id, sa)) = id.and_then(|id| Some((id, self.sas.get(&id)?))) else {
            return;
        };
        let silent = self.now.mono.saturating_since(sa.last_seen) >= ONE_WAY;
        if sa.is_current() && silent && sa.in_flight.is_none() && sa.queue.is_empty() {
            self.enqueue(id, Task::Liveness);
            self.pump(id);
        }
    }

    /// The peer may have lost this SA: a new one is begun beside it.
    pub(super) fn suspect(&mut self, id: IkeSaId) {
        let now = self.now.mono;
        let Some(sa) = self.sas.get_mut(&id).filter(|sa| sa.is_current()) else {
            return;
        };
        if sa.suspected.is_some_and(|at| now.saturating_since(at) < AGAIN) {
            return;
        }
        let peer_id = sa.peer;
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        if peer.initiating.is_some() || peer.config.liveness.action == LivenessAction::Clear {
            return;
        }
        sa.suspected = Some(now);
        self.start_anew(peer_id, id);
        let attempt = self.peers.get(&peer_id).and_then(|peer| peer.initiating);
        if let Some(attempt) = attempt.and_then(|attempt| self.initiating.get_mut(&attempt)) {
            attempt.speculative = true;
        }
    }

    /// The peer speaks on the SA that was suspected: a new one is not needed. Once the peer has answered IKE_SA_INIT it
    /// may have the new one already, and then it is finished.
    pub(super) fn acquit(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if sa.suspected.is_none() {
            return;
        }
        let attempt = self.peers.get(&sa.peer).and_then(|peer| peer.initiating);
        let needless = attempt
            .and_then(|attempt| self.initiating.get(&attempt))
            .is_some_and(|begun| {
                begun.speculative && begun.replaces == Some(id) && begun.candidates.is_empty()
            });
        if let (Some(attempt), true) = (attempt, needless) {
            let peer = sa.peer;
            self.drop_attempt(attempt);
            self.drive_peer(peer);
        }
    }

    /// A message in clear for a live SA. It is nobody's, but "there is no such SA" in answer to what is under way is a
    /// hint (RFC 7296 §2.21.4).
    pub(super) fn take_hint(&mut self, id: IkeSaId, header: &Header, payloads: &Payloads) -> Disposition {
        let under_way = self.sas.get(&id).and_then(|sa| sa.in_flight.as_ref());
        // The peer may not have an SA yet that a rekey has just made: the first requests on it prove nothing.
        let telling = under_way.is_some_and(|request| {
            request.id == header.message_id.0
                && (request.attempts >= SUSPICIOUS || matches!(request.exchange, Exchange::Liveness))
        });
        let fits =
            header.flags.is_response() && telling && payloads.notify(NotifyType::INVALID_IKE_SPI).is_some();
        if fits {
            self.suspect(id);
        }
        Disposition::Dropped(DropReason::BadIntegrity)
    }

    /// A sealed request for an SA that is not here: a configured peer is told so, in fewer bytes than it sent
    /// (RFC 7296 §1.5, §2.21.4).
    pub(super) fn unknown_spi(
        &mut self,
        path: Path,
        header: &Header,
        body: &Body,
        received: usize,
    ) -> Disposition {
        let dropped = Disposition::Dropped(DropReason::UnknownSpi);
        let (Some(responder), true) = (
            header.responder_spi,
            matches!(
                header.exchange,
                ExchangeType::CREATE_CHILD_SA | ExchangeType::INFORMATIONAL
            ),
        ) else {
            return dropped;
        };
        let first = match body {
            Body::Protected(_) => true,
            Body::Fragment(fragment) => fragment.position.number() == 1,
            Body::Plain(_) => false,
        };
        let known = [header.initiator_spi, responder]
            .iter()
            .any(|spi| self.by_spi.contains_key(spi));
        let configured = self.by_address.contains_key(&(path.local.ip(), path.remote.ip()));
        if header.flags.is_response() || !first || known || !configured || !self.hints.allow(self.now.mono) {
            return dropped;
        }
        let answer = Header {
            version: Version::V2_0,
            flags: Flags::response(header.flags.sender().peer()),
            ..*header
        };
        let notify = Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI));
        match crate::wire::encode(&answer, &[notify]) {
            Ok(datagram) if datagram.len() < received => {
                self.transmit(path, datagram);
                Disposition::Answered(AnswerReason::UnknownSpi)
            }
            Ok(_) | Err(_) => dropped,
        }
    }
}
