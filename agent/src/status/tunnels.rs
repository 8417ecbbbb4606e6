//! How far each tunnel is on this node: counts of peers, failing pairs, and the echo that the rollout waits for.

use ipsecmesh_crds::node::{Failure as ApiFailure, PeerCounts, RolloutEcho, TunnelReport};
use ipsecmesh_ike::{Failure, PeerId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::desired::{Desired, TunnelGoal};
use crate::engine::event::{FailureView, View};

/// The API takes this many failing pairs.
const MAX_FAILURES: usize = 16;
/// Nobody reads more.
const MAX_MESSAGE: usize = 1024;

/// One tunnel with the state of its peers.
#[derive(Clone, Debug)]
pub(crate) struct Standing<'a> {
    /// What its echo waits for.
    pub(crate) goal: &'a TunnelGoal,
    /// Its peers.
    pub(crate) counts: PeerCounts,
    /// Nodes that nobody can start with: they have published no key yet.
    silent: u32,
    /// Those that fail, by the Node's name.
    pub(crate) failing: Vec<(&'a str, &'a FailureView)>,
}

/// Counts every tunnel's peers.
pub(crate) fn standing<'a>(desired: &'a Desired, view: &'a View) -> Vec<Standing<'a>> {
    desired
        .tunnels
        .iter()
        .map(|goal| of(goal, desired, view))
        .collect()
}

fn of<'a>(goal: &'a TunnelGoal, desired: &Desired, view: &'a View) -> Standing<'a> {
    let mut counts = PeerCounts::default();
    let mut silent = 0;
    let mut failing = Vec::new();
    let keyless = |peer: &PeerId| {
        desired
            .peers
            .get(peer)
            .is_some_and(|peer| !peer.trust.uid.is_empty() && peer.trust.keys.is_empty())
    };
    for (node, children) in &goal.members {
        counts.desired += 1;
        let stands = children.iter().all(|(peer, child)| {
            view.peers
                .get(peer)
                .is_some_and(|peer| peer.children.contains_key(child))
        });
        if stands {
            counts.established += 1;
            continue;
        }
        let failure = children.iter().find_map(|(peer, child)| {
            let failure = view.peers.get(peer)?.failure.as_ref()?;
            failure
                .child
                .is_none_or(|failed| failed == *child)
                .then_some(failure)
        });
        if let Some(failure) = failure {
            counts.failed += 1;
            failing.push((node.as_str(), failure));
        } else {
            counts.idle += 1;
            silent += u32::from(children.iter().all(|(peer, _)| keyless(peer)));
        }
    }
    failing.sort_by_key(|(node, failure)| (failure.since, *node));
    let apart = u32::try_from(goal.apart.len()).unwrap_or(u32::MAX);
    counts.desired = counts.desired.saturating_add(apart);
    counts.failed = counts.failed.saturating_add(apart);
    if goal.problem.is_some() {
        counts.desired = counts.desired.max(1);
        counts.established = 0;
        counts.failed = counts.desired;
    }
    Standing {
        goal,
        counts,
        silent,
        failing,
    }
}

/// The report. A phase is echoed when all its policies stand and, where it asks for them, its SAs with everybody who can
/// be reached. Until then the last report stays as it was: new counts beside an old echo would say that what is being
/// written stands already.
pub(crate) fn report(
    standing: &Standing<'_>,
    view: &View,
    revision: u64,
    known: &[TunnelReport],
) -> TunnelReport {
    let Standing {
        goal, counts, silent, ..
    } = standing;
    let programmed = view.programmed >= revision && view.refused.is_empty();
    let settled = counts.established + counts.failed + silent;
    if programmed && (!goal.needs_sas || settled >= counts.desired) {
        return TunnelReport {
            name: goal.name.clone(),
            rollout: RolloutEcho {
                generation: goal.rollout.generation,
                phase: goal.rollout.phase,
                transition: goal.transition.clone(),
            },
            programmed: true,
            peers: *counts,
        };
    }
    match known.iter().find(|report| report.name == goal.name) {
        Some(before) => TunnelReport {
            programmed: before.programmed && view.refused.is_empty(),
            ..before.clone()
        },
        None => TunnelReport {
            name: goal.name.clone(),
            peers: *counts,
            ..TunnelReport::default()
        },
    }
}

/// The oldest failures of all tunnels.
pub(crate) fn failures(standing: &[Standing<'_>]) -> Vec<ApiFailure> {
    let mut all: Vec<ApiFailure> = standing
        .iter()
        .flat_map(|tunnel| {
            tunnel.failing.iter().map(|(node, failure)| ApiFailure {
                tunnel: tunnel.goal.name.clone(),
                peer: (*node).to_owned(),
                reason: reason(failure.failure).to_owned(),
                message: failure.detail.chars().take(MAX_MESSAGE).collect(),
                since: i64::try_from(failure.since)
                    .ok()
                    .and_then(|since| Timestamp::from_second(since).ok())
                    .map(Time),
            })
        })
        .collect();
    let apart = standing.iter().flat_map(|tunnel| {
        tunnel.goal.apart.iter().map(|node| ApiFailure {
            tunnel: tunnel.goal.name.clone(),
            peer: node.clone(),
            reason: "NoCommonAddressFamily".to_owned(),
            message: "one of the two nodes has only IPv4 addresses and the other only IPv6: give both an InternalIP of one family, or take one out of the selection".to_owned(),
            since: None,
        })
    });
    all.extend(apart);
    let blamed = standing.iter().filter_map(|tunnel| {
        Some(ApiFailure {
            tunnel: tunnel.goal.name.clone(),
            peer: tunnel
                .goal
                .external
                .as_ref()
                .or_else(|| tunnel.goal.members.keys().next())?
                .clone(),
            reason: "PeerUnusable".to_owned(),
            message: tunnel.goal.problem.clone()?,
            since: None,
        })
    });
    all.extend(blamed);
    all.sort_by(|a, b| (&a.since, &a.tunnel, &a.peer).cmp(&(&b.since, &b.tunnel, &b.peer)));
    all.truncate(MAX_FAILURES);
    all
}

/// The reason as the API knows it.
pub(crate) fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::AddressAssignment => "AddressAssignmentRequired",
        Failure::Authentication => "AuthenticationFailed",
        Failure::DataPlane => "DataplaneRefused",
        Failure::NoAdditionalSas => "NoAdditionalSAs",
        Failure::NoCredentials => "CertificatePending",
        Failure::NoProposalChosen => "NoProposalChosen",
        Failure::TrafficSelectors => "TSUnacceptable",
        Failure::Unreachable => "PeerUnreachable",
        // The engine may learn to say more.
        Failure::Protocol | _ => "ProtocolError",
    }
}
