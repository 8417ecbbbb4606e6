//! Sentences for people: what two ends do not have in common. The peer learns no more than the RFC lets it; its owner may.

use std::collections::BTreeSet;

use crate::config::{Encryption, Integrity, Prf, TrafficSelector};
use crate::wire::{KeyExchangeMethod, SecurityAssociation, Transform, TransformType};

/// A peer that has proven nothing fills no log.
const MOST: usize = 400;

const ENCRYPTION: [Encryption; 5] = [
    Encryption::AesGcm16Key128,
    Encryption::AesGcm16Key256,
    Encryption::ChaCha20Poly1305,
    Encryption::AesCbcKey128,
    Encryption::AesCbcKey256,
];
const INTEGRITY: [Integrity; 3] = [
    Integrity::HmacSha256,
    Integrity::HmacSha384,
    Integrity::HmacSha512,
];
const PRF: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

/// Why no proposal of two lists is the same: the kind of algorithm of which there is none in common.
pub(super) fn no_common(theirs: &SecurityAssociation, ours: &SecurityAssociation) -> String {
    let protocols = |sa: &SecurityAssociation| {
        let all: BTreeSet<String> = sa.proposals.iter().map(|one| one.protocol.to_string()).collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    };
    if theirs
        .proposals
        .iter()
        .all(|a| ours.proposals.iter().all(|b| a.protocol != b.protocol))
    {
        return format!(
            "the peer offers {}, expected is {}",
            protocols(theirs),
            protocols(ours)
        );
    }
    let kinds = [
        (TransformType::ENCR, "encryption"),
        (TransformType::INTEG, "integrity algorithm"),
        (TransformType::PRF, "PRF"),
        (TransformType::KE, "key exchange"),
        (TransformType::ADDKE1, "additional key exchange"),
        (TransformType::ADDKE2, "second additional key exchange"),
        (TransformType::ADDKE3, "third additional key exchange"),
        (TransformType::ADDKE4, "fourth additional key exchange"),
        (TransformType::ADDKE5, "fifth additional key exchange"),
        (TransformType::ADDKE6, "sixth additional key exchange"),
        (TransformType::ADDKE7, "seventh additional key exchange"),
        (TransformType::ESN, "extended sequence numbers"),
    ];
    for (kind, name) in kinds {
        let (their, our) = (of_kind(theirs, kind), of_kind(ours, kind));
        if their.is_disjoint(&our) && !(their.is_empty() && our.is_empty()) {
            return format!(
                "{name}: the peer offers {}, expected is {}",
                listed(&their),
                listed(&our)
            );
        }
    }
    "of each kind there is an algorithm in common, but no proposal has them together".to_owned()
}

fn of_kind(sa: &SecurityAssociation, kind: TransformType) -> BTreeSet<String> {
    let transforms = sa.proposals.iter().flat_map(|proposal| &proposal.transforms);
    transforms
        .filter(|transform| transform.kind == kind)
        .map(name)
        .collect()
}

fn listed(names: &BTreeSet<String>) -> String {
    let text: String = names.iter().cloned().collect::<Vec<_>>().join(" or ");
    if text.is_empty() {
        "none".to_owned()
    } else {
        text.chars().take(MOST).collect()
    }
}

/// As the configuration names it, or as the registry counts it.
fn name(transform: &Transform) -> String {
    let known = match transform.kind {
        TransformType::ENCR => find(&ENCRYPTION, transform),
        TransformType::INTEG if transform.id != 0 => find(&INTEGRITY, transform),
        TransformType::INTEG => Some("none".to_owned()),
        TransformType::PRF => find(&PRF, transform),
        TransformType::KE
        | TransformType::ADDKE1
        | TransformType::ADDKE2
        | TransformType::ADDKE3
        | TransformType::ADDKE4
        | TransformType::ADDKE5
        | TransformType::ADDKE6
        | TransformType::ADDKE7 => Some(KeyExchangeMethod(transform.id).to_string()),
        TransformType::ESN => Some(if transform.id == 0 { "no" } else { "yes" }.to_owned()),
        _ => None,
    };
    known.unwrap_or_else(|| format!("number {} of the registry", transform.id))
}

fn find<T: Copy + std::fmt::Display + Into<Transform>>(known: &[T], transform: &Transform) -> Option<String> {
    let found = known.iter().copied().find(|one| &(*one).into() == transform)?;
    Some(found.to_string())
}

/// A list of selectors: `10.1.0.0–10.1.255.255 protocol 6 port 22`.
pub(super) fn selectors<'a>(list: impl IntoIterator<Item = &'a TrafficSelector>) -> String {
    let all: Vec<String> = list.into_iter().map(selector).collect();
    all.join(", ").chars().take(MOST).collect()
}

fn selector(one: &TrafficSelector) -> String {
    let addresses = if one.first_address == one.last_address {
        one.first_address.to_string()
    } else {
        format!("{}–{}", one.first_address, one.last_address)
    };
    let protocol = match one.protocol {
        0 => String::new(),
        number => format!(" protocol {number}"),
    };
    let ports = match (one.first_port, one.last_port) {
        (0, u16::MAX) => String::new(),
        (from, to) if from == to => format!(" port {from}"),
        (from, to) => format!(" ports {from}–{to}"),
    };
    addresses + &protocol + &ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        AdditionalKeyExchange, AdditionalKeyExchanges, ChildProposal, IkeProposal, Kem, KeyExchange,
    };
    use crate::crypto::{ChildContext, child_offer, ike_offer};
    use crate::types::SaProtocol;
    use crate::wire::Spi;

    fn ike(change: impl FnOnce(&mut IkeProposal)) -> SecurityAssociation {
        let mut proposal = IkeProposal {
            encryption: vec![Encryption::AesGcm16Key256],
            integrity: Vec::new(),
            prf: vec![Prf::HmacSha384],
            key_exchange: vec![KeyExchange::X25519],
            additional: AdditionalKeyExchanges::NONE,
        };
        change(&mut proposal);
        ike_offer(&[proposal], &Spi::Absent)
    }

    #[test]
    fn the_kind_without_a_common_algorithm_is_named() {
        let ours = ike(|_| {});
        let methods = [Kem::MlKem768, Kem::MlKem1024].map(AdditionalKeyExchange::Kem);
        let list = |methods: &[_]| AdditionalKeyExchanges::new(methods).unwrap_or_default();
        for (theirs, says) in [
            (
                ike(|p| p.encryption = vec![Encryption::AesGcm16Key128]),
                "encryption: the peer offers AES-GCM-16-128, expected is AES-GCM-16-256",
            ),
            (
                ike(|p| p.prf = vec![Prf::HmacSha256]),
                "PRF: the peer offers HMAC-SHA2-256, expected is HMAC-SHA2-384",
            ),
            (
                ike(|p| p.key_exchange = vec![KeyExchange::Ecp256]),
                "key exchange: the peer offers ECP_256, expected is X25519",
            ),
            (
                ike(|p| p.additional = list(&methods[..1])),
                "additional key exchange: the peer offers ML_KEM_768, expected is none",
            ),
        ] {
            assert_eq!(no_common(&theirs, &ours), says);
        }
        assert_eq!(
            no_common(
                &ike(|p| p.additional = list(&methods)),
                &ike(|p| p.additional = list(&methods[..1]))
            ),
            "second additional key exchange: the peer offers ML_KEM_1024, expected is none"
        );
        let child = |protocol, integrity| {
            let encryption = vec![Encryption::AesGcm16Key256];
            let proposal = ChildProposal {
                protocol,
                encryption: if protocol == SaProtocol::Esp {
                    encryption
                } else {
                    Vec::new()
                },
                integrity,
                key_exchange: Vec::new(),
                additional: AdditionalKeyExchanges::NONE,
            };
            child_offer(&[proposal], true, ChildContext::Auth, &Spi::Absent)
        };
        let esp = child(SaProtocol::Esp, Vec::new());
        let ah = child(SaProtocol::Ah, vec![Integrity::HmacSha256]);
        assert_eq!(no_common(&ah, &esp), "the peer offers AH, expected is ESP");
    }

    #[test]
    fn selectors_are_shown_as_people_write_them() {
        let selector = |first: &str, last: &str, protocol, ports: (u16, u16)| TrafficSelector {
            protocol,
            first_port: ports.0,
            last_port: ports.1,
            first_address: first.parse().expect("an address"),
            last_address: last.parse().expect("an address"),
        };
        let list = [
            selector("10.1.0.0", "10.1.255.255", 0, (0, u16::MAX)),
            selector("fd00::1", "fd00::1", 6, (22, 22)),
            selector("fd00::1", "fd00::1", 17, (1, 9)),
        ];
        assert_eq!(
            selectors(&list),
            "10.1.0.0–10.1.255.255, fd00::1 protocol 6 port 22, fd00::1 protocol 17 ports 1–9"
        );
        assert!(selectors(std::iter::repeat_n(&list[0], 1000)).chars().count() <= MOST);
    }
}
