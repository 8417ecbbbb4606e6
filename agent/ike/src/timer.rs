//! The timer queue: at most one deadline per key, found in the order of time without looking at any other.

use std::collections::BTreeMap;

use crate::time::{Instant, TimerReason};
use crate::types::{ChildId, ChildSaId, IkeSaId, PeerId};

/// What a deadline is for. Setting a key again replaces its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The hard lifetime of a CHILD SA.
    ChildHard(ChildSaId),
    /// What lingers of a CHILD SA goes.
    ChildLinger(ChildSaId),
    /// The outbound half goes in without a confirmation.
    ChildOutbound(ChildSaId),
    /// A child is negotiated again, or now by us after the peer had its time.
    ChildRetry(PeerId, ChildId),
    /// The soft lifetime of a CHILD SA.
    ChildSoft(ChildSaId),
    /// The peer has not asked for the next additional key exchange.
    FollowUp(IkeSaId, u64),
    /// A half-open SA is given up.
    HalfOpen(IkeSaId),
    /// The hard lifetime of an IKE SA.
    IkeHard(IkeSaId),
    /// An IKE SA that lingers for the peer's sake goes.
    IkeLinger(IkeSaId),
    /// The soft lifetime of an IKE SA.
    IkeSoft(IkeSaId),
    /// Our unfinished initial exchange: a request is sent again, or it fails.
    Initiate(IkeSaId),
    /// The peer was silent.
    Liveness(IkeSaId),
    /// A request of an IKE SA is sent again.
    Retransmit(IkeSaId),
    /// An initial exchange begins.
    Start(PeerId),
    /// An initial exchange begins because the configuration asks for another SA than the present one.
    StartAnew(PeerId, IkeSaId),
}

impl Timer {
    fn reason(self) -> TimerReason {
        match self {
            Self::ChildHard(_) | Self::ChildSoft(_) | Self::IkeHard(_) | Self::IkeSoft(_) => {
                TimerReason::Lifetime
            }
            Self::ChildLinger(_) | Self::IkeLinger(_) => TimerReason::Linger,
            Self::ChildOutbound(_) => TimerReason::OutboundFallback,
            Self::ChildRetry(..) => TimerReason::Backoff,
            Self::FollowUp(..) | Self::HalfOpen(_) | Self::Initiate(_) | Self::Retransmit(_) => {
                TimerReason::Retransmission
            }
            Self::Liveness(_) => TimerReason::Liveness,
            Self::Start(_) | Self::StartAnew(..) => TimerReason::InitiationGrace,
        }
    }
}

/// All deadlines of the engine.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeMap<(Instant, u64), Timer>,
    by_key: BTreeMap<Timer, (Instant, u64)>,
    serial: u64,
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.serial += 1;
        self.queue.insert((at, self.serial), timer);
        self.by_key.insert(timer, (at, self.serial));
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(place) = self.by_key.remove(&timer) {
            self.queue.remove(&place);
        }
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.by_key.contains_key(&timer)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<(Instant, TimerReason)> {
        self.queue
            .first_key_value()
            .map(|((at, _), timer)| (*at, timer.reason()))
    }

    /// Takes the earliest deadline that is not after `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (place, timer) = self.queue.first_key_value()?;
        if place.0 > now {
            return None;
        }
        let (place, timer) = (*place, *timer);
        self.queue.remove(&place);
        self.by_key.remove(&timer);
        Some(timer)
    }
}
