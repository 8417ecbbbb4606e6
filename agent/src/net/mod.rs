//! The agent's sockets: UDP 500 and 4500 (RFC 7296 §2, RFC 3948), on every address of the host.

mod marker;
mod owner;
mod udp;

pub(crate) use udp::UdpSockets;
