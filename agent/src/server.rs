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

/// Opens the control socket; one that an earlier run left is replaced, one that an agent serves is not. Its folder has mode
/// 0700.
pub(crate) fn listen_control(path: &Path) -> Result<UnixListener, String> {
    let failed = |error| format!("cannot listen on {}: {error}", path.display());
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(format!(
            "an agent serves {} already: stop it, or give this one folders of its own with --run-dir and --state-dir",
            path.display()
        ));
    }
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
    // A copy: the engine waits for nobody who asks.
    let view = shared.view.read(Clone::clone);
    let status = match &inputs {
        Some(inputs) => LocalStatus::of(&inputs.snapshot, &inputs.desired, &view, &inputs.down),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;
    use crate::task::Task;

    fn shared() -> Shared {
        Shared {
            view: SharedView::new(),
            inputs: watch::channel(None).1,
            readiness: Readiness::starting(),
            commands: mpsc::channel(1).0,
            orders: mpsc::channel(1).0,
        }
    }

    async fn ask(path: &Path) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        stream
            .write_all(b"GET /state HTTP/1.0\r\n\r\n")
            .await
            .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.sock");
        let listener = listen_control(&path).expect("listening");
        let _server = Task::spawn("control server", serve_control(listener, shared()));
        let mut slow = UnixStream::connect(&path).await.expect("connected");
        slow.write_all(b"GET /sta").await.expect("half a request");
        let asked = futures::future::join_all((0..20).map(|_| ask(&path)));
        let answers = tokio::time::timeout(Duration::from_secs(10), asked)
            .await
            .expect("in time");
        for answer in answers {
            assert!(
                answer.contains("200 OK") && answer.contains("\"ready\":false"),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn the_socket_is_the_owners_and_no_second_agent_takes_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.sock");
        let first = listen_control(&path).expect("listening");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = listen_control(&path).expect_err("served");
        assert!(refused.contains("--run-dir"), "{refused}");
        drop(first);
        listen_control(&path).expect("one that an earlier run left is replaced");
    }
}
