//! `encode(decode(x)) == x`, exact bytes of a message, and what single payloads refuse.

mod samples;

use ipsecmesh_ike::wire::{
    Body, DecodeError, ExchangeType, Flags, Identification, KeyExchangeData, KeyExchangeMethod, Malformation,
    Message, Nonce, Notify, NotifyType, Payload, PayloadType, Payloads, Proposal, Protocol, Role,
    SecurityAssociation, SignatureAuth, Spi, encode,
};
use ipsecmesh_ike::{Encryption, Identity, IkeSpi, KeyExchange, Prf, SignatureAlgorithm};
use proptest::prelude::*;

fn decode(datagram: &[u8]) -> Result<Payloads, DecodeError> {
    match Message::parse(datagram)?.body()? {
        Body::Plain(payloads) => Ok(payloads),
        Body::Fragment(_) | Body::Protected(_) => panic!("no sample is sealed"),
    }
}

/// A message whose chain is `chain`, beginning with a payload of type `first`.
fn datagram(first: PayloadType, chain: &[u8]) -> Vec<u8> {
    let header = samples::header(ExchangeType::IKE_SA_INIT, Flags::request(Role::Initiator), 0);
    let mut datagram = encode(&header, &[]).expect("a header");
    datagram[16] = first.0;
    datagram.extend_from_slice(chain);
    let length = u32::try_from(datagram.len()).expect("short");
    datagram[24..28].copy_from_slice(&length.to_be_bytes());
    datagram
}

/// A payload that ends the chain.
fn last(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 4).expect("short");
    [&[0, 0], length.to_be_bytes().as_slice(), body].concat()
}

fn malformation(first: PayloadType, body: &[u8]) -> Option<(&'static str, Malformation)> {
    decode(&datagram(first, &last(body)))
        .err()
        .map(|error| (error.field, error.malformation))
}

#[test]
fn every_sample_survives_the_round_trip() {
    for sample in samples::all() {
        let bytes = encode(&sample.header, &sample.payloads).expect(sample.name);
        let message = Message::parse(&bytes).expect(sample.name);
        assert_eq!(message.header, sample.header, "{}", sample.name);
        let payloads = decode(&bytes).expect(sample.name);
        assert_eq!(payloads.as_slice(), sample.payloads, "{}", sample.name);
        assert_eq!(
            encode(&message.header, payloads.as_slice()).expect(sample.name),
            bytes,
            "{}",
            sample.name
        );
    }
}

#[test]
fn the_samples_have_every_kind_of_payload() {
    let kinds: Vec<PayloadType> = samples::all()
        .iter()
        .flat_map(|sample| sample.payloads.iter().map(Payload::kind))
        .collect();
    for value in (33..=45).chain([PayloadType::CP.0, 200]) {
        assert!(kinds.contains(&PayloadType(value)), "{}", PayloadType(value));
    }
}

/// Byte for byte from the figures of RFC 7296 §3.1–§3.10, so that encoder and decoder cannot be wrong together.
#[test]
fn exact_bytes_of_an_ike_sa_init_request() {
    let header = samples::header(ExchangeType::IKE_SA_INIT, Flags::request(Role::Initiator), 0);
    let transforms = vec![
        Encryption::AesGcm16Key256.into(),
        Prf::HmacSha384.into(),
        KeyExchange::X25519.into(),
    ];
    let proposal = Proposal {
        number: 1,
        protocol: Protocol::IKE,
        spi: Spi::Absent,
        transforms,
    };
    let payloads = [
        Payload::SecurityAssociation(SecurityAssociation {
            proposals: vec![proposal],
        }),
        Payload::KeyExchange(KeyExchangeData {
            method: KeyExchangeMethod::X25519,
            data: vec![0xaa; 4],
        }),
        Payload::Nonce(Nonce::new(vec![0xbb; 16]).expect("long enough")),
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
    ];
    let mut expected = Vec::new();
    expected.extend_from_slice(&[0x11; 8]); // SPI of the initiator
    expected.extend_from_slice(&[0; 8]); // SPI of the responder
    expected.extend_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 112]);
    expected.extend_from_slice(&[34, 0, 0, 40]); // SA
    expected.extend_from_slice(&[0, 0, 0, 36, 1, 1, 0, 3]); // proposal 1, IKE, no SPI, 3 transforms
    expected.extend_from_slice(&[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0x01, 0x00]); // ENCR_AES_GCM_16, 256 bits
    expected.extend_from_slice(&[3, 0, 0, 8, 2, 0, 0, 6]); // PRF_HMAC_SHA2_384
    expected.extend_from_slice(&[0, 0, 0, 8, 4, 0, 0, 31]); // Curve25519
    expected.extend_from_slice(&[40, 0, 0, 12, 0, 31, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa]); // KE
    expected.extend_from_slice(&[41, 0, 0, 20]); // Nonce
    expected.extend_from_slice(&[0xbb; 16]);
    expected.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0x40, 0x07]); // USE_TRANSPORT_MODE
    let length = u8::try_from(expected.len()).expect("short");
    assert_eq!(length, 28 + 40 + 12 + 20 + 8);
    expected[27] = length;
    assert_eq!(encode(&header, &payloads).expect("short"), expected);
    assert_eq!(decode(&expected).expect("valid").as_slice(), payloads);
}

#[test]
fn a_critical_payload_that_we_do_not_know_is_named() {
    let chain = [&[0, 0x80, 0, 4][..]].concat();
    let error = decode(&datagram(PayloadType(200), &chain)).expect_err("critical");
    assert_eq!(error.unsupported_critical(), Some(PayloadType(200)));
    // The bit means nothing on payloads of RFC 7296 (§3.2), and a payload that is not critical is skipped.
    let chain = [&[0, 0x80, 0, 4][..]].concat();
    assert!(decode(&datagram(PayloadType::VENDOR_ID, &chain)).is_ok());
    assert!(decode(&datagram(PayloadType::CP, &chain)).is_ok());
    assert!(decode(&datagram(PayloadType(200), &last(&[1]))).is_ok());
}

#[test]
fn reserved_bits_are_ignored() {
    let chain = [&[0, 0x7f, 0, 8, 0, 31, 0xff, 0xff][..]].concat();
    let payloads = decode(&datagram(PayloadType::KE, &chain)).expect("reserved bits");
    assert_eq!(
        payloads.key_exchange().map(|ke| ke.method),
        Some(KeyExchangeMethod::X25519)
    );
    let mut bytes = datagram(PayloadType::NONE, &[]);
    bytes[19] |= 0xd7;
    let message = Message::parse(&bytes).expect("reserved flags");
    assert_eq!(
        (message.header.flags.sender(), message.header.flags.is_response()),
        (Role::Initiator, false)
    );
}

#[test]
fn another_major_version_parses_as_far_as_its_header() {
    let mut bytes = datagram(PayloadType::NONE, &[]);
    bytes[17] = 0x2f;
    assert!(
        Message::parse(&bytes).expect("minor").body().is_ok(),
        "minor versions are ignored"
    );
    bytes[17] = 0x30;
    let message = Message::parse(&bytes).expect("header");
    assert_eq!(message.header.version.major(), 3);
    assert_eq!(message.body().expect_err("major 3").field, "header.version");
}

#[test]
fn an_initiator_spi_of_zero_is_refused() {
    let mut bytes = datagram(PayloadType::NONE, &[]);
    bytes[..8].fill(0);
    assert_eq!(
        Message::parse(&bytes).expect_err("zero").field,
        "header.initiator_spi"
    );
}

#[test]
fn what_occurs_once_cannot_occur_twice() {
    let nonce = Payload::Nonce(Nonce::from([1; 32]));
    let header = samples::header(ExchangeType::IKE_SA_INIT, Flags::request(Role::Initiator), 0);
    let bytes = encode(&header, &[nonce.clone(), nonce]).expect("short");
    let error = decode(&bytes).expect_err("two nonces");
    assert_eq!(
        (error.field, error.malformation),
        ("nonce payload", Malformation::Duplicate)
    );
}

#[test]
fn the_number_of_payloads_is_bounded() {
    let header = samples::header(ExchangeType::INFORMATIONAL, Flags::request(Role::Initiator), 1);
    let notifies = |count| vec![Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)); count];
    assert!(decode(&encode(&header, &notifies(64)).expect("short")).is_ok());
    let error = decode(&encode(&header, &notifies(65)).expect("short")).expect_err("too many");
    assert_eq!(error.malformation, Malformation::Limit);
}

#[test]
fn bounds_of_single_payloads() {
    let out_of_range = |field| Some((field, Malformation::OutOfRange));
    assert_eq!(malformation(PayloadType::NONCE, &[0; 15]), out_of_range("nonce"));
    assert_eq!(malformation(PayloadType::NONCE, &[0; 16]), None);
    assert_eq!(malformation(PayloadType::NONCE, &[0; 256]), None);
    assert_eq!(malformation(PayloadType::NONCE, &[0; 257]), out_of_range("nonce"));
    assert_eq!(
        malformation(PayloadType::DELETE, &[3, 4, 0, 1, 0, 0, 0, 255]),
        out_of_range("delete.spi")
    );
    assert_eq!(
        malformation(PayloadType::DELETE, &[1, 8, 0, 0]),
        out_of_range("delete.spi_size")
    );
    assert_eq!(
        malformation(PayloadType::TSI, &[0, 0, 0, 0]),
        out_of_range("TS.count")
    );
    let backwards = [1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 2, 10, 0, 0, 1];
    assert_eq!(
        malformation(PayloadType::TSR, &backwards),
        out_of_range("TS.last_address")
    );
    let short_range = [1, 0, 0, 0, 8, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 1, 10, 0, 0, 2];
    assert_eq!(
        malformation(PayloadType::TSR, &short_range),
        Some(("TS.first_address", Malformation::Truncated))
    );
    assert_eq!(
        malformation(PayloadType::SA, &[1, 0, 0, 8, 1, 1, 0, 0]),
        out_of_range("proposal.last")
    );
    let count = [0, 0, 0, 16, 1, 1, 0, 2, 0, 0, 0, 8, 2, 0, 0, 5];
    assert_eq!(
        malformation(PayloadType::SA, &count),
        out_of_range("proposal.transform_count")
    );
    assert_eq!(
        malformation(PayloadType::SA, &[0, 0, 0, 3]),
        out_of_range("proposal.length")
    );
}

#[test]
fn r2_fragment_numbers_are_bounded_by_their_total() {
    for (number, total, valid) in [
        (1, 1, true),
        (3, 3, true),
        (0, 0, false),
        (0, 3, false),
        (4, 3, false),
    ] {
        let body = [[0, number], [0, total]].concat();
        let bytes = datagram(PayloadType::SKF, &last(&body));
        match Message::parse(&bytes).expect("header").body() {
            Ok(Body::Fragment(fragment)) => {
                assert!(valid);
                assert_eq!(fragment.position.number(), u16::from(number));
                assert_eq!(fragment.position.total(), u16::from(total));
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!((valid, error.field), (false, "SKF.fragment_number")),
        }
    }
}

#[test]
fn a_sealed_payload_is_the_last_one() {
    let bytes = datagram(PayloadType::SK, &[last(&[0; 32]), last(&[])].concat());
    let error = Message::parse(&bytes)
        .expect("header")
        .body()
        .expect_err("trailing");
    assert_eq!(
        (error.field, error.malformation),
        ("encrypted payload", Malformation::Trailing)
    );
}

#[test]
fn identities_survive_the_wire() {
    let identities = [
        Identity::Address("192.0.2.1".parse().expect("address")),
        Identity::Address("2001:db8::1".parse().expect("address")),
        Identity::Fqdn("node-1.example".into()),
        Identity::KeyId(vec![0, 255]),
    ];
    for identity in identities {
        assert_eq!(Identification::from(&identity).identity(), Some(identity));
    }
    // An address of the wrong length, a name that is not ASCII, a kind that no configuration names.
    for body in [
        &[1, 0, 0, 0, 1, 2, 3][..],
        &[2, 0, 0, 0, 0xc3, 0xa4],
        &[2, 0, 0, 0],
        &[9, 0, 0, 0, 0x30, 0],
    ] {
        let payloads = decode(&datagram(PayloadType::IDI, &last(body))).expect("parses");
        let id = payloads.id_initiator().expect("IDi");
        assert_eq!(id.identity(), None);
        assert_eq!(id.body(), body, "AUTH covers the body as it was sent");
    }
}

#[test]
fn auth_data_of_rfc_7427() {
    let auth = SignatureAuth {
        algorithm: SignatureAlgorithm::EcdsaSha256,
        signature: vec![1, 2, 3],
    };
    let data = auth.to_auth().expect("short").data;
    assert_eq!(
        data,
        [12, 0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2, 1, 2, 3]
    );
    assert_eq!(SignatureAuth::decode(&data), Ok(auth));
    for length in 0..=13 {
        assert!(SignatureAuth::decode(&data[..length]).is_err(), "{length}");
    }
    let mut other = data;
    other[12] = 1; // ecdsa-with-SHA224
    assert_eq!(
        SignatureAuth::decode(&other).expect_err("not verified").field,
        "AUTH.algorithm"
    );
}

/// Every algorithm with its AlgorithmIdentifier as RFC 7427 appendix A, RFC 8420 and RFC 4055 write it.
#[test]
fn algorithm_identifiers_of_rfc_7427() {
    let rsa = "06092a864886f70d0101";
    let hash = |number: u8| format!("300d060960864801650304020{number}0500");
    let pss = |number: u8, salt: u8| {
        format!(
            "3041{rsa}0a3034a00f{}a11c301a{rsa}08{}a2030201{salt:02x}",
            hash(number),
            hash(number)
        )
    };
    for (algorithm, identifier) in [
        (
            SignatureAlgorithm::EcdsaSha256,
            "300a06082a8648ce3d040302".to_owned(),
        ),
        (
            SignatureAlgorithm::EcdsaSha384,
            "300a06082a8648ce3d040303".to_owned(),
        ),
        (
            SignatureAlgorithm::EcdsaSha512,
            "300a06082a8648ce3d040304".to_owned(),
        ),
        (SignatureAlgorithm::Ed25519, "300506032b6570".to_owned()),
        (SignatureAlgorithm::RsaPkcs1Sha256, format!("300d{rsa}0b0500")),
        (SignatureAlgorithm::RsaPkcs1Sha384, format!("300d{rsa}0c0500")),
        (SignatureAlgorithm::RsaPkcs1Sha512, format!("300d{rsa}0d0500")),
        (SignatureAlgorithm::RsaPssSha256, pss(1, 32)),
        (SignatureAlgorithm::RsaPssSha384, pss(2, 48)),
        (SignatureAlgorithm::RsaPssSha512, pss(3, 64)),
    ] {
        let auth = SignatureAuth {
            algorithm,
            signature: vec![1, 2, 3],
        };
        let data = auth.to_auth().expect("short").data;
        assert_eq!(data, method_14(&identifier), "{algorithm}");
        assert_eq!(SignatureAuth::decode(&data), Ok(auth));
    }
}

/// RFC 4055 §2.1 and §3.1 leave NULL and the default trailer to the sender; what is not as it must be is refused.
#[test]
fn rsa_identifiers_have_several_spellings_and_no_sha_1() {
    let rsa = "06092a864886f70d0101";
    let decoded = |identifier: &str| SignatureAuth::decode(&method_14(identifier)).map(|auth| auth.algorithm);
    let (long, short) = ("300d06096086480165030402010500", "300b0609608648016503040201");
    let sequence = |content: &str| format!("30{:02x}{content}", content.len() / 2);
    let pss = |hash: &str, mask: &str, salt: &str, trailer: &str| {
        let field = |tag: &str, content: &str| format!("{tag}{:02x}{content}", content.len() / 2);
        let mask = field("a1", &sequence(&format!("{rsa}08{mask}")));
        let content = format!("{}{mask}{}{trailer}", field("a0", hash), field("a2", salt));
        sequence(&format!("{rsa}0a{}", sequence(&content)))
    };
    for (hash, mask, trailer) in [
        (long, short, ""),
        (short, long, ""),
        (short, short, "a303020101"),
        (long, long, "a303020101"),
    ] {
        let said = decoded(&pss(hash, mask, "020120", trailer));
        assert_eq!(said, Ok(SignatureAlgorithm::RsaPssSha256));
    }
    assert_eq!(
        decoded(&format!("300b{rsa}0b")),
        Ok(SignatureAlgorithm::RsaPkcs1Sha256)
    );
    let sha512 = "300d06096086480165030402030500";
    for refused in [
        // SHA-1 by its name, by its own parameters, and by the defaults of RSASSA-PSS.
        format!("300d{rsa}050500"),
        "300906072a8648ce3d0401".to_owned(),
        format!("300d{rsa}0a3000"),
        format!("300b{rsa}0a"),
        // Two hashes, a salt of another length, another trailer, a tail.
        pss(long, sha512, "020120", ""),
        pss(long, long, "020140", ""),
        pss(long, long, "02020020", ""),
        pss(long, long, "020120", "a303020102"),
        pss(long, long, "020120", "a3030201010500"),
        // Parameters where there are none.
        "300c06082a8648ce3d0403020500".to_owned(),
        "300706032b65700500".to_owned(),
        // Ed448 (RFC 8420), which is not verified.
        "300506032b6571".to_owned(),
    ] {
        assert!(decoded(&refused).is_err(), "{refused}");
    }
}

/// The data of an AUTH payload of method 14 with a signature of three bytes.
fn method_14(identifier: &str) -> Vec<u8> {
    let bytes: Vec<u8> = (0..identifier.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&identifier[at..at + 2], 16).expect("hex"))
        .collect();
    let length = u8::try_from(bytes.len()).expect("short");
    [&[length], bytes.as_slice(), &[1, 2, 3]].concat()
}

#[test]
fn a_structure_too_long_for_its_length_field_is_not_sent() {
    let header = samples::header(ExchangeType::IKE_SA_INIT, Flags::request(Role::Initiator), 0);
    let fits = Payload::VendorId(vec![0; 65_531]);
    let too_long = Payload::VendorId(vec![0; 65_532]);
    assert!(encode(&header, &[fits]).is_ok());
    assert_eq!(
        encode(&header, &[too_long]).expect_err("too long").field,
        "payload"
    );
}

proptest! {
    #[test]
    fn random_datagrams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = Message::parse(&bytes) {
            let _ = message.body();
        }
    }

    #[test]
    fn random_chains_never_panic_and_decode_to_what_encodes(
        first in prop_oneof![33_u8..=48, Just(53), any::<u8>()],
        chain in prop::collection::vec(prop_oneof![Just(0), 0_u8..48, any::<u8>()], 0..300),
    ) {
        let bytes = datagram(PayloadType(first), &chain);
        if let Ok(Body::Plain(payloads)) = Message::parse(&bytes).expect("header").body() {
            let header = Message::parse(&bytes).expect("header").header;
            let again = encode(&header, payloads.as_slice()).expect("no longer than before");
            prop_assert_eq!(decode(&again).expect("our own encoding"), payloads);
        }
    }

    #[test]
    fn random_bodies_of_every_payload_never_panic(
        kind in 33_u8..=48,
        body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let bytes = datagram(PayloadType(kind), &last(&body));
        let _ = Message::parse(&bytes).expect("header").body();
    }

    #[test]
    fn headers_survive(spi_i in 1_u64.., spi_r: u64, id: u32, exchange: u8) {
        let mut header = samples::header(ExchangeType(exchange), Flags::response(Role::Responder), id);
        header.initiator_spi = IkeSpi::new(spi_i).expect("not zero");
        header.responder_spi = IkeSpi::new(spi_r);
        let bytes = encode(&header, &[]).expect("short");
        prop_assert_eq!(Message::parse(&bytes).expect("header").header, header);
    }
}
