//! From API objects to what the plans read.

use std::collections::{BTreeMap, BTreeSet};

use ipsecmesh_crds::tunnel::{EffectiveOverlay, RemoteType, TrafficType};
use ipsecmesh_crds::{IPsecNode, IPsecTunnel, IPsecTunnelSpec, Phase};

use crate::plan::echo::{Echo, Failure};
use crate::plan::membership::{FarSide, InvalidSelector, Selectors};
use crate::plan::overlay::Encapsulation;

/// The parsed selectors of a tunnel.
pub(crate) fn selectors(spec: &IPsecTunnelSpec) -> Result<Selectors, InvalidSelector> {
    Selectors::parse(&spec.local.node_selector, spec.remote_selector().as_ref())
}

/// What is at the far side of a tunnel.
pub(crate) fn far_side(spec: &IPsecTunnelSpec) -> FarSide {
    match spec.remote.type_ {
        RemoteType::External => FarSide::External,
        RemoteType::Nodes => FarSide::Nodes,
    }
}

/// Whether the agent says that its node is Ready.
pub(crate) fn is_ready(agent: &IPsecNode) -> bool {
    let conditions = agent
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a node's agent cannot take part, as (reason, message).
pub(crate) fn trouble(node: &str, agent: Option<&IPsecNode>) -> Option<(String, String)> {
    let conditions = agent
        .and_then(|agent| agent.status.as_ref())
        .map(|status| status.conditions.as_slice());
    let Some(conditions) = conditions.filter(|conditions| !conditions.is_empty()) else {
        let message =
            format!("the agent of {node} has not reported yet: check that its pod runs on that node");
        return Some(("AgentsNotReady".to_owned(), message));
    };
    let failing = |type_: &str| {
        conditions
            .iter()
            .find(|c| c.type_ == type_ && c.status == "False")
    };
    let condition = failing("DataplaneReady").or_else(|| failing("CertificateReady"))?;
    Some((condition.reason.clone(), format!("{node}: {}", condition.message)))
}

/// What an agent reports on one tunnel.
pub(crate) fn echo(agent: &IPsecNode, tunnel: &str) -> Option<Echo> {
    let status = agent.status.as_ref()?;
    let report = status.tunnels.iter().find(|report| report.name == tunnel)?;
    let failures = status.failures.iter().filter(|failure| failure.tunnel == tunnel);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let rollout = report.rollout.clone();
    Some(Echo {
        generation: rollout.generation,
        phase: rollout.phase,
        transition: rollout.transition,
        programmed: report.programmed,
        desired: count(report.peers.desired),
        established: count(report.peers.established),
        failed: count(report.peers.failed),
        failures: failures
            .map(|failure| Failure {
                peer: failure.peer.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
            })
            .collect(),
    })
}

/// The encapsulations that the spec names; empty means that they are to be detected. Between pod networks there are
/// none: everything is meant.
pub(crate) fn explicit_overlay(spec: &IPsecTunnelSpec) -> BTreeSet<Encapsulation> {
    if spec.traffic.type_ == TrafficType::PodNetwork {
        return BTreeSet::from([Encapsulation::POD_NETWORK]);
    }
    let entries = spec.traffic.overlay.iter();
    entries
        .map(|entry| Encapsulation {
            protocol: entry.protocol,
            port: entry.port,
        })
        .collect()
}

/// The encapsulations that an agent found; `None` while it has not reported.
pub(crate) fn detected_overlay(agent: &IPsecNode) -> Option<BTreeSet<Encapsulation>> {
    let status = agent
        .status
        .as_ref()
        .filter(|status| !status.conditions.is_empty())?;
    let entries = status.overlay.iter();
    Some(
        entries
            .map(|entry| Encapsulation {
                protocol: entry.protocol,
                port: entry.port,
            })
            .collect(),
    )
}

/// The published encapsulations with their phases.
pub(crate) fn published_overlay(tunnel: &IPsecTunnel) -> BTreeMap<Encapsulation, Option<Phase>> {
    let entries = tunnel.status.iter().flat_map(|status| &status.effective_overlay);
    let entry = |entry: &EffectiveOverlay| {
        (
            Encapsulation {
                protocol: entry.protocol,
                port: entry.port,
            },
            entry.phase,
        )
    };
    entries.map(entry).collect()
}

/// As it is published.
pub(crate) fn effective_overlay(entries: &BTreeMap<Encapsulation, Option<Phase>>) -> Vec<EffectiveOverlay> {
    let entry = |(entry, phase): (&Encapsulation, &Option<Phase>)| EffectiveOverlay {
        protocol: entry.protocol,
        port: entry.port,
        phase: *phase,
    };
    entries.iter().map(entry).collect()
}

/// The generation and phase that a tunnel is in.
pub(crate) fn rollout(tunnel: &IPsecTunnel) -> Option<(i64, Phase)> {
    let rollout = tunnel.status.as_ref()?.rollout.as_ref()?;
    Some((rollout.generation, rollout.phase))
}
