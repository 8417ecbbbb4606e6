//! The life of an IKE SA: three types for its three ages, each owning exactly what that age needs.
//!
//! [`Initiating`] is our own initial exchange, [`HalfOpen`] one that a peer began and has not authenticated,
//! [`IkeSa`] an SA whose peer has proven its identity.

mod close;
mod establish;
mod life;

use std::collections::{BTreeSet, VecDeque};

use std::net::IpAddr;

use crate::config::{AdditionalKeyExchange, Identity};
use crate::crypto::{
    ActiveKeyExchange, IkeKeys, IkeSuite, Intermediate, Opener, Sealer, SkD, StartedKeyExchange,
};
use crate::exchange::follow_up::Pending;
use crate::exchange::{Held, InFlight, Task};
use crate::nat::Nat;
use crate::output::{CloseReason, Failure};
use crate::time::Instant;
use crate::types::{BootId, ChildId, ChildSaId, EspSpi, IkeSaId, IkeSpi, Path, PeerId};
use crate::wire::{Header, Nonce, Role};

pub(crate) use establish::NewSa;
pub(crate) use life::Authentication;

/// Whom an IKE SPI of ours belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpiOwner {
    Initiating(IkeSaId),
    HalfOpen(IkeSaId),
    Established(IkeSaId),
}

/// Our initial exchange with a peer. The offer stays open until one of the responses has authenticated: a forged
/// IKE_SA_INIT response only adds a candidate.
pub(crate) struct Initiating {
    pub(crate) peer: PeerId,
    pub(crate) spi: IkeSpi,
    pub(crate) path: Path,
    pub(crate) nonce: Nonce,
    /// The newest is last; older ones differ in the key exchange method or the cookie.
    pub(crate) offers: Vec<Offer>,
    pub(crate) cookie: Option<Vec<u8>>,
    /// How often COOKIE or INVALID_KE_PAYLOAD made us begin again.
    pub(crate) restarts: u8,
    pub(crate) candidates: Vec<Candidate>,
    /// Transmissions so far.
    pub(crate) attempts: u32,
    /// A crossing exchange of the peer won: when this one succeeds its SA is deleted at once.
    pub(crate) lost: bool,
    /// The IKE SA that this one is to replace.
    pub(crate) replaces: Option<IkeSaId>,
    /// That one is only suspected to be lost at the peer.
    pub(crate) speculative: bool,
    /// The child that IKE_AUTH negotiates, and our SPI for it.
    pub(crate) child: Option<(ChildId, EspSpi)>,
    /// Why the last response was refused, while others may still come.
    pub(crate) refusal: Option<(Failure, String)>,
}

/// One IKE_SA_INIT request of ours.
pub(crate) struct Offer {
    pub(crate) key_exchange: Box<dyn ActiveKeyExchange>,
    /// The datagram: what our AUTH covers.
    pub(crate) request: Vec<u8>,
}

/// One response to an offer, with the IKE_AUTH request that answers it.
pub(crate) struct Candidate {
    pub(crate) spi_r: IkeSpi,
    pub(crate) nonce_r: Nonce,
    pub(crate) keys: IkeKeys,
    /// The datagram: what the peer's AUTH covers.
    pub(crate) response: Vec<u8>,
    pub(crate) path: Path,
    pub(crate) nat: Nat,
    /// Our sealed request under way, or its fragments.
    pub(crate) request: Vec<Vec<u8>>,
    /// Our IKE_SA_INIT request that it answers: what our AUTH covers.
    pub(crate) offer: Vec<u8>,
    pub(crate) suite: IkeSuite,
    pub(crate) stage: Stage,
    /// Both ends have a post-quantum preshared key.
    pub(crate) ppk: bool,
}

/// What a candidate is asked.
pub(crate) enum Stage {
    /// IKE_INTERMEDIATE: our half of an additional key exchange.
    Intermediate {
        started: StartedKeyExchange,
        /// The request as AUTH covers it.
        covered: Vec<u8>,
        /// The exchanges before this one.
        before: Option<Intermediate>,
    },
    /// IKE_AUTH, after IKE_INTERMEDIATE exchanges or without.
    Auth(Option<Intermediate>),
}

impl Candidate {
    /// The IKE_INTERMEDIATE exchanges that are done.
    pub(crate) fn intermediate(&self) -> Option<&Intermediate> {
        match &self.stage {
            Stage::Auth(done) | Stage::Intermediate { before: done, .. } => done.as_ref(),
        }
    }

    /// Message ID of the request under way.
    pub(crate) fn request_id(&self) -> u32 {
        Intermediate::next_id(self.intermediate())
    }
}

/// An exchange that a peer's address began; nothing of it is authenticated yet.
pub(crate) struct HalfOpen {
    pub(crate) peer: PeerId,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
    pub(crate) path: Path,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) nonce_i: Nonce,
    pub(crate) nonce_r: Nonce,
    pub(crate) keys: IkeKeys,
    pub(crate) nat: Nat,
    pub(crate) suite: IkeSuite,
    /// The IKE_INTERMEDIATE exchanges that are done.
    pub(crate) passed: Option<Passed>,
    pub(crate) ppk: PpkUse,
    pub(crate) outcome: HalfOpenOutcome,
}

/// What becomes of a post-quantum preshared key (RFC 8784).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PpkUse {
    /// One of the ends has none.
    Absent,
    /// Both ends have one.
    Announced,
    /// It is in the keys.
    Mixed,
}

/// IKE_INTERMEDIATE exchanges that are done.
pub(crate) struct Passed {
    pub(crate) intermediate: Intermediate,
    /// Opens the request of the last one, should it come again.
    pub(crate) opener: Opener,
    /// The response to it.
    pub(crate) response: Vec<Vec<u8>>,
}

impl HalfOpen {
    pub(crate) fn intermediate(&self) -> Option<&Intermediate> {
        self.passed.as_ref().map(|passed| &passed.intermediate)
    }

    /// Message ID of the peer's next request.
    pub(crate) fn expected(&self) -> u32 {
        Intermediate::next_id(self.intermediate())
    }

    /// The additional key exchange that comes next; `None` when it is time for IKE_AUTH.
    pub(crate) fn next_additional(&self) -> Option<AdditionalKeyExchange> {
        self.suite
            .additional
            .after(Intermediate::done(self.intermediate()))
    }

    /// Whether a message with these addresses and SPIs can be of this exchange.
    pub(crate) fn takes(&self, path: Path, header: &Header) -> bool {
        (path.local.ip(), path.remote.ip()) == (self.path.local.ip(), self.path.remote.ip())
            && header.initiator_spi == self.spi_i
            && header.flags.sender() == Role::Initiator
    }
}

/// Whether IKE_AUTH was refused.
pub(crate) enum HalfOpenOutcome {
    /// IKE_AUTH has not come.
    Waiting,
    /// It was refused; the answer is repeated on request.
    Refused(Vec<Vec<u8>>),
}

/// An IKE SA whose peer is authenticated.
pub(crate) struct IkeSa {
    pub(crate) peer: PeerId,
    /// Ours in the exchange that made this SA: decides about flags, SPIs and keys (RFC 7296 §2.18).
    pub(crate) role: Role,
    pub(crate) suite: IkeSuite,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
    pub(crate) path: Path,
    pub(crate) nat: Nat,
    pub(crate) d: SkD,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    /// ID of our next request.
    pub(crate) next_request: u32,
    /// ID of the peer's next request.
    pub(crate) expected: u32,
    /// Our last response (RFC 7296 §2.1).
    pub(crate) cached: Option<(u32, Vec<Vec<u8>>)>,
    /// The response that waits for the data plane.
    pub(crate) held: Option<Held>,
    /// What the peer has still to ask additional key exchanges for.
    pub(crate) pending: Vec<Pending>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) queue: VecDeque<Task>,
    pub(crate) standing: Standing,
    pub(crate) origin: Origin,
    pub(crate) authentication: Authentication,
    /// Who the peer proved to be.
    pub(crate) identity: Identity,
    /// The peer's boot. Only a peer of our kind has one.
    pub(crate) boot: Option<BootId>,
    pub(crate) last_seen: Instant,
    /// When the peer was last suspected to have lost this SA.
    pub(crate) suspected: Option<Instant>,
    pub(crate) children: BTreeSet<ChildSaId>,
    /// Children of which we are the initiator and whose inbound half is not confirmed by the data plane.
    pub(crate) installing: BTreeSet<ChildSaId>,
    /// The lower nonce of the exchange that made this SA (RFC 7296 §2.8.2).
    pub(crate) low_nonce: Nonce,
    /// Told to the driver as established.
    pub(crate) announced: bool,
}

/// What an IKE SA is to its peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The one that is used.
    Current,
    /// The redundant one of a collision; the peer deletes it.
    Redundant,
    /// A newer SA has its children; whoever made that one deletes this one.
    Replaced,
    /// On its way out by our DELETE; its children lose their outbound halves first.
    Closing(CloseReason),
    /// The peer deleted it; the answer is repeated on request.
    Closed,
}

/// Where an IKE SA, or the one it was rekeyed from, comes from: what crossing initial exchanges are judged by.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// By our IKE_SA_INIT request.
    pub(crate) ours: bool,
    /// The initiator's nonce of IKE_SA_INIT: both ends know it.
    pub(crate) nonce: Nonce,
    /// SAs whose IKE_SA_INIT came before this moment crossed it.
    pub(crate) established: IkeSaId,
}

impl IkeSa {
    /// The addresses of this end and of the peer, where a NAT makes selectors of transport mode say others
    /// (RFC 7296 §2.23.1).
    pub(crate) fn translated(&self, transport: bool) -> (Option<IpAddr>, Option<IpAddr>) {
        let through = transport && self.nat.is_there();
        (
            through.then(|| self.path.local.ip()),
            through.then(|| self.path.remote.ip()),
        )
    }

    /// Whether the peer is of our kind: it sends a confirmation when its inbound half stands.
    pub(crate) fn confirms(&self) -> bool {
        self.boot.is_some()
    }

    /// Whether requests for CHILD SAs are welcome.
    pub(crate) fn is_current(&self) -> bool {
        self.standing == Standing::Current
    }
}
