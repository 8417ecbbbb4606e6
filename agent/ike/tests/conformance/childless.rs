//! IKE SAs without a CHILD SA (RFC 6023): announced, accepted, begun where nothing is wanted, and kept when the last pair
//! goes.

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, Notify, NotifyType, Payload};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, kinds};
use crate::support::cheap;
use crate::sut::{PEER, Sut, answering, path_to};
use crate::talk::{PEER_SPI, delete_esp, peer_began_with};

fn patient() -> PeerConfig {
    let mut config = answering(1);
    config.ike_lifetime = Duration::from_hours(1);
    config.liveness.interval = Duration::from_hours(100);
    config
}

#[test]
fn a_responder_announces_that_it_takes_ike_sas_without_a_child() {
    let mut sut = Sut::with(answering(1));
    let response = sut.ask(path_to(2, 500, 500), &Draft::new(1).request());
    assert!(kinds(&clear(&response).1).contains(&NotifyType::CHILDLESS_IKEV2_SUPPORTED));
}

#[test]
fn an_ike_sa_that_loses_its_last_child_stays_and_takes_the_next() {
    let (mut sut, mut peer, _) = peer_began_with(patient());
    peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    sut.pass(Duration::from_secs(30));
    sut.assert_silent();
    assert_eq!(sut.halves(), (0, 0));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    peer.confirm(&mut sut);
    sut.command(Command::Acquire {
        peer: PEER,
        child: ChildId(1),
    });
    sut.pass_until_sent(Duration::from_secs(4));
    let (header, _) = peer.take(&mut sut);
    assert_eq!(header.exchange, ExchangeType::CREATE_CHILD_SA);
}

/// A peer has made an IKE SA without a child, and it is time for us to begin anew: our IKE_SA_INIT.
fn due_without_a_child() -> (Sut, Path, Vec<u8>) {
    let mut sut = Sut::with(patient());
    let mut peer = Draft::new(1).exchange(&mut sut);
    let proof = peer.proof();
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &proof);
    // The rekey on the way is refused for good.
    loop {
        sut.pass_until_sent(Duration::from_hours(1));
        let next = wire::Message::parse(&sut.sent[0].1).unwrap().header;
        if next.exchange == ExchangeType::IKE_SA_INIT {
            break;
        }
        let (header, _) = peer.take(&mut sut);
        let refusal = Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
        peer.reply(&mut sut, &header, &[refusal]);
    }
    let (path, request) = sut.take();
    sut.events.clear();
    (sut, path, request)
}

#[test]
fn an_initiator_that_wants_no_child_asks_for_none() {
    let (mut sut, path, request) = due_without_a_child();
    let childless = Payload::Notify(Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED));
    let (mut peer, response) = Peer::answer_init_with(cheap::provider(), 10, &request, &[childless]);
    sut.give(path, &response);
    let (header, auth) = peer.take(&mut sut);
    assert!(auth.auth().is_some());
    assert!(auth.security_association().is_none() && auth.ts_initiator().is_none());
    let proof = peer.proof();
    peer.reply(&mut sut, &header, &proof);
    assert_eq!(sut.failures(), []);
    let deleted = sut.take().1;
    assert!(
        deleted[..8] != peer.spis.0.value().to_be_bytes(),
        "the old SA goes"
    );
    peer.confirm(&mut sut);
}

#[test]
fn a_responder_that_takes_none_without_a_child_is_not_asked() {
    let (mut sut, path, request) = due_without_a_child();
    let (_, response) = Peer::answer_init_with(cheap::provider(), 10, &request, &[]);
    sut.give(path, &response);
    sut.assert_silent();
    sut.pass(Duration::from_secs(2));
    let told = sut.events.iter().any(|event| {
        matches!(event, Event::Failed { detail, .. } if detail.contains("no IKE SA without a CHILD SA"))
    });
    assert!(told);
}
