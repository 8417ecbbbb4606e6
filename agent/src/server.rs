//! The agent's HTTP: health and readiness on the node's loopback, metrics on their own port, and control on a socket that
//! only root on the node can open.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::command::{EngineCommand, RekeyRequest};
use crate::engine::event::SharedView;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::status::compose::StatusInputs;
use crate::status::local::LocalStatus;

/// No request has a body worth reading.
const LARGEST_BODY: usize = 4096;

/// What the handlers read.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The engine's state.
    pub(crate) view: SharedView,
    /// What is wanted, once it is known.
    pub(crate) inputs: watch::Receiver<Option<Arc<StatusInputs>>>,
    /// Whether the agent does its part.
    pub(crate) readiness: Readiness,
    /// Where rekeys are asked for.
    pub(crate) commands: mpsc::Sender<EngineCommand>,
    /// Where tunnels are taken down and up.
    pub(crate) orders: mpsc::Sender<Order>,
}

/// A person takes a tunnel down, or up again.
#[derive(Debug)]
pub(crate) struct Order {
    /// Its name.
    pub(crate) tunnel: String,
    /// Down, or up.
    pub(crate) down: bool,
    /// What became of it, for people; an error names what to do.
    pub(crate) reply: oneshot::Sender<Result<String, String>>,
}

/// What `POST /tunnel` takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TunnelQuery {
    /// Its name.
    name: String,
    /// Down, or up.
    down: bool,
}

/// What `POST /rekey` takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RekeyQuery {
    /// Only those of this tunnel, or with this peer.
    pub(crate) name: Option<String>,
    /// The IKE SAs instead of the CHILD SAs.
    #[serde(default)]
    pub(crate) ike: bool,
}

/// What `POST /rekey` answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RekeyAnswer {
    /// How many rekeys were started.
    pub(crate) started: usize,
}

/// Opens a listener; an address that is in use shows here and not later.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, String> {
    let failed = |error| format!("cannot listen on {address}: {error}; choose another address with {flag}");
    TcpListener::bind(address).await.map_err(failed)
}

/// Opens the control socket; one that an earlier run left is replaced. Its folder has mode 0700.
pub(crate) fn listen_control(path: &Path) -> Result<UnixListener, String> {
    let failed = |error| format!("cannot listen on {}: {error}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves health: whoever reaches the node's loopback learns whether the agent does its part, and no more.
pub(crate) async fn serve_health(listener: TcpListener, readiness: Readiness) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(readiness);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the health server ended");
    }
}

/// Serves control.
pub(crate) async fn serve_control(listener: UnixListener, shared: Shared) {
    let router = Router::new()
        .route("/state", get(state))
        .route("/rekey", post(rekey))
        .route("/tunnel", post(tunnel))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control server ended");
    }
}

/// Serves metrics.
pub(crate) async fn serve_metrics(listener: TcpListener, metrics: Metrics) {
    let router = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server ended");
    }
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    match readiness.why_not() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn state(State(shared): State<Shared>) -> Json<LocalStatus> {
    let inputs = shared.inputs.borrow().clone();
    let status = match &inputs {
        Some(inputs) => shared
            .view
            .read(|view| LocalStatus::of(&inputs.snapshot, &inputs.desired, view, &inputs.down)),
        None => LocalStatus::default(),
    };
    let waiting_for = shared.readiness.why_not();
    Json(LocalStatus {
        ready: waiting_for.is_none(),
        waiting_for,
        ..status
    })
}

async fn tunnel(State(shared): State<Shared>, Query(query): Query<TunnelQuery>) -> impl IntoResponse {
    let (reply, answer) = oneshot::channel();
    let order = Order {
        tunnel: query.name,
        down: query.down,
        reply,
    };
    match (shared.orders.try_send(order), answer.await) {
        (Ok(()), Ok(Ok(said))) => (StatusCode::OK, said),
        (Ok(()), Ok(Err(refused))) => (StatusCode::NOT_FOUND, refused),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy\n".to_owned()),
    }
}

async fn rekey(State(shared): State<Shared>, Query(query): Query<RekeyQuery>) -> impl IntoResponse {
    let (reply, answer) = oneshot::channel();
    let request = RekeyRequest {
        name: query.name,
        ike: query.ike,
        reply,
    };
    let sent = shared.commands.try_send(EngineCommand::Rekey(request));
    match (sent, answer.await) {
        (Ok(()), Ok(started)) => (StatusCode::OK, Json(RekeyAnswer { started })).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the engine is not running\n").into_response(),
    }
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text())
}
