//! Wiring of `run`: the health server, the election, and the controllers while this replica leads.

use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::context::{Context, Settings};
use crate::controller;
use crate::events::Events;
use crate::http::{self, Readiness};
use crate::leader::{Candidate, Timing};
use crate::metrics::Metrics;
use crate::world;

/// A connection on which the API server is silent for longer is dead: watches get a bookmark about once a minute.
const API_SILENCE: Duration = Duration::from_secs(100);

/// Runs until SIGTERM, or until the lease is lost.
pub(crate) async fn run(args: RunArgs) -> Result<(), String> {
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::default();
    let listener = http::listen(args.listen).await?;
    let mut tasks = JoinSet::new();
    let server = http::serve(listener, Arc::clone(&metrics), readiness.clone());
    tasks.spawn(async move {
        server.await;
        "http"
    });
    let client = connect().await?;
    let identity = args.identity.clone().unwrap_or_else(default_identity);
    let namespace = args.common.namespace.clone();
    let mut candidate = Candidate::new(
        client.clone(),
        &namespace,
        &args.lease_name,
        &identity,
        Timing::default(),
    );
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("cannot catch SIGTERM: {error}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| format!("cannot catch SIGINT: {error}"))?;
    // A replica that stands by is ready: it takes over without anybody's help.
    readiness.set(true);
    tracing::info!(lease = %args.lease_name, %identity, "standing by");
    let since = tokio::select! {
        since = candidate.acquire() => since,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        ended = tasks.join_next() => return Err(stopped(ended)),
    };
    tracing::info!(%identity, "leading");
    metrics.leads(true);
    let result = tokio::select! {
        lost = candidate.hold(since) => return Err(format!("no longer the leader: {lost}")),
        result = lead(args, client, &identity, metrics, &readiness, &mut tasks) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tasks.shutdown().await;
    candidate.release().await;
    result
}

/// Starts the watches and the controllers; ends only when one of them does.
async fn lead(
    args: RunArgs,
    client: Client,
    identity: &str,
    metrics: Arc<Metrics>,
    readiness: &Readiness,
    tasks: &mut JoinSet<&'static str>,
) -> Result<(), String> {
    readiness.set(false);
    let (mut triggers, queues) = world::watch_all(&client, &args.common.namespace, tasks);
    triggers.stores().ready().await;
    let events = Events::new(client.clone(), identity);
    let settings = Settings::from(args);
    let context = Arc::new(Context::new(client, settings, metrics, events, triggers.clone()));
    controller::start(&context, queues, tasks);
    triggers.go_live().await;
    readiness.set(true);
    tracing::info!("all stores are complete; the controllers run");
    Err(stopped(tasks.join_next().await))
}

/// The client of the cluster that this process runs in, or of the kubeconfig.
pub(crate) async fn connect() -> Result<Client, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot find the API server: {error}; run in a pod with a service account, or set KUBECONFIG")
    };
    let mut config = Config::infer().await.map_err(|error| failed(&error))?;
    config.read_timeout = Some(API_SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|error| failed(&error))
}

fn stopped(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => format!("the task {name} ended"),
        Some(Err(error)) => format!("a task failed: {error}"),
        None => "no task is left".to_owned(),
    }
}

fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
