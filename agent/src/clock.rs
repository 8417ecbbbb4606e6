//! The one place where the agent reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipsecmesh_ike::{Instant, Now, WallTime};

/// Both clocks. The monotonic one counts from the moment the value was made; copies share that origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose monotonic origin is now.
    pub(crate) fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    /// Both clocks, as the engine takes them.
    pub(crate) fn now(self) -> Now {
        Now {
            mono: Instant::from_origin(self.origin.elapsed()),
            wall: WallTime(wall().as_secs()),
        }
    }

    /// When the runtime has to wake for `at`.
    pub(crate) fn deadline(self, at: Instant) -> tokio::time::Instant {
        self.origin + at.since_origin()
    }
}

/// Time since 1970-01-01T00:00:00Z; zero on a clock set before it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the wall clock is read"
)]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
