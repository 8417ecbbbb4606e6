//! Rekeys of the IKE SA (RFC 7296 §1.3.2, §2.18), and rekeys that cross (§2.8.2, §2.25).

use ipsecmesh_ike::crypto::{Skeyseed, confirm_ike, ike_offer, select_ike};
use ipsecmesh_ike::wire::{Delete, ExchangeType, Header, Nonce, NotifyType, Payload, Payloads, Role, Spi};
use ipsecmesh_ike::*;

use crate::collision::{THEY_WIN, WE_WIN};
use crate::draft::Draft;
use crate::peer::{Peer, kinds};
use crate::support::cheap;
use crate::sut::{PEER, Sut};
use crate::talk::{PEER_SPI, auth_payloads, peer_began, rekey_payloads, we_have_a_pair, we_rekey};

/// The peer's request to rekey the IKE SA.
pub(crate) fn ike_rekey(number: u8, nonce: [u8; 32]) -> (Draft, Vec<Payload>) {
    let mut draft = Draft::new(number);
    draft.nonce = Nonce::from(nonce);
    let mut payloads = draft.payloads();
    payloads[0] = Payload::SecurityAssociation(ike_offer(&draft.proposals, &Spi::Ike(draft.spi)));
    (draft, payloads)
}

/// The SA that our answer to the peer's rekey makes, with its roles (RFC 7296 §2.18).
fn heir_of(peer: &Peer, draft: &Draft, answer: &Payloads) -> Peer {
    let (suite, spi) = confirm_ike(&draft.proposals, answer.security_association().unwrap()).unwrap();
    let Spi::Ike(spi_r) = spi else { panic!("no SPI") };
    let shared = draft
        .key_exchange
        .complete(&answer.key_exchange().unwrap().data)
        .unwrap();
    let nonces = (draft.nonce.clone(), answer.nonce().unwrap().clone());
    rekeyed(peer, Role::Initiator, suite, &shared, (draft.spi, spi_r), nonces)
}

fn rekeyed(
    peer: &Peer,
    role: Role,
    suite: crypto::IkeSuite,
    shared: &crypto::Secret,
    spis: (IkeSpi, IkeSpi),
    nonces: (Nonce, Nonce),
) -> Peer {
    let keys = Skeyseed::rekey(
        peer.provider,
        &peer.keys.d,
        suite,
        (shared, &[]),
        &nonces.0,
        &nonces.1,
    )
    .into_ike_keys(peer.provider, spis.0, spis.1, role)
    .unwrap();
    let messages = peer.messages.clone();
    let mut heir = Peer::new(peer.provider, role, suite, shared, spis, nonces, messages);
    heir.keys = keys;
    heir.next = 0;
    heir
}

/// The peer's answer to our rekey of the IKE SA, and the SA that it makes.
pub(crate) fn answer_ike_rekey(peer: &mut Peer, request: &Payloads, nonce: [u8; 32]) -> (Peer, Vec<Payload>) {
    let ours = crate::support::peer_config(2, 1, 1).ike_proposals;
    let chosen = select_ike(&ours, request.security_association().unwrap()).unwrap();
    let Spi::Ike(spi_i) = chosen.peer_spi else {
        panic!("no SPI")
    };
    let spi_r = IkeSpi::new(0x7777).unwrap();
    let started = cheap::provider()
        .key_exchange
        .start(KeyExchange::X25519, cheap::provider().random)
        .unwrap();
    let shared = started.complete(&request.key_exchange().unwrap().data).unwrap();
    let nonces = (request.nonce().unwrap().clone(), Nonce::from(nonce));
    let answer = vec![
        Payload::SecurityAssociation(chosen.response(Spi::Ike(spi_r))),
        Payload::Nonce(nonces.1.clone()),
        Payload::KeyExchange(wire::KeyExchangeData {
            method: started.method().into(),
            data: started.public_value().to_vec(),
        }),
    ];
    (
        rekeyed(
            peer,
            Role::Responder,
            chosen.suite,
            &shared,
            (spi_i, spi_r),
            nonces,
        ),
        answer,
    )
}

fn we_rekey_ike(sut: &mut Sut, peer: &Peer) -> (Header, Payloads) {
    sut.command(Command::RekeyIke { peer: PEER });
    peer.take(sut)
}

#[test]
fn after_a_rekey_by_the_peer_the_roles_are_those_of_the_rekey() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (draft, payloads) = ike_rekey(4, [4; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    let mut heir = heir_of(&peer, &draft, &answer);
    // The peer is the initiator now, and IDs begin at zero in both directions.
    heir.confirm(&mut sut);
    peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    let (header, _) = we_rekey(&mut sut, &heir);
    assert_eq!((header.message_id.0, header.flags.sender()), (0, Role::Responder));
    assert_eq!(sut.halves(), (1, 1), "children are inherited");
    assert_eq!(sut.established(), 1);
}

#[test]
fn an_ike_sa_is_rekeyed_by_us_twice_in_a_row() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    for _ in 0..2 {
        let (header, request) = we_rekey_ike(&mut sut, &peer);
        let (heir, answer) = answer_ike_rekey(&mut peer, &request, [8; 32]);
        peer.reply(&mut sut, &header, &answer);
        let (delete, payloads) = peer.take(&mut sut);
        assert!(payloads.deletes().any(|delete| *delete == Delete::Ike));
        peer.reply(&mut sut, &delete, &[]);
        peer = heir;
        peer.confirm(&mut sut);
    }
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

/// Both ends rekey the IKE SA at once.
fn crossing_ike_rekeys(nonces: ([u8; 32], [u8; 32])) -> (Sut, Peer, Peer, Peer) {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey_ike(&mut sut, &peer);
    let (draft, payloads) = ike_rekey(4, nonces.0);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    let theirs = heir_of(&peer, &draft, &answer);
    let (ours, answer) = answer_ike_rekey(&mut peer, &request, nonces.1);
    peer.reply(&mut sut, &header, &answer);
    (sut, peer, ours, theirs)
}

#[test]
fn crossing_ike_rekeys_keep_the_one_without_the_lowest_nonce() {
    // Ours wins: we delete the old SA, the peer deletes its own.
    let (mut sut, mut peer, mut ours, mut theirs) = crossing_ike_rekeys(WE_WIN);
    let (header, payloads) = peer.take(&mut sut);
    assert!(payloads.deletes().any(|delete| *delete == Delete::Ike));
    peer.reply(&mut sut, &header, &[]);
    theirs.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    ours.confirm(&mut sut);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);

    // The peer's wins: we delete ours.
    let (mut sut, mut peer, mut ours, mut theirs) = crossing_ike_rekeys(THEY_WIN);
    let (header, payloads) = ours.take(&mut sut);
    assert!(payloads.deletes().any(|delete| *delete == Delete::Ike));
    ours.reply(&mut sut, &header, &[]);
    peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    theirs.confirm(&mut sut);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn the_loser_of_crossing_ike_rekeys_may_be_deleted_before_our_response_comes() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (header, request) = we_rekey_ike(&mut sut, &peer);
    let (draft, payloads) = ike_rekey(4, [0; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    let mut theirs = heir_of(&peer, &draft, &answer);
    theirs.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    let (mut ours, answer) = answer_ike_rekey(&mut peer, &request, [255; 32]);
    peer.reply(&mut sut, &header, &answer);
    peer.take(&mut sut);
    ours.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn while_one_end_rekeys_the_ike_sa_the_other_is_asked_for_patience() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    we_rekey_ike(&mut sut, &peer);
    let rekey = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &rekey);
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);

    let (mut sut, mut peer, _) = we_have_a_pair();
    we_rekey(&mut sut, &peer);
    let (_, payloads) = ike_rekey(4, [3; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
}

/// Found by the simulation (seed 28465): the peer has begun a new SA beside the old one, which has just been rekeyed. The
/// children stay until the new SA has its own.
#[test]
fn a_rekey_that_comes_through_after_the_sa_has_given_way_keeps_the_children() {
    let (mut sut, mut peer, inbound) = peer_began();
    let (header, request) = we_rekey_ike(&mut sut, &peer);
    let (mut heir, late) = answer_ike_rekey(&mut peer, &request, [3; 32]);
    let mut new = Draft::new(9).exchange(&mut sut);
    let mut payloads = auth_payloads(&new);
    payloads.retain(|payload| !matches!(payload, Payload::SecurityAssociation(_)));
    new.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    peer.reply(&mut sut, &header, &late);
    // The old SA ends, which has no children any more; the heir does not.
    let (_, told) = peer.take(&mut sut);
    assert!(told.deletes().any(|delete| *delete == Delete::Ike));
    sut.assert_silent();
    assert_eq!(sut.kernel, [(inbound.value(), true), (PEER_SPI, false)].into());
    heir.confirm(&mut sut);
}

/// Found by the simulation (seed 26036).
#[test]
fn a_word_on_the_old_sa_says_nothing_of_the_pairs_of_a_new_one() {
    let (mut sut, mut peer, inbound) = peer_began();
    let mut new = Draft::new(9).exchange(&mut sut);
    let (draft, payloads) = ike_rekey(4, [4; 32]);
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    let mut heir = heir_of(&peer, &draft, &answer);
    let payloads = auth_payloads(&new);
    new.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    heir.confirm(&mut sut);
    assert_eq!(sut.halves(), (2, 1), "{inbound} is still the one that is used");
    new.confirm(&mut sut);
    assert_eq!(sut.log.last().map(String::as_str), Some("RemoveOutbound"));
}
