//! Whole conversations that tests begin with.

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{
    Delete, ExchangeType, Header, Nonce, Notify, NotifyType, Payload, Payloads, SecurityAssociation, Spi,
};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, child_request, chosen_spi, selectors};
use crate::support::child;
use crate::sut::{PEER, Sut, answering, configured, path_to};

/// SPI on which the peer receives in the child that IKE_AUTH makes.
pub(crate) const PEER_SPI: u32 = 0x2000_0001;

/// The peer's IKE_AUTH request for child 1.
pub(crate) fn auth_payloads(peer: &Peer) -> Vec<Payload> {
    let mut payloads = peer.proof();
    payloads.extend(child_request(1, PEER_SPI, ChildContext::Auth));
    payloads
}

/// A peer that has begun and authenticated, with the answer to its IKE_AUTH.
pub(crate) fn authenticated(sut: &mut Sut, draft: Draft) -> (Peer, Payloads) {
    let mut peer = draft.exchange(sut);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(sut, ExchangeType::IKE_AUTH, &payloads);
    (peer, answer)
}

/// Host 1 only answers; the peer has one IKE SA and child 1 with it. Also the SPI on which host 1 receives.
pub(crate) fn peer_began() -> (Sut, Peer, EspSpi) {
    peer_began_with(answering(1))
}

pub(crate) fn peer_began_with(config: PeerConfig) -> (Sut, Peer, EspSpi) {
    let mut sut = Sut::with(config);
    let (mut peer, answer) = authenticated(&mut sut, Draft::new(1));
    peer.confirm(&mut sut);
    let inbound = chosen_spi(&answer);
    assert_eq!(sut.halves(), (1, 1));
    (sut, peer, inbound)
}

/// The response to IKE_AUTH of host 1 that accepts child 1.
pub(crate) fn auth_answer(peer: &Peer, request: &Payloads) -> Vec<Payload> {
    let mut payloads = peer.proof();
    payloads.extend(child_answer(request, PEER_SPI, ChildContext::Auth));
    payloads
}

/// The payloads that accept a child exactly as host 1 asks for it.
pub(crate) fn child_answer(request: &Payloads, spi: u32, context: ChildContext) -> Vec<Payload> {
    let config = child(2, 1, 1);
    let offer = request.security_association().unwrap();
    let chosen = crypto::select_child(&config.proposals, config.esn, context, offer).unwrap();
    vec![
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
        Payload::SecurityAssociation(chosen.response(Spi::Esp(EspSpi::new(spi).unwrap()))),
        Payload::TsInitiator(request.ts_initiator().unwrap().clone()),
        Payload::TsResponder(request.ts_responder().unwrap().clone()),
    ]
}

/// Host 1 has begun; the peer has answered IKE_SA_INIT and holds the IKE_AUTH request.
pub(crate) fn we_began(config: PeerConfig) -> (Sut, Peer, Header, Payloads) {
    let mut sut = Sut::with(config);
    let (path, request) = sut.take();
    assert_eq!(path, path_to(2, 500, 500));
    let (peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, payloads) = peer.take(&mut sut);
    (sut, peer, header, payloads)
}

/// Host 1 has begun, and everything stands. Also the SPI on which host 1 receives.
pub(crate) fn we_have_a_pair() -> (Sut, Peer, EspSpi) {
    we_have_a_pair_with(configured(1))
}

pub(crate) fn we_have_a_pair_with(config: PeerConfig) -> (Sut, Peer, EspSpi) {
    let (mut sut, mut peer, header, payloads) = we_began(config);
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    let (confirm, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &confirm, &[]);
    assert_eq!(sut.halves(), (1, 1));
    let inbound = chosen_spi(&payloads);
    (sut, peer, inbound)
}

/// A rekey of child 1 by the peer, without a key exchange. `old` is the SPI on which the peer receives in the old pair.
pub(crate) fn rekey_payloads(old: u32, new: u32, nonce: [u8; 32]) -> Vec<Payload> {
    let mut payloads = vec![
        Payload::Notify(Notify::rekey_sa(SaProtocol::Esp, EspSpi::new(old).unwrap())),
        Payload::Nonce(Nonce::from(nonce)),
    ];
    payloads.extend(child_request(1, new, ChildContext::Create(None)));
    payloads
}

/// Host 1 is told to rekey child 1; the peer holds the request.
pub(crate) fn we_rekey(sut: &mut Sut, peer: &Peer) -> (Header, Payloads) {
    sut.command(Command::RekeyChild {
        peer: PEER,
        child: ChildId(1),
    });
    peer.take(sut)
}

/// The answer of the peer to a CREATE_CHILD_SA request for child 1, without a key exchange.
pub(crate) fn create_answer(request: &Payloads, spi: u32, nonce: [u8; 32]) -> Vec<Payload> {
    let mut answer = child_answer(request, spi, ChildContext::Create(None));
    answer.push(Payload::Nonce(Nonce::from(nonce)));
    answer
}

pub(crate) fn delete_esp(spi: u32) -> Payload {
    Payload::Delete(Delete::Child(SaProtocol::Esp, vec![EspSpi::new(spi).unwrap()]))
}

pub(crate) fn deleted_spis(payloads: &Payloads) -> Vec<EspSpi> {
    let spis = payloads.deletes().flat_map(|delete| match delete {
        Delete::Child(_, spis) => spis.clone(),
        Delete::Ike | Delete::Other { .. } => Vec::new(),
    });
    spis.collect()
}

/// Without the proposals' key exchange the whole offer of a child.
pub(crate) fn offer_of(payloads: &Payloads) -> SecurityAssociation {
    payloads.security_association().unwrap().clone()
}

/// Narrower selectors than those of child 1.
pub(crate) fn with_ports(list: &[TrafficSelector], lowest: u16, highest: u16) -> wire::TrafficSelectors {
    let list: Vec<TrafficSelector> = list
        .iter()
        .map(|selector| TrafficSelector {
            first_port: lowest,
            last_port: highest,
            ..*selector
        })
        .collect();
    selectors(&list)
}
