//! One kind of objects as it was listed and watched, each object parsed as it comes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// An agent is blind while it waits: not longer than a rollout may take.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<T> {
    /// What is in force of it.
    pub(super) value: Option<T>,
    /// What is wrong with it.
    pub(super) problem: Option<String>,
}

impl<T> Row<T> {
    /// An object without a fault.
    pub(super) fn good(value: T) -> Self {
        Self {
            value: Some(value),
            problem: None,
        }
    }
}

/// The objects of one kind by name.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    rows: BTreeMap<String, Row<T>>,
    /// A list that is not complete yet.
    listing: Option<BTreeMap<String, Row<T>>>,
    synced: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            listing: None,
            synced: false,
        }
    }
}

impl<T: Clone> Table<T> {
    /// Takes an event of the watch over. `convert` gets what was in force of the object before. Says whether the table
    /// may have become another one.
    pub(super) fn take<K>(
        &mut self,
        event: Event<DeserializeGuard<K>>,
        convert: fn(&K, Option<&T>) -> Row<T>,
    ) -> bool
    where
        K: Resource<DynamicType = ()>,
    {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let (name, row) = self.parse(&object, convert);
                self.listing.get_or_insert_default().insert(name, row);
                false
            }
            Event::InitDone => {
                self.rows = self.listing.take().unwrap_or_default();
                self.synced = true;
                true
            }
            Event::Apply(object) => {
                let (name, row) = self.parse(&object, convert);
                self.rows.insert(name, row);
                true
            }
            Event::Delete(object) => self.rows.remove(&object.name_any()).is_some(),
        }
    }

    fn parse<K>(
        &self,
        object: &DeserializeGuard<K>,
        convert: fn(&K, Option<&T>) -> Row<T>,
    ) -> (String, Row<T>)
    where
        K: Resource<DynamicType = ()>,
    {
        let name = object.name_any();
        let before = self.rows.get(&name).and_then(|row| row.value.as_ref());
        let row = match &object.0 {
            Ok(object) => convert(object, before),
            Err(invalid) => Row {
                value: before.cloned(),
                problem: Some(format!("it does not parse: {}", invalid.error)),
            },
        };
        (name, row)
    }

    /// Whether a complete list was seen.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// What is in force, in order of names.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &T)> {
        self.rows
            .iter()
            .filter_map(|(name, row)| Some((name.as_str(), row.value.as_ref()?)))
    }

    /// What is in force under `name`.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        self.rows.get(name)?.value.as_ref()
    }

    /// What is wrong, by name.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        self.rows
            .iter()
            .filter_map(|(name, row)| Some((name.clone(), row.problem.clone()?)))
            .collect()
    }
}

/// Pauses between attempts to watch: growing, and different from node to node, since all lose the API server at once.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    random: RandomState,
    drawn: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: FIRST_PAUSE,
            random: RandomState::new(),
            drawn: 0,
        }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        self.drawn += 1;
        let share = u32::try_from(self.random.hash_one(self.drawn) % 512).unwrap_or_default();
        Some(pause / 2 + pause * share / 512)
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        use kube::runtime::utils::Backoff as _;
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = backoff.by_ref().take(12).collect();
        assert!(pauses[0] <= FIRST_PAUSE * 3 / 2 && pauses[0] >= FIRST_PAUSE / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE * 3 / 2));
        assert!(pauses[11] >= LONGEST_PAUSE / 2);
        backoff.reset();
        assert!(backoff.next().is_some_and(|pause| pause <= FIRST_PAUSE * 3 / 2));
    }
}
