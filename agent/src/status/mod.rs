//! What this node tells the cluster: `IPsecNode.status`, written when it changes and not otherwise (I4).

pub(crate) mod compose;
pub(crate) mod events;
pub(crate) mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crds::{AGENT_FIELD_MANAGER, GROUP, IPsecNode, IPsecNodeStatus, VERSION};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics::Metrics;
use crate::status::compose::{StatusInputs, compose};
use crate::status::events::NodeEvents;
use crate::task::Task;

/// Counts that change all the time are written this often at most; an echo is written at once.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one write may hang.
const PATIENCE: Duration = Duration::from_secs(5);
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

impl Writer {
    /// Starts the task that writes.
    pub(crate) fn start(self) -> Task {
        Task::spawn("status", self.run())
    }

    async fn run(mut self) {
        let api: Api<IPsecNode> = Api::all(self.client.clone());
        let mut events = NodeEvents::new(self.client.clone(), &self.node);
        let mut written: Option<IPsecNodeStatus> = None;
        let mut last = Instant::now();
        while self.inputs.changed().await.is_ok() {
            let mut pause = FIRST_RETRY;
            loop {
                let Some(inputs) = self.inputs.borrow_and_update().clone() else { break };
                // An agent without an IPsecNode has nowhere to report to: the operator makes it.
                let Some(own) = inputs.snapshot.node.as_ref() else { break };
                let before = written.as_ref().or(own.status.as_deref());
                let status = compose(&inputs, before, Timestamp::now());
                if written.as_ref() == Some(&status) {
                    break;
                }
                if written.as_ref().is_some_and(|written| !is_urgent(written, &status)) && last.elapsed() < PAUSE {
                    sleep(PAUSE.saturating_sub(last.elapsed()).min(FIRST_RETRY)).await;
                    continue;
                }
                match self.write(&api, &status).await {
                    Ok(()) => {
                        last = Instant::now();
                        events.tell(own, before, &status).await;
                        written = Some(status);
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(error, "the status was not written; trying again");
                        sleep(pause).await;
                        pause = (pause * 2).min(SLOWEST_RETRY);
                    }
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
}

/// Whether somebody waits for the difference: a rollout for its echo, a person for a condition.
fn is_urgent(before: &IPsecNodeStatus, now: &IPsecNodeStatus) -> bool {
    let echoes = |status: &IPsecNodeStatus| -> Vec<_> {
        let of = |report: &ipsecmesh_crds::node::TunnelReport| {
            (report.name.clone(), report.rollout.clone(), report.programmed, report.peers)
        };
        status.tunnels.iter().map(of).collect()
    };
    let conditions = |status: &IPsecNodeStatus| -> Vec<_> {
        let of = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| (c.type_.clone(), c.status.clone());
        status.conditions.iter().map(of).collect()
    };
    echoes(before) != echoes(now) || conditions(before) != conditions(now)
}
