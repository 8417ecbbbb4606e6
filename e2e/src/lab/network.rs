//! The lab's wire: a network namespace with a bridge for the nodes and one for their management, a tap per node device.
//!
//! Nothing leaves the namespace; a proxy on the host's loopback is the only way in, so two labs never meet.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    sync::mpsc,
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{command, state};
use crate::{
    error::{Context, Error, Result},
    protocol::PeerNode,
};

/// The lab's own address on the node network: the API server listens here.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The lab's own address on the management network.
pub const MANAGEMENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// Bridge of the node network.
pub const NODE_BRIDGE: &str = "br-nodes";
const MANAGEMENT_BRIDGE: &str = "br-mgmt";

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and a thread that lives in it.
#[derive(Debug)]
pub struct Network {
    name: String,
    jobs: mpsc::Sender<Job>,
}

impl Network {
    /// Makes the namespace and its bridges.
    pub fn create(name: &str) -> Result<Self> {
        command::run("ip", &["netns", "add", name])?;
        let ip = |arguments: &str| -> Result<String> {
            let words: Vec<&str> = ["-n", name].into_iter().chain(arguments.split(' ')).collect();
            command::run("ip", &words)
        };
        ip("link set lo up")?;
        for (bridge, address) in [
            (NODE_BRIDGE, HOST_ADDRESS),
            (MANAGEMENT_BRIDGE, MANAGEMENT_ADDRESS),
        ] {
            ip(&format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            ))?;
            ip(&format!("link set {bridge} addrgenmode none"))?;
            ip(&format!("address add {address}/24 dev {bridge}"))?;
            ip(&format!("link set {bridge} up"))?;
        }
        Ok(Self {
            name: name.into(),
            jobs: inhabit(name)?,
        })
    }

    /// The namespace's file, for whoever wants to step inside.
    pub fn file(&self) -> PathBuf {
        state::namespace_file(&self.name)
    }

    /// Makes a node's two taps, uplink and management, and the way back to its pods.
    pub fn add_taps(&self, index: u8) -> Result<()> {
        for (tap, bridge) in [
            (uplink_tap(index), NODE_BRIDGE),
            (management_tap(index), MANAGEMENT_BRIDGE),
        ] {
            self.ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
            self.ip(&["link", "set", &tap, "addrgenmode", "none"])?;
            self.ip(&["link", "set", &tap, "master", bridge])?;
            self.ip(&["link", "set", &tap, "up"])?;
        }
        let (pods, node) = way_to_pods(index);
        self.ip(&["route", "replace", &pods, "via", &node]).map(drop)
    }

    /// Removes a node's taps.
    pub fn remove_taps(&self, index: u8) -> Result<()> {
        self.ip(&["route", "delete", &way_to_pods(index).0])?;
        self.ip(&["link", "delete", &uplink_tap(index)])?;
        self.ip(&["link", "delete", &management_tap(index)]).map(drop)
    }

    /// Cuts a node off the node network, or puts it back; its management stays.
    pub fn connect(&self, index: u8, connected: bool) -> Result<()> {
        let tap = uplink_tap(index);
        if connected {
            self.ip(&["link", "set", &tap, "master", NODE_BRIDGE]).map(drop)
        } else {
            self.ip(&["link", "set", &tap, "nomaster"]).map(drop)
        }
    }

    /// Starts a process inside. It dies with the thread that lives here, thus with this program.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.inside(move || command.spawn())?
            .context(|| "start a process in the lab".into())
    }

    /// Leads connections to a free port of the host's loopback to `target` inside; answers the port.
    pub fn proxy(&self, target: SocketAddr) -> Result<u16> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "listen on 127.0.0.1".into())?;
        let port = listener.local_addr().context(|| "own port".into())?.port();
        let namespace = self.file();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let namespace = namespace.clone();
                thread::spawn(move || forward(client, namespace, target));
            }
        });
        Ok(port)
    }

    /// Runs `ip` on the namespace.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let words: Vec<&str> = ["-n", &self.name]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        command::run("ip", &words)
    }

    /// Runs `job` on the thread that lives in the namespace.
    fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = mpsc::channel();
        let gone = || Error::observed("the thread inside the lab's namespace ended");
        self.jobs
            .send(Box::new(move || {
                let _ = answer.send(job());
            }))
            .map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())
    }
}

/// Tap of a node's uplink: what crosses it is what crosses the wire.
pub fn uplink_tap(index: u8) -> String {
    format!("node{index}")
}

/// Tap of a node's management device.
pub fn management_tap(index: u8) -> String {
    format!("mgmt{index}")
}

/// A node's pods and the node: what a kernel without address translation sends in their own name comes back.
fn way_to_pods(index: u8) -> (String, String) {
    let node = PeerNode::numbered("", index);
    (node.pod_cidr.to_string(), node.address.to_string())
}

/// A thread in the namespace that does what it is sent, and its children's parent as the kernel sees it.
fn inhabit(name: &str) -> Result<mpsc::Sender<Job>> {
    let file = state::namespace_file(name);
    let (jobs, incoming) = mpsc::channel::<Job>();
    let (entered, result) = mpsc::channel();
    thread::spawn(move || {
        let entry = enter(file);
        let inside = entry.is_ok();
        let _ = entered.send(entry);
        if inside {
            for job in incoming {
                job();
            }
        }
    });
    result
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("thread ended")))
        .context(|| format!("enter network namespace {name}"))?;
    Ok(jobs)
}

fn enter(namespace: PathBuf) -> io::Result<()> {
    Ok(setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?)
}

/// One connection; a socket belongs to the namespace of the thread that makes it.
fn forward(client: TcpStream, namespace: PathBuf, target: SocketAddr) -> io::Result<()> {
    enter(namespace)?;
    let server = TcpStream::connect(target)?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let upstream = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ = io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = from_server.shutdown(Shutdown::Both);
    upstream
        .join()
        .map_err(|_| io::Error::other("proxy thread panicked"))
}
