//! The ranges that mark kernel objects as ours: SAs by reqid, policies by index and priority.
//!
//! The kernel keeps an index that the caller chooses, and its own generator starts at 8, so that this range is never
//! reached by it in practice. The types below cannot hold a value outside the range: a request that updates or deletes
//! something foreign cannot be written down.

use crate::policy::Direction;

const REQID_BASE: u32 = 0x1950_0000;
const REQID_LAST: u32 = 0x1950_ffff;
const INDEX_BASE: u32 = 0x1950_0000;
const INDEX_LAST: u32 = 0x195f_ffff;
const PRIORITY_BASE: u32 = 0x1950_0000;

/// The low three bits of an index are the direction (the kernel refuses an index that disagrees).
const DIRECTION_BITS: u32 = 3;

/// How many policies of one direction the range holds.
pub const INDEXES_PER_DIRECTION: u32 = (INDEX_LAST - INDEX_BASE + 1) >> DIRECTION_BITS;

/// A reqid of our range: it binds SAs to policies, and marks both as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reqid(u32);

impl Reqid {
    /// The reqid that the capability probe uses for its short-lived SA.
    pub const PROBE: Self = Self(REQID_LAST);

    /// `None` outside our range.
    pub fn new(value: u32) -> Option<Self> {
        (REQID_BASE..=REQID_LAST).contains(&value).then_some(Self(value))
    }

    /// The reqid of a tunnel's slot.
    pub fn from_slot(slot: u16) -> Self {
        Self(REQID_BASE | u32::from(slot))
    }

    /// The value as the kernel knows it.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// An index of our range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyIndex(u32);

impl PolicyIndex {
    /// `None` outside our range.
    pub fn new(value: u32) -> Option<Self> {
        (INDEX_BASE..=INDEX_LAST).contains(&value).then_some(Self(value))
    }

    /// The `number`th index of a direction; `None` above [`INDEXES_PER_DIRECTION`].
    pub fn nth(direction: Direction, number: u32) -> Option<Self> {
        (number < INDEXES_PER_DIRECTION)
            .then(|| Self(INDEX_BASE | (number << DIRECTION_BITS) | u32::from(direction.code())))
    }

    /// Which of its direction's indexes it is: the inverse of [`PolicyIndex::nth`].
    pub fn number(self) -> u32 {
        (self.0 - INDEX_BASE) >> DIRECTION_BITS
    }

    /// The value as the kernel knows it.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// The kernel's priority of a rank: lower wins in both.
pub(crate) fn priority(rank: u16) -> u32 {
    PRIORITY_BASE + u32::from(rank)
}

/// The rank of a priority; one outside our range is the nearest rank.
pub(crate) fn rank(priority: u32) -> u16 {
    u16::try_from(priority.saturating_sub(PRIORITY_BASE)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_carries_the_direction_in_its_low_bits() {
        let out = PolicyIndex::nth(Direction::Out, 5).expect("in range");
        assert_eq!(out.value(), 0x1950_0029);
        assert_eq!(out.number(), 5);
        let inbound = PolicyIndex::nth(Direction::In, 0).expect("in range");
        assert_eq!(inbound.value(), 0x1950_0000);
    }

    #[test]
    fn the_range_ends_where_it_says() {
        let last = PolicyIndex::nth(Direction::Out, INDEXES_PER_DIRECTION - 1).expect("last");
        assert_eq!(last.value(), 0x195f_fff9);
        assert_eq!(PolicyIndex::nth(Direction::Out, INDEXES_PER_DIRECTION), None);
        assert_eq!(PolicyIndex::new(8), None);
        assert_eq!(PolicyIndex::new(0x1960_0000), None);
    }

    #[test]
    fn foreign_reqids_are_no_reqids_of_ours() {
        for foreign in [0, 1, 0x194f_ffff, 0x1951_0000, u32::MAX] {
            assert_eq!(Reqid::new(foreign), None);
        }
        assert_eq!(Reqid::new(0x1950_0007), Some(Reqid::from_slot(7)));
    }

    #[test]
    fn rank_and_priority_are_inverse() {
        for value in [0, 1, 500, u16::MAX] {
            assert_eq!(rank(priority(value)), value);
        }
        assert_eq!(rank(0), 0);
        assert_eq!(rank(u32::MAX), u16::MAX);
    }
}
