//! The agent's HTTP: health and readiness on the node's loopback, metrics on their own port, and control on a socket that
//! only root on the node can open.

use std::net::SocketAddr;
use std::path::Path;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::engine::command::{EngineCommand, RekeyRequest};
use crate::engine::event::{DebugState, SharedView};
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// What the handlers read.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The engine's state.
    pub(crate) view: SharedView,
    /// Where rekeys are asked for.
    pub(crate) commands: mpsc::Sender<EngineCommand>,
}

/// What `POST /rekey` takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RekeyQuery {
    /// Only with this node.
    pub(crate) peer: Option<String>,
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
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        Ok(()) | Err(_) => UnixListener::bind(path).map_err(failed),
    }
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

async fn state(State(shared): State<Shared>) -> Json<DebugState> {
    Json(shared.view.read(|view| DebugState::from(view)))
}

async fn rekey(State(shared): State<Shared>, Query(query): Query<RekeyQuery>) -> impl IntoResponse {
    let (reply, answer) = oneshot::channel();
    let request = RekeyRequest {
        node: query.peer,
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
