//! The kubelet: watches the pods that are bound to this node and runs them, with the node's own identity.
//!
//! It is small but no mock: containers are processes with namespaces, capabilities and read-only roots as the Pod
//! asks for them, tokens come from real TokenRequests bound to the Pod, and probes decide readiness.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config, ResourceExt as _,
    config::AuthInfo,
    runtime::watcher::{self, Event},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::warn;

use super::{
    node::{Node, NodeError},
    pod_network::PodNetwork,
    pods::Pods,
};
use crate::protocol::NodeConfig;

mod container;
mod pod;
mod probe;
mod register;
mod specification;
mod status;
mod values;
mod volumes;

/// Pause after the API server refused or dropped a watch.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the pods of one node.
#[derive(Debug)]
pub(super) struct Kubelet {
    context: Arc<Context>,
}

/// What all pods share.
pub(super) struct Context {
    node: Arc<Node>,
    client: Client,
    network: PodNetwork,
    pods: Pods,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("node", &self.node.config.name)
            .finish_non_exhaustive()
    }
}

/// Why a pod or a container cannot go on at present.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    /// The API server refused or did not answer.
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
    /// What the Pod asks for does not exist or is not supported.
    #[error("{0}")]
    Config(String),
    /// The node refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PodError {
    fn config(message: String) -> Self {
        Self::Config(message)
    }
}

/// What the API server wants of a pod.
#[derive(Clone, Debug)]
struct Order {
    /// The pod as last seen.
    pod: Arc<Pod>,
    /// Whether the object is gone: then nothing but stopping is left to do.
    gone: bool,
}

struct Worker {
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// A kubelet with the credentials that the node's configuration names.
    pub(super) fn new(node: &Arc<Node>) -> Result<Self, NodeError> {
        let config = &node.config;
        let context = Context {
            client: client(config)?,
            network: PodNetwork::new(config.pod_cidr, config.overlay.mtu),
            pods: Pods::default(),
            node: Arc::clone(node),
        };
        Ok(Self {
            context: Arc::new(context),
        })
    }

    /// The table that the exec channel reads.
    pub(super) fn pods(&self) -> Pods {
        self.context.pods.clone()
    }

    /// Until the node shuts down.
    pub(super) async fn run(self) {
        let context = self.context;
        let mut shutdown = context.node.shutdown.subscribe();
        let heartbeat = tokio::spawn(register::keep(
            context.client.clone(),
            context.node.config.clone(),
        ));
        let mut workers = Workers {
            context: Arc::clone(&context),
            by_uid: BTreeMap::new(),
            listed: BTreeSet::new(),
        };
        tokio::select! {
            () = workers.follow() => {}
            _ = shutdown.wait_for(|end| *end) => {}
        }
        heartbeat.abort();
        // The workers see the shutdown themselves and stop their containers.
        for worker in workers.by_uid.into_values() {
            let _ = worker.task.await;
        }
    }
}

/// One task per pod, keyed by UID: a pod that is deleted and made again with the same name is another one.
struct Workers {
    context: Arc<Context>,
    by_uid: BTreeMap<String, Worker>,
    listed: BTreeSet<String>,
}

impl Workers {
    async fn follow(&mut self) {
        let config = &self.context.node.config;
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", config.name));
        let mut events = Box::pin(watcher::watcher(
            Api::<Pod>::all(self.context.client.clone()),
            mine,
        ));
        let mut complained = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    complained = false;
                    self.take(event);
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        warn!(%error, "pod watch failed");
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn take(&mut self, event: Event<Pod>) {
        self.by_uid.retain(|_, worker| !worker.task.is_finished());
        match event {
            Event::Apply(pod) => self.apply(pod, false),
            Event::Delete(pod) => self.apply(pod, true),
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.apply(pod, false);
            }
            Event::InitDone => {
                for (uid, worker) in &self.by_uid {
                    if !self.listed.contains(uid) {
                        worker.order.send_modify(|order| order.gone = true);
                    }
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod, gone: bool) {
        let uid = pod.uid().unwrap_or_default();
        let order = Order {
            pod: Arc::new(pod),
            gone,
        };
        if let Some(worker) = self.by_uid.get(&uid) {
            worker.order.send_replace(order);
        } else if !gone {
            let (sender, receiver) = watch::channel(order);
            let task = tokio::spawn(pod::run(Arc::clone(&self.context), receiver));
            self.by_uid.insert(uid, Worker { order: sender, task });
        }
    }
}

fn client(config: &NodeConfig) -> Result<Client, NodeError> {
    let server = &config.api_server;
    let url = server
        .url
        .parse()
        .map_err(|error| NodeError::Credentials(format!("apiServer.url {}: {error}", server.url)))?;
    let seen = |path: &std::path::Path| NodeConfig::host_path(path).to_string_lossy().into_owned();
    let mut client = Config::new(url);
    client.root_cert_file = Some(NodeConfig::host_path(&server.ca_file));
    client.auth_info = AuthInfo {
        client_certificate: Some(seen(&server.client_certificate_file)),
        client_key: Some(seen(&server.client_key_file)),
        ..AuthInfo::default()
    };
    Client::try_from(client).map_err(|error| NodeError::Credentials(error.to_string()))
}
