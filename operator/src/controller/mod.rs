//! The four controllers: each takes requests from its queue, reads the stores, plans, applies.

pub(crate) mod authority;
pub(crate) mod csr;
pub(crate) mod node;
pub(crate) mod tunnel;

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::mpsc;
use futures::{FutureExt as _, StreamExt as _};
use kube::runtime::controller::{Action, Config, Error as ControllerError, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use tokio::task::JoinSet;

use crate::apply::Error;
use crate::context::Context;
use crate::metrics::{ControllerLabel, Outcome};
use crate::world::Queues;

/// Starts all controllers in `tasks`.
pub(crate) fn start(context: &Arc<Context>, queues: Queues, tasks: &mut JoinSet<&'static str>) {
    let stores = context.stores();
    let (label, store) = (ControllerLabel::Tunnel, stores.tunnels.clone());
    tasks.spawn(run(
        "tunnel",
        label,
        Arc::clone(context),
        store,
        queues.tunnels,
        tunnel::reconcile,
    ));
    let (label, store) = (ControllerLabel::Authority, stores.authorities.clone());
    tasks.spawn(run(
        "authority",
        label,
        Arc::clone(context),
        store,
        queues.authorities,
        authority::reconcile,
    ));
    let (label, store) = (ControllerLabel::Node, stores.nodes.clone());
    tasks.spawn(run(
        "node",
        label,
        Arc::clone(context),
        store,
        queues.nodes,
        node::reconcile,
    ));
    let (label, store) = (ControllerLabel::Csr, stores.requests.clone());
    tasks.spawn(run(
        "csr",
        label,
        Arc::clone(context),
        store,
        queues.requests,
        csr::reconcile,
    ));
}

/// Runs one controller: one object is never reconciled twice at the same time, and requests for the same object merge.
async fn run<K, F>(
    name: &'static str,
    label: ControllerLabel,
    context: Arc<Context>,
    store: Store<K>,
    queue: mpsc::Receiver<ObjectRef<K>>,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) -> &'static str
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let config = Config::default().concurrency(context.settings.concurrency);
    let timed = move |object: Arc<K>, context: Arc<Context>| {
        let started = Instant::now();
        async move {
            let result = reconcile(Arc::clone(&object), Arc::clone(&context)).await;
            let outcome = if result.is_ok() {
                Outcome::Ok
            } else {
                Outcome::Error
            };
            context.metrics.reconciled(label, outcome, started.elapsed());
            if result.is_ok() {
                context.succeeded(name, &object.name_any());
            }
            result
        }
        .boxed()
    };
    let retry = move |object: Arc<K>, error: &Error, context: Arc<Context>| {
        // A newer version is on its way to the store and starts the next attempt; the pause is for safety only.
        let pause = context.back_off(name, &object.name_any());
        if error.is_conflict() {
            tracing::debug!(
                controller = name,
                object = object.name_any(),
                "planned from an old version"
            );
        } else {
            tracing::warn!(controller = name, object = object.name_any(), %error, ?pause, "tried again");
        }
        Action::requeue(pause)
    };
    let requests = queue.map(Ok::<_, Infallible>);
    let mut results = Box::pin(applier(timed, retry, context, store, requests, config));
    while let Some(result) = results.next().await {
        match result {
            Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
            // The object was deleted between the request and now.
            Err(ControllerError::ObjectNotFound(object)) => tracing::trace!(%object, "gone"),
            Err(error) => tracing::error!(controller = name, %error, "the queue failed"),
        }
    }
    name
}
