//! The phases of a tunnel as a whole (README, decisions 15 and 31): when the next one comes.

use std::time::Duration;

use ipsecmesh_crds::Phase;

/// Packets that left before the last echo are gone after this: path and queue delay.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// A rollout that waits longer than this says so as a blocked one.
pub(crate) const BLOCKED_AFTER: Duration = Duration::from_mins(1);

/// Where a tunnel has to end up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// `failurePolicy: Block`.
    Enforce,
    /// `failurePolicy: Allow`.
    Permit,
    /// Deleted, or the product is uninstalled.
    Remove,
}

/// What the next phase depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// The published phase, if any.
    pub(crate) phase: Option<Phase>,
    /// Where it goes.
    pub(crate) goal: Goal,
    /// `rollout: Gated`.
    pub(crate) gated: bool,
    /// For how long every node has acknowledged what is published; `None` while one has not.
    pub(crate) acknowledged: Option<Duration>,
}

impl Situation {
    fn acked(&self) -> bool {
        self.acknowledged.is_some()
    }

    fn drained(&self) -> bool {
        self.acknowledged.is_some_and(|time| time >= DRAIN)
    }
}

/// The phase that is to be published. The order is never skipped, the waiting is with `rollout: Immediate`.
#[expect(
    clippy::match_same_arms,
    reason = "the table reads goal by goal, in the order of the phases"
)]
pub(crate) fn next_phase(now: Situation) -> Phase {
    let go = |condition: bool, next: Phase, stay: Phase| if condition { next } else { stay };
    let Some(phase) = now.phase else {
        return if now.goal == Goal::Remove {
            Phase::Removing
        } else {
            Phase::Permissive
        };
    };
    match (now.goal, phase) {
        (Goal::Enforce, Phase::Permissive) => go(now.acked() || !now.gated, Phase::Encrypting, phase),
        (Goal::Enforce, Phase::Encrypting) => go(now.drained() || !now.gated, Phase::Enforcing, phase),
        (Goal::Enforce, Phase::Enforcing) => phase,
        // Both demand the same of packets: the way turns round here without a step.
        (Goal::Enforce, Phase::Draining) => Phase::Encrypting,
        // Latches hold until Removing, so that a tunnel that has begun to release goes through to its end first.
        (Goal::Enforce, Phase::Releasing) => go(now.drained(), Phase::Removing, phase),
        (Goal::Permit, Phase::Enforcing) => Phase::Draining,
        (Goal::Permit, Phase::Draining) => go(now.acked(), Phase::Permissive, phase),
        (Goal::Permit, Phase::Permissive | Phase::Encrypting | Phase::Releasing) => Phase::Permissive,
        (Goal::Enforce | Goal::Permit, Phase::Removing) => Phase::Permissive,
        (Goal::Remove, Phase::Permissive) => Phase::Releasing,
        (Goal::Remove, Phase::Encrypting | Phase::Enforcing) => Phase::Draining,
        (Goal::Remove, Phase::Draining) => go(now.acked(), Phase::Releasing, phase),
        (Goal::Remove, Phase::Releasing) => go(now.drained(), Phase::Removing, phase),
        (Goal::Remove, Phase::Removing) => phase,
    }
}

/// Whether something published has to be followed by a drain time before it goes on.
pub(crate) fn needs_drain(tunnel: Phase, overrides: impl IntoIterator<Item = Phase>) -> bool {
    let drains = |phase: Phase| matches!(phase, Phase::Encrypting | Phase::Releasing);
    drains(tunnel) || overrides.into_iter().any(drains)
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::Demand;

    use super::*;
    use Phase::{Draining, Encrypting, Enforcing, Permissive, Releasing, Removing};

    #[test]
    fn every_phase_waits_for_its_echoes_and_its_drain() {
        const JUST: Option<Duration> = Some(Duration::ZERO);
        const LONG: Option<Duration> = Some(DRAIN);
        let cases = [
            (None, Goal::Enforce, None, Permissive),
            (None, Goal::Permit, None, Permissive),
            (None, Goal::Remove, None, Removing),
            (Some(Permissive), Goal::Enforce, None, Permissive),
            (Some(Permissive), Goal::Enforce, JUST, Encrypting),
            (Some(Encrypting), Goal::Enforce, JUST, Encrypting),
            (Some(Encrypting), Goal::Enforce, LONG, Enforcing),
            (Some(Enforcing), Goal::Enforce, None, Enforcing),
            (Some(Permissive), Goal::Permit, LONG, Permissive),
            (Some(Enforcing), Goal::Permit, None, Draining),
            (Some(Draining), Goal::Permit, None, Draining),
            (Some(Draining), Goal::Permit, JUST, Permissive),
            (Some(Encrypting), Goal::Permit, None, Permissive),
            (Some(Enforcing), Goal::Remove, None, Draining),
            (Some(Draining), Goal::Remove, None, Draining),
            (Some(Draining), Goal::Remove, JUST, Releasing),
            (Some(Releasing), Goal::Remove, JUST, Releasing),
            (Some(Releasing), Goal::Remove, LONG, Removing),
            (Some(Removing), Goal::Remove, LONG, Removing),
            (Some(Permissive), Goal::Remove, None, Releasing),
            (Some(Draining), Goal::Enforce, None, Encrypting),
            (Some(Releasing), Goal::Enforce, None, Releasing),
            (Some(Releasing), Goal::Enforce, LONG, Removing),
            (Some(Removing), Goal::Enforce, None, Permissive),
        ];
        for (phase, goal, acknowledged, expected) in cases {
            let gated = true;
            let situation = Situation {
                phase,
                goal,
                gated,
                acknowledged,
            };
            assert_eq!(next_phase(situation), expected, "{situation:?}");
        }
    }

    #[test]
    fn immediate_skips_the_waiting_not_the_order() {
        let mut phase = None;
        let mut seen = Vec::new();
        for _ in 0..4 {
            let situation = Situation {
                phase,
                goal: Goal::Enforce,
                gated: false,
                acknowledged: None,
            };
            phase = Some(next_phase(situation));
            seen.extend(phase);
        }
        assert_eq!(seen, [Permissive, Encrypting, Enforcing, Enforcing]);
    }

    /// From every phase every goal is reached when nodes follow, and nothing jumps: while some node may still require
    /// ESP of what arrives, no node sends anything else.
    #[test]
    fn no_step_jumps() {
        for start in Phase::ALL {
            for goal in [Goal::Enforce, Goal::Permit, Goal::Remove] {
                let mut phase = start;
                for _ in 0..8 {
                    let acknowledged = Some(DRAIN);
                    let next = next_phase(Situation {
                        phase: Some(phase),
                        goal,
                        gated: true,
                        acknowledged,
                    });
                    let (before, after) = (phase.demands(), next.demands());
                    if before.inbound.max(after.inbound) == Demand::Required {
                        assert_eq!(
                            before.outbound.min(after.outbound),
                            Demand::Required,
                            "{phase} → {next}"
                        );
                    }
                    phase = next;
                }
                let end = match goal {
                    Goal::Enforce => Enforcing,
                    Goal::Permit => Permissive,
                    Goal::Remove => Removing,
                };
                assert_eq!(phase, end, "{start} {goal:?}");
            }
        }
    }
}
