//! The peer proves its identity anew on a new IKE SA beside the old one, at `ike_lifetime` at the latest: make before
//! break (RFC 7296 §2.8.3, RFC 4478).

use std::time::Duration;

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{Delete, ExchangeType, Header, Nonce, Notify, NotifyType, Payload, Payloads};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::ike_rekey::answer_ike_rekey;
use crate::peer::{Peer, child_request, clear, kinds};
use crate::support::cheap;
use crate::sut::{Sut, answering, configured, path_to};
use crate::talk::{
    PEER_SPI, auth_answer, authenticated, child_answer, peer_began_with, we_began, we_have_a_pair_with,
};

/// SPI on which the peer receives in the pair of the new IKE SA.
const NEW_SPI: u32 = 0x2000_0002;

const HOUR: Duration = Duration::from_hours(1);

fn hourly(config: PeerConfig) -> PeerConfig {
    PeerConfig {
        ike_lifetime: HOUR,
        liveness: Liveness {
            interval: Duration::from_hours(100),
            ..config.liveness
        },
        ..config
    }
}

fn deletes_ike(payloads: &Payloads) -> bool {
    payloads.deletes().any(|delete| *delete == Delete::Ike)
}

/// Minutes since the beginning.
fn minute(sut: &Sut) -> u64 {
    sut.now.as_secs() / 60
}

/// The rekey of the IKE SA in the middle of its time is answered; gives the heir.
fn rekeyed_on_the_way(sut: &mut Sut, mut peer: Peer) -> Peer {
    sut.pass_until_sent(HOUR);
    assert!((24..=30).contains(&minute(sut)), "rekeyed at {} min", minute(sut));
    let (header, request) = peer.take(sut);
    assert!(request.nonce().is_some() && request.ts_initiator().is_none());
    let (heir, answer) = answer_ike_rekey(&mut peer, &request, [8; 32]);
    peer.reply(sut, &header, &answer);
    let (delete, payloads) = peer.take(sut);
    assert!(deletes_ike(&payloads));
    peer.reply(sut, &delete, &[]);
    sut.assert_silent();
    heir
}

/// Host 1 has begun anew: its IKE_SA_INIT is answered, and its IKE_AUTH is here.
fn begun_anew(sut: &mut Sut) -> (Peer, Header, Payloads) {
    let (path, init) = sut.take();
    assert_eq!(path, path_to(2, 500, 500));
    let (peer, response) = Peer::answer_init_with(cheap::provider(), 10, &init, &[]);
    sut.give(path, &response);
    let (header, payloads) = peer.take(sut);
    (peer, header, payloads)
}

#[test]
fn a_new_ike_sa_is_made_beside_the_old_one_and_takes_over() {
    let (mut sut, peer, _) = we_have_a_pair_with(hourly(configured(1)));
    let mut old = rekeyed_on_the_way(&mut sut, peer);
    sut.pass_until_sent(HOUR);
    assert!(
        (48..=53).contains(&minute(&sut)),
        "begun anew at {} min",
        minute(&sut)
    );
    let (mut new, header, request) = begun_anew(&mut sut);
    // It is not the only SA, and its pair is a new one: nothing is rekeyed.
    assert!(request.notify(NotifyType::INITIAL_CONTACT).is_none());
    assert!(request.auth().is_some() && request.notify(NotifyType::REKEY_SA).is_none());
    assert_eq!(sut.halves(), (1, 1), "the old pair stays meanwhile");
    let mut answer = new.proof();
    answer.extend(child_answer(&request, NEW_SPI, ChildContext::Auth));
    new.reply(&mut sut, &header, &answer);
    let (mut confirmed, mut deleted) = (false, false);
    while !sut.sent.is_empty() {
        let of_old = sut.sent[0].1[..8] == old.spis.0.value().to_be_bytes();
        let end = if of_old { &mut old } else { &mut new };
        let (header, payloads) = end.take(&mut sut);
        deleted |= of_old && deletes_ike(&payloads);
        confirmed |= !of_old && payloads.as_slice().is_empty();
        assert!(
            confirmed || !deleted,
            "the new pair stands before the old SA goes"
        );
        end.reply(&mut sut, &header, &[]);
    }
    assert!(deleted);
    sut.pass(Duration::from_secs(6));
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.kernel.get(&NEW_SPI), Some(&false));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    // The next proof is due a lifetime later: its rekey comes first.
    let start = minute(&sut);
    sut.pass_until_sent(HOUR);
    assert!((23..=30).contains(&(minute(&sut) - start)));
    new.take(&mut sut);
}

#[test]
fn the_end_that_has_not_begun_leaves_it_to_the_other_first() {
    let (mut sut, peer, _) = peer_began_with(hourly(answering(1)));
    let _heir = rekeyed_on_the_way(&mut sut, peer);
    sut.pass_until_sent(HOUR);
    assert!(
        (54..=57).contains(&minute(&sut)),
        "begun anew at {} min",
        minute(&sut)
    );
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn a_peer_that_begins_anew_keeps_the_old_sa_until_it_deletes_it() {
    let (mut sut, mut old, _) = peer_began_with(hourly(answering(1)));
    sut.pass(Duration::from_mins(20));
    let mut new = Draft::new(2).exchange(&mut sut);
    let mut payloads = new.proof();
    payloads.extend(child_request(1, NEW_SPI, ChildContext::Auth));
    let answer = new.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
    assert_eq!(
        sut.kernel.get(&PEER_SPI),
        Some(&false),
        "we send through the old pair"
    );
    new.confirm(&mut sut);
    assert_eq!(sut.kernel.get(&NEW_SPI), Some(&false), "and then through the new");
    old.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    sut.pass(Duration::from_secs(11));
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    // The old age is forgotten with the old SA: what is due next is the rekey of the new one.
    sut.pass_until_sent(HOUR);
    assert!((43..=51).contains(&minute(&sut)), "at {} min", minute(&sut));
    new.take(&mut sut);
}

#[test]
fn a_peer_that_deletes_the_old_sa_at_once_finds_us_sending_through_the_new_one() {
    // A peer that is not of our kind does not confirm: its DELETE of the old SA says that the new one stands.
    let (mut sut, mut old, _) = peer_began_with(hourly(answering(1)));
    let mut new = Draft::new(2).exchange(&mut sut);
    new.boot = None;
    let mut payloads = new.proof();
    payloads.extend(child_request(1, NEW_SPI, ChildContext::Auth));
    new.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    let before = sut.log.len();
    sut.hold = true;
    let delete = old.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    sut.give(old.path, &delete);
    while !sut.held.is_empty() {
        sut.assert_silent();
        sut.release(None);
        assert!(sut.halves().1 > 0, "there is always an SA to send through");
    }
    assert_eq!(sut.log[before..], ["InstallOutbound", "RemoveOutbound"]);
    sut.take();
    assert_eq!(sut.kernel.get(&NEW_SPI), Some(&false));
}

#[test]
fn a_peer_that_breaks_before_it_makes_has_one_sa_at_the_end() {
    let grace = Duration::from_mins(1);
    let (mut sut, mut old, _) = peer_began_with(PeerConfig {
        initiation: Initiation::EagerAfter { grace },
        ..hourly(configured(1))
    });
    old.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    let (mut new, _) = authenticated(&mut sut, Draft::new(2));
    new.confirm(&mut sut);
    sut.pass(Duration::from_secs(20));
    sut.assert_silent();
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(sut.endpoint.counts().initiating, 0);
}

#[test]
fn without_a_new_proof_the_sa_ends_with_its_lifetime() {
    // The peer's secret is not valid any more, for whichever end begins.
    let (mut sut, mut peer, _) = we_have_a_pair_with(hourly(configured(1)));
    peer = rekeyed_on_the_way(&mut sut, peer);
    let mut refused = 0;
    let end = loop {
        sut.pass_until_sent(HOUR);
        if sut.sent[0].1[..8] == peer.spis.0.value().to_be_bytes() {
            break minute(&sut);
        }
        assert_eq!(sut.halves(), (1, 1));
        if clear(&sut.sent[0].1).0.responder_spi.is_some() {
            sut.sent.clear();
            continue;
        }
        let (mut new, header, _) = begun_anew(&mut sut);
        new.reply(
            &mut sut,
            &header,
            &[Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED))],
        );
        refused += 1;
    };
    assert!(refused > 3, "it is tried again");
    assert!((59..=60).contains(&end));
    assert!(
        sut.failures()
            .iter()
            .all(|failure| *failure == Failure::Authentication)
    );
    let (header, payloads) = peer.take(&mut sut);
    assert!(deletes_ike(&payloads));
    assert_eq!(sut.halves().1, 0, "nothing is sent any more");
    peer.reply(&mut sut, &header, &[]);
    let closed = |event: &&Event| {
        matches!(
            event,
            Event::IkeClosed {
                reason: CloseReason::Expired,
                ..
            }
        )
    };
    assert_eq!(sut.events.iter().filter(closed).count(), 1);

    let (mut sut, peer, _) = peer_began_with(hourly(answering(1)));
    let _heir = rekeyed_on_the_way(&mut sut, peer);
    let mut new = Draft::new(2).exchange(&mut sut);
    new.secret = b"another secret".to_vec();
    let proof = new.proof();
    let answer = new.ask(&mut sut, ExchangeType::IKE_AUTH, &proof);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(sut.halves(), (1, 1));
    sut.pass(Duration::from_mins(36));
    sut.sent.clear();
    assert_eq!(sut.halves().1, 0);
}

#[test]
fn when_both_begin_anew_at_once_the_higher_nonce_wins() {
    for (number, we_win) in [(0, true), (255, false)] {
        let (mut sut, peer, _) = we_have_a_pair_with(hourly(configured(1)));
        let mut old = rekeyed_on_the_way(&mut sut, peer);
        sut.pass_until_sent(HOUR);
        let mut draft = Draft::new(3);
        draft.nonce = Nonce::from([number; 32]);
        let init = draft.request();
        sut.give(path_to(2, 500, 500), &init);
        let response = sut.sent.pop_back().unwrap().1;
        let mut theirs = draft.accept(&init, &response);
        let (mut ours, header, request) = begun_anew(&mut sut);
        let mut payloads = theirs.proof();
        payloads.extend(child_request(1, NEW_SPI, ChildContext::Auth));
        let answer = theirs.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        assert_eq!(answer.security_association().is_none(), we_win);
        let mut reply = ours.proof();
        reply.extend(child_answer(&request, NEW_SPI + 1, ChildContext::Auth));
        ours.reply(&mut sut, &header, &reply);
        // Every SA of host 1 that is superfluous is deleted by who made it.
        let mut gone = Vec::new();
        while !sut.sent.is_empty() {
            let spi = sut.sent[0].1[..8].to_vec();
            let ends = [&mut old, &mut ours, &mut theirs];
            let end = ends
                .into_iter()
                .find(|end| end.spis.0.value().to_be_bytes()[..] == spi);
            let end = end.unwrap();
            let (header, payloads) = end.take(&mut sut);
            if deletes_ike(&payloads) {
                gone.push(end.spis.0);
            }
            end.reply(&mut sut, &header, &[]);
        }
        let (loser, winner) = if we_win {
            assert_eq!(gone, [old.spis.0]);
            (&mut theirs, NEW_SPI + 1)
        } else {
            assert_eq!(gone, [ours.spis.0]);
            theirs.confirm(&mut sut);
            (&mut old, NEW_SPI)
        };
        loser.ask(
            &mut sut,
            ExchangeType::INFORMATIONAL,
            &[Payload::Delete(Delete::Ike)],
        );
        sut.pass(Duration::from_secs(20));
        assert_eq!(sut.halves(), (1, 1), "nonces {number}");
        assert_eq!(sut.kernel.get(&winner), Some(&false), "nonces {number}");
        assert_eq!(sut.endpoint.counts().ike_sas, 1);
    }
}

#[test]
fn a_lifetime_that_becomes_shorter_counts_from_the_last_proof() {
    let (mut sut, _peer, _) = we_have_a_pair_with(PeerConfig {
        ike_lifetime: Duration::from_hours(100),
        ..hourly(configured(1))
    });
    sut.pass(Duration::from_hours(2));
    sut.command(Command::UpsertPeer(Box::new(hourly(configured(1)))));
    sut.assert_silent();
    let wait = sut.pass_until_sent(Duration::from_mins(2));
    assert!(wait >= Duration::from_secs(10), "{wait:?}");
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
    assert_eq!(sut.halves(), (1, 1), "there is time left for a new one");
}

#[test]
fn the_time_for_which_the_peer_believes_us_is_kept() {
    let (mut sut, mut peer, header, request) = we_began(hourly(configured(1)));
    let mut answer = auth_answer(&peer, &request);
    answer.push(Payload::Notify(Notify::auth_lifetime(Duration::from_mins(10))));
    peer.reply(&mut sut, &header, &answer);
    let (confirm, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &confirm, &[]);
    sut.pass_until_sent(HOUR);
    assert_eq!(minute(&sut), 8);
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn a_peer_behind_a_nat_is_told_how_long_it_is_believed() {
    let answer = answer_to_auth(true);
    let told = answer.notify(NotifyType::AUTH_LIFETIME).unwrap();
    assert_eq!(told.announced_lifetime(), Ok(HOUR));
    let answer = answer_to_auth(false);
    assert!(answer.notify(NotifyType::AUTH_LIFETIME).is_none());
}

/// The answer to IKE_AUTH of a peer with or without a NAT in front of it.
fn answer_to_auth(behind: bool) -> Payloads {
    let mut sut = Sut::with(hourly(answering(1)));
    let mut draft = Draft::new(1);
    if behind {
        draft.more = crate::nat::behind_a_nat();
    }
    authenticated(&mut sut, draft).1
}
