//! Offers, choices and what is refused (RFC 7296 §2.7, §3.3).

use ipsecmesh_ike::crypto::{
    ChildContext, ChildSuite, IkeSuite, child_offer, confirm_child, confirm_ike, ike_offer, select_child,
    select_ike,
};
use ipsecmesh_ike::wire::{
    Attribute, AttributeType, AttributeValue, KeyExchangeMethod, Protocol, SecurityAssociation, Spi,
    Transform, TransformType,
};
use ipsecmesh_ike::{
    AdditionalKeyExchanges, ChildProposal, Encryption, EspSpi, IkeProposal, IkeSpi, KeyExchange, Prf,
};

const CREATE_X25519: ChildContext = ChildContext::Create(Some(KeyExchangeMethod::X25519));

fn ike() -> Vec<IkeProposal> {
    vec![
        IkeProposal {
            encryption: vec![Encryption::AesGcm16Key256],
            integrity: Vec::new(),
            prf: vec![Prf::HmacSha384],
            key_exchange: vec![KeyExchange::X25519, KeyExchange::Ecp256],
            additional: AdditionalKeyExchanges::NONE,
        },
        IkeProposal {
            encryption: vec![Encryption::AesGcm16Key128],
            integrity: Vec::new(),
            prf: vec![Prf::HmacSha256],
            key_exchange: vec![KeyExchange::Ecp256],
            additional: AdditionalKeyExchanges::NONE,
        },
    ]
}

fn child() -> Vec<ChildProposal> {
    vec![ChildProposal {
        protocol: ipsecmesh_ike::SaProtocol::Esp,
        encryption: vec![Encryption::AesGcm16Key256, Encryption::AesGcm16Key128],
        integrity: Vec::new(),
        key_exchange: vec![KeyExchange::X25519],
        additional: AdditionalKeyExchanges::NONE,
    }]
}

fn esp(value: u32) -> Spi {
    Spi::Esp(EspSpi::new(value).unwrap())
}

/// The response to `offer` after an attacker or a careless peer changed it.
fn tampered(
    response: &SecurityAssociation,
    change: impl FnOnce(&mut SecurityAssociation),
) -> SecurityAssociation {
    let mut response = response.clone();
    change(&mut response);
    response
}

#[test]
fn the_response_to_an_offer_is_confirmed() {
    let (ours, theirs) = (
        Spi::Ike(IkeSpi::new(1).unwrap()),
        Spi::Ike(IkeSpi::new(2).unwrap()),
    );
    let chosen = select_ike(&ike(), &ike_offer(&ike(), &ours)).unwrap();
    let expected = IkeSuite {
        encryption: Encryption::AesGcm16Key256,
        integrity: None,
        prf: Prf::HmacSha384,
        key_exchange: KeyExchange::X25519,
        additional: AdditionalKeyExchanges::NONE,
    };
    assert_eq!((chosen.suite, &chosen.peer_spi), (expected, &ours));
    assert_eq!(
        confirm_ike(&ike(), &chosen.response(theirs.clone())),
        Ok((expected, theirs))
    );

    for (context, key_exchange) in [
        (ChildContext::Auth, None),
        (ChildContext::Create(None), None),
        (CREATE_X25519, Some(KeyExchange::X25519)),
    ] {
        let chosen = select_child(
            &child(),
            true,
            context,
            &child_offer(&child(), true, context, &esp(300)),
        )
        .unwrap();
        let expected = ChildSuite {
            protocol: ipsecmesh_ike::SaProtocol::Esp,
            encryption: Some(Encryption::AesGcm16Key256),
            integrity: None,
            key_exchange,
            additional: AdditionalKeyExchanges::NONE,
            esn: true,
        };
        assert_eq!((chosen.suite, &chosen.peer_spi), (expected, &esp(300)));
        assert_eq!(
            confirm_child(&child(), true, context, &chosen.response(esp(400))),
            Ok((expected, esp(400)))
        );
    }
}

#[test]
fn the_responders_preference_decides_and_the_number_is_the_offers() {
    let offer = ike_offer(&ike(), &Spi::Absent);
    let preference: Vec<IkeProposal> = ike().into_iter().rev().collect();
    let chosen = select_ike(&preference, &offer).unwrap();
    assert_eq!(chosen.suite.encryption, Encryption::AesGcm16Key128);
    assert_eq!(chosen.response(Spi::Absent).proposals[0].number, 2);
}

#[test]
fn nothing_in_common_is_no_choice() {
    let mut other = ike();
    other.truncate(1);
    let mut weaker = ike();
    weaker.remove(0);
    assert!(select_ike(&other, &ike_offer(&weaker, &Spi::Absent)).is_none());
    // Across two proposals everything is there, but no one proposal has it all.
    let mixed = [IkeProposal {
        prf: vec![Prf::HmacSha256],
        ..ike()[0].clone()
    }];
    assert!(select_ike(&mixed, &ike_offer(&ike(), &Spi::Absent)).is_none());
    assert!(select_ike(&ike(), &SecurityAssociation { proposals: vec![] }).is_none());
}

#[test]
fn a_method_is_better_than_none_and_none_always_suits() {
    let none_only = [ChildProposal {
        key_exchange: vec![],
        additional: AdditionalKeyExchanges::NONE,
        ..child()[0].clone()
    }];
    for (ours, theirs) in [(child(), none_only.to_vec()), (none_only.to_vec(), child())] {
        let offer = child_offer(&theirs, true, CREATE_X25519, &esp(300));
        assert_eq!(
            select_child(&ours, true, CREATE_X25519, &offer)
                .unwrap()
                .suite
                .key_exchange,
            None
        );
    }
    // Offered together with none, but no KE payload came with it.
    let offer = child_offer(&child(), true, CREATE_X25519, &esp(300));
    let chosen = select_child(&child(), true, ChildContext::Create(None), &offer).unwrap();
    assert_eq!(chosen.suite.key_exchange, None);
    // Another method than that of the KE payload: the caller answers INVALID_KE_PAYLOAD.
    let sent = ChildContext::Create(Some(KeyExchangeMethod::ECP_256));
    let chosen = select_child(&child(), true, sent, &offer).unwrap();
    assert_eq!(chosen.suite.key_exchange, Some(KeyExchange::X25519));
    // A method is required that we do not have.
    let required = tampered(&offer, |offer| {
        offer.proposals[0]
            .transforms
            .retain(|transform| transform.kind != TransformType::KE);
        offer.proposals[0].transforms.push(KeyExchange::Ecp256.into());
    });
    assert!(select_child(&child(), true, sent, &required).is_none());
}

#[test]
fn extended_sequence_numbers_are_as_both_ends_want_them() {
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        let offer = child_offer(&child(), theirs, ChildContext::Auth, &esp(300));
        let chosen = select_child(&child(), ours, ChildContext::Auth, &offer).unwrap();
        assert_eq!(chosen.suite.esn, ours && theirs);
    }
    let offer = child_offer(&child(), true, ChildContext::Auth, &esp(300));
    let esn_only = tampered(&offer, |offer| {
        offer.proposals[0]
            .transforms
            .retain(|t| *t != Transform::esn(false));
    });
    assert!(select_child(&child(), false, ChildContext::Auth, &esn_only).is_none());
    let missing = tampered(&offer, |offer| {
        offer.proposals[0]
            .transforms
            .retain(|t| t.kind != TransformType::ESN);
    });
    assert!(select_child(&child(), true, ChildContext::Auth, &missing).is_none());
}

#[test]
fn a_key_length_that_is_missing_doubled_zero_or_unknown_never_matches() {
    let key_length = |bits| Attribute {
        kind: AttributeType::KEY_LENGTH,
        value: AttributeValue::Short(bits),
    };
    let unknown = Attribute {
        kind: AttributeType(99),
        value: AttributeValue::Short(1),
    };
    for attributes in [
        vec![],
        vec![key_length(0)],
        vec![key_length(192)],
        vec![key_length(256), key_length(256)],
        vec![key_length(256), unknown],
        vec![Attribute {
            kind: AttributeType::KEY_LENGTH,
            value: AttributeValue::Long(vec![1, 0]),
        }],
    ] {
        let offer = tampered(&ike_offer(&ike()[..1], &Spi::Absent), |offer| {
            offer.proposals[0].transforms[0].attributes = attributes;
        });
        assert!(select_ike(&ike(), &offer).is_none(), "{offer:?}");
    }
}

#[test]
fn an_integrity_algorithm_is_accepted_only_where_none_is_a_choice() {
    let with = |extra: Vec<Transform>| {
        tampered(&ike_offer(&ike(), &Spi::Absent), |offer| {
            for proposal in &mut offer.proposals {
                proposal.transforms.extend(extra.clone());
            }
        })
    };
    let sha256 = Transform::new(TransformType::INTEG, 12);
    let additional_ke = Transform::new(TransformType(6), 36);
    let no_additional_ke = Transform::new(TransformType(6), 0);
    assert!(select_ike(&ike(), &with(vec![Transform::no_integrity()])).is_some());
    assert!(select_ike(&ike(), &with(vec![sha256.clone(), Transform::no_integrity()])).is_some());
    assert!(select_ike(&ike(), &with(vec![sha256])).is_none());
    assert!(select_ike(&ike(), &with(vec![additional_ke.clone(), no_additional_ke])).is_some());
    assert!(select_ike(&ike(), &with(vec![additional_ke])).is_none());
}

#[test]
fn r11_a_suite_that_was_not_offered_is_refused() {
    let response = select_ike(&ike(), &ike_offer(&ike(), &Spi::Absent))
        .unwrap()
        .response(Spi::Absent);
    assert!(confirm_ike(&ike(), &response).is_ok());
    let refused = [
        tampered(&response, |sa| sa.proposals[0].number = 0),
        tampered(&response, |sa| sa.proposals[0].number = 3),
        // Its transforms were offered, but in the other proposal.
        tampered(&response, |sa| sa.proposals[0].number = 2),
        tampered(&response, |sa| sa.proposals[0].protocol = Protocol::ESP),
        tampered(&response, |sa| {
            sa.proposals[0].transforms[0] = Encryption::AesGcm16Key128.into();
        }),
        tampered(&response, |sa| sa.proposals[0].transforms[0].attributes.clear()),
        tampered(&response, |sa| {
            sa.proposals[0].transforms[1] = Prf::HmacSha256.into();
        }),
        tampered(&response, |sa| {
            sa.proposals[0].transforms[2] = Transform::no_key_exchange();
        }),
        tampered(&response, |sa| sa.proposals[0].transforms.truncate(2)),
        tampered(&response, |sa| {
            sa.proposals[0].transforms.push(KeyExchange::Ecp256.into());
        }),
        tampered(&response, |sa| {
            sa.proposals[0].transforms.push(KeyExchange::X25519.into());
        }),
        tampered(&response, |sa| {
            sa.proposals[0]
                .transforms
                .push(Transform::new(TransformType::INTEG, 12));
        }),
        tampered(&response, |sa| {
            sa.proposals[0].transforms.push(Transform::esn(false));
        }),
        tampered(&response, |sa| sa.proposals.push(sa.proposals[0].clone())),
        tampered(&response, |sa| sa.proposals.clear()),
    ];
    for response in refused {
        assert!(confirm_ike(&ike(), &response).is_err(), "{response:?}");
    }
}

#[test]
fn r11_a_child_suite_that_was_not_offered_is_refused() {
    let offer = child_offer(&child(), false, CREATE_X25519, &esp(300));
    let response = select_child(&child(), false, CREATE_X25519, &offer)
        .unwrap()
        .response(esp(400));
    assert!(confirm_child(&child(), false, CREATE_X25519, &response).is_ok());
    let refused = [
        tampered(&response, |sa| sa.proposals[0].spi = Spi::Absent),
        tampered(&response, |sa| {
            sa.proposals[0].spi = Spi::Other(vec![0, 0, 0, 255]);
        }),
        tampered(&response, |sa| sa.proposals[0].protocol = Protocol::AH),
        tampered(&response, |sa| {
            sa.proposals[0]
                .transforms
                .retain(|t| t.kind != TransformType::ESN);
        }),
        tampered(&response, |sa| {
            sa.proposals[0]
                .transforms
                .retain(|t| t.kind != TransformType::ESN);
            sa.proposals[0].transforms.push(Transform::esn(true));
        }),
        tampered(&response, |sa| {
            sa.proposals[0].transforms.retain(|t| t.kind != TransformType::KE);
            sa.proposals[0].transforms.push(KeyExchange::Ecp256.into());
        }),
    ];
    for response in &refused {
        assert!(
            confirm_child(&child(), false, CREATE_X25519, response).is_err(),
            "{response:?}"
        );
    }
    // No key exchange in IKE_AUTH, and none other than that of the KE payload that we sent.
    assert!(confirm_child(&child(), false, ChildContext::Auth, &response).is_err());
    assert!(confirm_child(&child(), false, ChildContext::Create(None), &response).is_err());
}
