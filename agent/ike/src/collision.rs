//! Crossing exchanges (RFC 7296 §2.8): who wins, decided by nonces that both ends know.

use crate::endpoint::Endpoint;
use crate::sa::IkeSa;
use crate::types::{IkeSaId, PeerId};
use crate::wire::Nonce;

/// What a crossing initial exchange makes of an IKE SA that a peer has just authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays: there is no other, or the other loses.
    Wins,
    /// An exchange of ours wins: the peer deletes this one.
    Redundant,
}

/// Of two exchanges that cross, the one with the lowest of all nonces loses (RFC 7296 §2.8.1): each is represented by
/// its lower one.
pub(crate) fn loses(ours: &Nonce, theirs: &Nonce) -> bool {
    ours < theirs
}

/// Whether the IKE_SA_INIT request of `newer` came before `sa` stood: then neither end knew of the other exchange
/// when it began its own.
pub(crate) fn crossed(sa: &IkeSa, newer: IkeSaId) -> bool {
    newer < sa.origin.established
}

impl Endpoint {
    /// Both ends may begin at once, which RFC 7296 does not speak of. Both SAs authenticate, and both ends compare the
    /// nonces of the two initiators: the lower one loses. The loser's SA gets no children, and the loser deletes it.
    pub(crate) fn judge_crossing(&mut self, peer_id: PeerId, new: IkeSaId, nonce: &Nonce) -> Verdict {
        let Some(peer) = self.peers.get(&peer_id) else {
            return Verdict::Wins;
        };
        let current = peer.current;
        if let Some(id) = peer.initiating
            && let Some(attempt) = self.initiating.get_mut(&id)
        {
            if attempt.candidates.is_empty() {
                // The peer cannot have authenticated us: nothing of ours stands at its end.
                self.drop_attempt(id);
            } else if loses(&attempt.nonce, nonce) {
                attempt.lost = true;
            } else {
                return Verdict::Redundant;
            }
        }
        let wins = current
            .and_then(|id| self.sas.get(&id))
            .is_some_and(|sa| sa.origin.ours && crossed(sa, new) && !loses(&sa.origin.nonce, nonce));
        if wins { Verdict::Redundant } else { Verdict::Wins }
    }

    /// Our own exchange failed after it had won against one of the peer's: that one is used after all.
    pub(crate) fn promote_redundant(&mut self, peer_id: PeerId) {
        let Some(peer) = self.peers.get(&peer_id) else {
            return;
        };
        if peer.current.is_some() || peer.initiating.is_some() {
            return;
        }
        let Some(id) = peer.redundant.filter(|id| {
            self.sas
                .get(id)
                .is_some_and(|sa| sa.standing == crate::sa::Standing::Redundant)
        }) else {
            return;
        };
        self.timers.cancel(crate::timer::Timer::IkeLinger(id));
        self.make_current(id, None);
        self.drive_peer(peer_id);
    }
}
