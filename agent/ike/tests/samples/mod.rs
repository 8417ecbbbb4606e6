//! One list of messages, at least one of every kind that exists. It feeds both the round trip and the truncation test,
//! so that no payload is added untested.

use std::net::IpAddr;

use ipsecmesh_ike::wire::{
    Attribute, AttributeType, AttributeValue, Auth, AuthMethod, Certificate, CertificateRequest, Delete,
    ExchangeType, Flags, HashAlgorithm, Header, Identification, KeyExchangeData, KeyExchangeMethod,
    MessageId, Nonce, Notify, NotifyType, Payload, PayloadType, Proposal, Protocol, Role,
    SecurityAssociation, Selector, SelectorType, SignatureAuth, Spi, TrafficSelectors, Transform,
    TransformType, Unknown, Version,
};
use ipsecmesh_ike::{
    BootId, Encryption, EspSpi, Identity, IkeSpi, KeyExchange, Prf, SignatureAlgorithm, TrafficSelector,
};

/// A message and what it is.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) header: Header,
    pub(crate) payloads: Vec<Payload>,
}

/// All of them.
pub(crate) fn all() -> Vec<Sample> {
    [first(), later()].concat()
}

/// Of the exchanges that make an IKE SA.
fn first() -> Vec<Sample> {
    vec![
        Sample {
            name: "IKE_SA_INIT request",
            header: header(ExchangeType::IKE_SA_INIT, Flags::request(Role::Initiator), 0),
            payloads: vec![
                Payload::Notify(Notify::with_data(NotifyType::COOKIE, vec![1; 64])),
                Payload::SecurityAssociation(ike_sa(&Spi::Absent)),
                Payload::KeyExchange(KeyExchangeData {
                    method: KeyExchangeMethod::X25519,
                    data: vec![2; 32],
                }),
                Payload::Nonce(Nonce::from([3; Nonce::LENGTH])),
                Payload::Notify(Notify::with_data(
                    NotifyType::NAT_DETECTION_SOURCE_IP,
                    vec![4; 20],
                )),
                Payload::Notify(Notify::with_data(
                    NotifyType::NAT_DETECTION_DESTINATION_IP,
                    vec![5; 20],
                )),
                Payload::Notify(Notify::hash_algorithms(&[
                    HashAlgorithm::SHA2_256,
                    HashAlgorithm::IDENTITY,
                ])),
                Payload::CertificateRequest(CertificateRequest::x509(&[[6; 20], [7; 20]])),
                Payload::VendorId(b"someone".to_vec()),
            ],
        },
        Sample {
            name: "INVALID_KE_PAYLOAD",
            header: header(ExchangeType::IKE_SA_INIT, Flags::response(Role::Responder), 0),
            payloads: vec![Payload::Notify(Notify::invalid_ke(KeyExchangeMethod::ECP_256))],
        },
        Sample {
            name: "IKE_AUTH request with certificates",
            header: header(ExchangeType::IKE_AUTH, Flags::request(Role::Initiator), 1),
            payloads: auth_request(),
        },
        Sample {
            name: "IKE_AUTH response with a shared key",
            header: header(ExchangeType::IKE_AUTH, Flags::response(Role::Responder), 1),
            payloads: vec![
                Payload::IdResponder(Identification::from(&Identity::Fqdn("b.example".into()))),
                Payload::Auth(Auth {
                    method: AuthMethod::SHARED_KEY,
                    data: vec![8; 32],
                }),
                Payload::SecurityAssociation(child_sa()),
                Payload::TsInitiator(v4("192.0.2.1")),
                Payload::TsResponder(v4("192.0.2.2")),
            ],
        },
    ]
}

/// Of those after it.
fn later() -> Vec<Sample> {
    vec![
        Sample {
            name: "CREATE_CHILD_SA request that rekeys a CHILD SA",
            header: header(ExchangeType::CREATE_CHILD_SA, Flags::request(Role::Responder), 7),
            payloads: vec![
                Payload::Notify(Notify::rekey_sa(
                    ipsecmesh_ike::SaProtocol::Esp,
                    esp_spi(0xdead_beef),
                )),
                Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
                Payload::SecurityAssociation(child_sa()),
                Payload::Nonce(Nonce::new(vec![9; 256]).expect("the longest nonce")),
                Payload::KeyExchange(KeyExchangeData {
                    method: KeyExchangeMethod::ECP_256,
                    data: vec![10; 64],
                }),
                Payload::TsInitiator(v6()),
                Payload::TsResponder(TrafficSelectors {
                    selectors: vec![Selector::Other {
                        kind: SelectorType(10),
                        protocol: 0,
                        body: b"label".to_vec(),
                    }],
                }),
            ],
        },
        Sample {
            name: "CREATE_CHILD_SA request that rekeys the IKE SA",
            header: header(
                ExchangeType::CREATE_CHILD_SA,
                Flags::request(Role::Initiator),
                u32::MAX,
            ),
            payloads: vec![
                Payload::SecurityAssociation(ike_sa(&Spi::Ike(ike_spi(0x0102_0304_0506_0708)))),
                Payload::Nonce(Nonce::new(vec![11; 16]).expect("the shortest nonce")),
                Payload::KeyExchange(KeyExchangeData {
                    method: KeyExchangeMethod::X25519,
                    data: vec![12; 32],
                }),
            ],
        },
        Sample {
            name: "INFORMATIONAL request with deletes",
            header: header(ExchangeType::INFORMATIONAL, Flags::request(Role::Initiator), 3),
            payloads: vec![
                Payload::Delete(Delete::Child(
                    ipsecmesh_ike::SaProtocol::Esp,
                    vec![esp_spi(256), esp_spi(u32::MAX)],
                )),
                Payload::Delete(Delete::Ike),
                Payload::Delete(Delete::Other {
                    protocol: Protocol(4),
                    spi_size: 4,
                    spis: vec![13; 8],
                }),
            ],
        },
        Sample {
            name: "INFORMATIONAL response without payloads",
            header: header(ExchangeType::INFORMATIONAL, Flags::response(Role::Responder), 3),
            payloads: vec![],
        },
        Sample {
            name: "what we do not know",
            header: header(ExchangeType(99), Flags::response(Role::Initiator), 4),
            payloads: unknown(),
        },
    ]
}

fn auth_request() -> Vec<Payload> {
    let signature = SignatureAuth {
        algorithm: SignatureAlgorithm::EcdsaSha256,
        signature: vec![14; 71],
    };
    vec![
        Payload::IdInitiator(Identification::from(&Identity::KeyId(b"a".to_vec()))),
        Payload::Certificate(Certificate::x509(vec![15; 300])),
        Payload::Certificate(Certificate::x509(vec![16; 200])),
        Payload::CertificateRequest(CertificateRequest::x509(&[])),
        Payload::IdResponder(Identification::from(&Identity::Address(address("2001:db8::2")))),
        Payload::Auth(signature.to_auth().expect("short enough")),
        Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)),
        Payload::Notify(Notify::boot_id(BootId([17; 16]))),
        Payload::SecurityAssociation(child_sa()),
        Payload::TsInitiator(v4("192.0.2.1")),
        Payload::TsResponder(v6()),
    ]
}

fn unknown() -> Vec<Payload> {
    let transform = Transform {
        kind: TransformType(241),
        id: 77,
        attributes: vec![
            Attribute {
                kind: AttributeType(0x7fff),
                value: AttributeValue::Short(1),
            },
            Attribute {
                kind: AttributeType::KEY_LENGTH,
                value: AttributeValue::Long(vec![1, 0]),
            },
        ],
    };
    let proposals = vec![
        Proposal {
            number: 1,
            protocol: Protocol(9),
            spi: Spi::Other(vec![1, 2, 3]),
            transforms: vec![transform],
        },
        Proposal {
            number: 2,
            protocol: Protocol::ESP,
            spi: Spi::Other(vec![0, 0, 0, 255]),
            transforms: vec![],
        },
    ];
    vec![
        Payload::SecurityAssociation(SecurityAssociation { proposals }),
        Payload::Unknown(Unknown {
            kind: PayloadType(200),
            body: vec![18; 5],
        }),
        Payload::Unknown(Unknown {
            kind: PayloadType::CP,
            body: vec![],
        }),
        Payload::Notify(Notify {
            protocol: Protocol(4),
            spi: Spi::Other(vec![1; 9]),
            kind: NotifyType(60000),
            data: vec![19; 3],
        }),
        Payload::Auth(Auth {
            method: AuthMethod(200),
            data: vec![],
        }),
    ]
}

/// A header of IKEv2 between two fixed SPIs.
pub(crate) fn header(exchange: ExchangeType, flags: Flags, message_id: u32) -> Header {
    Header {
        initiator_spi: ike_spi(0x1111_1111_1111_1111),
        responder_spi: IkeSpi::new(if message_id == 0 { 0 } else { 0x2222_2222_2222_2222 }),
        version: Version::V2_0,
        exchange,
        flags,
        message_id: MessageId(message_id),
    }
}

fn ike_sa(spi: &Spi) -> SecurityAssociation {
    let transforms = vec![
        Encryption::AesGcm16Key256.into(),
        Encryption::AesGcm16Key128.into(),
        Prf::HmacSha384.into(),
        Prf::HmacSha256.into(),
        KeyExchange::X25519.into(),
        KeyExchange::Ecp256.into(),
    ];
    let proposal = Proposal {
        number: 1,
        protocol: Protocol::IKE,
        spi: spi.clone(),
        transforms,
    };
    SecurityAssociation {
        proposals: vec![
            proposal.clone(),
            Proposal {
                number: 2,
                ..proposal
            },
        ],
    }
}

fn child_sa() -> SecurityAssociation {
    let transforms = vec![
        Encryption::AesGcm16Key256.into(),
        KeyExchange::X25519.into(),
        Transform::no_key_exchange(),
        Transform::esn(true),
        Transform::esn(false),
    ];
    let spi = Spi::Esp(esp_spi(0xc0ff_ee00));
    SecurityAssociation {
        proposals: vec![Proposal {
            number: 1,
            protocol: Protocol::ESP,
            spi,
            transforms,
        }],
    }
}

fn v4(host: &str) -> TrafficSelectors {
    let host = address(host);
    let selector = |protocol, first_port, last_port| TrafficSelector {
        protocol,
        first_port,
        last_port,
        first_address: host,
        last_address: host,
    };
    // The second is OPAQUE.
    [selector(17, 8472, 8472), selector(6, 65535, 0)]
        .into_iter()
        .collect()
}

fn v6() -> TrafficSelectors {
    let selector = TrafficSelector {
        protocol: 0,
        first_port: 0,
        last_port: 65535,
        first_address: address("2001:db8::"),
        last_address: address("2001:db8::ffff:ffff"),
    };
    [selector].into_iter().collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn esp_spi(value: u32) -> EspSpi {
    EspSpi::new(value).expect("not reserved")
}

fn ike_spi(value: u64) -> IkeSpi {
    IkeSpi::new(value).expect("not zero")
}
