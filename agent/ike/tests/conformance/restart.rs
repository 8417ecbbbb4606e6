//! Restarts and silence: what works stays until it is replaced (decision 20, RFC 7296 §2.4).

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, Notify, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear};
use crate::support::{endpoint_config, peer_config, psk};
use crate::sut::{PEER, SECRET, Sut, answering, path_to};
use crate::talk::{auth_payloads, peer_began, peer_began_with, we_have_a_pair};

/// The peer begins again, with INITIAL_CONTACT and this boot.
fn begins_again(sut: &mut Sut, number: u8, boot: u8, spi: u32) -> Peer {
    let mut peer = Draft::new(number).exchange(sut);
    peer.boot = Some(BootId([boot; 16]));
    let mut payloads = peer.proof();
    payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
    payloads.extend(crate::peer::child_request(1, spi, crypto::ChildContext::Auth));
    let answer = peer.ask(sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
    peer
}

#[test]
fn initial_contact_keeps_the_old_pair_until_the_new_one_stands() {
    let (mut sut, mut old, inbound) = peer_began();
    let mut peer = begins_again(&mut sut, 9, 2, 0x3000);
    assert_eq!(sut.halves(), (2, 1), "the old pair still carries traffic");
    peer.confirm(&mut sut);
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    assert!(!sut.kernel.contains_key(&crate::talk::PEER_SPI));
    sut.pass(Duration::from_secs(6));
    assert!(!sut.kernel.contains_key(&inbound.value()));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    // The old IKE SA is gone without a word.
    let request = old.request(ExchangeType::INFORMATIONAL, &[]);
    assert_eq!(
        sut.give(old.path, &request),
        Disposition::Answered(AnswerReason::UnknownSpi)
    );
}

#[test]
fn orphans_without_a_replacement_end_after_their_grace_time() {
    let (mut sut, _, _) = peer_began();
    let mut peer = Draft::new(9).exchange(&mut sut);
    let mut payloads = peer.proof();
    payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    sut.pass(Duration::from_secs(25));
    assert_eq!(sut.halves(), (1, 1));
    sut.pass(Duration::from_secs(20));
    assert_eq!(sut.halves(), (0, 0));
}

#[test]
fn initial_contact_of_one_peer_does_not_touch_another() {
    let mut sut = Sut::empty(endpoint_config(1, 1), crate::support::cheap::provider());
    for host in 2..4 {
        let mut config = peer_config(1, host, 1);
        config.auth = psk(SECRET);
        config.initiation = Initiation::OnDemand;
        sut.command(Command::UpsertPeer(Box::new(config)));
    }
    let (mut peer, _) = crate::talk::authenticated(&mut sut, Draft::new(1));
    peer.confirm(&mut sut);

    // Host 3 authenticates as itself and claims first contact.
    let draft = Draft::new(5);
    let request = draft.request();
    let response = sut.ask(path_to(3, 500, 500), &request);
    let mut other = draft.accept(&request, &response);
    other.path = path_to(3, 500, 500);
    other.identity = Identity::Fqdn(crate::support::name_of(3));
    let mut payloads = other.proof();
    payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
    let answer = other.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());

    assert_eq!(sut.halves(), (1, 1));
    peer.confirm(&mut sut);
    assert_eq!(sut.endpoint.counts().ike_sas, 2);
}

#[test]
fn initial_contact_is_said_only_when_there_is_no_sa() {
    let (mut sut, _, _) = peer_began();
    let mut config = answering(1);
    config.encapsulation = Encapsulation::Always;
    sut.command(Command::UpsertPeer(Box::new(config)));
    sut.pass_until_sent(Duration::from_secs(6));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    peer.path = path_to(2, 4500, 4500);
    let (_, payloads) = peer.take(&mut sut);
    assert!(payloads.notify(NotifyType::INITIAL_CONTACT).is_none());
}

#[test]
fn another_boot_in_the_directory_ends_the_sas_of_the_boot_before() {
    let (mut sut, _, _) = we_have_a_pair();
    sut.command(Command::PeerBooted {
        peer: PEER,
        boot: BootId([2; 16]),
    });
    assert_eq!(sut.halves(), (1, 1), "the boot that the SA was made under");
    sut.assert_silent();
    sut.command(Command::PeerBooted {
        peer: PEER,
        boot: BootId([99; 16]),
    });
    assert_eq!(sut.halves().1, 0, "nothing is sent to where nothing is");
    sut.pass_until_sent(Duration::from_secs(2));
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn a_silent_peer_is_asked_once_per_interval() {
    let (mut sut, mut peer, _) = peer_began();
    let interval = answering(1).liveness.interval;
    let wait = sut.pass_until_sent(interval * 2);
    assert!(wait >= interval.saturating_sub(Duration::from_secs(1)));
    let (header, payloads) = peer.take(&mut sut);
    assert_eq!(header.exchange, ExchangeType::INFORMATIONAL);
    assert!(payloads.as_slice().is_empty());
    peer.reply(&mut sut, &header, &[]);
    assert!(sut.pass_until_sent(interval * 2) >= interval.saturating_sub(Duration::from_secs(1)));
}

#[test]
fn traffic_of_the_peer_is_a_sign_of_life() {
    let (mut sut, _, inbound) = peer_began();
    for _ in 0..10 {
        sut.pass(Duration::from_secs(5));
        sut.command(Command::InboundSeen { spi: inbound });
    }
    sut.assert_silent();
}

#[test]
fn a_peer_that_does_not_answer_is_begun_anew_and_its_pairs_stay_for_a_while() {
    let (mut sut, _, _) = we_have_a_pair();
    sut.pass_until_sent(Duration::from_secs(20));
    while sut.failures().is_empty() {
        sut.pass(Duration::from_secs(1));
    }
    sut.sent.clear();
    sut.pass_until_sent(Duration::from_secs(4));
    assert_eq!(clear_or_sealed(&sut.take().1), ExchangeType::IKE_SA_INIT);
    assert_eq!(sut.failures(), [Failure::Unreachable]);
    assert_eq!(sut.halves(), (1, 1));
    sut.pass(Duration::from_secs(40));
    assert_eq!(sut.halves(), (0, 0));
}

fn clear_or_sealed(datagram: &[u8]) -> ExchangeType {
    wire::Message::parse(datagram).unwrap().header.exchange
}

#[test]
fn when_liveness_clears_the_peer_is_left_alone() {
    let mut config = answering(1);
    config.liveness.action = LivenessAction::Clear;
    let (mut sut, _, _) = peer_began_with(config);
    sut.pass(Duration::from_mins(3));
    let last = sut.sent.pop_back().unwrap().1;
    assert_eq!(clear_or_sealed(&last), ExchangeType::INFORMATIONAL);
    assert_eq!(
        sut.endpoint.counts(),
        Counts {
            peers: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn a_peer_that_comes_back_has_its_sas_within_seconds() {
    let (mut sut, _, _) = we_have_a_pair();
    sut.pass(Duration::from_mins(10));
    sut.sent.clear();
    // It is asked again before three and a half seconds are over, whenever it comes back.
    for _ in 0..20 {
        assert!(sut.pass_until_sent(Duration::from_secs(4)) <= Duration::from_millis(3900));
        sut.sent.clear();
    }
    sut.pass_until_sent(Duration::from_secs(4));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, auth) = peer.take(&mut sut);
    let answer = crate::talk::auth_answer(&peer, &auth);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_proof_for_an_exchange_of_an_earlier_run_is_dropped() {
    let (_, mut peer, _) = peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    let payloads = auth_payloads(&peer);
    let auth = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let mut sut = Sut::with(answering(1));
    assert_eq!(
        sut.give(peer.path, &auth),
        Disposition::Dropped(DropReason::UnknownSpi)
    );
    sut.assert_silent();
    // A request on an SA that the earlier run had is told so.
    assert_eq!(
        sut.give(peer.path, &request),
        Disposition::Answered(AnswerReason::UnknownSpi)
    );
}
