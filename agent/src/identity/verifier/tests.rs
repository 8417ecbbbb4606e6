//! Whose certificate is accepted for whom.

use rcgen::KeyPair;

use super::*;
use crate::identity::fixture::{Authority, LIFETIME, NOW, Request};

const PEER: PeerId = PeerId(1);

struct Case {
    directory: Directory,
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    at: u64,
    peer: PeerId,
}

/// Node a with a good certificate, changed by `change`; `key` is the one that is pinned.
fn judged(request: Request<'_>, change: impl FnOnce(&mut Case)) -> Result<Vec<u8>, String> {
    let authority = Authority::new();
    let key = KeyPair::generate().expect("key");
    let chain = vec![authority.issue(&key, request)];
    let leaf = Leaf::parse(&chain[0]).expect("a leaf");
    let expected = ExpectedPeer {
        node: "a".to_owned(),
        dns_name: "a.node.ipsecmesh.local".to_owned(),
        uri: "spiffe://ipsecmesh.local/node/a/uid-a".to_owned(),
        keys: BTreeSet::from([leaf.key_fingerprint()]),
    };
    let mut case = Case {
        directory: Directory {
            trust: authority.bundle(),
            peers: HashMap::from([(PEER, expected)]),
            hosts: HashMap::new(),
        },
        identity: Identity::Fqdn("A.node.ipsecmesh.local".to_owned()),
        chain,
        at: NOW,
        peer: PEER,
    };
    change(&mut case);
    let verifier = DirectoryVerifier::default();
    verifier.replace(case.directory);
    let chain: Vec<&[u8]> = case.chain.iter().map(AsRef::as_ref).collect();
    verifier
        .verify(case.peer, &case.identity, &chain, WallTime(case.at))
        .map_err(|error| error.to_string())
}

#[test]
fn a_nodes_own_certificate_is_accepted_and_gives_its_key() {
    let spki = judged(Request::default(), |_| {}).expect("accepted");
    assert!(!spki.is_empty());
}

#[test]
fn everything_else_is_refused_with_the_reason() {
    let mut cases: Vec<(&str, Result<Vec<u8>, String>)> = vec![
        (
            "no IPsecPeer",
            judged(Request::default(), |case| case.peer = PeerId(2)),
        ),
        (
            "sent no certificate",
            judged(Request::default(), |case| case.chain.clear()),
        ),
        (
            "does not parse",
            judged(Request::default(), |case| case.chain[0] = vec![0x30, 0x00].into()),
        ),
        (
            "was not issued by",
            judged(Request::default(), |case| {
                case.directory.trust = Authority::new().bundle();
            }),
        ),
        (
            "was not issued by",
            judged(Request::default(), |case| {
                case.directory.trust = TrustBundle::default();
            }),
        ),
        (
            "it expired 1",
            judged(Request::default(), |case| case.at = NOW - 300 + LIFETIME + 1),
        ),
        (
            "compare the clocks",
            judged(Request::default(), |case| case.at = NOW - 301),
        ),
        (
            "id-kp-ipsecIKE",
            judged(
                Request {
                    ike: false,
                    ..Request::default()
                },
                |_| {},
            ),
        ),
        (
            "another node's certificate",
            judged(
                Request {
                    dns: "b.node.ipsecmesh.local",
                    ..Request::default()
                },
                |_| {},
            ),
        ),
        (
            "the Node was made anew",
            judged(
                Request {
                    uri: "spiffe://ipsecmesh.local/node/a/uid-old",
                    ..Request::default()
                },
                |_| {},
            ),
        ),
        (
            "the Node was made anew",
            judged(
                Request {
                    uri: "spiffe://other.local/node/a/uid-a",
                    ..Request::default()
                },
                |_| {},
            ),
        ),
        (
            "the peer claims",
            judged(Request::default(), |case| {
                case.identity = Identity::Fqdn("b.node.ipsecmesh.local".to_owned());
            }),
        ),
        (
            "the peer claims",
            judged(Request::default(), |case| {
                case.identity = Identity::KeyId(b"a".to_vec());
            }),
        ),
    ];
    cases.push((
        "pinned in IPsecPeer.spec.keys",
        judged(Request::default(), |case| {
            for peer in case.directory.peers.values_mut() {
                peer.keys = BTreeSet::from(["sha256:00".to_owned()]);
            }
        }),
    ));
    for (expected, result) in cases {
        let error = result.expect_err(expected);
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn a_certificate_below_a_leaf_is_refused() {
    let authority = Authority::new();
    let other = Authority::new();
    let key = KeyPair::generate().expect("key");
    let below = other.issue(&key, Request::default());
    let leaf = authority.issue(&KeyPair::generate().expect("key"), Request::default());
    let refused = judged(Request::default(), |case| {
        case.directory.trust = authority.bundle();
        case.chain = vec![below, leaf];
    });
    assert!(refused.is_err());
}

#[test]
fn the_anchors_are_named_for_the_peer() {
    let verifier = DirectoryVerifier::default();
    assert!(verifier.authorities(PEER).is_empty());
    verifier.replace(Directory {
        trust: Authority::new().bundle(),
        ..Directory::default()
    });
    assert_eq!(verifier.authorities(PEER).len(), 1);
}
