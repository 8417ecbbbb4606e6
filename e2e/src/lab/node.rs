//! A node: a Linux kernel as a process (User Mode Linux) with our init as PID 1, on two taps of the lab's network.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::Ipv4Net;
use nix::sys::signal::Signal;

use super::{
    kernel::Kernel,
    network::{HOST_ADDRESS, Network, management_tap, uplink_tap},
    pki::Pki,
    process::Process,
    state::State,
};
use crate::{
    error::{Context, Error, Result},
    node_channel::NodeChannel,
    protocol::{
        API_SERVER_PORT, ApiServer, CONFIG_PARAMETER, DEFAULT_MODULES, EXEC_PORT, Image, Nic, NodeConfig,
        Overlay, PeerNode, ROOT_PARAMETER, Taint,
    },
};

const MEMORY: &str = "256M";
const BOOT: Duration = Duration::from_mins(1);

/// What a node may differ in from the others.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Labels that its Node registers with.
    pub labels: BTreeMap<String, String>,
    /// Kernel modules that must not be loaded.
    pub modules_without: Vec<String>,
    /// Taints that its Node registers with.
    pub taints: Vec<Taint>,
    /// No kubelet: a plain machine on the node network.
    pub plain: bool,
    /// Which kernel it runs; its user space is this machine's with any of them.
    pub kernel: Kernel,
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    name: String,
    index: u8,
    folder: PathBuf,
    init: PathBuf,
    kernel: Kernel,
    channel: NodeChannel,
    process: Mutex<Option<Process>>,
}

impl Node {
    /// Writes the node's configuration; [`Node::boot`] starts it.
    pub fn create(
        index: u8,
        name: &str,
        options: NodeOptions,
        site: &Site<'_>,
        peers: Vec<PeerNode>,
    ) -> Result<Self> {
        let folder = site.folder.join("nodes").join(name);
        for part in ["state", "log"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).context(|| format!("make {}", path.display()))?;
        }
        site.network.add_taps(index)?;
        let kernel = options.kernel.clone();
        let config = config(index, name, options, site, peers, &folder)?;
        write_config(&folder, &config)?;
        let management = SocketAddrV4::new(config.management.address.addr(), EXEC_PORT);
        Ok(Self {
            name: name.into(),
            index,
            folder,
            init: site.init.into(),
            kernel,
            channel: NodeChannel::new(management, Some(site.network.file())),
            process: Mutex::default(),
        })
    }

    /// The Node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its address on the node network.
    pub fn address(&self) -> Ipv4Addr {
        PeerNode::numbered(&self.name, self.index).address
    }

    /// The tap that is its wire.
    pub fn tap(&self) -> String {
        uplink_tap(self.index)
    }

    /// Its exec channel.
    pub fn channel(&self) -> &NodeChannel {
        &self.channel
    }

    /// Folder with the logs of its init, kubelet and containers.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Folder that the node sees as `/var/lib/ipsecmesh`: its disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Log of the kernel's console.
    pub fn console(&self) -> PathBuf {
        self.folder.join("log/console.log")
    }

    /// Starts the kernel; [`Node::wait_until_up`] waits for it.
    pub fn boot(&self, network: &Network, state: &Arc<State>) -> Result<()> {
        let sockets = self.folder.join("uml");
        let _ = fs::remove_dir_all(&sockets);
        fs::create_dir_all(&sockets).context(|| format!("make {}", sockets.display()))?;
        let arguments = vec![
            format!("mem={MEMORY}"),
            format!("umid={}", self.name),
            format!("uml_dir={}", self.kernel.seen(&sockets).display()),
            "rootfstype=hostfs".into(),
            format!("{ROOT_PARAMETER}{}", self.kernel.seen(Path::new("/")).display()),
            "rw".into(),
            "panic=1".into(),
            "con=null".into(),
            "con0=null,fd:1".into(),
            "ssl=null".into(),
            format!("init={}", self.init.display()),
            format!("{CONFIG_PARAMETER}{}", self.folder.join("config.json").display()),
            device("vec0", &uplink_tap(self.index), 0x1e, self.index),
            device("vec1", &management_tap(self.index), 0x1f, self.index),
        ];
        let name = format!("node {}", self.name);
        let (program, arguments) = self.kernel.command(arguments);
        let process = Process::start(&name, network, state, program, &arguments, &self.console())?;
        *self.process() = Some(process);
        Ok(())
    }

    /// Waits until its network stands and its exec channel answers.
    pub fn wait_until_up(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + BOOT;
        loop {
            if let Some(process) = self.process().as_ref() {
                process.check()?;
            }
            match self.channel.wait_ready(Duration::ZERO) {
                Ok(()) => return Ok(()),
                Err(error) if std::time::Instant::now() >= deadline => {
                    return Err(Error::Timeout {
                        what: format!("node {} is up (console: {})", self.name, self.console().display()),
                        limit: BOOT,
                        last: error.to_string(),
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The crash: the kernel is gone from one instruction to the next.
    pub fn crash(&self) -> Result<()> {
        let process = self.process().take();
        process.map_or(Ok(()), |process| process.kill())
    }

    /// The orderly end: containers get SIGTERM, then the kernel stops.
    pub fn shut_down(&self) -> Result<()> {
        const GRACE: Duration = Duration::from_secs(20);
        let Some(process) = self.process().take() else {
            return Ok(());
        };
        let _ = self.channel.shutdown();
        process
            .reap(GRACE)
            .or_else(|_| process.stop(Signal::SIGTERM, Duration::from_secs(1)))
    }

    /// Runs a command on the node; standard output is the result.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let what = || format!("on {}: {}", self.name, argv.join(" "));
        self.channel
            .run(argv)
            .and_then(crate::node_channel::Output::text)
            .context(what)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all nodes of a lab share.
#[derive(Debug)]
pub struct Site<'a> {
    /// The lab's run folder.
    pub folder: &'a Path,
    /// The lab's network.
    pub network: &'a Network,
    /// Issuer of the kubelet's credentials.
    pub pki: &'a Pki,
    /// PID 1.
    pub init: &'a Path,
    /// Image reference → binary.
    pub images: BTreeMap<String, Image>,
}

fn config(
    index: u8,
    name: &str,
    options: NodeOptions,
    site: &Site<'_>,
    nodes: Vec<PeerNode>,
    folder: &Path,
) -> Result<NodeConfig> {
    let identity = format!("system:node:{name}");
    let credential = site
        .pki
        .client(&format!("node-{name}"), &identity, Some("system:nodes"))?;
    let own = PeerNode::numbered(name, index);
    let management = Ipv4Addr::new(172, 31, 0, 10 + index);
    Ok(NodeConfig {
        name: name.into(),
        index,
        uplink: Nic {
            device: "vec0".into(),
            address: Ipv4Net::new_assert(own.address, 24),
        },
        gateway: HOST_ADDRESS,
        management: Nic {
            device: "vec1".into(),
            address: Ipv4Net::new_assert(management, 24),
        },
        api_server: ApiServer {
            url: format!("https://{HOST_ADDRESS}:{API_SERVER_PORT}"),
            ca_file: site.pki.file("ca.crt"),
            client_certificate_file: credential.certificate,
            client_key_file: credential.key,
        },
        cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
        pod_cidr: own.pod_cidr,
        overlay: Overlay::default(),
        nodes,
        images: site.images.clone(),
        state_directory: folder.join("state"),
        log_directory: folder.join("log"),
        modules: DEFAULT_MODULES.iter().map(ToString::to_string).collect(),
        modules_without: options.modules_without,
        sysctls: BTreeMap::new(),
        labels: options.labels,
        taints: options.taints,
        kubelet: !options.plain,
    })
}

fn write_config(folder: &Path, config: &NodeConfig) -> Result<()> {
    let file = folder.join("config.json");
    let text = serde_json::to_string_pretty(config).map_err(|error| Error::observed(error.to_string()))?;
    fs::write(&file, text).context(|| format!("write {}", file.display()))
}

/// A network device on a tap. The address is fixed: a node that comes back is the same machine to its neighbours.
fn device(name: &str, tap: &str, kind: u8, index: u8) -> String {
    format!("{name}:transport=tap,ifname={tap},depth=128,gro=1,mac=02:{kind:02x}:00:00:00:{index:02x}")
}
