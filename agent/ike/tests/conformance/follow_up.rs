//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): additional key exchanges in rekeys, both roles, and what can go wrong between them.

use std::time::Duration;

use ipsecmesh_ike::crypto::{
    ChildContext, Secret, Skeyseed, child_offer, ike_offer, select_child, select_ike,
};
use ipsecmesh_ike::wire::{
    Delete, ExchangeType, Header, KeyExchangeData, KeyExchangeMethod, Nonce, Notify, NotifyType, Payload,
    Payloads, Role, Spi, TransformType,
};
use ipsecmesh_ike::*;

use crate::peer::{Peer, chosen_spi, kinds};
use crate::support::{child, peer_config, with_additional};
use crate::sut::{PEER, Sut, configured};
use crate::talk::{PEER_SPI, create_answer, deleted_spis, rekey_payloads, we_have_a_pair_with, we_rekey};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const FOLLOW_UP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;

const TWO: [AdditionalKeyExchange; 2] = [
    AdditionalKeyExchange::Kem(Kem::MlKem768),
    AdditionalKeyExchange::Method(KeyExchange::Ecp384),
];

/// Host 1, whose rekeys have two additional key exchanges. Without a fallback for children, with one for the IKE SA.
fn config() -> PeerConfig {
    let mut config = configured(1);
    config.children[0].proposals[0].additional = with_additional(&TWO);
    config.children[0].proposals[0]
        .key_exchange
        .push(KeyExchange::Ecp256);
    config.ike_proposals.insert(0, ike_proposal());
    config.liveness.interval = Duration::from_hours(1);
    config
}

fn ike_proposal() -> IkeProposal {
    IkeProposal {
        additional: with_additional(&TWO),
        ..peer_config(2, 1, 1).ike_proposals[0].clone()
    }
}

fn child_proposals() -> Vec<ChildProposal> {
    let mut proposals = child(2, 1, 1).proposals;
    proposals[0].additional = with_additional(&TWO);
    proposals
}

fn link_payload(link: &[u8]) -> Payload {
    Payload::Notify(Notify::with_data(
        NotifyType::ADDITIONAL_KEY_EXCHANGE,
        link.to_vec(),
    ))
}

fn link_of(payloads: &Payloads) -> Option<Vec<u8>> {
    let notify = payloads.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE);
    notify.map(|notify| notify.data.clone())
}

fn key_payload(method: KeyExchangeMethod, data: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method,
        data: data.to_vec(),
    })
}

/// The peer's half of a plain key exchange, and the secret with the other half.
fn agree(peer: &Peer, theirs: &Payloads) -> (Payload, Secret) {
    let ke = theirs.key_exchange().unwrap();
    let method = KeyExchange::from_method(ke.method).unwrap();
    let started = peer.provider.key_exchange.start(method, peer.provider.random);
    let started = started.unwrap();
    let shared = started.complete(&ke.data).unwrap();
    (key_payload(ke.method, started.public_value()), shared)
}

/// The peer's answer to our rekey of child 1: it agrees to all of them.
fn agreed(peer: &Peer, request: &Payloads, spi: u32, nonce: [u8; 32]) -> Vec<Payload> {
    let (ke, _) = agree(peer, request);
    let method = request.key_exchange().unwrap().method;
    let offer = request.security_association().unwrap();
    let context = ChildContext::Create(Some(method));
    let chosen = select_child(&child_proposals(), true, context, offer).unwrap();
    vec![
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
        Payload::SecurityAssociation(chosen.response(Spi::Esp(EspSpi::new(spi).unwrap()))),
        Payload::Nonce(Nonce::from(nonce)),
        ke,
        Payload::TsInitiator(request.ts_initiator().unwrap().clone()),
        Payload::TsResponder(request.ts_responder().unwrap().clone()),
        link_payload(b"one"),
    ]
}

/// The peer's answer to one IKE_FOLLOWUP_KE request, which names the method and the link that are due.
fn follow(
    sut: &mut Sut,
    peer: &mut Peer,
    method: AdditionalKeyExchange,
    link: &[u8],
    next: Option<&[u8]>,
) -> Secret {
    let (header, request) = peer.take(sut);
    assert_eq!(header.exchange, FOLLOW_UP);
    assert_eq!(link_of(&request).as_deref(), Some(link));
    let ke = request.key_exchange().unwrap();
    assert_eq!(ke.method, method.into());
    let (ours, shared) = peer.provider.answer_additional(method, &ke.data).unwrap();
    let mut answer = vec![key_payload(method.into(), &ours)];
    answer.extend(next.map(link_payload));
    peer.reply(sut, &header, &answer);
    shared
}

/// The peer's request to rekey child 1 with all of them; the answer of host 1.
fn peer_rekeys(sut: &mut Sut, peer: &mut Peer, spi: u32, nonce: [u8; 32]) -> Payloads {
    let started = peer
        .provider
        .key_exchange
        .start(KeyExchange::X25519, peer.provider.random)
        .unwrap();
    let config = child(2, 1, 1);
    let context = ChildContext::Create(Some(KeyExchangeMethod::X25519));
    let mut payloads = rekey_payloads(PEER_SPI, spi, nonce);
    for payload in &mut payloads {
        if let Payload::SecurityAssociation(offer) = payload {
            let spi = Spi::Esp(EspSpi::new(spi).unwrap());
            *offer = child_offer(&child_proposals(), config.esn, context, &spi);
        }
    }
    payloads.push(key_payload(KeyExchangeMethod::X25519, started.public_value()));
    peer.ask(sut, CREATE, &payloads)
}

/// One request of the peer for an additional key exchange; the answer and the secret.
fn ask(
    sut: &mut Sut,
    peer: &mut Peer,
    method: AdditionalKeyExchange,
    link: &[u8],
) -> (Payloads, Option<Secret>) {
    let started = peer.provider.start_additional(method).unwrap();
    let request = [
        key_payload(method.into(), started.public_value()),
        link_payload(link),
    ];
    let answer = peer.ask(sut, FOLLOW_UP, &request);
    let shared = answer
        .key_exchange()
        .map(|ke| started.complete(&ke.data).unwrap());
    (answer, shared)
}

#[test]
fn our_rekey_of_a_pair_asks_for_all_of_them_before_anything_is_installed() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let (header, request) = we_rekey(&mut sut, &peer);
    let answer = agreed(&peer, &request, 0x4000, [7; 32]);
    peer.reply(&mut sut, &header, &answer);
    follow(&mut sut, &mut peer, TWO[0], b"one", Some(b"two"));
    assert_eq!(sut.halves(), (1, 1));
    follow(&mut sut, &mut peer, TWO[1], b"two", None);
    let ours = chosen_spi(&request).value();
    assert_eq!(
        (sut.kernel.get(&ours), sut.kernel.get(&0x4000)),
        (Some(&true), Some(&false))
    );
    assert_eq!(sut.endpoint.counts().offered_spis, 0);
}

#[test]
fn a_rekey_of_a_pair_by_the_peer_is_answered_link_by_link() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let answer = peer_rekeys(&mut sut, &mut peer, 0x3000, [3; 32]);
    let first = link_of(&answer).unwrap();
    let (answer_1, _) = ask(&mut sut, &mut peer, TWO[0], &first);
    let second = link_of(&answer_1).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        sut.halves(),
        (1, 1),
        "nothing is installed before the last of them"
    );
    let (answer_2, _) = ask(&mut sut, &mut peer, TWO[1], &second);
    assert!(answer_2.key_exchange().is_some());
    assert_eq!((link_of(&answer_2), kinds(&answer_2)), (None, vec![]));
    assert_eq!(sut.kernel.get(&chosen_spi(&answer).value()), Some(&true));
    peer.confirm(&mut sut);
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    // Both links are used up.
    for link in [first, second] {
        let (answer, _) = ask(&mut sut, &mut peer, TWO[1], &link);
        assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    }
}

/// The peer agrees to our rekey of the IKE SA and to all of them; the SA that it makes.
fn answer_ike_rekey(
    sut: &mut Sut,
    peer: &mut Peer,
    header: &Header,
    request: &Payloads,
    nonce: [u8; 32],
) -> Peer {
    let chosen = select_ike(&[ike_proposal()], request.security_association().unwrap()).unwrap();
    let Spi::Ike(spi_i) = chosen.peer_spi else {
        panic!("no SPI")
    };
    let spi_r = IkeSpi::new(0x7777).unwrap();
    let (ke, shared) = agree(peer, request);
    let nonces = (request.nonce().unwrap().clone(), Nonce::from(nonce));
    let answer = [
        Payload::SecurityAssociation(chosen.response(Spi::Ike(spi_r))),
        Payload::Nonce(nonces.1.clone()),
        ke,
        link_payload(b"one"),
    ];
    peer.reply(sut, header, &answer);
    let more = [
        follow(sut, peer, TWO[0], b"one", Some(b"two")),
        follow(sut, peer, TWO[1], b"two", None),
    ];
    heir(
        peer,
        Role::Responder,
        chosen.suite,
        (&shared, &more),
        (spi_i, spi_r),
        nonces,
    )
}

fn heir(
    peer: &Peer,
    role: Role,
    suite: crypto::IkeSuite,
    shared: (&Secret, &[Secret]),
    spis: (IkeSpi, IkeSpi),
    nonces: (Nonce, Nonce),
) -> Peer {
    let keys = Skeyseed::rekey(peer.provider, &peer.keys.d, suite, shared, &nonces.0, &nonces.1)
        .into_ike_keys(peer.provider, spis.0, spis.1, role)
        .unwrap();
    let messages = peer.messages.clone();
    let mut heir = Peer::new(peer.provider, role, suite, shared.0, spis, nonces, messages);
    heir.keys = keys;
    heir.next = 0;
    heir
}

#[test]
fn our_rekey_of_the_ike_sa_has_the_secrets_of_all_of_them_in_its_keys() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    sut.command(Command::RekeyIke { peer: PEER });
    let (header, request) = peer.take(&mut sut);
    let mut heir = answer_ike_rekey(&mut sut, &mut peer, &header, &request, [8; 32]);
    let (delete, payloads) = peer.take(&mut sut);
    assert!(payloads.deletes().any(|delete| *delete == Delete::Ike));
    peer.reply(&mut sut, &delete, &[]);
    heir.confirm(&mut sut);
    assert_eq!((sut.endpoint.counts().ike_sas, sut.halves()), (1, (1, 1)));
}

/// The peer asks to rekey the IKE SA with all of them: the answer, and what the keys are made of.
fn peer_rekeys_ike(sut: &mut Sut, peer: &mut Peer) -> (Payloads, IkeSpi, Secret, Nonce) {
    let started = peer
        .provider
        .key_exchange
        .start(KeyExchange::X25519, peer.provider.random)
        .unwrap();
    let (spi, nonce) = (IkeSpi::new(0x6666).unwrap(), Nonce::from([4; 32]));
    let request = [
        Payload::SecurityAssociation(ike_offer(&[ike_proposal()], &Spi::Ike(spi))),
        Payload::Nonce(nonce.clone()),
        key_payload(KeyExchangeMethod::X25519, started.public_value()),
    ];
    let answer = peer.ask(sut, CREATE, &request);
    let shared = started.complete(&answer.key_exchange().unwrap().data).unwrap();
    (answer, spi, shared, nonce)
}

#[test]
fn while_the_peer_rekeys_the_ike_sa_our_own_changes_wait_for_the_new_one() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let (answer, spi_i, shared, nonce_i) = peer_rekeys_ike(&mut sut, &mut peer);
    sut.command(Command::RekeyChild {
        peer: PEER,
        child: ChildId(1),
    });
    sut.assert_silent();
    let (answer_1, secret_1) = ask(&mut sut, &mut peer, TWO[0], &link_of(&answer).unwrap());
    sut.assert_silent();
    let started = peer.provider.start_additional(TWO[1]).unwrap();
    let last = [
        key_payload(TWO[1].into(), started.public_value()),
        link_payload(&link_of(&answer_1).unwrap()),
    ];
    let last = peer.request(FOLLOW_UP, &last);
    sut.give(peer.path, &last);
    let (_, datagram) = sut.sent.pop_front().unwrap();
    let (_, answer_2) = peer.open(&datagram);
    let secret_2 = started.complete(&answer_2.key_exchange().unwrap().data).unwrap();
    let offered = answer.security_association().unwrap();
    let (suite, spi) = crypto::confirm_ike(&[ike_proposal()], offered).unwrap();
    let Spi::Ike(spi_r) = spi else { panic!("no SPI") };
    let more = [secret_1.unwrap(), secret_2];
    let nonces = (nonce_i, answer.nonce().unwrap().clone());
    let heir = heir(
        &peer,
        Role::Initiator,
        suite,
        (&shared, &more),
        (spi_i, spi_r),
        nonces,
    );
    // The new SA opens what waited: it has the same keys.
    let (header, waited) = heir.take(&mut sut);
    assert_eq!((header.exchange, header.message_id.0), (CREATE, 0));
    assert!(waited.notify(NotifyType::REKEY_SA).is_some());
}

#[test]
fn a_link_that_stands_for_nothing_is_told_so() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    for link in [&[9; 8][..], &[], &[0; 100]] {
        let (answer, _) = ask(&mut sut, &mut peer, TWO[0], link);
        assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    }
    let without = [key_payload(TWO[0].into(), &[1; 1184])];
    let answer = peer.ask(&mut sut, FOLLOW_UP, &without);
    assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    peer.confirm(&mut sut);
}

#[test]
fn what_the_peer_does_not_go_on_with_is_forgotten() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let before = sut.endpoint.counts();
    let answer = peer_rekeys(&mut sut, &mut peer, 0x3000, [3; 32]);
    assert_eq!(sut.endpoint.counts().offered_spis, 1);
    sut.pass(Duration::from_secs(19));
    assert_eq!(sut.endpoint.counts().offered_spis, 1);
    sut.pass(Duration::from_secs(2));
    assert_eq!(sut.endpoint.counts(), before);
    let (answer, _) = ask(&mut sut, &mut peer, TWO[0], &link_of(&answer).unwrap());
    assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    // The same goes for the IKE SA, and what waited goes on.
    peer_rekeys_ike(&mut sut, &mut peer);
    sut.command(Command::RekeyChild {
        peer: PEER,
        child: ChildId(1),
    });
    sut.assert_silent();
    sut.pass(Duration::from_secs(21));
    assert!(peer.take(&mut sut).1.notify(NotifyType::REKEY_SA).is_some());
}

#[test]
fn eight_wait_at_most_and_the_oldest_gives_way() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let links: Vec<Vec<u8>> = (0..9)
        .map(|number| {
            let spi = 0x3000 + u32::from(number);
            link_of(&peer_rekeys(&mut sut, &mut peer, spi, [number; 32])).unwrap()
        })
        .collect();
    assert_eq!(sut.endpoint.counts().offered_spis, 8);
    let (answer, _) = ask(&mut sut, &mut peer, TWO[0], &links[0]);
    assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    let (answer, _) = ask(&mut sut, &mut peer, TWO[0], &links[1]);
    assert!(link_of(&answer).is_some());
    peer.ask(
        &mut sut,
        ExchangeType::INFORMATIONAL,
        &[Payload::Delete(Delete::Ike)],
    );
    assert_eq!(sut.endpoint.counts().offered_spis, 0);
}

#[test]
fn when_the_peer_has_forgotten_we_begin_again_once() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let forgotten = [Payload::Notify(Notify::new(NotifyType::STATE_NOT_FOUND))];
    let (mut header, mut request) = we_rekey(&mut sut, &peer);
    for round in 0..2 {
        let answer = agreed(&peer, &request, 0x4000, [7; 32]);
        peer.reply(&mut sut, &header, &answer);
        let (follow_up, _) = peer.take(&mut sut);
        peer.reply(&mut sut, &follow_up, &forgotten);
        if round == 0 {
            (header, request) = peer.take(&mut sut);
            assert!(request.notify(NotifyType::REKEY_SA).is_some());
        }
    }
    sut.assert_silent();
    assert_eq!((sut.halves(), sut.failures()), ((1, 1), vec![Failure::Protocol]));
    assert_eq!(sut.endpoint.counts().offered_spis, 0);

    sut.command(Command::RekeyIke { peer: PEER });
    let (header, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &header, &forgotten);
    let (header, _) = peer.take(&mut sut);
    peer.reply(&mut sut, &header, &forgotten);
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

#[test]
fn what_is_no_key_exchange_ends_the_rekey_and_the_old_pair_stays() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let answer = peer_rekeys(&mut sut, &mut peer, 0x3000, [3; 32]);
    let link = link_of(&answer).unwrap();
    let bad = [key_payload(TWO[0].into(), &[7; 20]), link_payload(&link)];
    let answer = peer.ask(&mut sut, FOLLOW_UP, &bad);
    assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    let (answer, _) = ask(&mut sut, &mut peer, TWO[0], &link);
    assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    assert_eq!(sut.endpoint.counts().offered_spis, 0);

    // The same of the peer: it is told that its pair is not wanted. The second answer lacks the link.
    for bad in [
        vec![],
        vec![key_payload(TWO[1].into(), &[7; 32])],
        vec![key_payload(TWO[0].into(), &[7; 20])],
    ] {
        let (header, request) = we_rekey(&mut sut, &peer);
        let answer = agreed(&peer, &request, 0x4000, [7; 32]);
        peer.reply(&mut sut, &header, &answer);
        let (follow_up, _) = peer.take(&mut sut);
        peer.reply(&mut sut, &follow_up, &bad);
        let (header, payloads) = peer.take(&mut sut);
        assert_eq!(deleted_spis(&payloads), [chosen_spi(&request)]);
        peer.reply(&mut sut, &header, &[]);
    }
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn invalid_ke_payload_is_followed_once_with_all_of_them_still_in_the_offer() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let refusal = [Payload::Notify(Notify::invalid_ke(KeyExchange::Ecp256.into()))];
    let has_all = |payloads: &Payloads| {
        let offer = payloads.security_association().unwrap();
        let first = &offer.proposals[0];
        first.of_kind(TransformType::ADDKE1).count() == 1 && first.of_kind(TransformType::ADDKE2).count() == 1
    };
    let (first, request) = we_rekey(&mut sut, &peer);
    assert!(has_all(&request));
    peer.reply(&mut sut, &first, &refusal);
    let (second, request) = peer.take(&mut sut);
    assert!(has_all(&request));
    assert_eq!(request.key_exchange().unwrap().method, KeyExchange::Ecp256.into());
    peer.reply(&mut sut, &second, &refusal);
    sut.assert_silent();

    sut.command(Command::RekeyIke { peer: PEER });
    let (first, request) = peer.take(&mut sut);
    assert!(has_all(&request));
    peer.reply(&mut sut, &first, &refusal);
    let (second, request) = peer.take(&mut sut);
    assert!(has_all(&request));
    peer.reply(&mut sut, &second, &refusal);
    sut.assert_silent();
    assert_eq!((sut.endpoint.counts().ike_sas, sut.halves()), (1, (1, 1)));
}

/// The peer's rekey crosses ours, and ours is through before the peer's last request comes.
#[test]
fn the_last_request_of_a_crossing_rekey_that_comes_late_is_deferred() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let (header, request) = we_rekey(&mut sut, &peer);
    let theirs = peer_rekeys(&mut sut, &mut peer, 0x3000, [3; 32]);
    let answer = agreed(&peer, &request, 0x4000, [7; 32]);
    peer.reply(&mut sut, &header, &answer);
    follow(&mut sut, &mut peer, TWO[0], b"one", Some(b"two"));
    follow(&mut sut, &mut peer, TWO[1], b"two", None);
    // Both words of ours, that the new pair stands and that the old one goes, are under way.
    sut.sent.clear();
    let (answer, _) = ask(&mut sut, &mut peer, TWO[0], &link_of(&theirs).unwrap());
    let (answer, _) = ask(&mut sut, &mut peer, TWO[1], &link_of(&answer).unwrap());
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
    assert_eq!(sut.endpoint.counts().offered_spis, 0);
    assert_eq!(sut.kernel.get(&0x3000), None);
    assert_eq!(sut.kernel.get(&chosen_spi(&request).value()), Some(&true));
}

#[test]
fn a_peer_without_them_gets_the_proposal_without_or_none() {
    let (mut sut, mut peer, _) = we_have_a_pair_with(config());
    let plain = rekey_payloads(PEER_SPI, 0x3000, [3; 32]);
    let answer = peer.ask(&mut sut, CREATE, &plain);
    assert_eq!(kinds(&answer), [NotifyType::NO_PROPOSAL_CHOSEN]);

    let mut config = config();
    config.children[0].proposals.extend(child(1, 2, 1).proposals);
    let (mut sut, mut peer, _) = we_have_a_pair_with(config);
    let answer = peer.ask(&mut sut, CREATE, &plain);
    assert!(answer.security_association().is_some(), "{:?}", kinds(&answer));
    peer.confirm(&mut sut);
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));

    let mut config = self::config();
    config.children[0].proposals.extend(child(1, 2, 1).proposals);
    let (mut sut, mut peer, _) = we_have_a_pair_with(config);
    let (header, request) = we_rekey(&mut sut, &peer);
    peer.reply(&mut sut, &header, &create_answer(&request, 0x4000, [7; 32]));
    assert_eq!(sut.kernel.get(&0x4000), Some(&false));
}

#[test]
fn additional_key_exchanges_without_one_that_they_follow_are_refused() {
    let mut config = config();
    config.children[0].proposals[0].key_exchange.clear();
    let mut sut = Sut::with(configured(1));
    let refused = sut
        .endpoint
        .handle_command(Command::UpsertPeer(Box::new(config)), Now::default());
    let message = "children.proposals: additional key exchanges need a key exchange method that they follow";
    assert_eq!(refused, Err(CommandError::Invalid(message.to_owned())));
}
