//! What a look at a tunnel tells people: its status, Events, metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipsecmesh_crds::rank::{Narrowness, Rank};
use ipsecmesh_crds::tunnel::{
    AuthType, EffectiveProposals, FailingPair, IPsecTunnelStatus, NodeCounts, PairCounts, Rollout,
    TrustBundle, TunnelSummary,
};
use ipsecmesh_crds::{IPsecPeer, IPsecTunnel, Phase};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt as _};

use super::{Look, Plan};
use crate::apply::Error;
use crate::plan::echo::{Failure, Follower, Lag};
use crate::plan::membership::{FarSide, pair_count};
use crate::plan::overlap::{Claim, Overlap, overlap};
use crate::plan::rollout::Goal;
use crate::verdict::{self, Findings, Problem, Standing};
use crate::view;

/// The status holds no more failing pairs than this; all are counted.
const MAX_FAILING: usize = 16;

impl Look<'_> {
    /// Writes the status if it differs, and says what a person can act on.
    pub(super) async fn publish(
        &self,
        api: &Api<IPsecTunnel>,
        findings: &Findings,
        plan: &Plan,
    ) -> Result<(), Error> {
        let before = self.tunnel.status.clone().unwrap_or_default();
        let standing = self.standing(plan);
        let verdicts = verdict::conditions(findings, &standing);
        let failing = plan.failing(&before.failing_pairs);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let programmed = plan.programmed();
        let selected = plan.selected.len();
        let status = IPsecTunnelStatus {
            observed_generation: self.tunnel.metadata.generation,
            rollout: plan
                .rollout
                .map(|(generation, phase)| published(&before, generation, phase)),
            effective_overlay: view::effective_overlay(&plan.overlay),
            enforcement: plan.rollout.map(|(_, phase)| phase.to_string()),
            nodes: Some(NodeCounts {
                selected: count(standing.ready),
                programmed: count(programmed),
            }),
            pairs: Some(PairCounts {
                desired: count(pair_count(&plan.selected, self.far)),
                failing: count(failing.len()),
            }),
            summary: Some(TunnelSummary {
                nodes: format!("{programmed}/{}", standing.ready),
            }),
            effective_proposals: Some(EffectiveProposals {
                ike: self.tunnel.spec.effective_ike_proposals(),
                child_sa: self.tunnel.spec.effective_child_proposals(),
            }),
            trust_bundle: self.trust_bundle(&before),
            failing_pairs: failing.into_iter().take(MAX_FAILING).collect(),
            conditions: crate::status::merge(
                &before.conditions,
                &verdicts,
                self.tunnel.metadata.generation,
                Timestamp::now(),
            ),
        };
        self.context
            .metrics
            .tunnel(&self.name, selected, programmed, standing.failing.len());
        if self.tunnel.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.context
            .writer()
            .apply_status(api, self.tunnel, &status)
            .await?;
        self.tell(&before, &status, plan).await;
        Ok(())
    }

    /// The external peer's roots. Those in force stay while the reference leads to none that are good.
    fn trust_bundle(&self, before: &IPsecTunnelStatus) -> Option<TrustBundle> {
        let certificate = self.tunnel.spec.auth.certificate.as_ref()?;
        let reference = certificate.trust_bundle_ref.as_ref()?;
        let meant = |known: &&TrustBundle| (&known.name, &known.key) == (&reference.name, &reference.key);
        let known = before.trust_bundle.as_ref().filter(meant);
        self.references.bundle.clone().or_else(|| known.cloned())
    }

    fn standing(&self, plan: &Plan) -> Standing {
        let lagging = |wanted: fn(&Lag) -> bool| {
            plan.lags
                .iter()
                .filter(move |(_, lag)| wanted(lag))
                .map(|(node, _)| node.clone())
        };
        let troubled = plan
            .followers
            .iter()
            .filter(|follower| follower.ready)
            .filter_map(|follower| {
                let (reason, message) = follower.trouble.clone()?;
                Some((follower.name.clone(), Problem::new(&reason, message)))
            });
        let failing = plan.failing_of_ready(self.far);
        Standing {
            first: self
                .tunnel
                .status
                .as_ref()
                .is_none_or(|status| status.conditions.is_empty()),
            external: self.far == FarSide::External,
            psk_holders: match self.tunnel.spec.auth.type_ {
                AuthType::Psk => plan.selected.len(),
                AuthType::Certificate => 0,
            },
            suspended: self.tunnel.spec.suspend,
            goal: plan.goal,
            phase: plan.rollout.map(|(_, phase)| phase),
            in_transition: plan.in_transition,
            blocked: plan.blocked,
            ready: plan
                .followers
                .iter()
                .filter(|f| f.ready && plan.selected.contains_key(&f.name))
                .count(),
            programmed: plan.programmed(),
            agents: troubled.collect(),
            behind: lagging(|lag| matches!(lag, Lag::Behind)).collect(),
            failing,
            overlap: if plan.goal == Goal::Remove {
                Overlap::Nothing
            } else {
                self.overlap()
            },
        }
    }

    /// What tunnels of higher rank have of this one, as both are published.
    fn overlap(&self) -> Overlap {
        let rank = Rank::of(self.tunnel, Narrowness::default());
        let all = self.context.stores().tunnels.state();
        let above = all
            .iter()
            .filter(|other| other.name_any() != self.name && Rank::of(other, Narrowness::default()) < rank);
        let winners: Vec<Claim> = above.map(|other| self.claim(other)).collect();
        if winners.is_empty() {
            return Overlap::Nothing;
        }
        overlap(&self.claim(self.tunnel), &winners)
    }

    fn claim(&self, tunnel: &IPsecTunnel) -> Claim {
        let name = tunnel.name_any();
        let side = |(node, peer): (&String, &Arc<IPsecPeer>)| {
            let mut memberships = peer.spec.memberships.iter();
            let membership = memberships.find(|membership| membership.tunnel == name)?;
            Some((node.clone(), membership.side))
        };
        Claim {
            sides: self.peers.iter().filter_map(side).collect(),
            entries: view::published_overlay(tunnel).into_keys().collect(),
            name,
        }
    }

    /// Events on transitions.
    async fn tell(&self, before: &IPsecTunnelStatus, now: &IPsecTunnelStatus, plan: &Plan) {
        let events = &self.context.events;
        let phase = now.rollout.as_ref().map(|rollout| rollout.phase);
        if phase != before.rollout.as_ref().map(|rollout| rollout.phase)
            && let Some(phase) = phase
        {
            tracing::info!(tunnel = self.name, %phase, "the tunnel enters a phase");
            self.context.metrics.entered(&self.name, phase.as_str());
            match phase {
                Phase::Enforcing => {
                    events
                        .normal(
                            self.tunnel,
                            "Enforcing",
                            "all ready nodes send and accept ESP only".to_owned(),
                        )
                        .await;
                }
                Phase::Draining => {
                    events
                        .normal(
                            self.tunnel,
                            "Draining",
                            "the traffic goes back to cleartext in order".to_owned(),
                        )
                        .await;
                }
                Phase::Permissive | Phase::Encrypting | Phase::Releasing | Phase::Removing => {}
            }
        }
        if plan.timed_out {
            let waiting: Vec<String> = plan.lags.keys().cloned().collect();
            let note = format!("went on without {}", crate::plan::echo::names(&waiting));
            events.warning(self.tunnel, "TeardownTimedOut", note).await;
        }
        let ready =
            |status: &IPsecTunnelStatus| status.conditions.iter().find(|c| c.type_ == "Ready").cloned();
        if let Some(ready) = ready(now).filter(|ready| ready.status == "False") {
            let known = ready_reason(before) == Some(ready.reason.clone());
            if let (false, Some(reason)) = (known, event_reason(&ready.reason)) {
                events.warning(self.tunnel, reason, ready.message).await;
            }
        }
    }
}

impl Plan {
    /// The selected Ready nodes that have programmed what is published.
    fn programmed(&self) -> usize {
        let Some(expected) = &self.expected else { return 0 };
        let ready = self
            .followers
            .iter()
            .filter(|f| f.ready && self.selected.contains_key(&f.name));
        ready.filter(|follower| follower.is_programmed(expected)).count()
    }

    /// All failures that agents report, each with the time since which `before` or this look knows it.
    fn failing(&self, before: &[FailingPair]) -> Vec<FailingPair> {
        let now = Timestamp::from_second(Timestamp::now().as_second())
            .ok()
            .map(Time);
        let pairs = self.followers.iter().flat_map(|follower| {
            let failures = follower.echo.iter().flat_map(|echo| &echo.failures);
            failures.map(|failure| {
                let same = |old: &&FailingPair| {
                    (&old.node, &old.peer, &old.reason) == (&follower.name, &failure.peer, &failure.reason)
                };
                FailingPair {
                    node: follower.name.clone(),
                    peer: failure.peer.clone(),
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                    since: before
                        .iter()
                        .find(same)
                        .map_or_else(|| now.clone(), |old| old.since.clone()),
                }
            })
        });
        pairs.collect()
    }

    /// Those between nodes that are Ready, and those of Ready nodes with the external peer.
    fn failing_of_ready(&self, far: FarSide) -> Vec<(String, Failure)> {
        let ready: BTreeSet<&str> = self
            .followers
            .iter()
            .filter(|f| f.ready)
            .map(|f| f.name.as_str())
            .collect();
        let of = |follower: &Follower| {
            let failures = follower.echo.iter().flat_map(|echo| echo.failures.clone());
            let name = follower.name.clone();
            failures
                .map(move |failure| (name.clone(), failure))
                .collect::<Vec<_>>()
        };
        let all = self
            .followers
            .iter()
            .filter(|follower| follower.ready)
            .flat_map(of);
        all.filter(|(_, failure)| far == FarSide::External || ready.contains(failure.peer.as_str()))
            .collect()
    }
}

/// The rollout with the time at which this phase began.
fn published(before: &IPsecTunnelStatus, generation: i64, phase: Phase) -> Rollout {
    match &before.rollout {
        Some(known) if known.generation == generation && known.phase == phase => known.clone(),
        _ => Rollout {
            generation,
            phase,
            since: Timestamp::from_second(Timestamp::now().as_second())
                .ok()
                .map(Time),
        },
    }
}

fn ready_reason(status: &IPsecTunnelStatus) -> Option<String> {
    status
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "False")
        .map(|c| c.reason.clone())
}

/// Reasons that are worth an Event: not those of every rollout.
fn event_reason(reason: &str) -> Option<&'static str> {
    const KNOWN: [&str; 37] = [
        "AddressAssignmentRequired",
        "AddressConflict",
        "AdmissionPolicyMissing",
        "AgentsNotReady",
        "AuthenticationFailed",
        "AuthorityNotFound",
        "CertificateDenied",
        "ConfigMapKeyMissing",
        "ConfigMapNotFound",
        "Conflicted",
        "DataplaneRefused",
        "InvalidPSK",
        "InvalidPeerAddress",
        "InvalidSelector",
        "InvalidTrustBundle",
        "KernelUnsupported",
        "MissingCapability",
        "NoAdditionalSAs",
        "NoCommonAddressFamily",
        "NoNodesSelected",
        "NoOverlayDetected",
        "NoProposalChosen",
        "OverlayMismatch",
        "Overridden",
        "PeerUnreachable",
        "PeerUnusable",
        "PortInUse",
        "ProtocolError",
        "RolloutBlocked",
        "SealingKeyMissing",
        "SealingKeyUntrusted",
        "SecretKeyMissing",
        "SecretNotFound",
        "SocketFailed",
        "TSUnacceptable",
        "UnsupportedField",
        "WeakPSK",
    ];
    KNOWN.into_iter().find(|known| *known == reason)
}
