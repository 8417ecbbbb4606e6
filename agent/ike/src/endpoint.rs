//! The engine's only door: [`Endpoint`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::child::ChildSa;
use crate::config::EndpointConfig;
use crate::cookie::CookieJar;
use crate::crypto::Provider;
use crate::exchange::init_responder::HalfOpenTable;
use crate::exchange::suspicion::Hints;
use crate::jitter::Jitter;
use crate::output::{
    Command, CommandError, Disposition, Effect, EffectAction, EffectOutcome, Event, Transmit, TransmitBuffer,
};
use crate::peer::Peer;
use crate::sa::{IkeSa, Initiating, SpiOwner, Standing};
use crate::time::{Instant, Now, TimerReason};
use crate::timer::{Timer, Timers};
use crate::types::{ChildSaId, EffectId, EspSpi, IkeSaId, IkeSpi, Path, PeerId};

/// The IKEv2 engine of one host: all its peers, IKE SAs and CHILD SAs.
///
/// It does nothing by itself. A driver owns it, feeds it with **inputs** and carries out its **outputs**.
///
/// # Inputs
///
/// In any order, with a `now` that never goes back:
///
/// - [`Endpoint::handle_datagram`]: a datagram came from UDP port 500 or 4500 (there without the non-ESP marker).
/// - [`Endpoint::handle_command`]: the driver wants something.
/// - [`Endpoint::handle_effect`]: the data plane has carried out an effect, or has refused.
/// - [`Endpoint::handle_timeout`]: the time of [`Endpoint::poll_timeout`] has come. Calling it early does nothing.
///
/// # Outputs
///
/// After **every** input, each until it returns `None`, in this order:
///
/// 1. [`Endpoint::poll_effect`]: a change for the data plane. Effects are to be carried out in this order, and each is
///    answered by one `handle_effect`, now or later. Datagrams that depend on an effect are not there before its
///    answer: that is how an SA stands before the peer is told of it.
/// 2. [`Endpoint::poll_transmit`]: a datagram to send. Losing one is harmless.
/// 3. [`Endpoint::poll_event`]: something for status, metrics and Events. Ignoring one is harmless.
/// 4. [`Endpoint::poll_timeout`]: when `handle_timeout` is to be called.
///
/// # Guarantees
///
/// - No input panics, and nothing of a datagram that does not authenticate changes an SA.
/// - Unauthenticated hosts cost at most [`crate::Limits`] half-open SAs, and one stateless answer per datagram.
/// - The same seed, provider output and inputs give the same outputs.
/// - An outbound SA is only asked for when the peer's inbound SA is known to stand, where the peer can say so.
/// - A timer or datagram costs no more with many peers than with one, up to a logarithm.
pub struct Endpoint {
    pub(crate) config: EndpointConfig,
    pub(crate) provider: &'static Provider,
    pub(crate) jitter: Jitter,
    pub(crate) now: Now,
    pub(crate) cookies: CookieJar,
    pub(crate) hints: Hints,
    pub(crate) timers: Timers,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) by_address: BTreeMap<(IpAddr, IpAddr), PeerId>,
    pub(crate) by_spi: BTreeMap<IkeSpi, SpiOwner>,
    pub(crate) initiating: BTreeMap<IkeSaId, Initiating>,
    pub(crate) half_open: HalfOpenTable,
    pub(crate) sas: BTreeMap<IkeSaId, IkeSa>,
    pub(crate) children: BTreeMap<ChildSaId, ChildSa>,
    /// Pairs by the SPI that we receive on.
    pub(crate) inbound: BTreeMap<EspSpi, ChildSaId>,
    /// Pairs by the SPI that the peer receives on: two peers may choose the same.
    pub(crate) outbound: BTreeSet<(EspSpi, ChildSaId)>,
    /// The IKE SAs whose response waits for a half of a pair.
    pub(crate) held_for: BTreeMap<ChildSaId, IkeSaId>,
    /// SPIs that are offered but have no pair yet.
    pub(crate) reserved: BTreeSet<EspSpi>,
    effects: BTreeMap<EffectId, EffectOwner>,
    effects_out: VecDeque<Effect>,
    transmits_out: VecDeque<(Path, Vec<u8>)>,
    events_out: VecDeque<Event>,
    last_id: u64,
}

/// What an effect was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EffectOwner {
    InstallInbound(ChildSaId),
    InstallOutbound(ChildSaId),
    Encapsulate(ChildSaId),
    RemoveInbound(ChildSaId),
    RemoveOutbound(ChildSaId),
}

impl Endpoint {
    /// An engine without peers. `jitter_seed` feeds the jitter of timers and nothing else; all other randomness is
    /// the provider's.
    pub fn new(config: EndpointConfig, provider: &'static Provider, jitter_seed: [u8; 32], now: Now) -> Self {
        Self {
            config,
            provider,
            jitter: Jitter::new(&jitter_seed),
            now,
            cookies: CookieJar::default(),
            hints: Hints::default(),
            timers: Timers::default(),
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            initiating: BTreeMap::new(),
            half_open: HalfOpenTable::default(),
            sas: BTreeMap::new(),
            children: BTreeMap::new(),
            inbound: BTreeMap::new(),
            outbound: BTreeSet::new(),
            held_for: BTreeMap::new(),
            reserved: BTreeSet::new(),
            effects: BTreeMap::new(),
            effects_out: VecDeque::new(),
            transmits_out: VecDeque::new(),
            events_out: VecDeque::new(),
            last_id: 0,
        }
    }

    /// A datagram came, without a non-ESP marker. It is decrypted in place. What is returned is for counters only:
    /// every reaction is among the outputs.
    pub fn handle_datagram(&mut self, path: Path, datagram: &mut [u8], now: Now) -> Disposition {
        self.now = now;
        self.receive(path, datagram)
    }

    /// The driver wants something.
    pub fn handle_command(&mut self, command: Command, now: Now) -> Result<(), CommandError> {
        self.now = now;
        self.command(command)
    }

    /// The data plane has answered for an effect. An id that nothing waits for is ignored.
    #[expect(clippy::needless_pass_by_value, reason = "the driver gives the outcome away")]
    pub fn handle_effect(&mut self, id: EffectId, outcome: EffectOutcome, now: Now) {
        self.now = now;
        match self.effects.remove(&id) {
            Some(EffectOwner::InstallInbound(child)) => self.inbound_installed(child, &outcome),
            Some(EffectOwner::InstallOutbound(child)) => self.outbound_installed(child, &outcome),
            Some(EffectOwner::Encapsulate(child)) => self.ports_set(child, &outcome),
            // A half that cannot be removed is as gone as we can make it; its hard limit ends it.
            Some(EffectOwner::RemoveInbound(child)) => self.half_removed(child, false),
            Some(EffectOwner::RemoveOutbound(child)) => self.half_removed(child, true),
            None => {}
        }
    }

    /// Carries out what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some(timer) = self.timers.pop(now.mono) {
            self.fire(timer);
        }
    }

    /// The next change for the data plane.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects_out.pop_front()
    }

    /// The next datagram.
    pub fn poll_transmit(&mut self, out: &mut impl TransmitBuffer) -> Option<Transmit> {
        let (path, datagram) = self.transmits_out.pop_front()?;
        out.fill(&datagram);
        Some(Transmit { path })
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events_out.pop_front()
    }

    /// When [`Endpoint::handle_timeout`] is to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, TimerReason)> {
        self.timers.next()
    }

    /// What the engine holds now, for metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.peers.len(),
            initiating: self.initiating.len(),
            half_open: self.half_open.len(),
            ike_sas: self
                .sas
                .values()
                .filter(|sa| sa.standing != Standing::Closed)
                .count(),
            deleted_ike_sas: self
                .sas
                .values()
                .filter(|sa| sa.standing == Standing::Closed)
                .count(),
            child_sas: self.children.len(),
            offered_spis: self.reserved.len(),
            effects: self.effects.len(),
            timers: self.timers.len(),
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::ChildHard(id) => self.child_expired(id),
            Timer::ChildLinger(id) => self.linger_is_over(id),
            Timer::ChildOutbound(id) => self.install_unless_open(id),
            Timer::ChildRetry(peer, child) => self.retry_child(peer, child),
            Timer::ChildSoft(id) => self.child_soft(id),
            Timer::FollowUp(id, link) => self.forget_pending(id, link),
            Timer::HalfOpen(id) => self.forget_half_open(id),
            Timer::IkeHard(id) => self.ike_expired(id),
            Timer::IkeLinger(id) => self.ike_linger_is_over(id),
            Timer::IkeSoft(id) => self.ike_soft(id),
            Timer::Initiate(id) => self.initiate_timeout(id),
            Timer::Liveness(id) => self.check_liveness(id),
            Timer::Retransmit(id) => self.retransmit(id),
            Timer::Start(peer) => self.start(peer),
            Timer::StartAnew(peer, old) => self.start_anew(peer, old),
        }
    }

    pub(crate) fn effect(&mut self, action: EffectAction, owner: EffectOwner) {
        let id = EffectId(self.next_id());
        self.effects.insert(id, owner);
        self.effects_out.push_back(Effect { id, action });
    }

    pub(crate) fn transmit(&mut self, path: Path, datagram: Vec<u8>) {
        self.transmits_out.push_back((path, datagram));
    }

    /// Sends all fragments of a message, or the one datagram that it is.
    pub(crate) fn transmit_all(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.transmit(path, datagram.clone());
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events_out.push_back(event);
    }

    pub(crate) fn set_timer(&mut self, timer: Timer, wait: Duration) {
        self.timers.set(timer, self.now.mono + wait);
    }

    /// Names of SAs and effects share one counter, so that they also tell what came first.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Draws an SPI for an IKE SA, unique among ours.
    pub(crate) fn draw_ike_spi(&mut self) -> Option<IkeSpi> {
        for _ in 0..64 {
            let mut bytes = [0; 8];
            self.provider.random.fill(&mut bytes).ok()?;
            if let Some(spi) = IkeSpi::new(u64::from_be_bytes(bytes))
                && !self.by_spi.contains_key(&spi)
            {
                return Some(spi);
            }
        }
        None
    }

    pub(crate) fn draw_nonce(&self) -> Option<crate::wire::Nonce> {
        let mut bytes = [0; crate::wire::Nonce::LENGTH];
        self.provider.random.fill(&mut bytes).ok()?;
        Some(bytes.into())
    }
}

/// What an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Configured peers.
    pub peers: usize,
    /// Initial exchanges of ours.
    pub initiating: usize,
    /// Initial exchanges of peers that have not authenticated.
    pub half_open: usize,
    /// IKE SAs whose peer is authenticated, including those on their way out.
    pub ike_sas: usize,
    /// IKE SAs that the peer has deleted, and whose answer may have to be repeated.
    pub deleted_ike_sas: usize,
    /// Pairs of CHILD SAs, including those on their way in or out.
    pub child_sas: usize,
    /// SPIs of CHILD SAs that are offered and have no pair yet.
    pub offered_spis: usize,
    /// Effects without an answer.
    pub effects: usize,
    /// Deadlines.
    pub timers: usize,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("provider", &self.provider)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
