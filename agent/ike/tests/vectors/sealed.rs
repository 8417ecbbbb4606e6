//! Sealed messages between two ends, each with either provider; AUTH; and that nothing shows a key.

use ipsecmesh_ike::crypto::{
    ChildKeymat, ChildSuite, CryptoError, IkeKeys, IkeSuite, Provider, Secret, SignedOctets, Skeyseed,
    psk_auth,
};
use ipsecmesh_ike::wire::{
    Body, ExchangeType, Flags, Header, Identification, Malformation, Message, MessageId, Nonce, Notify,
    NotifyType, Payload, PayloadType, Role, Unknown, Version,
};
use ipsecmesh_ike::{AdditionalKeyExchanges, Encryption, Identity, IkeSpi, KeyExchange, Prf};

use super::PROVIDERS;

const SUITES: [IkeSuite; 4] = [
    suite(Encryption::AesGcm16Key128, Prf::HmacSha256),
    suite(Encryption::AesGcm16Key128, Prf::HmacSha384),
    suite(Encryption::AesGcm16Key256, Prf::HmacSha256),
    suite(Encryption::AesGcm16Key256, Prf::HmacSha384),
];

const fn suite(encryption: Encryption, prf: Prf) -> IkeSuite {
    IkeSuite {
        encryption,
        integrity: None,
        prf,
        key_exchange: KeyExchange::X25519,
        additional: AdditionalKeyExchanges::NONE,
    }
}

fn nonces() -> (Nonce, Nonce) {
    (Nonce::from([1; 32]), Nonce::from([2; 32]))
}

fn keys(provider: &Provider, suite: IkeSuite, role: Role) -> IkeKeys {
    let (nonce_i, nonce_r) = nonces();
    let shared = Secret::from(&[3; 32][..]);
    let (spi_i, spi_r) = (IkeSpi::new(4).unwrap(), IkeSpi::new(5).unwrap());
    Skeyseed::initial(provider, suite, &shared, &nonce_i, &nonce_r)
        .into_ike_keys(provider, spi_i, spi_r, role)
        .unwrap()
}

fn header(exchange: ExchangeType) -> Header {
    Header {
        initiator_spi: IkeSpi::new(4).unwrap(),
        responder_spi: IkeSpi::new(5),
        version: Version::V2_0,
        exchange,
        flags: Flags::request(Role::Initiator),
        message_id: MessageId(1),
    }
}

fn payloads() -> Vec<Payload> {
    vec![
        Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
        Payload::Nonce(Nonce::from([6; 32])),
        Payload::Unknown(Unknown {
            kind: PayloadType(200),
            body: vec![7; 9],
        }),
    ]
}

fn envelope(datagram: &[u8]) -> ipsecmesh_ike::wire::Envelope {
    match Message::parse(datagram).unwrap().body().unwrap() {
        Body::Protected(envelope) => envelope,
        Body::Fragment(_) | Body::Plain(_) => panic!("not sealed as a whole"),
    }
}

#[test]
fn each_end_opens_what_the_other_sealed_with_either_provider() {
    for suite in SUITES {
        for (ours, theirs) in PROVIDERS
            .into_iter()
            .flat_map(|a| PROVIDERS.into_iter().map(move |b| (a, b)))
        {
            let mut initiator = keys(ours, suite, Role::Initiator);
            let mut responder = keys(theirs, suite, Role::Responder);
            for chain in [payloads(), vec![]] {
                let header = header(ExchangeType::IKE_AUTH);
                let mut datagram = initiator.sealer.seal(ours, &header, &chain).unwrap();
                let at = envelope(&datagram);
                let opened = responder
                    .opener
                    .open(theirs, &mut datagram, at)
                    .unwrap()
                    .into_inner();
                assert_eq!(opened.header, header);
                assert_eq!(opened.payloads.unwrap().as_slice(), chain);

                let mut datagram = responder.sealer.seal(theirs, &header, &chain).unwrap();
                let at = envelope(&datagram);
                let opened = initiator.opener.open(ours, &mut datagram, at).unwrap();
                assert_eq!(opened.get().payloads.as_ref().unwrap().as_slice(), chain);
            }
        }
    }
}

#[test]
fn no_iv_occurs_twice_and_no_end_opens_its_own() {
    let provider = PROVIDERS[0];
    let mut keys = keys(provider, SUITES[0], Role::Initiator);
    let header = header(ExchangeType::INFORMATIONAL);
    let mut ivs = Vec::new();
    for _ in 0..100 {
        let mut datagram = keys.sealer.seal(provider, &header, &[]).unwrap();
        ivs.push(datagram[32..40].to_vec());
        let at = envelope(&datagram);
        let opened = keys.opener.open(provider, &mut datagram, at);
        assert_eq!(opened.err(), Some(CryptoError::Unauthenticated));
    }
    ivs.dedup();
    assert_eq!(ivs.len(), 100);
}

/// Header, generic header of SK, IV, ciphertext and check value: all of it is covered.
#[test]
fn r1_every_changed_byte_and_every_truncation_is_refused() {
    for provider in PROVIDERS {
        let mut initiator = keys(provider, SUITES[3], Role::Initiator);
        let responder = keys(provider, SUITES[3], Role::Responder);
        let sealed = initiator
            .sealer
            .seal(provider, &header(ExchangeType::IKE_AUTH), &payloads())
            .unwrap();
        let at = envelope(&sealed);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 0x10;
            let opened = responder.opener.open(provider, &mut changed, at);
            assert_eq!(opened.err(), Some(CryptoError::Unauthenticated), "byte {index}");

            let mut cut = sealed[..index].to_vec();
            if index >= 28 {
                cut[24..28].copy_from_slice(&u32::try_from(index).unwrap().to_be_bytes());
            }
            let opened = responder.opener.open(provider, &mut cut, at);
            assert_eq!(opened.err(), Some(CryptoError::Unauthenticated), "length {index}");
        }
    }
}

/// Seals `content`, padding and pad length as they are.
fn seal_raw(provider: &Provider, kind: PayloadType, first: u8, fixed: &[u8], content: &[u8]) -> Vec<u8> {
    // An end's own sealer fixes the padding, so the raw key is taken from the same derivation by its definition.
    let (nonce_i, nonce_r) = nonces();
    let skeyseed = provider
        .prf
        .keyed(
            Prf::HmacSha256,
            &[nonce_i.as_bytes(), nonce_r.as_bytes()].concat(),
        )
        .apply(&[&[3; 32]]);
    let seed = [
        nonce_i.as_bytes(),
        nonce_r.as_bytes(),
        &4_u64.to_be_bytes(),
        &5_u64.to_be_bytes(),
    ]
    .concat();
    let key = provider.prf.keyed(Prf::HmacSha256, skeyseed.expose());
    let material = ipsecmesh_ike::crypto::prf_plus(key.as_ref(), &[&seed], 32 + 20).unwrap();
    let sk_ei = &material.expose()[32..52];

    let mut datagram = ipsecmesh_ike::wire::encode(&header(ExchangeType::IKE_AUTH), &[]).unwrap();
    datagram[16] = kind.0;
    let length = u16::try_from(4 + fixed.len() + 8 + content.len() + 16).unwrap();
    datagram.extend_from_slice(&[first, 0]);
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(fixed);
    let total = u32::from(length) + 28;
    datagram[24..28].copy_from_slice(&total.to_be_bytes());
    let iv = [9; 8];
    let nonce: [u8; 12] = [&sk_ei[16..], &iv].concat().try_into().unwrap();
    let mut sealed = content.to_vec();
    provider
        .aead
        .seal(
            Encryption::AesGcm16Key128,
            &sk_ei[..16],
            &nonce,
            &datagram,
            &mut sealed,
        )
        .unwrap();
    datagram.extend_from_slice(&iv);
    datagram.extend_from_slice(&sealed);
    datagram
}

#[test]
fn padding_of_any_content_is_taken_off_and_a_wrong_length_is_refused() {
    let provider = PROVIDERS[0];
    let responder = keys(provider, SUITES[0], Role::Responder);
    let notify = [0, 0, 0, 8, 0, 0, 0x40, 0];
    let open = |content: &[u8]| {
        let mut datagram = seal_raw(provider, PayloadType::SK, 41, &[], content);
        let at = envelope(&datagram);
        responder
            .opener
            .open(provider, &mut datagram, at)
            .map(|opened| opened.into_inner().payloads)
    };
    let payloads = open(&[&notify[..], &[0xaa, 0xbb, 2]].concat()).unwrap().unwrap();
    assert!(payloads.notify(NotifyType::INITIAL_CONTACT).is_some());
    assert_eq!(
        open(&[&notify[..], &[9]].concat()).unwrap_err(),
        CryptoError::Unauthenticated
    );
    assert_eq!(open(&[]).unwrap_err(), CryptoError::Unauthenticated);
    // What the peer sealed wrongly is authentic all the same: it is answered, not dropped.
    let error = open(&[&notify[..7], &[0]].concat()).unwrap().unwrap_err();
    assert_eq!(error.malformation, Malformation::Truncated);
}

#[test]
fn r1_a_fragment_is_opened_by_its_own_check_value_before_it_can_be_kept() {
    for provider in PROVIDERS {
        let responder = keys(provider, SUITES[0], Role::Responder);
        let sealed = seal_raw(provider, PayloadType::SKF, 41, &[0, 2, 0, 3], &[1, 2, 3, 0]);
        let Body::Fragment(at) = Message::parse(&sealed).unwrap().body().unwrap() else {
            panic!("no fragment")
        };
        let fragment = responder
            .opener
            .open_fragment(provider, &mut sealed.clone(), at)
            .unwrap()
            .into_inner();
        assert_eq!((fragment.position.number(), fragment.position.total()), (2, 3));
        assert_eq!(fragment.content, [1, 2, 3]);
        assert_eq!(fragment.header, header(ExchangeType::IKE_AUTH));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            let opened = responder.opener.open_fragment(provider, &mut changed, at);
            assert_eq!(opened.err(), Some(CryptoError::Unauthenticated), "byte {index}");
        }
    }
}

#[test]
fn both_ends_of_a_child_sa_have_the_same_keys_in_opposite_directions() {
    let (nonce_i, nonce_r) = nonces();
    let [a, b] = PROVIDERS;
    for suite in SUITES {
        let child = ChildSuite {
            protocol: ipsecmesh_ike::SaProtocol::Esp,
            encryption: Some(suite.encryption),
            integrity: None,
            key_exchange: None,
            additional: AdditionalKeyExchanges::NONE,
            esn: true,
        };
        let derive = |provider: &Provider, ike_role, role| {
            let keys = keys(provider, suite, ike_role);
            ChildKeymat::derive(provider, &keys.d, child, None, &[], &nonce_i, &nonce_r)
                .unwrap()
                .into_keys(role)
        };
        // The responder of the IKE SA may well be the initiator of the CHILD SA.
        let ours = derive(a, Role::Initiator, Role::Responder);
        let theirs = derive(b, Role::Responder, Role::Initiator);
        assert_eq!(ours.inbound.0, theirs.outbound.0);
        assert_eq!(ours.outbound.0, theirs.inbound.0);
        assert_ne!(ours.inbound.0, ours.outbound.0);
        assert_eq!(ours.inbound.0.len(), suite.encryption.key_length() + 4);
    }
}

#[test]
fn a_shared_secret_without_a_key_exchange_in_the_suite_is_refused() {
    let (nonce_i, nonce_r) = nonces();
    let provider = PROVIDERS[0];
    let keys = keys(provider, SUITES[0], Role::Initiator);
    let shared = Secret::from(&[1; 32][..]);
    for (key_exchange, shared) in [(None, Some(&shared)), (Some(KeyExchange::X25519), None)] {
        let suite = ChildSuite {
            protocol: ipsecmesh_ike::SaProtocol::Esp,
            encryption: Some(Encryption::AesGcm16Key128),
            integrity: None,
            key_exchange,
            additional: AdditionalKeyExchanges::NONE,
            esn: false,
        };
        let keymat = ChildKeymat::derive(provider, &keys.d, suite, shared, &[], &nonce_i, &nonce_r);
        assert_eq!(keymat.unwrap_err(), CryptoError::InvalidLength);
    }
}

#[test]
fn a_shared_key_proves_exactly_what_was_signed() {
    let (nonce_i, nonce_r) = nonces();
    let id = Identification::from(&Identity::Fqdn("a.example".into()));
    let [a, b] = PROVIDERS;
    let (initiator, responder) = (
        keys(a, SUITES[3], Role::Initiator),
        keys(b, SUITES[3], Role::Responder),
    );
    let octets = |provider, keys: &IkeKeys, signer, message, nonce| {
        SignedOctets::new(provider, &keys.auth, signer, message, nonce, &id)
    };
    let sent = octets(a, &initiator, Role::Initiator, b"message 1", &nonce_r);
    let auth = psk_auth(a, initiator.auth.prf(), b"secret", &sent);
    let expected = octets(b, &responder, Role::Initiator, b"message 1", &nonce_r);
    assert!(auth.constant_time_eq(psk_auth(b, responder.auth.prf(), b"secret", &expected).expose()));
    // By the definition of RFC 7296 §2.15.
    let pad_key = a
        .prf
        .keyed(Prf::HmacSha384, b"secret")
        .apply(&[b"Key Pad for IKEv2"]);
    assert!(
        auth.constant_time_eq(
            a.prf
                .keyed(Prf::HmacSha384, pad_key.expose())
                .apply(&[sent.as_bytes()])
                .expose()
        )
    );
    assert!(
        sent.as_bytes()
            .starts_with(&[b"message 1", nonce_r.as_bytes()].concat())
    );

    let others = [
        psk_auth(b, Prf::HmacSha384, b"Secret", &expected),
        psk_auth(
            b,
            Prf::HmacSha384,
            b"secret",
            &octets(b, &responder, Role::Responder, b"message 1", &nonce_r),
        ),
        psk_auth(
            b,
            Prf::HmacSha384,
            b"secret",
            &octets(b, &responder, Role::Initiator, b"message 2", &nonce_r),
        ),
        psk_auth(
            b,
            Prf::HmacSha384,
            b"secret",
            &octets(b, &responder, Role::Initiator, b"message 1", &nonce_i),
        ),
    ];
    for other in others {
        assert!(!auth.constant_time_eq(other.expose()));
    }
}

#[test]
fn r4_no_debug_output_shows_a_key() {
    let (nonce_i, nonce_r) = nonces();
    let provider = PROVIDERS[0];
    let secret = Secret::from(&[0xc5; 32][..]);
    let skeyseed = Skeyseed::initial(provider, SUITES[3], &secret, &nonce_i, &nonce_r);
    let shown = format!("{skeyseed:?} {skeyseed:#?} {secret:?}");
    let keys = keys(provider, SUITES[3], Role::Initiator);
    let child = ChildSuite {
        protocol: ipsecmesh_ike::SaProtocol::Esp,
        encryption: Some(Encryption::AesGcm16Key256),
        integrity: None,
        key_exchange: None,
        additional: AdditionalKeyExchanges::NONE,
        esn: true,
    };
    let keymat = ChildKeymat::derive(provider, &keys.d, child, None, &[], &nonce_i, &nonce_r).unwrap();
    let shown = format!("{shown} {keys:?} {keymat:?}");
    let child_keys = keymat.into_keys(Role::Initiator);
    let shown = format!("{shown} {child_keys:?}");
    assert!(shown.contains("redacted"));
    for key in [
        secret.expose(),
        child_keys.inbound.0.as_slice(),
        child_keys.outbound.0.as_slice(),
    ] {
        let decimal = format!("{key:?}");
        let decimal = decimal
            .trim_matches(['[', ']'])
            .split(", ")
            .take(6)
            .collect::<Vec<_>>()
            .join(", ");
        assert!(!shown.contains(&decimal));
    }
}
