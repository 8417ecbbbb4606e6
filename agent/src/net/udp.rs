//! The UDP sockets of IKE: which address a datagram came to, and which it leaves from.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use ipsecmesh_ike::Path;
use ipsecmesh_xfrm::udp;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::engine::Sockets;
use crate::net::marker::{ENCAPSULATED, KEEPALIVE, dress, strip};
use crate::net::owner;

/// The ports of IKE (RFC 7296 §2).
const PORTS: [u16; 2] = [500, ENCAPSULATED];
/// The largest datagram of UDP.
const LARGEST: usize = 65_535;
/// What the kernel may queue: a burst of initial exchanges of a large mesh.
const QUEUE: usize = 4 << 20;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody else has the port.
    #[error("UDP port {port} is in use by {owner}; stop that IKE daemon on this node")]
    InUse {
        /// Which port.
        port: u16,
        /// By whom.
        owner: String,
    },
    /// A capability is missing.
    #[error("UDP port {port} needs {capability}: add it to the container's securityContext.capabilities")]
    Capability {
        /// Which port.
        port: u16,
        /// Which one.
        capability: &'static str,
    },
    /// Anything else.
    #[error("UDP port {port}: {source}")]
    Io {
        /// Which port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    /// A word for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "PortInUse",
            Self::Capability { .. } => "MissingCapability",
            Self::Io { .. } => "SocketFailed",
        }
    }
}

/// Both ports, for each family that the host has.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    bound: Vec<Bound>,
    /// Where the next search begins, so that one busy socket does not hide the others.
    turn: usize,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Bound {
    socket: UdpSocket,
    port: u16,
    ipv4: bool,
}

impl UdpSockets {
    /// Binds all. Must be called within a tokio runtime, in the network namespace that they are for.
    pub(crate) fn bind() -> Result<Self, BindError> {
        let mut bound = Vec::new();
        for port in PORTS {
            bound.push(open(port, true)?);
            match open(port, false) {
                Ok(socket) => bound.push(socket),
                Err(BindError::Io { source, .. }) if no_ipv6(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            bound,
            turn: 0,
            scratch: vec![0; LARGEST],
        })
    }

    /// Sends bytes as they are.
    async fn transmit(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let port = path.local.port();
        let ipv4 = path.remote.is_ipv4();
        let bound = self
            .bound
            .iter()
            .find(|bound| bound.port == port && bound.ipv4 == ipv4)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    format!("no socket for {}", path.local),
                )
            })?;
        bound
            .socket
            .async_io(Interest::WRITABLE, || send(bound.socket.as_raw_fd(), path, bytes))
            .await
    }

    /// One datagram that has come already.
    fn try_receive(&mut self, buffer: &mut Vec<u8>) -> Option<io::Result<Path>> {
        for step in 0..self.bound.len() {
            let index = (self.turn + step) % self.bound.len();
            let Some(bound) = self.bound.get(index) else {
                continue;
            };
            let scratch = &mut self.scratch;
            let received = bound.socket.try_io(Interest::READABLE, || {
                receive(bound.socket.as_raw_fd(), bound.port, scratch)
            });
            match received {
                Ok((length, path)) => {
                    self.turn = index + 1;
                    buffer.clear();
                    buffer.extend_from_slice(self.scratch.get(..length).unwrap_or_default());
                    return Some(Ok(path));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.turn = index + 1;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Sockets for UdpSockets {
    async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<Path> {
        loop {
            if let Some(received) = self.try_receive(buffer) {
                let path = received?;
                if strip(path.local.port(), buffer) {
                    return Ok(path);
                }
                continue;
            }
            let waits = self.bound.iter().map(|bound| Box::pin(bound.socket.readable()));
            futures::future::select_all(waits).await.0?;
        }
    }

    async fn send(&mut self, path: &Path, datagram: &[u8]) -> io::Result<()> {
        self.transmit(path, &dress(path.local.port(), datagram)).await
    }

    async fn keepalive(&mut self, path: &Path) -> io::Result<()> {
        self.transmit(path, &KEEPALIVE).await
    }
}

fn open(port: u16, ipv4: bool) -> Result<Bound, BindError> {
    prepare(port, ipv4).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => BindError::InUse {
            port,
            owner: owner::describe(port),
        },
        Some(libc::EACCES) => BindError::Capability {
            port,
            capability: "NET_BIND_SERVICE",
        },
        // Only the bypass policy asks for more than the port does.
        Some(libc::EPERM) => BindError::Capability {
            port,
            capability: "NET_ADMIN",
        },
        _ => BindError::Io { port, source },
    })
}

fn prepare(port: u16, ipv4: bool) -> io::Result<Bound> {
    let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    let address: SocketAddr = if ipv4 {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        (Ipv4Addr::UNSPECIFIED, port).into()
    } else {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        (Ipv6Addr::UNSPECIFIED, port).into()
    };
    // Less is granted without a capability, and less is no reason to give up.
    let _ = socket.set_recv_buffer_size(QUEUE);
    socket.bind(&address.into())?;
    udp::allow(socket.as_fd(), ipv4)?;
    if port == ENCAPSULATED
        && let Err(error) = udp::take_esp(socket.as_fd())
    {
        tracing::warn!(%error, ipv4, "this kernel takes no ESP out of UDP: peers behind NAT cannot send");
    }
    Ok(Bound {
        socket: UdpSocket::from_std(socket.into())?,
        port,
        ipv4,
    })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::ENOPROTOOPT)
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of all control messages, two are asked for"
)]
fn receive(socket: RawFd, port: u16, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let unusable = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let remote = message
        .address
        .as_ref()
        .and_then(socket_address)
        .ok_or_else(|| unusable("a datagram without a source"))?;
    let local = message
        .cmsgs()?
        .find_map(|part| match part {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::from(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
            }
            _ => None,
        })
        .ok_or_else(|| unusable("a datagram without a destination"))?;
    let path = Path {
        local: SocketAddr::new(local, port),
        remote,
    };
    Ok((message.bytes, path))
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

fn send(socket: RawFd, path: &Path, datagram: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(datagram)];
    let remote = SockaddrStorage::from(path.remote);
    let sent = match path.local.ip() {
        IpAddr::V4(local) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(local).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&remote))
        }
        IpAddr::V6(local) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&remote))
        }
    };
    sent.map(drop).map_err(io::Error::from)
}
