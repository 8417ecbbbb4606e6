//! What a peer asks for and does not get is told to the people of this end: what it asked for, what is expected, and what to
//! do. The peer learns the notify alone.

use ipsecmesh_ike::wire::{ExchangeType, NotifyType};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{clear, kinds};
use crate::sut::{Sut, answering, path_to};
use crate::talk::auth_payloads;

/// What the peer is told when it asks for its child, and what this end's people are.
fn asked(change: impl FnOnce(&mut ChildConfig)) -> (Vec<NotifyType>, Vec<Failure>, String) {
    let mut config = answering(1);
    change(config.children.first_mut().unwrap());
    let mut sut = Sut::with(config);
    let mut peer = Draft::new(1).exchange(&mut sut);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some(), "the IKE SA stands all the same");
    (kinds(&answer), sut.failures(), sut.last_detail().to_owned())
}

#[test]
fn a_child_without_a_common_proposal_names_the_kind_of_algorithm() {
    let (answer, failures, told) = asked(|child| {
        child.proposals[0].encryption = vec![Encryption::AesGcm16Key128];
    });
    assert!(answer.contains(&NotifyType::NO_PROPOSAL_CHOSEN));
    assert_eq!(failures, [Failure::NoProposalChosen]);
    let expected =
        "encryption: the peer offers AES-GCM-16-256, expected is AES-GCM-16-128; give both ends the same";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn selectors_that_do_not_meet_are_told_from_both_ends() {
    let (answer, failures, told) = asked(|child| {
        child.local_selectors[0].first_port = 22;
        child.local_selectors[0].last_port = 22;
    });
    assert!(answer.contains(&NotifyType::TS_UNACCEPTABLE));
    assert_eq!(failures, [Failure::TrafficSelectors]);
    let both =
        told.contains("port 8001 here") && told.contains("configured is") && told.contains("port 22 with");
    assert!(both && told.contains("mirror each other"), "{told}");
    let (_, _, told) = asked(|child| child.mode = Mode::Tunnel);
    let modes = told.contains("in transport mode, configured") && told.contains("in tunnel mode");
    assert!(modes, "{told}");
}

/// Anybody can send it in the peer's name: once is enough, and beside a standing SA it says nothing.
#[test]
fn an_offer_in_clear_without_a_common_proposal_is_told_once() {
    let mut sut = Sut::with(answering(1));
    for number in 1..4 {
        let mut draft = Draft::new(number);
        draft.proposals[0].prf = vec![Prf::HmacSha256];
        let answer = sut.ask(path_to(2, 500, 500), &draft.request());
        assert_eq!(kinds(&clear(&answer).1), [NotifyType::NO_PROPOSAL_CHOSEN]);
    }
    assert_eq!(sut.failures(), [Failure::NoProposalChosen]);
    let told = sut.last_detail();
    assert!(
        told.contains("PRF: the peer offers HMAC-SHA2-256, expected is HMAC-SHA2-384"),
        "{told}"
    );
}
