//! Several additional key exchanges in IKE_INTERMEDIATE (RFC 9370 §2.2): negotiation, order, keys, and what an attacker
//! between the ends can do about them.

use ipsecmesh_ike::crypto::{StartedKeyExchange, ike_offer, select_ike, unsealed};
use ipsecmesh_ike::wire::{
    ExchangeType, Flags, Header, KeyExchangeData, Message, Notify, NotifyType, Payload, Payloads, Proposal,
    Role, SecurityAssociation, Spi, Transform, TransformType, encode,
};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, kinds};
use crate::support::{cheap, peer_config, with_additional};
use crate::sut::{Sut, configured, path_to};
use crate::talk::{auth_answer, auth_payloads};

const EXCHANGE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;

const THREE: [AdditionalKeyExchange; 3] = [
    AdditionalKeyExchange::Kem(Kem::MlKem768),
    AdditionalKeyExchange::Method(KeyExchange::Ecp384),
    AdditionalKeyExchange::Kem(Kem::MlKem1024),
];

fn with(methods: &[AdditionalKeyExchange]) -> Vec<IkeProposal> {
    vec![IkeProposal {
        additional: with_additional(methods),
        ..peer_config(2, 1, 1).ike_proposals[0].clone()
    }]
}

fn config(methods: &[AdditionalKeyExchange], initiation: Initiation) -> PeerConfig {
    PeerConfig {
        ike_proposals: with(methods),
        initiation,
        ..configured(1)
    }
}

fn supported() -> Payload {
    Payload::Notify(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED))
}

fn key_payload(method: AdditionalKeyExchange, data: &[u8]) -> Payload {
    Payload::KeyExchange(KeyExchangeData {
        method: method.into(),
        data: data.to_vec(),
    })
}

/// The one message of host 1: its header, payloads, and what AUTH covers of it.
fn open(sut: &mut Sut, peer: &mut Peer) -> (Header, Payloads, Vec<u8>) {
    let (_, mut datagram) = sut.take();
    let body = Message::parse(&datagram).unwrap().body().unwrap();
    let keys = &mut peer.keys.opener;
    let whole = keys.open_message(peer.provider, &mut datagram, &body).unwrap();
    let message = whole.unwrap().into_inner();
    let covered = message.intermediate.unwrap_or_default();
    (message.header, message.payloads.unwrap(), covered)
}

/// The peer asks for one exchange and takes the new keys.
fn ask(sut: &mut Sut, peer: &mut Peer, method: AdditionalKeyExchange) {
    let started: StartedKeyExchange = peer.provider.start_additional(method).unwrap();
    let header = peer.header(EXCHANGE, Flags::request(Role::Initiator), peer.next);
    let payloads = [key_payload(method, started.public_value())];
    let covered = unsealed(&header, &payloads).unwrap();
    let datagram = peer.request(EXCHANGE, &payloads);
    sut.give(peer.path, &datagram);
    let (answer, payloads, response) = open(sut, peer);
    assert_eq!(answer.message_id, header.message_id);
    let shared = started.complete(&payloads.key_exchange().unwrap().data).unwrap();
    peer.mix_in(&shared, &covered, &response);
}

/// The peer answers one exchange of host 1 and takes the new keys.
fn answer(sut: &mut Sut, peer: &mut Peer, number: u32, method: AdditionalKeyExchange) {
    let (header, payloads, covered) = open(sut, peer);
    assert_eq!((header.exchange, header.message_id.0), (EXCHANGE, number));
    let ke = payloads.key_exchange().unwrap();
    assert_eq!(ke.method, method.into());
    let (ours, shared) = peer.provider.answer_additional(method, &ke.data).unwrap();
    let header = peer.header(EXCHANGE, Flags::response(peer.role), number);
    let response = [key_payload(method, &ours)];
    let datagram = peer.response(EXCHANGE, number, &response);
    peer.mix_in(&shared, &covered, &unsealed(&header, &response).unwrap());
    sut.give(peer.path, &datagram);
}

#[test]
fn a_peer_that_begins_goes_through_all_of_them_in_their_order() {
    let mut sut = Sut::with(config(&THREE, Initiation::OnDemand));
    let mut draft = Draft::new(1);
    draft.proposals = with(&THREE);
    draft.more = vec![supported()];
    let mut peer = draft.exchange(&mut sut);
    for method in THREE {
        ask(&mut sut, &mut peer, method);
    }
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let answer = sut.ask(peer.path, &request);
    let (header, answer) = peer.open(&answer);
    assert_eq!(header.message_id.0, 4);
    assert!(answer.auth().is_some(), "{:?}", kinds(&answer));
    peer.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn we_go_through_all_of_them_in_their_order() {
    let mut sut = Sut::with(config(&THREE, Initiation::Eager));
    let (path, request) = sut.take();
    let more = [supported()];
    let (mut peer, response) = Peer::choose(cheap::provider(), 9, &request, &more, &with(&THREE));
    sut.give(path, &response);
    for (number, method) in (1..).zip(THREE) {
        self::answer(&mut sut, &mut peer, number, method);
    }
    let (header, payloads, _) = open(&mut sut, &mut peer);
    assert_eq!(
        (header.exchange, header.message_id.0),
        (ExchangeType::IKE_AUTH, 4)
    );
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    let (confirm, _) = peer.take(&mut sut);
    assert_eq!(confirm.message_id.0, 5);
    peer.reply(&mut sut, &confirm, &[]);
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn another_method_than_the_one_that_is_due_ends_the_attempt() {
    let mut sut = Sut::with(config(&THREE, Initiation::OnDemand));
    let mut draft = Draft::new(1);
    draft.proposals = with(&THREE);
    draft.more = vec![supported()];
    let mut peer = draft.exchange(&mut sut);
    ask(&mut sut, &mut peer, THREE[0]);
    let started = peer.provider.start_additional(THREE[2]).unwrap();
    let early = [key_payload(THREE[2], started.public_value())];
    let refused = peer.ask(&mut sut, EXCHANGE, &early);
    assert_eq!(kinds(&refused), [NotifyType::INVALID_SYNTAX]);
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn ike_auth_waits_for_the_last_of_them() {
    let mut sut = Sut::with(config(&THREE, Initiation::OnDemand));
    let mut draft = Draft::new(1);
    draft.proposals = with(&THREE);
    draft.more = vec![supported()];
    let mut peer = draft.exchange(&mut sut);
    ask(&mut sut, &mut peer, THREE[0]);
    let payloads = auth_payloads(&peer);
    let early = peer.request(ExchangeType::IKE_AUTH, &payloads);
    let dropped = sut.give(peer.path, &early);
    assert_eq!(dropped, Disposition::Dropped(DropReason::OutsideWindow));
    sut.assert_silent();
}

/// RFC 9370 §2.2.1: types may have gaps, choices, and "none" among them; the answer has none twice.
#[test]
fn what_is_chosen_of_an_offer_with_gaps_and_choices() {
    let kinds = TransformType::ADDITIONAL;
    let offered = |types: &[(usize, &[Option<AdditionalKeyExchange>])]| {
        let mut offer = ike_offer(&with(&[]), &Spi::Absent);
        for (index, choices) in types {
            for choice in *choices {
                let transform = match choice {
                    Some(method) => Transform::additional(kinds[*index], *method),
                    None => Transform::new(kinds[*index], 0),
                };
                offer.proposals[0].transforms.push(transform);
            }
        }
        offer
    };
    let answered = |ours: &[AdditionalKeyExchange], offer: &SecurityAssociation| {
        let chosen = select_ike(&with(ours), offer)?;
        let response: Vec<Proposal> = chosen.response(Spi::Absent).proposals;
        let of = |kind| response[0].of_kind(kind).next().map(|transform| transform.id);
        Some(
            kinds
                .into_iter()
                .filter_map(|kind| Some((kind, of(kind)?)))
                .collect::<Vec<_>>(),
        )
    };
    let [kem, ecp, big] = THREE.map(Some);
    let with_gaps = offered(&[(1, &[ecp, kem]), (2, &[kem, ecp]), (4, &[big, None])]);
    assert_eq!(
        answered(&[THREE[0], THREE[1]], &with_gaps),
        Some(vec![(kinds[1], 36), (kinds[2], 20), (kinds[4], 0)])
    );
    assert_eq!(
        answered(&THREE, &with_gaps),
        Some(vec![(kinds[1], 36), (kinds[2], 20), (kinds[4], 37)])
    );
    // Fewer, more, or in another order than the peer insists on.
    assert_eq!(answered(&THREE[..1], &with_gaps), None);
    assert_eq!(answered(&THREE, &offered(&[(0, &[kem]), (1, &[ecp])])), None);
    assert_eq!(answered(&THREE[..2], &offered(&[(0, &[ecp]), (1, &[kem])])), None);
    assert_eq!(answered(&[], &offered(&[(0, &[kem])])), None);
    assert_eq!(
        answered(&[], &offered(&[(0, &[kem, None])])),
        Some(vec![(kinds[0], 0)])
    );
}

#[test]
fn more_than_seven_and_the_same_twice_are_no_list() {
    let methods = [
        AdditionalKeyExchange::Kem(Kem::MlKem512),
        AdditionalKeyExchange::Kem(Kem::MlKem768),
        AdditionalKeyExchange::Kem(Kem::MlKem1024),
        AdditionalKeyExchange::Method(KeyExchange::Ecp256),
        AdditionalKeyExchange::Method(KeyExchange::Ecp384),
        AdditionalKeyExchange::Method(KeyExchange::Ecp521),
        AdditionalKeyExchange::Method(KeyExchange::X25519),
        AdditionalKeyExchange::Method(KeyExchange::Modp2048),
    ];
    assert!(AdditionalKeyExchanges::new(&methods[..7]).is_some());
    assert!(AdditionalKeyExchanges::new(&methods).is_none());
    assert!(AdditionalKeyExchanges::new(&[methods[0], methods[1], methods[0]]).is_none());
}

/// With a fallback both ends would do without, had they not seen each other's whole IKE_SA_INIT: AUTH covers it.
#[test]
fn who_strips_additional_key_exchanges_is_found_out_by_auth() {
    let both = [with(&THREE[..1]), with(&[])].concat();
    for strips_offer in [true, false] {
        let mut config = config(&[], Initiation::Eager);
        config.ike_proposals.clone_from(&both);
        let mut sut = Sut::with(config);
        let (path, sent) = sut.take();
        let (header, payloads) = clear(&sent);
        // The attacker takes either the proposal or the announcement out of the request.
        let mut changed = payloads.as_slice().to_vec();
        if strips_offer {
            for payload in &mut changed {
                if let Payload::SecurityAssociation(offer) = payload {
                    offer.proposals.remove(0);
                }
            }
        } else {
            changed.retain(|payload| *payload != supported());
        }
        let received = encode(&header, &changed).unwrap();
        assert_ne!(received, sent);
        // The peer answers what it has received, without an additional key exchange.
        let (mut peer, response) = Peer::choose(cheap::provider(), 9, &received, &[], &with(&[]));
        sut.give(path, &response);
        let (request, payloads) = peer.take(&mut sut);
        assert_eq!(request.exchange, ExchangeType::IKE_AUTH);
        // Its check of our AUTH covers what it received, and fails; ours covers what we sent.
        let auth = payloads.auth().unwrap().data.clone();
        let ours = |message: &[u8]| {
            let id = payloads.id_initiator().unwrap();
            let octets = crypto::SignedOctets::new(
                peer.provider,
                &peer.keys.auth,
                Role::Initiator,
                message,
                &peer.nonces.1,
                id,
            );
            crypto::psk_auth(peer.provider, peer.keys.auth.prf(), &peer.secret, &octets)
        };
        assert!(ours(&sent).constant_time_eq(&auth));
        assert!(!ours(&received).constant_time_eq(&auth));
        let refused = [Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED))];
        peer.reply(&mut sut, &request, &refused);
        assert_eq!(sut.halves(), (0, 0));
    }
}

/// The same the other way round: host 1 answers a request that was stripped on its way, and refuses the proof.
#[test]
fn a_stripped_request_does_not_authenticate_at_the_responder() {
    let both = [with(&THREE[..1]), with(&[])].concat();
    let mut config = config(&[], Initiation::OnDemand);
    config.ike_proposals.clone_from(&both);
    let mut sut = Sut::with(config);
    let mut draft = Draft::new(1);
    draft.proposals = both;
    draft.more = vec![supported()];
    let sent = draft.request();
    // The peer falls back too, since the answer has no additional key exchange.
    draft.more = Vec::new();
    let received = draft.request();
    let response = sut.ask(path_to(2, 500, 500), &received);
    let mut peer = draft.accept(&sent, &response);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(sut.halves(), (0, 0));
}
