//! Tables: phases, overrides, latches, ranks and sides, as policies and peers.

use std::time::Duration;

use ipsecmesh_dataplane::{Demand, Direction, PolicyAction, Prefix, Selector};
use ipsecmesh_ike::{Encapsulation, Mode, SaProtocol};

use super::*;
use crate::fixture;
use crate::model::{Membership, Remote};

const VXLAN: Overlay = Overlay {
    protocol: 17,
    port: Some(8472),
};

fn tunnel(name: &str, phase: Option<Phase>) -> Tunnel {
    Tunnel {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        order: 0,
        policy_rank: 3600,
        suspended: false,
        rollout: phase.map(|phase| Rollout { generation: 1, phase }),
        remote: Remote::Nodes,
        overlay: vec![OverlayEntry {
            overlay: VXLAN,
            phase: None,
        }],
        block: true,
        mode: Mode::Transport,
        protocol: SaProtocol::Esp,
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

fn member(tunnel: &str, phase: Option<Phase>) -> Membership {
    Membership {
        tunnel: tunnel.to_owned(),
        local: true,
        remote: true,
        phase,
    }
}

fn peer(number: u8, memberships: &[Membership]) -> Peer {
    Peer {
        node: format!("node-{number}"),
        uid: format!("uid-{number}"),
        boot: None,
        identity: format!("node-{number}.node.ipsecmesh.local"),
        addresses: vec![IpAddr::from([10, 0, 0, number])],
        keys: BTreeSet::from(["sha256:00".to_owned()]),
        pods: vec![Prefix {
            address: IpAddr::from([10, 244, number, 0]),
            length: 24,
        }],
        memberships: memberships.to_vec(),
    }
}

/// The desired state of node 1.
fn compute(tunnels: &[Tunnel], peers: &[Peer], latched: &[&str]) -> Desired {
    let latch = Latch {
        enforced: latched.iter().map(|name| format!("uid-of-{name}")).collect(),
    };
    let memberships: Vec<Membership> = tunnels.iter().map(|tunnel| member(&tunnel.name, None)).collect();
    desired(&Inputs {
        tunnels,
        peers,
        departed: &[],
        own: &peer(1, &memberships),
        latch: &latch,
        last_overlays: &BTreeMap::new(),
        own_ready: true,
        own_subject: None,
        unpinned: false,
        resolved: &Resolved::new(),
        psks: &BTreeMap::new(),
        bundles: &BTreeMap::new(),
        ppks: &BTreeMap::new(),
        down: &BTreeSet::new(),
    })
}

/// The demands of the overlay's policies: (inbound, outbound).
fn demands(state: &Desired) -> (Option<Demand>, Option<Demand>) {
    let of = |direction| {
        state.policies.values().find_map(|policy| match policy.action {
            PolicyAction::Protect { demand, .. } if policy.key.direction == direction => Some(demand),
            PolicyAction::Protect { .. } | PolicyAction::Bypass | PolicyAction::Discard => None,
        })
    };
    (of(Direction::Inbound), of(Direction::Outbound))
}

const USE: Option<Demand> = Some(Demand::Optional);
const MUST: Option<Demand> = Some(Demand::Required);

#[test]
fn each_phase_has_its_policies() {
    for (phase, expected) in [
        (Phase::Permissive, (USE, USE)),
        (Phase::Encrypting, (USE, MUST)),
        (Phase::Enforcing, (MUST, MUST)),
        (Phase::Draining, (USE, MUST)),
        (Phase::Releasing, (USE, None)),
        (Phase::Removing, (None, None)),
    ] {
        let state = compute(&[tunnel("a", Some(phase))], &[peer(2, &[member("a", None)])], &[]);
        assert_eq!(demands(&state), expected, "{phase}");
        let wants_sas = phase != Phase::Removing;
        assert_eq!(state.peers.len(), usize::from(wants_sas), "{phase}");
        let errors = state
            .policies
            .values()
            .filter(|p| p.action == PolicyAction::Discard)
            .count();
        assert_eq!(errors, usize::from(expected.1 == MUST), "ICMP errors in {phase}");
    }
}

#[test]
fn overrides_weaken_and_are_echoed() {
    let enforcing = tunnel("a", Some(Phase::Enforcing));
    let plain = compute(
        std::slice::from_ref(&enforcing),
        &[peer(2, &[member("a", None)])],
        &[],
    );
    assert_eq!(plain.tunnels[0].transition, None);
    let joining = [peer(2, &[member("a", Some(Phase::Encrypting))])];
    let state = compute(std::slice::from_ref(&enforcing), &joining, &[]);
    assert_eq!(demands(&state), (USE, MUST));
    assert!(state.tunnels[0].transition.is_some());
    let mut port = enforcing;
    port.overlay[0].phase = Some(Phase::Permissive);
    assert_eq!(
        demands(&compute(&[port], &[peer(2, &[member("a", None)])], &[])),
        (USE, USE)
    );
}

#[test]
fn a_latch_holds_what_a_lost_status_would_open() {
    let peers = [peer(2, &[member("a", None)])];
    for phase in [None, Some(Phase::Permissive), Some(Phase::Encrypting)] {
        let held = compute(&[tunnel("a", phase)], &peers, &["a"]);
        assert_eq!(demands(&held), (MUST, MUST), "{phase:?}");
    }
    let open = Tunnel {
        block: false,
        ..tunnel("a", Some(Phase::Permissive))
    };
    assert_eq!(demands(&compute(&[open], &peers, &["a"])), (USE, USE));
    assert_eq!(
        demands(&compute(&[tunnel("a", Some(Phase::Releasing))], &peers, &["a"])),
        (USE, None)
    );
    assert!(compute(&[tunnel("a", None)], &peers, &[]).policies.is_empty());
}

#[test]
fn of_two_tunnels_with_one_selector_the_first_has_it() {
    let tunnels = [
        tunnel("first", Some(Phase::Enforcing)),
        tunnel("second", Some(Phase::Permissive)),
    ];
    let peers = [peer(2, &[member("first", None), member("second", None)])];
    let state = compute(&tunnels, &peers, &[]);
    assert_eq!(demands(&state), (MUST, MUST));
    assert_eq!(
        state
            .peers
            .values()
            .map(|peer| peer.config.children.len())
            .sum::<usize>(),
        1
    );
    assert!(state.tunnels[1].overridden_by.contains("first"));
    assert!(state.tunnels[0].overridden_by.is_empty());
}

#[test]
fn what_comes_or_goes_opens_nothing_where_another_tunnel_enforces() {
    let peers = [peer(2, &[member("first", None), member("second", None)])];
    let wide = OverlayEntry {
        overlay: Overlay { port: None, ..VXLAN },
        phase: None,
    };
    for (phase, block, overlay, winner, expected) in [
        (Phase::Permissive, true, None, "second", (MUST, MUST)),
        (Phase::Encrypting, true, None, "second", (MUST, MUST)),
        (Phase::Enforcing, true, None, "first", (MUST, MUST)),
        (Phase::Draining, true, None, "second", (MUST, MUST)),
        (Phase::Releasing, true, None, "second", (MUST, MUST)),
        // Its owner wants cleartext where there is no SA: an exception that outranks the mesh is one.
        (Phase::Permissive, false, None, "first", (USE, USE)),
        // A wider selector would take the packets just as well.
        (Phase::Permissive, true, Some(wide), "second", (MUST, MUST)),
    ] {
        let mut first = tunnel("first", Some(phase));
        first.block = block;
        first.overlay = overlay.map_or(first.overlay, |entry| vec![entry]);
        let tunnels = [first, tunnel("second", Some(Phase::Enforcing))];
        let state = compute(&tunnels, &peers, &[]);
        assert_eq!(demands(&state), expected, "{phase} {block}");
        for goal in &state.tunnels {
            let children: usize = goal.members.values().map(Vec::len).sum();
            assert_eq!(
                children,
                usize::from(goal.name == winner),
                "{} in {phase}",
                goal.name
            );
            let yields = goal.name != winner && demands(&state) != (None, None);
            let listed = !goal.overridden_by.is_empty();
            assert!(
                !listed || yields,
                "{} in {phase}: {:?}",
                goal.name,
                goal.overridden_by
            );
        }
    }
}

/// A tunnel between pod networks.
fn pods(phase: Phase) -> Tunnel {
    let mut tunnel = tunnel("pods", Some(phase));
    tunnel.mode = Mode::Tunnel;
    tunnel.overlay = vec![OverlayEntry {
        overlay: Overlay::POD_NETWORK,
        phase: None,
    }];
    tunnel
}

#[test]
fn pod_networks_are_protected_in_all_directions_and_hosts_among_themselves_are_not() {
    let state = compute(
        &[pods(Phase::Enforcing)],
        &[peer(2, &[member("pods", None)])],
        &[],
    );
    let of = |direction| {
        let chosen = state.policies.values().filter(move |policy| {
            policy.key.direction == direction && policy.action != PolicyAction::Discard
        });
        chosen
            .map(|policy| {
                assert!(matches!(
                    policy.action,
                    PolicyAction::Protect {
                        tunnel: true,
                        demand: Demand::Required,
                        ..
                    }
                ));
                assert_eq!(policy.key.selector.protocol, 0);
                let Selector {
                    source, destination, ..
                } = policy.key.selector;
                (source.to_string(), destination.to_string())
            })
            .collect::<BTreeSet<_>>()
    };
    let pairs = |list: [(&str, &str); 3]| list.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let leaving: BTreeSet<_> = pairs([
        ("10.244.1.0/24", "10.244.2.0/24"),
        ("10.244.1.0/24", "10.0.0.2/32"),
        ("10.0.0.1/32", "10.244.2.0/24"),
    ]);
    let coming: BTreeSet<_> = leaving.iter().map(|(a, b)| (b.clone(), a.clone())).collect();
    assert_eq!(of(Direction::Outbound), leaving);
    assert_eq!(of(Direction::Inbound), coming);
    assert_eq!(of(Direction::Forward), coming);
    let peer = state.peers.values().next().expect("one");
    let [child] = peer.config.children.as_slice() else {
        panic!("{:?}", peer.config.children);
    };
    assert_eq!(
        (
            child.mode,
            child.local_selectors.len(),
            child.remote_selectors.len()
        ),
        (Mode::Tunnel, 2, 2)
    );
    assert_eq!(
        child.local_selectors[0].last_address,
        IpAddr::from([10, 244, 1, 255])
    );
    assert_eq!(state.tunnels[0].members.len(), 1);
    assert_eq!(state.tunnels[0].problem, None);
}

#[test]
fn pod_networks_travel_between_one_pair_of_addresses() {
    let dual = |number: u8| {
        let mut peer = peer(number, &[member("pods", None)]);
        peer.addresses
            .insert(0, IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]));
        peer.pods.push(Prefix {
            address: IpAddr::from([0xfd01, u16::from(number), 0, 0, 0, 0, 0, 0]),
            length: 64,
        });
        peer
    };
    let (own, other) = (dual(1), dual(2));
    let tunnels = [pods(Phase::Enforcing)];
    let state = desired(&Inputs {
        tunnels: &tunnels,
        peers: std::slice::from_ref(&other),
        departed: &[],
        own: &own,
        latch: &Latch::default(),
        last_overlays: &BTreeMap::new(),
        own_ready: true,
        own_subject: None,
        unpinned: false,
        resolved: &Resolved::new(),
        psks: &BTreeMap::new(),
        bundles: &BTreeMap::new(),
        ppks: &BTreeMap::new(),
        down: &BTreeSet::new(),
    });
    assert_eq!(state.peers.len(), 1);
    assert!(
        state
            .peers
            .values()
            .all(|peer| peer.config.local_address.is_ipv4())
    );
    // IPv6 pods travel in IPv4.
    let inner = state.policies.values().filter(|policy| {
        policy.key.selector.source.address.is_ipv6() && matches!(policy.action, PolicyAction::Protect { .. })
    });
    assert_eq!(inner.count(), 3);
}

#[test]
fn a_pair_without_a_common_family_is_told_of() {
    let mut other = peer(2, &[member("a", None)]);
    other.addresses = vec!["2001:db8::2".parse().expect("an address")];
    let state = compute(&[tunnel("a", Some(Phase::Enforcing))], &[other], &[]);
    assert!(state.policies.is_empty() && state.peers.is_empty());
    assert!(state.tunnels[0].apart.contains("node-2"));
    let mut single = tunnel("a", Some(Phase::Enforcing));
    single.name = "b".to_owned();
    let stranger = peer(2, &[member("a", None)]);
    assert!(compute(&[single], &[stranger], &[]).tunnels[0].apart.is_empty());
}

#[test]
fn only_different_sides_make_a_pair() {
    let side = |local, remote| Membership {
        local,
        remote,
        ..member("a", None)
    };
    for (own, other, pair) in [
        (side(true, false), side(false, true), true),
        (side(false, true), side(true, false), true),
        (side(true, false), side(true, false), false),
        (side(true, true), side(true, false), true),
    ] {
        let state = desired(&Inputs {
            tunnels: &[tunnel("a", Some(Phase::Enforcing))],
            peers: &[peer(2, std::slice::from_ref(&other))],
            departed: &[],
            own: &peer(1, std::slice::from_ref(&own)),
            latch: &Latch::default(),
            last_overlays: &BTreeMap::new(),
            own_ready: true,
            own_subject: None,
            unpinned: false,
            resolved: &Resolved::new(),
            psks: &BTreeMap::new(),
            bundles: &BTreeMap::new(),
            ppks: &BTreeMap::new(),
            down: &BTreeSet::new(),
        });
        assert_eq!(state.peers.len(), usize::from(pair), "{own:?} {other:?}");
    }
}

#[test]
fn a_node_that_left_stays_blocked_and_has_no_sas() {
    let gone = Departed {
        peer: peer(2, &[member("a", None)]),
        moved: false,
        until: u64::MAX,
    };
    for (phase, blocked) in [(Phase::Enforcing, true), (Phase::Permissive, false)] {
        let state = desired(&Inputs {
            tunnels: &[tunnel("a", Some(phase))],
            peers: &[],
            departed: std::slice::from_ref(&gone),
            own: &peer(1, &[member("a", None)]),
            latch: &Latch::default(),
            last_overlays: &BTreeMap::new(),
            own_ready: true,
            own_subject: None,
            unpinned: false,
            resolved: &Resolved::new(),
            psks: &BTreeMap::new(),
            bundles: &BTreeMap::new(),
            ppks: &BTreeMap::new(),
            down: &BTreeSet::new(),
        });
        assert!(state.peers.is_empty());
        assert_eq!(!state.policies.is_empty(), blocked, "{phase}");
        assert!(state.tunnels[0].members.is_empty(), "nobody waits for it");
    }
}

#[test]
fn a_peer_without_a_published_key_is_not_started_yet() {
    let mut unknown = peer(2, &[member("a", None)]);
    unknown.keys.clear();
    let state = compute(&[tunnel("a", Some(Phase::Permissive))], &[unknown], &[]);
    assert!(state.peers.values().all(|peer| !peer.startable));
    assert_eq!(
        state.tunnels[0].members.len(),
        1,
        "it counts, so that the rollout waits"
    );
}
