//! The kinds of identities of RFC 7296 §3.5: each is sent, and accepted from the peer in whatever form means the same.

use ipsecmesh_ike::wire::{ExchangeType, NotifyType};
use ipsecmesh_ike::*;

use crate::draft::Draft;
use crate::peer::kinds;
use crate::sut::{Sut, answering, configured};
use crate::talk::{auth_answer, auth_payloads, we_began};

/// `CN=<name>` with a string type of its own.
fn name(tag: u8, name: &str) -> Identity {
    let length = u8::try_from(name.len()).unwrap();
    let mut der = vec![
        0x30,
        length + 11,
        0x31,
        length + 9,
        0x30,
        length + 7,
        6,
        3,
        0x55,
        4,
        3,
        tag,
        length,
    ];
    der.extend_from_slice(name.as_bytes());
    Identity::Dn(DistinguishedName::from_der(&der).unwrap())
}

fn email(address: &str) -> Identity {
    Identity::Email(address.to_owned())
}

fn fqdn(name: &str) -> Identity {
    Identity::Fqdn(name.to_owned())
}

/// What is configured, what the peer sends, and whether both are the same.
fn table() -> Vec<(Identity, Identity, bool)> {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    let key_id = |bytes: &[u8]| Identity::KeyId(bytes.to_vec());
    let address = |text: &str| Identity::Address(text.parse().unwrap());
    vec![
        (fqdn("vpn.example.com"), fqdn("VPN.example.com"), true),
        (fqdn("vpn.example.com"), fqdn("vpn.example.com."), false),
        (email("vpn@example.com"), email("vpn@EXAMPLE.com"), true),
        (email("vpn@example.com"), email("VPN@example.com"), false),
        (email("vpn@example.com"), fqdn("vpn@example.com"), false),
        (address("192.0.2.7"), address("192.0.2.7"), true),
        (address("192.0.2.7"), address("192.0.2.8"), false),
        (address("2001:db8::7"), address("2001:db8::7"), true),
        (name(UTF8, "vpn"), name(PRINTABLE, "VPN"), true),
        (name(UTF8, "vpn"), name(UTF8, "vpn2"), false),
        (key_id(b"db-3"), key_id(b"db-3"), true),
        (key_id(b"db-3"), key_id(b"DB-3"), false),
        (key_id(b"vpn"), fqdn("vpn"), false),
    ]
}

#[test]
fn an_initiator_is_known_by_every_kind_of_identity() {
    for (expected, sent, same) in table() {
        let mut config = answering(1);
        config.remote_identity = expected.clone();
        let mut sut = Sut::with(config);
        let mut peer = Draft::new(1).exchange(&mut sut);
        peer.identity = sent;
        let payloads = auth_payloads(&peer);
        let answer = peer.ask(&mut sut, ExchangeType::IKE_AUTH, &payloads);
        assert_eq!(answer.auth().is_some(), same, "{expected} {}", peer.identity);
        if !same {
            assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
            let told = sut.last_detail();
            let both = told.contains(&expected.to_string()) && told.contains(&peer.identity.to_string());
            assert!(both && told.contains("correct the identity"), "{told}");
        }
    }
}

#[test]
fn a_responder_is_known_by_every_kind_of_identity_and_told_our_own() {
    for (expected, sent, same) in table() {
        let mut config = configured(1);
        config.remote_identity = expected.clone();
        config.local_identity = expected.clone();
        let (mut sut, mut peer, header, request) = we_began(config);
        let ours = request.id_initiator().and_then(wire::Identification::identity);
        assert_eq!(ours.as_ref(), Some(&expected));
        peer.identity = sent;
        let answer = auth_answer(&peer, &request);
        peer.reply(&mut sut, &header, &answer);
        assert_eq!(sut.halves() == (1, 1), same, "{expected} {}", peer.identity);
    }
}
