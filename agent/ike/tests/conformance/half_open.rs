//! Bounds on what hosts that have not authenticated can make the engine hold (RFC 7296 §2.6, §2.21.1).

use std::time::Duration;

use ipsecmesh_ike::wire::{NotifyType, Role, encode};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{clear, init_header, kinds};
use crate::support::{endpoint_config, peer_config};
use crate::sut::{SECRET, Sut, answering, path_to};
use crate::talk::{auth_payloads, authenticated};
use crate::{support, sut};

/// Sends one request after the other, with cookies where they are asked for. Tells how many got a response.
fn flood(sut: &mut Sut, host: u8, count: u8) -> usize {
    let mut answered = 0;
    for number in 0..count {
        let mut draft = Draft::new(number);
        sut.give(path_to(host, 500, 500), &draft.request());
        if let Some((_, datagram)) = sut.sent.pop_front() {
            let (header, payloads) = clear(&datagram);
            answered += usize::from(header.responder_spi.is_some());
            if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
                draft.cookie = Some(cookie.data.clone());
                sut.give(path_to(host, 500, 500), &draft.request());
                answered += sut.sent.drain(..).count();
            }
        }
    }
    answered
}

#[test]
fn one_address_has_a_bounded_number_of_half_open_sas() {
    let mut sut = Sut::with(answering(1));
    assert_eq!(flood(&mut sut, 2, 200), Limits::default().half_open_per_source);
    assert_eq!(
        sut.endpoint.counts().half_open,
        Limits::default().half_open_per_source
    );
}

#[test]
fn a_flood_from_one_address_does_not_keep_others_out() {
    let mut sut = Sut::empty(endpoint_config(1, 1), support::cheap::provider());
    for host in 2..5 {
        let mut config = peer_config(1, host, 1);
        config.auth = support::psk(SECRET);
        config.initiation = Initiation::OnDemand;
        sut.command(Command::UpsertPeer(Box::new(config)));
    }
    flood(&mut sut, 3, 200);
    flood(&mut sut, 4, 200);
    let (_, answer) = authenticated(&mut sut, Draft::new(1));
    assert!(answer.auth().is_some());
}

#[test]
fn all_addresses_together_have_a_bounded_number() {
    let limits = Limits {
        half_open: 5,
        ..Limits::default()
    };
    let mut sut = Sut::with_limits(answering(1), limits);
    assert_eq!(flood(&mut sut, 2, 100), 5);
    let more = sut.give(path_to(2, 500, 500), &Draft::new(200).request());
    assert_eq!(more, Disposition::Dropped(DropReason::HalfOpenLimit));
}

#[test]
fn half_open_sas_go_after_their_time() {
    let mut sut = Sut::with(answering(1));
    flood(&mut sut, 2, 8);
    sut.pass(Limits::default().half_open_timeout + Duration::from_secs(1));
    let counts = sut.endpoint.counts();
    assert_eq!((counts.half_open, counts.timers), (0, 0));
}

#[test]
fn an_address_that_is_not_configured_costs_nothing() {
    let mut sut = Sut::with(answering(1));
    for number in 0..100 {
        let stranger = sut.give(path_to(77, 500, 500), &Draft::new(number).request());
        assert_eq!(stranger, Disposition::Dropped(DropReason::UnknownPeer));
    }
    sut.assert_silent();
    assert_eq!(
        sut.endpoint.counts(),
        Counts {
            peers: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn a_repeated_request_gets_the_same_response_and_no_second_state() {
    let mut sut = Sut::with(answering(1));
    let request = Draft::new(1).request();
    let response = sut.ask(path_to(2, 500, 500), &request);
    for _ in 0..10 {
        assert_eq!(sut.ask(path_to(2, 500, 500), &request), response);
    }
    assert_eq!(sut.endpoint.counts().half_open, 1);
}

#[test]
fn requests_that_lack_a_payload_or_begin_in_the_middle_are_dropped() {
    let mut sut = Sut::with(answering(1));
    let draft = Draft::new(1);
    let payloads = draft.payloads();
    for missing in 0..payloads.len() {
        let mut payloads = payloads.clone();
        payloads.remove(missing);
        let datagram = encode(&init_header(draft.spi, None, Role::Initiator), &payloads).unwrap();
        sut.give(path_to(2, 500, 500), &datagram);
    }
    let with_spi = init_header(draft.spi, IkeSpi::new(5), Role::Initiator);
    sut.give(path_to(2, 500, 500), &encode(&with_spi, &payloads).unwrap());
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn an_offer_that_we_have_nothing_of_is_told_so_statelessly() {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.proposals[0].encryption = vec![Encryption::AesGcm16Key128];
    let answer = sut.ask(path_to(2, 500, 500), &draft.request());
    assert_eq!(kinds(&clear(&answer).1), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn another_major_version_is_told_so_statelessly() {
    let mut sut = Sut::with(answering(1));
    let mut request = Draft::new(1).request();
    request[17] = 0x30;
    let answer = sut.ask(path_to(2, 500, 500), &request);
    assert_eq!(kinds(&clear(&answer).1), [NotifyType::INVALID_MAJOR_VERSION]);
    request[17] = 0x10;
    sut.give(path_to(2, 500, 500), &request);
    sut.assert_silent();

    // A higher minor version is ours (§2.5).
    request[17] = 0x21;
    let answer = sut.ask(path_to(2, 500, 500), &request);
    assert!(clear(&answer).0.responder_spi.is_some());
}

#[test]
fn the_answer_to_a_refused_proof_is_repeated_and_then_forgotten() {
    let mut sut = sut::Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    peer.secret = b"wrong".to_vec();
    let payloads = auth_payloads(&peer);
    let request = peer.request(wire::ExchangeType::IKE_AUTH, &payloads);
    let refusal = sut.ask(peer.path, &request);
    assert_eq!(sut.ask(peer.path, &request), refusal);
    sut.pass(Duration::from_secs(6));
    assert_eq!(
        sut.give(peer.path, &request),
        Disposition::Dropped(DropReason::UnknownSpi)
    );
    assert_eq!(
        sut.endpoint.counts(),
        Counts {
            peers: 1,
            ..Counts::default()
        }
    );
}
