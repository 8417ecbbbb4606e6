//! Every kind of difference, and none.

use ipsecmesh_dataplane::{Demand, Direction, Prefix, Selector};
use ipsecmesh_ike::{ChildConfig, EspSpi, SaProtocol};
use ipsecmesh_ike::{ChildId, Encapsulation, Identity, Initiation, Mode, PeerAuth, TrafficSelector};
use std::time::Duration;

use super::*;
use crate::desired::DesiredPeer;
use crate::fixture;

const REQID: u32 = 0x1950_0007;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn policy(rank: u16) -> Policy {
    let host = |last| Prefix {
        address: address(last),
        length: 32,
    };
    Policy {
        key: PolicyKey {
            direction: Direction::Outbound,
            selector: Selector {
                source: host(1),
                destination: host(2),
                protocol: 17,
                source_port: None,
                destination_port: Some(8472),
            },
        },
        action: PolicyAction::Protect {
            demand: Demand::Required,
            protocol: SaProtocol::Esp,
            reqid: REQID,
            tunnel: false,
            source: address(1),
            destination: address(2),
        },
        rank,
    }
}

fn config(lifetime: Duration) -> PeerConfig {
    let selector = |last| TrafficSelector {
        protocol: 17,
        first_port: 0,
        last_port: u16::MAX,
        first_address: address(last),
        last_address: address(last),
    };
    PeerConfig {
        id: PeerId(2),
        local_address: address(1),
        remote_address: address(2),
        local_identity: Identity::Fqdn("one".to_owned()),
        remote_identity: Identity::Fqdn("two".to_owned()),
        auth: PeerAuth::Certificate,
        ppk: None,
        ike_proposals: fixture::ike_proposals(),
        ike_lifetime: Duration::from_hours(24),
        liveness: fixture::liveness(),
        initiation: Initiation::Eager,
        encapsulation: Encapsulation::Auto,
        children: vec![ChildConfig {
            id: ChildId(7),
            mode: Mode::Transport,
            proposals: fixture::child_proposals(),
            local_selectors: vec![selector(1)],
            remote_selectors: vec![selector(2)],
            lifetime: fixture::lifetime(lifetime),
            rekey_margin_percent: 10,
            esn: true,
            replay_window: 4096,
            reqid: REQID,
        }],
    }
}

fn trust(key: &str) -> PeerTrust {
    PeerTrust {
        uid: "uid".to_owned(),
        keys: BTreeSet::from([key.to_owned()]),
        roots: None,
    }
}

fn wanted(key: &str, startable: bool) -> Desired {
    let peer = DesiredPeer {
        node: "two".to_owned(),
        config: config(Duration::from_hours(1)),
        boot: Some(BootId([1; 16])),
        startable,
        trust: trust(key),
    };
    Desired {
        policies: BTreeMap::from([(policy(1).key, policy(1))]),
        peers: BTreeMap::from([(PeerId(2), peer)]),
        own_addresses: BTreeSet::from([address(1)]),
        ..Desired::default()
    }
}

fn standing(connected: bool) -> Actual {
    let known = KnownPeer {
        config: config(Duration::from_hours(1)),
        boot: Some(BootId([1; 16])),
        trust: trust("a"),
        connected,
    };
    Actual {
        policies: BTreeMap::from([(policy(1).key, policy(1))]),
        peers: BTreeMap::from([(PeerId(2), known)]),
    }
}

#[test]
fn what_stands_as_desired_needs_no_step() {
    assert_eq!(steps(&wanted("a", true), &standing(true)), Steps::default());
}

#[test]
fn everything_is_put_where_nothing_stands_and_removed_where_nothing_is_wanted() {
    let first = steps(&wanted("a", true), &Actual::default());
    assert_eq!(first.put_policies, [policy(1)]);
    assert_eq!(first.upsert_peers.len(), 1);
    assert_eq!(first.boots, [(PeerId(2), BootId([1; 16]))]);
    let last = steps(&Desired::default(), &standing(true));
    assert_eq!(
        (last.remove_policies, last.remove_peers),
        (vec![policy(1).key], vec![PeerId(2)])
    );
}

#[test]
fn a_changed_policy_or_configuration_is_written_once_more() {
    let mut old = standing(true);
    old.policies.insert(policy(9).key, policy(9));
    if let Some(known) = old.peers.get_mut(&PeerId(2)) {
        known.config = config(Duration::from_mins(30));
    }
    let steps = steps(&wanted("a", true), &old);
    assert_eq!((steps.put_policies.len(), steps.upsert_peers.len()), (1, 1));
    assert!(steps.retry_peers.is_empty() && steps.remove_policies.is_empty());
}

#[test]
fn a_new_key_retries_a_peer_that_is_not_connected_and_leaves_one_that_is() {
    let apart = steps(&wanted("b", true), &standing(false));
    assert_eq!(apart.retry_peers, [PeerId(2)]);
    assert!(apart.remove_peers.is_empty() && apart.upsert_peers.is_empty());
    assert_eq!(steps(&wanted("b", true), &standing(true)), Steps::default());
}

#[test]
fn a_peer_that_cannot_prove_itself_yet_is_not_started_but_not_stopped_either() {
    assert!(
        steps(&wanted("a", false), &Actual::default())
            .upsert_peers
            .is_empty()
    );
    assert_eq!(steps(&wanted("a", false), &standing(true)), Steps::default());
}

#[test]
fn orphans_go_outbound_first_and_wanted_sas_stay() {
    let sa = |spi, source, destination, reqid| SaStatus {
        name: SaName {
            protocol: SaProtocol::Esp,
            spi: EspSpi::new(spi).expect("not reserved"),
            source: address(source),
            destination: address(destination),
        },
        reqid,
        encapsulation: None,
        larval: false,
        bytes: 0,
        packets: 0,
        added_at: 0,
        last_used: None,
    };
    let adopted = [
        sa(1001, 3, 1, REQID),
        sa(1002, 1, 3, REQID),
        sa(1003, 1, 2, REQID),
        sa(1004, 2, 1, REQID),
        sa(1005, 1, 2, REQID + 1),
    ];
    let names: Vec<u32> = orphans(&wanted("a", true), &adopted)
        .iter()
        .map(|name| name.spi.value())
        .collect();
    assert_eq!(names, [1002, 1005, 1001]);
    let sas: Vec<_> = adopted.iter().map(|sa| (&sa.name, sa.reqid)).collect();
    assert!(has_sa(&policy(1), sas.iter().copied()));
    assert!(!has_sa(
        &policy(1),
        sas.into_iter().filter(|(name, _)| name.spi.value() > 1004)
    ));
}
