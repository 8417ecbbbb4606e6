//! Proof of identity (RFC 7296 §2.15, §2.21.2, RFC 7427): one and the same refusal for all that is wrong.

use std::time::Duration;

use ipsecmesh_ike::crypto::{SignedOctets, psk_auth};
use ipsecmesh_ike::wire::{
    Auth, AuthMethod, Certificate, CertificateEncoding, CertificateRequest, ExchangeType, HashAlgorithm,
    Identification, Notify, NotifyType, Payload, Payloads, Role, SignatureAuth,
};
use ipsecmesh_ike::*;
use zeroize::Zeroizing;

use crate::draft::Draft;
use crate::peer::{Peer, clear, kinds};
use crate::support::{cheap, name_of, peer_config};
use crate::sut::{SECRET, Sut, answering, configured, path_to};
use crate::talk::{auth_answer, auth_payloads, peer_began, we_began};

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
    let algorithm = SignatureAlgorithm::EcdsaSha256;
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
fn a_secret_that_is_being_changed_is_accepted_old_and_new_and_answered_with_the_same() {
    for ours in [SECRET, b"the new secret"] {
        let mut config = answering(1);
        config.auth = PeerAuth::Psk {
            current: Zeroizing::new(b"the new secret".to_vec()),
            previous: Some(Zeroizing::new(SECRET.to_vec())),
        };
        let mut expected = Vec::new();
        let (sut, answer) = asked(config, |peer| {
            peer.secret = ours.to_vec();
            let id = Identification::from(&Identity::Fqdn(name_of(1)));
            let (message, nonce) = (&peer.messages.1, &peer.nonces.0);
            let keys = &peer.keys.auth;
            let octets = SignedOctets::new(peer.provider, keys, Role::Responder, message, nonce, &id);
            let mac = psk_auth(peer.provider, keys.prf(), ours, &octets);
            expected = mac.expose().to_vec();
            auth_payloads(peer)
        });
        assert_eq!(sut.endpoint.counts().ike_sas, 1);
        // A peer that has not heard of the new secret could not verify it.
        assert_eq!(answer.auth().map(|auth| &auth.data), Some(&expected));
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
fn the_hashes_that_we_announce_are_those_that_we_verify() {
    let announced = [
        HashAlgorithm::SHA2_256,
        HashAlgorithm::SHA2_384,
        HashAlgorithm::SHA2_512,
        HashAlgorithm::IDENTITY,
    ];
    let (_, request) = Sut::with(peer_config(1, 2, 1)).take();
    let (_, request) = clear(&request);
    let hashes = request.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).unwrap();
    assert_eq!(hashes.announced_hashes().unwrap(), announced);
    let response = answer_to_init();
    let hashes = response.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).unwrap();
    assert_eq!(hashes.announced_hashes().unwrap(), announced);
}

#[test]
fn a_hash_that_we_have_not_announced_is_refused() {
    // sha1WithRSAEncryption and ecdsa-with-SHA1 (RFC 7427 §A.1, §A.3).
    let identifiers: [&[u8]; 2] = [
        &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
        ],
        &[0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
    ];
    for identifier in identifiers {
        let (sut, answer) = asked(with_certificates(), |peer| {
            let genuine = Payloads::from(signed(peer, &name_of(2), &name_of(2)));
            let data = &genuine.auth().unwrap().data;
            let signature = &data[1 + usize::from(data[0])..];
            let length = u8::try_from(identifier.len()).unwrap();
            let mut payloads = signed(peer, &name_of(2), &name_of(2));
            payloads.retain(|payload| !matches!(payload, Payload::Auth(_)));
            payloads.push(Payload::Auth(Auth {
                method: AuthMethod::DIGITAL_SIGNATURE,
                data: [&[length], identifier, signature].concat(),
            }));
            payloads
        });
        let said = format!("{:?}", sut.events);
        assert!(said.contains("AUTH.algorithm"), "{said}");
        refused((sut, answer));
    }
}

#[test]
fn certificates_are_asked_for_where_the_peer_can_still_answer() {
    let response = answer_to_init();
    let asked_for: Vec<_> = response
        .certificate_requests()
        .flat_map(CertificateRequest::authorities)
        .collect();
    assert_eq!(asked_for, [&[7; 20]]);
    let mut sut = Sut::with(peer_config(1, 2, 1));
    let (path, request) = sut.take();
    let (peer, response) = Peer::answer_init(&request, &[hashes()]);
    sut.give(path, &response);
    let (_, payloads) = peer.take(&mut sut);
    assert_eq!(payloads.certificate_requests().count(), 1);
    let (_, _, _, payloads) = we_began(configured(1));
    assert_eq!(
        payloads.certificate_requests().count(),
        0,
        "a secret needs no certificate"
    );
}

#[test]
fn chains_are_bounded_before_anybody_looks_into_them() {
    let with_more = |count: usize, length: usize| {
        asked(with_certificates(), |peer| {
            let mut payloads = signed(peer, &name_of(2), &name_of(2));
            let more = Payload::Certificate(Certificate::x509(vec![0x30; length]));
            payloads.extend(vec![more; count]);
            payloads
        })
    };
    let (sut, _) = with_more(7, 10);
    assert_eq!(sut.endpoint.counts().ike_sas, 1, "a leaf and seven more");
    refused(with_more(8, 10));
    refused(with_more(1, 8193));
}

#[test]
fn other_kinds_of_certificates_are_not_looked_at() {
    let (sut, _) = asked(with_certificates(), |peer| {
        let mut payloads = signed(peer, &name_of(2), &name_of(2));
        // A hash and URL (RFC 7296 §3.6) that we have not asked for.
        payloads.insert(
            0,
            Payload::Certificate(Certificate {
                encoding: CertificateEncoding::HASH_URL_X509,
                data: vec![1; 40],
            }),
        );
        payloads
    });
    assert_eq!(sut.endpoint.counts().ike_sas, 1);
}

/// The response of IKE_SA_INIT where certificates are configured.
fn answer_to_init() -> Payloads {
    let mut sut = Sut::with(with_certificates());
    let mut draft = Draft::new(1);
    draft.more = vec![hashes()];
    clear(&sut.ask(path_to(2, 500, 500), &draft.request())).1
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

/// RFC 7296 §2.21.2: an initiator that does not accept the responder's proof says so in an exchange of its own. The SA is
/// gone at its end, and a pair that stayed here would send into nothing.
#[test]
fn an_initiator_that_refuses_our_proof_afterwards_takes_the_sa_with_it() {
    let (mut sut, mut peer, _) = peer_began();
    let refusal = Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED));
    let answer = peer.ask(&mut sut, ExchangeType::INFORMATIONAL, &[refusal]);
    assert!(answer.as_slice().is_empty());
    assert_eq!(sut.failures(), [Failure::Authentication]);
    assert_eq!(sut.halves(), (1, 0), "nothing is sent any more");
    sut.pass(Duration::from_secs(12));
    assert_eq!(sut.halves(), (0, 0));
    assert_eq!(sut.endpoint.counts().ike_sas, 0);
}
