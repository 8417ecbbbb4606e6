//! Requests that cross (RFC 7296 §2.8, §2.25) and both ends beginning at once (decision 5).

use std::time::Duration;

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{Delete, ExchangeType, Nonce, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, child_request, chosen_spi, kinds};
use crate::sut::{Sut, configured};
use crate::talk::{
    PEER_SPI, auth_answer, auth_payloads, create_answer, delete_esp, deleted_spis, rekey_payloads,
    we_have_a_pair, we_rekey,
};

/// The peer's nonces in its own exchange and in ours: the lowest of all four decides (RFC 7296 §2.8.1).
pub(crate) const WE_WIN: ([u8; 32], [u8; 32]) = ([0; 32], [255; 32]);
pub(crate) const THEY_WIN: ([u8; 32], [u8; 32]) = ([255; 32], [0; 32]);

/// Both ends rekey child 1 at once.
fn crossing_child_rekeys(nonces: ([u8; 32], [u8; 32])) -> (Sut, Peer, EspSpi, EspSpi) {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, nonces.0);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    let theirs = chosen_spi(&answer);
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, nonces.1));
    (sut, peer, chosen_spi(&request), theirs)
}

/// Answers everything that is asked, and gives what was deleted.
fn serve(sut: &mut Sut, peer: &mut Peer) -> Vec<EspSpi> {
    let mut deleted = Vec::new();
    while !sut.sent.is_empty() {
        let (header, payloads) = peer.take(sut);
        deleted.extend(deleted_spis(&payloads));
        peer.reply(sut, &header, &[]);
    }
    deleted
}

#[test]
fn crossing_child_rekeys_keep_the_one_without_the_lowest_nonce() {
    // Ours wins: the peer's nonces are the lowest. We delete the old pair, the peer its redundant one.
    let (mut sut, mut peer, ours, theirs) = crossing_child_rekeys(WE_WIN);
    let deleted = serve(&mut sut, &mut peer);
    assert_eq!(deleted.len(), 1);
    assert!(!deleted.contains(&ours) && !deleted.contains(&theirs));
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(0x3000)]);
    sut.pass(Duration::from_secs(8));
    assert_eq!(sut.kernel, [(ours.value(), true), (0x4000, false)].into());

    // The peer's wins: we delete our redundant pair, the peer the old one.
    let (mut sut, mut peer, ours, theirs) = crossing_child_rekeys(THEY_WIN);
    assert_eq!(serve(&mut sut, &mut peer), [ours]);
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    sut.pass(Duration::from_secs(8));
    assert_eq!(sut.kernel, [(theirs.value(), true), (0x3000, false)].into());
    assert_eq!(sut.endpoint.counts().child_sas, 1);
}

#[test]
fn a_late_response_to_a_crossing_rekey_finds_the_old_pair_gone() {
    // The peer's rekey is through and the old pair deleted before its response to ours comes.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [255; 32]);
    let theirs = chosen_spi(&peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey));
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, [0; 32]));
    assert_eq!(serve(&mut sut, &mut peer), [chosen_spi(&request)]);
    sut.pass(Duration::from_secs(8));
    assert_eq!(sut.kernel, [(theirs.value(), true), (0x3000, false)].into());
}

/// Found by the simulation (seed 18140): while the peer's response is under way nobody here knows whose pair wins. The word
/// that the peer's inbound halves stand must not move our traffic to a pair that the peer then deletes.
#[test]
fn while_a_crossing_is_open_traffic_stays_on_the_old_pair() {
    // Ours wins: the peer's pair is never used.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [0; 32]);
    peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    peer.confirm(&mut sut);
    let outbound = |sut: &Sut, spi: u32| sut.kernel.get(&spi) == Some(&false);
    assert!(outbound(&sut, PEER_SPI) && !outbound(&sut, 0x3000));
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(0x3000)]);
    assert!(outbound(&sut, PEER_SPI));
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, [255; 32]));
    assert!(outbound(&sut, 0x4000));

    // The peer's wins: what it said counts as soon as that is known.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [255; 32]);
    peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    peer.confirm(&mut sut);
    assert!(outbound(&sut, PEER_SPI));
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, [0; 32]));
    assert!(outbound(&sut, 0x3000));

    // What was said of one pair says nothing of the next (seed 15975).
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, _) = we_rekey(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [255; 32]);
    peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    peer.confirm(&mut sut);
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    let rekey = rekey_payloads(0x3000, 0x3001, [254; 32]);
    peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    let refusal = Payload::Notify(wire::Notify::new(NotifyType::TEMPORARY_FAILURE));
    peer.reply(&mut sut, &header, &[refusal]);
    assert!(outbound(&sut, 0x3000) && !outbound(&sut, 0x3001));
}

#[test]
fn a_delayed_rekey_request_for_a_pair_that_is_gone_is_told_so() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, [3; 32]));
    let late = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    sut.sent.clear();
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &late);
    assert!([NotifyType::TEMPORARY_FAILURE, NotifyType::CHILD_SA_NOT_FOUND].contains(&kinds(&answer)[0]));
    assert!(sut.kernel.contains_key(&inbound.value()));
    assert_eq!(sut.kernel.get(&0x4000), Some(&false));
}

#[test]
fn when_both_begin_at_once_the_higher_nonce_wins_and_the_other_sa_gets_no_child() {
    for (number, we_win) in [(0, true), (255, false)] {
        let mut sut = Sut::with(configured(1));
        let (path, request) = sut.take();
        // The peer's own exchange goes first as far as its IKE_AUTH.
        let mut draft = Draft::new(1);
        draft.nonce = Nonce::from([number; 32]);
        let init = draft.request();
        let response = sut.ask(path, &init);
        let (mut ours, our_response) = Peer::answer_init(&request, &[]);
        sut.give(path, &our_response);
        let (header, auth) = ours.take(&mut sut);
        let mut theirs = draft.accept(&init, &response);
        let payloads = auth_payloads(&theirs);
        let answer = theirs.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        assert!(answer.auth().is_some());
        assert_eq!(answer.security_association().is_none(), we_win);
        let reply = crate::talk::auth_answer(&ours, &auth);
        ours.reply(&mut sut, &header, &reply);
        if we_win {
            let (confirm, _) = ours.take(&mut sut);
            ours.reply(&mut sut, &confirm, &[]);
            theirs.ask(
                &mut sut,
                ExchangeType::INFORMATIONAL,
                &[Payload::Delete(Delete::Ike)],
            );
        } else {
            // We delete what we have begun.
            let (mut header, mut told) = ours.take(&mut sut);
            if !told.deletes().any(|delete| *delete == Delete::Ike) {
                ours.reply(&mut sut, &header, &[]);
                (header, told) = ours.take(&mut sut);
            }
            assert!(told.deletes().any(|delete| *delete == Delete::Ike));
            ours.reply(&mut sut, &header, &[]);
            theirs.confirm(&mut sut);
        }
        assert_eq!(sut.halves(), (1, 1), "nonces {number}");
        assert_eq!(sut.endpoint.counts().ike_sas, 1);
    }
}

#[test]
fn after_a_crossing_that_we_lost_each_child_is_still_looked_after() {
    let mut sut = Sut::with(configured(2));
    let (path, request) = sut.take();
    let mut draft = Draft::new(1);
    draft.nonce = Nonce::from([255; 32]);
    let init = draft.request();
    let response = sut.ask(path, &init);
    let (mut ours, our_response) = Peer::answer_init(&request, &[]);
    sut.give(path, &our_response);
    let (header, auth) = ours.take(&mut sut);
    let mut theirs = draft.accept(&init, &response);
    // Ours stands first, and child 2 waits on it; then the peer's comes and wins.
    let reply = auth_answer(&ours, &auth);
    ours.reply(&mut sut, &header, &reply);
    let payloads = auth_payloads(&theirs);
    let auth = theirs.request(ExchangeType::IKE_AUTH, &payloads);
    sut.give(path, &auth);
    sut.sent.clear();
    theirs.confirm(&mut sut);
    let mut second = child_request(2, 0x3000, ChildContext::Create(None));
    second.push(Payload::Nonce(Nonce::from([3; 32])));
    theirs.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &second);
    theirs.confirm(&mut sut);
    theirs.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(0x3000)]);
    sut.sent.clear();
    sut.pass(Duration::from_secs(4));
    let asked = sut.sent.iter().filter(|(_, datagram)| {
        let header = wire::Message::parse(datagram).unwrap().header;
        header.exchange == ExchangeType::CREATE_CHILD_SA && header.initiator_spi == theirs.spis.0
    });
    assert!(asked.count() > 0, "child 2 is made again");
}
