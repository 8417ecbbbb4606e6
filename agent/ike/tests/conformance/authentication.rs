//! Proof of identity (RFC 7296 §2.15, §2.21.2, RFC 7427): one and the same refusal for all that is wrong.

use std::time::Duration;

use ipsecmesh_ike::wire::{
    Auth, AuthMethod, Certificate, ExchangeType, HashAlgorithm, Notify, NotifyType, Payload, Payloads,
    SignatureAuth,
};
use ipsecmesh_ike::*;
use zeroize::Zeroizing;

use crate::draft::Draft;
use crate::peer::{Peer, kinds};
use crate::support::{cheap, name_of, peer_config};
use crate::sut::{SECRET, Sut, answering, configured, path_to};
use crate::talk::{auth_answer, auth_payloads, we_began};

fn hashes() -> Payload {
    Payload::Notify(Notify::hash_algorithms(&[HashAlgorithm::SHA2_256]))
}

fn with_certificates() -> PeerConfig {
    let mut config = peer_config(1, 2, 1);
    config.initiation = Initiation::OnDemand;
    config
}

/// A proof by signature in the name of `certificate`, signed by the key of `signer`.
fn signed(peer: &Peer, certificate: &str, signer: &str) -> Vec<Payload> {
    let signature = cheap::signature(signer.as_bytes(), peer.octets().as_bytes()).to_vec();
    let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
    let mut payloads = peer.proof();
    payloads.retain(|payload| !matches!(payload, Payload::Auth(_)));
    payloads.push(Payload::Certificate(Certificate::x509(
        certificate.as_bytes().to_vec(),
    )));
    payloads.push(Payload::Auth(
        SignatureAuth { algorithm, signature }.to_auth().unwrap(),
    ));
    payloads
}

/// What the engine answers to an IKE_AUTH request that `proof` makes.
fn asked(config: PeerConfig, proof: impl FnOnce(&mut Peer) -> Vec<Payload>) -> (Sut, Payloads) {
    let mut sut = Sut::with(config);
    let mut draft = Draft::new(1);
    draft.more = vec![hashes()];
    let mut peer = draft.exchange(&mut sut);
    let payloads = proof(&mut peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    (sut, answer)
}

fn refused((sut, answer): (Sut, Payloads)) {
    assert_eq!(answer.as_slice().len(), 1, "nothing but the refusal: {answer:?}");
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(sut.failures(), [Failure::Authentication]);
    assert_eq!(sut.endpoint.counts().ike_sas, 0);
    assert_eq!(sut.halves(), (0, 0));
}

#[test]
fn a_shared_secret_proves_both_ends() {
    let (sut, answer) = asked(answering(1), |peer| auth_payloads(peer));
    assert!(answer.auth().is_some() && answer.id_responder().is_some());
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

#[test]
fn a_wrong_secret_a_wrong_identity_and_no_proof_look_the_same() {
    refused(asked(answering(1), |peer| {
        peer.secret = b"another secret".to_vec();
        auth_payloads(peer)
    }));
    refused(asked(answering(1), |peer| {
        peer.identity = Identity::Fqdn(name_of(3));
        auth_payloads(peer)
    }));
    refused(asked(answering(1), |peer| {
        let mut payloads = auth_payloads(peer);
        payloads.retain(|payload| !matches!(payload, Payload::Auth(_)));
        payloads
    }));
    refused(asked(answering(1), |peer| {
        let mut payloads = auth_payloads(peer);
        payloads.retain(|payload| !matches!(payload, Payload::IdInitiator(_)));
        payloads
    }));
    refused(asked(answering(1), |peer| signed(peer, &name_of(2), &name_of(2))));
}

#[test]
fn a_secret_that_is_being_changed_is_accepted_old_and_new() {
    for ours in [SECRET, b"the new secret"] {
        let mut config = answering(1);
        config.auth = PeerAuth::Psk {
            current: Zeroizing::new(b"the new secret".to_vec()),
            previous: Some(Zeroizing::new(SECRET.to_vec())),
        };
        let (sut, _) = asked(config, |peer| {
            peer.secret = ours.to_vec();
            auth_payloads(peer)
        });
        assert_eq!(sut.endpoint.counts().ike_sas, 1);
    }
}

#[test]
fn a_signature_by_the_key_of_the_certificate_proves_the_peer() {
    let (sut, answer) = asked(with_certificates(), |peer| signed(peer, &name_of(2), &name_of(2)));
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
    assert_eq!(answer.auth().unwrap().method, AuthMethod::DIGITAL_SIGNATURE);
    assert_eq!(answer.certificates().count(), 1);
}

#[test]
fn another_certificate_another_key_and_another_method_are_refused() {
    refused(asked(with_certificates(), |peer| {
        signed(peer, &name_of(3), &name_of(3))
    }));
    refused(asked(with_certificates(), |peer| {
        signed(peer, &name_of(2), &name_of(3))
    }));
    refused(asked(with_certificates(), |peer| {
        let mut payloads = signed(peer, &name_of(2), &name_of(2));
        payloads.retain(|payload| !matches!(payload, Payload::Certificate(_)));
        payloads
    }));
    refused(asked(with_certificates(), |peer| auth_payloads(peer)));
    refused(asked(with_certificates(), |peer| {
        peer.identity = Identity::Fqdn(name_of(3));
        signed(peer, &name_of(2), &name_of(2))
    }));
}

#[test]
fn a_signed_hash_of_a_wrong_length_or_form_is_refused() {
    let genuine = |peer: &Peer| {
        let payloads = Payloads::from(signed(peer, &name_of(2), &name_of(2)));
        payloads.auth().unwrap().data.clone()
    };
    let broken: [fn(Vec<u8>) -> Vec<u8>; 5] = [
        |data| data[..data.len() - 1].to_vec(),
        |data| [data, vec![0]].concat(),
        |data| data[..1].to_vec(),
        |_| vec![255; 300],
        |_| Vec::new(),
    ];
    for damage in broken {
        refused(asked(with_certificates(), |peer| {
            let data = damage(genuine(peer));
            let mut payloads = signed(peer, &name_of(2), &name_of(2));
            payloads.retain(|payload| !matches!(payload, Payload::Auth(_)));
            payloads.push(Payload::Auth(Auth {
                method: AuthMethod::DIGITAL_SIGNATURE,
                data,
            }));
            payloads
        }));
    }
}

#[test]
fn nothing_is_signed_with_a_hash_that_the_peer_has_not_announced() {
    let mut sut = Sut::with(with_certificates());
    let mut peer = Draft::new(1).exchange(&mut sut);
    let payloads = signed(&peer, &name_of(2), &name_of(2));
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    refused((sut, answer));
}

#[test]
fn names_are_compared_without_case() {
    let (sut, _) = asked(answering(1), |peer| {
        peer.identity = Identity::Fqdn(name_of(2).to_uppercase());
        auth_payloads(peer)
    });
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

/// The engine has begun, and the responder answers IKE_AUTH with what `proof` makes.
fn answered(config: PeerConfig, proof: impl FnOnce(&mut Peer, &Payloads) -> Vec<Payload>) -> (Sut, Peer) {
    let (mut sut, mut peer, header, payloads) = we_began(config);
    let answer = proof(&mut peer, &payloads);
    peer.reply(&mut sut, &header, &answer);
    (sut, peer)
}

#[test]
fn a_responder_with_a_wrong_secret_or_identity_is_told_and_left() {
    let wrong: [fn(&mut Peer); 2] = [
        |peer| peer.secret = b"another secret".to_vec(),
        |peer| peer.identity = Identity::Fqdn(name_of(3)),
    ];
    for change in wrong {
        let (mut sut, peer) = answered(configured(1), |peer, request| {
            change(peer);
            auth_answer(peer, request)
        });
        let (header, told) = peer.take(&mut sut);
        assert_eq!(header.exchange, ExchangeType::INFORMATIONAL);
        assert_eq!(kinds(&told), [NotifyType::AUTHENTICATION_FAILED]);
        assert_eq!(sut.halves(), (0, 0));
        sut.pass(Duration::from_millis(1100));
        assert_eq!(sut.failures(), [Failure::Authentication]);
    }
}

#[test]
fn after_a_failed_authentication_it_is_tried_again_with_bounded_back_off() {
    let (mut sut, mut peer, header, _) = we_began(configured(1));
    let refusal = [Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED))];
    peer.reply(&mut sut, &header, &refusal);
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        let wait = sut.pass_until_sent(Duration::from_secs(40));
        longest = longest.max(wait);
        let (path, request) = sut.take();
        assert_eq!(path, path_to(2, 500, 500));
        let (mut peer, response) = Peer::answer_init(&request, &[]);
        sut.give(path, &response);
        let (header, _) = peer.take(&mut sut);
        peer.reply(&mut sut, &header, &refusal);
    }
    assert!(longest <= Duration::from_secs(38), "{longest:?}");
    assert_eq!(sut.endpoint.counts().ike_sas, 0);
}

#[test]
fn a_responder_error_without_an_identity_is_understood() {
    let (sut, _) = answered(configured(1), |_, _| {
        vec![Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN))]
    });
    assert_eq!(sut.halves(), (0, 0));
}
