//! One trait over the ways to carry ESP: the kernel, and memory for tests.
//!
//! The agent's reconcile step and the IKE engine speak only to [`DataPlane`]; which backend stands behind it is decided
//! once, by the probe.

mod check;
pub mod kernel;
pub mod memory;
pub mod spec;

use std::future::Future;

use ipsecmesh_ike::{EffectAction, EspSpi, SaName};

pub use ipsecmesh_xfrm::SaFeatures;
pub use kernel::KernelDataPlane;
pub use memory::{MemoryDataPlane, MemoryHandle, Write};
pub use spec::*;

/// A way to carry ESP. All methods are idempotent; a failure of one item of a batch does not undo the others.
pub trait DataPlane: Send {
    /// Carries out effects of the engine in order; one outcome per effect, in the same order.
    fn apply_effects(
        &mut self,
        effects: Vec<EffectAction>,
    ) -> impl Future<Output = Vec<ipsecmesh_ike::EffectOutcome>> + Send;

    /// Installs or updates policies; one result per policy.
    fn put_policies(
        &mut self,
        policies: &[Policy],
    ) -> impl Future<Output = Vec<Result<(), DataPlaneError>>> + Send;

    /// Removes policies; one that is not there counts as removed.
    fn remove_policies(
        &mut self,
        keys: &[PolicyKey],
    ) -> impl Future<Output = Vec<Result<(), DataPlaneError>>> + Send;

    /// Writes an outbound policy once more with the same content, so that cached routes see the new SA (decision 17).
    fn touch_policies(
        &mut self,
        keys: &[PolicyKey],
    ) -> impl Future<Output = Vec<Result<(), DataPlaneError>>> + Send;

    /// Everything of ours that stands there now, and nothing else's.
    fn snapshot(&mut self) -> impl Future<Output = Result<Snapshot, DataPlaneError>> + Send;

    /// Removes SAs that a previous run left (adoption ends).
    fn remove_sas(
        &mut self,
        names: &[SaName],
    ) -> impl Future<Output = Vec<Result<(), DataPlaneError>>> + Send;

    /// How much went through SAs of ours, in the same order; `None` for one that is not there. Costs no dump.
    fn usage(&mut self, names: &[SaName]) -> impl Future<Output = Vec<Option<SaStatus>>> + Send;

    /// Whether it keeps the mapping of a NAT at this end open by itself (RFC 3948 §4) for SAs that ask for it.
    fn keeps_mappings_open(&self) -> bool;

    /// The next thing that happened in the data plane. Cancel-safe.
    fn next_event(&mut self) -> impl Future<Output = DataPlaneEvent> + Send;
}

/// What of ours stands in the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Policies with an index of our range.
    pub policies: Vec<Policy>,
    /// SAs with a reqid of our range.
    pub sas: Vec<SaStatus>,
    /// Traffic that waits for an SA since an ACQUIRE: no second one comes before it times out (30 s).
    pub waiting: Vec<Waiting>,
    /// Counts of policies and SAs that are not ours: (policies, SAs). Never touched.
    pub foreign: (usize, usize),
}

/// Traffic that waits for an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The reqid that the SA must have.
    pub reqid: u32,
    /// Its source.
    pub source: std::net::IpAddr,
    /// Its destination.
    pub destination: std::net::IpAddr,
}

/// One SA as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaStatus {
    /// SPI and addresses.
    pub name: SaName,
    /// Its reqid.
    pub reqid: u32,
    /// UDP ports (source, destination) where it travels in UDP.
    pub encapsulation: Option<(u16, u16)>,
    /// Larval: an SPI was allocated for it, it has no keys.
    pub larval: bool,
    /// Bytes so far.
    pub bytes: u64,
    /// Packets so far.
    pub packets: u64,
    /// Seconds since 1970 when it was added.
    pub added_at: u64,
    /// Seconds since 1970 of its last packet, where there was one.
    pub last_used: Option<u64>,
}

/// What happened in the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlaneEvent {
    /// Traffic waits for an SA of this reqid towards `destination`.
    Acquire {
        /// Reqid of the policy.
        reqid: u32,
        /// Source of the SA that is missing.
        source: std::net::IpAddr,
        /// Destination of the SA that is missing.
        destination: std::net::IpAddr,
    },
    /// A limit of an SA of ours was reached.
    Expire {
        /// Its SPI.
        spi: EspSpi,
        /// Hard: it is gone.
        hard: bool,
    },
    /// ESP in UDP of an inbound SA authenticated, and came from elsewhere than before.
    Mapping {
        /// The inbound SPI.
        spi: EspSpi,
        /// Where it came from.
        remote: std::net::SocketAddr,
    },
    /// Events were lost (ENOBUFS): take a snapshot and compare.
    Overrun,
}

/// Why the data plane refused. The text names the operation, the object and the errno.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {reason}")]
pub struct DataPlaneError {
    /// Such as "install policy".
    pub operation: &'static str,
    /// Such as the selector.
    pub object: String,
    /// Such as "EPERM: the agent lacks CAP_NET_ADMIN".
    pub reason: String,
}
