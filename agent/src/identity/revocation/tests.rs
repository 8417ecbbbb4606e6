//! Lists as authorities write them, and the certificates on them.

use rcgen::KeyPair;

use super::*;
use crate::identity::fixture::{Authority, NOW, Request};

const FILE: &str = "certificates/default/crl.pem";

#[test]
fn a_certificate_on_the_list_is_named_with_file_time_and_reason() {
    let authority = Authority::new();
    let issue = || authority.issue(&KeyPair::generate().expect("a key"), Request::default());
    let (good, bad) = (issue(), issue());
    let pem = authority.revoke(&[&bad], NOW + 1000);
    let lists = RevocationLists::parse(FILE, pem.as_bytes()).expect("a list");
    assert_eq!(lists.revoked(std::slice::from_ref(&good)), None);
    let said = lists.revoked(std::slice::from_ref(&bad)).expect("revoked");
    for word in [
        "it is revoked",
        FILE,
        "since 2027-01-15T07:58:20Z (KeyCompromise)",
    ] {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    let said = lists.revoked(&[good, bad]).expect("revoked");
    assert!(said.contains("the certificate of its authority"), "{said}");
}

#[test]
fn another_authority_with_the_same_serial_number_is_not_meant() {
    let key = KeyPair::generate().expect("a key");
    let (root, other) = (Authority::new(), Authority::named("another root"));
    let theirs = other.issue_with_serial(&key, Request::default(), 7);
    let ours = root.issue_with_serial(&key, Request::default(), 7);
    let lists = RevocationLists::parse(FILE, root.revoke(&[&ours], NOW + 1).as_bytes()).expect("a list");
    assert!(lists.revoked(&[ours]).is_some());
    assert_eq!(lists.revoked(&[theirs]), None);
}

#[test]
fn lists_come_in_pem_and_der_and_are_overdue_after_their_time() {
    let authority = Authority::new();
    let pem = authority.revoke(&[], NOW + 1000);
    let der = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .next()
        .expect("one")
        .expect("PEM");
    let lists = RevocationLists::parse(FILE, der.as_ref()).expect("DER");
    assert_eq!(lists.overdue(NOW + 999), None);
    let said = lists.overdue(NOW + 1000).expect("overdue");
    assert!(
        said.contains("the next list was due at 2027-01-15T08:16:40Z") && said.contains("fetch it"),
        "{said}"
    );
    let both = RevocationLists::parse(FILE, pem.repeat(2).as_bytes()).expect("PEM");
    assert_eq!(both.lists().len(), 2);
}

#[test]
fn what_is_no_list_is_refused_with_file_and_fix() {
    let certificate = Authority::new().pem().to_owned();
    let refused = |content: &[u8]| RevocationLists::parse(FILE, content).expect_err("refused");
    for (says, said) in [
        ("holds no revocation list", refused(certificate.as_bytes())),
        ("list 1: not a revocation list", refused(b"nonsense")),
        ("list 1: not a revocation list", refused(b"")),
    ] {
        assert!(said.starts_with(FILE) && said.contains(says), "{said}");
    }
    // SEQUENCE { tbsCertList without version and extensions, algorithm, signature }: version 1 (RFC 5280 §5.1.2.1).
    let old = describe(&webpki::Error::UnsupportedCrlVersion);
    assert!(old.contains("crl_extensions"), "{old}");
}
