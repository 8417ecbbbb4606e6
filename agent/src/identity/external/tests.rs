//! Whose certificate is accepted for whom when somebody else issues.

use rcgen::KeyPair;

use super::*;
use crate::identity::fixture::{Authority, LIFETIME, NOW, Request};

struct Case {
    expected: ExpectedHost,
    claimed: Identity,
    authority: TrustBundle,
    at: u64,
}

fn judged(change: impl FnOnce(&mut Case)) -> Result<Vec<u8>, String> {
    let authority = Authority::new();
    let key = KeyPair::generate().expect("a key");
    let chain = [authority.issue(&key, Request::default())];
    let identity = Identity::Fqdn("a.node.ipsecmesh.local".to_owned());
    let mut case = Case {
        expected: ExpectedHost {
            name: "array".to_owned(),
            identity: identity.clone(),
            keys: BTreeSet::new(),
            trust: None,
        },
        claimed: identity,
        authority: authority.bundle(),
        at: NOW,
    };
    change(&mut case);
    case.expected
        .judge(&case.authority, &case.claimed, &chain, WallTime(case.at))
}

#[test]
fn a_name_of_the_certificate_is_accepted() {
    assert!(judged(|_| {}).is_ok());
    assert!(judged(|case| case.claimed = Identity::Fqdn("A.Node.ipsecmesh.local".to_owned())).is_ok());
}

#[test]
fn everything_else_is_refused_with_the_fix() {
    let other = || Identity::Fqdn("b.example.com".to_owned());
    let cases = [
        ("the peer claims", judged(|case| case.claimed = other())),
        (
            "its subjectAltName has no",
            judged(|case| (case.claimed, case.expected.identity) = (other(), other())),
        ),
        (
            "put the peer's roots",
            judged(|case| case.authority = Authority::new().bundle()),
        ),
        (
            "put the peer's roots",
            judged(|case| case.expected.trust = Some(Authority::new().bundle())),
        ),
        ("expired", judged(|case| case.at = NOW + 2 * LIFETIME)),
        ("compare the clocks", judged(|case| case.at = NOW - 1000)),
        (
            "not among those in IPsecPeer.spec.keys",
            judged(|case| case.expected.keys = BTreeSet::from(["sha256:00".to_owned()])),
        ),
    ];
    for (says, result) in cases {
        let error = result.expect_err(says);
        assert!(error.contains(says), "{error}");
    }
}
