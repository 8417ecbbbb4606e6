//! When a certificate is good, and when another one is asked for.

use super::*;
use crate::identity::fixture::{Authority, LIFETIME, NOW, Request};

fn wanted(authority: &Authority, current: &NodeCertificate) -> Wanted {
    Wanted {
        node: "a".to_owned(),
        dns_name: "a.node.ipsecmesh.local".to_owned(),
        uri: "spiffe://ipsecmesh.local/node/a/uid-a".to_owned(),
        authority: "default".to_owned(),
        lifetime: Duration::from_secs(LIFETIME),
        renew_at_percent: 50,
        generation: 1,
        pinned: BTreeSet::from([current.leaf.key_fingerprint()]),
        trust: Arc::new(authority.bundle()),
    }
}

fn reason(plan: Plan) -> String {
    match plan {
        Plan::KeepUntil(at) => format!("kept until {at}"),
        Plan::Renew(reason) => reason,
    }
}

#[test]
fn a_good_certificate_is_kept_to_its_share_of_the_lifetime() {
    let authority = Authority::new();
    let current = authority.node(Request::default());
    let Plan::KeepUntil(at) = plan(Some(&current), &wanted(&authority, &current), NOW) else {
        panic!("it is good");
    };
    let middle = current.leaf.not_before + LIFETIME / 2;
    let spread = LIFETIME * JITTER_PERCENT / 100;
    assert!(
        at >= middle - spread && at <= middle + spread,
        "{at} is not about {middle}"
    );
    assert!(matches!(
        plan(Some(&current), &wanted(&authority, &current), at - 1),
        Plan::KeepUntil(_)
    ));
    assert!(matches!(
        plan(Some(&current), &wanted(&authority, &current), at),
        Plan::Renew(_)
    ));
}

#[test]
fn every_fault_asks_for_another_one_and_is_named() {
    let authority = Authority::new();
    let current = authority.node(Request::default());
    let good = wanted(&authority, &current);
    let cases: [(&str, Wanted, u64); 5] = [
        (
            "the node is spiffe://ipsecmesh.local/node/a/uid-b",
            Wanted {
                uri: "spiffe://ipsecmesh.local/node/a/uid-b".to_owned(),
                ..good.clone()
            },
            NOW,
        ),
        (
            "it is for",
            Wanted {
                dns_name: "b.node.ipsecmesh.local".to_owned(),
                ..good.clone()
            },
            NOW,
        ),
        (
            "certificateGeneration was raised to 2",
            Wanted {
                generation: 2,
                ..good.clone()
            },
            NOW,
        ),
        (
            "authority default does not accept it",
            Wanted {
                trust: Arc::new(Authority::new().bundle()),
                ..good.clone()
            },
            NOW,
        ),
        (
            "authority default does not accept it",
            good.clone(),
            current.leaf.not_after + 1,
        ),
    ];
    for (expected, wanted, now) in cases {
        let reason = reason(plan(Some(&current), &wanted, now));
        assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
    }
    assert_eq!(reason(plan(None, &good, NOW)), "the node has no certificate yet");
}

/// The directory publishes a new key a moment after the certificate is there: `notBefore` lies before that, and must not
/// make the certificate look revoked.
#[test]
fn a_key_that_is_not_published_yet_is_waited_for() {
    let authority = Authority::new();
    let current = authority.node(Request::default());
    let mut wanted = wanted(&authority, &current);
    wanted.pinned = BTreeSet::from(["sha256:the key before".to_owned()]);
    let issued = current.issued_at;
    assert_eq!(
        plan(Some(&current), &wanted, issued),
        Plan::KeepUntil(issued + PUBLISHING.as_secs())
    );
    let late = reason(plan(Some(&current), &wanted, issued + PUBLISHING.as_secs()));
    assert!(late.contains("IPsecPeer.spec.keys"), "{late}");
    // The first certificate of a node comes before its first key.
    wanted.pinned.clear();
    assert!(matches!(
        plan(Some(&current), &wanted, issued),
        Plan::KeepUntil(_)
    ));
}

#[test]
fn renewals_of_a_mesh_are_spread() {
    let spread = i64::try_from(LIFETIME * JITTER_PERCENT / 100).expect("small");
    let draws: BTreeSet<i64> = (0_u8..64).map(|key| jitter(&[key], LIFETIME)).collect();
    assert!(draws.len() > 32, "{draws:?}");
    assert!(draws.iter().all(|draw| draw.abs() <= spread), "{draws:?}");
    assert_eq!(jitter(&[7], LIFETIME), jitter(&[7], LIFETIME));
}

/// A certificate that is of no use changes the pinned keys, and must not ask for the next one at once by that.
#[test]
fn after_a_failure_pinned_keys_are_no_news() {
    let authority = Authority::new();
    let current = authority.node(Request::default());
    let before = wanted(&authority, &current);
    let pinned = Wanted {
        pinned: BTreeSet::new(),
        ..before.clone()
    };
    assert!(pinned.is_but_for_keys(&before));
    let other = Wanted {
        trust: Arc::new(Authority::new().bundle()),
        ..pinned
    };
    assert!(!other.is_but_for_keys(&before));
}
