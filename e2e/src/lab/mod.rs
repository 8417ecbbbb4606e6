//! A cluster on one machine: real control plane, real kernels, real helm; nothing of it outlives it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock, RwLock},
    time::Duration,
};

use crate::{
    capture::Capture,
    error::{Context, Error, Result, eventually},
    protocol::PeerNode,
    report::Progress,
};

mod agents;
pub mod binaries;
pub mod cache;
pub mod charts;
pub mod command;
mod controlplane;
pub mod detached;
pub mod hosts;
mod kernel;
pub mod machine;
pub mod network;
mod node;
pub mod pki;
mod process;
pub mod product;
pub mod state;
pub mod suite;
mod tools;

pub use agents::KernelSa;
use binaries::Binaries;
pub use controlplane::ControlPlane;
pub use kernel::Kernel;
pub use network::Network;
pub use node::{Node, NodeOptions, Site};
use pki::Pki;
pub use process::Process;
use state::State;
pub use tools::{Helm, Kubectl};

/// How long a booted node may take to be Ready.
const NODE_READY: Duration = Duration::from_mins(1);

/// Which lab to start.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Tells apart the labs of one checkout: `lab`, `demo`, `test`.
    pub instance: String,
    /// Nodes to boot at once.
    pub nodes: Vec<String>,
}

impl LabOptions {
    /// An instance with nodes `worker-1` to `worker-COUNT`.
    pub fn new(instance: &str, count: u8) -> Self {
        Self {
            instance: instance.into(),
            nodes: (1..=count).map(|index| format!("worker-{index}")).collect(),
        }
    }
}

/// A running lab. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    checkout: PathBuf,
    tools: cache::Tools,
    binaries: OnceLock<Binaries>,
    pki: Pki,
    state: Arc<State>,
    network: Network,
    plane: ControlPlane,
    helm: Helm,
    nodes: RwLock<BTreeMap<String, Arc<Node>>>,
}

impl Lab {
    /// Builds what is missing and boots a cluster; every node is Ready when it returns.
    pub fn start(options: &LabOptions, progress: &Progress) -> Result<Arc<Self>> {
        let lab = Self::start_control_plane(options, progress)?;
        progress.step("build the product and the lab's programs", || lab.build())?;
        progress.step(&format!("boot {} nodes", options.nodes.len()), || {
            lab.boot(&options.nodes)
        })?;
        progress.step("all nodes are Ready", || lab.wait_for_nodes(&options.nodes))?;
        Ok(Arc::new(lab))
    }

    /// A cluster without nodes: enough to validate objects.
    pub fn start_control_plane(options: &LabOptions, progress: &Progress) -> Result<Self> {
        let checkout = checkout()?;
        let folder = folder(&options.instance)?;
        take_over(&folder)?;
        let tools = cache::Tools::prepare(&checkout, progress)?;
        prepare_folder(&folder)?;
        let namespace = namespace(&options.instance)?;
        let state = Arc::new(State::create(&folder, &namespace)?);
        clean_up_on_signal(&folder)?;
        let boot = || {
            let network = Network::create(&namespace)?;
            let pki = Pki::create(&folder.join("pki"))?;
            let plane = ControlPlane::start(&folder, &tools, &network, &pki, &state)?;
            Ok((network, pki, plane))
        };
        let started = progress.step(
            &format!("start the control plane, Kubernetes {}", cache::KUBERNETES),
            boot,
        );
        let (network, pki, plane) = started.inspect_err(|_| drop(state::sweep(&folder)))?;
        let helm = Helm::new(&folder, &tools.helm, &folder.join("kubeconfig"))?;
        let (binaries, nodes) = (OnceLock::new(), RwLock::default());
        Ok(Self {
            folder,
            checkout,
            tools,
            binaries,
            pki,
            state,
            network,
            plane,
            helm,
            nodes,
        })
    }

    /// Tells other processes that everything stands.
    pub fn mark_ready(&self) -> Result<()> {
        self.state.update(|record| record.ready = true)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        self.plane.kubectl()
    }

    /// helm as the administrator.
    pub fn helm(&self) -> &Helm {
        &self.helm
    }

    /// The Go programs in the cache.
    pub fn tools(&self) -> &cache::Tools {
        &self.tools
    }

    /// The run folder: kubeconfig, logs, captures.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The checkout that this lab belongs to.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<Arc<Node>> {
        let nodes = self
            .nodes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        nodes.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = nodes.keys().map(String::as_str).collect();
            Error::observed(format!("the lab has no node {name}, only {}", known.join(", ")))
        })
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Boots one more node and waits until it is Ready.
    pub fn add_node(&self, name: &str, options: NodeOptions) -> Result<Arc<Node>> {
        let plain = options.plain;
        let node = self.create_node(name, options)?;
        self.tell_nodes()?;
        node.boot(&self.network, &self.state)?;
        node.wait_until_up()?;
        if !plain {
            self.wait_for_nodes(&[name])?;
        }
        Ok(node)
    }

    /// Takes a node out of the lab for good: kernel, taps, Node object.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        node.shut_down()?;
        self.nodes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(name);
        self.network.remove_taps(node.index())?;
        self.record_nodes()?;
        self.tell_nodes()?;
        self.kubectl()
            .run(&["delete", "node", name, "--ignore-not-found"])
            .map(drop)
    }

    /// Boots a node that crashed or was shut down.
    pub fn start_node(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        node.boot(&self.network, &self.state)?;
        node.wait_until_up()?;
        // What it booted with may be older than the lab is now.
        self.tell_nodes()
    }

    /// Cuts a node off the node network.
    pub fn partition(&self, name: &str) -> Result<()> {
        self.network.connect(self.node(name)?.index(), false)
    }

    /// Ends [`Lab::partition`].
    pub fn heal(&self, name: &str) -> Result<()> {
        self.network.connect(self.node(name)?.index(), true)
    }

    /// Records what crosses a node's wire until the capture is finished.
    pub fn capture(&self, node: &str, filter: &str) -> Result<Capture> {
        Capture::start(
            &self.network,
            &self.state,
            &self.folder.join("captures"),
            &self.node(node)?.tap(),
            filter,
        )
    }

    /// Takes the API server away.
    pub fn stop_api_server(&self) -> Result<()> {
        self.plane.stop_api_server()
    }

    /// Brings the API server back.
    pub fn start_api_server(&self) -> Result<()> {
        self.plane.start_api_server(&self.network)
    }

    /// Waits until the Node objects are Ready.
    pub fn wait_for_nodes<N: AsRef<str>>(&self, names: &[N]) -> Result<()> {
        for name in names {
            let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
            self.kubectl()
                .wait_for_value(&["node", name.as_ref()], ready, "True", NODE_READY)
                .map_err(|error| self.with_node_log(name.as_ref(), &error))?;
        }
        Ok(())
    }

    /// Waits until every pod of a namespace is Ready, at least `count` of them.
    pub fn wait_for_pods(&self, namespace: &str, count: usize, limit: Duration) -> Result<()> {
        let template = "{range .items[*]}{.metadata.name} {.status.phase} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
        eventually(&format!("{count} pods are Ready in {namespace}"), limit, || {
            let text = self.kubectl().value(&["pods", "-n", namespace], template)?;
            let ready = text.lines().filter(|line| line.ends_with(" True")).count();
            let all = text.lines().filter(|line| !line.contains(" Succeeded ")).count();
            if ready >= count && ready == all {
                Ok(())
            } else {
                Err(Error::observed(text.trim().to_owned()))
            }
        })
    }

    /// Ends the lab and removes what it made. Repeating it is harmless.
    pub fn stop(&self) -> Result<()> {
        state::sweep(&self.folder)
    }

    fn build(&self) -> Result<()> {
        let binaries = Binaries::build(&self.checkout, &self.folder.join("bin"))?;
        self.binaries
            .set(binaries)
            .map_err(|_| Error::observed("the programs are built already"))
    }

    fn binaries(&self) -> Result<&Binaries> {
        self.binaries
            .get()
            .ok_or_else(|| Error::observed("a lab without programs boots no node"))
    }

    fn boot(&self, names: &[String]) -> Result<()> {
        for name in names {
            self.create_node(name, NodeOptions::default())?;
        }
        for node in self.nodes() {
            node.boot(&self.network, &self.state)?;
        }
        self.nodes().iter().try_for_each(|node| node.wait_until_up())?;
        self.tell_nodes()
    }

    fn create_node(&self, name: &str, options: NodeOptions) -> Result<Arc<Node>> {
        let site = Site {
            folder: &self.folder,
            network: &self.network,
            pki: &self.pki,
            init: self.binaries()?.path("ipsecmesh-lab-node")?,
            images: self.binaries()?.images()?,
        };
        let mut nodes = self
            .nodes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let used: Vec<u8> = nodes.values().map(|node| node.index()).collect();
        let index = (1..=200)
            .find(|index| !used.contains(index))
            .ok_or_else(|| Error::observed("200 nodes are enough"))?;
        let mut peers: Vec<PeerNode> = nodes
            .values()
            .map(|node| PeerNode::numbered(node.name(), node.index()))
            .collect();
        peers.push(PeerNode::numbered(name, index));
        let node = Arc::new(Node::create(index, name, options, &site, peers)?);
        nodes.insert(name.into(), node.clone());
        drop(nodes);
        self.record_nodes()?;
        Ok(node)
    }

    fn record_nodes(&self) -> Result<()> {
        let nodes = self.nodes();
        self.state.update(|record| {
            let management = |node: &Arc<Node>| std::net::Ipv4Addr::new(172, 31, 0, 10 + node.index());
            record.nodes = nodes
                .iter()
                .map(|node| (node.name().to_owned(), management(node)))
                .collect();
        })
    }

    /// Gives every running node the list of all nodes: what a CNI's daemon learns from the API.
    fn tell_nodes(&self) -> Result<()> {
        let nodes = self.nodes();
        let list: Vec<PeerNode> = nodes
            .iter()
            .map(|node| PeerNode::numbered(node.name(), node.index()))
            .collect();
        for node in nodes
            .iter()
            .filter(|node| node.channel().wait_ready(Duration::ZERO).is_ok())
        {
            node.channel()
                .set_nodes(list.clone())
                .context(|| format!("tell {} the list of nodes", node.name()))?;
        }
        Ok(())
    }

    fn with_node_log(&self, name: &str, error: &Error) -> Error {
        let log = self.folder.join("nodes").join(name).join("log/node.log");
        Error::observed(format!("{error}\n{}:\n{}", log.display(), command::tail(&log)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::report::fail("removing the lab", &error);
        }
    }
}

/// The folder of an instance, below cargo's target folder, which several checkouts may share.
pub fn folder(instance: &str) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) if !folder.is_empty() => {
            std::path::absolute(&folder).context(|| "CARGO_TARGET_DIR".into())?
        }
        _ => checkout()?.join("target"),
    };
    Ok(target
        .join("lab")
        .join(format!("{}-{instance}", cache::path_hash(&checkout()?))))
}

/// The network namespace of an instance.
pub fn namespace(instance: &str) -> Result<String> {
    Ok(format!("ipsecmesh-{}-{instance}", cache::path_hash(&checkout()?)))
}

/// The checkout that this program was built from.
pub fn checkout() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize()
        .context(|| format!("find the checkout {}", root.display()))
}

/// Sweeps what a killed run left; refuses while its owner lives.
fn take_over(folder: &Path) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Error::observed(
            "the lab makes network namespaces and taps: run it as root",
        ));
    }
    let owner = State::read(folder).and_then(|record| record.owner);
    if let Some(owner) =
        owner.filter(|owner| owner.alive() && owner.pid.cast_unsigned() != std::process::id())
    {
        return Err(Error::observed(format!(
            "a lab of this checkout already runs (process {}); end it with `make lab-down`",
            owner.pid
        )));
    }
    state::sweep(folder)
}

/// An empty run folder; the logs of the last run make room for those of this one.
fn prepare_folder(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    for part in ["bin", "log", "captures", "nodes"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

/// Ctrl-C and SIGTERM remove the lab before they end the program.
///
/// By handlers and not by a mask: a mask would be inherited by every program that the lab starts, and none of them could
/// be ended by a signal any more.
fn clean_up_on_signal(folder: &Path) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    const INTERRUPTED: i32 = 130;
    let folder = folder.to_owned();
    let what = || "handle signals".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context(what)?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context(what)?;
    let mut terminate = signal(SignalKind::terminate()).context(what)?;
    let mut hangup = signal(SignalKind::hangup()).context(what)?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        crate::report::say("\ninterrupted: removing the lab");
        let _ = state::sweep(&folder);
        #[expect(
            clippy::disallowed_methods,
            reason = "the lab is swept already, and no other thread may start a part of it again"
        )]
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// A command of `e2e/tools`, for whoever needs another than helm.
pub fn tool(program: &Path, arguments: &[&str], folder: &Path) -> Result<String> {
    command::finish(Command::new(program).args(arguments).current_dir(folder), None)
}
