//! How soon a change of the status is written: an echo at once, what a person waits for within a second, mere figures
//! the later the larger the mesh is.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use ipsecmesh_crds::IPsecNodeStatus;
use ipsecmesh_crds::phase::Phase;
use tokio::time::Instant;

/// Between two writes that nobody's rollout waits for.
const PROMPT: Duration = Duration::from_secs(1);
/// What each peer adds to the wait for mere figures.
const PER_PEER: Duration = Duration::from_millis(10);
const SLOWEST: Duration = Duration::from_secs(30);
/// How long the SAs of a restarted agent may take.
const RETURNING: Duration = Duration::from_secs(10);

/// How soon a difference is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// There is none.
    Never,
    /// Figures and wording, in a mesh of this many peers.
    Figures(u32),
    /// A failure, a certificate, a device: somebody may look.
    Prompt,
    /// An echo, or whether the node is ready: a rollout waits.
    Now,
}

impl Pace {
    /// What the difference of two statuses asks for.
    pub(super) fn between(before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) -> Self {
        let Some(before) = before else { return Self::Now };
        if before == now {
            Self::Never
        } else if echoes(before) != echoes(now) || truths(before) != truths(now) {
            Self::Now
        } else if differs_visibly(before, now) || moves(now) {
            Self::Prompt
        } else {
            Self::Figures(
                now.tunnels
                    .iter()
                    .map(|report| report.peers.desired)
                    .fold(0, u32::saturating_add),
            )
        }
    }

    /// When it may be written, by the last write of this run and its start; `None` when there is nothing to write.
    pub(super) fn due(self, last: Option<Instant>, started: Instant) -> Option<Instant> {
        let since = last.unwrap_or(started);
        let wait = match self {
            Self::Never => return None,
            Self::Now => Duration::ZERO,
            Self::Prompt => PROMPT,
            // What an earlier run has counted is true again as soon as the SAs are back.
            Self::Figures(_) if last.is_none() => RETURNING,
            // All nodes of a mesh see the same change: the draw spreads their writes.
            Self::Figures(peers) => PROMPT + (PER_PEER * peers).min(SLOWEST).mul_f64(draw(since)),
        };
        Some(since + wait)
    }
}

/// Between 0.5 and 1.5, the same for one write: looking again does not draw again.
fn draw(last: Instant) -> f64 {
    thread_local! {
        static RANDOM: RandomState = RandomState::new();
    }
    let number = RANDOM.with(|random| random.hash_one(last)) % 1024;
    0.5 + f64::from(u32::try_from(number).unwrap_or_default()) / 1024.0
}

type Echo<'a> = (&'a str, i64, Phase, Option<&'a str>, bool);

fn echoes(status: &IPsecNodeStatus) -> Vec<Echo<'_>> {
    let of = |report: &'_ ipsecmesh_crds::node::TunnelReport| {
        (report.rollout.generation, report.rollout.phase, report.programmed)
    };
    status
        .tunnels
        .iter()
        .map(|report| {
            let (generation, phase, programmed) = of(report);
            (
                report.name.as_str(),
                generation,
                phase,
                report.rollout.transition.as_deref(),
                programmed,
            )
        })
        .collect()
}

fn truths(status: &IPsecNodeStatus) -> Vec<(&str, &str)> {
    status
        .conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect()
}

/// A rollout that has not come to its end counts SAs.
fn moves(status: &IPsecNodeStatus) -> bool {
    status
        .tunnels
        .iter()
        .any(|report| report.rollout.phase != Phase::Enforcing)
}

fn differs_visibly(before: &IPsecNodeStatus, now: &IPsecNodeStatus) -> bool {
    let failures = |status: &IPsecNodeStatus| -> Vec<(String, String, String)> {
        let of = |failure: &ipsecmesh_crds::node::Failure| {
            (
                failure.tunnel.clone(),
                failure.peer.clone(),
                failure.reason.clone(),
            )
        };
        status.failures.iter().map(of).collect()
    };
    let reasons = |status: &IPsecNodeStatus| -> Vec<String> {
        status
            .conditions
            .iter()
            .map(|condition| condition.reason.clone())
            .collect()
    };
    let rest = |status: &IPsecNodeStatus| IPsecNodeStatus {
        tunnels: Vec::new(),
        failures: Vec::new(),
        conditions: Vec::new(),
        summary: None,
        ..status.clone()
    };
    failures(before) != failures(now) || reasons(before) != reasons(now) || rest(before) != rest(now)
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::node::{Failure, PeerCounts, RolloutEcho, TunnelReport};

    use super::*;

    fn status(phase: Phase, established: u32) -> IPsecNodeStatus {
        IPsecNodeStatus {
            tunnels: vec![TunnelReport {
                name: "mesh".to_owned(),
                rollout: RolloutEcho {
                    generation: 1,
                    phase,
                    transition: None,
                },
                programmed: true,
                peers: PeerCounts {
                    desired: 5000,
                    established,
                    idle: 0,
                    failed: 0,
                },
            }],
            ..IPsecNodeStatus::default()
        }
    }

    #[test]
    fn echoes_go_at_once_and_figures_take_their_time() {
        let enforcing = status(Phase::Enforcing, 7);
        let failing = IPsecNodeStatus {
            failures: vec![Failure {
                reason: "PeerUnreachable".to_owned(),
                ..Failure::default()
            }],
            ..enforcing.clone()
        };
        let reworded = IPsecNodeStatus {
            failures: vec![Failure {
                message: "again".to_owned(),
                ..failing.failures[0].clone()
            }],
            ..failing.clone()
        };
        let cases = [
            ("the first report", None, enforcing.clone(), Pace::Now),
            ("nothing", Some(&enforcing), enforcing.clone(), Pace::Never),
            (
                "another phase",
                Some(&enforcing),
                status(Phase::Draining, 7),
                Pace::Now,
            ),
            (
                "figures",
                Some(&enforcing),
                status(Phase::Enforcing, 8),
                Pace::Figures(5000),
            ),
            ("a failure", Some(&enforcing), failing.clone(), Pace::Prompt),
            ("its wording", Some(&failing), reworded, Pace::Figures(5000)),
        ];
        for (name, before, now, pace) in cases {
            assert_eq!(Pace::between(before, &now), pace, "{name}");
        }
        let encrypting = status(Phase::Encrypting, 7);
        assert_eq!(
            Pace::between(Some(&encrypting), &status(Phase::Encrypting, 8)),
            Pace::Prompt
        );
    }

    #[test]
    fn the_wait_grows_with_the_mesh_and_differs() {
        let start = Instant::now();
        let wait = |pace: Pace, at: Instant| pace.due(Some(at), start).expect("due").duration_since(at);
        assert_eq!(wait(Pace::Now, start), Duration::ZERO);
        assert_eq!(wait(Pace::Prompt, start), PROMPT);
        assert!(wait(Pace::Figures(2), start) < Duration::from_millis(1100));
        let large: Vec<Duration> = (0..50)
            .map(|n| wait(Pace::Figures(5000), start + Duration::from_secs(n)))
            .collect();
        assert!(
            large
                .iter()
                .all(|wait| *wait >= Duration::from_secs(16) && *wait <= Duration::from_secs(46))
        );
        assert!(large.iter().any(|wait| *wait != large[0]));
        assert_eq!(
            Pace::Figures(5000).due(Some(start), start),
            Pace::Figures(5000).due(Some(start), start)
        );
        assert_eq!(Pace::Never.due(None, start), None);
        assert_eq!(Pace::Figures(2).due(None, start), Some(start + RETURNING));
        assert_eq!(Pace::Now.due(None, start), Some(start));
    }
}
