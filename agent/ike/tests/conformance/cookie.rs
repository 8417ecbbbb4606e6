//! COOKIE (RFC 7296 §2.6).

use std::time::Duration;

use ipsecmesh_ike::wire::{Notify, NotifyType, Payload, Role, encode};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::{Peer, clear, init_header, kinds};
use crate::sut::{Sut, answering, configured, path_to};
use crate::talk::auth_payloads;

/// Every request meets load.
fn loaded() -> Sut {
    let limits = Limits {
        cookie_threshold: 0,
        ..Limits::default()
    };
    Sut::with_limits(answering(1), limits)
}

fn cookie_for(sut: &mut Sut, draft: &Draft) -> Vec<u8> {
    let answer = sut.ask(path_to(2, 500, 500), &draft.request());
    let (header, payloads) = clear(&answer);
    assert_eq!(header.responder_spi, None);
    payloads.notify(NotifyType::COOKIE).unwrap().data.clone()
}

#[test]
fn under_load_a_cookie_is_asked_for_and_no_state_is_kept() {
    let mut sut = loaded();
    let mut draft = Draft::new(1);
    let cookie = cookie_for(&mut sut, &draft);
    assert!((1..=64).contains(&cookie.len()));
    assert_eq!(sut.endpoint.counts().half_open, 0);

    draft.cookie = Some(cookie);
    let mut peer = draft.exchange(&mut sut);
    assert_eq!(sut.endpoint.counts().half_open, 1);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, wire::ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
}

#[test]
fn a_forged_cookie_changes_nothing() {
    let mut sut = loaded();
    let mut draft = Draft::new(1);
    let mut cookie = cookie_for(&mut sut, &draft);
    *cookie.last_mut().unwrap() ^= 1;
    for forged in [cookie, vec![0; 33], vec![1]] {
        draft.cookie = Some(forged);
        let disposition = sut.give(path_to(2, 500, 500), &draft.request());
        assert_eq!(disposition, Disposition::Dropped(DropReason::BadCookie));
        sut.assert_silent();
    }
    assert_eq!(sut.endpoint.counts().half_open, 0);
}

#[test]
fn a_cookie_is_bound_to_nonce_and_spi() {
    let mut sut = loaded();
    let cookie = cookie_for(&mut sut, &Draft::new(1));
    let mut other_nonce = Draft::new(1);
    other_nonce.nonce = wire::Nonce::from([9; 32]);
    let mut other_spi = Draft::new(1);
    other_spi.spi = IkeSpi::new(99).unwrap();
    for mut draft in [other_nonce, other_spi] {
        draft.cookie = Some(cookie.clone());
        let disposition = sut.give(path_to(2, 500, 500), &draft.request());
        assert_eq!(disposition, Disposition::Dropped(DropReason::BadCookie));
    }
}

#[test]
fn a_cookie_survives_one_change_of_the_secret_and_then_is_stale() {
    let mut sut = loaded();
    let mut draft = Draft::new(1);
    draft.cookie = Some(cookie_for(&mut sut, &draft));
    sut.pass(Duration::from_secs(200));
    let stale = sut.give(path_to(2, 500, 500), &draft.request());
    assert_eq!(stale, Disposition::Dropped(DropReason::BadCookie));

    draft.cookie = None;
    draft.cookie = Some(cookie_for(&mut sut, &draft));
    sut.pass(Duration::from_secs(70));
    let response = sut.ask(path_to(2, 500, 500), &draft.request());
    assert!(clear(&response).0.responder_spi.is_some());
}

/// A responder that wants cookies.
fn cookie_response(request: &[u8], cookie: &[u8]) -> Vec<u8> {
    let (header, _) = clear(request);
    let notify = Notify::with_data(NotifyType::COOKIE, cookie.to_vec());
    let header = init_header(header.initiator_spi, None, Role::Responder);
    encode(&header, &[Payload::Notify(notify)]).unwrap()
}

#[test]
fn an_initiator_returns_the_cookie_first_with_the_same_spi_and_nonce() {
    let mut sut = Sut::with(configured(1));
    let (path, first) = sut.take();
    let second = sut.ask(path, &cookie_response(&first, &[5; 64]));
    let ((header, before), (repeated, after)) = (clear(&first), clear(&second));
    assert_eq!(header, repeated);
    assert_eq!(before.nonce(), after.nonce());
    let Some(Payload::Notify(cookie)) = after.as_slice().first() else {
        panic!("the cookie is not first")
    };
    assert_eq!(
        (cookie.kind, cookie.data.as_slice()),
        (NotifyType::COOKIE, &[5; 64][..])
    );

    // What the peer authenticates is the request with the cookie.
    let (peer, response) = Peer::answer_init(&second, &[]);
    sut.give(path, &response);
    let (_, payloads) = peer.take(&mut sut);
    assert!(payloads.auth().is_some());
    assert_eq!(kinds(&payloads).first(), Some(&NotifyType::INITIAL_CONTACT));
}

#[test]
fn cookies_without_end_or_of_a_wrong_size_do_not_keep_an_initiator_busy() {
    let mut sut = Sut::with(configured(1));
    let (path, first) = sut.take();
    for wrong in [vec![], vec![1; 65]] {
        sut.give(path, &cookie_response(&first, &wrong));
        sut.assert_silent();
    }
    let mut answered = 0;
    for number in 0..50 {
        sut.give(path, &cookie_response(&first, &[number; 8]));
        answered += sut.sent.len();
        sut.sent.clear();
    }
    assert_eq!(answered, 5);
    assert_eq!(sut.endpoint.counts().initiating, 1);
}

#[test]
fn a_cookie_request_after_a_real_response_is_ignored() {
    let mut sut = Sut::with(configured(1));
    let (path, request) = sut.take();
    let (peer, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    peer.take(&mut sut);
    let late = sut.give(path, &cookie_response(&request, &[5; 64]));
    assert_eq!(late, Disposition::Dropped(DropReason::Unexpected));
    sut.assert_silent();
}
