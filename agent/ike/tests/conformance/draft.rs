//! IKE_SA_INIT as the scripted peer begins it.

use ipsecmesh_ike::crypto::{ActiveKeyExchange, Provider, confirm_ike, ike_offer};
use ipsecmesh_ike::wire::{KeyExchangeData, Nonce, Notify, NotifyType, Payload, Role, Spi, encode};
use ipsecmesh_ike::*;

use crate::peer::{Peer, clear, init_header};
use crate::support::{cheap, peer_config};
use crate::sut::{Sut, path_to};

/// An IKE_SA_INIT request of the peer.
pub(crate) struct Draft {
    pub(crate) provider: &'static Provider,
    pub(crate) spi: IkeSpi,
    pub(crate) nonce: Nonce,
    pub(crate) key_exchange: Box<dyn ActiveKeyExchange>,
    pub(crate) cookie: Option<Vec<u8>>,
    pub(crate) proposals: Vec<IkeProposal>,
    /// Payloads at the end.
    pub(crate) more: Vec<Payload>,
    /// Bytes that make the request longer than any answer.
    pub(crate) padding: usize,
}

impl Draft {
    pub(crate) fn new(number: u8) -> Self {
        Self::with(number, cheap::provider(), KeyExchange::X25519)
    }

    pub(crate) fn with(number: u8, provider: &'static Provider, method: KeyExchange) -> Self {
        let started = provider.key_exchange.start(method, provider.random);
        Self {
            provider,
            spi: IkeSpi::new(0x0200 + u64::from(number)).expect("not zero"),
            nonce: Nonce::from([number; 32]),
            key_exchange: started.expect("a key exchange starts"),
            cookie: None,
            proposals: peer_config(2, 1, 1).ike_proposals,
            more: Vec::new(),
            padding: 256,
        }
    }

    pub(crate) fn payloads(&self) -> Vec<Payload> {
        let cookie = self.cookie.clone();
        let cookie = cookie.map(|cookie| Payload::Notify(Notify::with_data(NotifyType::COOKIE, cookie)));
        let mut payloads: Vec<Payload> = cookie.into_iter().collect();
        payloads.push(Payload::SecurityAssociation(ike_offer(
            &self.proposals,
            &Spi::Absent,
        )));
        payloads.push(key_payload(self.key_exchange.as_ref()));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        payloads.extend(self.more.clone());
        payloads
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        let mut payloads = self.payloads();
        payloads.push(Payload::VendorId(vec![0; self.padding]));
        encode(&init_header(self.spi, None, Role::Initiator), &payloads).expect("it fits")
    }

    /// Takes the response: the peer has the keys now.
    pub(crate) fn accept(self, request: &[u8], response: &[u8]) -> Peer {
        let (header, payloads) = clear(response);
        let offered = payloads.security_association().expect("an SA payload");
        let (suite, _) = confirm_ike(&self.proposals, offered).expect("what was offered");
        let shared = self
            .key_exchange
            .complete(&payloads.key_exchange().expect("KE").data);
        let nonces = (self.nonce.clone(), payloads.nonce().expect("a nonce").clone());
        let spis = (self.spi, header.responder_spi.expect("an SPI"));
        let messages = (request.to_vec(), response.to_vec());
        let shared = shared.expect("a shared secret");
        Peer::new(
            self.provider,
            Role::Initiator,
            suite,
            &shared,
            spis,
            nonces,
            messages,
        )
    }

    /// The whole of IKE_SA_INIT.
    pub(crate) fn exchange(self, sut: &mut Sut) -> Peer {
        let request = self.request();
        let response = sut.ask(path_to(2, 500, 500), &request);
        self.accept(&request, &response)
    }
}

pub(crate) fn key_payload(started: &dyn ActiveKeyExchange) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method: started.method().into(),
        data: started.public_value().to_vec(),
    })
}
