//! Where this agent's orders come from: a cluster's API, or files on a host without one.

use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use kube::{Api, Client, Config};
use tokio::sync::watch;

use crate::app::AppError;
use crate::args::RunArgs;
use crate::identity::keystore::Keystore;
use crate::identity::renew::{IdentityState, Renewal, Wanted};
use crate::identity::sealing::Sealing;
use crate::metrics::Metrics;
use crate::source::{Snapshot, kube as api, manifests};
use crate::status::Writer;
use crate::status::compose::StatusInputs;
use crate::task::Task;

/// A connection on which the API server is silent for longer is dead: watches get a bookmark about once a minute.
const API_SILENCE: Duration = Duration::from_secs(100);
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Where orders come from.
pub(super) struct Origin {
    /// What is wanted.
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Who this host is.
    pub(super) identity: watch::Receiver<IdentityState>,
    /// Who it is to be.
    pub(super) wanted: watch::Sender<Option<Wanted>>,
    /// What credentials are sealed to, in a cluster.
    pub(super) sealing: Option<Sealing>,
    /// What keeps them up to date.
    pub(super) tasks: Vec<Task>,
}

impl Origin {
    /// Opens what the flags name. Nothing asks for an API server where files are read.
    pub(super) async fn open(
        args: &RunArgs,
        provider: &'static Provider,
        metrics: &Metrics,
        inputs: watch::Receiver<Option<Arc<StatusInputs>>>,
    ) -> Result<Self, AppError> {
        match (&args.manifests, &args.node_name) {
            (Some(_), name) => host(args, provider, name.as_deref()),
            (None, Some(name)) => cluster(args, provider, name, metrics, inputs).await,
            (None, None) => Err(AppError::Other("--node-name: who is this node?".to_owned())),
        }
    }
}

async fn cluster(
    args: &RunArgs,
    provider: &'static Provider,
    node: &str,
    metrics: &Metrics,
    inputs: watch::Receiver<Option<Arc<StatusInputs>>>,
) -> Result<Origin, AppError> {
    let keystore = Keystore::open(args.state_dir.join("identity"), provider)
        .map_err(|e| AppError::Other(e.to_string()))?;
    let client = client().await?;
    let sealing =
        Sealing::open(keystore.clone(), provider.random).map_err(|e| AppError::Other(e.to_string()))?;
    let opener = Arc::clone(sealing.opener());
    let (snapshots, watches) = api::follow(&client, node, metrics, opener);
    let (wanted, identity, renewal) = renewal(&client, keystore);
    let writer = Writer {
        client,
        node: node.to_owned(),
        inputs,
        metrics: metrics.clone(),
    };
    Ok(Origin {
        snapshots,
        identity,
        wanted,
        sealing: Some(sealing),
        tasks: vec![watches, renewal, writer.start()],
    })
}

fn host(args: &RunArgs, provider: &'static Provider, name: Option<&str>) -> Result<Origin, AppError> {
    let folder = args.manifests.clone().unwrap_or_default();
    if !folder.is_dir() {
        return Err(AppError::Other(format!(
            "--manifests: {} is no folder: make it, and put the YAML files there",
            folder.display()
        )));
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string(HOST_NAME)
            .map_err(|error| AppError::Other(format!("{HOST_NAME}: {error}: give --node-name")))?
            .trim()
            .to_owned(),
    };
    let files = manifests::follow(folder, &name, provider);
    Ok(Origin {
        snapshots: files.snapshots,
        identity: files.identity,
        wanted: watch::Sender::new(None),
        sealing: None,
        tasks: vec![files.task],
    })
}

async fn client() -> Result<Client, AppError> {
    let failed = |error: &dyn std::fmt::Display| {
        AppError::Other(format!(
            "no access to the API server: {error}; the agent runs in a pod, or on a host with --manifests"
        ))
    };
    let mut config = Config::infer().await.map_err(|error| failed(&error))?;
    config.read_timeout = Some(API_SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|error| failed(&error))
}

type Certificates = (
    watch::Sender<Option<Wanted>>,
    watch::Receiver<IdentityState>,
    Task,
);

fn renewal(client: &Client, keystore: Keystore) -> Certificates {
    let (wanted, receiver) = watch::channel(None);
    let certificate = keystore.load().unwrap_or_else(|error| {
        tracing::warn!(%error, "the stored certificate cannot be used");
        None
    });
    let state = watch::Sender::new(IdentityState {
        certificate: certificate.map(Arc::new),
        ..IdentityState::default()
    });
    let identity = state.subscribe();
    let renewal = Renewal {
        api: Api::all(client.clone()),
        keystore,
        wanted: receiver,
        state,
    };
    (wanted, identity, Task::spawn("certificate", renewal.run()))
}
