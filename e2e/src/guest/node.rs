//! The node proper: modules, network, exec channel, kubelet.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use tracing::{error, info};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{
    boot::{LOGS, power_off},
    exec,
    kubelet::Kubelet,
    modules, network,
    pods::Pods,
};
use crate::protocol::NodeConfig;

/// Why a node did not come up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file, a mount, a program or a socket of the node.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The Kubernetes client could not be made from the node's credentials.
    #[error("Kubernetes credentials: {0}")]
    Credentials(String),
}

/// Runs until the host asks for the end; PID 1 powers the kernel off after it.
pub(super) fn run(config: NodeConfig) -> ExitCode {
    if let Err(error) = start_log() {
        return fail(&error.into());
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => power_off(),
        Err(error) => fail(&error),
    }
}

/// What the node's parts share.
#[derive(Debug)]
pub(super) struct Node {
    /// What the node was booted with.
    pub(super) config: NodeConfig,
    /// The nodes that the overlay reaches at present.
    pub(super) peers: Mutex<Vec<crate::protocol::PeerNode>>,
    /// Turns true when the host asks for the end.
    pub(super) shutdown: watch::Sender<bool>,
}

async fn serve(config: NodeConfig) -> Result<(), NodeError> {
    info!(node = %config.name, "kernel is up");
    modules::load(&config.modules, &config.modules_without)?;
    info!("modules are loaded");
    network::set_up(&config).await?;
    info!(address = %config.uplink.address, "network stands");
    let peers = Mutex::new(config.nodes.clone());
    let node = Arc::new(Node {
        config,
        peers,
        shutdown: watch::Sender::new(false),
    });
    let mut shutdown = node.shutdown.subscribe();
    let kubelet = if node.config.kubelet {
        Some(Kubelet::new(&node)?)
    } else {
        None
    };
    let pods = kubelet.as_ref().map_or_else(Pods::default, Kubelet::pods);
    let channel = exec::serve(Arc::clone(&node), pods).await?;
    let running = kubelet.map(|kubelet| tokio::spawn(kubelet.run()));
    // INVARIANT: `node` holds the sender.
    let _ = shutdown.wait_for(|end| *end).await;
    info!("shutting down");
    if let Some(running) = running {
        // INVARIANT: a kubelet that panicked has nothing left to stop in order.
        let _ = running.await;
    }
    channel.abort();
    Ok(())
}

/// The log goes to the console and to the node's log folder.
fn start_log() -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(Path::new(LOGS).join("node.log"))?;
    let filter = EnvFilter::new("info,kube_client=warn,kube_runtime=warn");
    tracing_subscriber::registry()
        .with(filter)
        .with(
            fmt::layer()
                .with_ansi(false)
                .with_target(false)
                .with_writer(Mutex::new(file)),
        )
        .with(
            fmt::layer()
                .with_ansi(false)
                .with_target(false)
                .with_writer(io::stderr),
        )
        .init();
    Ok(())
}

fn fail(error: &NodeError) -> ExitCode {
    error!(%error, "node failed");
    ExitCode::FAILURE
}
