//! Pod status from what the containers do: pure, so that phases and conditions can be read in one place.

use std::net::Ipv4Addr;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

/// What one container does at present.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observed {
    /// Its life's present step.
    pub(super) step: Step,
    /// Its previous end, if it ran before.
    pub(super) last: Option<Ended>,
    /// How often it was started again.
    pub(super) restarts: i32,
    /// Whether its startup probe passed.
    pub(super) started: bool,
    /// Whether its readiness probe passes.
    pub(super) ready: bool,
}

/// A step of a container's life.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Not running: why, and what would help.
    Waiting {
        /// CamelCase word.
        reason: &'static str,
        /// For people.
        message: Option<String>,
    },
    /// Running since then.
    Running {
        /// Start of this run.
        since: Timestamp,
        /// Identity of this run.
        id: String,
    },
    /// Ended for good.
    Ended(Ended),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    /// Exit code; 128 + signal if a signal ended it.
    pub(super) code: i32,
    /// Why, beyond the code.
    pub(super) reason: &'static str,
    /// What was said about it.
    pub(super) message: Option<String>,
    /// Start of the run.
    pub(super) started: Option<Timestamp>,
    /// End of the run.
    pub(super) finished: Timestamp,
    /// Identity of the run.
    pub(super) id: Option<String>,
}

impl Observed {
    /// Before the first start.
    pub(super) fn creating(restarts: i32) -> Self {
        let step = Step::Waiting {
            reason: "ContainerCreating",
            message: None,
        };
        Self {
            step,
            last: None,
            restarts,
            started: false,
            ready: false,
        }
    }

    /// Ended without an error.
    pub(super) fn succeeded(&self) -> bool {
        matches!(&self.step, Step::Ended(ended) if ended.code == 0)
    }

    /// Ended for good.
    pub(super) fn ended(&self) -> bool {
        matches!(self.step, Step::Ended(_))
    }
}

/// The parts that a status is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The pod as the API server has it.
    pub(super) pod: &'a Pod,
    /// Init containers in order.
    pub(super) init: &'a [Observed],
    /// Containers in order.
    pub(super) main: &'a [Observed],
    /// The pod's address.
    pub(super) address: Option<Ipv4Addr>,
    /// The node's address.
    pub(super) host: Ipv4Addr,
    /// When the kubelet took the pod on.
    pub(super) start: Timestamp,
    /// Whether network and volumes stand.
    pub(super) sandbox: bool,
    /// The moment of this status, for conditions that change.
    pub(super) now: Timestamp,
}

/// The status to publish.
pub(super) fn pod_status(facts: &Facts<'_>) -> PodStatus {
    let spec = facts.pod.spec.as_ref();
    let init = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let main = spec.map_or(&[][..], |spec| &spec.containers);
    let phase = phase(facts, init);
    let address = facts.address.map(|address| address.to_string());
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(facts, init, phase)),
        container_statuses: Some(container_statuses(main, facts.main)),
        init_container_statuses: (!init.is_empty()).then(|| container_statuses(init, facts.init)),
        host_ip: Some(facts.host.to_string()),
        host_ips: Some(vec![HostIP {
            ip: facts.host.to_string(),
        }]),
        pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: address,
        start_time: Some(Time(facts.start)),
        observed_generation: facts.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// An init container with `restartPolicy: Always` stays beside the containers.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn phase(facts: &Facts<'_>, init: &[Container]) -> &'static str {
    if facts
        .init
        .iter()
        .zip(init)
        .any(|(seen, spec)| !is_sidecar(spec) && seen.ended() && !seen.succeeded())
    {
        return "Failed";
    }
    if !facts.main.is_empty() && facts.main.iter().all(Observed::ended) {
        return if facts.main.iter().all(Observed::succeeded) {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let ran =
        |seen: &Observed| matches!(seen.step, Step::Running { .. } | Step::Ended(_)) || seen.last.is_some();
    if initialized(facts, init) && facts.main.iter().any(ran) {
        "Running"
    } else {
        "Pending"
    }
}

fn initialized(facts: &Facts<'_>, init: &[Container]) -> bool {
    facts.init.iter().zip(init).all(|(seen, spec)| {
        if is_sidecar(spec) {
            seen.started
        } else {
            seen.succeeded()
        }
    })
}

fn conditions(facts: &Facts<'_>, init: &[Container], phase: &str) -> Vec<PodCondition> {
    let over = matches!(phase, "Succeeded" | "Failed");
    let sidecars_ready = facts
        .init
        .iter()
        .zip(init)
        .all(|(seen, spec)| !is_sidecar(spec) || seen.ready);
    let ready = !over && sidecars_ready && !facts.main.is_empty() && facts.main.iter().all(|seen| seen.ready);
    let reason = match (over, ready) {
        (_, true) => None,
        (true, false) => Some("PodCompleted"),
        (false, false) => Some("ContainersNotReady"),
    };
    let uninitialized = (!initialized(facts, init)).then_some("ContainersNotInitialized");
    [
        ("PodReadyToStartContainers", facts.sandbox && !over, None),
        ("Initialized", initialized(facts, init), uninitialized),
        ("ContainersReady", ready, reason),
        ("Ready", ready, reason),
    ]
    .into_iter()
    .map(|(kind, holds, reason)| condition(facts, kind, holds, reason))
    .collect()
}

/// A condition keeps its transition time while its status stays.
fn condition(facts: &Facts<'_>, kind: &str, holds: bool, reason: Option<&str>) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let before = facts
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let same = before.and_then(|list| list.iter().find(|old| old.type_ == kind && old.status == status));
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.map(Into::into),
        last_transition_time: same
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(Time(facts.now))),
        observed_generation: facts.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn container_statuses(specs: &[Container], seen: &[Observed]) -> Vec<ContainerStatus> {
    specs
        .iter()
        .zip(seen)
        .map(|(spec, seen)| container_status(spec, seen))
        .collect()
}

fn container_status(spec: &Container, seen: &Observed) -> ContainerStatus {
    let image = spec.image.clone().unwrap_or_default();
    let id = match &seen.step {
        Step::Running { id, .. } => Some(id.clone()),
        Step::Ended(ended) => ended.id.clone(),
        Step::Waiting { .. } => seen.last.as_ref().and_then(|last| last.id.clone()),
    };
    ContainerStatus {
        name: spec.name.clone(),
        image_id: image.clone(),
        image,
        container_id: id,
        ready: seen.ready || (seen.succeeded() && !is_sidecar(spec)),
        started: Some(seen.started),
        restart_count: seen.restarts,
        state: Some(container_state(&seen.step)),
        last_state: seen.last.as_ref().map(|last| ContainerState {
            terminated: Some(terminated(last)),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

fn container_state(step: &Step) -> ContainerState {
    match step {
        Step::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).into()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        Step::Running { since, .. } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        Step::Ended(ended) => ContainerState {
            terminated: Some(terminated(ended)),
            ..ContainerState::default()
        },
    }
}

fn terminated(ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: ended.code,
        reason: Some(ended.reason.into()),
        message: ended.message.clone(),
        started_at: ended.started.map(Time),
        finished_at: Some(Time(ended.finished)),
        container_id: ended.id.clone(),
        signal: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn ended(code: i32) -> Observed {
        let ended = Ended {
            code,
            reason: "Completed",
            message: None,
            started: None,
            finished: Timestamp::UNIX_EPOCH,
            id: None,
        };
        Observed {
            step: Step::Ended(ended),
            ..Observed::creating(0)
        }
    }

    fn running(ready: bool) -> Observed {
        let step = Step::Running {
            since: Timestamp::UNIX_EPOCH,
            id: "uml://1".into(),
        };
        Observed {
            step,
            started: true,
            ready,
            ..Observed::creating(0)
        }
    }

    fn status(init: &[Observed], main: &[Observed]) -> PodStatus {
        let named = |count: usize| vec![Container::default(); count];
        let spec = PodSpec {
            init_containers: Some(named(init.len())),
            containers: named(main.len()),
            ..PodSpec::default()
        };
        let pod = Pod {
            spec: Some(spec),
            ..Pod::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let host = Ipv4Addr::LOCALHOST;
        pod_status(&Facts {
            pod: &pod,
            init,
            main,
            address: None,
            host,
            start: now,
            sandbox: true,
            now,
        })
    }

    fn ready(status: &PodStatus) -> bool {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    #[test]
    fn phases_follow_the_containers() {
        let cases = [
            (
                vec![Observed::creating(0)],
                vec![Observed::creating(0)],
                "Pending",
            ),
            (vec![ended(1)], vec![Observed::creating(0)], "Failed"),
            (vec![ended(0)], vec![running(false)], "Running"),
            (vec![], vec![ended(0), running(true)], "Running"),
            (vec![], vec![ended(0), ended(0)], "Succeeded"),
            (vec![], vec![ended(0), ended(137)], "Failed"),
        ];
        for (init, main, expected) in cases {
            assert_eq!(status(&init, &main).phase.as_deref(), Some(expected));
        }
    }

    #[test]
    fn ready_means_every_container() {
        assert!(ready(&status(&[], &[running(true)])));
        assert!(!ready(&status(&[], &[running(true), running(false)])));
        assert!(!ready(&status(&[], &[ended(0)])));
    }
}
