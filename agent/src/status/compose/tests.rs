//! Every kind of trouble, every phase, and what stays said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipsecmesh_crds::node::{PeerCounts, RolloutEcho};
use ipsecmesh_crds::phase::Phase;
use ipsecmesh_ike::{
    ChildId, ChildSaId, Encapsulation, EspSpi, Failure, Identity, IkeProposal, Initiation, Liveness,
    LivenessAction, PeerAuth, PeerConfig, PeerId,
};

use super::*;
use crate::desired::{DesiredPeer, PeerTrust, TunnelGoal};
use crate::engine::event::{ChildView, FailureView, PeerView, Traffic};
use crate::identity::renew::IdentityProblem;
use crate::model::{Authority, OwnNode, Peer, Rollout};
use crate::probe::Obstacle;

const CHILD: ChildId = ChildId(7);
const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("in range")
}

/// How a peer stands.
#[derive(Clone, Copy, Debug)]
enum Pair {
    Failed(Failure),
    Idle,
    Keyless,
    Up,
}

/// A node with one tunnel, whose desired state of revision 4 stands.
fn inputs(phase: Phase, pairs: &[(&str, Pair)]) -> StatusInputs {
    let mut desired = Desired {
        revision: 4,
        ..Desired::default()
    };
    let mut view = View {
        running: true,
        programmed: 4,
        ..View::default()
    };
    let mut members = BTreeMap::new();
    for (number, (node, pair)) in (1..).zip(pairs) {
        let id = PeerId(number);
        members.insert((*node).to_owned(), vec![(id, CHILD)]);
        desired
            .peers
            .insert(id, peer(id, node, !matches!(pair, Pair::Keyless)));
        view.peers.insert(id, peer_view(node, *pair));
    }
    desired.tunnels.push(TunnelGoal {
        external: None,
        name: "mesh".to_owned(),
        uid: "uid-mesh".to_owned(),
        rollout: Rollout { generation: 3, phase },
        transition: None,
        needs_sas: phase == Phase::Permissive,
        enforced: phase == Phase::Enforcing,
        releases: false,
        overlays: Vec::new(),
        members,
        overridden_by: BTreeSet::new(),
        apart: BTreeSet::new(),
        problem: None,
        remark: None,
    });
    StatusInputs {
        sealing_key: None,
        snapshot: Arc::new(snapshot()),
        desired: Arc::new(desired),
        view,
        identity: IdentityState::default(),
        probe: None,
        overlays: Some(Vec::new()),
        authority: "default".to_owned(),
        down: Vec::new(),
        boot: "boot-1".to_owned(),
    }
}

fn snapshot() -> Snapshot {
    let authority = Authority {
        name: "default".to_owned(),
        trust_domain: "ipsecmesh.local".to_owned(),
        lifetime: Duration::from_hours(168),
        renew_at_percent: 50,
        bundle: "PEM".to_owned(),
        bundle_hash: None,
    };
    Snapshot {
        synced: true,
        own: Some(Peer {
            node: "a".to_owned(),
            uid: "uid-a".to_owned(),
            boot: None,
            identity: "a.node.ipsecmesh.local".to_owned(),
            addresses: Vec::new(),
            pods: Vec::new(),
            keys: BTreeSet::new(),
            memberships: Vec::new(),
        }),
        node: Some(OwnNode {
            node_uid: String::new(),
            sealed: Vec::new(),
            object_uid: "uid-inode".to_owned(),
            generation: 9,
            certificate_generation: 0,
            status: None,
        }),
        authorities: BTreeMap::from([("default".to_owned(), authority)]),
        ..Snapshot::default()
    }
}

fn peer(id: PeerId, node: &str, has_key: bool) -> DesiredPeer {
    let keys = if has_key {
        BTreeSet::from(["sha256:00".to_owned()])
    } else {
        BTreeSet::new()
    };
    DesiredPeer {
        node: node.to_owned(),
        config: PeerConfig {
            id,
            local_address: IpAddr::from([10, 0, 0, 1]),
            remote_address: IpAddr::from([10, 0, 0, 2]),
            local_identity: Identity::Fqdn("a".to_owned()),
            remote_identity: Identity::Fqdn(node.to_owned()),
            auth: PeerAuth::Certificate,
            ppk: None,
            ike_proposals: Vec::<IkeProposal>::new(),
            ike_lifetime: Duration::from_hours(24),
            liveness: Liveness {
                interval: Duration::from_secs(30),
                max_retries: 3,
                action: LivenessAction::Restart,
            },
            initiation: Initiation::Eager,
            encapsulation: Encapsulation::Auto,
            children: Vec::new(),
        },
        boot: None,
        startable: has_key,
        trust: PeerTrust {
            uid: format!("uid-{node}"),
            keys,
            roots: None,
        },
    }
}

fn peer_view(node: &str, pair: Pair) -> PeerView {
    let mut view = PeerView {
        node: node.to_owned(),
        ..PeerView::default()
    };
    match pair {
        Pair::Up => {
            let spi = EspSpi::new(4096).expect("not reserved");
            let child = ChildView {
                id: ChildSaId(1),
                inbound: spi,
                outbound: spi,
                since: 0,
                shape: None,
                received: Traffic::default(),
                sent: Traffic::default(),
            };
            view.children.insert(CHILD, child);
        }
        Pair::Failed(failure) => {
            view.failure = Some(FailureView {
                failure,
                child: None,
                detail: "why and what to do".to_owned(),
                since: 5,
            });
        }
        Pair::Idle | Pair::Keyless => {}
    }
    view
}

fn counts(desired: u32, established: u32, idle: u32, failed: u32) -> PeerCounts {
    PeerCounts {
        desired,
        established,
        idle,
        failed,
    }
}

fn report(inputs: &StatusInputs, before: Option<&IPsecNodeStatus>) -> TunnelReport {
    compose(inputs, before, now()).tunnels.remove(0)
}

fn condition(status: &IPsecNodeStatus, type_: &str) -> (String, String) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .expect("there");
    (found.status.clone(), found.reason.clone())
}

#[test]
fn each_phase_is_echoed_when_its_policies_stand() {
    for phase in Phase::ALL {
        let report = report(&inputs(phase, &[("b", Pair::Up)]), None);
        let echo = RolloutEcho {
            generation: 3,
            phase,
            transition: None,
        };
        assert_eq!((report.rollout, report.programmed), (echo, true), "{phase}");
        assert_eq!(report.peers, counts(1, 1, 0, 0), "{phase}");
    }
}

/// Only `Permissive` waits for SAs, and only for those of peers that can be reached.
#[test]
fn the_first_phase_waits_for_its_sas() {
    type Case<'a> = (&'a [(&'a str, Pair)], Option<PeerCounts>);
    use Pair::{Failed, Idle, Keyless, Up};
    let unreachable = Failed(Failure::Unreachable);
    let cases: [Case<'_>; 5] = [
        (&[("b", Up), ("c", Up)], Some(counts(2, 2, 0, 0))),
        (&[("b", Up), ("c", Idle)], None),
        (&[("b", Up), ("c", unreachable)], Some(counts(2, 1, 0, 1))),
        (&[("b", Up), ("c", Keyless)], Some(counts(2, 1, 1, 0))),
        (&[], Some(counts(0, 0, 0, 0))),
    ];
    for (pairs, echoed) in cases {
        let permissive = report(&inputs(Phase::Permissive, pairs), None);
        assert_eq!(
            permissive.programmed.then_some(permissive.peers),
            echoed,
            "{pairs:?}"
        );
        assert!(
            report(&inputs(Phase::Encrypting, pairs), None).programmed,
            "{pairs:?}"
        );
    }
}

/// A new member beside an old echo would say that its policies stand.
#[test]
fn what_is_being_written_is_not_reported_yet() {
    let before = compose(&inputs(Phase::Enforcing, &[("b", Pair::Up)]), None, now());
    let mut writing = inputs(Phase::Draining, &[("b", Pair::Up), ("c", Pair::Idle)]);
    writing.view.programmed = 3;
    let after = compose(&writing, Some(&before), now());
    assert_eq!(after.tunnels, before.tunnels);
    writing.view.programmed = 4;
    let after = report(&writing, Some(&before));
    assert_eq!((after.rollout.phase, after.peers.desired), (Phase::Draining, 2));
}

#[test]
fn a_refused_policy_takes_programmed_back_and_is_named() {
    let before = compose(&inputs(Phase::Enforcing, &[("b", Pair::Up)]), None, now());
    let mut refused = inputs(Phase::Enforcing, &[("b", Pair::Up)]);
    refused.view.programmed = 3;
    refused
        .view
        .refused
        .insert("policy x".to_owned(), "ENOMEM".to_owned());
    let status = compose(&refused, Some(&before), now());
    assert!(!status.tunnels[0].programmed);
    assert_eq!(
        condition(&status, "DataplaneReady"),
        ("False".to_owned(), "DataplaneRefused".to_owned())
    );
    assert_eq!(condition(&status, "Ready").0, "False");
}

#[test]
fn nothing_of_an_earlier_boot_stays_said() {
    let before = compose(&inputs(Phase::Enforcing, &[("b", Pair::Up)]), None, now());
    let mut booted = inputs(Phase::Enforcing, &[("b", Pair::Idle)]);
    booted.boot = "boot-2".to_owned();
    booted.view.programmed = 0;
    let status = compose(&booted, Some(&before), now());
    assert!(!status.tunnels[0].programmed);
    assert_eq!(condition(&status, "Ready").0, "Unknown", "no certificate yet");
}

#[test]
fn failing_pairs_carry_the_reasons_of_the_api() {
    let pairs = [
        ("b", Pair::Failed(Failure::Authentication)),
        ("c", Pair::Failed(Failure::NoProposalChosen)),
        ("d", Pair::Failed(Failure::TrafficSelectors)),
        ("e", Pair::Failed(Failure::Unreachable)),
        ("f", Pair::Failed(Failure::Protocol)),
        ("g", Pair::Up),
    ];
    let status = compose(&inputs(Phase::Enforcing, &pairs), None, now());
    let told: Vec<_> = status
        .failures
        .iter()
        .map(|f| (f.peer.as_str(), f.reason.as_str()))
        .collect();
    let expected = [
        ("b", "AuthenticationFailed"),
        ("c", "NoProposalChosen"),
        ("d", "TSUnacceptable"),
        ("e", "PeerUnreachable"),
        ("f", "ProtocolError"),
    ];
    assert_eq!(told, expected);
    assert!(
        status
            .failures
            .iter()
            .all(|f| f.tunnel == "mesh" && f.message.contains("what to do"))
    );
    assert_eq!(status.tunnels[0].peers, counts(6, 1, 0, 5));
    let summary = status.summary.expect("there");
    assert_eq!(
        (summary.tunnels, summary.up, summary.idle, summary.failed),
        (1, 1, 0, 5)
    );
}

#[test]
fn the_status_holds_no_more_failures_than_the_api_takes() {
    let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    let pairs: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Pair::Failed(Failure::Unreachable)))
        .collect();
    let status = compose(&inputs(Phase::Permissive, &pairs), None, now());
    assert_eq!((status.failures.len(), status.tunnels[0].peers.failed), (16, 40));
}

#[test]
fn an_obstacle_of_the_host_is_the_nodes_condition() {
    let mut starting = inputs(Phase::Enforcing, &[]);
    starting.view.running = false;
    starting.view.programmed = 0;
    let status = compose(&starting, None, now());
    assert_eq!(
        condition(&status, "DataplaneReady"),
        ("Unknown".to_owned(), "Starting".to_owned())
    );
    assert!(starting.starting());
    starting.view.obstacle = Some(Obstacle {
        reason: "KernelUnsupported",
        message: "ESP over IPv4: no; modprobe esp4".to_owned(),
    });
    assert!(!starting.starting(), "people are told at once");
    let status = compose(&starting, None, now());
    for type_ in ["DataplaneReady", "Ready"] {
        assert_eq!(
            condition(&status, type_),
            ("False".to_owned(), "KernelUnsupported".to_owned())
        );
    }
    let message = &status.conditions[0].message;
    assert!(message.contains("modprobe"), "{message}");
}

#[test]
fn certificates_are_judged_by_whether_the_node_can_prove_itself() {
    let problem = |denied| IdentityProblem {
        denied,
        message: "no such node".to_owned(),
    };
    let mut case = inputs(Phase::Enforcing, &[]);
    let of = |case: &StatusInputs| condition(&compose(case, None, now()), "CertificateReady");
    assert_eq!(of(&case), ("Unknown".to_owned(), "CertificatePending".to_owned()));
    case.identity.problem = Some(problem(false));
    assert_eq!(of(&case), ("False".to_owned(), "CertificatePending".to_owned()));
    case.identity.problem = Some(problem(true));
    assert_eq!(of(&case), ("False".to_owned(), "CertificateDenied".to_owned()));

    case.identity.certificate = Some(certificate_until(u64::try_from(NOW).expect("positive") + 10));
    assert_eq!(of(&case), ("True".to_owned(), "RenewalFailing".to_owned()));
    case.identity.problem = None;
    assert_eq!(of(&case), ("True".to_owned(), "Issued".to_owned()));
    let status = compose(&case, None, now());
    assert_eq!(
        status
            .certificate
            .map(|certificate| certificate.authority)
            .as_deref(),
        Some("default")
    );
    case.identity.certificate = Some(certificate_until(u64::try_from(NOW).expect("positive")));
    assert_eq!(of(&case).0, "Unknown", "it has expired");

    let mut nobody = inputs(Phase::Enforcing, &[]);
    nobody.snapshot = Arc::new(Snapshot {
        authorities: BTreeMap::new(),
        ..snapshot()
    });
    assert_eq!(
        of(&nobody),
        ("Unknown".to_owned(), "AuthorityNotFound".to_owned())
    );
}

/// Pods come to a node when it is Ready: none may send in clear.
#[test]
fn a_node_is_ready_when_its_policies_stand_and_stays_so_through_changes() {
    let mut case = inputs(Phase::Enforcing, &[("b", Pair::Idle)]);
    case.identity.certificate = Some(certificate_until(4_000_000_000));
    case.view.programmed = 3;
    let fresh = compose(&case, None, now());
    assert_eq!(
        condition(&fresh, "Ready"),
        ("False".to_owned(), "Reconciling".to_owned())
    );
    case.view.programmed = 4;
    let ready = compose(&case, Some(&fresh), now());
    assert_eq!(
        condition(&ready, "Ready"),
        ("True".to_owned(), "AllTunnelsProgrammed".to_owned())
    );
    case.view.programmed = 3;
    assert_eq!(condition(&compose(&case, Some(&ready), now()), "Ready").0, "True");
    case.snapshot = Arc::new(Snapshot {
        own: None,
        ..snapshot()
    });
    let unknown = compose(&case, Some(&ready), now());
    assert_eq!(
        condition(&unknown, "Ready"),
        ("False".to_owned(), "NotInDirectory".to_owned())
    );
}

#[test]
fn the_same_state_gives_the_same_status() {
    let case = inputs(
        Phase::Enforcing,
        &[("b", Pair::Up), ("c", Pair::Failed(Failure::Unreachable))],
    );
    let first = compose(&case, None, now());
    let later = Timestamp::from_second(NOW + 60).expect("in range");
    assert_eq!(compose(&case, Some(&first), later), first);
    assert_eq!(first.observed_generation, Some(9));
    assert_eq!(
        first.agent.as_ref().map(|agent| agent.boot_id.as_str()),
        Some("boot-1")
    );
    assert!(
        first
            .bundle_hash
            .is_some_and(|hash| hash.starts_with("sha256:") && hash.len() == 71)
    );
}

#[test]
fn overlays_that_nobody_looked_for_yet_stay_as_they_were() {
    let mut case = inputs(Phase::Enforcing, &[]);
    let found = DetectedOverlay {
        protocol: 17,
        port: Some(8472),
        device: "flannel.1".to_owned(),
        mtu: Some(1450),
        fits: Some(1416),
    };
    case.overlays = Some(vec![found]);
    let before = compose(&case, None, now());
    assert_eq!(before.overlay[0].port, Some(8472));
    case.overlays = None;
    assert!(case.starting());
    assert_eq!(compose(&case, Some(&before), now()).overlay, before.overlay);
    case.overlays = Some(Vec::new());
    assert!(compose(&case, Some(&before), now()).overlay.is_empty());
}

fn certificate_until(not_after: u64) -> Arc<crate::identity::keystore::NodeCertificate> {
    let key = rcgen::KeyPair::generate().expect("key");
    let der = rcgen::CertificateParams::default()
        .self_signed(&key)
        .expect("certificate")
        .der()
        .clone();
    let key = ipsecmesh_crypto::private_key(
        ipsecmesh_crypto::PROVIDERS[0],
        ipsecmesh_crypto::KeyEncoding::Pkcs8,
        key.serialized_der(),
    )
    .expect("a signer");
    let mut certificate =
        crate::identity::keystore::NodeCertificate::new(key, vec![der], 0, 0).expect("matching");
    certificate.leaf.not_after = not_after;
    Arc::new(certificate)
}

#[test]
fn what_works_less_well_than_it_should_is_said_beside_readiness() {
    let mut case = inputs(Phase::Enforcing, &[]);
    let degraded = |case: &StatusInputs| {
        let status = compose(case, None, now());
        status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == "Degraded")
            .map(|found| (found.reason, found.message))
    };
    let device = DetectedOverlay {
        protocol: 17,
        port: Some(8472),
        device: "flannel.1".to_owned(),
        mtu: Some(1450),
        fits: Some(1416),
    };
    case.overlays = Some(vec![device.clone()]);
    assert_eq!(degraded(&case), None, "no tunnel, no ESP");

    let mesh = ipsecmesh_crds::IPsecTunnel::new("mesh", ipsecmesh_crds::IPsecTunnelSpec::default());
    let tunnels = vec![crate::source::convert::unranked(&mesh)];
    case.snapshot = Arc::new(Snapshot {
        tunnels: tunnels.clone(),
        ..snapshot()
    });
    let (reason, message) = degraded(&case).expect("too large");
    assert_eq!(reason, "MTUTooSmall");
    assert!(
        message.contains("flannel.1") && message.contains("1416"),
        "{message}"
    );

    let refused = BTreeMap::from([("IPsecPeer b".to_owned(), "spec.addresses[0]: bad".to_owned())]);
    case.snapshot = Arc::new(Snapshot {
        tunnels,
        refused,
        ..snapshot()
    });
    let (reason, message) = degraded(&case).expect("refused");
    assert_eq!(reason, "ObjectRefused");
    assert!(
        message.contains("IPsecPeer b") && message.contains("1416"),
        "{message}"
    );

    case.overlays = Some(vec![DetectedOverlay {
        mtu: Some(1416),
        ..device
    }]);
    let (_, message) = degraded(&case).expect("refused");
    assert!(!message.contains("MTU"), "{message}");
}

#[test]
fn a_restarted_agent_says_the_same_of_its_certificate() {
    let mut case = inputs(Phase::Enforcing, &[]);
    case.identity.certificate = Some(certificate_until(4_000_000_000));
    case.identity.issuer = Some("sha256:root".to_owned());
    let before = compose(&case, None, now());
    case.identity.issuer = None;
    assert_eq!(compose(&case, Some(&before), now()), before);
    case.identity.certificate = Some(certificate_until(4_000_000_000));
    let other = compose(&case, Some(&before), now()).certificate.expect("there");
    assert_eq!(other.issuer, "", "nobody knows who issued another one");
}
