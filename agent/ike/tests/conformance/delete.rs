//! Deletes, and deletes that cross (RFC 7296 §1.4.1, §2.25).

use std::time::Duration;

use ipsecmesh_ike::wire::{Delete, ExchangeType, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::peer::{clear, kinds};
use crate::sut::{PEER, answering, configured};
use crate::talk::{
    PEER_SPI, create_answer, delete_esp, deleted_spis, peer_began, rekey_payloads, we_have_a_pair, we_rekey,
};

fn without_children(mut config: PeerConfig) -> Command {
    config.children.clear();
    Command::UpsertPeer(Box::new(config))
}

#[test]
fn a_deleted_pair_is_answered_with_our_spi_when_we_have_stopped_sending() {
    let (mut sut, mut peer, inbound) = peer_began();
    sut.hold = true;
    let request = peer.request(ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    sut.give(peer.path, &request);
    sut.assert_silent();
    sut.release(None);
    let (_, answer) = peer.open(&sut.take().1);
    assert_eq!(deleted_spis(&answer), [inbound]);
    assert_eq!(sut.halves(), (1, 0));
}

#[test]
fn deletes_of_the_same_pair_that_cross_omit_the_spi_from_the_answer() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    sut.command(without_children(configured(1)));
    let (header, ours) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&ours), [inbound]);
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    assert_eq!(deleted_spis(&answer), []);
    peer.reply(&mut sut, &header, &[]);
    sut.pass(Duration::from_secs(6));
    assert_eq!((sut.halves(), sut.endpoint.counts().child_sas), ((0, 0), 0));
}

#[test]
fn spis_that_are_unknown_or_of_another_protocol_are_ignored() {
    let (mut sut, mut peer, _) = peer_began();
    let others = [
        delete_esp(0x9999),
        Payload::Delete(Delete::Other {
            protocol: wire::Protocol::AH,
            spi_size: 4,
            spis: PEER_SPI.to_be_bytes().to_vec(),
        }),
    ];
    for other in others {
        let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[other]);
        assert!(answer.as_slice().is_empty());
    }
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_pair_that_is_deleted_without_a_successor_is_made_again() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    let wait = sut.pass_until_sent(Duration::from_secs(2));
    assert!(
        wait >= Duration::from_millis(300),
        "not at once: the peer may have a reason"
    );
    assert_eq!(peer.take(&mut sut).0.exchange, ExchangeType::CREATE_CHILD_SA);
}

#[test]
fn a_deleted_ike_sa_takes_its_children_and_is_answered_empty() {
    let (mut sut, mut peer, _) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    let answer = sut.ask(peer.path, &request);
    assert!(peer.open(&answer).1.as_slice().is_empty());
    assert_eq!(sut.halves(), (1, 0));
    // The answer may be lost.
    assert_eq!(sut.ask(peer.path, &request), answer);
    sut.pass(Duration::from_secs(12));
    assert_eq!(sut.halves(), (0, 0));
    assert_eq!(
        sut.endpoint.counts(),
        Counts {
            peers: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn an_eager_end_begins_anew_after_a_delete_by_the_peer() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    sut.pass_until_sent(Duration::from_secs(2));
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn deletes_of_the_ike_sa_that_cross_end_it_at_once() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RemovePeer { peer: PEER });
    let (_, ours) = peer.take(&mut sut);
    assert!(ours.deletes().any(|delete| *delete == Delete::Ike));
    let answer = peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    assert!(answer.as_slice().is_empty());
    sut.pass(Duration::from_secs(30));
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts(), Counts::default());
}

#[test]
fn the_last_word_to_a_silent_peer_is_said_a_few_times() {
    let (mut sut, _, _) = we_have_a_pair();
    sut.command(Command::RemovePeer { peer: PEER });
    sut.pass(Duration::from_mins(2));
    assert_eq!(sut.sent.len(), 4);
    assert_eq!(sut.endpoint.counts(), Counts::default());
}

#[test]
fn a_rekey_of_a_pair_that_we_are_deleting_is_deferred() {
    let (mut sut, mut peer, _) = peer_began();
    sut.command(without_children(answering(1)));
    let (_, ours) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&ours).len(), 1);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
}

#[test]
fn requests_on_an_ike_sa_that_we_are_deleting_are_deferred() {
    let (mut sut, mut peer, _) = peer_began();
    sut.command(Command::RemovePeer { peer: PEER });
    sut.sent.clear();
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
}

#[test]
fn a_pair_that_the_peer_deletes_before_its_response_comes_is_not_installed() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(0x3000)]);
    assert!(answer.as_slice().is_empty());
    peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
    assert!(!sut.kernel.contains_key(&0x3000));
    assert_eq!(sut.halves(), (1, 1), "the old pair stays");
    sut.pass_until_sent(Duration::from_secs(2));
    assert!(peer.take(&mut sut).1.notify(NotifyType::REKEY_SA).is_some());
}
