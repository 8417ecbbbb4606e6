//! What a tunnel's conditions say: pure, from findings about the spec and from what the nodes report.

use ipsecmesh_crds::{Phase, condition::ConditionType};

use crate::plan::echo::{Failure, names};
use crate::plan::overlap::Overlap;
use crate::plan::rollout::Goal;
use crate::status::{Truth, Verdict};

/// More failing pairs than this share of the ready nodes make a tunnel not Ready.
const FAILING_PERCENT: usize = 10;

/// Something that keeps a tunnel from working: a reason in CamelCase, and a message that names the fix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    /// The condition's reason.
    pub(crate) reason: String,
    /// For a person.
    pub(crate) message: String,
}

impl Problem {
    /// A problem.
    pub(crate) fn new(reason: &str, message: String) -> Self {
        Self {
            reason: reason.to_owned(),
            message,
        }
    }
}

/// What is known about the spec itself and what it refers to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// Why the spec is not accepted.
    pub(crate) accepted: Option<Problem>,
    /// Which reference does not resolve.
    pub(crate) refs: Option<Problem>,
    /// Why nothing can be programmed although the spec is fine.
    pub(crate) programmed: Option<Problem>,
    /// Why nodes' reports are not trusted.
    pub(crate) distrust: Option<Problem>,
}

/// Where a tunnel stands.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct Standing {
    /// Nothing was ever written about the tunnel.
    pub(crate) first: bool,
    /// The far side is an external peer.
    pub(crate) external: bool,
    /// How many nodes prove themselves by one pre-shared key.
    pub(crate) psk_holders: usize,
    /// `suspend: true`
    pub(crate) suspended: bool,
    /// Where it goes.
    pub(crate) goal: Goal,
    /// Its phase.
    pub(crate) phase: Option<Phase>,
    /// Whether single members or entries are still on their way.
    pub(crate) in_transition: bool,
    /// Whether the rollout waits for longer than it should.
    pub(crate) blocked: bool,
    /// Ready nodes that are selected, and of them those that have programmed everything.
    pub(crate) ready: usize,
    /// See `ready`.
    pub(crate) programmed: usize,
    /// Nodes whose agents cannot work: (node, problem).
    pub(crate) agents: Vec<(String, Problem)>,
    /// Nodes that have not taken over what is published.
    pub(crate) behind: Vec<String>,
    /// Pairs of Ready nodes without an SA: (node, failure).
    pub(crate) failing: Vec<(String, Failure)>,
    /// What tunnels of higher rank have of it.
    pub(crate) overlap: Overlap,
}

/// The conditions of a tunnel.
pub(crate) fn conditions(findings: &Findings, standing: &Standing) -> Vec<Verdict> {
    let accepted = from_problem(ConditionType::Accepted, findings.accepted.as_ref());
    let refs = from_problem(ConditionType::ResolvedRefs, findings.refs.as_ref());
    let programmed = programmed(findings, standing);
    let enforced = enforced(findings, standing);
    let failing = failing(standing);
    let (ready, stalled) = ready(
        findings,
        standing,
        &[&accepted, &refs, &programmed],
        &enforced,
        failing.as_ref(),
    );
    let mut verdicts = vec![accepted, refs, programmed, enforced, ready.clone()];
    if let Some(problem) = degraded(standing, failing.as_ref()) {
        verdicts.push(Verdict::new(
            ConditionType::Degraded,
            Truth::True,
            &problem.reason,
            problem.message,
        ));
    }
    if stalled {
        verdicts.push(Verdict::new(
            ConditionType::Stalled,
            Truth::True,
            &ready.reason,
            ready.message,
        ));
    } else if ready.truth != Truth::True {
        verdicts.push(Verdict::new(
            ConditionType::Reconciling,
            Truth::True,
            &ready.reason,
            ready.message,
        ));
    }
    verdicts
}

/// What works less well than it should.
fn degraded(standing: &Standing, failing: Option<&Problem>) -> Option<Problem> {
    if let Some(problem) = failing {
        return Some(Problem::new("PeersFailing", problem.message.clone()));
    }
    (standing.psk_holders > 1).then(|| {
        let message = format!(
            "{} nodes share one pre-shared key, so that each of them can pose as another one to the peer; use certificates, or a \
             tunnel and a Secret for each node",
            standing.psk_holders
        );
        Problem::new("SharedPSK", message)
    })
}

/// The first failing pair with what to do about it, and how many more there are.
fn failing(standing: &Standing) -> Option<Problem> {
    let (node, first) = standing.failing.first()?;
    let mut message = format!("{node} → {}: {}: {}", first.peer, first.reason, first.message);
    if standing.failing.len() > 1 {
        message = format!("{message} (and {} more pairs)", standing.failing.len() - 1);
    }
    let advice = match (first.reason.as_str(), standing.external) {
        ("AuthenticationFailed", false) => {
            "; compare the certificates of both nodes: kubectl describe ipsecnode"
        }
        ("AuthenticationFailed", true) => {
            "; compare identities and pre-shared key or certificates with those that the peer has for this node"
        }
        ("PeerUnreachable", false) => "; open UDP 500 and 4500 and IP protocol 50 between the nodes",
        ("PeerUnreachable", true) => {
            "; open UDP 500 and 4500 and IP protocol 50 between the node and the peer, and see that the peer runs"
        }
        _ => "",
    };
    message.push_str(advice);
    Some(Problem::new(&first.reason, message))
}

fn from_problem(type_: ConditionType, problem: Option<&Problem>) -> Verdict {
    match problem {
        None => Verdict::new(type_, Truth::True, type_.as_str(), String::new()),
        Some(problem) => Verdict::new(type_, Truth::False, &problem.reason, problem.message.clone()),
    }
}

fn programmed(findings: &Findings, standing: &Standing) -> Verdict {
    if let Some(problem) = &findings.programmed {
        return from_problem(ConditionType::Programmed, Some(problem));
    }
    if let Some(problem) = overridden(standing) {
        return from_problem(ConditionType::Programmed, Some(&problem));
    }
    if let Some((_, first)) = standing.agents.first() {
        let more = standing.agents.len() - 1;
        let mut message = first.message.clone();
        if more > 0 {
            let others: Vec<String> = standing
                .agents
                .iter()
                .skip(1)
                .map(|(node, _)| node.clone())
                .collect();
            message = format!("{message}; also {}", names(&others));
        }
        return Verdict::new(ConditionType::Programmed, Truth::False, &first.reason, message);
    }
    if standing.programmed < standing.ready {
        let message = format!(
            "{}/{} ready nodes follow; waiting for {}",
            standing.programmed,
            standing.ready,
            names(&standing.behind)
        );
        return Verdict::new(ConditionType::Programmed, Truth::False, "Reconciling", message);
    }
    let (reason, more) = match &standing.overlap {
        Overlap::Part(winners) => {
            let winners: Vec<String> = winners.iter().cloned().collect();
            let message = format!(
                "; traffic that IPsecTunnel {} selects too follows that one",
                names(&winners)
            );
            ("PartiallyProgrammed", message)
        }
        Overlap::Nothing | Overlap::All(_) => ("Programmed", String::new()),
    };
    let message = format!("{} ready nodes follow{more}", standing.ready);
    Verdict::new(ConditionType::Programmed, Truth::True, reason, message)
}

/// Whether tunnels of higher rank have all that this one selects.
fn overridden(standing: &Standing) -> Option<Problem> {
    let Overlap::All(winners) = &standing.overlap else {
        return None;
    };
    let winners: Vec<String> = winners.iter().cloned().collect();
    let message = format!(
        "all traffic that this tunnel selects follows IPsecTunnel {}: raise spec.priority above theirs, let them select less, or delete this one",
        names(&winners)
    );
    Some(Problem::new("Overridden", message))
}

fn enforced(findings: &Findings, standing: &Standing) -> Verdict {
    let no =
        |reason: &str, message: String| Verdict::new(ConditionType::Enforced, Truth::False, reason, message);
    if standing.goal == Goal::Remove {
        return no(
            "Draining",
            format!(
                "traffic goes back to cleartext in order; phase {}",
                word(standing.phase)
            ),
        );
    }
    if standing.suspended {
        return no(
            "Suspended",
            "spec.suspend is true: nothing is changed, the nodes stay as they are".to_owned(),
        );
    }
    if let Some(problem) = overridden(standing) {
        return no(&problem.reason, problem.message);
    }
    let everywhere = standing.behind.is_empty();
    if everywhere && standing.phase == Some(Phase::Enforcing) && standing.goal == Goal::Enforce {
        return Verdict::new(ConditionType::Enforced, Truth::True, "Enforcing", String::new());
    }
    if standing.goal == Goal::Permit && standing.phase == Some(Phase::Permissive) {
        return no(
            "PermissivePolicy",
            "spec.failurePolicy is Allow: cleartext passes where there is no SA".to_owned(),
        );
    }
    if let Some(problem) = &findings.distrust {
        return no("RolloutBlocked", problem.message.clone());
    }
    let (reason, message) = waiting(standing);
    no(reason, message)
}

/// Why a rollout has not come to its end yet.
fn waiting(standing: &Standing) -> (&'static str, String) {
    let reason = if standing.blocked {
        "RolloutBlocked"
    } else {
        "RolloutPending"
    };
    let phase = word(standing.phase);
    let mut causes: Vec<String> = standing
        .agents
        .iter()
        .take(3)
        .map(|(_, problem)| problem.message.clone())
        .collect();
    causes.extend(failing(standing).map(|problem| problem.message));
    if !standing.behind.is_empty() {
        causes.push(format!("waiting for {}", names(&standing.behind)));
    }
    if standing.blocked && causes.len() == usize::from(!standing.behind.is_empty()) {
        causes.push("look at the log of their agents".to_owned());
    }
    let message = if causes.is_empty() {
        format!("phase {phase}")
    } else {
        format!("phase {phase}: {}", causes.join("; "))
    };
    (reason, message)
}

/// The summary, and whether only a person can get it further.
fn ready(
    findings: &Findings,
    standing: &Standing,
    before: &[&Verdict],
    enforced: &Verdict,
    failing: Option<&Problem>,
) -> (Verdict, bool) {
    let stalled = findings.accepted.is_some() || findings.refs.is_some() || standing.blocked;
    let stalled = stalled || overridden(standing).is_some();
    let stalled = stalled
        || findings
            .programmed
            .as_ref()
            .is_some_and(|problem| problem.reason != "AgentsNotReady");
    if let Some(problem) = before
        .iter()
        .find(|verdict| verdict.truth == Truth::False && is_the_spec(findings, verdict))
    {
        return (
            Verdict::new(
                ConditionType::Ready,
                Truth::False,
                &problem.reason,
                problem.message.clone(),
            ),
            stalled,
        );
    }
    if standing.first {
        return (
            Verdict::new(
                ConditionType::Ready,
                Truth::Unknown,
                "Reconciling",
                "the nodes are being told".to_owned(),
            ),
            false,
        );
    }
    // A failing pair explains more than the nodes that wait for it.
    if let Some(problem) = failing.filter(|_| too_many_fail(standing)) {
        return (
            Verdict::new(
                ConditionType::Ready,
                Truth::False,
                &problem.reason,
                problem.message.clone(),
            ),
            stalled,
        );
    }
    let open = before
        .iter()
        .copied()
        .chain((!is_enforced_enough(standing)).then_some(enforced));
    for verdict in open {
        if verdict.truth == Truth::False {
            return (
                Verdict::new(
                    ConditionType::Ready,
                    Truth::False,
                    &verdict.reason,
                    verdict.message.clone(),
                ),
                stalled,
            );
        }
    }
    if standing.in_transition {
        let (reason, message) = waiting(standing);
        return (
            Verdict::new(ConditionType::Ready, Truth::False, reason, message),
            stalled,
        );
    }
    (
        Verdict::new(
            ConditionType::Ready,
            Truth::True,
            "Ready",
            format!("{} nodes", standing.ready),
        ),
        false,
    )
}

fn is_the_spec(findings: &Findings, verdict: &Verdict) -> bool {
    let problems = [&findings.accepted, &findings.refs, &findings.programmed];
    problems
        .into_iter()
        .flatten()
        .any(|problem| problem.reason == verdict.reason)
}

fn is_enforced_enough(standing: &Standing) -> bool {
    !standing.suspended && standing.goal == Goal::Permit && standing.phase == Some(Phase::Permissive)
}

/// One dead pair must not fail a large mesh.
fn too_many_fail(standing: &Standing) -> bool {
    let mut affected: Vec<&str> = standing.failing.iter().map(|(node, _)| node.as_str()).collect();
    affected.sort_unstable();
    affected.dedup();
    affected.len() * 100 > standing.ready * FAILING_PERCENT
}

fn word(phase: Option<Phase>) -> &'static str {
    phase.map_or("not started", Phase::as_str)
}

#[cfg(test)]
mod tests;
