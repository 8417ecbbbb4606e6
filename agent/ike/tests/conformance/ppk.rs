//! Post-quantum preshared keys (RFC 8784): both roles, required and optional, with and without a peer that has the key.

use ipsecmesh_ike::crypto::{ChildContext, SignedOctets, psk_auth};
use ipsecmesh_ike::wire::{
    ExchangeType, Header, Identification, Notify, NotifyType, Payload, Payloads, Role,
};
use ipsecmesh_ike::*;
use zeroize::Zeroizing;

use crate::draft::Draft;
use crate::ike_rekey::answer_ike_rekey;
use crate::peer::{Peer, child_request, clear, kinds};
use crate::support::name_of;
use crate::sut::{PEER, SECRET, Sut, answering, configured};
use crate::talk::{PEER_SPI, child_answer};

const KEY: &[u8] = b"thirty-two bytes of a quantum age";
const NAME: &[u8] = b"vault-7";

fn with_key(config: PeerConfig, required: bool) -> PeerConfig {
    let ppk = Ppk {
        id: NAME.to_vec(),
        current: Zeroizing::new(KEY.to_vec()),
        previous: Some(Zeroizing::new(b"the key of last year, still known".to_vec())),
        required,
    };
    PeerConfig {
        ppk: Some(ppk),
        ..config
    }
}

fn use_ppk() -> Payload {
    Payload::Notify(Notify::new(NotifyType::USE_PPK))
}

fn mix_in(peer: &mut Peer, key: &[u8]) {
    peer.keys.mix_in_ppk(peer.provider, key).unwrap();
}

/// Whether the AUTH of host 1 is made with the keys that the peer has now.
fn proves(peer: &Peer, payloads: &Payloads, data: &[u8]) -> bool {
    let (role, message, nonce) = match peer.role {
        Role::Initiator => (Role::Responder, &peer.messages.1, &peer.nonces.0),
        Role::Responder => (Role::Initiator, &peer.messages.0, &peer.nonces.1),
    };
    let id = match role {
        Role::Initiator => payloads.id_initiator(),
        Role::Responder => payloads.id_responder(),
    };
    let octets = SignedOctets::new(peer.provider, &peer.keys.auth, role, message, nonce, id.unwrap());
    psk_auth(peer.provider, peer.keys.auth.prf(), SECRET, &octets).constant_time_eq(data)
}

/// The peer has begun, with USE_PPK where it says so.
fn begun(sut: &mut Sut, says: bool) -> Peer {
    let mut draft = Draft::new(1);
    draft.more.extend(says.then(use_ppk));
    draft.exchange(sut)
}

fn child() -> Vec<Payload> {
    child_request(1, PEER_SPI, ChildContext::Auth)
}

#[test]
fn a_peer_that_has_the_key_is_answered_with_it() {
    for required in [true, false] {
        for key in [KEY, b"the key of last year, still known"] {
            let mut sut = Sut::with(with_key(answering(1), required));
            let mut peer = begun(&mut sut, true);
            assert!(kinds(&clear(&peer.messages.1).1).contains(&NotifyType::USE_PPK));
            mix_in(&mut peer, key);
            let mut payloads = peer.proof();
            payloads.push(Payload::Notify(Notify::ppk_identity(NAME)));
            payloads.extend(child());
            let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
            assert_eq!(
                answer.notify(NotifyType::PPK_IDENTITY).map(|n| n.data.len()),
                Some(0)
            );
            assert!(proves(&peer, &answer, &answer.auth().unwrap().data));
            peer.confirm(&mut sut);
            assert_eq!(sut.halves(), (1, 1));
        }
    }
}

/// Host 1 has begun; its IKE_AUTH is here.
fn we_begin(required: bool, peer_says: bool) -> (Sut, Peer, Header, Payloads) {
    let mut sut = Sut::with(with_key(configured(1), required));
    let (path, request) = sut.take();
    assert!(kinds(&clear(&request).1).contains(&NotifyType::USE_PPK));
    let more: Vec<Payload> = peer_says.then(use_ppk).into_iter().collect();
    let (peer, response) = Peer::answer_init(&request, &more);
    sut.give(path, &response);
    let (header, payloads) = peer.take(&mut sut);
    (sut, peer, header, payloads)
}

fn accept(peer: &Peer, request: &Payloads, used: bool) -> Vec<Payload> {
    let mut answer = peer.proof();
    answer.extend(used.then(|| Payload::Notify(Notify::new(NotifyType::PPK_IDENTITY))));
    answer.extend(child_answer(request, PEER_SPI, ChildContext::Auth));
    answer
}

#[test]
fn we_name_the_key_and_all_later_keys_come_from_it() {
    for required in [true, false] {
        let (mut sut, mut peer, header, request) = we_begin(required, true);
        let named = request.notify(NotifyType::PPK_IDENTITY).unwrap();
        assert_eq!(named.named_ppk(), Ok(NAME));
        let plain = request.notify(NotifyType::NO_PPK_AUTH);
        assert_eq!(plain.is_some(), !required);
        assert!(plain.is_none_or(|plain| proves(&peer, &request, &plain.data)));
        mix_in(&mut peer, KEY);
        assert!(proves(&peer, &request, &request.auth().unwrap().data));
        let answer = accept(&peer, &request, true);
        peer.reply(&mut sut, &header, &answer);
        let (confirm, _) = peer.take(&mut sut);
        peer.reply(&mut sut, &confirm, &[]);
        assert_eq!(sut.halves(), (1, 1));
        // SK_d has the key in it: the heir of a rekey can be spoken with.
        sut.command(Command::RekeyIke { peer: PEER });
        let (header, request) = peer.take(&mut sut);
        let (mut heir, answer) = answer_ike_rekey(&mut peer, &request, [8; 32]);
        peer.reply(&mut sut, &header, &answer);
        sut.sent.clear();
        heir.confirm(&mut sut);
    }
}

#[test]
fn where_it_is_optional_both_ends_do_without() {
    // The responder has none at all.
    let (mut sut, mut peer, header, request) = we_begin(false, false);
    assert!(request.notify(NotifyType::PPK_IDENTITY).is_none());
    assert!(proves(&peer, &request, &request.auth().unwrap().data));
    let answer = accept(&peer, &request, false);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (1, 1));

    // It has one of another name.
    let (mut sut, mut peer, header, request) = we_begin(false, true);
    let answer = accept(&peer, &request, false);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.halves(), (1, 1));

    // The initiator has none, or one of another name.
    for says in [false, true] {
        let mut sut = Sut::with(with_key(answering(1), false));
        let mut peer = begun(&mut sut, says);
        let plain = peer.proof();
        let mut payloads = plain.clone();
        if says {
            let data = auth_data(&plain);
            let other = peer.keys.auth.with_ppk(peer.provider, b"another key").unwrap();
            payloads = proof_with(&peer, &other);
            payloads.push(Payload::Notify(Notify::ppk_identity(b"another name")));
            payloads.push(Payload::Notify(Notify::with_data(NotifyType::NO_PPK_AUTH, data)));
        }
        payloads.extend(child());
        let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        assert!(answer.notify(NotifyType::PPK_IDENTITY).is_none());
        assert!(proves(&peer, &answer, &answer.auth().unwrap().data));
        assert!(answer.security_association().is_some());
    }
}

/// The data in AUTH.
fn auth_data(payloads: &[Payload]) -> Vec<u8> {
    let mut data = payloads.iter().filter_map(|payload| {
        if let Payload::Auth(auth) = payload {
            Some(auth.data.clone())
        } else {
            None
        }
    });
    data.next().unwrap()
}

/// The proof of the peer with other keys than it has.
fn proof_with(peer: &Peer, keys: &crypto::AuthKeys) -> Vec<Payload> {
    let id = Identification::from(&Identity::Fqdn(name_of(2)));
    let octets = SignedOctets::new(
        peer.provider,
        keys,
        Role::Initiator,
        &peer.messages.0,
        &peer.nonces.1,
        &id,
    );
    let data = psk_auth(peer.provider, keys.prf(), SECRET, &octets)
        .expose()
        .to_vec();
    vec![
        Payload::IdInitiator(id),
        Payload::Auth(wire::Auth {
            method: wire::AuthMethod::SHARED_KEY,
            data,
        }),
    ]
}

#[test]
fn where_it_is_required_there_is_no_way_without() {
    // The responder announces none.
    let mut sut = Sut::with(with_key(configured(1), true));
    let (path, request) = sut.take();
    let (_, response) = Peer::answer_init(&request, &[]);
    sut.give(path, &response);
    sut.assert_silent();
    sut.pass(std::time::Duration::from_secs(2));
    assert_eq!(sut.failures(), [Failure::Authentication]);

    // It does not use it.
    let (mut sut, mut peer, header, request) = we_begin(true, true);
    let answer = accept(&peer, &request, false);
    peer.reply(&mut sut, &header, &answer);
    assert_eq!(sut.endpoint.counts().ike_sas, 0);

    // The initiator announces none, names another, proves itself with another key of the name, or names none.
    for (says, named, key) in [
        (false, None, None),
        (true, Some(&b"another name"[..]), Some(KEY)),
        (true, Some(NAME), Some(&b"another key of the same name....."[..])),
        (true, None, None),
    ] {
        let mut sut = Sut::with(with_key(answering(1), true));
        let mut peer = begun(&mut sut, says);
        let plain = auth_data(&peer.proof());
        if let Some(key) = key {
            mix_in(&mut peer, key);
        }
        let mut payloads = peer.proof();
        payloads.extend(named.map(|name| Payload::Notify(Notify::ppk_identity(name))));
        let plain = Notify::with_data(NotifyType::NO_PPK_AUTH, plain);
        payloads.push(Payload::Notify(plain));
        payloads.extend(child());
        let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        assert_eq!(
            kinds(&answer),
            [NotifyType::AUTHENTICATION_FAILED],
            "{says} {named:?}"
        );
        assert_eq!(sut.failures(), [Failure::Authentication]);
    }
}

#[test]
fn a_wrong_key_is_refused_even_where_none_would_do() {
    let mut sut = Sut::with(with_key(answering(1), false));
    let mut peer = begun(&mut sut, true);
    mix_in(&mut peer, b"another key of the same name.....");
    let mut payloads = peer.proof();
    payloads.push(Payload::Notify(Notify::ppk_identity(NAME)));
    payloads.extend(child());
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    let shown = format!("{:?}", sut.events);
    assert!(
        shown.contains("vault-7") && !shown.contains("quantum age"),
        "{shown}"
    );
}

#[test]
fn the_key_is_mixed_in_as_the_rfc_says() {
    // SK_pi' = prf+ (PPK, SK_pi), spelled out: one block, so HMAC over SK_pi and the counter (RFC 8784 §3).
    let mut sut = Sut::with(with_key(answering(1), true));
    let mut peer = begun(&mut sut, true);
    let keyed = |key: &[u8]| peer.provider.prf.keyed(Prf::HmacSha384, key);
    let sk_pi = keyed(KEY).apply(&[peer.sk_pi.as_slice(), &[1]]);
    let id = Identification::from(&peer.identity);
    let maced = keyed(sk_pi.expose()).apply(&[&id.body()]);
    let octets = [&peer.messages.0, peer.nonces.1.as_bytes(), maced.expose()].concat();
    let inner = keyed(SECRET).apply(&[b"Key Pad for IKEv2"]);
    let data = keyed(inner.expose()).apply(&[&octets]).expose().to_vec();
    let mut payloads = vec![
        Payload::IdInitiator(id),
        Payload::Auth(wire::Auth {
            method: wire::AuthMethod::SHARED_KEY,
            data,
        }),
        Payload::Notify(Notify::ppk_identity(NAME)),
    ];
    payloads.extend(child());
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
}
