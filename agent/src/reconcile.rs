//! The difference between what is desired and what stands, as ordered steps: pure.
//!
//! Policies come first, so that a pair blocks before it has an SA; peers and children next; then what goes: first SAs,
//! and policies only when no SA of theirs is left. Nothing that is not in the tables below can be touched: both hold
//! only what is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsecmesh_dataplane::{Policy, PolicyAction, PolicyKey, SaStatus};
use ipsecmesh_ike::{BootId, PeerConfig, PeerId, SaName};

use crate::desired::{Desired, PeerTrust};

/// What stands, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actual {
    /// Policies of ours in the data plane.
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    /// Peers as the engine has them.
    pub(crate) peers: BTreeMap<PeerId, KnownPeer>,
}

/// A peer as the engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownPeer {
    /// Its configuration.
    pub(crate) config: PeerConfig,
    /// The boot that the engine was told.
    pub(crate) boot: Option<BootId>,
    /// What its certificate was judged by.
    pub(crate) trust: PeerTrust,
    /// It has an IKE SA now.
    pub(crate) connected: bool,
}

/// The steps, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// Install or update.
    pub(crate) put_policies: Vec<Policy>,
    /// End and forget.
    pub(crate) remove_peers: Vec<PeerId>,
    /// Add or change.
    pub(crate) upsert_peers: Vec<PeerConfig>,
    /// Try again at once: what their certificates are judged by has changed, and they have no IKE SA.
    pub(crate) retry_peers: Vec<PeerId>,
    /// Boots to tell the engine.
    pub(crate) boots: Vec<(PeerId, BootId)>,
    /// Remove once no SA of theirs is left.
    pub(crate) remove_policies: Vec<PolicyKey>,
}

/// Compares.
pub(crate) fn steps(desired: &Desired, actual: &Actual) -> Steps {
    let mut steps = Steps {
        put_policies: desired
            .policies
            .values()
            .filter(|policy| actual.policies.get(&policy.key) != Some(policy))
            .copied()
            .collect(),
        remove_peers: actual
            .peers
            .keys()
            .filter(|id| !desired.peers.contains_key(id))
            .copied()
            .collect(),
        remove_policies: actual
            .policies
            .keys()
            .filter(|key| !desired.policies.contains_key(key))
            .copied()
            .collect(),
        ..Steps::default()
    };
    for (id, wanted) in &desired.peers {
        let known = actual.peers.get(id);
        if known.is_none() && !wanted.startable {
            continue;
        }
        if known.is_some_and(|known| !known.connected && known.trust != wanted.trust) {
            steps.retry_peers.push(*id);
        }
        if known.is_none_or(|known| known.config != wanted.config) {
            steps.upsert_peers.push(wanted.config.clone());
        }
        if let Some(boot) = wanted.boot
            && known.is_none_or(|known| known.boot != wanted.boot)
        {
            steps.boots.push((*id, boot));
        }
    }
    steps
}

/// The SAs of a previous run that no desired child stands for: outbound first, so that nothing is sent into a hole.
pub(crate) fn orphans(desired: &Desired, adopted: &[SaStatus]) -> Vec<SaName> {
    let wanted: BTreeSet<(u32, IpAddr, IpAddr)> = desired
        .peers
        .values()
        .flat_map(|peer| {
            let config = &peer.config;
            config
                .children
                .iter()
                .map(|child| (child.reqid, config.local_address, config.remote_address))
        })
        .collect();
    let mut names: Vec<SaName> = adopted
        .iter()
        .filter(|sa| {
            let (source, destination) = (sa.name.source, sa.name.destination);
            !wanted.contains(&(sa.reqid, source, destination))
                && !wanted.contains(&(sa.reqid, destination, source))
        })
        .map(|sa| sa.name)
        .collect();
    names.sort_by_key(|name| !desired.own_addresses.contains(&name.source));
    names
}

/// Whether an SA still stands that `policy` could carry.
pub(crate) fn has_sa<'a>(policy: &Policy, mut sas: impl Iterator<Item = (&'a SaName, u32)>) -> bool {
    match policy.action {
        PolicyAction::Protect {
            reqid,
            source,
            destination,
            ..
        } => sas.any(|(name, sa_reqid)| {
            let ends = (name.source, name.destination);
            sa_reqid == reqid && (ends == (source, destination) || ends == (destination, source))
        }),
        PolicyAction::Bypass | PolicyAction::Discard => false,
    }
}

#[cfg(test)]
mod tests;
