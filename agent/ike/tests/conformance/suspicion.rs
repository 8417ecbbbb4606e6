//! A peer that has lost its SAs is found within seconds, and nobody without keys can make it look lost.

use std::time::Duration;

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{ExchangeType, Flags, Header, Notify, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::peer::{Peer, chosen_spi, clear};
use crate::sut::{Sut, answering, path_to};
use crate::talk::{PEER_SPI, child_answer, peer_began, we_have_a_pair};

/// Traffic leaves through the pair that every conversation begins with.
fn sends(sut: &mut Sut) {
    let spi = EspSpi::new(PEER_SPI).unwrap();
    sut.command(Command::OutboundSeen { spi });
}

/// "There is no such SA", in clear, as an answer to this request.
fn no_such_sa(request: &Header) -> Vec<u8> {
    let header = Header {
        flags: Flags::response(request.flags.sender().peer()),
        ..*request
    };
    let notify = Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI));
    wire::encode(&header, &[notify]).unwrap()
}

fn exchange(datagram: &[u8]) -> ExchangeType {
    wire::Message::parse(datagram).unwrap().header.exchange
}

#[test]
fn one_way_traffic_makes_us_ask_at_once() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    sends(&mut sut);
    sut.assert_silent();
    sut.pass(Duration::from_secs(2));
    sut.command(Command::InboundSeen { spi: inbound });
    sends(&mut sut);
    sut.assert_silent();
    sut.pass(Duration::from_secs(2));
    sends(&mut sut);
    let (header, payloads) = peer.take(&mut sut);
    assert_eq!(header.exchange, ExchangeType::INFORMATIONAL);
    assert!(payloads.as_slice().is_empty());
    sends(&mut sut);
    sut.assert_silent();
    peer.reply(&mut sut, &header, &[]);
    sends(&mut sut);
    sut.assert_silent();
}

#[test]
fn a_peer_that_has_restarted_has_a_new_sa_within_five_seconds_of_one_way_traffic() {
    let (mut sut, _, _) = we_have_a_pair();
    // Every 1.5 s the driver tells that traffic leaves. The peer has nothing of the old SA, and says nothing.
    let crashed = sut.now;
    let mut begun = None;
    while begun.is_none() {
        sut.pass(Duration::from_millis(500));
        if sut.now.saturating_sub(crashed).as_millis().is_multiple_of(1500) {
            sends(&mut sut);
        }
        begun = sut
            .sent
            .iter()
            .find(|(_, datagram)| exchange(datagram) == ExchangeType::IKE_SA_INIT)
            .cloned();
        assert!(
            sut.now.saturating_sub(crashed) <= Duration::from_secs(5),
            "nothing is begun"
        );
    }
    assert_eq!(
        sut.halves(),
        (1, 1),
        "the old pair carries traffic until it is replaced"
    );
    sut.sent.clear();
    let (path, request) = begun.unwrap();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, payloads) = peer.take(&mut sut);
    let mut answer = peer.proof();
    answer.extend(child_answer(&payloads, 0x2000_0002, ChildContext::Auth));
    peer.reply(&mut sut, &header, &answer);
    let (confirm, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &confirm, &[]);
    assert_eq!(
        sut.kernel.get(&0x2000_0002),
        Some(&false),
        "we send through the new pair"
    );
    assert!(!sut.kernel.contains_key(&PEER_SPI));
    let inbound = chosen_spi(&payloads);
    for _ in 0..10 {
        sut.pass(Duration::from_secs(5));
        sut.command(Command::InboundSeen { spi: inbound });
    }
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

#[test]
fn the_word_that_there_is_no_such_sa_begins_a_new_one_beside_the_old() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.pass(Duration::from_secs(2));
    sends(&mut sut);
    let (header, _) = peer.take(&mut sut);
    sut.give(peer.path, &no_such_sa(&header));
    let (_, request) = sut.take();
    assert_eq!(exchange(&request), ExchangeType::IKE_SA_INIT);
    assert_eq!(sut.halves(), (1, 1));
    // It was forged: the peer answers on the old SA, and the attempt is given up.
    peer.reply(&mut sut, &header, &[]);
    assert_eq!(sut.endpoint.counts().initiating, 0);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    // Who goes on forging gets no more than one attempt in ten seconds.
    sut.pass(Duration::from_secs(2));
    sends(&mut sut);
    let (header, _) = peer.take(&mut sut);
    sut.give(peer.path, &no_such_sa(&header));
    sut.assert_silent();
    peer.reply(&mut sut, &header, &[]);
    assert!(sut.failures().is_empty());
}

#[test]
fn a_hint_that_answers_nothing_is_dropped() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    peer.next -= 1;
    let header = wire::Message::parse(&request).unwrap().header;
    for number in 0..10 {
        let forged = Header {
            message_id: wire::MessageId(number),
            flags: Flags::request(header.flags.sender().peer()),
            ..header
        };
        sut.give(peer.path, &no_such_sa(&forged));
    }
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().initiating, 0);
}

#[test]
fn where_liveness_clears_nothing_is_begun() {
    let mut config = answering(1);
    config.liveness.action = LivenessAction::Clear;
    let (mut sut, peer, _) = crate::talk::peer_began_with(config);
    sut.pass(Duration::from_secs(2));
    sends(&mut sut);
    let (header, _) = peer.take(&mut sut);
    sut.give(peer.path, &no_such_sa(&header));
    sut.assert_silent();
}

#[test]
fn an_unknown_sa_is_answered_to_configured_peers_with_less_than_they_sent() {
    let (_, mut peer, _) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    let response = peer.response(ExchangeType::INFORMATIONAL, 0, &[]);
    let mut sut = Sut::with(answering(1));
    let answer = sut.ask(peer.path, &request);
    let (header, payloads) = clear(&answer);
    assert!(answer.len() < request.len());
    let asked = wire::Message::parse(&request).unwrap().header;
    assert_eq!(
        (header.initiator_spi, header.responder_spi, header.message_id),
        (asked.initiator_spi, asked.responder_spi, asked.message_id)
    );
    assert!(header.flags.is_response());
    assert_eq!(header.flags.sender(), asked.flags.sender().peer());
    assert!(payloads.notify(NotifyType::INVALID_IKE_SPI).is_some());
    // Neither a response nor a stranger is answered, and nobody more than a bounded number of times.
    sut.give(peer.path, &response);
    sut.give(path_to(77, 500, 500), &request);
    sut.assert_silent();
    for _ in 0..1000 {
        sut.give(peer.path, &request);
    }
    assert!(sut.sent.len() < 32);
    assert_eq!(
        sut.endpoint.counts(),
        Counts {
            peers: 1,
            ..Counts::default()
        }
    );
}
