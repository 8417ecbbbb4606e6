//! The engine's thread: it waits until the host lets it work, then opens data plane and sockets and runs.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipsecmesh_dataplane::{KernelDataPlane, Policy};
use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::{BootId, CertificateVerifier, Endpoint, EndpointConfig, Limits, Retransmit};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::engine::command::EngineCommand;
use crate::engine::event::SharedView;
use crate::engine::task::{Engine, Parts};
use crate::metrics::Metrics;
use crate::net::UdpSockets;
use crate::probe::{self, Obstacle, ProbeReport};

/// What the host lacks is looked for again this often: the agent goes on as soon as it is there.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the engine needs from the rest of the agent.
pub(crate) struct Setting {
    /// The cryptographic library.
    pub(crate) provider: &'static Provider,
    /// This boot of the host.
    pub(crate) boot: BootId,
    /// Judges the certificates of peers.
    pub(crate) verifier: Arc<dyn CertificateVerifier>,
    /// Policies that the last run had in force.
    pub(crate) remembered: Vec<Policy>,
    /// What others see.
    pub(crate) view: SharedView,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// What it is told; its end is the engine's end.
    pub(crate) commands: mpsc::Receiver<EngineCommand>,
    /// Where the probe's report goes.
    pub(crate) report: watch::Sender<Option<Arc<ProbeReport>>>,
}

/// Starts the thread.
pub(crate) fn start(setting: Setting) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || runtime.block_on(live(setting)))
}

async fn live(mut setting: Setting) {
    let Some((plane, sockets)) = setting.open().await else {
        return;
    };
    let mut seed = [0; 32];
    if setting.provider.random.fill(&mut seed).is_err() {
        tracing::error!("the host gives no randomness");
        return;
    }
    let clock = Clock::start();
    let config = EndpointConfig {
        boot_id: setting.boot,
        credentials: None,
        verifier: Arc::clone(&setting.verifier),
        retransmit: Retransmit::default(),
        limits: Limits::default(),
        fragment_size: Some(EndpointConfig::FRAGMENT_SIZE),
    };
    let engine = Engine::new(Parts {
        endpoint: Endpoint::new(config, setting.provider, seed, clock.now()),
        plane,
        sockets,
        clock,
        view: setting.view,
        metrics: setting.metrics,
        commands: setting.commands,
    });
    engine.run(&setting.remembered).await;
}

impl Setting {
    /// Data plane and sockets, as soon as the host has them; `None` when the agent ends before.
    async fn open(&mut self) -> Option<(KernelDataPlane, UdpSockets)> {
        loop {
            match self.attempt().await {
                Ok(opened) => {
                    self.view.update(|view| {
                        view.obstacle = None;
                        view.running = true;
                    });
                    return Some(opened);
                }
                Err(obstacle) => {
                    let news = self.view.read(|view| view.obstacle.as_ref() != Some(&obstacle));
                    if news {
                        tracing::error!(reason = obstacle.reason, "{}", obstacle.message);
                        self.view.update(|view| view.obstacle = Some(obstacle));
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            // What was sent meanwhile stays in the channel: the application sends the whole desired state.
            if self.commands.is_closed() {
                return None;
            }
        }
    }

    async fn attempt(&self) -> Result<(KernelDataPlane, UdpSockets), Obstacle> {
        let report = Arc::new(probe::run().await);
        self.report.send_replace(Some(Arc::clone(&report)));
        if let Some(obstacle) = report.obstacle() {
            return Err(obstacle);
        }
        let plane = KernelDataPlane::open(report.features)
            .await
            .map_err(|error| Obstacle {
                reason: "KernelUnsupported",
                message: error.to_string(),
            })?;
        let sockets = UdpSockets::bind().map_err(|error| Obstacle {
            reason: error.reason(),
            message: error.to_string(),
        })?;
        // Whether it matters depends on the tunnels: the node's status warns when it does.
        for limit in report.warnings() {
            tracing::info!("{limit}");
        }
        Ok((plane, sockets))
    }
}
