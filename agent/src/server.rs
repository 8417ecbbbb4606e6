//! The agent's HTTP: health, readiness and control on the node's loopback, metrics on their own port.

use std::net::SocketAddr;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
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
    /// Whether every desired policy stands.
    pub(crate) readiness: Readiness,
}

/// What `POST /debug/rekey` takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RekeyQuery {
    /// Only with this node.
    pub(crate) peer: Option<String>,
    /// The IKE SAs instead of the CHILD SAs.
    #[serde(default)]
    pub(crate) ike: bool,
}

/// What `POST /debug/rekey` answers.
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

/// Serves health and control. Control is for root on this node: whoever reaches the node's loopback can already stop
/// the agent, and nothing here weakens what is enforced.
pub(crate) async fn serve_local(listener: TcpListener, shared: Shared) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/debug/state", get(state))
        .route("/debug/rekey", post(rekey))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the health server ended");
    }
}

/// Serves metrics.
pub(crate) async fn serve_metrics(listener: TcpListener, metrics: Metrics) {
    let router = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server ended");
    }
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.readiness.why_not() {
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
