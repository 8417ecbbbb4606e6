//! Tables: what one external tunnel, and several to one host, want.

use std::time::Duration;

use ipsecmesh_crds::Phase;
use ipsecmesh_ike::Encapsulation;
use zeroize::Zeroizing;

use super::*;
use crate::desired::{TunnelGoal, desired};
use crate::fixture;
use crate::identity::directory;
use crate::identity::trust::TrustBundle;
use crate::model::{Authority, Membership, Peer, Psk, Remote, Resolved, Rollout, Tunnel};
use crate::persist::Latch;
use crate::source::Snapshot;

const LOCAL: &str = "192.0.2.1";
const REMOTE: &str = "192.0.2.2";

fn tunnel(name: &str, selectors: Vec<PacketSelector>) -> Tunnel {
    Tunnel {
        name: name.to_owned(),
        uid: name.to_owned(),
        order: 0,
        policy_rank: 3600,
        suspended: false,
        rollout: Some(Rollout {
            generation: 1,
            phase: Phase::Enforcing,
        }),
        remote: Remote::External(Box::new(External {
            address: REMOTE.to_owned(),
            identity: None,
            local_identity: None,
            auth: ExternalAuth::Psk,
            ppk: None,
            selectors,
            bypass: Vec::new(),
        })),
        overlay: Vec::new(),
        block: true,
        mode: Mode::Transport,
        protocol: ipsecmesh_ike::SaProtocol::Esp,
        start: Start::Auto,
        encapsulation: Encapsulation::Auto,
        ike_proposals: fixture::ike_proposals(),
        ike_lifetime: Duration::from_hours(24),
        liveness: fixture::liveness(),
        child_proposals: fixture::child_proposals(),
        lifetime: fixture::lifetime(Duration::from_hours(1)),
        rekey_margin_percent: 10,
        esn: true,
        replay_window: 4096,
    }
}

fn external(tunnel: &mut Tunnel) -> &mut External {
    match &mut tunnel.remote {
        Remote::External(external) => external,
        Remote::Nodes => panic!("an external tunnel"),
    }
}

struct Case {
    tunnels: Vec<Tunnel>,
    ends: (&'static str, &'static str),
    identity: &'static str,
    bundles: BTreeMap<(String, String), String>,
    down: BTreeSet<String>,
    ppks: BTreeMap<String, Psk>,
}

impl Case {
    fn new(tunnels: Vec<Tunnel>) -> Self {
        Self {
            tunnels,
            ends: (LOCAL, REMOTE),
            identity: "",
            bundles: BTreeMap::new(),
            down: BTreeSet::new(),
            ppks: BTreeMap::new(),
        }
    }

    fn desired(&self) -> Desired {
        let membership = |tunnel: &Tunnel| Membership {
            tunnel: tunnel.name.clone(),
            local: true,
            remote: false,
            phase: None,
        };
        let own = Peer {
            node: "host".to_owned(),
            uid: "host".to_owned(),
            boot: None,
            identity: self.identity.to_owned(),
            addresses: Vec::new(),
            pods: Vec::new(),
            keys: BTreeSet::new(),
            memberships: self.tunnels.iter().map(membership).collect(),
        };
        let ends = Ends {
            local: self.ends.0.parse().expect("an address"),
            remote: self.ends.1.parse().expect("an address"),
        };
        let psk = Psk {
            current: Zeroizing::new(vec![7; 32]),
            previous: None,
        };
        desired(&Inputs {
            tunnels: &self.tunnels,
            peers: &[],
            departed: &[],
            own: &own,
            latch: &Latch::default(),
            last_overlays: &BTreeMap::new(),
            own_ready: false,
            own_subject: None,
            unpinned: false,
            resolved: &Resolved::from([(REMOTE.to_owned(), Ok(ends))]),
            ppks: &self.ppks,
            psks: &self
                .tunnels
                .iter()
                .map(|tunnel| (tunnel.name.clone(), psk.clone()))
                .collect(),
            bundles: &self.bundles,
            down: &self.down,
        })
    }
}

fn everything() -> Vec<PacketSelector> {
    vec![PacketSelector::default()]
}

fn tcp(remote_port: u16) -> PacketSelector {
    PacketSelector {
        protocol: 6,
        remote_port: Some(remote_port),
        ..PacketSelector::default()
    }
}

fn only_peer(desired: &Desired) -> &DesiredPeer {
    assert_eq!(desired.peers.len(), 1, "{:?}", desired.peers);
    desired.peers.values().next().expect("a peer")
}

#[test]
fn host_traffic_is_blocked_from_the_start_and_has_one_child() {
    let desired = Case::new(vec![tunnel("t", everything())]).desired();
    let mut directions: Vec<Direction> = desired.policies.keys().map(|key| key.direction).collect();
    directions.sort_unstable();
    assert_eq!(directions, [Direction::Inbound, Direction::Outbound]);
    for policy in desired.policies.values() {
        let PolicyAction::Protect { demand, tunnel, .. } = policy.action else {
            panic!("{policy:?}");
        };
        assert_eq!((demand, tunnel), (Demand::Required, false));
    }
    let peer = only_peer(&desired);
    assert!(peer.startable);
    assert_eq!(peer.node, REMOTE);
    assert_eq!(peer.config.initiation, Initiation::Eager);
    assert_eq!(peer.config.children.len(), 1);
    let [local, remote] = [LOCAL, REMOTE].map(|text| text.parse().expect("an address"));
    assert_eq!(peer.config.local_identity, Identity::Address(local));
    assert_eq!(peer.config.remote_identity, Identity::Address(remote));
    assert_eq!(desired.own_addresses, BTreeSet::from([local]));
}

#[test]
fn a_permissive_tunnel_asks_and_does_not_demand() {
    let mut permissive = tunnel("t", everything());
    permissive.block = false;
    permissive.rollout = Some(Rollout {
        generation: 1,
        phase: Phase::Permissive,
    });
    let desired = Case::new(vec![permissive]).desired();
    let optional = |policy: &Policy| {
        matches!(
            policy.action,
            PolicyAction::Protect {
                demand: Demand::Optional,
                ..
            }
        )
    };
    assert!(desired.policies.values().all(optional), "{:?}", desired.policies);
}

#[test]
fn each_selector_has_its_ports_its_reqid_and_its_child() {
    let desired = Case::new(vec![tunnel("t", vec![tcp(2049), tcp(443)])]).desired();
    let children = &only_peer(&desired).config.children;
    assert_eq!(children.len(), 2);
    assert_ne!(children[0].reqid, children[1].reqid);
    for child in children {
        assert_eq!(
            (
                child.local_selectors[0].first_port,
                child.local_selectors[0].last_port
            ),
            (0, 65535)
        );
        let remote = child.remote_selectors[0];
        assert_eq!(remote.first_port, remote.last_port);
        let outbound = desired.policies.values().find(|policy| {
            policy.key.direction == Direction::Outbound
                && policy.key.selector.destination_port == Some(remote.first_port)
                && matches!(policy.action, PolicyAction::Protect { reqid, .. } if reqid == child.reqid)
        });
        let inbound = desired.policies.values().find(|policy| {
            policy.key.direction == Direction::Inbound
                && policy.key.selector.source_port == Some(remote.first_port)
        });
        assert!(outbound.is_some() && inbound.is_some(), "{:?}", desired.policies);
    }
    // Errors about protected packets quote them.
    assert!(
        desired
            .policies
            .values()
            .any(|policy| policy.action == PolicyAction::Discard)
    );
}

#[test]
fn tunnel_mode_has_inner_networks_and_looks_at_what_is_forwarded() {
    let prefix = |text: &str| Prefix {
        address: text.parse().expect("an address"),
        length: 24,
    };
    let mut networks = tunnel(
        "t",
        vec![PacketSelector {
            local: Some(prefix("10.1.0.0")),
            remote: Some(prefix("10.2.0.0")),
            ..PacketSelector::default()
        }],
    );
    networks.mode = Mode::Tunnel;
    let desired = Case::new(vec![networks]).desired();
    let forward = desired
        .policies
        .values()
        .find(|policy| policy.key.direction == Direction::Forward);
    let forward = forward.expect("a policy");
    assert_eq!(forward.key.selector.source, prefix("10.2.0.0"));
    assert!(matches!(
        forward.action,
        PolicyAction::Protect { tunnel: true, .. }
    ));
    let child = &only_peer(&desired).config.children[0];
    assert_eq!(child.mode, Mode::Tunnel);
    assert_eq!(child.remote_selectors[0].last_address.to_string(), "10.2.0.255");
    assert_eq!(child.local_selectors[0].first_address.to_string(), "10.1.0.0");
}

#[test]
fn neighbours_are_found_in_clear_and_exceptions_are_made() {
    let mut exempt = tunnel("t", everything());
    external(&mut exempt).bypass = vec![tcp(22)];
    let mut case = Case::new(vec![exempt]);
    case.ends = ("2001:db8::1", "2001:db8::2");
    let desired = case.desired();
    let bypassed: Vec<&Policy> = desired
        .policies
        .values()
        .filter(|policy| policy.action == PolicyAction::Bypass)
        .collect();
    assert_eq!(bypassed.len(), 2 + 8, "{bypassed:?}");
    let protected = desired
        .policies
        .values()
        .filter(|policy| policy.action != PolicyAction::Bypass);
    assert!(protected.into_iter().all(|policy| policy.rank > bypassed[0].rank));
}

#[test]
fn tunnels_to_one_host_share_its_ike_sa_and_must_agree_on_it() {
    let two = || vec![tunnel("a", vec![tcp(443)]), tunnel("b", vec![tcp(2049)])];
    let both = Case::new(two()).desired();
    assert_eq!(only_peer(&both).config.children.len(), 2);
    let quiet = |goal: &TunnelGoal| goal.problem.is_none() && goal.remark.is_none();
    assert!(both.tunnels.iter().all(quiet));

    let mut differ = two();
    differ[1].ike_lifetime *= 2;
    let desired = Case::new(differ).desired();
    assert_eq!(only_peer(&desired).config.children.len(), 2);
    let remark = desired.tunnels[1].remark.clone().unwrap_or_default();
    assert!(
        remark.starts_with("spec.ike.lifetime: tunnel a of a higher rank"),
        "{remark}"
    );

    let mut differ = two();
    external(&mut differ[1]).identity = Some(Identity::Fqdn("other".to_owned()));
    let desired = Case::new(differ).desired();
    assert_eq!(only_peer(&desired).config.children.len(), 1);
    let problem = desired.tunnels[1].problem.clone().unwrap_or_default();
    assert!(problem.contains("tunnel a has the same peer"), "{problem}");
    assert!(desired.tunnels[0].problem.is_none());
    // What the second protects is blocked all the same.
    assert!(
        desired
            .policies
            .keys()
            .any(|key| key.selector.destination_port == Some(2049))
    );
}

#[test]
fn what_was_taken_down_keeps_its_policies_only() {
    let mut case = Case::new(vec![tunnel("t", everything())]);
    let up = case.desired();
    case.down.insert("t".to_owned());
    let down = case.desired();
    assert!(down.peers.is_empty());
    assert_eq!(down.policies, up.policies);
}

#[test]
fn a_host_with_a_name_shows_it() {
    let mut case = Case::new(vec![tunnel("t", everything())]);
    case.identity = "a.node.ipsecmesh.local";
    let expected = Identity::Fqdn(case.identity.to_owned());
    assert_eq!(only_peer(&case.desired()).config.local_identity, expected);
    external(&mut case.tunnels[0]).local_identity = Some(Identity::KeyId(b"key".to_vec()));
    let desired = case.desired();
    assert_eq!(
        only_peer(&desired).config.local_identity,
        Identity::KeyId(b"key".to_vec())
    );
}

#[test]
fn without_a_key_or_an_address_traffic_is_blocked_or_the_tunnel_says_why() {
    let mut case = Case::new(vec![tunnel("t", everything())]);
    external(&mut case.tunnels[0]).address = "unknown.example".to_owned();
    let desired = case.desired();
    assert!(desired.peers.is_empty());
    assert!(desired.tunnels[0].problem.is_some());
}

#[test]
fn a_post_quantum_preshared_key_goes_to_the_engine_and_without_it_there_is_no_sa() {
    let mut case = Case::new(vec![tunnel("t", everything())]);
    external(&mut case.tunnels[0]).ppk = Some(("vault-7".to_owned(), true));
    let desired = case.desired();
    assert!(desired.peers.is_empty());
    let problem = desired.tunnels[0].problem.clone().unwrap_or_default();
    assert!(problem.starts_with("spec.auth.ppk.secretRef:"), "{problem}");
    let key = Psk {
        current: Zeroizing::new(vec![9; 32]),
        previous: None,
    };
    case.ppks.insert("t".to_owned(), key);
    let desired = case.desired();
    assert_eq!(desired.tunnels[0].problem, None);
    let ppk = only_peer(&desired).config.ppk.clone().expect("a key");
    assert_eq!(
        (ppk.id.as_slice(), ppk.current.len(), ppk.required),
        (&b"vault-7"[..], 32, true)
    );
}

#[test]
fn a_peer_with_roots_of_its_own_is_never_judged_by_the_authoritys() {
    let root = || {
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key);
        certificate.expect("signed").pem()
    };
    let (authority, partner) = (root(), root());
    let mut one = tunnel("one", vec![PacketSelector::default()]);
    let name = ("partner".to_owned(), "ca.crt".to_owned());
    external(&mut one).auth = ExternalAuth::Certificate {
        authority: "default".to_owned(),
        trust_bundle: Some(name.clone()),
    };
    let state = Case::new(vec![one.clone()]).desired();
    let trusted = |bundles: &[&String]| {
        let snapshot = Snapshot {
            tunnels: vec![one.clone()],
            bundles: bundles.iter().map(|pem| (name.clone(), (*pem).clone())).collect(),
            ..Snapshot::default()
        };
        let authority = Authority {
            name: "default".to_owned(),
            trust_domain: "ipsecmesh.local".to_owned(),
            lifetime: Duration::from_hours(1),
            renew_at_percent: 50,
            bundle: authority.clone(),
            bundle_hash: None,
        };
        let directory = directory(&snapshot, &state, Some(&authority)).expect("a directory");
        let mut hosts = directory.hosts.into_values();
        hosts
            .next()
            .and_then(|host| host.trust)
            .expect("roots of its own")
    };
    assert_eq!(
        trusted(&[&partner]),
        TrustBundle::parse(&partner).expect("a root")
    );
    assert_eq!(trusted(&[]), TrustBundle::default(), "not there yet");
    let damaged = partner.replace("MII", "AAA");
    assert_eq!(trusted(&[&damaged]), TrustBundle::default(), "damaged");
    // Other roots are another desired state: the peer is judged by them, and tried again, at once.
    let roots = |bundles: &[&String]| {
        let mut case = Case::new(vec![one.clone()]);
        case.bundles = bundles.iter().map(|pem| (name.clone(), (*pem).clone())).collect();
        only_peer(&case.desired()).trust.roots.clone()
    };
    assert_eq!(roots(&[]), None);
    assert_ne!(roots(&[&partner]), None);
    assert_ne!(roots(&[&partner]), roots(&[&authority]));
}

#[test]
fn two_generations_of_one_key_agree() {
    let psk = |current: u8, previous: Option<u8>| PeerAuth::Psk {
        current: Zeroizing::new(vec![current; 32]),
        previous: previous.map(|previous| Zeroizing::new(vec![previous; 32])),
    };
    for (ours, theirs, alike) in [
        (psk(1, None), psk(1, None), true),
        (psk(1, None), psk(2, Some(1)), true),
        (psk(2, Some(1)), psk(1, None), true),
        (psk(2, None), psk(2, Some(1)), true),
        (psk(1, None), psk(2, None), false),
        (psk(3, Some(2)), psk(1, None), false),
        (psk(1, None), PeerAuth::Certificate, false),
        (PeerAuth::Certificate, PeerAuth::Certificate, true),
    ] {
        assert_eq!(agree(Some(&ours), Some(&theirs)), alike, "{ours:?} {theirs:?}");
    }
    assert!(!agree(Some(&psk(1, None)), None), "its key has not come yet");
}
