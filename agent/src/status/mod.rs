//! What this node tells the cluster: `IPsecNode.status`, written when it changes and not otherwise (I4).

pub(crate) mod compose;
pub(crate) mod events;
pub(crate) mod local;
mod pace;
pub(crate) mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crds::{AGENT_FIELD_MANAGER, GROUP, IPsecNode, IPsecNodeStatus, VERSION};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::Metrics;
use crate::model::OwnNode;
use crate::status::compose::{StatusInputs, compose};
use crate::status::events::NodeEvents;
use crate::status::pace::Pace;
use crate::task::Task;

/// How long one write may hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may gather what it knows before it says something.
const GATHERING: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const SLOWEST_RETRY: Duration = Duration::from_secs(10);

/// What the writer works with.
pub(crate) struct Writer {
    /// The API server.
    pub(crate) client: Client,
    /// Name of the Node, and of its `IPsecNode`.
    pub(crate) node: String,
    /// The present state of everything; `None` before there is any.
    pub(crate) inputs: watch::Receiver<Option<Arc<StatusInputs>>>,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

/// What was said last, and about which object.
#[derive(Clone, Debug)]
struct Said {
    object: String,
    status: Option<IPsecNodeStatus>,
    /// When it was written; `None` for what an earlier run said.
    at: Option<Instant>,
}

impl Said {
    /// What an earlier run has said about `own`.
    fn before(own: &OwnNode) -> Self {
        Self {
            object: own.object_uid.clone(),
            status: own.status.as_deref().cloned(),
            at: None,
        }
    }
}

impl Writer {
    /// Starts the task that writes.
    pub(crate) fn start(self) -> Task {
        Task::spawn("status", self.run())
    }

    async fn run(mut self) {
        let api: Api<IPsecNode> = Api::all(self.client.clone());
        let events = NodeEvents::new(self.client.clone(), &self.node);
        let started = Instant::now();
        let mut said: Option<Said> = None;
        // When to look again although nothing changes.
        let mut again: Option<Instant> = None;
        let mut pause = FIRST_RETRY;
        loop {
            let changed = match again.take() {
                Some(at) => timeout_at(at, self.inputs.changed()).await.unwrap_or(Ok(())),
                None => self.inputs.changed().await,
            };
            if changed.is_err() {
                return;
            }
            let Some(inputs) = self.inputs.borrow_and_update().clone() else {
                continue;
            };
            // An agent without an IPsecNode has nowhere to report to: the operator makes it.
            let Some(own) = inputs.snapshot.node.as_ref() else {
                continue;
            };
            if inputs.starting() && said.is_none() && started.elapsed() < GATHERING {
                again = Some(started + GATHERING);
                continue;
            }
            let last = said
                .take()
                .filter(|said| said.object == own.object_uid)
                .unwrap_or_else(|| Said::before(own));
            let status = compose(&inputs, last.status.as_ref(), Timestamp::now());
            self.count(last.status.as_ref(), &status);
            let due = Pace::between(last.status.as_ref(), &status).due(last.at, started);
            if due.is_none_or(|due| due > Instant::now()) {
                again = due;
                said = Some(last);
                continue;
            }
            match self.write(&api, &status).await {
                Ok(()) => {
                    pause = FIRST_RETRY;
                    events.tell(own, &inputs.snapshot.tunnels, last.status.as_ref(), &status);
                    said = Some(Said {
                        object: last.object,
                        status: Some(status),
                        at: Some(Instant::now()),
                    });
                }
                Err(error) => {
                    tracing::warn!(error, "the status was not written; trying again");
                    said = Some(last);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(SLOWEST_RETRY);
                    again = Some(Instant::now());
                }
            }
        }
    }

    async fn write(&self, api: &Api<IPsecNode>, status: &IPsecNodeStatus) -> Result<(), String> {
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "IPsecNode",
            "metadata": {"name": self.node},
            "status": status,
        });
        let parameters = PatchParams::apply(AGENT_FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        let written = api.patch_status(&self.node, &parameters, &patch);
        match timeout(PATIENCE, written).await {
            Ok(Ok(_)) => {
                self.metrics.status_written();
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// The figures of the tunnels.
    fn count(&self, before: Option<&IPsecNodeStatus>, now: &IPsecNodeStatus) {
        for report in &now.tunnels {
            self.metrics.tunnel(&report.name, report.programmed, report.peers);
        }
        for gone in before.into_iter().flat_map(|status| &status.tunnels) {
            if !now.tunnels.iter().any(|report| report.name == gone.name) {
                self.metrics.forget_tunnel(&gone.name);
            }
        }
    }
}
