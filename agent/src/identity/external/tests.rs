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

/// RFC 4945 §3.1: which kind of identity stands where in a certificate, and how it is compared.
#[test]
fn every_kind_that_a_certificate_carries_is_accepted_and_no_other() {
    // UTF8String, as the fixture's authority writes it.
    const SUBJECT: &[u8] = b"\x30\x21\x31\x1f\x30\x1d\x06\x03\x55\x04\x03\x0c\x16rcgen self signed cert";
    let name = |der: &[u8]| Identity::Dn(ipsecmesh_ike::DistinguishedName::from_der(der).expect("a name"));
    let mut printable = SUBJECT.to_vec();
    printable[11] = 0x13;
    let email = |text: &str| Identity::Email(text.to_owned());
    let address = |last| Identity::Address([192, 0, 2, last].into());
    let id = || Identity::KeyId(b"db-3".to_vec());
    for (accepted, expected, claimed) in [
        (true, email("vpn@example.com"), email("vpn@Example.com")),
        (false, email("VPN@example.com"), email("VPN@example.com")),
        (true, address(7), address(7)),
        (false, address(8), address(8)),
        (true, name(SUBJECT), name(SUBJECT)),
        // The configuration is a text: its string types do not count. The certificate's do.
        (true, name(&printable), name(SUBJECT)),
        (false, name(SUBJECT), name(&printable)),
        (false, id(), id()),
    ] {
        let result = judged(|case| (case.expected.identity, case.claimed) = (expected.clone(), claimed));
        assert_eq!(result.is_ok(), accepted, "{expected}: {result:?}");
    }
}

#[test]
fn everything_else_is_refused_with_the_fix() {
    let other = || Identity::Fqdn("b.example.com".to_owned());
    let cases = [
        ("the peer claims", judged(|case| case.claimed = other())),
        (
            "it does not carry FQDN b.example.com, only FQDN a.node.ipsecmesh.local, Email vpn@example.com, IPv4 192.0.2.7, DN CN=",
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

#[test]
fn a_key_that_may_not_sign_is_refused() {
    let authority = Authority::new();
    let key = KeyPair::generate().expect("a key");
    let request = Request {
        signs: false,
        ..Request::default()
    };
    let identity = Identity::Fqdn("a.node.ipsecmesh.local".to_owned());
    let expected = ExpectedHost {
        name: "array".to_owned(),
        identity: identity.clone(),
        keys: BTreeSet::new(),
        trust: None,
    };
    let chain = [authority.issue(&key, request)];
    let error = expected
        .judge(&authority.bundle(), &identity, &chain, WallTime(NOW))
        .expect_err("refused");
    assert!(
        error.contains("neither digitalSignature nor nonRepudiation"),
        "{error}"
    );
}
