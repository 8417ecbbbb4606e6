//! What does not authenticate changes nothing and is not answered; what authenticates and is wrong is answered as the
//! RFC says (RFC 7296 §2.5, §2.21).

use ipsecmesh_ike::wire::{
    Delete, ExchangeType, Notify, NotifyType, Payload, PayloadType, Role, Unknown, encode,
};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, init_header, kinds};
use crate::sut::{Sut, answering, configured, path_to};
use crate::talk::{auth_answer, delete_esp, peer_began, we_began};

/// The SA still works, and nothing has been told or installed.
fn unharmed(sut: &mut Sut, peer: &mut Peer) {
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.failures(), []);
    peer.confirm(sut);
}

#[test]
fn every_flipped_bit_of_a_sealed_message_is_noticed() {
    let (mut sut, mut peer, _) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    peer.next -= 1;
    for position in 0..request.len() {
        for bit in 0..8 {
            let mut forged = request.clone();
            forged[position] ^= 1 << bit;
            let disposition = sut.give(peer.path, &forged);
            // Another SPI is none of ours, and the sender is told so.
            let other_spi = position < 16 && disposition == Disposition::Answered(AnswerReason::UnknownSpi);
            assert!(
                other_spi || matches!(disposition, Disposition::Dropped(_)),
                "byte {position}, bit {bit}"
            );
        }
    }
    sut.sent.clear();
    unharmed(&mut sut, &mut peer);
}

#[test]
fn every_truncated_and_every_extended_message_is_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    peer.next -= 1;
    for length in 0..request.len() {
        let mut short = request[..length].to_vec();
        sut.give(peer.path, &short);
        // The same with a length field that fits.
        if length >= 32 {
            short[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            short[30..32].copy_from_slice(&u16::try_from(length - 28).unwrap().to_be_bytes());
            sut.give(peer.path, &short);
        }
    }
    let longer = [request.as_slice(), &[0; 7]].concat();
    sut.give(peer.path, &longer);
    unharmed(&mut sut, &mut peer);
}

#[test]
fn notifies_and_deletes_in_clear_do_nothing_to_a_live_sa() {
    let (mut sut, mut peer, _) = peer_began();
    let said = [
        Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED)),
        Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI)),
        Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN)),
        Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
        Payload::Delete(Delete::Ike),
        delete_esp(crate::talk::PEER_SPI),
    ];
    for exchange in [
        ExchangeType::INFORMATIONAL,
        ExchangeType::IKE_AUTH,
        ExchangeType::CREATE_CHILD_SA,
    ] {
        for payload in &said {
            for flags in [wire::Flags::request(peer.role), wire::Flags::response(peer.role)] {
                let header = peer.header(exchange, flags, peer.next);
                let datagram = encode(&header, std::slice::from_ref(payload)).unwrap();
                assert!(matches!(sut.give(peer.path, &datagram), Disposition::Dropped(_)));
            }
        }
    }
    unharmed(&mut sut, &mut peer);
}

#[test]
fn what_is_sealed_for_another_sa_or_comes_from_another_host_is_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    let mut other = peer_began_apart();
    let foreign = other.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    sut.give(peer.path, &foreign);
    let request = peer.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    peer.next -= 1;
    let elsewhere = sut.give(path_to(3, 500, 500), &request);
    assert_eq!(elsewhere, Disposition::Dropped(DropReason::UnknownSpi));
    unharmed(&mut sut, &mut peer);
}

/// The same SPIs and IDs with other keys.
fn peer_began_apart() -> Peer {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.nonce = wire::Nonce::from([77; 32]);
    crate::talk::authenticated(&mut sut, draft).0
}

#[test]
fn random_junk_is_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    let mut state = 1_u64;
    for length in 0..600_usize {
        let mut junk: Vec<u8> = Vec::new();
        for _ in 0..length {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            junk.push(u8::try_from(state >> 56).unwrap());
        }
        sut.give(peer.path, &junk);
        sut.give(path_to(9, 4500, 4500), &junk);
    }
    unharmed(&mut sut, &mut peer);
}

#[test]
fn a_forged_response_to_ike_sa_init_does_not_stop_the_real_one() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    // An attacker who sees the request answers first, with a key exchange of its own.
    let (_, forged) = Peer::answer_init_with(crate::support::cheap::provider(), 1, &request, &[]);
    sut.give(path, &forged);
    sut.take();
    let refusal = init_header(clear(&request).0.initiator_spi, None, Role::Responder);
    let notify = Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
    sut.give(path, &encode(&refusal, &[notify]).unwrap());

    let (mut peer, response) = Peer::answer_init(&request, &[]);
    assert_eq!(sut.give(path, &response), Disposition::Accepted);
    let (header, payloads) = peer.take(&mut sut);
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().initiating, 0);
}

#[test]
fn forged_refusals_of_ike_sa_init_do_not_stop_the_real_response() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let header = init_header(clear(&request).0.initiator_spi, None, Role::Responder);
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_SYNTAX,
        NotifyType::INVALID_MAJOR_VERSION,
    ] {
        sut.give(
            path,
            &encode(&header, &[Payload::Notify(Notify::new(kind))]).unwrap(),
        );
    }
    let (peer, response) = Peer::answer_init(&request, &[]);
    assert_eq!(sut.give(path, &response), Disposition::Accepted);
    assert!(peer.take(&mut sut).1.auth().is_some());
}

#[test]
fn forged_responses_without_end_are_bounded() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    for number in 0..100 {
        let (_, forged) = Peer::answer_init_with(crate::support::cheap::provider(), number, &request, &[]);
        sut.give(path, &forged);
    }
    assert_eq!(sut.sent.len(), 4, "each candidate costs one IKE_AUTH request");
}

#[test]
fn a_sealed_refusal_that_does_not_prove_an_identity_only_ends_this_attempt() {
    let (mut sut, mut peer, header, _) = we_began(configured(1));
    let refusal = [Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED))];
    peer.reply(&mut sut, &header, &refusal);
    assert_eq!(
        sut.endpoint.counts().initiating,
        1,
        "the offer stays open for a while"
    );
    sut.pass(std::time::Duration::from_millis(1100));
    assert_eq!(sut.failures(), [Failure::Authentication]);
    assert_eq!(sut.endpoint.counts().initiating, 0);
}

#[test]
fn an_unknown_critical_payload_in_a_request_is_named_and_the_request_refused() {
    let (mut sut, mut peer, _) = peer_began();
    // Type 200 with the critical bit, then a DELETE of the IKE SA that must not be carried out.
    let content = [&[42, 0x80, 0, 8, 1, 2, 3, 4][..], &[0, 0, 0, 8, 1, 0, 0, 0]].concat();
    let request = peer.raw_request(ExchangeType::INFORMATIONAL, PayloadType(200), &content);
    let answer = sut.ask(peer.path, &request);
    let (_, payloads) = peer.open(&answer);
    let notify = payloads.notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD).unwrap();
    assert_eq!(notify.data, [200]);
    unharmed(&mut sut, &mut peer);
}

#[test]
fn an_unknown_payload_that_is_not_critical_is_skipped() {
    let (mut sut, mut peer, _) = peer_began();
    let unknown = Payload::Unknown(Unknown {
        kind: PayloadType(200),
        body: vec![1; 50],
    });
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[unknown]);
    assert!(answer.as_slice().is_empty());
    unharmed(&mut sut, &mut peer);
}

#[test]
fn an_unknown_critical_payload_in_ike_sa_init_is_named_without_state() {
    let mut sut = Sut::with(answering(1));
    let draft = Draft::new(1);
    let mut payloads = draft.payloads();
    payloads.push(Payload::Unknown(Unknown {
        kind: PayloadType(200),
        body: vec![1; 4],
    }));
    let mut request = encode(&init_header(draft.spi, None, Role::Initiator), &payloads).unwrap();
    let critical = request.len() - 7;
    request[critical] = 0x80;
    let answer = sut.ask(path_to(2, 500, 500), &request);
    let (_, payloads) = clear(&answer);
    assert_eq!(
        payloads
            .notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD)
            .unwrap()
            .data,
        [200]
    );
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn a_sealed_request_that_does_not_parse_is_answered_and_the_sa_stays() {
    let (mut sut, mut peer, _) = peer_began();
    for content in [
        vec![0, 0, 0, 3],
        vec![0, 0, 0xff, 0xff],
        vec![41, 0, 0, 4],
        vec![1],
    ] {
        let request = peer.raw_request(ExchangeType::INFORMATIONAL, PayloadType::DELETE, &content);
        sut.give(peer.path, &request);
        let (_, answer) = sut.take();
        assert_eq!(kinds(&peer.open(&answer).1), [NotifyType::INVALID_SYNTAX]);
        // The peer may take it as the end of the SA: it is asked.
        let (question, _) = peer.take(&mut sut);
        peer.reply(&mut sut, &question, &[]);
    }
    unharmed(&mut sut, &mut peer);
}

#[test]
fn an_exchange_of_an_unknown_type_is_refused() {
    let (mut sut, mut peer, _) = peer_began();
    for exchange in [ExchangeType(240), ExchangeType::IKE_AUTH, ExchangeType(43)] {
        let answer = peer.ask(&mut sut, exchange, &[Payload::Delete(Delete::Ike)]);
        assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    }
    unharmed(&mut sut, &mut peer);
}

#[test]
fn unknown_notifies_are_ignored() {
    let (mut sut, mut peer, _) = peer_began();
    let notifies = [NotifyType(40_959), NotifyType(16_384 + 999), NotifyType(8_191)];
    let payloads = notifies.map(|kind| Payload::Notify(Notify::with_data(kind, vec![3; 30])));
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &payloads);
    assert!(answer.as_slice().is_empty());
    unharmed(&mut sut, &mut peer);
}
