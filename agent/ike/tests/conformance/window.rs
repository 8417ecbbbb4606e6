//! Message IDs, retransmission and cached responses (RFC 7296 §2.1–§2.3).

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, Payload};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::clear;
use crate::support::endpoint_config;
use crate::sut::{PEER, Sut, configured};
use crate::talk::{
    auth_answer, delete_esp, peer_began, we_began, we_have_a_pair, we_have_a_pair_with, we_rekey,
};

/// Everything that is sent again is the same bytes. Gives the waits between transmissions.
fn transmissions(sut: &mut Sut, first: &[u8], count: usize) -> Vec<Duration> {
    let again = |sut: &mut Sut| {
        let wait = sut.pass_until_sent(Duration::from_secs(12));
        assert_eq!(sut.take().1, first, "another request");
        wait
    };
    (0..count).map(|_| again(sut)).collect()
}

#[test]
fn ike_sa_init_is_repeated_bit_by_bit_at_growing_intervals() {
    let mut sut = Sut::with(configured(1));
    let (_, first) = sut.take();
    let waits = transmissions(&mut sut, &first, 7);
    assert!(waits[0] >= Duration::from_millis(450) && waits[0] <= Duration::from_millis(550));
    assert!(waits[3] > waits[1]);
    // A peer that comes back is not kept waiting.
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(3300)));
}

#[test]
fn ike_auth_is_repeated_bit_by_bit() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let (_, response) = crate::peer::Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (_, auth) = sut.take();
    sut.pass_until_sent(Duration::from_secs(1));
    assert_eq!(sut.take().1, auth);
}

#[test]
fn a_request_is_repeated_bit_by_bit_and_then_the_peer_is_unreachable() {
    let (mut sut, _, _) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    let (_, first) = sut.take();
    let tries = usize::try_from(endpoint_config(1, 1).retransmit.tries).unwrap();
    let waits = transmissions(&mut sut, &first, tries - 1);
    assert!(
        waits.windows(2).take(4).all(|pair| pair[1] > pair[0]),
        "{waits:?}"
    );
    sut.pass_until_sent(Duration::from_secs(12));
    assert_eq!(sut.failures(), [Failure::Unreachable]);
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn the_verdict_on_a_silent_peer_comes_when_the_retries_say() {
    for (retries, low, high) in [(1, 5, 7), (2, 17, 22), (3, 31, 39), (10, 130, 162)] {
        let mut config = configured(1);
        config.liveness.max_retries = retries;
        let (mut sut, _, _) = we_have_a_pair_with(config);
        let asked = sut.now + sut.pass_until_sent(Duration::from_secs(10));
        let (_, question) = sut.take();
        let mut times = 1;
        while sut.failures().is_empty() {
            let (at, _) = sut.endpoint.poll_timeout().unwrap();
            sut.pass(at.since_origin().saturating_sub(sut.now));
            times += sut.sent.drain(..).filter(|(_, sent)| *sent == question).count();
        }
        assert_eq!(times, 2 * (1 + usize::from(retries)));
        let verdict = sut.now.saturating_sub(asked).as_secs();
        assert!((low..=high).contains(&verdict), "{retries}: {verdict} s");
        assert_eq!(sut.failures(), [Failure::Unreachable]);
    }
}

#[test]
fn one_request_is_under_way_at_a_time() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (first, _) = we_rekey(&mut sut, &peer);
    sut.command(Command::RekeyIke { peer: PEER });
    sut.assert_silent();
    peer.reply(&mut sut, &first, &[]);
    let (second, _) = peer.take(&mut sut);
    assert_eq!(second.message_id.0, first.message_id.0 + 1);
}

#[test]
fn a_repeated_request_is_answered_from_the_cache_and_carried_out_once() {
    let (mut sut, mut peer, inbound) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[delete_esp(crate::talk::PEER_SPI)]);
    let answer = sut.ask(peer.path, &request);
    let effects = sut.log.len();
    for _ in 0..10 {
        let mut again = request.clone();
        assert_eq!(
            sut.give(peer.path, &again),
            Disposition::Answered(AnswerReason::Repeated)
        );
        assert_eq!(sut.take().1, answer);
        // The same ID with another content that does not authenticate is not answered.
        *again.last_mut().unwrap() ^= 1;
        assert_eq!(
            sut.give(peer.path, &again),
            Disposition::Dropped(DropReason::BadIntegrity)
        );
    }
    assert_eq!(sut.log.len(), effects);
    assert!(
        sut.kernel.contains_key(&inbound.value()),
        "the inbound half stays for packets under way"
    );
}

#[test]
fn ids_before_and_after_the_window_are_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    let old = peer.request(ExchangeType::INFORMATIONAL, &[]);
    sut.ask(peer.path, &old);
    peer.confirm(&mut sut);
    assert_eq!(
        sut.give(peer.path, &old),
        Disposition::Dropped(DropReason::OutsideWindow)
    );
    let next = peer.next;
    for ahead in [1, 2, 1000, u32::MAX - next] {
        peer.next = next + ahead;
        let request = peer.header(
            ExchangeType::INFORMATIONAL,
            wire::Flags::request(peer.role),
            peer.next,
        );
        let datagram = peer.keys.sealer.seal(peer.provider, &request, &[]).unwrap();
        assert_eq!(
            sut.give(peer.path, &datagram),
            Disposition::Dropped(DropReason::OutsideWindow)
        );
    }
    sut.assert_silent();
    peer.next = next;
    peer.confirm(&mut sut);
}

#[test]
fn a_response_that_nothing_waits_for_is_dropped() {
    let (mut sut, mut peer, _) = peer_began();
    for number in [0, 1, 2, 77] {
        let response = peer.response(
            ExchangeType::INFORMATIONAL,
            number,
            &[delete_esp(crate::talk::PEER_SPI)],
        );
        assert_eq!(
            sut.give(peer.path, &response),
            Disposition::Dropped(DropReason::Unexpected)
        );
    }
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_response_is_taken_once() {
    let (mut sut, mut peer, header, payloads) = we_began(configured(1));
    let answer = auth_answer(&peer, &payloads);
    let response = peer.response(header.exchange, 1, &answer);
    assert_eq!(sut.give(peer.path, &response), Disposition::Accepted);
    let effects = sut.log.len();
    for _ in 0..5 {
        assert_eq!(
            sut.give(peer.path, &response),
            Disposition::Dropped(DropReason::Unexpected)
        );
    }
    assert_eq!(sut.log.len(), effects);
}

#[test]
fn a_late_copy_of_ike_auth_is_answered_from_the_cache() {
    let mut sut = Sut::with(crate::sut::answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    let payloads = crate::talk::auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let answer = sut.ask(peer.path, &request);
    assert_eq!(sut.ask(peer.path, &request), answer);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(sut.endpoint.counts().child_sas, 1);
}

#[test]
fn the_first_request_of_an_original_responder_is_number_zero() {
    let (mut sut, peer, _) = peer_began();
    sut.command(Command::RekeyIke { peer: PEER });
    let (header, payloads) = peer.take(&mut sut);
    assert_eq!(header.message_id.0, 0);
    assert!(
        payloads
            .as_slice()
            .iter()
            .any(|p| matches!(p, Payload::KeyExchange(_)))
    );
}
