//! From objects of the API to the model: pure. What cannot be carried out is named with its field, and takes nothing
//! else down.

mod contradiction;
mod external;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipsecmesh_crds::identity::NodeIdentity;
use ipsecmesh_crds::peer::Side;
use ipsecmesh_crds::rank::{Narrowness, Rank};
use ipsecmesh_crds::suite;
use ipsecmesh_crds::support::unsupported_fields;
use ipsecmesh_crds::tunnel::{self, DpdAction, FailurePolicy, TrustBundle};
use ipsecmesh_crds::units::ByteQuantity;
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel, IPsecTunnelSpec};
use ipsecmesh_dataplane::Prefix;
use ipsecmesh_ike::{
    AdditionalKeyExchange, AdditionalKeyExchanges, BootId, ChildProposal, Encapsulation, Encryption,
    IkeProposal, Integrity, Kem, KeyExchange, Lifetime, Liveness, LivenessAction, Mode, Prf, SaProtocol,
};
use kube::ResourceExt as _;

use crate::model::{
    Authority, Membership, Overlay, OverlayEntry, OwnNode, Peer, Remote, Rollout, Start, Tunnel,
};
use crate::source::table::Row;

/// Highest value of `IPsecTunnel.spec.priority`.
const HIGHEST_PRIORITY: u16 = 1000;
/// Distance of two priorities in ranks: room for the width of selectors.
const RANKS_PER_PRIORITY: u16 = 4;

/// A tunnel with its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RankedTunnel {
    /// Its rank.
    pub(super) rank: Rank,
    /// The tunnel; its order is given by the snapshot.
    pub(super) tunnel: Tunnel,
    /// The external peer's roots, as the operator has read them.
    pub(super) bundle: Option<TrustBundle>,
}

/// A tunnel. A spec that cannot be carried out leaves the way it was protected in force: an edit never opens cleartext.
/// Without an earlier one there are no proposals: policies stand, and nothing passes them. A suspended tunnel stays as it
/// was, until it is taken down.
pub(super) fn tunnel(object: &IPsecTunnel, before: Option<&RankedTunnel>) -> Row<RankedTunnel> {
    let Some(uid) = object.metadata.uid.clone() else {
        return Row {
            value: before.cloned(),
            problem: Some("metadata.uid is missing".to_owned()),
        };
    };
    let earlier = before
        .map(|before| &before.tunnel)
        .filter(|before| before.uid == uid);
    let problem = problem(&object.spec);
    let rank = Rank::of(object, Narrowness::default());
    let status = object.status.as_ref();
    let rollout = status
        .and_then(|status| status.rollout.as_ref())
        .map(|rollout| Rollout {
            generation: rollout.generation,
            phase: rollout.phase,
        });
    let leaves = rollout.is_some_and(|rollout| rollout.phase.is_teardown());
    let bundle = status.and_then(|status| status.trust_bundle.clone());
    if let Some(earlier) = earlier.filter(|_| object.spec.suspend && !leaves) {
        let tunnel = Tunnel {
            suspended: true,
            ..earlier.clone()
        };
        return Row {
            value: Some(RankedTunnel { rank, tunnel, bundle }),
            problem,
        };
    }
    let mut tunnel = match (&problem, earlier) {
        (Some(_), Some(earlier)) => earlier.clone(),
        (Some(_), None) => Tunnel {
            mode: Mode::Transport,
            ike_proposals: Vec::new(),
            child_proposals: Vec::new(),
            ..carried_out(&object.spec)
        },
        (None, _) => carried_out(&object.spec),
    };
    tunnel.name = object.name_any();
    tunnel.uid = uid;
    tunnel.suspended = object.spec.suspend;
    tunnel.block = object.spec.failure_policy == FailurePolicy::Block;
    tunnel.rollout = rollout;
    tunnel.overlay = status
        .into_iter()
        .flat_map(|status| &status.effective_overlay)
        .map(|entry| OverlayEntry {
            overlay: Overlay {
                protocol: entry.protocol,
                port: entry.port,
            },
            phase: entry.phase,
        })
        .collect();
    Row {
        value: Some(RankedTunnel { rank, tunnel, bundle }),
        problem,
    }
}

/// A tunnel alone, for tests.
#[cfg(test)]
pub(crate) fn unranked(object: &IPsecTunnel) -> Tunnel {
    carried_out(&object.spec)
}

/// What of the spec cannot be carried out.
fn problem(spec: &IPsecTunnelSpec) -> Option<String> {
    let unsupported = unsupported_fields(spec);
    if !unsupported.is_empty() {
        let texts: Vec<String> = unsupported.iter().map(ToString::to_string).collect();
        return Some(texts.join("; "));
    }
    match external::remote(spec) {
        Err(problem) => return Some(problem),
        Ok(Remote::Nodes) => {}
        Ok(Remote::External(external)) => {
            let found = contradiction::contradiction(spec, &external, mode(spec.mode));
            if found.is_some() {
                return found;
            }
        }
    }
    if ike_proposals(spec).is_empty() {
        return Some("spec.ike.proposals: no proposal has only algorithms that this agent knows".to_owned());
    }
    if child_proposals(spec).is_empty() {
        return Some(
            "spec.childSA.proposals: no proposal has only algorithms that this agent knows".to_owned(),
        );
    }
    None
}

/// The part of a tunnel that its spec decides.
fn carried_out(spec: &IPsecTunnelSpec) -> Tunnel {
    let child = &spec.child_sa;
    Tunnel {
        name: String::new(),
        uid: String::new(),
        order: 0,
        policy_rank: HIGHEST_PRIORITY.saturating_sub(spec.priority) * RANKS_PER_PRIORITY,
        suspended: spec.suspend,
        rollout: None,
        remote: external::remote(spec).unwrap_or(Remote::Nodes),
        overlay: Vec::new(),
        block: spec.failure_policy == FailurePolicy::Block,
        protocol: protocol(spec.protocol),
        mode: mode(spec.mode),
        start: match child.initiation {
            tunnel::Initiation::Auto => Start::Auto,
            tunnel::Initiation::Eager => Start::Eager,
            tunnel::Initiation::OnDemand => Start::OnDemand,
        },
        encapsulation: match child.encapsulation {
            tunnel::Encapsulation::Always => Encapsulation::Always,
            tunnel::Encapsulation::Auto => Encapsulation::Auto,
            tunnel::Encapsulation::Never => Encapsulation::Never,
        },
        ike_proposals: ike_proposals(spec),
        ike_lifetime: spec.ike.lifetime.to_std(),
        liveness: Liveness {
            interval: spec.ike.dpd.interval.to_std(),
            max_retries: spec.ike.dpd.max_retries,
            action: match spec.ike.dpd.action {
                DpdAction::Clear => LivenessAction::Clear,
                DpdAction::Restart => LivenessAction::Restart,
            },
        },
        child_proposals: child_proposals(spec),
        lifetime: Lifetime {
            time: child.lifetime.time.to_std(),
            bytes: child.lifetime.bytes.map(ByteQuantity::as_bytes),
            packets: child.lifetime.packets,
        },
        rekey_margin_percent: child.rekey_margin_percent,
        esn: child.extended_sequence_numbers,
        replay_window: u32::from(child.replay_window),
    }
}

/// The proposals of the IKE SA.
fn ike_proposals(spec: &IPsecTunnelSpec) -> Vec<IkeProposal> {
    let one = |proposal: &suite::IkeProposal| {
        Some(IkeProposal {
            encryption: proposal.encryption.iter().copied().map(encryption).collect(),
            integrity: proposal.integrity.iter().copied().map(integrity).collect(),
            prf: proposal.prf.iter().copied().map(prf).collect(),
            key_exchange: proposal.key_exchange.iter().copied().map(key_exchange).collect(),
            additional: additional(&proposal.additional_key_exchange)?,
        })
    };
    spec.effective_ike_proposals()
        .iter()
        .filter_map(one)
        .filter(|one| one.is_sound() && !one.prf.is_empty() && !one.key_exchange.is_empty())
        .collect()
}

/// The proposals of the CHILD SA.
fn child_proposals(spec: &IPsecTunnelSpec) -> Vec<ChildProposal> {
    let one = |proposal: &suite::ChildProposal| {
        Some(ChildProposal {
            protocol: protocol(spec.protocol),
            encryption: proposal.encryption.iter().copied().map(encryption).collect(),
            integrity: proposal.integrity.iter().copied().map(integrity).collect(),
            key_exchange: proposal.key_exchange.iter().copied().map(key_exchange).collect(),
            additional: additional(&proposal.additional_key_exchange)?,
        })
    };
    spec.effective_child_proposals()
        .iter()
        .filter_map(one)
        .filter(ChildProposal::is_sound)
        .collect()
}

/// All of them, in their order: the schema admits seven, each once.
fn additional(names: &[suite::AdditionalKeyExchange]) -> Option<AdditionalKeyExchanges> {
    use suite::AdditionalKeyExchange as Name;
    let methods: Vec<AdditionalKeyExchange> = names
        .iter()
        .map(|name| match name {
            Name::MlKem512 => AdditionalKeyExchange::Kem(Kem::MlKem512),
            Name::MlKem768 => AdditionalKeyExchange::Kem(Kem::MlKem768),
            Name::MlKem1024 => AdditionalKeyExchange::Kem(Kem::MlKem1024),
            Name::X25519 => AdditionalKeyExchange::Method(KeyExchange::X25519),
            Name::Ecp256 => AdditionalKeyExchange::Method(KeyExchange::Ecp256),
            Name::Ecp384 => AdditionalKeyExchange::Method(KeyExchange::Ecp384),
            Name::Ecp521 => AdditionalKeyExchange::Method(KeyExchange::Ecp521),
            Name::Modp2048 => AdditionalKeyExchange::Method(KeyExchange::Modp2048),
            Name::Modp3072 => AdditionalKeyExchange::Method(KeyExchange::Modp3072),
            Name::Modp4096 => AdditionalKeyExchange::Method(KeyExchange::Modp4096),
        })
        .collect();
    AdditionalKeyExchanges::new(&methods)
}

fn encryption(name: suite::Encryption) -> Encryption {
    match name {
        suite::Encryption::AesGcm16With128 => Encryption::AesGcm16Key128,
        suite::Encryption::AesGcm16With256 => Encryption::AesGcm16Key256,
        suite::Encryption::ChaCha20Poly1305 => Encryption::ChaCha20Poly1305,
        suite::Encryption::AesCbc128 => Encryption::AesCbcKey128,
        suite::Encryption::AesCbc256 => Encryption::AesCbcKey256,
    }
}

fn mode(name: tunnel::Mode) -> Mode {
    match name {
        tunnel::Mode::Transport => Mode::Transport,
        tunnel::Mode::Tunnel => Mode::Tunnel,
    }
}

fn protocol(name: tunnel::Protocol) -> SaProtocol {
    match name {
        tunnel::Protocol::Esp => SaProtocol::Esp,
        tunnel::Protocol::Ah => SaProtocol::Ah,
    }
}

fn integrity(name: suite::Integrity) -> Integrity {
    match name {
        suite::Integrity::HmacSha2With256 => Integrity::HmacSha256,
        suite::Integrity::HmacSha2With384 => Integrity::HmacSha384,
        suite::Integrity::HmacSha2With512 => Integrity::HmacSha512,
    }
}

fn prf(name: suite::Prf) -> Prf {
    match name {
        suite::Prf::HmacSha2With256 => Prf::HmacSha256,
        suite::Prf::HmacSha2With384 => Prf::HmacSha384,
        suite::Prf::HmacSha2With512 => Prf::HmacSha512,
    }
}

fn key_exchange(name: suite::KeyExchange) -> KeyExchange {
    match name {
        suite::KeyExchange::Ecp256 => KeyExchange::Ecp256,
        suite::KeyExchange::Ecp384 => KeyExchange::Ecp384,
        suite::KeyExchange::Ecp521 => KeyExchange::Ecp521,
        suite::KeyExchange::X25519 => KeyExchange::X25519,
        suite::KeyExchange::Modp2048 => KeyExchange::Modp2048,
        suite::KeyExchange::Modp3072 => KeyExchange::Modp3072,
        suite::KeyExchange::Modp4096 => KeyExchange::Modp4096,
    }
}

/// A node of the directory. A bad address is left out, the rest of the node counts.
pub(super) fn peer(object: &IPsecPeer, _: Option<&Peer>) -> Row<Peer> {
    let spec = &object.spec;
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if usable(address) => addresses.push(address),
            Ok(_) | Err(_) => {
                problems.push(format!(
                    "spec.addresses[{index}]: {text:?} is not the address of one host"
                ));
            }
        }
    }
    let mut pods = Vec::new();
    for (index, text) in spec.pod_cidrs.iter().enumerate() {
        match pod_network(text) {
            Some(block) => pods.push(block),
            None => problems.push(format!(
                "spec.podCIDRs[{index}]: {text:?} is not a block of pod addresses"
            )),
        }
    }
    let boot = match spec.boot_id.as_deref().map(boot_id).transpose() {
        Ok(boot) => boot,
        Err(problem) => {
            problems.push(format!(
                "spec.{problem}: a restart of the node is found by its silence only"
            ));
            None
        }
    };
    let peer = Peer {
        node: object.name_any(),
        uid: spec.node_uid.clone(),
        boot,
        identity: spec.identity.clone(),
        addresses,
        pods,
        keys: spec.keys.iter().cloned().collect::<BTreeSet<_>>(),
        memberships: spec
            .memberships
            .iter()
            .map(|membership| Membership {
                tunnel: membership.tunnel.clone(),
                local: matches!(membership.side, Side::Both | Side::Local),
                remote: matches!(membership.side, Side::Both | Side::Remote),
                phase: membership.phase,
            })
            .collect(),
    };
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    Row {
        value: Some(peer),
        problem,
    }
}

/// A block as a CIDR, without bits behind its length, that is not everything.
fn pod_network(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let host_bits_are_zero = match address {
        IpAddr::V4(address) => {
            length <= 32 && u32::MAX.checked_shr(length.into()).unwrap_or(0) & address.to_bits() == 0
        }
        IpAddr::V6(address) => {
            length <= 128 && u128::MAX.checked_shr(length.into()).unwrap_or(0) & address.to_bits() == 0
        }
    };
    (length > 0 && host_bits_are_zero && usable(address)).then_some(Prefix { address, length })
}

/// Policies for any of the others would catch traffic that is not a node's.
fn usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// A boot as the kernel names it: a UUID.
pub(crate) fn boot_id(text: &str) -> Result<BootId, String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let refused = || format!("bootID {text:?} is no UUID");
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(refused());
    }
    u128::from_str_radix(&digits, 16)
        .map(|value| BootId(value.to_be_bytes()))
        .map_err(|_| refused())
}

/// An authority, once it has roots to trust.
pub(super) fn authority(object: &IPsecAuthority, _: Option<&Authority>) -> Row<Authority> {
    let status = object.status.as_ref();
    let Some(bundle) = status.and_then(|status| status.bundle.clone()) else {
        return Row {
            value: None,
            problem: None,
        };
    };
    let certificate = &object.spec.node_certificate;
    Row::good(Authority {
        name: object.name_any(),
        trust_domain: object.spec.trust_domain.clone(),
        lifetime: certificate.lifetime.to_std(),
        renew_at_percent: u64::from(certificate.renew_at_percent),
        bundle,
        bundle_hash: status.and_then(|status| status.bundle_hash.clone()),
    })
}

/// A node's own object.
pub(super) fn node(object: &IPsecNode, _: Option<&OwnNode>) -> Row<OwnNode> {
    Row::good(OwnNode {
        object_uid: object.uid().unwrap_or_default(),
        node_uid: object.spec.node_uid.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        certificate_generation: object.spec.certificate_generation,
        sealed: object.spec.sealed_credentials.clone(),
        status: object.status.clone().map(Arc::new),
    })
}

/// The identity that `peer` must prove in the authority's trust domain.
pub(crate) fn identity(peer: &Peer, authority: &Authority) -> NodeIdentity {
    NodeIdentity::new(&peer.node, &peer.uid, &authority.trust_domain)
}

#[cfg(test)]
mod tests;
