//! Certificates through the whole of IKE_AUTH: two engines with real certificates, of which one is not as it should be.
//! The peer hears AUTHENTICATION_FAILED and no more; our log says what is wrong.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crypto::{KeyEncoding, PROVIDERS, private_key};
use ipsecmesh_ike::{
    BootId, CertificateVerifier as _, ChildConfig, ChildId, Command, Credentials, EffectOutcome,
    Encapsulation, Endpoint, EndpointConfig, Event, Failure, Identity, Initiation, Limits, Mode, Now, Path,
    PeerAuth, PeerConfig, PeerId, Retransmit, TrafficSelector, WallTime,
};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls_pki_types::CertificateDer;

use crate::fixture::{child_proposals, ike_proposals, lifetime, liveness};
use crate::identity::external::ExpectedHost;
use crate::identity::fixture::{Authority, LIFETIME, NOW, Request};
use crate::identity::revocation::{Revocation, RevocationLists};
use crate::identity::trust::TrustBundle;
use crate::identity::verifier::{Directory, DirectoryVerifier};

const PEER: PeerId = PeerId(1);
const NAMES: [&str; 2] = ["a.example.com", "b.example.com"];

/// One end: what it shows, what it judges by, and its clock.
struct End {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    trust: TrustBundle,
    clock: u64,
}

impl End {
    fn new(authority: &Authority, number: usize, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let request = Request {
            dns: NAMES[number],
            ..Request::default()
        };
        Self {
            chain: vec![authority.issue(&key, request)],
            key,
            trust: authority.bundle(),
            clock: NOW,
        }
    }
}

/// What became of an end.
#[derive(Debug, Default)]
struct Outcome {
    sas: usize,
    failures: Vec<String>,
}

/// Two ends that are as they should be, changed by `change`; the first begins.
fn met(
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&Authority, &mut [End; 2]),
) -> [Outcome; 2] {
    let authority = Authority::new();
    let mut ends = [
        End::new(&authority, 0, algorithm),
        End::new(&authority, 1, algorithm),
    ];
    change(&authority, &mut ends);
    let mut engines = Vec::new();
    for (number, end) in ends.into_iter().enumerate() {
        engines.push(engine(number, end));
    }
    talk(&mut engines);
    for engine in &mut engines {
        // An initiator waits for a moment whether another response proves more.
        engine.now.mono = engine.now.mono + Duration::from_millis(1500);
        engine.endpoint.handle_timeout(engine.now);
        engine.drain();
    }
    let mut outcomes = engines.into_iter().map(|engine| engine.outcome);
    [
        outcomes.next().unwrap_or_default(),
        outcomes.next().unwrap_or_default(),
    ]
}

struct Engine {
    endpoint: Endpoint,
    now: Now,
    sent: VecDeque<(Path, Vec<u8>)>,
    outcome: Outcome,
}

fn address(number: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(number + 1).expect("small")])
}

fn child(number: usize) -> ChildConfig {
    let selector = |number| TrafficSelector {
        protocol: 0,
        first_port: 0,
        last_port: u16::MAX,
        first_address: address(number),
        last_address: address(number),
    };
    ChildConfig {
        id: ChildId(1),
        mode: Mode::Transport,
        proposals: child_proposals(),
        local_selectors: vec![selector(number)],
        remote_selectors: vec![selector(1 - number)],
        lifetime: lifetime(Duration::from_hours(1)),
        rekey_margin_percent: 10,
        esn: true,
        replay_window: 4096,
        reqid: 1,
    }
}

fn engine(number: usize, end: End) -> Engine {
    let other = 1 - number;
    let verifier = Arc::new(DirectoryVerifier::default());
    let expected = ExpectedHost {
        name: NAMES[other].to_owned(),
        identity: Identity::Fqdn(NAMES[other].to_owned()),
        keys: BTreeSet::new(),
        trust: None,
    };
    verifier.replace(Directory {
        trust: end.trust,
        peers: HashMap::new(),
        hosts: HashMap::from([(PEER, expected)]),
    });
    let signer = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, end.key.serialized_der()).expect("a signer");
    let config = EndpointConfig {
        boot_id: BootId([7; 16]),
        credentials: Some(Credentials {
            chain: end
                .chain
                .iter()
                .map(|der| der.to_vec())
                .collect::<Vec<_>>()
                .into(),
            signer,
        }),
        verifier,
        retransmit: Retransmit::default(),
        limits: Limits::default(),
        fragment_size: Some(EndpointConfig::FRAGMENT_SIZE),
    };
    let now = Now {
        wall: WallTime(end.clock),
        ..Now::default()
    };
    let mut endpoint = Endpoint::new(config, PROVIDERS[0], [7; 32], now);
    let peer = PeerConfig {
        id: PEER,
        local_address: address(number),
        remote_address: address(other),
        local_identity: Identity::Fqdn(NAMES[number].to_owned()),
        remote_identity: Identity::Fqdn(NAMES[other].to_owned()),
        auth: PeerAuth::Certificate,
        ppk: None,
        ike_proposals: ike_proposals(),
        ike_lifetime: Duration::from_hours(24),
        liveness: liveness(),
        initiation: if number == 0 {
            Initiation::Eager
        } else {
            Initiation::OnDemand
        },
        encapsulation: Encapsulation::Auto,
        children: vec![child(number)],
    };
    let command = Command::UpsertPeer(Box::new(peer));
    endpoint.handle_command(command, now).expect("valid");
    let mut engine = Engine {
        endpoint,
        now,
        sent: VecDeque::new(),
        outcome: Outcome::default(),
    };
    engine.drain();
    engine
}

impl Engine {
    fn drain(&mut self) {
        while let Some(effect) = self.endpoint.poll_effect() {
            self.endpoint
                .handle_effect(effect.id, EffectOutcome::Done, self.now);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(&mut buffer) {
            self.sent.push_back((transmit.path, buffer.clone()));
        }
        while let Some(event) = self.endpoint.poll_event() {
            if let Event::Failed { failure, detail, .. } = event {
                assert_eq!(failure, Failure::Authentication, "{detail}");
                self.outcome.failures.push(detail);
            }
        }
        self.outcome.sas = self.endpoint.counts().ike_sas;
    }
}

/// Carries datagrams until nobody says anything.
fn talk(engines: &mut [Engine]) {
    for _ in 0..100 {
        let Some(from) = engines.iter().position(|engine| !engine.sent.is_empty()) else {
            return;
        };
        let Some((path, mut datagram)) = engines[from].sent.pop_front() else {
            return;
        };
        let path = Path {
            local: path.remote,
            remote: path.local,
        };
        let to = &mut engines[1 - from];
        to.endpoint.handle_datagram(path, &mut datagram, to.now);
        to.drain();
    }
    panic!("the ends talk without end");
}

/// Revocation lists of an authority.
fn lists(pem: &str) -> Arc<Revocation> {
    let lists = RevocationLists::parse("certificates/default/crl.pem", pem.as_bytes()).expect("lists");
    Arc::new(Revocation::Lists(lists))
}

/// Case 4 of the catalogue: what is wrong with the certificate of one end, and what the log of the other says.
#[test]
fn a_certificate_that_is_not_good_is_refused_in_both_roles_with_a_plain_answer() {
    type Change = fn(&Authority, &mut End, &mut End);
    let cases: [(&str, Change); 8] = [
        ("it expired", |_, _, judge| judge.clock = NOW + 2 * LIFETIME),
        ("it becomes valid in", |_, _, judge| judge.clock = NOW - 1000),
        ("c.example.com", |authority, shown, _| {
            let request = Request {
                dns: "c.example.com",
                ..Request::default()
            };
            shown.chain = vec![authority.issue(&shown.key, request)];
        }),
        ("no root here has issued it", |_, _, judge| {
            judge.trust = Authority::named("another root").bundle();
        }),
        // The right name under a root of the same name with another key: forged.
        ("no root here has issued it", |_, shown, _| {
            let request = Request {
                dns: if shown.chain[0].is_empty() { "" } else { NAMES[0] },
                ..Request::default()
            };
            shown.chain = vec![Authority::new().issue(&shown.key, request)];
        }),
        // Somebody else's certificate, shown by who does not have its key.
        ("does not verify with the ECDSA P-384 key", |_, shown, _| {
            shown.key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        }),
        ("extended key usage", |authority, shown, _| {
            let request = Request {
                ike: false,
                ..Request::default()
            };
            shown.chain = vec![authority.issue(&shown.key, request)];
        }),
        (
            "it is revoked: certificates/default/crl.pem",
            |authority, shown, judge| {
                let pem = authority.revoke(&[&shown.chain[0]], NOW + 1000);
                judge.trust = authority.bundle().with_revocation(Some(lists(&pem)));
            },
        ),
    ];
    for (says, change) in cases {
        for (bad, good) in [(0, 1), (1, 0)] {
            let outcomes = met(&PKCS_ECDSA_P384_SHA384, |authority, ends| {
                let [first, second] = ends;
                if bad == 0 {
                    change(authority, first, second);
                } else {
                    change(authority, second, first);
                }
            });
            assert_eq!(outcomes[good].sas, 0, "{says}");
            let said = outcomes[good].failures.join("; ");
            assert!(said.contains(says), "{said:?} does not say {says:?}");
            let heard = outcomes[bad].failures.join("; ");
            assert!(!heard.contains(says), "the peer hears {heard:?}");
        }
    }
}

#[test]
fn good_certificates_of_every_kind_make_an_sa() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let outcomes = met(algorithm, |_, _| {});
        assert_eq!((outcomes[0].sas, outcomes[1].sas), (1, 1), "{outcomes:?}");
    }
}

#[test]
fn a_chain_with_an_intermediate_leads_to_a_root_that_both_know() {
    let through = |complete: bool| {
        met(&PKCS_ED25519, |authority, ends| {
            let (intermediate, certificate) = authority.intermediate();
            for (number, end) in ends.iter_mut().enumerate() {
                let request = Request {
                    dns: NAMES[number],
                    ..Request::default()
                };
                end.chain = vec![intermediate.issue(&end.key, request)];
                end.chain.extend(complete.then(|| certificate.clone()));
            }
        })
    };
    let outcomes = through(true);
    assert_eq!((outcomes[0].sas, outcomes[1].sas), (1, 1), "{outcomes:?}");
    let outcomes = through(false);
    assert!(
        outcomes[1].failures[0].contains("intermediate certificates"),
        "{outcomes:?}"
    );
}

#[test]
fn an_accepted_peer_is_told_apart_once_when_its_certificate_is_revoked() {
    let authority = Authority::new();
    let end = End::new(&authority, 1, &PKCS_ED25519);
    let directory = |revocation| Directory {
        trust: authority.bundle().with_revocation(revocation),
        peers: HashMap::new(),
        hosts: HashMap::from([(
            PEER,
            ExpectedHost {
                name: "b".to_owned(),
                identity: Identity::Fqdn(NAMES[1].to_owned()),
                keys: BTreeSet::new(),
                trust: None,
            },
        )]),
    };
    let verifier = DirectoryVerifier::default();
    assert_eq!(verifier.replace(directory(None)), []);
    let identity = Identity::Fqdn(NAMES[1].to_owned());
    let accept = || verifier.verify(PEER, &identity, &[end.chain[0].as_ref()], WallTime(NOW));
    assert!(accept().is_ok());
    assert_eq!(
        verifier.replace(directory(Some(lists(&authority.revoke(&[], NOW + 1))))),
        []
    );
    let pem = authority.revoke(&[&end.chain[0]], NOW + 1);
    let revoked = verifier.replace(directory(Some(lists(&pem))));
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].0, PEER);
    assert_eq!(verifier.replace(directory(Some(lists(&pem)))), []);
    let refused = accept().expect_err("revoked").to_string();
    assert!(refused.contains("it is revoked"), "{refused}");
}

#[test]
fn a_list_that_is_not_to_be_trusted_refuses_and_one_that_is_overdue_does_not() {
    let refused = |lists: fn(&Authority) -> Arc<Revocation>| {
        let outcomes = met(&PKCS_ED25519, |authority, ends| {
            ends[1].trust = authority.bundle().with_revocation(Some(lists(authority)));
        });
        outcomes[1].failures.first().cloned()
    };
    assert_eq!(refused(|authority| lists(&authority.revoke(&[], NOW - 1))), None);
    // Of a root of the same name with another key.
    let forged = refused(|_| lists(&Authority::new().revoke(&[], NOW + 1))).expect("refused");
    assert!(forged.contains("is not signed by that authority"), "{forged}");
    let broken = refused(|_| Arc::new(Revocation::Unreadable("crl.pem: broken".to_owned())));
    let broken = broken.expect("refused");
    assert!(
        broken.contains("nobody knows whether it is revoked: crl.pem: broken"),
        "{broken}"
    );
}
