//! Make before break: the inbound half stands before the peer is told of it, the outbound half goes in last
//! (decision 19, RFC 7296 §2.8).

use std::time::Duration;

use ipsecmesh_ike::wire::{ExchangeType, NotifyType};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{chosen_spi, kinds};
use crate::sut::{PEER, Sut, answering, configured};
use crate::talk::{
    PEER_SPI, auth_answer, auth_payloads, authenticated, create_answer, delete_esp, peer_began,
    rekey_payloads, we_began, we_have_a_pair, we_rekey,
};

#[test]
fn a_response_leaves_when_the_inbound_half_stands() {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    sut.hold = true;
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    sut.give(peer.path, &request);
    sut.assert_silent();
    assert_eq!(sut.held.len(), 1);
    // The request again does not change that.
    sut.give(peer.path, &request);
    sut.assert_silent();
    sut.release(None);
    let (_, answer) = peer.open(&sut.take().1);
    assert!(answer.security_association().is_some());
    assert_eq!(sut.halves(), (1, 0));
}

#[test]
fn a_responder_sends_when_the_initiator_says_that_it_receives() {
    let mut sut = Sut::with(answering(1));
    let (mut peer, _) = authenticated(&mut sut, Draft::new(1));
    sut.pass(Duration::from_secs(5));
    assert_eq!(sut.halves(), (1, 0));
    peer.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.log, ["InstallInbound", "InstallOutbound"]);
}

#[test]
fn esp_through_the_new_pair_is_a_sign_as_well() {
    let mut sut = Sut::with(answering(1));
    let (_, answer) = authenticated(&mut sut, Draft::new(1));
    sut.command(Command::InboundSeen {
        spi: chosen_spi(&answer),
    });
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn a_peer_that_is_not_of_our_kind_gets_a_moment() {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    peer.boot = None;
    let payloads = auth_payloads(&peer);
    peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert_eq!(sut.halves(), (1, 0));
    sut.pass(Duration::from_millis(300));
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn an_initiator_installs_inbound_then_outbound_and_then_says_so() {
    let (mut sut, mut peer, header, payloads) = we_began(configured(1));
    sut.hold = true;
    let answer = auth_answer(&peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.held.len(), 1);
    sut.release(None);
    sut.assert_silent();
    sut.release(None);
    assert_eq!(sut.log, ["InstallInbound", "InstallOutbound"]);
    let (header, payloads) = peer.take(&mut sut);
    assert_eq!(header.exchange, ExchangeType::INFORMATIONAL);
    assert!(payloads.as_slice().is_empty());
}

#[test]
fn a_rekey_by_the_peer_switches_on_its_delete_of_the_old_pair() {
    let (mut sut, mut peer, inbound) = peer_began();
    let answer = peer.ask(
        &mut sut,
        ExchangeType::CREATE_CHILD_SA,
        &rekey_payloads(PEER_SPI, 0x3000, [3; 32]),
    );
    let new = chosen_spi(&answer);
    assert_eq!(sut.halves(), (2, 1));
    assert!(
        sut.kernel.contains_key(&PEER_SPI),
        "the old pair sends until then"
    );

    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[delete_esp(PEER_SPI)]);
    assert_eq!(crate::talk::deleted_spis(&answer), [inbound]);
    assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    assert!(!sut.kernel.contains_key(&PEER_SPI));
    // Packets under way still find the old inbound half.
    assert!(sut.kernel.contains_key(&inbound.value()));
    sut.pass(Duration::from_secs(6));
    assert!(!sut.kernel.contains_key(&inbound.value()));
    assert!(sut.kernel.contains_key(&new.value()));
}

#[test]
fn a_rekey_by_us_deletes_the_old_pair_after_the_switch() {
    let (mut sut, mut peer, inbound) = we_have_a_pair();
    let (header, request) = we_rekey(&mut sut, &peer);
    sut.hold = true;
    peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
    sut.release(None);
    assert!(sut.kernel.contains_key(&PEER_SPI));
    sut.assert_silent();
    sut.hold = false;
    sut.release(None);
    assert!(!sut.kernel.contains_key(&PEER_SPI));
    let mut deleted = Vec::new();
    while !sut.sent.is_empty() {
        let (header, payloads) = peer.take(&mut sut);
        deleted.extend(crate::talk::deleted_spis(&payloads));
        peer.reply(&mut sut, &header, &[]);
    }
    assert_eq!(deleted, [inbound]);
    assert!(sut.kernel.contains_key(&inbound.value()));
    sut.pass(Duration::from_secs(6));
    assert_eq!(sut.halves(), (1, 1));
}

#[test]
fn an_spi_that_the_kernel_has_is_drawn_again_before_it_is_sent() {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    sut.hold = true;
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    sut.give(peer.path, &request);
    sut.release(Some(EffectOutcome::SpiInUse));
    sut.assert_silent();
    sut.release(None);
    let (_, answer) = peer.open(&sut.take().1);
    assert!(sut.kernel.contains_key(&chosen_spi(&answer).value()));
}

/// Found by the simulation (seed 9236).
#[test]
fn an_spi_is_not_drawn_again_for_a_peer_that_has_been_removed() {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    sut.hold = true;
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    sut.give(peer.path, &request);
    sut.command(Command::RemovePeer { peer: PEER });
    sut.release(Some(EffectOutcome::SpiInUse));
    assert_eq!(sut.held.len(), 0, "nothing more is installed");
    sut.pass(Duration::from_mins(2));
    assert_eq!(sut.endpoint.counts(), Counts::default());
}

#[test]
fn a_refused_inbound_half_is_answered_with_an_error_and_leaves_nothing() {
    let mut sut = Sut::with(answering(1));
    let mut peer = Draft::new(1).exchange(&mut sut);
    sut.hold = true;
    let payloads = auth_payloads(&peer);
    let request = peer.request(ExchangeType::IKE_AUTH, &payloads);
    sut.give(peer.path, &request);
    sut.release(Some(EffectOutcome::Failed("no such algorithm".to_owned())));
    let (_, answer) = peer.open(&sut.take().1);
    assert!(answer.auth().is_some());
    assert!(kinds(&answer).contains(&NotifyType::TEMPORARY_FAILURE));
    assert_eq!(sut.failures(), [Failure::DataPlane]);
    assert_eq!(
        (sut.endpoint.counts().ike_sas, sut.endpoint.counts().child_sas),
        (1, 0)
    );
}

#[test]
fn a_refused_half_of_our_own_pair_is_deleted_and_negotiated_anew() {
    for refused_at in [0, 1] {
        let (mut sut, mut peer, header, payloads) = we_began(configured(1));
        sut.hold = true;
        let answer = auth_answer(&peer, &payloads);
        peer.reply(&mut sut, &header, &answer);
        for step in 0..=refused_at {
            let refusal = EffectOutcome::Failed("out of memory".to_owned());
            sut.release((step == refused_at).then_some(refusal));
        }
        sut.hold = false;
        while !sut.held.is_empty() {
            sut.release(None);
        }
        let (header, told) = peer.take(&mut sut);
        assert_eq!(crate::talk::deleted_spis(&told), [chosen_spi(&payloads)]);
        peer.reply(&mut sut, &header, &[]);
        sut.pass_until_sent(Duration::from_secs(2));
        let (header, request) = peer.take(&mut sut);
        assert_eq!(header.exchange, ExchangeType::CREATE_CHILD_SA);
        peer.reply(&mut sut, &header, &create_answer(&request, 0x3000, [3; 32]));
        assert_eq!(sut.kernel.get(&0x3000), Some(&false));
    }
}
