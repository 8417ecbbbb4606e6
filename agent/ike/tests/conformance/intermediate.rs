//! IKE_INTERMEDIATE (RFC 9242) with an additional key exchange (RFC 9370).

use std::time::Duration;

use ipsecmesh_ike::crypto::{Intermediate, Secret, unsealed};
use ipsecmesh_ike::wire::{
    ExchangeType, Flags, Header, KeyExchangeData, KeyExchangeMethod, Message, Notify, NotifyType, Payload,
    Role,
};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, kinds};
use crate::support::{cheap, peer_config, with_kem};
use crate::sut::{Sut, configured, path_to};
use crate::talk::{auth_answer, auth_payloads};

const EXCHANGE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;

/// With an additional key exchange, and without.
fn proposals(fallback: bool) -> Vec<IkeProposal> {
    let plain = peer_config(2, 1, 1).ike_proposals;
    let additional = IkeProposal {
        additional: with_kem(Kem::MlKem768),
        ..plain[0].clone()
    };
    if fallback {
        [vec![additional], plain].concat()
    } else {
        vec![additional]
    }
}

fn config(fallback: bool, initiation: Initiation) -> PeerConfig {
    PeerConfig {
        ike_proposals: proposals(fallback),
        initiation,
        ..configured(1)
    }
}

fn supported() -> Payload {
    Payload::Notify(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED))
}

fn key_payload(data: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method: KeyExchangeMethod::ML_KEM_768,
        data: data.to_vec(),
    })
}

/// A message of host 1 in one datagram or in fragments: its header, payloads, and what AUTH covers of it.
fn open(sut: &mut Sut, peer: &mut Peer) -> (Header, wire::Payloads, Vec<u8>) {
    let mut whole = None;
    for (_, datagram) in sut.sent.drain(..) {
        let body = Message::parse(&datagram).unwrap().body().unwrap();
        let opener = &mut peer.keys.opener;
        whole = opener
            .open_message(peer.provider, &mut datagram.clone(), &body)
            .unwrap();
    }
    let opened = whole.unwrap().into_inner();
    (
        opened.header,
        opened.payloads.unwrap(),
        opened.intermediate.unwrap_or_default(),
    )
}

/// Host 1 has begun, and the peer has chosen an additional key exchange. `fragments` are agreed on or not.
fn we_began(fragments: bool) -> (Sut, Peer) {
    let mut sut = Sut::with(config(true, Initiation::Eager));
    let (path, request) = sut.take();
    let mut more = vec![supported()];
    if fragments {
        more.push(Payload::Notify(Notify::new(
            NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
        )));
    }
    let (mut peer, response) = Peer::choose(cheap::provider(), 9, &request, &more, &proposals(true));
    if fragments {
        peer.keys.allow_fragments(500);
    }
    sut.give(path, &response);
    (sut, peer)
}

/// The peer's answer to IKE_INTERMEDIATE; it has the new keys afterwards.
fn answer(sut: &mut Sut, peer: &mut Peer) -> Vec<Vec<u8>> {
    let (header, payloads, covered) = open(sut, peer);
    assert_eq!((header.exchange, header.message_id.0), (EXCHANGE, 1));
    let ke = payloads.key_exchange().unwrap();
    assert_eq!(ke.method, KeyExchangeMethod::ML_KEM_768);
    let kem = peer.provider.kem;
    let (ciphertext, shared) = kem
        .encapsulate(Kem::MlKem768, &ke.data, peer.provider.random)
        .unwrap();
    let header = peer.header(EXCHANGE, Flags::response(peer.role), 1);
    let response = [key_payload(&ciphertext)];
    let sealed = peer
        .keys
        .sealer
        .seal_message(peer.provider, &header, &response)
        .unwrap();
    peer.mix_in(&shared, &covered, &unsealed(&header, &response).unwrap());
    sealed
}

/// Host 1 sends IKE_AUTH; the peer accepts.
fn accept(sut: &mut Sut, peer: &mut Peer) {
    let (header, payloads, _) = open(sut, peer);
    assert_eq!(
        (header.exchange, header.message_id.0),
        (ExchangeType::IKE_AUTH, 2)
    );
    let answer = auth_answer(peer, &payloads);
    peer.reply(sut, &header, &answer);
}

/// The peer has begun with these payloads more; the choice of host 1.
fn peer_began(fallback: bool, more: Vec<Payload>) -> (Sut, Peer) {
    let mut sut = Sut::with(config(fallback, Initiation::OnDemand));
    let mut draft = Draft::new(1);
    draft.proposals = proposals(true);
    draft.more = more;
    let peer = draft.exchange(&mut sut);
    (sut, peer)
}

/// The peer's IKE_INTERMEDIATE request, the secret that the answer will give, and what AUTH covers of the request.
fn request(peer: &mut Peer) -> (Vec<u8>, Box<dyn crypto::Decapsulator>, Vec<u8>) {
    let started = peer
        .provider
        .kem
        .generate(Kem::MlKem768, peer.provider.random)
        .unwrap();
    let header = peer.header(EXCHANGE, Flags::request(Role::Initiator), peer.next);
    let payloads = [key_payload(started.public_key())];
    let covered = unsealed(&header, &payloads).unwrap();
    let datagram = peer.request(EXCHANGE, &payloads);
    (datagram, started, covered)
}

/// The peer asks, and takes the new keys.
fn ask(sut: &mut Sut, peer: &mut Peer) -> Vec<u8> {
    let (datagram, started, covered) = request(peer);
    sut.give(peer.path, &datagram);
    let (header, payloads, response) = open(sut, peer);
    assert!(header.flags.is_response() && header.message_id.0 == 1);
    let shared = started
        .decapsulate(&payloads.key_exchange().unwrap().data)
        .unwrap();
    peer.mix_in(&shared, &covered, &response);
    datagram
}

#[test]
fn our_keys_have_another_secret_before_anybody_authenticates() {
    for fragments in [false, true] {
        let (mut sut, mut peer) = we_began(fragments);
        for datagram in answer(&mut sut, &mut peer) {
            sut.give(peer.path, &datagram);
        }
        accept(&mut sut, &mut peer);
        let (confirm, _) = peer.take(&mut sut);
        assert_eq!(confirm.message_id.0, 3);
        peer.reply(&mut sut, &confirm, &[]);
        assert_eq!(sut.halves(), (1, 1));
    }
}

#[test]
fn the_keys_of_a_peer_that_begins_have_it_as_well() {
    let (mut sut, mut peer) = peer_began(true, vec![supported()]);
    ask(&mut sut, &mut peer);
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let answer = sut.ask(peer.path, &request);
    let (header, answer) = peer.open(&answer);
    assert_eq!(header.message_id.0, 2);
    assert!(answer.auth().is_some(), "{:?}", kinds(&answer));
    peer.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_peer_without_such_exchanges_gets_a_proposal_without() {
    let (mut sut, mut peer) = peer_began(true, Vec::new());
    let payloads = auth_payloads(&peer);
    assert!(
        peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads)
            .auth()
            .is_some()
    );

    let mut sut = Sut::with(config(true, Initiation::Eager));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    let (header, payloads) = peer.take(&mut sut);
    assert_eq!(
        (header.exchange, header.message_id.0),
        (ExchangeType::IKE_AUTH, 1)
    );
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    assert!(sut.failures().is_empty());
}

#[test]
fn where_it_is_a_must_there_is_no_way_without() {
    let mut sut = Sut::with(config(false, Initiation::OnDemand));
    let mut draft = Draft::new(1);
    draft.proposals = proposals(true);
    let answer = sut.ask(path_to(2, 500, 500), &draft.request());
    assert_eq!(kinds(&clear(&answer).1), [NotifyType::NO_PROPOSAL_CHOSEN]);
}

#[test]
fn ike_auth_does_not_come_before_what_was_agreed_on() {
    let (mut sut, mut peer) = peer_began(true, vec![supported()]);
    let payloads = auth_payloads(&peer);
    let early = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let dropped = sut.give(peer.path, &early);
    assert_eq!(dropped, Disposition::Dropped(DropReason::OutsideWindow));
    sut.assert_silent();

    let (mut sut, mut peer) = we_began(false);
    let (header, _, _) = open(&mut sut, &mut peer);
    let answer = peer.response(ExchangeType::IKE_AUTH, header.message_id.0, &peer.proof());
    let dropped = sut.give(peer.path, &answer);
    assert_eq!(dropped, Disposition::Dropped(DropReason::Unexpected));
    sut.assert_silent();
}

#[test]
fn a_choice_that_the_peer_has_not_announced_is_no_candidate() {
    let mut sut = Sut::with(config(true, Initiation::Eager));
    let (path, request) = sut.take();
    let (_, response) = Peer::choose(cheap::provider(), 9, &request, &[], &proposals(true));
    let dropped = sut.give(path, &response);
    assert_eq!(dropped, Disposition::Dropped(DropReason::Malformed));
    sut.assert_silent();
}

#[test]
fn auth_covers_both_messages() {
    let (mut sut, mut peer) = peer_began(true, vec![supported()]);
    ask(&mut sut, &mut peer);
    peer.intermediate = Some(Intermediate::new(
        peer.provider,
        &peer.keys.auth,
        None,
        b"other",
        b"messages",
    ));
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);

    let (mut sut, mut peer) = we_began(false);
    for datagram in self::answer(&mut sut, &mut peer) {
        sut.give(peer.path, &datagram);
    }
    let (header, payloads, _) = open(&mut sut, &mut peer);
    peer.intermediate = None;
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (0, 0));
}

#[test]
fn another_secret_at_the_peer_is_no_ike_sa() {
    let (mut sut, mut peer) = we_began(false);
    let _ = open(&mut sut, &mut peer);
    let header = peer.header(EXCHANGE, Flags::response(peer.role), 1);
    let value = [vec![0; 1080], 7_u64.to_be_bytes().to_vec()].concat();
    let response = [key_payload(&value)];
    let datagram = peer.response(EXCHANGE, 1, &response);
    peer.mix_in(
        &Secret::from(&[1; 8][..]),
        b"",
        &unsealed(&header, &response).unwrap(),
    );
    sut.give(peer.path, &datagram);
    let (path, auth) = sut.take();
    assert_eq!(path, peer.path);
    let body = Message::parse(&auth).unwrap().body().unwrap();
    assert!(
        peer.keys
            .opener
            .open_message(peer.provider, &mut auth.clone(), &body)
            .is_err()
    );
}

#[test]
fn both_messages_are_repeated_bit_by_bit() {
    let (mut sut, mut peer) = we_began(false);
    let first = sut.sent.clone();
    sut.sent.clear();
    sut.pass_until_sent(Duration::from_secs(1));
    assert_eq!(sut.sent, first);
    let _ = answer(&mut sut, &mut peer);

    let (mut sut, mut peer) = peer_began(true, vec![supported()]);
    let (request, _, _) = request(&mut peer);
    let answer = sut.ask(peer.path, &request);
    assert_eq!(sut.ask(peer.path, &request), answer);
    let mut forged = request.clone();
    *forged.last_mut().unwrap() ^= 1;
    let dropped = sut.give(peer.path, &forged);
    assert_eq!(dropped, Disposition::Dropped(DropReason::BadIntegrity));
}

#[test]
fn what_is_no_key_exchange_ends_the_attempt() {
    let (mut sut, mut peer) = peer_began(true, vec![supported()]);
    let answer = peer.ask(&mut sut, EXCHANGE, &[key_payload(&[7; 20])]);
    assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    assert_eq!(sut.endpoint.counts().half_open, 0);

    let (mut sut, mut peer) = we_began(false);
    let _ = open(&mut sut, &mut peer);
    let answer = peer.response(EXCHANGE, 1, &[key_payload(&[7; 20])]);
    sut.give(peer.path, &answer);
    sut.pass(Duration::from_secs(2));
    assert_eq!(sut.failures(), [Failure::Protocol]);
}

#[test]
fn nothing_is_announced_where_nothing_is_wanted() {
    let announced = |config| {
        let (_, request) = Sut::with(config).take();
        kinds(&clear(&request).1).contains(&NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
    };
    assert!(announced(config(true, Initiation::Eager)));
    assert!(!announced(configured(1)));
}
