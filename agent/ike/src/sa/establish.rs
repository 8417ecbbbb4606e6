//! The beginning of an IKE SA: its record, its timers, its place at the peer.

use std::collections::{BTreeSet, VecDeque};

use super::{Authentication, IkeSa, Origin, SpiOwner, Standing};
use crate::config::Identity;
use crate::crypto::{IkeSuite, Opener, Sealer, SkD};
use crate::endpoint::Endpoint;
use crate::nat::Nat;
use crate::output::Event;
use crate::timer::Timer;
use crate::types::{BootId, IkeSaId, IkeSpi, Path, PeerId};
use crate::wire::{Nonce, Role};

/// What a new IKE SA is made of.
pub(crate) struct NewSa<'a> {
    pub(crate) id: IkeSaId,
    pub(crate) peer: PeerId,
    pub(crate) role: Role,
    pub(crate) suite: IkeSuite,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
    pub(crate) path: Path,
    pub(crate) nat: Nat,
    pub(crate) d: SkD,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) next_request: u32,
    pub(crate) expected: u32,
    pub(crate) origin: Origin,
    pub(crate) authentication: Authentication,
    pub(crate) identity: Identity,
    pub(crate) boot: Option<BootId>,
    pub(crate) standing: Standing,
    pub(crate) nonces: (&'a Nonce, &'a Nonce),
}

impl Endpoint {
    /// Makes the record of an IKE SA. Its name is that of the exchange that made it.
    pub(crate) fn establish(&mut self, new: NewSa<'_>) -> IkeSaId {
        let id = new.id;
        let our_spi = match new.role {
            Role::Initiator => new.spi_i,
            Role::Responder => new.spi_r,
        };
        let mut origin = new.origin;
        if origin.established == IkeSaId(0) {
            origin.established = IkeSaId(self.next_id());
        }
        let sa = IkeSa {
            peer: new.peer,
            role: new.role,
            suite: new.suite,
            spi_i: new.spi_i,
            spi_r: new.spi_r,
            path: new.path,
            nat: new.nat,
            d: new.d,
            sealer: new.sealer,
            opener: new.opener,
            next_request: new.next_request,
            expected: new.expected,
            cached: None,
            held: None,
            pending: Vec::new(),
            in_flight: None,
            queue: VecDeque::new(),
            standing: new.standing,
            origin,
            authentication: new.authentication,
            identity: new.identity,
            boot: new.boot,
            last_seen: self.now.mono,
            suspected: None,
            children: BTreeSet::new(),
            installing: BTreeSet::new(),
            low_nonce: new.nonces.0.min(new.nonces.1).clone(),
            announced: false,
        };
        self.by_spi.insert(our_spi, SpiOwner::Established(id));
        self.sas.insert(id, sa);
        if let Some(peer) = self.peers.get_mut(&new.peer) {
            peer.sas.insert(id);
            if new.standing == Standing::Redundant {
                peer.redundant = Some(id);
            }
        }
        id
    }

    /// From now on the SA is the one of its peer.
    pub(crate) fn make_current(&mut self, id: IkeSaId, rekeyed: Option<IkeSaId>) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        sa.standing = Standing::Current;
        sa.announced = true;
        let (peer_id, initiator_spi, responder_spi, suite) = (sa.peer, sa.spi_i, sa.spi_r, sa.suite);
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        peer.current = Some(id);
        peer.told_refused_init = false;
        let eager = peer.eager();
        for slot in peer.slots.values_mut() {
            slot.wanted |= eager;
        }
        let liveness = peer.config.liveness.interval;
        self.timers.cancel(Timer::Start(peer_id));
        self.timers.cancel(Timer::IkeLinger(id));
        self.begin_life(id);
        self.set_timer(Timer::Liveness(id), liveness);
        self.event(Event::IkeEstablished {
            peer: peer_id,
            ike_sa: id,
            initiator_spi,
            responder_spi,
            suite,
            replaces: rekeyed,
        });
    }
}
