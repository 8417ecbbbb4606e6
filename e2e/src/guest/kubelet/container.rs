//! One container's life: start, probes, end, back-off, start again.

use std::{
    fs::{self, OpenOptions},
    io,
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container as Asked, Pod},
    jiff::Timestamp,
};
use kube::ResourceExt as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    Context, PodError,
    probe::Schedule,
    specification::{self, Place},
    status::{Ended, Observed, Step},
};
use crate::guest::{
    boot::LOGS,
    exec::{SPECIFICATIONS, exit_code},
    pods::RunningContainer,
    sandbox,
};

/// First pause of the back-off; the first restart comes at once. As with the gate ReduceDefaultCrashLoopBackOffDecay.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of the back-off.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A run this long forgets earlier failures.
const STABLE: Duration = Duration::from_mins(10);
/// Pause before what the Pod refers to is looked up again.
const CONFIG_RETRY: Duration = Duration::from_secs(2);
/// How often a starting container is looked at.
const START_POLL: Duration = Duration::from_millis(10);

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Restart {
    /// After every end.
    Always,
    /// Never.
    Never,
    /// After an end with an error.
    OnFailure,
}

/// Supervises one container.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// What all pods share.
    pub(super) context: Arc<Context>,
    /// The pod when it started.
    pub(super) pod: Arc<Pod>,
    /// Where it stands.
    pub(super) place: Arc<Place>,
    /// The container that the Pod asks for.
    pub(super) asked: Asked,
    /// When it is started again.
    pub(super) restart: Restart,
    /// What it does at present, for the pod's status.
    pub(super) observed: watch::Sender<Observed>,
    /// Set when it has to end: how long it may take.
    pub(super) stop: watch::Receiver<Option<Duration>>,
}

/// How a run came to its end.
enum Outcome {
    /// It ended by itself or failed its liveness probe.
    Ended(Ended),
    /// It was told to end.
    Stopped(Ended),
}

impl Supervisor {
    /// Until the container ended for good.
    pub(super) async fn run(mut self) {
        let mut pause = None;
        loop {
            let begun = Instant::now();
            let ended = match self.once().await {
                Outcome::Stopped(ended) => return self.finish(ended),
                Outcome::Ended(ended) => ended,
            };
            info!(pod = %self.pod.name_any(), container = %self.asked.name, code = ended.code, "container ended");
            let again = match self.restart {
                Restart::Always => true,
                Restart::Never => false,
                Restart::OnFailure => ended.code != 0,
            };
            if !again {
                return self.finish(ended);
            }
            if begun.elapsed() > STABLE {
                pause = None;
            }
            if self.back_off(pause.unwrap_or_default(), ended.clone()).await {
                return self.finish(ended);
            }
            pause = Some(pause.map_or(FIRST_PAUSE, |pause: Duration| (pause * 2).min(LONGEST_PAUSE)));
        }
    }

    fn finish(&self, ended: Ended) {
        self.observed.send_modify(|observed| {
            observed.step = Step::Ended(ended);
            observed.ready = false;
            observed.started = false;
        });
    }

    /// Waits; answers whether the container has to end meanwhile.
    async fn back_off(&mut self, pause: Duration, ended: Ended) -> bool {
        self.observed.send_modify(|observed| {
            let message = format!("back-off {} s restarting failed container", pause.as_secs());
            observed.step = Step::Waiting {
                reason: "CrashLoopBackOff",
                message: Some(message),
            };
            observed.last = Some(ended);
            observed.restarts += 1;
            observed.ready = false;
            observed.started = false;
        });
        tokio::select! {
            () = sleep(pause) => false,
            _ = asked_to_stop(&mut self.stop) => true,
        }
    }

    /// One run, from looking up what it needs to its end.
    async fn once(&mut self) -> Outcome {
        let sandbox = loop {
            let config = &self.context.node.config;
            let built =
                specification::sandbox(&self.context.client, config, &self.pod, &self.place, &self.asked);
            let error = match built.await {
                Ok(sandbox) => break sandbox,
                Err(error) => error,
            };
            let reason = if config
                .images
                .contains_key(self.asked.image.as_deref().unwrap_or_default())
            {
                "CreateContainerConfigError"
            } else {
                "ErrImagePull"
            };
            self.wait_for(reason, &error);
            tokio::select! {
                () = sleep(CONFIG_RETRY) => {}
                _ = asked_to_stop(&mut self.stop) => return Outcome::Stopped(killed(None)),
            }
        };
        if self.stop.borrow().is_some() {
            return Outcome::Stopped(killed(None));
        }
        let started = Timestamp::now();
        let (mut child, pid) = match self.start(&sandbox).await {
            Ok(started) => started,
            Err(error) => return Outcome::Ended(failed_to_start(&error)),
        };
        let id = format!(
            "uml://{}-{}-{}",
            self.pod.uid().unwrap_or_default(),
            self.asked.name,
            started.as_millisecond()
        );
        let running = RunningContainer {
            pid,
            process: sandbox.process,
        };
        let uid = self.pod.uid().unwrap_or_default();
        self.context
            .pods
            .set_container(&uid, &self.asked.name, Some(running.clone()));
        self.observed.send_modify(|observed| {
            observed.step = Step::Running {
                since: started,
                id: id.clone(),
            }
        });
        let outcome = self.attend(&mut child, running).await;
        self.context.pods.set_container(&uid, &self.asked.name, None);
        outcome.with(started, id)
    }

    fn wait_for(&self, reason: &'static str, error: &PodError) {
        let step = Step::Waiting {
            reason,
            message: Some(error.to_string()),
        };
        self.observed.send_if_modified(|observed| {
            let changed = observed.step != step;
            observed.step = step;
            changed
        });
    }

    /// Starts the sandbox and waits until the container's own process exists.
    async fn start(&self, container: &sandbox::Container) -> io::Result<(Child, i32)> {
        // INVARIANT: both are absent at the first start.
        let _ = fs::remove_file(&container.pid_file);
        let _ = fs::remove_file(&container.error_file);
        let (namespace, pod) = (self.pod.namespace().unwrap_or_default(), self.pod.name_any());
        let log = Path::new(LOGS).join(format!("{namespace}_{pod}_{}.log", self.asked.name));
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let name = format!("{}-{}", self.pod.uid().unwrap_or_default(), self.asked.name);
        let specification = sandbox::write_specification(SPECIFICATIONS.as_ref(), &name, container)?;
        let mut child = Command::new("/proc/self/exe")
            .arg(sandbox::RUN)
            .arg(specification)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        loop {
            if let Ok(pid) = fs::read_to_string(&container.pid_file) {
                let pid = pid.trim().parse().map_err(io::Error::other)?;
                return self.entered(child, pid, container).await;
            }
            if let Some(status) = child.try_wait()? {
                let error = fs::read_to_string(&container.error_file).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "exit code {}: {error}",
                    exit_code(status)
                )));
            }
            sleep(START_POLL).await;
        }
    }

    /// A root or a program that does not exist ends the process within its first moments, and says so in a file.
    async fn entered(
        &self,
        mut child: Child,
        pid: i32,
        container: &sandbox::Container,
    ) -> io::Result<(Child, i32)> {
        while !replaced(pid) {
            if let Some(status) = child.try_wait()? {
                let error = fs::read_to_string(&container.error_file).unwrap_or_default();
                if error.is_empty() {
                    // It ran and ended before it was seen running: the caller collects its exit code.
                    return Ok((child, pid));
                }
                warn!(pod = %self.pod.name_any(), container = %self.asked.name, error, "container did not start");
                return Err(io::Error::other(format!(
                    "exit code {}: {error}",
                    exit_code(status)
                )));
            }
            sleep(START_POLL).await;
        }
        Ok((child, pid))
    }

    /// Stays with a running container until it ends, one way or another.
    async fn attend(&mut self, child: &mut Child, running: RunningContainer) -> Outcome {
        let pid = Pid::from_raw(running.pid);
        let probes = Probes {
            asked: &self.asked,
            observed: &self.observed,
            address: self.place.address,
            running,
        };
        tokio::select! {
            status = child.wait() => Outcome::Ended(ended_with(status.map(exit_code))),
            reason = probes.watch() => {
                let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
                let code = end(child, pid, Duration::from_secs(u64::try_from(grace).unwrap_or(30))).await;
                Outcome::Ended(Ended { message: Some(reason), ..ended_with(code) })
            }
            grace = asked_to_stop(&mut self.stop) => {
                self.observed.send_modify(|observed| observed.ready = false);
                Outcome::Stopped(ended_with(end(child, pid, grace).await))
            }
        }
    }
}

/// The probes of one run.
struct Probes<'a> {
    asked: &'a Asked,
    observed: &'a watch::Sender<Observed>,
    address: Ipv4Addr,
    running: RunningContainer,
}

impl Probes<'_> {
    /// Keeps readiness; answers only when the container must be killed, with the reason.
    async fn watch(&self) -> String {
        if let Some(probe) = &self.asked.startup_probe {
            let schedule = Schedule::new(probe, self.asked);
            if let Err(error) = self.until_first_success(&schedule).await {
                return format!("startup probe failed: {error}");
            }
        }
        let ready_at_once = self.asked.readiness_probe.is_none();
        self.observed.send_modify(|observed| {
            observed.started = true;
            observed.ready = ready_at_once;
        });
        tokio::select! {
            error = self.liveness() => format!("liveness probe failed: {error}"),
            () = self.readiness() => std::future::pending().await,
        }
    }

    async fn until_first_success(&self, schedule: &Schedule) -> Result<(), String> {
        sleep(schedule.delay).await;
        let mut failures = 0;
        loop {
            match schedule.attempt(self.address, &self.running).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    failures += 1;
                    if failures >= schedule.failures {
                        return Err(error);
                    }
                }
            }
            sleep(schedule.period).await;
        }
    }

    async fn liveness(&self) -> String {
        let Some(probe) = &self.asked.liveness_probe else {
            return std::future::pending().await;
        };
        let schedule = Schedule::new(probe, self.asked);
        sleep(schedule.delay).await;
        let mut failures = 0;
        loop {
            match schedule.attempt(self.address, &self.running).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures >= schedule.failures {
                        return error;
                    }
                }
            }
            sleep(schedule.period).await;
        }
    }

    async fn readiness(&self) {
        let Some(probe) = &self.asked.readiness_probe else {
            return std::future::pending().await;
        };
        let schedule = Schedule::new(probe, self.asked);
        sleep(schedule.delay).await;
        let (mut successes, mut failures) = (0, 0);
        loop {
            (successes, failures) = if schedule.attempt(self.address, &self.running).await.is_ok() {
                (successes + 1, 0)
            } else {
                (0, failures + 1)
            };
            let (up, down) = (successes >= schedule.successes, failures >= schedule.failures);
            self.observed.send_if_modified(|observed| {
                let before = observed.ready;
                observed.ready = up || (before && !down);
                observed.ready != before
            });
            // A container that is not ready yet is asked more often, so that a roll-out does not wait for a period.
            let ready = self.observed.borrow().ready;
            sleep(if ready {
                schedule.period
            } else {
                schedule.period.min(Duration::from_secs(1))
            })
            .await;
        }
    }
}

impl Outcome {
    fn with(self, started: Timestamp, id: String) -> Self {
        let filled = |ended: Ended| Ended {
            started: Some(started),
            id: Some(id),
            ..ended
        };
        match self {
            Self::Ended(ended) => Self::Ended(filled(ended)),
            Self::Stopped(ended) => Self::Stopped(filled(ended)),
        }
    }
}

/// SIGTERM, and SIGKILL after the grace.
async fn end(child: &mut Child, pid: Pid, grace: Duration) -> io::Result<i32> {
    // INVARIANT: a process that is gone already needs no signal.
    let _ = kill(pid, Signal::SIGTERM);
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status.map(exit_code);
    }
    let _ = kill(pid, Signal::SIGKILL);
    child.wait().await.map(exit_code)
}

async fn asked_to_stop(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    // INVARIANT: a pod that is gone without a word left its containers nothing to live for.
    stop.wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|grace| *grace)
        .unwrap_or_default()
}

/// Whether the sandbox's process has become the container's program.
fn replaced(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| {
        !words.is_empty()
            && !words
                .split(|byte| *byte == 0)
                .any(|word| word == sandbox::RUN.as_bytes())
    })
}

fn ended_with(code: io::Result<i32>) -> Ended {
    let (code, message) = match code {
        Ok(code) => (code, None),
        Err(error) => (255, Some(error.to_string())),
    };
    let reason = if code == 0 { "Completed" } else { "Error" };
    Ended {
        code,
        reason,
        message,
        started: None,
        finished: Timestamp::now(),
        id: None,
    }
}

fn killed(message: Option<String>) -> Ended {
    Ended {
        message,
        ..ended_with(Ok(137))
    }
}

fn failed_to_start(error: &io::Error) -> Ended {
    Ended {
        reason: "StartError",
        message: Some(error.to_string()),
        ..ended_with(Ok(128))
    }
}
