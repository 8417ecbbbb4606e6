//! Where the choices of a run come from, and what they decide about the surroundings.

use std::time::Duration;

/// The generator that all choices of one run come from.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    /// A place in a list of so many.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).unwrap_or(1))).unwrap_or_default()
    }

    /// One of a list.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(low * 1000 + self.below((high - low) * 1000 + 1))
    }
}

/// How the network and the kernels behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    /// One-way delay in milliseconds.
    pub(crate) delay: (u64, u64),
    /// Time that the kernel takes in milliseconds.
    pub(crate) kernel: (u64, u64),
    /// Chance that the kernel refuses an installation.
    pub(crate) refusals: u64,
    /// Chance that a datagram arrives together with a forged one.
    pub(crate) forgeries: u64,
}

impl Weather {
    pub(crate) const FAIR: Self = Self {
        loss: 0,
        duplicates: 0,
        delay: (1, 1),
        kernel: (0, 1),
        refusals: 0,
        forgeries: 0,
    };

    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let low = dice.pick(&[0, 1, 20, 100]) / 2;
        Self {
            loss: dice.pick(&[0, 0, 5, 15, 30]),
            duplicates: dice.pick(&[0, 5, 30]),
            delay: (low, low + dice.pick(&[0, 5, 50, 800])),
            kernel: dice.pick(&[(0, 0), (0, 2), (0, 100)]),
            refusals: dice.pick(&[0, 0, 0, 10]),
            forgeries: dice.pick(&[0, 0, 20]),
        }
    }
}
