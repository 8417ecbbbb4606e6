//! Time as an argument: the engine never reads a clock (RFC 7296 timers run on the monotonic one, certificates
//! are judged by the wall clock).

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A point on the driver's monotonic clock, counted from an origin that the driver chooses once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The point `since_origin` after the driver's origin.
    pub fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How long after the origin this point lies.
    pub fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

/// Seconds since 1970-01-01T00:00:00Z, for the validity of certificates and for nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub u64);

/// Both clocks at the moment of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For every timer.
    pub mono: Instant,
    /// For certificates.
    pub wall: WallTime,
}

/// Why a deadline stands: a trace that says "woken for retransmission" spares guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TimerReason {
    /// A failed negotiation is tried again.
    Backoff,
    /// A soft or hard lifetime of an SA.
    Lifetime,
    /// The peer was silent for its interval (RFC 7296 §2.4).
    Liveness,
    /// Something that lingers after a rekey, a removal or a restart of the peer ends.
    Linger,
    /// The outbound half goes in although the peer has not confirmed (decision 19).
    OutboundFallback,
    /// A request is sent again (RFC 7296 §2.1), or an unfinished SA of a peer is given up.
    Retransmission,
    /// The peer had its time to start (decision 5).
    InitiationGrace,
}

impl fmt::Display for TimerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backoff => "back-off",
            Self::Lifetime => "lifetime",
            Self::Liveness => "liveness",
            Self::Linger => "linger",
            Self::OutboundFallback => "outbound fallback",
            Self::Retransmission => "retransmission",
            Self::InitiationGrace => "initiation grace",
        })
    }
}
