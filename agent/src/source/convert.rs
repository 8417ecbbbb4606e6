//! From objects of the API to the model. An object that cannot be used is refused by name; it takes no other down.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipsecmesh_crds::identity::NodeIdentity;
use ipsecmesh_crds::peer::{Membership as ApiMembership, Side};
use ipsecmesh_crds::rank::{Narrowness, Rank};
use ipsecmesh_crds::suite;
use ipsecmesh_crds::tunnel::{self, FailurePolicy};
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel};
use ipsecmesh_ike::{
    BootId, ChildProposal, Encapsulation, Encryption, IkeProposal, KeyExchange, Lifetime, Liveness, LivenessAction,
    Mode, Prf,
};
use kube::ResourceExt as _;

use crate::model::{Authority, Membership, Overlay, OverlayEntry, OwnNode, Peer, Rollout, Start, Tunnel};

/// Highest value of `IPsecTunnel.spec.priority`.
const HIGHEST_PRIORITY: u16 = 1000;
/// Distance of two priorities in ranks: room for the width of selectors.
const RANKS_PER_PRIORITY: u16 = 4;

/// The tunnels in the order in which they win (decision 16).
pub(crate) fn ranked<'a>(tunnels: impl Iterator<Item = &'a IPsecTunnel>) -> Vec<&'a IPsecTunnel> {
    let mut tunnels: Vec<&IPsecTunnel> = tunnels.collect();
    tunnels.sort_by_cached_key(|tunnel| Rank::of(tunnel, Narrowness::default()));
    tunnels
}

/// A tunnel between nodes.
pub(crate) fn tunnel(object: &IPsecTunnel, order: usize) -> Result<Tunnel, String> {
    let spec = &object.spec;
    let status = object.status.as_ref();
    let child = &spec.child_sa;
    let mode = match spec.mode {
        tunnel::Mode::Transport => Mode::Transport,
        tunnel::Mode::Tunnel => Mode::Tunnel,
    };
    let overlay = status.map_or(&[][..], |status| &status.effective_overlay);
    Ok(Tunnel {
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        order,
        policy_rank: HIGHEST_PRIORITY.saturating_sub(spec.priority) * RANKS_PER_PRIORITY,
        suspended: spec.suspend,
        rollout: status.and_then(|status| status.rollout.as_ref()).map(|rollout| Rollout {
            generation: rollout.generation,
            phase: rollout.phase,
        }),
        overlay: overlay
            .iter()
            .map(|entry| OverlayEntry {
                overlay: Overlay {
                    protocol: entry.protocol,
                    port: entry.port,
                },
                phase: entry.phase,
            })
            .collect(),
        block: spec.failure_policy == FailurePolicy::Block,
        mode,
        start: match child.initiation {
            tunnel::Initiation::Auto => Start::Auto,
            tunnel::Initiation::Eager => Start::Eager,
            tunnel::Initiation::OnDemand => Start::OnDemand,
        },
        encapsulation: match child.encapsulation {
            tunnel::Encapsulation::Auto => Encapsulation::Auto,
            tunnel::Encapsulation::Always => Encapsulation::Always,
            tunnel::Encapsulation::Never => Encapsulation::Never,
        },
        ike_proposals: ike_proposals(&spec.effective_ike_proposals())?,
        ike_lifetime: spec.ike.lifetime.to_std(),
        liveness: Liveness {
            interval: spec.ike.dpd.interval.to_std(),
            action: match spec.ike.dpd.action {
                tunnel::DpdAction::Restart => LivenessAction::Restart,
                tunnel::DpdAction::Clear => LivenessAction::Clear,
            },
        },
        child_proposals: child_proposals(&spec.effective_child_proposals())?,
        lifetime: Lifetime {
            time: child.lifetime.time.to_std(),
            bytes: child.lifetime.bytes.map(ipsecmesh_crds::units::ByteQuantity::as_bytes),
            packets: child.lifetime.packets,
        },
        rekey_margin_percent: child.rekey_margin_percent,
        esn: child.extended_sequence_numbers,
        replay_window: u32::from(child.replay_window),
    })
}

/// What of the proposals this engine can do. A proposal that demands more is left out; at least one has to be left.
fn ike_proposals(proposals: &[suite::IkeProposal]) -> Result<Vec<IkeProposal>, String> {
    let one = |proposal: &suite::IkeProposal| {
        let converted = IkeProposal {
            encryption: proposal.encryption.iter().filter_map(|c| encryption(*c)).collect(),
            prf: proposal.prf.iter().filter_map(|p| prf(*p)).collect(),
            key_exchange: proposal.key_exchange.iter().filter_map(|k| key_exchange(*k)).collect(),
        };
        let complete =
            !converted.encryption.is_empty() && !converted.prf.is_empty() && !converted.key_exchange.is_empty();
        (complete && proposal.additional_key_exchange.is_empty()).then_some(converted)
    };
    let usable: Vec<_> = proposals.iter().filter_map(one).collect();
    if usable.is_empty() {
        return Err(
            "spec.ike.proposals or spec.suite: this agent can do none of them; it has AES-GCM-16-128/256 with \
             HMAC-SHA2-256/384 and X25519 or ECP-256"
                .to_owned(),
        );
    }
    Ok(usable)
}

fn child_proposals(proposals: &[suite::ChildProposal]) -> Result<Vec<ChildProposal>, String> {
    let one = |proposal: &suite::ChildProposal| {
        let converted = ChildProposal {
            encryption: proposal.encryption.iter().filter_map(|c| encryption(*c)).collect(),
            key_exchange: proposal.key_exchange.iter().filter_map(|k| key_exchange(*k)).collect(),
        };
        let usable = !converted.encryption.is_empty() && proposal.additional_key_exchange.is_empty();
        usable.then_some(converted)
    };
    let usable: Vec<_> = proposals.iter().filter_map(one).collect();
    if usable.is_empty() {
        return Err(
            "spec.childSA.proposals or spec.suite: this agent can do none of them; it has AES-GCM-16-128/256 with \
             X25519 or ECP-256"
                .to_owned(),
        );
    }
    Ok(usable)
}

fn encryption(name: suite::Encryption) -> Option<Encryption> {
    match name {
        suite::Encryption::AesGcm16With128 => Some(Encryption::AesGcm16Key128),
        suite::Encryption::AesGcm16With256 => Some(Encryption::AesGcm16Key256),
        suite::Encryption::ChaCha20Poly1305 | suite::Encryption::AesCbc256 | suite::Encryption::AesCbc128 => None,
    }
}

fn prf(name: suite::Prf) -> Option<Prf> {
    match name {
        suite::Prf::HmacSha2With256 => Some(Prf::HmacSha256),
        suite::Prf::HmacSha2With384 => Some(Prf::HmacSha384),
        suite::Prf::HmacSha2With512 => None,
    }
}

fn key_exchange(name: suite::KeyExchange) -> Option<KeyExchange> {
    match name {
        suite::KeyExchange::X25519 => Some(KeyExchange::X25519),
        suite::KeyExchange::Ecp256 => Some(KeyExchange::Ecp256),
        suite::KeyExchange::Ecp384
        | suite::KeyExchange::Ecp521
        | suite::KeyExchange::Modp2048
        | suite::KeyExchange::Modp3072
        | suite::KeyExchange::Modp4096 => None,
    }
}

/// A node in the directory.
pub(crate) fn peer(object: &IPsecPeer) -> Result<Peer, String> {
    let spec = &object.spec;
    let mut addresses = Vec::new();
    for text in &spec.addresses {
        let address: IpAddr = text
            .parse()
            .map_err(|_| format!("spec.addresses: {text:?} is no IP address"))?;
        addresses.push(address);
    }
    let boot = spec.boot_id.as_deref().map(boot_id).transpose()?;
    Ok(Peer {
        node: object.name_any(),
        uid: spec.node_uid.clone(),
        boot,
        identity: spec.identity.clone(),
        addresses,
        keys: spec.keys.iter().cloned().collect::<BTreeSet<_>>(),
        memberships: spec.memberships.iter().map(membership).collect(),
    })
}

fn membership(object: &ApiMembership) -> Membership {
    Membership {
        tunnel: object.tunnel.clone(),
        local: matches!(object.side, Side::Local | Side::Both),
        remote: matches!(object.side, Side::Remote | Side::Both),
        phase: object.phase,
    }
}

/// A boot as the kernel names it: a UUID.
pub(crate) fn boot_id(text: &str) -> Result<BootId, String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let refused = || format!("bootID {text:?} is no UUID");
    if digits.len() != 32 {
        return Err(refused());
    }
    u128::from_str_radix(&digits, 16)
        .map(|value| BootId(value.to_be_bytes()))
        .map_err(|_| refused())
}

/// An authority, once it has roots to trust.
pub(crate) fn authority(object: &IPsecAuthority) -> Option<Authority> {
    let spec = &object.spec;
    let status = object.status.as_ref()?;
    Some(Authority {
        name: object.name_any(),
        trust_domain: spec.trust_domain.clone(),
        lifetime: spec.node_certificate.lifetime.to_std(),
        renew_at_percent: u64::from(spec.node_certificate.renew_at_percent),
        bundle: status.bundle.clone()?,
        bundle_hash: status.bundle_hash.clone(),
    })
}

/// This node's own object.
pub(crate) fn own_node(object: &IPsecNode) -> OwnNode {
    OwnNode {
        object_uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        certificate_generation: object.spec.certificate_generation,
        status: object.status.clone().map(Arc::new),
    }
}

/// The identity that `peer` must prove in the authority's trust domain.
pub(crate) fn identity(peer: &Peer, authority: &Authority) -> NodeIdentity {
    NodeIdentity::new(&peer.node, &peer.uid, &authority.trust_domain)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipsecmesh_crds::phase::Phase;
    use ipsecmesh_crds::suite::Suite;
    use ipsecmesh_crds::tunnel::{EffectiveOverlay, IPsecTunnelSpec, IPsecTunnelStatus};
    use ipsecmesh_crds::{IPsecPeerSpec, tunnel as api};

    use super::*;

    #[test]
    fn an_empty_tunnel_has_the_documented_defaults() {
        let converted = tunnel(&IPsecTunnel::new("mesh", IPsecTunnelSpec::default()), 0).expect("usable");
        assert_eq!(converted.mode, Mode::Transport);
        assert_eq!(converted.start, Start::Auto);
        assert_eq!(converted.lifetime.time, Duration::from_hours(1));
        assert_eq!(converted.replay_window, 4096);
        assert!(converted.esn && converted.block && converted.rollout.is_none());
        let ike = &converted.ike_proposals;
        assert_eq!(ike.len(), 1, "the proposal with ML-KEM waits for its key exchange");
        assert_eq!(ike[0].encryption, [Encryption::AesGcm16Key256]);
        assert_eq!(ike[0].prf, [Prf::HmacSha384]);
        assert_eq!(converted.child_proposals[0].encryption, [Encryption::AesGcm16Key256]);
    }

    #[test]
    fn a_suite_beyond_this_agent_is_refused_with_the_field() {
        let spec = IPsecTunnelSpec {
            suite: Some(Suite::Cnsa2),
            ..IPsecTunnelSpec::default()
        };
        let refused = tunnel(&IPsecTunnel::new("mesh", spec), 0).expect_err("ML-KEM-1024 only");
        assert!(refused.contains("spec.suite"), "{refused}");
    }

    #[test]
    fn phases_and_overlays_come_from_the_status() {
        let mut object = IPsecTunnel::new("mesh", IPsecTunnelSpec::default());
        object.status = Some(IPsecTunnelStatus {
            rollout: Some(api::Rollout {
                generation: 3,
                phase: Phase::Encrypting,
                since: None,
            }),
            effective_overlay: vec![EffectiveOverlay {
                protocol: 17,
                port: Some(8472),
                phase: Some(Phase::Draining),
            }],
            ..IPsecTunnelStatus::default()
        });
        let converted = tunnel(&object, 0).expect("usable");
        let rollout = converted.rollout.expect("there");
        assert_eq!((rollout.generation, rollout.phase), (3, Phase::Encrypting));
        assert_eq!(converted.overlay[0].overlay.port, Some(8472));
        assert_eq!(converted.overlay[0].phase, Some(Phase::Draining));
    }

    #[test]
    fn a_higher_priority_has_a_lower_rank() {
        let of = |priority| {
            let spec = IPsecTunnelSpec {
                priority,
                ..IPsecTunnelSpec::default()
            };
            tunnel(&IPsecTunnel::new("mesh", spec), 0).expect("usable").policy_rank
        };
        assert!(of(1000) < of(101) && of(101) + 1 < of(100) && of(100) < of(0));
    }

    #[test]
    fn a_peer_with_a_bad_address_or_boot_is_refused() {
        let with = |address: &str, boot: Option<&str>| {
            let spec = IPsecPeerSpec {
                addresses: vec![address.to_owned()],
                boot_id: boot.map(str::to_owned),
                ..IPsecPeerSpec::default()
            };
            peer(&IPsecPeer::new("a", spec))
        };
        let good = with("10.0.0.1", Some("0b8f7a52-59f1-4d0e-9a3e-3f1f0e6a4c55\n")).expect("usable");
        assert_eq!(good.boot.map(|boot| boot.0[0]), Some(0x0b));
        assert!(with("10.0.0", None).expect_err("no address").contains("spec.addresses"));
        assert!(with("10.0.0.1", Some("zz")).expect_err("no UUID").contains("bootID"));
    }
}
