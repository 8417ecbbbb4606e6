//! CHILD SAs: selectors, proposals, modes, and what is answered when they do not meet (RFC 7296 §1.3, §2.7, §2.9,
//! §2.25); one pair per child (decision 18).

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{ExchangeType, Nonce, Notify, NotifyType, Payload, Payloads, Transform};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, child_request, chosen_spi, kinds};
use crate::support::{child, selector};
use crate::sut::{PEER, Sut, answering, configured};
use crate::talk::{
    PEER_SPI, auth_answer, authenticated, create_answer, offer_of, peer_began, peer_began_with,
    rekey_payloads, we_began, we_have_a_pair, we_rekey, with_ports,
};

/// The peer asks for a child in IKE_AUTH with changed payloads.
fn asked(change: impl FnOnce(&mut Vec<Payload>)) -> (Sut, Peer, Payloads) {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    let mut payloads = crate::talk::auth_payloads(&peer);
    change(&mut payloads);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    (sut, peer, answer)
}

fn replace(payloads: &mut [Payload], with: &Payload) {
    for payload in payloads {
        if payload.kind() == with.kind() {
            *payload = with.clone();
        }
    }
}

fn without(payloads: &mut Vec<Payload>, kind: NotifyType) {
    payloads.retain(|payload| !matches!(payload, Payload::Notify(notify) if notify.kind == kind));
}

/// The peer is authenticated, the IKE SA stands, and there is no child.
fn only_the_ike_sa((sut, _, answer): &(Sut, Peer, Payloads), kind: NotifyType) {
    assert!(answer.auth().is_some());
    assert_eq!(answer.error_notify().unwrap().kind, kind);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(sut.endpoint.counts().child_sas, 0);
    assert_eq!(sut.halves(), (0, 0));
}

#[test]
fn wider_selectors_are_narrowed_to_ours() {
    let config = child(2, 1, 1);
    let wide = with_ports(&config.local_selectors, 0, u16::MAX);
    let (sut, _, answer) = asked(|payloads| replace(payloads, &Payload::TsInitiator(wide)));
    let chosen: Vec<TrafficSelector> = answer.ts_initiator().unwrap().ip().copied().collect();
    assert_eq!(chosen, config.local_selectors);
    assert_eq!(sut.selectors.0, config.local_selectors);
}

#[test]
fn narrower_selectors_are_taken_as_they_are() {
    let any_port = with_ports(&[selector(2, 17, None)], 8001, 8001);
    let narrow: Vec<TrafficSelector> = any_port.ip().copied().collect();
    let mut config = answering(1);
    config.children[0].remote_selectors = vec![selector(2, 17, None)];
    let mut sut = Sut::with(config);
    let (_, answer) = authenticated(&mut sut, Draft::new(1));
    let chosen: Vec<TrafficSelector> = answer.ts_initiator().unwrap().ip().copied().collect();
    assert_eq!(chosen, narrow);
}

#[test]
fn selectors_that_do_not_meet_leave_the_ike_sa() {
    let ports = with_ports(&child(2, 1, 1).local_selectors, 9, 9);
    let refused = asked(|payloads| replace(payloads, &Payload::TsInitiator(ports)));
    only_the_ike_sa(&refused, NotifyType::TS_UNACCEPTABLE);
    let addresses: wire::TrafficSelectors = [selector(9, 17, Some(8001))].into_iter().collect();
    let refused = asked(|payloads| replace(payloads, &Payload::TsInitiator(addresses)));
    only_the_ike_sa(&refused, NotifyType::TS_UNACCEPTABLE);
}

#[test]
fn a_proposal_that_we_have_nothing_of_leaves_the_ike_sa() {
    let mut offer = offer_of(&Payloads::from(child_request(1, PEER_SPI, ChildContext::Auth)));
    offer.proposals[0].transforms = vec![Encryption::AesGcm16Key128.into(), Transform::esn(true)];
    let refused = asked(|payloads| replace(payloads, &Payload::SecurityAssociation(offer)));
    only_the_ike_sa(&refused, NotifyType::NO_PROPOSAL_CHOSEN);
}

#[test]
fn another_mode_than_ours_is_refused() {
    let refused = asked(|payloads| without(payloads, NotifyType::USE_TRANSPORT_MODE));
    only_the_ike_sa(&refused, NotifyType::TS_UNACCEPTABLE);
}

#[test]
fn an_ike_sa_without_a_child_is_accepted() {
    let (sut, _, answer) = asked(|payloads| payloads.truncate(3));
    assert!(answer.auth().is_some() && answer.error_notify().is_none());
    assert_eq!(
        (sut.endpoint.counts().ike_sas, sut.endpoint.counts().child_sas),
        (1, 0)
    );
}

#[test]
fn an_accepted_child_has_one_transform_of_each_type_out_of_the_offer() {
    let (_, _, answer) = asked(|_| {});
    let answered = offer_of(&answer);
    let offered = offer_of(&Payloads::from(child_request(1, PEER_SPI, ChildContext::Auth)));
    assert_eq!(answered.proposals.len(), 1);
    assert_eq!(answered.proposals[0].number, 1);
    assert!(
        answered.proposals[0]
            .transforms
            .iter()
            .all(|t| offered.proposals[0].transforms.contains(t))
    );
    assert_eq!(answered.proposals[0].transforms.len(), 2);
}

/// The peer's response to our IKE_AUTH with changed payloads; its pair has to be refused.
fn response_is_refused(change: impl FnOnce(&mut Vec<Payload>)) -> Failure {
    let (mut sut, mut peer, header, request) = we_began(configured(1));
    let mut answer = auth_answer(&peer, &request);
    change(&mut answer);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (0, 0), "something was installed");
    let (_, told) = peer.take(&mut sut);
    assert_eq!(
        crate::talk::deleted_spis(&told),
        [chosen_spi(&request)],
        "the peer is told that there is no pair"
    );
    *sut.failures().first().unwrap()
}

#[test]
fn a_suite_that_was_not_offered_is_not_accepted() {
    let mut weak = offer_of(&Payloads::from(child_request(1, PEER_SPI, ChildContext::Auth)));
    weak.proposals[0].transforms = vec![Encryption::AesGcm16Key128.into(), Transform::esn(true)];
    let mut two = weak.clone();
    two.proposals[0].transforms = vec![
        Encryption::AesGcm16Key256.into(),
        Transform::esn(true),
        Transform::esn(false),
    ];
    let mut number = two.clone();
    number.proposals[0].transforms.truncate(2);
    number.proposals[0].number = 2;
    for wrong in [weak, two, number] {
        let failure = response_is_refused(|answer| replace(answer, &Payload::SecurityAssociation(wrong)));
        assert_eq!(failure, Failure::Protocol);
    }
}

#[test]
fn selectors_outside_of_the_offer_are_not_accepted() {
    let wide = with_ports(&child(1, 2, 1).local_selectors, 0, u16::MAX);
    let failure = response_is_refused(|answer| replace(answer, &Payload::TsInitiator(wide)));
    assert_eq!(failure, Failure::TrafficSelectors);
}

#[test]
fn a_response_without_transport_mode_is_not_accepted() {
    let failure = response_is_refused(|answer| without(answer, NotifyType::USE_TRANSPORT_MODE));
    assert_eq!(failure, Failure::TrafficSelectors);
}

#[test]
fn a_child_that_the_peer_refuses_is_tried_again_and_the_ike_sa_stays() {
    for kind in [
        NotifyType::TS_UNACCEPTABLE,
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::TEMPORARY_FAILURE,
    ] {
        let (mut sut, mut peer, header, _) = we_began(configured(1));
        let mut answer = peer.proof();
        answer.push(Payload::Notify(Notify::new(kind)));
        peer.reply(&mut sut, &header, &answer);
        sut.assert_silent();
        assert_eq!(sut.endpoint.counts().ike_sas, 1);
        sut.pass_until_sent(std::time::Duration::from_secs(2));
        let (header, request) = peer.take(&mut sut);
        assert_eq!(header.exchange, ExchangeType::CREATE_CHILD_SA);
        peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
        assert_eq!(sut.halves(), (1, 1));
    }
}

#[test]
fn a_rekey_neither_widens_nor_narrows() {
    let (mut sut, mut peer, _) = peer_began();
    let narrow = with_ports(&child(2, 1, 1).remote_selectors, 8001, 8001);
    let other = with_ports(&child(2, 1, 1).remote_selectors, 0, 9);
    let mut payloads = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    replace(&mut payloads, &Payload::TsResponder(other));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::TS_UNACCEPTABLE]);
    replace(&mut payloads, &Payload::TsResponder(narrow));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    assert!(answer.error_notify().is_none());
}

#[test]
fn a_rekey_of_an_unknown_pair_is_told_so() {
    let (mut sut, mut peer, _) = peer_began();
    let payloads = rekey_payloads(0x9999, 0x3000, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    let notify = answer.notify(NotifyType::CHILD_SA_NOT_FOUND).unwrap();
    assert_eq!(
        notify.child_spi().map(|(_, spi)| spi),
        Ok(EspSpi::new(0x9999).unwrap())
    );
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn when_the_peer_has_lost_the_pair_a_new_one_is_made() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let named = request
        .notify(NotifyType::REKEY_SA)
        .unwrap()
        .child_spi()
        .map(|(_, spi)| spi);
    assert_eq!(named, Ok(inbound));
    let lost = Payload::Notify(Notify::child_sa_not_found(
        SaProtocol::Esp,
        EspSpi::new(PEER_SPI).unwrap(),
    ));
    peer.reply(&mut sut, &header, &[lost]);
    let (header, request) = peer.take(&mut sut);
    assert!(request.notify(NotifyType::REKEY_SA).is_none());
    peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
    assert_eq!(sut.established(), 2);
}

#[test]
fn when_the_peer_asks_for_patience_the_rekey_is_tried_again_soon() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, _) = we_rekey(&mut sut, &peer);
    let patience = [Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))];
    peer.reply(&mut sut, &header, &patience);
    assert_eq!(sut.halves(), (1, 1));
    sut.pass_until_sent(std::time::Duration::from_secs(2));
    let (_, request) = peer.take(&mut sut);
    assert!(request.notify(NotifyType::REKEY_SA).is_some());
}

#[test]
fn a_second_pair_of_the_same_child_replaces_the_first() {
    let (mut sut, mut peer, inbound) = peer_began();
    let mut payloads = child_request(1, 0x3000, ChildContext::Create(None));
    payloads.push(Payload::Nonce(Nonce::from([3; 32])));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    assert_ne!(chosen_spi(&answer), inbound);
    peer.confirm(&mut sut);
    let outbound: Vec<u32> = sut
        .kernel
        .iter()
        .filter(|(_, inbound)| !**inbound)
        .map(|(spi, _)| *spi)
        .collect();
    assert_eq!(outbound, [0x3000], "one pair sends");
    sut.pass(std::time::Duration::from_secs(30));
    assert!(!sut.kernel.contains_key(&inbound.value()));
}

#[test]
fn each_child_has_its_own_pair_on_one_ike_sa() {
    let (mut sut, mut peer, _) = peer_began_with(answering(3));
    for (number, spi) in [(2, 0x4000), (3, 0x5000)] {
        let mut payloads = child_request(number, spi, ChildContext::Create(None));
        payloads.push(Payload::Nonce(Nonce::from([3; 32])));
        let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
        assert!(answer.error_notify().is_none());
        peer.confirm(&mut sut);
    }
    assert_eq!(sut.halves(), (3, 3));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    sut.command(Command::RekeyChild {
        peer: PEER,
        child: ChildId(3),
    });
    let (_, request) = peer.take(&mut sut);
    assert!(request.notify(NotifyType::REKEY_SA).is_some());
}
