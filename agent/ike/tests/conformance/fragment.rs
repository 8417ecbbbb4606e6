//! Fragments of IKE messages (RFC 7383): agreed on in IKE_SA_INIT, checked one by one, put together within bounds.

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, Flags, Header, Message, Notify, NotifyType, Payload, Payloads};
use ipsecmesh_ike::*;

use crate::peer::{Peer, clear};
use crate::support::{cheap, endpoint_config};
use crate::sut::{PEER, Sut, configured, path_to};
use crate::talk::{auth_answer, create_answer};

/// The longest message in one datagram: 200 bytes without the headers of IP and UDP and the non-ESP marker.
const LONGEST: usize = 200 - 20 - 8 - 4;

/// What the tests' peer seals at most in one datagram.
const PEERS: usize = 150;

fn sut(fragment_size: Option<u16>) -> Sut {
    let endpoint = EndpointConfig {
        fragment_size,
        ..endpoint_config(1, 1)
    };
    let mut sut = Sut::empty(endpoint, cheap::provider());
    sut.command(Command::UpsertPeer(Box::new(configured(1))));
    sut
}

fn supported() -> Payload {
    Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED))
}

/// Both ends have agreed on fragments; host 1 has sent IKE_AUTH.
fn agreed() -> (Sut, Peer) {
    let mut sut = sut(Some(200));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[supported()]);
    peer.keys.allow_fragments(PEERS);
    sut.give(path, &response);
    (sut, peer)
}

/// All that host 1 has sent, and the one message that it makes.
fn taken(sut: &mut Sut, peer: &mut Peer) -> (Vec<Vec<u8>>, Header, Payloads) {
    let sent: Vec<Vec<u8>> = sut.sent.drain(..).map(|(_, datagram)| datagram).collect();
    let mut whole = None;
    for datagram in &sent {
        assert!(datagram.len() <= LONGEST, "{} bytes", datagram.len());
        assert!(whole.is_none(), "more than the message");
        let body = Message::parse(datagram).unwrap().body().unwrap();
        let opener = &mut peer.keys.opener;
        whole = opener
            .open_message(peer.provider, &mut datagram.clone(), &body)
            .unwrap();
    }
    let opened = whole.unwrap().into_inner();
    (sent, opened.header, opened.payloads.unwrap())
}

/// A message of the peer, in fragments.
fn sealed(
    peer: &mut Peer,
    flags: Flags,
    exchange: ExchangeType,
    id: u32,
    payloads: &[Payload],
) -> Vec<Vec<u8>> {
    let header = peer.header(exchange, flags, id);
    let datagrams = peer.keys.sealer.seal_message(peer.provider, &header, payloads);
    datagrams.unwrap()
}

/// The peer's answer to IKE_AUTH, in fragments, with this much more in it.
fn answer(sut: &mut Sut, peer: &mut Peer, more: usize) -> Vec<Vec<u8>> {
    let (_, header, payloads) = taken(sut, peer);
    let mut answer = auth_answer(peer, &payloads);
    answer.push(padding(more));
    let fragments = sealed(peer, Flags::response(peer.role), header.exchange, 1, &answer);
    assert!(fragments.len() > 2, "{} fragments", fragments.len());
    fragments
}

/// A status notify that means nothing.
fn padding(length: usize) -> Payload {
    Payload::Notify(Notify::with_data(NotifyType(40_999), vec![0; length]))
}

/// Host 1 has its pair: it asks for the confirmation.
fn stands(sut: &mut Sut, peer: &mut Peer) {
    let (sent, header, _) = taken(sut, peer);
    assert_eq!((sent.len(), header.exchange), (1, ExchangeType::INFORMATIONAL));
    let reply = sealed(
        peer,
        Flags::response(peer.role),
        header.exchange,
        header.message_id.0,
        &[],
    );
    sut.give(peer.path, &reply[0]);
    assert_eq!(sut.halves(), (1, 1));
}

/// The whole way up, with a pair that stands.
fn up() -> (Sut, Peer) {
    let (mut sut, mut peer) = agreed();
    for fragment in answer(&mut sut, &mut peer, 100) {
        sut.give(peer.path, &fragment);
    }
    stands(&mut sut, &mut peer);
    (sut, peer)
}

#[test]
fn long_messages_of_both_ends_go_in_fragments_and_short_ones_do_not() {
    let (mut sut, mut peer) = agreed();
    let (sent, header, payloads) = taken(&mut sut, &mut peer);
    assert!(sent.len() > 1, "IKE_AUTH fits into one datagram");
    assert_eq!(header.exchange, ExchangeType::IKE_AUTH);
    let answer = auth_answer(&peer, &payloads);
    let fragments = sealed(
        &mut peer,
        Flags::response(wire::Role::Responder),
        header.exchange,
        1,
        &answer,
    );
    for fragment in &fragments {
        sut.give(peer.path, fragment);
    }
    stands(&mut sut, &mut peer);
}

#[test]
fn fragments_come_in_any_order_and_more_than_once() {
    let (mut sut, mut peer) = agreed();
    let fragments = answer(&mut sut, &mut peer, 100);
    for fragment in fragments.iter().rev().chain(&fragments) {
        sut.give(peer.path, fragment);
        sut.give(peer.path, fragment);
    }
    stands(&mut sut, &mut peer);
}

#[test]
fn all_fragments_of_a_request_are_repeated_bit_by_bit() {
    let (mut sut, mut peer) = agreed();
    let (first, _, _) = taken(&mut sut, &mut peer);
    sut.pass_until_sent(Duration::from_secs(1));
    let (again, _, _) = taken(&mut sut, &mut peer);
    assert_eq!(first, again);
}

#[test]
fn a_fragment_with_a_bad_check_value_is_not_kept() {
    let (mut sut, mut peer) = agreed();
    let fragments = answer(&mut sut, &mut peer, 100);
    for fragment in &fragments {
        let mut forged = fragment.clone();
        *forged.last_mut().unwrap() ^= 1;
        let forged = sut.give(peer.path, &forged);
        assert_eq!(forged, Disposition::Dropped(DropReason::BadIntegrity));
    }
    sut.assert_silent();
    for fragment in &fragments {
        sut.give(peer.path, fragment);
    }
    stands(&mut sut, &mut peer);
}

#[test]
fn more_fragments_begin_anew_and_fewer_are_ignored() {
    let (mut sut, mut peer) = agreed();
    let (_, header, payloads) = taken(&mut sut, &mut peer);
    let mut answer = auth_answer(&peer, &payloads);
    answer.push(padding(100));
    let flags = Flags::response(peer.role);
    let few = sealed(&mut peer, flags, header.exchange, 1, &answer);
    peer.keys.allow_fragments(100);
    let many = sealed(&mut peer, flags, header.exchange, 1, &answer);
    assert!(many.len() > few.len());
    sut.give(peer.path, &few[0]);
    sut.give(peer.path, &many[0]);
    for fragment in few.iter().chain(&many[2..]) {
        sut.give(peer.path, fragment);
        sut.assert_silent();
    }
    sut.give(peer.path, &many[1]);
    stands(&mut sut, &mut peer);
}

#[test]
fn what_is_too_long_is_not_put_together() {
    for (longest, more) in [(70, 2000), (1000, 17_000)] {
        let (mut sut, mut peer) = agreed();
        peer.keys.allow_fragments(longest);
        for fragment in answer(&mut sut, &mut peer, more) {
            sut.give(peer.path, &fragment);
        }
        sut.assert_silent();
        assert_eq!(sut.halves(), (0, 0), "fragments of {longest} bytes");
    }
}

#[test]
fn fragments_that_were_not_agreed_on_change_nothing() {
    let mut sut = sut(Some(200));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, payloads) = peer.take(&mut sut);
    peer.keys.allow_fragments(PEERS);
    let answer = auth_answer(&peer, &payloads);
    for fragment in sealed(
        &mut peer,
        Flags::response(wire::Role::Responder),
        header.exchange,
        1,
        &answer,
    ) {
        let dropped = sut.give(peer.path, &fragment);
        assert_eq!(dropped, Disposition::Dropped(DropReason::BadIntegrity));
    }
    assert_eq!(sut.halves(), (0, 0));
}

#[test]
fn an_end_without_fragments_does_not_offer_them() {
    for (size, offered) in [(None, false), (Some(1280), true)] {
        let (_, request) = sut(size).take();
        let notify = clear(&request)
            .1
            .notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
            .is_some();
        assert_eq!(notify, offered, "{size:?}");
    }
}

/// Found by the simulation (seed 13769): both ends send long messages at once, again and again.
#[test]
fn a_request_and_a_response_in_fragments_do_not_disturb_each_other() {
    let (mut sut, mut peer) = up();
    sut.command(Command::RekeyChild {
        peer: PEER,
        child: ChildId(1),
    });
    let (_, header, payloads) = taken(&mut sut, &mut peer);
    let mut response = create_answer(&payloads, 0x4000, [3; 32]);
    response.push(padding(300));
    let (asks, answers) = (Flags::request(peer.role), Flags::response(peer.role));
    let request = sealed(&mut peer, asks, ExchangeType::INFORMATIONAL, 0, &[padding(300)]);
    let id = header.message_id.0;
    let response = sealed(&mut peer, answers, ExchangeType::CREATE_CHILD_SA, id, &response);
    let longer = request.len().max(response.len());
    for number in 0..longer {
        for fragment in [request.get(number), response.get(number)].into_iter().flatten() {
            assert_eq!(sut.give(peer.path, fragment), Disposition::Accepted);
        }
    }
    assert_eq!(sut.kernel.get(&0x4000), Some(&false));
}

#[test]
fn only_the_message_that_the_window_lets_in_is_put_together() {
    let (mut sut, mut peer) = up();
    let flags = Flags::request(peer.role);
    for id in [1, 7] {
        for fragment in sealed(&mut peer, flags, ExchangeType::INFORMATIONAL, id, &[padding(300)]) {
            let dropped = sut.give(peer.path, &fragment);
            assert_eq!(
                dropped,
                Disposition::Dropped(DropReason::OutsideWindow),
                "message {id}"
            );
        }
    }
    let response = Flags::response(peer.role);
    for fragment in sealed(
        &mut peer,
        response,
        ExchangeType::INFORMATIONAL,
        9,
        &[padding(300)],
    ) {
        let dropped = sut.give(peer.path, &fragment);
        assert_eq!(dropped, Disposition::Dropped(DropReason::OutsideWindow));
    }
    sut.assert_silent();
}

#[test]
fn a_repeated_request_is_answered_once_for_all_its_fragments() {
    let (mut sut, mut peer) = up();
    let flags = Flags::request(peer.role);
    let fragments = sealed(&mut peer, flags, ExchangeType::INFORMATIONAL, 0, &[padding(300)]);
    for _ in 0..3 {
        for fragment in &fragments {
            sut.give(peer.path, fragment);
        }
        let (answers, header, _) = taken(&mut sut, &mut peer);
        assert_eq!((answers.len(), header.message_id.0), (1, 0));
    }
    let mut forged = fragments[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(
        sut.give(peer.path, &forged),
        Disposition::Dropped(DropReason::BadIntegrity)
    );
    sut.assert_silent();
}

#[test]
fn fragments_of_a_peer_that_begins_are_put_together() {
    let mut sut = sut(Some(200));
    sut.command(Command::RemovePeer { peer: PEER });
    sut.sent.clear();
    let mut config = configured(1);
    config.initiation = Initiation::OnDemand;
    sut.command(Command::UpsertPeer(Box::new(config)));
    let mut draft = crate::draft::Draft::new(1);
    draft.more.push(supported());
    let mut peer = draft.exchange(&mut sut);
    peer.keys.allow_fragments(PEERS);
    let payloads = crate::talk::auth_payloads(&peer);
    let fragments = sealed(
        &mut peer,
        Flags::request(wire::Role::Initiator),
        ExchangeType::IKE_AUTH,
        1,
        &payloads,
    );
    assert!(fragments.len() > 1);
    for fragment in fragments.iter().rev() {
        sut.give(path_to(2, 500, 500), fragment);
    }
    let (sent, header, answer) = taken(&mut sut, &mut peer);
    assert!(sent.len() > 1 && header.flags.is_response());
    assert!(answer.security_association().is_some(), "{answer:?}");
}
