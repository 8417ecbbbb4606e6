//! The engine room: the one task that owns the IKE endpoint, the data plane and the sockets.
//!
//! It runs on a thread of its own, so that a slow API server cannot delay a retransmission. Commands go in through a
//! bounded channel; what happened is folded into a [`event::View`] that others read whenever they like.

pub(crate) mod adoption;
pub(crate) mod command;
pub(crate) mod event;
pub(crate) mod keepalive;
pub(crate) mod sas;
pub(crate) mod start;
pub(crate) mod task;
mod upkeep;

use std::future::Future;
use std::io;

use ipsecmesh_ike::Path;

/// Where IKE datagrams come from and go to.
pub(crate) trait Sockets: Send {
    /// Puts the next datagram into `buffer` (without the non-ESP marker) and says between which ends it travelled.
    /// Cancel-safe.
    fn receive(&mut self, buffer: &mut Vec<u8>) -> impl Future<Output = io::Result<Path>> + Send;

    /// Sends one datagram; the non-ESP marker is added where the local port wants it.
    fn send(&mut self, path: &Path, datagram: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Sends one NAT-keepalive (RFC 3948 §2.3).
    fn keepalive(&mut self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
}

#[cfg(test)]
mod tests;
