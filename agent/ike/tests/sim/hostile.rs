//! Whoever has no keys: datagrams that are forged, corrupted, repeated and reflected on live SPIs, and floods of requests
//! to begin. None of it changes an SA (invariant I1), and no answer is longer than what it answers.

use std::net::{IpAddr, SocketAddr};

use ipsecmesh_ike::crypto::ike_offer;
use ipsecmesh_ike::wire::{
    Body, Delete, ExchangeType, Flags, Header, KeyExchangeData, Message, MessageId, Nonce, Notify,
    NotifyType, Payload, Role, Spi, Version, encode,
};
use ipsecmesh_ike::*;

use crate::network::Network;
use crate::support::{cheap, peer_config};
use crate::world::{World, describe};

/// Where what repeats is taken from.
const REMEMBERED: usize = 64;

impl World {
    /// Before a datagram arrives, one that somebody has made of it arrives.
    pub(crate) fn forge(&mut self, to: usize, path: Path, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return;
        };
        // What is in clear is nobody's word anyway.
        let sealed = matches!(message.body(), Ok(Body::Protected(_) | Body::Fragment(_)));
        if !sealed {
            return;
        }
        let header = message.header;
        match self.attacker.below(8) {
            0..3 => {
                let mut flipped = datagram.to_vec();
                let at = self.attacker.index(flipped.len());
                flipped[at] ^= 1 << self.attacker.below(8);
                self.attack(to, path, flipped, false);
            }
            3 => {
                let length = self.attacker.index(datagram.len());
                self.attack(to, path, resized(datagram, length), false);
            }
            4 => {
                let length = datagram.len() + 1 + self.attacker.index(40);
                self.attack(to, path, resized(datagram, length), false);
            }
            5 => {
                let payloads = self.clear_payloads();
                if let Ok(clear) = encode(&header, &payloads) {
                    self.attack(to, path, clear, false);
                }
            }
            6 => {
                // Back to whoever sent it.
                let back = Path {
                    local: path.remote,
                    remote: path.local,
                };
                let sender = (0..self.nodes.len()).find(|host| Network::inside(*host) == path.remote.ip());
                if let Some(sender) = sender {
                    self.attack(sender, back, datagram.to_vec(), false);
                }
            }
            _ => {
                let excess = self.heard.len().saturating_sub(REMEMBERED);
                self.heard.drain(..excess);
                let again = self.attacker.index(self.heard.len());
                if let Some((to, path, datagram)) = self.heard.get(again).cloned() {
                    self.attack(to, path, datagram, true);
                }
            }
        }
    }

    /// Words in clear for a live SA. "There is no such SA" is none of them: it may begin a new SA beside the old one.
    fn clear_payloads(&mut self) -> Vec<Payload> {
        let notify = |kind| vec![Payload::Notify(Notify::new(kind))];
        match self.attacker.below(6) {
            0 => vec![Payload::Delete(Delete::Ike)],
            1 => notify(NotifyType::AUTHENTICATION_FAILED),
            2 => notify(NotifyType::NO_PROPOSAL_CHOSEN),
            3 => notify(NotifyType::TEMPORARY_FAILURE),
            4 => notify(NotifyType::INITIAL_CONTACT),
            _ => Vec::new(),
        }
    }

    /// Nothing that can be seen of an engine is another afterwards, and what it answers gets lost.
    fn attack(&mut self, to: usize, path: Path, mut datagram: Vec<u8>, replayed: bool) {
        if replayed && !is_whole(&datagram) {
            return;
        }
        let (received, line) = (
            datagram.len(),
            if self.tracing {
                describe(&datagram)
            } else {
                String::new()
            },
        );
        let now = self.nodes[to].clocks(self.now);
        let endpoint = &mut self.nodes[to].endpoint;
        let before = (endpoint.counts(), endpoint.poll_timeout());
        let disposition = endpoint.handle_datagram(path, &mut datagram, now);
        let same = before == (endpoint.counts(), endpoint.poll_timeout());
        let acted = endpoint.poll_effect().is_some() || endpoint.poll_event().is_some();
        let mut buffer = Vec::new();
        let mut answered = 0;
        while endpoint.poll_transmit(&mut buffer).is_some() {
            answered += buffer.len();
        }
        self.remark(|| format!("{to} <- forged {line} {disposition:?}"));
        if !same || acted || (disposition == Disposition::Accepted && !replayed) {
            self.broken("I1", &format!("a forged datagram changed {to}: {disposition:?}"));
        }
        if answered > received && !replayed {
            self.broken(
                "I1",
                &format!("{to} answers {received} forged bytes with {answered}"),
            );
        }
    }

    /// Requests to begin, from nobody that would hear the answer.
    pub(crate) fn flood(&mut self, to: usize, source: usize, count: u64) {
        let local = SocketAddr::new(Network::inside(to), 500);
        for number in 0..count {
            let address = match self.flooder.below(3) {
                0 => IpAddr::from([198, 51, 100, u8::try_from(number % 250).unwrap_or_default()]),
                _ => self.network.outside(source),
            };
            let remote = SocketAddr::new(address, if self.flooder.percent(50) { 500 } else { 4500 });
            if let Some(request) = self.request_to_begin() {
                self.inject(to, Path { local, remote }, request);
            }
        }
    }

    fn request_to_begin(&mut self) -> Option<Vec<u8>> {
        let provider = cheap::provider();
        let proposals = peer_config(1, 2, 1).ike_proposals;
        let method = proposals[0].key_exchange[0];
        let started = provider.key_exchange.start(method, provider.random).ok()?;
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&self.flooder.roll().to_be_bytes());
        let header = Header {
            initiator_spi: IkeSpi::new(self.flooder.roll())?,
            responder_spi: None,
            version: Version::V2_0,
            exchange: ExchangeType::IKE_SA_INIT,
            flags: Flags::request(Role::Initiator),
            message_id: MessageId(0),
        };
        let payloads = [
            Payload::SecurityAssociation(ike_offer(&proposals, &Spi::Absent)),
            Payload::KeyExchange(KeyExchangeData {
                method: method.into(),
                data: started.public_value().to_vec(),
            }),
            Payload::Nonce(Nonce::from(nonce)),
            // Longer than any answer: else a cookie is asked for at once.
            Payload::VendorId(vec![0; 128]),
        ];
        encode(&header, &payloads).ok()
    }
}

/// Cut or lengthened, with a header that says so.
fn resized(datagram: &[u8], length: usize) -> Vec<u8> {
    let mut resized = datagram.to_vec();
    resized.resize(length, 0);
    let told = u32::try_from(length).unwrap_or_default();
    if let Some(field) = resized.get_mut(24..28) {
        field.copy_from_slice(&told.to_be_bytes());
    }
    resized
}

/// Whether a datagram is a whole sealed message: what was accepted once is not accepted again. One of IKE_SA_INIT may be,
/// and a fragment, which counts when the others come.
fn is_whole(datagram: &[u8]) -> bool {
    Message::parse(datagram).is_ok_and(|message| {
        let first = message.header.exchange == ExchangeType::IKE_SA_INIT;
        !first && matches!(message.body(), Ok(Body::Protected(_)))
    })
}
