//! What one end tells the other in notifies (RFC 7296 §3.10.1): refusals become precise reasons, status changes nothing
//! that it may not change.

use std::time::Duration;

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{Body, ExchangeType, Message, Nonce, Notify, NotifyType, Payload, PayloadType};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{child_request, clear, kinds};
use crate::sut::{PEER, Sut, answering, configured, path_to};
use crate::talk::{
    PEER_SPI, auth_payloads, authenticated, create_answer, peer_began, peer_began_with, rekey_payloads,
    we_began, we_have_a_pair, we_have_a_pair_with, we_rekey,
};

/// Refusals of a pair, and what the user is told.
const REFUSALS: [(NotifyType, Failure, &str); 8] = [
    (
        NotifyType::NO_PROPOSAL_CHOSEN,
        Failure::NoProposalChosen,
        "or suite",
    ),
    (
        NotifyType::TS_UNACCEPTABLE,
        Failure::TrafficSelectors,
        "traffic selectors",
    ),
    (
        NotifyType::SINGLE_PAIR_REQUIRED,
        Failure::TrafficSelectors,
        "single addresses",
    ),
    (
        NotifyType::NO_ADDITIONAL_SAS,
        Failure::NoAdditionalSas,
        "raise its limit",
    ),
    (
        NotifyType::INTERNAL_ADDRESS_FAILURE,
        Failure::AddressAssignment,
        "site-to-site",
    ),
    (
        NotifyType::FAILED_CP_REQUIRED,
        Failure::AddressAssignment,
        "site-to-site",
    ),
    (NotifyType::INVALID_SYNTAX, Failure::Protocol, "INVALID_SYNTAX"),
    (
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
        Failure::Protocol,
        "UNSUPPORTED_CRITICAL_PAYLOAD",
    ),
];

fn quiet(config: PeerConfig) -> PeerConfig {
    PeerConfig {
        liveness: Liveness {
            interval: Duration::from_hours(100),
            ..config.liveness
        },
        ..config
    }
}

/// The last failure: its kind, and the sentence.
fn told(sut: &Sut) -> (Failure, String) {
    let told = sut.events.iter().rev().find_map(|event| {
        if let Event::Failed { failure, detail, .. } = event {
            Some((*failure, detail.clone()))
        } else {
            None
        }
    });
    told.expect("something failed")
}

#[test]
fn each_refusal_of_a_pair_is_told_to_the_user() {
    for (kind, failure, word) in REFUSALS {
        // In IKE_AUTH, where the IKE SA stands without it.
        let (mut sut, mut peer, header, _) = we_began(quiet(configured(1)));
        let mut answer = peer.proof();
        answer.push(Payload::Notify(Notify::new(kind)));
        peer.reply(&mut sut, &header, &answer);
        let (said, detail) = told(&sut);
        assert_eq!(said, failure, "{kind}: {detail}");
        assert!(detail.contains(word), "{kind}: {detail}");
        assert_eq!(sut.endpoint.counts().ike_sas, 1, "{kind}");
        assert_eq!(sut.halves(), (0, 0));
        assert_eq!(sut.endpoint.counts().offered_spis, 0);

        // In CREATE_CHILD_SA, where the pair to be rekeyed stays.
        let (mut sut, mut peer, _) = we_have_a_pair();
        let (header, _) = we_rekey(&mut sut, &peer);
        peer.reply(&mut sut, &header, &[Payload::Notify(Notify::new(kind))]);
        let (said, detail) = told(&sut);
        assert_eq!(said, failure, "{kind}: {detail}");
        assert!(detail.contains(word), "{kind}: {detail}");
        assert_eq!(sut.halves(), (1, 1));
    }
}

#[test]
fn each_refusal_of_the_ike_sa_is_told_to_the_user() {
    let refusals = [
        (
            NotifyType::NO_PROPOSAL_CHOSEN,
            Failure::NoProposalChosen,
            "or suite",
        ),
        (
            NotifyType::INVALID_MAJOR_VERSION,
            Failure::Protocol,
            "does not speak IKEv2",
        ),
        (NotifyType::INVALID_SYNTAX, Failure::Protocol, "INVALID_SYNTAX"),
    ];
    for (kind, failure, word) in refusals {
        let mut sut = Sut::with(configured(1));
        let (path, request) = sut.take();
        let (header, _) = clear(&request);
        let refusal = crate::peer::init_header(header.initiator_spi, None, wire::Role::Responder);
        let refusal = wire::encode(&refusal, &[Payload::Notify(Notify::new(kind))]).unwrap();
        sut.give(path, &refusal);
        sut.pass(Duration::from_secs(2));
        let (said, detail) = told(&sut);
        assert_eq!(said, failure, "{kind}");
        assert!(detail.contains(word), "{kind}: {detail}");
    }
    for (kind, failure, word) in [
        (
            NotifyType::AUTHENTICATION_FAILED,
            Failure::Authentication,
            "identities",
        ),
        (
            NotifyType::FAILED_CP_REQUIRED,
            Failure::AddressAssignment,
            "site-to-site",
        ),
        (NotifyType::INVALID_SYNTAX, Failure::Protocol, "IKE_AUTH"),
    ] {
        let (mut sut, mut peer, header, _) = we_began(configured(1));
        peer.reply(&mut sut, &header, &[Payload::Notify(Notify::new(kind))]);
        sut.pass(Duration::from_secs(2));
        let (said, detail) = told(&sut);
        assert_eq!(said, failure, "{kind}");
        assert!(detail.contains(word), "{kind}: {detail}");
        assert_eq!(sut.endpoint.counts().ike_sas, 0);
    }
}

#[test]
fn a_peer_that_takes_no_rekey_gets_a_new_ike_sa() {
    let refused = [Payload::Notify(Notify::new(NotifyType::NO_ADDITIONAL_SAS))];
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, _) = we_rekey(&mut sut, &peer);
    peer.reply(&mut sut, &header, &refused);
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
    assert_eq!(sut.halves(), (1, 1), "beside the old one");

    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    let (header, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &header, &refused);
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
    assert_eq!(told(&sut).0, Failure::NoAdditionalSas);
}

#[test]
fn a_peer_that_makes_pairs_without_end_is_told_that_there_is_no_room() {
    let (mut sut, mut peer, _) = peer_began_with(quiet(answering(1)));
    let mut refused = None;
    for number in 0..100_u32 {
        let mut request = child_request(1, 0x3000 + number, ChildContext::Create(None));
        request.push(Payload::Nonce(Nonce::from([3; 32])));
        let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &request);
        if answer.security_association().is_none() {
            assert_eq!(kinds(&answer), [NotifyType::NO_ADDITIONAL_SAS]);
            refused.get_or_insert(number);
        }
        peer.confirm(&mut sut);
    }
    assert!(refused.is_some());
    let most = sut.endpoint.counts();
    assert!(most.child_sas <= 32, "{most:?}");
    let last = 0x3000 + refused.unwrap() - 1;
    let rekey = rekey_payloads(last, 0x5000, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert_eq!(
        kinds(&answer),
        [NotifyType::TEMPORARY_FAILURE],
        "a rekey is worth waiting for"
    );
    // Later there is room again.
    sut.pass(Duration::from_secs(30));
    sut.sent.clear();
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert!(answer.security_association().is_some());
}

#[test]
fn a_peer_that_authenticates_without_end_leaves_a_bounded_number_of_sas() {
    let (mut sut, _, _) = peer_began_with(quiet(answering(1)));
    for number in 2..100 {
        let mut draft = Draft::new(number);
        draft.spi = IkeSpi::new(0x9000 + u64::from(number)).unwrap();
        let mut peer = draft.exchange(&mut sut);
        let payloads = auth_payloads(&peer);
        let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
        sut.give(peer.path, &request);
        sut.sent.clear();
        let counts = sut.endpoint.counts();
        assert!(counts.ike_sas + counts.deleted_ike_sas <= 17, "{counts:?}");
        assert!(counts.child_sas <= 33, "{counts:?}");
    }
    // Nothing of it is left later: the peer answers nothing any more.
    sut.pass(Duration::from_mins(5));
    let counts = sut.endpoint.counts();
    assert!(counts.ike_sas <= 1 && counts.deleted_ike_sas == 0, "{counts:?}");
    assert_eq!(counts.child_sas, 0);
}

#[test]
fn a_larger_window_of_the_peer_is_not_used() {
    let window = Notify::with_data(NotifyType::SET_WINDOW_SIZE, vec![0, 0, 0, 16]);
    let (mut sut, mut peer, header, request) = we_began(configured(1));
    let mut answer = crate::talk::auth_answer(&peer, &request);
    answer.push(Payload::Notify(window.clone()));
    peer.reply(&mut sut, &header, &answer);
    let (confirm, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &confirm, &[]);
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[Payload::Notify(window)]);
    assert!(answer.as_slice().is_empty());
    we_rekey(&mut sut, &peer);
    sut.command(Command::RekeyIke { peer: PEER });
    sut.assert_silent();
}

#[test]
fn news_of_packets_and_unknown_status_change_nothing() {
    let (mut sut, mut peer, _) = peer_began();
    let unknown = NotifyType(16_999);
    for kind in [
        NotifyType::INVALID_SELECTORS,
        NotifyType::INVALID_SPI,
        NotifyType::ADDITIONAL_TS_POSSIBLE,
        unknown,
    ] {
        let news = Payload::Notify(Notify::with_data(kind, vec![7; 40]));
        let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[news]);
        assert!(answer.as_slice().is_empty(), "{kind}");
    }
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.failures(), []);
}

#[test]
fn a_request_for_an_address_is_ignored() {
    // CFG_REQUEST for INTERNAL_IP4_ADDRESS, behind the payloads of a child (RFC 7296 §2.19, §4).
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    let cp = Payload::Unknown(wire::Unknown {
        kind: PayloadType::CP,
        body: vec![1, 0, 0, 0, 0, 1, 0, 0],
    });
    let mut payloads = auth_payloads(&peer);
    payloads.push(cp);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some() && answer.security_association().is_some());
    assert!(
        answer
            .as_slice()
            .iter()
            .all(|payload| payload.kind() != PayloadType::CP)
    );
}

#[test]
fn a_minor_version_is_no_reason_to_refuse() {
    let mut sut = Sut::with(answering(1));
    let draft = Draft::new(1);
    let mut request = draft.request();
    request[17] = 0x2f;
    let response = sut.ask(path_to(2, 500, 500), &request);
    assert_eq!(response[17], 0x20, "and ours stays 0");
    let mut peer = draft.accept(&request, &response);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
}

#[test]
fn another_major_version_inside_an_sa_is_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    for version in [0x10, 0x30, 0xf0] {
        let mut request = peer.request(ExchangeType::INFORMATIONAL, &[]);
        peer.next -= 1;
        request[17] = version;
        let disposition = sut.give(peer.path, &request);
        assert!(matches!(disposition, Disposition::Dropped(_)), "{version:#x}");
        sut.assert_silent();
    }
    peer.confirm(&mut sut);
}

#[test]
fn after_invalid_syntax_in_either_direction_the_peer_is_asked_whether_the_sa_stands() {
    // It is fatal where a peer takes RFC 7296 §2.21.3 by the letter.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, _) = we_rekey(&mut sut, &peer);
    peer.reply(
        &mut sut,
        &header,
        &[Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX))],
    );
    let (header, question) = peer.take(&mut sut);
    assert!(header.exchange == ExchangeType::INFORMATIONAL && question.as_slice().is_empty());
    // Silence begins a new IKE SA within seconds, and the old pair stays meanwhile.
    sut.pass(Duration::from_secs(4));
    let begun = sut.sent.iter().any(|(_, sent)| {
        let message = Message::parse(sent).unwrap();
        message.header.exchange == ExchangeType::IKE_SA_INIT && matches!(message.body(), Ok(Body::Plain(_)))
    });
    assert!(begun);
    assert_eq!(sut.halves(), (1, 1));

    let (mut sut, mut peer, _) = we_have_a_pair_with(configured(1));
    let garbage = peer.raw_request(ExchangeType::INFORMATIONAL, PayloadType::NOTIFY, &[0, 0, 0, 3]);
    sut.give(peer.path, &garbage);
    let answer = peer.open(&sut.take().1).1;
    assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    let (header, question) = peer.take(&mut sut);
    assert!(header.exchange == ExchangeType::INFORMATIONAL && question.as_slice().is_empty());
    peer.reply(&mut sut, &header, &[]);
    assert_eq!(sut.halves(), (1, 1), "where the peer keeps it the SA works on");
}

#[test]
fn a_refused_rekey_is_asked_for_again_on_the_same_sa() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(quiet(configured(1)));
    let (header, _) = we_rekey(&mut sut, &peer);
    peer.reply(
        &mut sut,
        &header,
        &[Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))],
    );
    assert!(sut.pass_until_sent(Duration::from_secs(2)) >= Duration::from_millis(400));
    let (header, request) = peer.take(&mut sut);
    peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    assert_eq!(sut.failures(), [], "patience is no failure");
    assert!(sut.kernel.len() > 2 || !sut.kernel.contains_key(&PEER_SPI));
    authenticated_without_failure();
}

/// What a peer announces in IKE_SA_INIT that nobody here knows is skipped.
fn authenticated_without_failure() {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.more.push(Payload::Notify(Notify::with_data(
        NotifyType(40_960),
        vec![1; 64],
    )));
    let (_, answer) = authenticated(&mut sut, draft);
    assert!(answer.security_association().is_some());
}
