//! Ciphers with an integrity algorithm of their own: encrypt, then authenticate, and never one without the other.

use ipsecmesh_ike::crypto::{self, ChildContext};
use ipsecmesh_ike::wire::{ExchangeType, SecurityAssociation, Spi};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::Peer;
use crate::sut::{Sut, answering};
use crate::talk::auth_payloads;

fn separate() -> PeerConfig {
    let mut config = answering(1);
    for proposal in &mut config.ike_proposals {
        proposal.encryption = vec![Encryption::AesCbcKey256];
        proposal.integrity = vec![Integrity::HmacSha256];
    }
    config
}

fn established() -> (Sut, Peer) {
    let mut sut = Sut::with(separate());
    let mut draft = Draft::new(1);
    draft.proposals = separate().ike_proposals;
    let mut peer = draft.exchange(&mut sut);
    let payloads = auth_payloads(&peer);
    let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
    assert!(answer.auth().is_some());
    peer.confirm(&mut sut);
    assert_eq!(sut.halves(), (1, 1));
    (sut, peer)
}

#[test]
fn a_message_opens_only_with_its_check_value() {
    let (mut sut, mut peer) = established();
    let request = peer.request(ExchangeType::INFORMATIONAL, &[]);
    // Header, head of SK, IV, one block, check value.
    assert_eq!(request.len(), 28 + 4 + 16 + 16 + 16);
    for position in 16..request.len() {
        let mut forged = request.clone();
        forged[position] ^= 1;
        let disposition = sut.give(peer.path, &forged);
        assert!(matches!(disposition, Disposition::Dropped(_)), "byte {position}");
    }
    for length in 0..request.len() {
        sut.give(peer.path, &request[..length]);
    }
    sut.assert_silent();
    sut.give(peer.path, &request);
    let (header, payloads) = peer.open(&sut.take().1);
    assert!(header.flags.is_response() && payloads.as_slice().is_empty());
}

#[test]
fn ciphers_without_integrity_are_neither_offered_nor_chosen() {
    let ours = separate().ike_proposals;
    let offer = crypto::ike_offer(&ours, &Spi::Absent);
    assert!(crypto::select_ike(&ours, &offer).is_some());
    let edited = |edit: fn(&mut Vec<wire::Transform>)| {
        let mut offer: SecurityAssociation = offer.clone();
        edit(&mut offer.proposals[0].transforms);
        offer
    };
    let without = edited(|all| all.retain(|t| t.kind != wire::TransformType::INTEG));
    assert!(crypto::select_ike(&ours, &without).is_none(), "no integrity");
    let none = edited(|all| {
        all.retain(|t| t.kind != wire::TransformType::INTEG);
        all.push(wire::Transform::no_integrity());
    });
    assert!(crypto::select_ike(&ours, &none).is_none(), "NONE as integrity");
    // A combined mode with an integrity algorithm is no match for one without.
    let combined = answering(1).ike_proposals;
    let mut twice = crypto::ike_offer(&combined, &Spi::Absent);
    for proposal in &mut twice.proposals {
        proposal.transforms.push(Integrity::HmacSha256.into());
    }
    assert!(crypto::select_ike(&combined, &twice).is_none());

    let child = ChildProposal {
        protocol: SaProtocol::Esp,
        encryption: vec![Encryption::AesCbcKey128],
        integrity: vec![Integrity::HmacSha512, Integrity::HmacSha256],
        key_exchange: Vec::new(),
        additional: AdditionalKeyExchanges::NONE,
    };
    let one = std::slice::from_ref(&child);
    let spi = Spi::Esp(EspSpi::new(4096).unwrap());
    let offer = crypto::child_offer(one, true, ChildContext::Auth, &spi);
    let chosen = crypto::select_child(one, true, ChildContext::Auth, &offer).unwrap();
    assert_eq!(chosen.suite.integrity, Some(Integrity::HmacSha512));
    let mut response = chosen.response(spi);
    assert!(crypto::confirm_child(one, true, ChildContext::Auth, &response).is_ok());
    response.proposals[0]
        .transforms
        .retain(|t| t.kind != wire::TransformType::INTEG);
    assert!(crypto::confirm_child(one, true, ChildContext::Auth, &response).is_err());
}

#[test]
fn a_configuration_that_mixes_is_refused_by_name() {
    let mut sut = Sut::with(answering(1));
    let now = sut.now();
    let mut refused = |edit: fn(&mut PeerConfig)| {
        let mut config = answering(1);
        edit(&mut config);
        let upsert = Command::UpsertPeer(Box::new(config));
        match sut.endpoint.handle_command(upsert, now) {
            Err(CommandError::Invalid(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let cbc = |config: &mut PeerConfig| config.ike_proposals[0].encryption = vec![Encryption::AesCbcKey256];
    assert!(refused(cbc).contains("ike_proposals: AES-CBC needs an integrity algorithm"));
    let twice = |config: &mut PeerConfig| config.ike_proposals[0].integrity = vec![Integrity::HmacSha256];
    assert!(refused(twice).contains("ike_proposals"));
    let child = |config: &mut PeerConfig| {
        config.children[0].proposals[0].encryption = vec![Encryption::AesCbcKey256];
    };
    assert!(refused(child).contains("children.proposals: AES-CBC and AH need"));
}
