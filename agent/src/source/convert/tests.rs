//! Tables of what becomes of objects.

use std::time::Duration;

use ipsecmesh_crds::IPsecPeerSpec;
use ipsecmesh_crds::phase::Phase;
use ipsecmesh_crds::suite::Suite;
use ipsecmesh_crds::tunnel::{EffectiveOverlay, IPsecTunnelStatus, Rollout as ApiRollout};

use super::*;

fn object(change: impl FnOnce(&mut IPsecTunnel)) -> IPsecTunnel {
    let mut object = IPsecTunnel::new("mesh", IPsecTunnelSpec::default());
    object.metadata.uid = Some("uid-1".to_owned());
    object.status = Some(status(3, Phase::Enforcing));
    change(&mut object);
    object
}

fn status(generation: i64, phase: Phase) -> IPsecTunnelStatus {
    IPsecTunnelStatus {
        rollout: Some(ApiRollout {
            generation,
            phase,
            since: None,
        }),
        effective_overlay: vec![EffectiveOverlay {
            protocol: 17,
            port: Some(8472),
            phase: Some(Phase::Draining),
        }],
        ..IPsecTunnelStatus::default()
    }
}

fn good(object: &IPsecTunnel) -> Tunnel {
    let row = tunnel(object, None);
    assert_eq!(row.problem, None);
    row.value.expect("in force").tunnel
}

#[test]
fn an_empty_tunnel_has_the_documented_defaults() {
    let converted = good(&object(|_| {}));
    assert_eq!(converted.mode, Mode::Transport);
    assert_eq!(converted.start, Start::Auto);
    assert_eq!(converted.lifetime.time, Duration::from_hours(1));
    assert_eq!(converted.ike_lifetime, Duration::from_hours(24));
    assert_eq!(converted.replay_window, 4096);
    assert!(converted.esn && converted.block && !converted.suspended);
    let ike = &converted.ike_proposals;
    let additional: Vec<Vec<_>> = ike.iter().map(|p| p.additional.iter().collect()).collect();
    assert_eq!(
        additional,
        [vec![AdditionalKeyExchange::Kem(Kem::MlKem768)], vec![]],
        "with ML-KEM, and without"
    );
    assert_eq!(ike[0].encryption, [Encryption::AesGcm16Key256]);
    assert_eq!(ike[0].prf, [Prf::HmacSha384]);
    assert_eq!(ike[0].key_exchange, [KeyExchange::X25519]);
    assert_eq!(
        converted.child_proposals[0].encryption,
        [Encryption::AesGcm16Key256, Encryption::ChaCha20Poly1305]
    );
}

#[test]
fn phases_and_overlays_come_from_the_status() {
    let converted = good(&object(|_| {}));
    assert_eq!(
        converted.rollout,
        Some(Rollout {
            generation: 3,
            phase: Phase::Enforcing
        })
    );
    assert_eq!(converted.overlay[0].overlay.port, Some(8472));
    assert_eq!(converted.overlay[0].phase, Some(Phase::Draining));
    let fresh = good(&object(|object| object.status = None));
    assert_eq!((fresh.rollout, fresh.overlay), (None, Vec::new()));
}

#[test]
fn a_higher_priority_has_a_lower_rank() {
    let of = |priority| good(&object(|object| object.spec.priority = priority)).policy_rank;
    assert!(of(1000) < of(101) && of(101) + 1 < of(100) && of(100) < of(0));
}

/// Each edit asks for what this agent cannot do; each message names the field.
#[test]
fn an_edit_that_cannot_be_carried_out_changes_nothing_but_the_phase() {
    type Edit = fn(&mut IPsecTunnelSpec);
    let before = tunnel(&object(|_| {}), None).value.expect("in force");
    let edits: [(&str, Edit); 4] = [
        ("spec.ike.proposals[0].keyExchange", |spec| {
            spec.ike.proposals = Suite::Fips.ike();
            spec.ike.proposals[0].key_exchange = vec![suite::KeyExchange::Modp2048];
        }),
        ("spec.traffic.type", |spec| {
            spec.traffic.type_ = tunnel::TrafficType::Host;
        }),
        ("spec.childSA.proposals[0].keyExchange", |spec| {
            spec.child_sa.proposals = Suite::Fips.child();
            spec.child_sa.proposals[0].key_exchange = vec![suite::KeyExchange::Modp4096];
        }),
        ("spec.auth.type", |spec| spec.auth.type_ = tunnel::AuthType::Psk),
    ];
    for (field, edit) in edits {
        let edited = object(|object| {
            edit(&mut object.spec);
            object.status = Some(status(3, Phase::Draining));
        });
        let row = tunnel(&edited, Some(&before));
        assert!(
            row.problem.is_some_and(|problem| problem.contains(field)),
            "{field}"
        );
        let expected = Tunnel {
            rollout: Some(Rollout {
                generation: 3,
                phase: Phase::Draining,
            }),
            ..before.tunnel.clone()
        };
        assert_eq!(row.value.map(|ranked| ranked.tunnel), Some(expected), "{field}");

        // After a restart nobody knows what was in force: policies block, and nothing weaker than asked for is offered.
        let row = tunnel(&edited, None);
        let blocked = row.value.expect("policies stand").tunnel;
        assert!(blocked.rollout.is_some() && blocked.block, "{field}");
        assert!(
            blocked.ike_proposals.is_empty() && blocked.child_proposals.is_empty(),
            "{field}"
        );
        assert_eq!(blocked.mode, Mode::Transport, "{field}");
    }
}

#[test]
fn a_tunnel_made_anew_takes_nothing_from_its_namesake() {
    let before = tunnel(&object(|_| {}), None).value.expect("in force");
    let other = object(|object| {
        object.metadata.uid = Some("uid-2".to_owned());
        object.spec.ike.proposals = Suite::Fips.ike();
        object.spec.ike.proposals[0].key_exchange = vec![suite::KeyExchange::Modp2048];
    });
    let row = tunnel(&other, Some(&before)).value.expect("policies stand");
    assert!(row.tunnel.ike_proposals.is_empty());
}

#[test]
fn a_suspended_tunnel_stays_as_it_was_until_it_is_taken_down() {
    let before = tunnel(&object(|_| {}), None).value.expect("in force");
    let suspended = |phase| {
        object(|object| {
            object.spec.suspend = true;
            object.spec.child_sa.replay_window = 64;
            object.status = Some(status(3, phase));
        })
    };
    let kept = tunnel(&suspended(Phase::Encrypting), Some(&before))
        .value
        .expect("in force")
        .tunnel;
    assert!(kept.suspended);
    assert_eq!(
        kept,
        Tunnel {
            suspended: true,
            ..before.tunnel.clone()
        }
    );
    let leaving = tunnel(&suspended(Phase::Releasing), Some(&before))
        .value
        .expect("in force")
        .tunnel;
    assert_eq!(
        leaving.rollout.map(|rollout| rollout.phase),
        Some(Phase::Releasing)
    );
}

#[test]
fn additional_key_exchanges_are_all_taken_in_their_order() {
    use suite::AdditionalKeyExchange as Name;
    let edited = object(|object| {
        object.spec.ike.proposals = Suite::Fips.ike();
        object.spec.ike.proposals[0].additional_key_exchange = Name::ALL[..7].to_vec();
    });
    let taken: Vec<String> = ike_proposals(&edited.spec)[0]
        .additional
        .iter()
        .map(|one| one.to_string())
        .collect();
    let named: Vec<&str> = Name::ALL[..7].iter().map(|name| name.as_str()).collect();
    assert_eq!(taken, named);
    let edited = object(|object| {
        object.spec.child_sa.proposals = Suite::Fips.child();
        object.spec.child_sa.proposals[0].additional_key_exchange = vec![Name::MlKem768, Name::X25519];
    });
    assert_eq!(problem(&edited.spec), None);
    let taken = &child_proposals(&edited.spec)[0];
    let expected = [
        AdditionalKeyExchange::Kem(Kem::MlKem768),
        AdditionalKeyExchange::Method(KeyExchange::X25519),
    ];
    assert!(taken.additional.iter().eq(expected));
}

#[test]
fn modp_groups_are_for_external_peers() {
    let spec = |edit: fn(&mut IPsecTunnelSpec)| {
        object(|object| {
            object.spec.ike.proposals = Suite::Fips.ike();
            object.spec.ike.proposals[0].key_exchange = vec![suite::KeyExchange::Modp2048];
            object.spec.child_sa.proposals = Suite::Fips.child();
            object.spec.child_sa.proposals[0].key_exchange = vec![suite::KeyExchange::Modp4096];
            edit(&mut object.spec);
        })
    };
    let between_nodes = tunnel(&spec(|_| {}), None).problem.unwrap_or_default();
    assert!(
        between_nodes.contains("spec.childSA.proposals[0].keyExchange: MODP-4096 is for external peers only"),
        "{between_nodes}"
    );
    let external = spec(|spec| spec.remote.type_ = tunnel::RemoteType::External);
    assert_eq!(problem(&external.spec), None);
    assert_eq!(
        ike_proposals(&external.spec)[0].key_exchange,
        [KeyExchange::Modp2048]
    );
    assert_eq!(
        child_proposals(&external.spec)[0].key_exchange,
        [KeyExchange::Modp4096]
    );
}

fn peer_with(addresses: &[&str], boot: Option<&str>) -> Row<Peer> {
    let spec = IPsecPeerSpec {
        addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
        boot_id: boot.map(str::to_owned),
        ..IPsecPeerSpec::default()
    };
    peer(&IPsecPeer::new("a", spec), None)
}

#[test]
fn a_bad_address_is_left_out_and_named() {
    let cases: [(&[&str], usize, Option<&str>); 6] = [
        (&["10.0.0.1", "fd00::1"], 2, None),
        (&["10.0.0", "10.0.0.1"], 1, Some("spec.addresses[0]")),
        (&["10.0.0.1", "0.0.0.0"], 1, Some("spec.addresses[1]")),
        (&["127.0.0.1"], 0, Some("spec.addresses[0]")),
        (&["ff02::1"], 0, Some("spec.addresses[0]")),
        (&["255.255.255.255"], 0, Some("spec.addresses[0]")),
    ];
    for (addresses, usable, problem) in cases {
        let row = peer_with(addresses, None);
        assert_eq!(
            row.value.expect("in force").addresses.len(),
            usable,
            "{addresses:?}"
        );
        assert_eq!(row.problem.is_some(), problem.is_some(), "{addresses:?}");
        assert!(
            row.problem
                .unwrap_or_default()
                .contains(problem.unwrap_or_default()),
            "{addresses:?}"
        );
    }
}

#[test]
fn a_boot_is_a_uuid_or_nothing() {
    let good = peer_with(&["10.0.0.1"], Some("0b8f7a52-59f1-4d0e-9a3e-3f1f0e6a4c55\n"));
    assert_eq!(good.problem, None);
    assert_eq!(
        good.value.expect("in force").boot.map(|boot| boot.0[0]),
        Some(0x0b)
    );
    for text in ["", "zz", "0b8f7a52", "+b8f7a5259f14d0e9a3e3f1f0e6a4c55"] {
        let row = peer_with(&["10.0.0.1"], Some(text));
        assert!(
            row.problem.is_some_and(|problem| problem.contains("bootID")),
            "{text}"
        );
        assert_eq!(row.value.expect("in force").boot, None, "{text}");
    }
}

#[test]
fn sides_are_kept() {
    for (side, local, remote) in [
        (Side::Both, true, true),
        (Side::Local, true, false),
        (Side::Remote, false, true),
    ] {
        let spec = IPsecPeerSpec {
            memberships: vec![ipsecmesh_crds::peer::Membership {
                tunnel: "mesh".to_owned(),
                side,
                phase: Some(Phase::Permissive),
            }],
            ..IPsecPeerSpec::default()
        };
        let peer = peer(&IPsecPeer::new("a", spec), None).value.expect("in force");
        let membership = peer.membership("mesh").expect("a member");
        assert_eq!((membership.local, membership.remote), (local, remote), "{side:?}");
        assert_eq!(membership.phase, Some(Phase::Permissive));
    }
}

#[test]
fn an_authority_without_roots_is_none_yet() {
    let mut object = IPsecAuthority::new("default", ipsecmesh_crds::IPsecAuthoritySpec::default());
    assert_eq!(
        authority(&object, None),
        Row {
            value: None,
            problem: None
        }
    );
    object.status = Some(ipsecmesh_crds::IPsecAuthorityStatus {
        bundle: Some("PEM".to_owned()),
        bundle_hash: Some("sha256:00".to_owned()),
        ..ipsecmesh_crds::IPsecAuthorityStatus::default()
    });
    let converted = authority(&object, None).value.expect("usable");
    assert_eq!(converted.lifetime, Duration::from_hours(168));
    assert_eq!(converted.renew_at_percent, 50);
    assert_eq!(converted.bundle_hash.as_deref(), Some("sha256:00"));
}
