//! NAT detection and the float to port 4500 (RFC 7296 §2.23, RFC 3948).

use ipsecmesh_ike::wire::{ExchangeType, Notify, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, kinds};
use crate::sut::{Sut, answering, configured, path_to};
use crate::talk::{auth_answer, auth_payloads};

fn hash(kind: NotifyType, data: [u8; 20]) -> Payload {
    Payload::Notify(Notify::with_data(kind, data.to_vec()))
}

/// Hashes that match nothing: each end believes that a NAT is between them.
pub(crate) fn behind_a_nat() -> Vec<Payload> {
    vec![
        hash(NotifyType::NAT_DETECTION_SOURCE_IP, [1; 20]),
        hash(NotifyType::NAT_DETECTION_DESTINATION_IP, [2; 20]),
    ]
}

fn answer_auth(sut: &mut Sut, peer: &mut Peer) {
    let (header, payloads) = peer.take(sut);
    let answer = auth_answer(peer, &payloads);
    peer.reply(sut, &header, &answer);
}

#[test]
fn both_hashes_are_in_both_messages() {
    let mut sut = Sut::with(configured(1));
    let (_, request) = sut.take();
    let mut other = Sut::with(answering(1));
    let response = other.ask(path_to(2, 500, 500), &Draft::new(1).request());
    for message in [request, response] {
        let kinds = kinds(&clear(&message).1);
        assert!(kinds.contains(&NotifyType::NAT_DETECTION_SOURCE_IP));
        assert!(kinds.contains(&NotifyType::NAT_DETECTION_DESTINATION_IP));
    }
}

#[test]
fn without_a_nat_ike_stays_on_port_500_and_esp_in_ip() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    answer_auth(&mut sut, &mut peer);
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.encapsulation, None);
}

#[test]
fn an_initiator_that_finds_a_nat_floats_with_ike_auth() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &behind_a_nat());
    sut.give(path, &response);
    peer.path = path_to(2, 4500, 4500);
    answer_auth(&mut sut, &mut peer);
    assert_eq!(sut.encapsulation, Some((4500, 4500)));
}

#[test]
fn a_responder_follows_to_port_4500_and_through_a_mapped_port() {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.more = behind_a_nat();
    let mut peer = draft.exchange(&mut sut);
    peer.path = path_to(2, 4500, 40_000);
    let payloads = auth_payloads(&peer);
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    peer.confirm(&mut sut);
    assert_eq!(sut.encapsulation, Some((4500, 40_000)));
}

#[test]
fn a_mapping_changes_by_authenticated_messages_only() {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.more = behind_a_nat();
    let mut peer = draft.exchange(&mut sut);
    peer.path = path_to(2, 4500, 40_000);
    let payloads = auth_payloads(&peer);
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    peer.confirm(&mut sut);

    // Junk and replays from elsewhere move nothing.
    let genuine = peer.request(ExchangeType::INFORMATIONAL, &[]);
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    let elsewhere = path_to(2, 4500, 50_000);
    assert_eq!(
        sut.give(elsewhere, &forged),
        Disposition::Dropped(DropReason::BadIntegrity)
    );
    let answer = sut.ask(peer.path, &genuine);
    sut.give(elsewhere, &genuine);
    assert_eq!(
        sut.take(),
        (elsewhere, answer),
        "a repetition is answered where it came from"
    );
    sut.command(Command::RekeyIke { peer: PeerId(2) });
    assert_eq!(sut.take().0, peer.path, "and moves nothing");

    // A fresh message does.
    peer.path = path_to(2, 4500, 60_000);
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    sut.give(peer.path, &request);
    assert_eq!(sut.take().0, peer.path);
}

/// Each end behind a NAT, the peer's mapped to port 40000, and one pair.
fn mapped() -> (Sut, Peer) {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.more = behind_a_nat();
    let mut peer = draft.exchange(&mut sut);
    peer.path = path_to(2, 4500, 40_000);
    let payloads = auth_payloads(&peer);
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    peer.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
    (sut, peer)
}

#[test]
fn esp_follows_a_mapping_that_an_ike_message_shows() {
    let (mut sut, mut peer) = mapped();
    sut.log.clear();
    peer.path = path_to(2, 4500, 60_000);
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    sut.give(peer.path, &request);
    assert_eq!(sut.encapsulation, Some((4500, 60_000)));
    assert_eq!(sut.log, ["Encapsulate", "Encapsulate"], "no SA is made anew");
}

#[test]
fn ike_follows_a_mapping_that_esp_shows() {
    let (mut sut, _) = mapped();
    let inbound = *sut.kernel.iter().find(|(_, inbound)| **inbound).expect("one").0;
    let remote = path_to(2, 4500, 50_000).remote;
    sut.command(Command::Mapping {
        spi: EspSpi::new(inbound).expect("not reserved"),
        remote,
    });
    assert_eq!(sut.encapsulation, Some((4500, 50_000)));
    sut.command(Command::RekeyIke { peer: PeerId(2) });
    assert_eq!(sut.take().0.remote, remote);
}

/// Both payloads with one address each that only the peer sees.
fn private_addresses(payloads: &mut [Payload]) {
    for payload in payloads {
        let (Payload::TsInitiator(list) | Payload::TsResponder(list)) = payload else {
            continue;
        };
        let private = |selector: &TrafficSelector| TrafficSelector {
            first_address: [192, 168, 7, 7].into(),
            last_address: [192, 168, 7, 7].into(),
            ..*selector
        };
        *list = list.ip().map(private).collect();
    }
}

#[test]
fn in_transport_mode_a_nat_makes_selectors_mean_the_ends_as_they_are_seen() {
    for natted in [true, false] {
        let mut sut = Sut::with(answering(1));
        let mut draft = Draft::new(1);
        draft.more = if natted { behind_a_nat() } else { Vec::new() };
        let mut peer = draft.exchange(&mut sut);
        let port = if natted { 4500 } else { 500 };
        peer.path = path_to(2, port, port);
        let mut payloads = auth_payloads(&peer);
        private_addresses(&mut payloads);
        peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        peer.confirm(&mut sut);
        assert_eq!(sut.halves(), if natted { (1, 1) } else { (0, 0) });
    }
    // As the end that began: its own selectors come back with the other end's view of the addresses.
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &behind_a_nat());
    sut.give(path, &response);
    peer.path = path_to(2, 4500, 4500);
    let (header, payloads) = peer.take(&mut sut);
    let mut answer = auth_answer(&peer, &payloads);
    private_addresses(&mut answer);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (1, 1));
    let (local, remote) = (path.local.ip(), path.remote.ip());
    let of = |list: &[TrafficSelector]| list[0].first_address;
    let ends = (of(&sut.selectors.0), of(&sut.selectors.1));
    assert_eq!(
        ends,
        (local, remote),
        "the outbound half is about the addresses that this end sees"
    );
}

#[test]
fn the_end_behind_a_nat_does_not_follow_one_that_is_not() {
    let mut sut = Sut::with(answering(1));
    let mut draft = Draft::new(1);
    draft.more = vec![hash(NotifyType::NAT_DETECTION_DESTINATION_IP, [2; 20])];
    let mut peer = draft.exchange(&mut sut);
    peer.path = path_to(2, 4500, 4500);
    let payloads = auth_payloads(&peer);
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    peer.confirm(&mut sut);
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    sut.give(path_to(2, 4500, 50_000), &request);
    assert_eq!(sut.encapsulation, Some((4500, 4500)));
}

#[test]
fn without_a_nat_a_peer_does_not_move() {
    let (mut sut, mut peer, _) = crate::talk::peer_began();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    sut.give(path_to(2, 500, 40_000), &request);
    sut.sent.clear();
    sut.command(Command::RekeyIke { peer: PeerId(2) });
    assert_eq!(sut.take().0, path_to(2, 500, 500));
}

#[test]
fn encapsulation_that_is_forced_pretends_a_nat() {
    let mut config = configured(1);
    config.encapsulation = Encapsulation::Always;
    let mut sut = Sut::with(config);
    let (path, request) = sut.take();
    let (mut peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    peer.path = path_to(2, 4500, 4500);
    answer_auth(&mut sut, &mut peer);
    assert_eq!(sut.encapsulation, Some((4500, 4500)));
}

#[test]
fn encapsulation_that_is_forbidden_fails_behind_a_nat() {
    let mut config = configured(1);
    config.encapsulation = Encapsulation::Never;
    let mut sut = Sut::with(config.clone());
    let (path, request) = sut.take();
    let (_, response) = Peer::answer_init(&request, &behind_a_nat());
    sut.give(path, &response);
    sut.assert_silent();
    sut.pass(std::time::Duration::from_secs(2));
    assert_eq!(sut.failures(), [Failure::Protocol]);

    config.initiation = Initiation::OnDemand;
    let mut sut = Sut::with(config);
    let mut draft = Draft::new(1);
    draft.more = behind_a_nat();
    let answer = sut.ask(path_to(2, 500, 500), &draft.request());
    assert_eq!(kinds(&clear(&answer).1), [NotifyType::NO_PROPOSAL_CHOSEN]);
}
