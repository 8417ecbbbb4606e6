//! Two hosts on one wire, and a third behind the second: network namespaces, sockets in them, and what crosses the wire.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use ipsecmesh_dataplane::{KernelDataPlane, SaFeatures};
use ipsecmesh_xfrm::udp;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};

use super::linux::{ip, run};
use super::suite::{here, here6, there, there6};

/// Port of ESP in UDP.
const ENCAPSULATED: u16 = 4500;
const OUTGOING: u8 = 4;
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The three hosts.
pub(crate) struct Net {
    /// Has the inner addresses of [`near`] itself.
    pub(crate) a: Host,
    /// Forwards to `c`.
    pub(crate) b: Host,
    /// Behind `b`, with the inner addresses of [`far`].
    pub(crate) c: Host,
    _encapsulated: Vec<UdpSocket>,
}

/// One host.
pub(crate) struct Host(File);

/// The inner address of `a`.
pub(crate) fn near(ipv4: bool) -> IpAddr {
    if ipv4 {
        [10, 1, 0, 1].into()
    } else {
        [0xfd00, 1, 0, 0, 0, 0, 0, 1].into()
    }
}

/// The inner address of `b`.
pub(crate) fn middle(ipv4: bool) -> IpAddr {
    if ipv4 {
        [10, 2, 0, 1].into()
    } else {
        [0xfd00, 2, 0, 0, 0, 0, 0, 1].into()
    }
}

/// The address of `c`.
pub(crate) fn far(ipv4: bool) -> IpAddr {
    if ipv4 {
        [10, 2, 0, 2].into()
    } else {
        [0xfd00, 2, 0, 0, 0, 0, 0, 2].into()
    }
}

impl Net {
    /// Leaves the calling thread in the last of the three namespaces. Needs root.
    pub(crate) fn build() -> Result<Self, String> {
        let (a, b, c) = (Host::new()?, Host::new()?, Host::new()?);
        b.enter()?;
        ip(&format!(
            "link add wire1 type veth peer name wire0 netns {}",
            a.path()
        ))?;
        ip(&format!(
            "link add yard0 type veth peer name yard1 netns {}",
            c.path()
        ))?;
        b.addresses("wire1", &[(there(), 24), (there6(), 64)])?;
        b.addresses("yard0", &[(middle(true), 24), (middle(false), 64)])?;
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            b.set(setting, "1")?;
        }
        b.enter()?;
        b.route(near(true), 32, here())?;
        b.route(near(false), 128, here6())?;
        a.addresses("wire0", &[(here(), 24), (here6(), 64)])?;
        a.addresses("lo", &[(near(true), 32), (near(false), 128)])?;
        a.route([10, 2, 0, 0].into(), 16, there())?;
        a.route([0xfd00, 2, 0, 0, 0, 0, 0, 0].into(), 32, there6())?;
        c.addresses("yard1", &[(far(true), 24), (far(false), 64)])?;
        c.route([0, 0, 0, 0].into(), 0, middle(true))?;
        c.route([0; 8].into(), 0, middle(false))?;
        let mut encapsulated = Vec::new();
        for (host, addresses) in [(&a, [here(), here6()]), (&b, [there(), there6()])] {
            for address in addresses {
                encapsulated.push(host.encapsulated(address)?);
            }
        }
        Ok(Self {
            a,
            b,
            c,
            _encapsulated: encapsulated,
        })
    }
}

impl Host {
    fn new() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("a new network namespace needs root: {error}"))?;
        let file = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        let host = Self(file);
        // Duplicate address detection would keep the addresses unusable for seconds.
        for setting in ["ipv6/conf/default/accept_dad", "ipv6/conf/default/dad_transmits"] {
            host.set(setting, "0")?;
        }
        ip("link set lo up")?;
        Ok(host)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Moves the calling thread here.
    pub(crate) fn enter(&self) -> Result<(), String> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|error| format!("enter a namespace: {error}"))
    }

    /// Writes a kernel parameter below `net`.
    pub(crate) fn set(&self, setting: &str, value: &str) -> Result<(), String> {
        self.enter()?;
        let path = format!("/proc/sys/net/{setting}");
        std::fs::write(&path, value).map_err(|error| format!("write {path}: {error}"))
    }

    fn addresses(&self, device: &str, addresses: &[(IpAddr, u8)]) -> Result<(), String> {
        self.enter()?;
        for (address, length) in addresses {
            ip(&format!("address add {address}/{length} dev {device}"))?;
        }
        ip(&format!("link set {device} up"))
    }

    fn route(&self, network: IpAddr, length: u8, through: IpAddr) -> Result<(), String> {
        self.enter()?;
        let own = if length == 16 || length == 32 && network.is_ipv6() {
            format!(" src {}", near(network.is_ipv4()))
        } else {
            String::new()
        };
        ip(&format!("route add {network}/{length} via {through}{own}"))
    }

    /// The data plane of this host.
    pub(crate) async fn plane(&self, features: SaFeatures) -> Result<KernelDataPlane, String> {
        self.enter()?;
        KernelDataPlane::open(features)
            .await
            .map_err(|error| error.to_string())
    }

    /// A socket here.
    pub(crate) fn socket(&self, address: IpAddr, port: u16) -> Result<UdpSocket, String> {
        self.enter()?;
        let socket = UdpSocket::bind((address, port)).map_err(|error| format!("bind {address}: {error}"))?;
        let bounded = socket.set_read_timeout(Some(PATIENCE));
        bounded.map_err(|error| error.to_string())?;
        Ok(socket)
    }

    /// A socket that takes ESP out of UDP.
    pub(crate) fn encapsulated(&self, address: IpAddr) -> Result<UdpSocket, String> {
        let socket = self.socket(address, ENCAPSULATED)?;
        // As the agent's sockets: a policy for all UDP between the two would drop ESP in UDP before it is taken out.
        udp::allow(socket.as_fd(), address.is_ipv4()).map_err(|error| format!("pass policies: {error}"))?;
        udp::take_esp(socket.as_fd()).map_err(|error| format!("take ESP out of UDP: {error}"))?;
        Ok(socket)
    }

    /// Runs `tc` here.
    pub(crate) fn tc(&self, arguments: &str) -> Result<(), String> {
        self.enter()?;
        run("tc", arguments)
    }

    /// A counter of `/proc/net/xfrm_stat` here.
    pub(crate) fn counter(&self, name: &str) -> Result<u64, String> {
        self.enter()?;
        let path = "/proc/thread-self/net/xfrm_stat";
        let text = std::fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.ok_or_else(|| format!("{path} has no {name}"))
    }

    /// Sees from now on what leaves through a device of this host.
    pub(crate) fn watch(&self, device: &str) -> Result<Wire, String> {
        self.enter()?;
        let failed = |error: nix::Error| format!("watch {device}: {error}");
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .map_err(failed)?;
        let index = nix::net::if_::if_nametoindex(device).map_err(failed)?;
        Ok(Wire {
            socket,
            index: usize::try_from(index).unwrap_or_default(),
        })
    }
}

/// What leaves through a device.
pub(crate) struct Wire {
    socket: OwnedFd,
    index: usize,
}

impl Wire {
    /// The IP packets that have left since the last call.
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            let left = from.is_some_and(|from| from.pkttype() == OUTGOING && from.ifindex() == self.index);
            if left {
                packets.push(buffer[..length].to_vec());
            }
        }
        packets
    }
}

/// Sends `text` and waits for it at the other socket.
pub(crate) fn deliver(
    from: &UdpSocket,
    to: &UdpSocket,
    address: SocketAddr,
    text: &str,
) -> Result<SocketAddr, String> {
    from.send_to(text.as_bytes(), address)
        .map_err(|error| format!("send to {address}: {error}"))?;
    let mut buffer = [0; 2048];
    loop {
        let (length, source) = to
            .recv_from(&mut buffer)
            .map_err(|error| format!("{text:?} did not reach {address}: {error}"))?;
        if &buffer[..length] == text.as_bytes() {
            return Ok(source);
        }
    }
}

/// Nothing that was sent may come.
pub(crate) fn refuse(
    from: &UdpSocket,
    to: &UdpSocket,
    address: SocketAddr,
    text: &str,
) -> Result<(), String> {
    let brief = |time| to.set_read_timeout(Some(time)).map_err(|error| error.to_string());
    brief(Duration::from_millis(200))?;
    // The sender's own policy may refuse it: that is as good.
    drop(from.send_to(text.as_bytes(), address));
    let mut buffer = [0; 2048];
    let came = match to.recv_from(&mut buffer) {
        Ok(_) => Err(format!("{text:?} reached {address}")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    brief(PATIENCE)?;
    came
}
