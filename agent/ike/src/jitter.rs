//! The engine's own small generator: for jitter of timers and for nothing else. Keys, nonces and SPIs come from the
//! provider.

use std::time::Duration;

/// `SplitMix64`, seeded by the driver: the same seed gives the same timers.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let (words, _) = seed.as_chunks::<8>();
        let folded = words.iter().fold(0, |state: u64, word| {
            Self::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(*word))
        });
        Self(folded)
    }

    /// `wait` times a factor between `low` and `high` percent.
    pub(crate) fn percent(&mut self, wait: Duration, low: u32, high: u32) -> Duration {
        let span = u64::from(high.saturating_sub(low)) * 1000 + 1;
        let thousandths = u64::from(low) * 1000 + self.next() % span;
        let nanos = wait.as_nanos() * u128::from(thousandths) / 100_000;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A time between the two.
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + self.percent(high.saturating_sub(low), 0, 100)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Self::mix(self.0)
    }

    fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
