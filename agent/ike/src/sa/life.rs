//! How long an IKE SA lives: it is rekeyed in the middle of its time, and before its end the peer proves its identity
//! anew on a wholly new IKE SA that is made beside it (RFC 7296 §2.8, §2.8.3).

use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::exchange::REKEY_AGAIN;
use crate::output::CloseReason;
use crate::time::Instant;
use crate::timer::Timer;
use crate::types::{IkeSaId, PeerId};

/// An IKE SA is rekeyed after this share of the lifetime, in percent.
const REKEY: (u32, u32) = (40, 50);

/// The end that made the IKE SA begins a new one after this share of the lifetime.
const ANEW: (u32, u32) = (80, 88);

/// The other end does so when nothing has come until then: both at once would be one too many.
const ANEW_OTHER: (u32, u32) = (90, 96);

/// A lifetime that becomes shorter than the age of an SA leaves so much time for a new one.
const ROOM: Duration = Duration::from_mins(2);

/// When the peer proved its identity, on this IKE SA or on the one that it was rekeyed from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authentication {
    at: Instant,
    /// When this end lets it be proven anew.
    anew: Instant,
    /// No IKE SA outlives this moment.
    until: Instant,
}

impl Authentication {
    /// The peer says how long it believes our proof (RFC 4478 §3): a new one has to be there before.
    pub(crate) fn believed_for(&mut self, time: Duration) {
        // Not sooner, so that no peer can make us begin without end.
        let time = time.max(ROOM);
        let until = self.at + time;
        if until < self.until {
            self.anew = self.anew.min(self.at + time * ANEW.0 / 100);
            self.until = until;
        }
    }
}

impl Endpoint {
    /// The peer has just proven its identity. `ours` tells whether this end made the SA.
    pub(crate) fn authenticated_now(&mut self, peer: PeerId, ours: bool) -> Authentication {
        let at = self.now.mono;
        let lifetime = self
            .peers
            .get(&peer)
            .map_or(ROOM, |peer| peer.config.ike_lifetime);
        let (low, high) = if ours { ANEW } else { ANEW_OTHER };
        Authentication {
            at,
            anew: at + self.jitter.percent(lifetime, low, high),
            until: at + lifetime,
        }
    }

    /// Sets the soft and the hard lifetime of an IKE SA.
    pub(super) fn begin_life(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let Some(peer) = self.peers.get(&sa.peer) else {
            return;
        };
        let (authentication, lifetime) = (sa.authentication, peer.config.ike_lifetime);
        let rekey = self.now.mono + self.jitter.percent(lifetime, REKEY.0, REKEY.1);
        // What is about to be made anew is not rekeyed any more.
        let soft = if rekey + lifetime / 4 > authentication.anew {
            authentication.anew
        } else {
            rekey
        };
        self.timers.set(Timer::IkeSoft(id), soft);
        self.timers.set(Timer::IkeHard(id), authentication.until);
    }

    /// The configuration has another lifetime now: it counts from the last proof of identity on.
    pub(crate) fn change_life(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (peer, ours, at) = (sa.peer, sa.origin.ours, sa.authentication.at);
        let now = self.now.mono;
        let fresh = self.authenticated_now(peer, ours);
        let since = |moment: Instant| at + moment.saturating_since(now);
        let soonest = now + if ours { ROOM / 8 } else { ROOM / 2 };
        let changed = Authentication {
            at,
            anew: since(fresh.anew).max(soonest),
            until: since(fresh.until).max(now + ROOM),
        };
        if let Some(sa) = self.sas.get_mut(&id) {
            sa.authentication = changed;
        }
        self.begin_life(id);
    }

    /// The soft lifetime of an IKE SA has come. Whatever becomes of what begins now: while the SA stands, it is tried
    /// again.
    pub(crate) fn ike_soft(&mut self, id: IkeSaId) {
        let Some(sa) = self.sas.get(&id).filter(|sa| sa.is_current()) else {
            return;
        };
        let anew = sa.authentication.anew <= self.now.mono;
        let wait = self.jitter.between(REKEY_AGAIN, 2 * REKEY_AGAIN);
        self.ike_soft_in(id, wait);
        if anew {
            self.authenticate_anew(id);
        } else {
            self.rekey_ike(id);
        }
    }

    /// Something is tried again after a while; a new proof of identity does not wait for it.
    pub(crate) fn ike_soft_in(&mut self, id: IkeSaId, wait: Duration) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (again, anew) = (self.now.mono + wait, sa.authentication.anew);
        let at = if anew > self.now.mono {
            again.min(anew)
        } else {
            again
        };
        self.timers.set(Timer::IkeSoft(id), at);
    }

    /// Begins a wholly new IKE SA beside this one: make before break (RFC 7296 §2.8.3).
    fn authenticate_anew(&mut self, id: IkeSaId) {
        let Some(peer_id) = self.sas.get(&id).map(|sa| sa.peer) else {
            return;
        };
        let attempt = self.peers.get(&peer_id).and_then(|peer| peer.initiating);
        match attempt.and_then(|attempt| self.initiating.get_mut(&attempt)) {
            // What was begun on a suspicion is a must now.
            Some(attempt) => attempt.speculative = false,
            None => self.start_anew(peer_id, id),
        }
    }

    /// Nobody has proven anything for the whole lifetime: the SA ends at both ends.
    pub(crate) fn ike_expired(&mut self, id: IkeSaId) {
        self.close_with_delete(id, CloseReason::Expired);
    }
}
