//! Which policy indexes of our range are taken.
//!
//! The kernel keeps an index that we choose only while it is free; where it is not, it silently chooses one of its own,
//! outside our range. So no index is offered twice.

use std::collections::BTreeSet;

use ipsecmesh_xfrm::{Direction, PolicyIndex};

/// The indexes that are taken, and where to look for the next.
#[derive(Default)]
pub(super) struct Indexes {
    taken: BTreeSet<PolicyIndex>,
    next: [u32; 3],
}

impl Indexes {
    /// Takes a free index; `None` when the range is full.
    pub(super) fn take(&mut self, direction: Direction) -> Option<PolicyIndex> {
        let place = match direction {
            Direction::In => 0,
            Direction::Out => 1,
            Direction::Forward => 2,
        };
        let next = &mut self.next[place];
        // Round robin, so that a number comes back as late as possible.
        let forward = (*next..).map_while(|number| PolicyIndex::nth(direction, number));
        let around = (0..*next).map_while(|number| PolicyIndex::nth(direction, number));
        let index = forward.chain(around).find(|index| !self.taken.contains(index))?;
        *next = index.number() + 1;
        self.taken.insert(index);
        Some(index)
    }

    /// Gives an index back.
    pub(super) fn free(&mut self, index: PolicyIndex) {
        self.taken.remove(&index);
    }

    /// Learns what stands in the kernel.
    pub(super) fn replace(&mut self, taken: impl Iterator<Item = PolicyIndex>) {
        self.taken = taken.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_index_is_given_twice() {
        let mut indexes = Indexes::default();
        indexes.replace(PolicyIndex::nth(Direction::Out, 1).into_iter());
        let numbers: Vec<u32> = (0..3)
            .map(|_| indexes.take(Direction::Out).expect("free").number())
            .collect();
        assert_eq!(numbers, [0, 2, 3]);
        assert_eq!(indexes.take(Direction::In).expect("free").number(), 0);
    }

    #[test]
    fn the_range_can_be_full_and_a_freed_index_is_found_again() {
        let mut indexes = Indexes::default();
        let all: Vec<PolicyIndex> = std::iter::from_fn(|| indexes.take(Direction::In)).collect();
        assert_eq!(
            all.len(),
            usize::try_from(ipsecmesh_xfrm::ownership::INDEXES_PER_DIRECTION).expect("fits")
        );
        indexes.free(all[17]);
        assert_eq!(indexes.take(Direction::In), Some(all[17]));
        assert_eq!(indexes.take(Direction::In), None);
    }
}
