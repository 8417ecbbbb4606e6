//! One pod's life on this node: sandbox, init containers, containers, status, end.

use std::{fs, path::Path, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodStatus},
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Context, Order, PodError,
    container::{Restart, Supervisor},
    specification::Place,
    status::{Ended, Facts, Observed, Step, is_sidecar, pod_status},
    values::Fields,
    volumes::{self, PODS, Volumes},
};
use crate::guest::pods::Entry;

/// How long one request may hang before it is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before a refused step is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are published together.
const SETTLE: Duration = Duration::from_millis(20);
/// Grace of a node's orderly end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Runs a pod until its object is gone.
pub(super) async fn run(context: Arc<Context>, order: watch::Receiver<Order>) {
    let pod = Arc::clone(&order.borrow().pod);
    let mut life = Life::new(context, order, &pod);
    if life.is_over(&pod) {
        life.wait_for_end().await;
    } else {
        life.live(pod).await;
    }
    life.clean_up().await;
}

struct Life {
    context: Arc<Context>,
    order: watch::Receiver<Order>,
    shutdown: watch::Receiver<bool>,
    api: Api<Pod>,
    uid: String,
    start: Timestamp,
    place: Option<Arc<Place>>,
    address: Option<std::net::Ipv4Addr>,
    init: Vec<watch::Sender<Observed>>,
    main: Vec<watch::Sender<Observed>>,
    published: Option<PodStatus>,
}

/// Why a pod has to end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Its object is being deleted: with this grace.
    Deleted(Duration),
    /// Its object is gone already.
    Gone,
    /// The node shuts down; the object stays.
    Shutdown,
}

impl Life {
    fn new(context: Arc<Context>, order: watch::Receiver<Order>, pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let never = spec.and_then(|spec| spec.restart_policy.as_deref()) == Some("Never");
        let observe = |containers: &[Container], before: Option<&Vec<ContainerStatus>>| {
            containers
                .iter()
                .map(|asked| watch::Sender::new(recalled(asked, before, never)))
                .collect()
        };
        let init = spec
            .and_then(|spec| spec.init_containers.as_deref())
            .unwrap_or_default();
        Self {
            api: Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default()),
            uid: pod.uid().unwrap_or_default(),
            start: status
                .and_then(|status| status.start_time.as_ref())
                .map_or_else(Timestamp::now, |time| time.0),
            place: None,
            address: None,
            init: observe(
                init,
                status.and_then(|status| status.init_container_statuses.as_ref()),
            ),
            main: observe(
                spec.map_or(&[][..], |spec| &spec.containers),
                status.and_then(|status| status.container_statuses.as_ref()),
            ),
            published: None,
            shutdown: context.node.shutdown.subscribe(),
            context,
            order,
        }
    }

    /// A pod that ended in an earlier boot, or that is deleted before it ran here.
    fn is_over(&self, pod: &Pod) -> bool {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
            || pod.metadata.deletion_timestamp.is_some()
            || self.order.borrow().gone
    }

    async fn live(&mut self, pod: Arc<Pod>) {
        let Some(place) = self.settle_in(Arc::clone(&pod)).await else {
            return;
        };
        let renewal = tokio::spawn(volumes::renew(
            self.context.client.clone(),
            Arc::clone(&pod),
            place.volumes.tokens.clone(),
        ));
        let stop = watch::Sender::new(None);
        let crew = Crew {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&pod),
            place,
            stop: stop.clone(),
        };
        let sequence = tokio::spawn(crew.run(self.init.clone(), self.main.clone()));
        let end = self.accompany(sequence, &stop).await;
        renewal.abort();
        if let End::Deleted(_) = end {
            self.publish_until_told().await;
            self.delete().await;
        }
    }

    /// Network and volumes; tried again until they stand. `None` if the pod has to end before.
    async fn settle_in(&mut self, pod: Arc<Pod>) -> Option<Arc<Place>> {
        loop {
            let error = match self.sandbox(Arc::clone(&pod)).await {
                Ok(place) => {
                    let place = Arc::new(place);
                    self.place = Some(Arc::clone(&place));
                    return Some(place);
                }
                Err(error) => error,
            };
            warn!(pod = %pod.name_any(), %error, "sandbox does not stand");
            for container in self.init.iter().chain(&self.main) {
                let message = Some(error.to_string());
                container.send_modify(|observed| {
                    if !observed.ended() {
                        observed.step = Step::Waiting {
                            reason: "ContainerCreating",
                            message,
                        };
                    }
                });
            }
            self.publish().await;
            tokio::select! {
                () = sleep(RETRY) => {}
                end = wanted_end(&mut self.order, &mut self.shutdown) => {
                    if let End::Deleted(_) = end {
                        self.delete().await;
                    }
                    return None;
                }
            }
        }
    }

    async fn sandbox(&mut self, pod: Arc<Pod>) -> Result<Place, PodError> {
        let host = self.context.node.config.uplink.address.addr();
        let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let (address, network) = if on_host {
            (host, None)
        } else {
            let attachment = self.context.network.attach(&self.uid).await?;
            (attachment.address, Some(attachment.namespace))
        };
        let fields = Fields {
            pod: &pod,
            address: Some(address),
            host,
        };
        let volumes: Volumes = match volumes::prepare(&self.context.client, &fields).await {
            Ok(volumes) => volumes,
            Err(error) => {
                if !on_host {
                    self.context.network.detach(&self.uid).await;
                }
                return Err(error);
            }
        };
        fs::create_dir_all(Path::new(PODS).join(&self.uid))?;
        self.address = Some(address);
        let entry = Entry {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            address: Some(address),
            network: network.clone(),
            containers: std::collections::BTreeMap::new(),
        };
        self.context.pods.insert(&self.uid, entry);
        Ok(Place {
            address,
            network,
            volumes,
        })
    }

    /// Publishes what the containers do until they ended and the pod has to end.
    async fn accompany(
        &mut self,
        mut sequence: tokio::task::JoinHandle<()>,
        stop: &watch::Sender<Option<Duration>>,
    ) -> End {
        let mut end = None;
        let mut running = true;
        loop {
            // Subscribed before the status is put together: what changes later wakes this loop.
            let changes: Vec<_> = self
                .init
                .iter()
                .chain(&self.main)
                .map(watch::Sender::subscribe)
                .collect();
            let told = self.publish().await;
            tokio::select! {
                () = any_change(changes) => sleep(SETTLE).await,
                () = sleep(RETRY), if !told => {}
                _ = &mut sequence, if running => running = false,
                wanted = wanted_end(&mut self.order, &mut self.shutdown), if end.is_none() => {
                    stop.send_replace(Some(wanted.grace()));
                    end = Some(wanted);
                }
            }
            if let (Some(end), false) = (end, running) {
                return end;
            }
        }
    }

    /// Waits for the end of a pod that does not run here.
    async fn wait_for_end(&mut self) {
        if let End::Deleted(_) = wanted_end(&mut self.order, &mut self.shutdown).await {
            self.delete().await;
        }
    }

    fn status(&self) -> PodStatus {
        let order = self.order.borrow();
        let seen = |list: &[watch::Sender<Observed>]| {
            list.iter().map(|one| one.borrow().clone()).collect::<Vec<_>>()
        };
        pod_status(&Facts {
            pod: &order.pod,
            init: &seen(&self.init),
            main: &seen(&self.main),
            address: self.address,
            host: self.context.node.config.uplink.address.addr(),
            start: self.start,
            sandbox: self.place.is_some(),
            now: Timestamp::now(),
        })
    }

    /// Writes the status if it changed; answers whether the API server has it.
    async fn publish(&mut self) -> bool {
        if self.order.borrow().gone {
            return true;
        }
        let status = self.status();
        if self
            .published
            .as_ref()
            .is_some_and(|published| same(published, &status))
        {
            return true;
        }
        let pod = Arc::clone(&self.order.borrow().pod);
        let patch = json!({ "metadata": { "uid": self.uid }, "status": merged(&pod, &status) });
        let (name, parameters, patch) = (pod.name_any(), PatchParams::default(), Patch::Merge(&patch));
        let writing = self.api.patch_status(&name, &parameters, &patch);
        match timeout(PATIENCE, writing).await {
            Ok(Ok(_)) => {
                self.published = Some(status);
                true
            }
            Ok(Err(kube::Error::Api(error))) if error.code == 404 || error.code == 409 => true,
            Ok(Err(error)) => {
                warn!(pod = %pod.name_any(), %error, "status was not written");
                false
            }
            Err(_) => false,
        }
    }

    async fn publish_until_told(&mut self) {
        while !self.publish().await {
            sleep(RETRY).await;
        }
    }

    /// The last word of a deletion: the object goes, if it still is this pod's.
    async fn delete(&mut self) {
        let name = self.order.borrow().pod.name_any();
        let preconditions = Preconditions {
            uid: Some(self.uid.clone()),
            resource_version: None,
        };
        let parameters = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        }
        .grace_period(0);
        loop {
            match timeout(PATIENCE, self.api.delete(&name, &parameters)).await {
                Ok(Ok(_)) => return info!(pod = %name, "pod is gone"),
                Ok(Err(kube::Error::Api(error))) if error.code == 404 || error.code == 409 => return,
                Ok(Err(_)) | Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn clean_up(&mut self) {
        self.context.pods.remove(&self.uid);
        let networked = self.place.take().is_some_and(|place| place.network.is_some());
        if networked {
            self.context.network.detach(&self.uid).await;
        }
        // INVARIANT: a pod that never stood has no folder.
        let _ = fs::remove_dir_all(Path::new(PODS).join(&self.uid));
    }
}

impl End {
    fn grace(self) -> Duration {
        match self {
            Self::Deleted(grace) => grace,
            Self::Gone => Duration::ZERO,
            Self::Shutdown => SHUTDOWN_GRACE,
        }
    }
}

/// The containers of a pod, in the order that the Pod asks for.
struct Crew {
    context: Arc<Context>,
    pod: Arc<Pod>,
    place: Arc<Place>,
    stop: watch::Sender<Option<Duration>>,
}

impl Crew {
    async fn run(self, init: Vec<watch::Sender<Observed>>, main: Vec<watch::Sender<Observed>>) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let policy = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        let mut sidecars = JoinSet::new();
        let (inner_stop, outer_stop) = (watch::Sender::new(None), self.stop.subscribe());
        sidecars.spawn(pass_on(outer_stop, inner_stop.clone()));
        for (asked, observed) in spec.init_containers.unwrap_or_default().into_iter().zip(init) {
            if is_sidecar(&asked) {
                let mut seen = observed.subscribe();
                sidecars.spawn(
                    self.supervisor(asked, Restart::Always, observed, inner_stop.subscribe())
                        .run(),
                );
                // INVARIANT: the supervisor holds the sender.
                let _ = seen.wait_for(|seen| seen.started || seen.ended()).await;
            } else {
                let policy = if policy == Restart::Never {
                    Restart::Never
                } else {
                    Restart::OnFailure
                };
                self.supervisor(asked, policy, observed.clone(), self.stop.subscribe())
                    .run()
                    .await;
                if !observed.borrow().succeeded() {
                    inner_stop.send_replace(Some(SHUTDOWN_GRACE));
                    break;
                }
            }
        }
        if inner_stop.borrow().is_none() {
            let mut containers = JoinSet::new();
            for (asked, observed) in spec.containers.into_iter().zip(main) {
                if !observed.borrow().ended() {
                    containers.spawn(
                        self.supervisor(asked, policy, observed, self.stop.subscribe())
                            .run(),
                    );
                }
            }
            while containers.join_next().await.is_some() {}
            inner_stop.send_replace(Some(SHUTDOWN_GRACE));
        }
        while sidecars.join_next().await.is_some() {}
    }

    fn supervisor(
        &self,
        asked: Container,
        restart: Restart,
        observed: watch::Sender<Observed>,
        stop: watch::Receiver<Option<Duration>>,
    ) -> Supervisor {
        Supervisor {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.pod),
            place: Arc::clone(&self.place),
            asked,
            restart,
            observed,
            stop,
        }
    }
}

/// Sidecars end when the pod is told to end, or when its containers have ended.
async fn pass_on(mut from: watch::Receiver<Option<Duration>>, to: watch::Sender<Option<Duration>>) {
    let mut ended = to.subscribe();
    tokio::select! {
        Ok(grace) = from.wait_for(Option::is_some) => { to.send_replace(*grace); }
        _ = ended.wait_for(Option::is_some) => {}
    }
}

async fn any_change(changes: Vec<watch::Receiver<Observed>>) {
    let waits = changes.into_iter().map(|mut change| {
        Box::pin(async move {
            // INVARIANT: the pod's life holds the senders.
            let _ = change.changed().await;
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waits).await;
}

async fn wanted_end(order: &mut watch::Receiver<Order>, shutdown: &mut watch::Receiver<bool>) -> End {
    let deleted = order.wait_for(|order| order.gone || order.pod.metadata.deletion_timestamp.is_some());
    tokio::select! {
        order = deleted => match order {
            Ok(order) if !order.gone => {
                let grace = order.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                End::Deleted(Duration::from_secs(u64::try_from(grace).unwrap_or_default()))
            }
            _ => End::Gone,
        },
        _ = shutdown.wait_for(|end| *end) => End::Shutdown,
    }
}

/// A container that ran in an earlier boot of this node counts a restart; a pod that must not restart has failed.
fn recalled(asked: &Container, before: Option<&Vec<ContainerStatus>>, never: bool) -> Observed {
    let before = before
        .into_iter()
        .flatten()
        .find(|status| status.name == asked.name);
    let Some(status) = before.filter(|status| status.container_id.is_some()) else {
        return Observed::creating(0);
    };
    let running = status.state.as_ref().and_then(|state| state.running.as_ref());
    let last = Ended {
        code: 137,
        reason: "ContainerStatusUnknown",
        message: Some("the node's kernel ended while the container ran".into()),
        started: running
            .and_then(|running| running.started_at.as_ref())
            .map(|time| time.0),
        finished: Timestamp::now(),
        id: status.container_id.clone(),
    };
    if never && !is_sidecar(asked) {
        return Observed {
            step: Step::Ended(last),
            ..Observed::creating(status.restart_count)
        };
    }
    Observed {
        last: Some(last),
        ..Observed::creating(status.restart_count + 1)
    }
}

/// Two statuses that differ in nothing that anyone acts on.
fn same(one: &PodStatus, other: &PodStatus) -> bool {
    let stripped = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    stripped(one) == stripped(other)
}

/// Our status with the conditions that others wrote, and without what an earlier boot left.
fn merged(pod: &Pod, status: &PodStatus) -> serde_json::Value {
    let ours = status.conditions.clone().unwrap_or_default();
    let foreign = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    let foreign = foreign
        .filter(|theirs| ours.iter().all(|own| own.type_ != theirs.type_))
        .cloned();
    let conditions: Vec<_> = foreign.chain(ours.iter().cloned()).collect();
    let mut value = json!(status);
    value["conditions"] = json!(conditions);
    for key in ["reason", "message"] {
        value[key] = serde_json::Value::Null;
    }
    value
}
