//! INVALID_KE_PAYLOAD (RFC 7296 §1.2, §1.3), in IKE_SA_INIT and in both kinds of CREATE_CHILD_SA.

use ipsecmesh_ike::wire::{
    ExchangeType, KeyExchangeMethod, Nonce, Notify, NotifyType, Payload, Role, Spi, encode,
};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{clear, init_header, kinds};
use crate::support::cheap;
use crate::sut::{PEER, Sut, answering, configured, path_to};
use crate::talk::{peer_began, we_have_a_pair, we_rekey};

fn wants(request: &[u8], method: KeyExchangeMethod) -> Vec<u8> {
    let (header, _) = clear(request);
    let header = init_header(header.initiator_spi, None, Role::Responder);
    encode(&header, &[Payload::Notify(Notify::invalid_ke(method))]).unwrap()
}

fn method_of(request: &[u8]) -> KeyExchangeMethod {
    clear(request).1.key_exchange().unwrap().method
}

#[test]
fn a_responder_names_the_method_that_it_prefers_and_keeps_no_state() {
    let mut sut = Sut::with(answering(1));
    let draft = Draft::with(1, cheap::provider(), KeyExchange::Ecp256);
    let answer = sut.ask(path_to(2, 500, 500), &draft.request());
    let (header, payloads) = clear(&answer);
    let notify = payloads.notify(NotifyType::INVALID_KE_PAYLOAD).unwrap();
    assert_eq!(notify.wanted_ke(), Ok(KeyExchangeMethod::X25519));
    assert_eq!(header.responder_spi, None);
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn an_initiator_begins_again_with_a_method_that_it_has_proposed() {
    let mut sut = Sut::with(configured(1));
    let (path, first) = sut.take();
    assert_eq!(method_of(&first), KeyExchangeMethod::X25519);
    let second = sut.ask(path, &wants(&first, KeyExchange::Ecp256.into()));
    assert_eq!(method_of(&second), KeyExchange::Ecp256.into());
    assert_eq!(clear(&first).1.nonce(), clear(&second).1.nonce());
}

#[test]
fn a_method_that_was_not_proposed_is_not_used() {
    let mut sut = Sut::with(configured(1));
    let (path, first) = sut.take();
    for method in [
        KeyExchangeMethod(2),
        KeyExchangeMethod(0),
        KeyExchangeMethod::X25519,
    ] {
        let disposition = sut.give(path, &wants(&first, method));
        assert_eq!(disposition, Disposition::Dropped(DropReason::Unexpected));
    }
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().initiating, 1);
}

#[test]
fn answers_without_end_do_not_keep_an_initiator_busy() {
    let mut sut = Sut::with(configured(1));
    let (path, first) = sut.take();
    let mut answered = 0;
    for number in 0..20 {
        let method = [KeyExchange::Ecp256, KeyExchange::X25519][number % 2];
        sut.give(path, &wants(&first, method.into()));
        answered += sut.sent.drain(..).count();
    }
    assert_eq!(answered, 5);
}

#[test]
fn a_child_rekey_is_tried_once_more_and_the_old_pair_stays() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    let (first, _) = we_rekey(&mut sut, &peer);
    let refusal = [Payload::Notify(Notify::invalid_ke(KeyExchangeMethod::X25519))];
    peer.reply(&mut sut, &first, &refusal);
    let (second, payloads) = peer.take(&mut sut);
    assert!(payloads.notify(NotifyType::REKEY_SA).is_some());
    peer.reply(&mut sut, &second, &refusal);
    sut.assert_silent();
    assert_eq!(sut.halves(), (1, 1));
    assert_eq!(sut.endpoint.counts().offered_spis, 0);
}

#[test]
fn an_ike_rekey_is_tried_once_more_and_the_old_sa_stays() {
    let (mut sut, mut peer, _) = we_have_a_pair();
    sut.command(Command::RekeyIke { peer: PEER });
    let (first, payloads) = peer.take(&mut sut);
    assert_eq!(payloads.key_exchange().unwrap().method, KeyExchangeMethod::X25519);
    let refusal = [Payload::Notify(Notify::invalid_ke(KeyExchange::Ecp256.into()))];
    peer.reply(&mut sut, &first, &refusal);
    let (second, payloads) = peer.take(&mut sut);
    assert_eq!(
        payloads.key_exchange().unwrap().method,
        KeyExchange::Ecp256.into()
    );
    peer.reply(&mut sut, &second, &refusal);
    sut.assert_silent();
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    peer.confirm(&mut sut);
}

#[test]
fn a_responder_to_an_ike_rekey_names_the_method_that_it_prefers() {
    let (mut sut, mut peer, _) = peer_began();
    let draft = Draft::with(3, cheap::provider(), KeyExchange::Ecp256);
    let offer = crypto::ike_offer(&draft.proposals, &Spi::Ike(draft.spi));
    let mut payloads = vec![
        Payload::SecurityAssociation(offer),
        Payload::Nonce(Nonce::from([3; 32])),
    ];
    payloads.extend(
        draft
            .payloads()
            .into_iter()
            .filter(|p| matches!(p, Payload::KeyExchange(_))),
    );
    let answer = peer.ask(&mut sut, ExchangeType::CREATE_CHILD_SA, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::INVALID_KE_PAYLOAD]);
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}
