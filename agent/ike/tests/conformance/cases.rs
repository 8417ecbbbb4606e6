//! What the cases of other implementations' suites ask beyond the other themes: key exchanges that do not match, rekeys of
//! an original responder, exchanges that cross an IKE rekey, halves of deletes, modes at a rekey.

use std::time::Duration;

use ipsecmesh_ike::crypto::ChildContext;
use ipsecmesh_ike::wire::{
    Attribute, AttributeType, AttributeValue, Delete, ExchangeType, Nonce, Notify, NotifyType, Payload, Role,
    Spi, TransformType,
};
use ipsecmesh_ike::*;

use crate::draft::{Draft, key_payload};
use crate::ike_rekey::{answer_ike_rekey, ike_rekey};
use crate::peer::{child_request, chosen_spi, clear, kinds};
use crate::support::{cheap, child};
use crate::sut::{PEER, answering, configured, path_to};
use crate::talk::{
    PEER_SPI, create_answer, delete_esp, deleted_spis, peer_began, rekey_payloads, we_have_a_pair, we_rekey,
};

fn deletes_ike(payload: &wire::Payloads) -> bool {
    payload.deletes().any(|delete| *delete == Delete::Ike)
}

#[test]
fn a_rekey_has_a_key_exchange_where_either_end_wants_one() {
    // Ours offers one and none: a peer without takes none.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    assert!(request.key_exchange().is_some());
    peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    assert_eq!(sut.failures(), []);

    // A peer that insists on one gets one.
    let (mut sut, mut peer, _) = peer_began();
    let started = cheap::provider()
        .key_exchange
        .start(KeyExchange::X25519, cheap::provider().random)
        .unwrap();
    let mut rekey = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let context = ChildContext::Create(Some(KeyExchange::X25519.into()));
    let config = child(2, 1, 1);
    let spi = Spi::Esp(EspSpi::new(0x3000).unwrap());
    let mut offer = crypto::child_offer(&config.proposals, config.esn, context, &spi);
    for proposal in &mut offer.proposals {
        proposal
            .transforms
            .retain(|one| one.kind != TransformType::KE || *one == KeyExchange::X25519.into());
    }
    for payload in &mut rekey {
        if matches!(payload, Payload::SecurityAssociation(_)) {
            *payload = Payload::SecurityAssociation(offer.clone());
        }
    }
    rekey.push(key_payload(started.as_ref()));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert!(answer.key_exchange().is_some());
    peer.confirm(&mut sut);
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
}

#[test]
fn an_original_responder_rekeys_twice_and_is_the_initiator_from_then_on() {
    let (mut sut, mut peer, inbound) = peer_began();
    for _ in 0..2 {
        sut.command(Command::RekeyIke { peer: PEER });
        let (header, request) = peer.take(&mut sut);
        let (heir, answer) = answer_ike_rekey(&mut peer, &request, [8; 32]);
        peer.reply(&mut sut, &header, &answer);
        let (delete, payloads) = peer.take(&mut sut);
        assert!(deletes_ike(&payloads));
        peer.reply(&mut sut, &delete, &[]);
        peer = heir;
        // IDs begin at zero in both directions.
        assert_eq!(peer.next, 0);
        peer.confirm(&mut sut);
    }
    let (header, _) = we_rekey(&mut sut, &peer);
    assert_eq!((header.message_id.0, header.flags.sender()), (0, Role::Initiator));
    assert!(
        sut.kernel.contains_key(&inbound.value()),
        "the child is inherited"
    );
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

#[test]
fn what_crosses_a_rekey_of_the_ike_sa_is_deferred_but_for_deletes() {
    let patience = [NotifyType::TEMPORARY_FAILURE];
    // Ours is under way: a new child waits, a DELETE does not.
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    sut.sent.clear();
    let mut create = child_request(1, 0x3000, ChildContext::Create(None));
    create.push(Payload::Nonce(Nonce::from([3; 32])));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &create);
    assert_eq!(kinds(&answer), patience);
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    assert_eq!(deleted_spis(&answer), [inbound]);

    // The peer's comes while we delete a pair: it waits, and is asked for again by the peer.
    let (mut sut, mut peer, _) = we_have_a_pair();
    let mut without = configured(1);
    without.children.clear();
    sut.command(Command::UpsertPeer(Box::new(without)));
    let (header, ours) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&ours).len(), 1);
    let (_, rekey) = ike_rekey(4, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert_eq!(kinds(&answer), patience);
    peer.reply(&mut sut, &header, &[]);
    let (_, rekey) = ike_rekey(5, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert!(answer.security_association().is_some());

    // Ours is deferred by the peer: it is made again after a moment.
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    let (header, _) = peer.take(&mut sut);
    peer.reply(
        &mut sut,
        &header,
        &[Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))],
    );
    let wait = sut.pass_until_sent(Duration::from_secs(2));
    assert!(wait >= Duration::from_millis(400), "{wait:?}");
    let (_, request) = peer.take(&mut sut);
    assert!(request.key_exchange().is_some() && request.ts_initiator().is_none());
}

#[test]
fn a_delete_of_the_ike_sa_ends_our_rekey_of_it() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    let (header, request) = peer.take(&mut sut);
    let answer = peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    assert!(answer.as_slice().is_empty());
    let (_, late) = answer_ike_rekey(&mut peer, &request, [8; 32]);
    let disposition = peer.reply(&mut sut, &header, &late);
    assert!(matches!(disposition, Disposition::Dropped(_)));
    assert_eq!(sut.endpoint.counts().ike_sas, 0);
    // No rekey is tried on what is gone: the next thing is a new IKE SA.
    sut.pass_until_sent(Duration::from_secs(2));
    assert_eq!(clear(&sut.take().1).0.exchange, ExchangeType::IKE_SA_INIT);
}

#[test]
fn half_a_delete_deletes_the_pair_and_the_wrong_half_nothing() {
    // Our own SPI is none of the peer's.
    let (mut sut, mut peer, inbound) = peer_began();
    let answer = peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[delete_esp(inbound.value())],
    );
    assert!(answer.as_slice().is_empty());
    assert_eq!(sut.halves(), (1, 1));

    // Named twice it goes once.
    let twice = vec![EspSpi::new(PEER_SPI).unwrap(); 2];
    let answer = peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Child(SaProtocol::Esp, twice))],
    );
    assert!(deleted_spis(&answer).contains(&inbound));
    sut.pass(Duration::from_secs(6));
    assert_eq!(sut.halves(), (0, 0));

    // A peer whose answer does not name its half has deleted it all the same.
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    let mut without = configured(1);
    without.children.clear();
    sut.command(Command::UpsertPeer(Box::new(without)));
    let (header, ours) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&ours), [inbound]);
    peer.reply(&mut sut, &header, &[]);
    sut.pass(Duration::from_secs(6));
    assert_eq!((sut.halves(), sut.endpoint.counts().child_sas), ((0, 0), 0));
}

#[test]
fn the_mode_stays_what_it_is_at_a_rekey() {
    // The peer asks for tunnel mode instead, or does not echo transport mode: the old pair stays, and nothing goes in clear.
    let (mut sut, mut peer, _) = peer_began();
    let mut rekey = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let transport =
        |payload: &Payload| matches!(payload, Payload::Notify(n) if n.kind == NotifyType::USE_TRANSPORT_MODE);
    rekey.retain(|payload| !transport(payload));
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert!(answer.error_notify().is_some() && answer.security_association().is_none());
    assert_eq!(sut.halves(), (1, 1));

    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    let mut answer = create_answer(&request, 0x3000, [3; 32]);
    answer.retain(|payload| !transport(payload));
    peer.reply(&mut sut, &header, &answer);
    let (_, told) = peer.take(&mut sut);
    assert_eq!(deleted_spis(&told), [chosen_spi(&request)]);
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.failures(), [Failure::TrafficSelectors]);
}

#[test]
fn an_echo_of_transport_mode_that_was_not_asked_for_is_refused() {
    let mut config = configured(1);
    config.children[0].mode = Mode::Tunnel;
    let (mut sut, mut peer, header, request) = crate::talk::we_began(config);
    assert!(request.notify(NotifyType::USE_TRANSPORT_MODE).is_none());
    let answer = crate::talk::auth_answer(&peer, &request);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (0, 0));
    assert_eq!(sut.failures(), [Failure::TrafficSelectors]);
}

#[test]
fn a_cipher_without_its_key_length_is_not_chosen() {
    let mut sut = crate::sut::Sut::with(answering(1));
    for lengths in [vec![], vec![0], vec![512], vec![256, 256]] {
        let draft = Draft::new(1);
        let mut payloads = draft.payloads();
        if let Some(Payload::SecurityAssociation(offer)) = payloads.first_mut() {
            for transform in offer.proposals.iter_mut().flat_map(|p| &mut p.transforms) {
                if transform.kind == TransformType::ENCR {
                    let attribute = |bits: &u16| Attribute {
                        kind: AttributeType::KEY_LENGTH,
                        value: AttributeValue::Short(*bits),
                    };
                    transform.attributes = lengths.iter().map(attribute).collect();
                }
            }
        }
        let header = crate::peer::init_header(draft.spi, None, Role::Initiator);
        let request = wire::encode(&header, &payloads).unwrap();
        let answer = sut.ask(path_to(2, 500, 500), &request);
        assert_eq!(
            kinds(&clear(&answer).1),
            [NotifyType::NO_PROPOSAL_CHOSEN],
            "{lengths:?}"
        );
    }
    assert_eq!(sut.endpoint.counts().half_open, 0);
}
