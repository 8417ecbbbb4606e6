//! The pod network's CNI: a network namespace with a veth into the node's bridge, addresses from the node's pod CIDR.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use ipnet::Ipv4Net;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{network::BRIDGE, shell};

/// Where `ip netns` looks for names.
const NAMESPACES: &str = "/run/netns";

/// Hands out addresses and keeps which pod has which.
#[derive(Debug)]
pub(super) struct PodNetwork {
    cidr: Ipv4Net,
    mtu: u32,
    addresses: Mutex<BTreeMap<Ipv4Addr, String>>,
}

/// A pod's place on the network.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// Its network namespace.
    pub(super) namespace: PathBuf,
}

impl PodNetwork {
    pub(super) fn new(cidr: Ipv4Net, mtu: u32) -> Self {
        Self {
            cidr,
            mtu,
            addresses: Mutex::default(),
        }
    }

    /// Makes the namespace and the veth of the pod with this UID.
    pub(super) async fn attach(&self, uid: &str) -> io::Result<Attachment> {
        let address = self.allocate(uid)?;
        match self.plug(uid, address).await {
            Ok(namespace) => Ok(Attachment { address, namespace }),
            Err(error) => {
                self.detach(uid).await;
                Err(error)
            }
        }
    }

    /// Takes both away again; the address may be given to another pod. Removing what is not there is fine.
    pub(super) async fn detach(&self, uid: &str) {
        let device = veth(uid);
        // INVARIANT: the kernel removes the veth with its namespace if this was too early.
        let _ = shell::run(&["ip", "link", "delete", &device], "").await;
        let path = Path::new(NAMESPACES).join(uid);
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
        self.lock().retain(|_, owner| owner != uid);
    }

    async fn plug(&self, uid: &str, address: Ipv4Addr) -> io::Result<PathBuf> {
        let path = Path::new(NAMESPACES).join(uid);
        make_namespace(path.clone())?;
        let (device, mtu, prefix) = (veth(uid), self.mtu, self.cidr.prefix_len());
        let gateway = self.gateway();
        let node_side = format!(
            "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {uid}\n\
             link set {device} master {BRIDGE} up\n"
        );
        let pod_side = format!(
            "link set lo up\naddress add {address}/{prefix} dev eth0\nlink set eth0 up\n\
             route add default via {gateway}\n"
        );
        shell::run(&["ip", "-batch", "-"], &node_side).await?;
        shell::run(&["ip", "-n", uid, "-batch", "-"], &pod_side).await?;
        Ok(path)
    }

    fn allocate(&self, uid: &str) -> io::Result<Ipv4Addr> {
        let mut addresses = self.lock();
        let free = self
            .cidr
            .hosts()
            .skip(1)
            .find(|address| !addresses.contains_key(address));
        let address = free.ok_or_else(|| io::Error::other(format!("no address is left in {}", self.cidr)))?;
        addresses.insert(address, uid.to_owned());
        Ok(address)
    }

    fn gateway(&self) -> Ipv4Addr {
        self.cidr.hosts().next().unwrap_or(self.cidr.addr())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ipv4Addr, String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of its own enters the new namespace, gives it a name and ends.
fn make_namespace(path: PathBuf) -> io::Result<()> {
    fs::create_dir_all(NAMESPACES)?;
    File::create(&path)?;
    let making = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
    });
    making
        .join()
        .map_err(|_| io::Error::other("namespace thread panicked"))?
        .map_err(io::Error::from)
}

/// A device name has at most 15 bytes.
fn veth(uid: &str) -> String {
    format!(
        "veth{}",
        uid.chars()
            .filter(char::is_ascii_hexdigit)
            .take(10)
            .collect::<String>()
    )
}
