//! The wiring: what the API or the files, the host and the engine say comes together here, and goes to those who act on
//! it.

mod origin;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crds::node::SealingKey;
use ipsecmesh_ike::PeerId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::app::origin::Origin;
use crate::app::trust::Trusted;
use crate::args::{CONTROL_SOCKET, CryptoProvider, RunArgs};
use crate::clock::wall;
use crate::desired::{Departed, Desired, Inputs, desired};
use crate::engine::command::EngineCommand;
use crate::engine::event::SharedView;
use crate::engine::start::{self, Setting};
use crate::identity::renew::{IdentityState, Wanted};
use crate::identity::sealing::Sealing;
use crate::identity::verifier::DirectoryVerifier;
use crate::metrics::Metrics;
use crate::model::{Authority, Peer, Resolved, Tunnel};
use crate::overlay::{self, DetectedOverlay};
use crate::persist::{LastState, Latch, Store, private_folder};
use crate::probe::ProbeReport;
use crate::readiness::Readiness;
use crate::server::{self, Order, Shared};
use crate::source::resolve::{self, Addresses};
use crate::source::{Snapshot, convert};
use crate::status::compose::StatusInputs;
use crate::task::Task;

/// The one authority until rotations come (decision 24).
const AUTHORITY: &str = "default";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Commands that wait while the engine is busy.
const COMMANDS: usize = 64;
/// Changes of the engine that come together are taken together: a mesh that starts has many.
const SETTLE: Duration = Duration::from_millis(5);
/// Without a change everything is looked at this often: latches, departed nodes, files.
const LOOK: Duration = Duration::from_secs(5);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// The state folder, or a file in it.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Anything that names itself.
    #[error("{0}")]
    Other(String),
}

/// Runs until SIGTERM or SIGINT. SAs and policies stay in the kernel.
pub(crate) async fn run(args: RunArgs) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io("install the handler of SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("install the handler of SIGINT"))?;
    let mut app = App::start(args).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: SAs and policies stay for the next run"),
        _ = interrupt.recv() => tracing::info!("SIGINT: SAs and policies stay for the next run"),
        ended = app.live() => return Err(ended),
    }
    Ok(())
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> AppError {
    let what = what.to_owned();
    move |source| AppError::Io { what, source }
}

struct App {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is looked up, and what became of it.
    addresses: watch::Sender<Addresses>,
    resolved: watch::Receiver<Arc<Resolved>>,
    overlays: watch::Receiver<Option<Vec<DetectedOverlay>>>,
    report: watch::Receiver<Option<Arc<ProbeReport>>>,
    identity: watch::Receiver<IdentityState>,
    wanted: watch::Sender<Option<Wanted>>,
    status: watch::Sender<Option<Arc<StatusInputs>>>,
    commands: mpsc::Sender<EngineCommand>,
    verifier: Arc<DirectoryVerifier>,
    sealing: Option<Sealing>,
    view: SharedView,
    store: Store,
    readiness: Readiness,
    metrics: Metrics,
    boot: String,
    departed_grace: Duration,
    state: State,
    orders: mpsc::Receiver<Order>,
    tasks: Vec<Task>,
}

/// What was computed last.
#[derive(Default)]
struct State {
    desired: Arc<Desired>,
    /// What it was computed from: the same again gives the same again.
    planned: Option<Planned>,
    /// Tunnels that a person has taken down.
    down: BTreeSet<String>,
    /// Peers of the last complete snapshot, to see who left.
    peers: BTreeMap<String, Peer>,
    departed: Vec<Departed>,
    /// Fingerprint of the certificates that the engine has.
    credentials: Option<String>,
    /// What the engine's peers are judged by.
    trusted: Trusted,
    /// Peers whose certificates were revoked, as long as the engine was not told.
    revoked: Vec<PeerId>,
}

/// What a desired state was computed from.
#[derive(Clone)]
struct Planned {
    snapshot: Arc<Snapshot>,
    resolved: Arc<Resolved>,
    down: BTreeSet<String>,
    own_key: Option<String>,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.snapshot, &other.snapshot)
            && Arc::ptr_eq(&self.resolved, &other.resolved)
            && (&self.down, &self.own_key) == (&other.down, &other.own_key)
    }
}

impl App {
    async fn start(args: RunArgs) -> Result<Self, AppError> {
        private_folder(&args.run_dir).map_err(io(&format!("make {}", args.run_dir.display())))?;
        let store =
            Store::open(args.state_dir.clone()).map_err(io(&format!("open {}", args.state_dir.display())))?;
        let boot = fs::read_to_string(BOOT_ID)
            .map_err(io(BOOT_ID))?
            .trim()
            .to_owned();
        let provider = provider(args.crypto_provider)?;
        let metrics = Metrics::new();
        let view = SharedView::new();
        let verifier = Arc::new(DirectoryVerifier::default());
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (report, reports) = watch::channel(None);
        // The thread ends with the channel's sender; nobody waits for it.
        start::start(Setting {
            provider,
            boot: convert::boot_id(&boot).map_err(AppError::Other)?,
            verifier: Arc::<DirectoryVerifier>::clone(&verifier),
            remembered: store.last().policies.iter().map(Into::into).collect(),
            view: view.clone(),
            metrics: metrics.clone(),
            commands: receiver,
            report,
        })
        .map_err(io("start the engine's thread"))?;
        let readiness = Readiness::starting();
        let (status, inputs) = watch::channel(None);
        let (order, orders) = mpsc::channel(COMMANDS);
        let shared = Shared {
            view: view.clone(),
            inputs: inputs.clone(),
            readiness: readiness.clone(),
            commands: commands.clone(),
            orders: order,
        };
        let mut tasks = serve(&args, shared, &metrics).await?;
        let (overlays, task) = overlay::follow();
        tasks.push(task);
        let origin = Origin::open(&args, provider, &metrics, inputs).await?;
        tasks.extend(origin.tasks);
        let (addresses, asked) = watch::channel(Addresses::default());
        let (resolved, task) = resolve::follow(asked);
        tasks.push(task);
        Ok(Self {
            snapshots: origin.snapshots,
            addresses,
            resolved,
            overlays,
            report: reports,
            identity: origin.identity,
            wanted: origin.wanted,
            status,
            commands,
            verifier,
            sealing: origin.sealing,
            view,
            store,
            readiness,
            metrics,
            boot,
            departed_grace: args.departed_grace.to_std(),
            state: State::default(),
            orders,
            tasks,
        })
    }

    /// Reacts to changes; ends only when a part of the agent does.
    async fn live(&mut self) -> AppError {
        let mut tasks = std::mem::take(&mut self.tasks);
        let mut views = self.view.changes();
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
            let ended = futures::future::select_all(tasks.iter_mut().map(|task| Box::pin(task.ended())));
            tokio::select! {
                (ended, _, _) = ended => return AppError::Other(ended.to_string()),
                changed = self.snapshots.changed() => if changed.is_err() { return gone("the watches") },
                changed = self.resolved.changed() => if changed.is_err() { return gone("the look-up of addresses") },
                changed = self.overlays.changed() => if changed.is_err() { return gone("overlay detection") },
                changed = self.identity.changed() => if changed.is_err() { return gone("the certificate loop") },
                changed = self.report.changed() => if changed.is_err() && self.commands.is_closed() {
                    return gone("the engine")
                } else if changed.is_err() {
                    // The probe is over for good: the engine runs, and reports no more.
                    self.report = kept(&self.report);
                },
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return gone("the control server"),
                },
                _ = views.changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK) => self.state.planned = None,
            }
            views.mark_unchanged();
        }
    }

    /// One look at everything, and what follows from it.
    fn turn(&mut self) -> Result<(), AppError> {
        if self.commands.is_closed() {
            return Err(gone("the engine"));
        }
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let identity = self.identity.borrow_and_update().clone();
        self.look_up(&snapshot);
        let authority = snapshot.authority(AUTHORITY).cloned();
        if let Some(authority) = &authority {
            self.want_certificate(&snapshot, authority);
        }
        // First, so that a peer that starts finds them.
        self.hand_over_credentials(&identity)?;
        if snapshot.synced && snapshot.own.is_some() {
            self.plan(&snapshot, &identity, authority.as_ref())?;
        }
        self.end_revoked()?;
        self.remember_enforced();
        self.report_readiness(&snapshot);
        let sealing_key = self.sealing_key(&snapshot, &identity);
        let inputs = StatusInputs {
            sealing_key,
            desired: Arc::clone(&self.state.desired),
            view: self.view.read(Clone::clone),
            probe: self.report.borrow().clone(),
            overlays: self.overlays.borrow_and_update().clone(),
            authority: AUTHORITY.to_owned(),
            boot: self.boot.clone(),
            down: self.state.down.iter().cloned().collect(),
            snapshot,
            identity,
        };
        self.status.send_replace(Some(Arc::new(inputs)));
        Ok(())
    }

    /// A person takes a tunnel down or up. It is not remembered: the next run follows the objects alone.
    fn obey(&mut self, order: Order) {
        let name = order.tunnel;
        let snapshot = self.snapshots.borrow();
        let answer = match snapshot.tunnels.iter().find(|tunnel| tunnel.name == name) {
            None => Err(format!(
                "there is no tunnel {name}; see `ipsecmesh-agent status`\n"
            )),
            Some(_) if !order.down => Ok(if self.state.down.remove(&name) {
                format!("tunnel {name} comes up\n")
            } else {
                format!("tunnel {name} is not down\n")
            }),
            Some(_) if self.state.down.contains(&name) => Ok(format!(
                "tunnel {name} is down already; `ipsecmesh-agent up {name}` takes it up\n"
            )),
            Some(tunnel) => {
                let traffic = if tunnel.block {
                    "its traffic is blocked"
                } else {
                    "its traffic goes in clear (failurePolicy Allow)"
                };
                self.state.down.insert(name.clone());
                Ok(format!(
                    "tunnel {name} goes down: its SAs are deleted, and {traffic} until `ipsecmesh-agent up {name}` or the \
                     agent's next start\n"
                ))
            }
        };
        // Nobody may wait for the answer any more.
        let _ = order.reply.send(answer);
    }

    /// The sealing key, once the directory holds the certificate's key that speaks for it.
    fn sealing_key(&mut self, snapshot: &Snapshot, identity: &IdentityState) -> Option<SealingKey> {
        let (own, certificate) = (snapshot.own.as_ref()?, identity.certificate.as_ref()?);
        let published = own.keys.contains(&certificate.leaf.key_fingerprint());
        let sealing = self.sealing.as_mut().filter(|_| published)?;
        sealing.published(certificate, own)
    }

    /// Asks where the external peers of this node are.
    fn look_up(&self, snapshot: &Snapshot) {
        let own = snapshot.own.as_ref();
        let takes_part = |tunnel: &&Tunnel| own.is_some_and(|own| own.membership(&tunnel.name).is_some());
        let peers = snapshot
            .tunnels
            .iter()
            .filter(takes_part)
            .filter_map(Tunnel::external);
        let addresses = Addresses {
            peers: peers.map(|external| external.address.clone()).collect(),
            own: snapshot
                .own
                .as_ref()
                .map(|own| own.addresses.clone())
                .unwrap_or_default(),
        };
        self.addresses.send_if_modified(|present| {
            let changed = *present != addresses;
            *present = addresses;
            changed
        });
    }

    /// Computes the desired state, and sends it when it differs from what was sent.
    fn plan(
        &mut self,
        snapshot: &Arc<Snapshot>,
        identity: &IdentityState,
        authority: Option<&Authority>,
    ) -> Result<(), AppError> {
        let Some(own) = &snapshot.own else { return Ok(()) };
        let own_key = identity
            .certificate
            .as_ref()
            .map(|certificate| certificate.leaf.key_fingerprint());
        let planned = Planned {
            snapshot: Arc::clone(snapshot),
            resolved: Arc::clone(&self.resolved.borrow_and_update()),
            down: self.state.down.clone(),
            own_key: own_key.clone(),
        };
        if self.state.planned.as_ref() == Some(&planned) {
            return Ok(());
        }
        let resolved = Arc::clone(&planned.resolved);
        self.state.planned = Some(planned);
        self.notice_departures(snapshot);
        let mut next = desired(&Inputs {
            tunnels: &snapshot.tunnels,
            peers: &snapshot.peers,
            departed: &self.state.departed,
            own,
            latch: self.store.latch(),
            last_overlays: &self.store.last().overlays,
            own_ready: own_key
                .is_some_and(|key| own.keys.contains(&key) || snapshot.host && own.keys.is_empty()),
            own_subject: identity
                .certificate
                .as_ref()
                .map(|certificate| certificate.leaf.subject.as_slice()),
            unpinned: snapshot.host,
            resolved: &resolved,
            psks: &snapshot.psks,
            bundles: &snapshot.bundles,
            ppks: &snapshot.ppks,
            down: &self.state.down,
        });
        next.revision = self.state.desired.revision;
        let trusted = Trusted::new(snapshot, authority);
        let fresh = next != *self.state.desired || self.state.desired.revision == 0;
        if !fresh && trusted == self.state.trusted {
            return Ok(());
        }
        next.revision += u64::from(fresh);
        // Peers are judged by the directory before the engine may meet them.
        if authority.is_some() || snapshot.host {
            self.judge(snapshot, &next, authority);
        }
        self.state.trusted = trusted;
        if fresh {
            // What will be enforced is on disk before it is in force.
            self.save(&next)?;
            let next = Arc::new(next);
            if self.tell_engine(EngineCommand::SetDesired(Arc::clone(&next)))? {
                self.state.desired = next;
            } else {
                self.state.planned = None;
            }
        }
        Ok(())
    }

    /// Whether the engine has room for another command. It has none while the host does not let it start: people are
    /// told so all the same, and what it was not told now it is told at a later turn.
    fn tell_engine(&self, command: EngineCommand) -> Result<bool, AppError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(gone("the engine")),
        }
    }

    /// Who left the directory, or an address of it, is treated apart for a while.
    fn notice_departures(&mut self, snapshot: &Snapshot) {
        let now = wall().as_secs();
        let present: BTreeMap<&str, &Peer> = snapshot
            .peers
            .iter()
            .map(|peer| (peer.node.as_str(), peer))
            .collect();
        let until = now.saturating_add(self.departed_grace.as_secs());
        for (name, old) in &self.state.peers {
            let new = present.get(name.as_str());
            let same = new.is_some_and(|new| new.uid == old.uid);
            let lost: Vec<_> = old
                .addresses
                .iter()
                .filter(|address| !(same && new.is_some_and(|new| new.addresses.contains(address))))
                .copied()
                .collect();
            if !lost.is_empty() {
                let mut peer = old.clone();
                peer.addresses = lost;
                tracing::info!(node = name, moved = same, "node or address left the directory");
                self.state.departed.push(Departed {
                    peer,
                    moved: same,
                    until,
                });
            }
        }
        self.state.departed.retain(|departed| departed.until > now);
        self.state.peers = snapshot
            .peers
            .iter()
            .map(|peer| (peer.node.clone(), peer.clone()))
            .collect();
    }

    /// Writes what a node without API server must know.
    fn save(&mut self, next: &Desired) -> Result<(), AppError> {
        let mut latch = self.store.latch().clone();
        for goal in &next.tunnels {
            if goal.enforced {
                latch.enforced.insert(goal.uid.clone());
            }
        }
        let overlays = next
            .tunnels
            .iter()
            .filter(|goal| latch.enforced.contains(&goal.uid))
            .map(|goal| (goal.uid.clone(), goal.overlays.clone()))
            .collect();
        let last = LastState {
            policies: next.policies.values().map(Into::into).collect(),
            overlays,
        };
        self.store.save_latch(latch).map_err(io("write latch.json"))?;
        self.store.save_last(last).map_err(io("write policies.json"))
    }

    /// Clears the latch of tunnels that were released, and of those that are gone, once their policies are.
    fn remember_enforced(&mut self) {
        let snapshot = self.snapshots.borrow().clone();
        let desired = &self.state.desired;
        let stands = self
            .view
            .read(|view| view.programmed >= desired.revision && view.refused.is_empty());
        if !snapshot.synced || desired.revision == 0 || !stands {
            return;
        }
        let kept = |uid: &String| {
            let goal = desired.tunnels.iter().find(|goal| goal.uid == *uid);
            let exists = snapshot.tunnels.iter().any(|tunnel| tunnel.uid == *uid);
            // A refused object may come back as it was.
            exists && goal.is_none_or(|goal| !goal.releases) || !snapshot.refused.is_empty() && !exists
        };
        let latch = Latch {
            enforced: self
                .store
                .latch()
                .enforced
                .iter()
                .filter(|uid| kept(uid))
                .cloned()
                .collect(),
        };
        if let Err(error) = self.store.save_latch(latch) {
            tracing::warn!(%error, "latch.json was not written");
        }
    }

    fn report_readiness(&self, snapshot: &Snapshot) {
        let desired = &self.state.desired;
        let reason = self.view.read(|view| {
            if let Some(obstacle) = &view.obstacle {
                return Some(obstacle.message.clone());
            }
            if !view.running {
                return Some("starting".to_owned());
            }
            if !snapshot.synced {
                return Some("waiting for the API server".to_owned());
            }
            if snapshot.own.is_none() {
                return Some("waiting for the operator to publish this node".to_owned());
            }
            let refused = view.refused.values().next().cloned();
            refused
                .or_else(|| (view.programmed < desired.revision).then(|| "programming policies".to_owned()))
        });
        self.readiness.set(reason);
    }
}

fn gone(part: &str) -> AppError {
    AppError::Other(format!("{part} ended"))
}

/// A receiver that keeps the last value and never reports another.
fn kept<T: Clone + Send + Sync + 'static>(receiver: &watch::Receiver<T>) -> watch::Receiver<T> {
    let (sender, kept) = watch::channel(receiver.borrow().clone());
    // The sender lives as long as the process: one value, once.
    std::mem::forget(sender);
    kept
}

fn provider(choice: CryptoProvider) -> Result<&'static ipsecmesh_ike::crypto::Provider, AppError> {
    let name = match choice {
        CryptoProvider::AwsLcRs => "aws-lc-rs",
        CryptoProvider::RustCrypto => "rustcrypto",
    };
    ipsecmesh_crypto::by_name(name)
        .ok_or_else(|| AppError::Other(format!("--crypto-provider: there is no {name}")))
}

async fn serve(args: &RunArgs, shared: Shared, metrics: &Metrics) -> Result<Vec<Task>, AppError> {
    let local = server::listen(args.health_listen, "--health-listen")
        .await
        .map_err(AppError::Other)?;
    let public = server::listen(args.metrics_listen, "--metrics-listen")
        .await
        .map_err(AppError::Other)?;
    let control = server::listen_control(&args.run_dir.join(CONTROL_SOCKET)).map_err(AppError::Other)?;
    let readiness = shared.readiness.clone();
    Ok(vec![
        Task::spawn("health server", server::serve_health(local, readiness)),
        Task::spawn("control server", server::serve_control(control, shared)),
        Task::spawn("metrics server", server::serve_metrics(public, metrics.clone())),
    ])
}
