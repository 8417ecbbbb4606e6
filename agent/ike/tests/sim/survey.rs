//! Many seeds: the first that fails with its trace, or each kind of failure with some seeds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::plan::run;

#[expect(
    clippy::disallowed_methods,
    reason = "the engine has no environment; who replays a seed has"
)]
pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs seeds until one fails.
pub(crate) fn run_seeds(seeds: Range<u64>) {
    for seed in seeds {
        if run(seed, false).failure.is_some() {
            let world = run(seed, true);
            panic!(
                "{}\nseed {seed}: {}\nreplay with IKE_SIM_SEED={seed} cargo test -p ipsecmesh-ike --test sim one_seed",
                world.trace,
                world.failure.unwrap_or_default()
            );
        }
    }
}

/// Failures by kind, with some seeds of each. All processors take part.
pub(crate) fn survey(seeds: Range<u64>) -> String {
    let next = AtomicU64::new(seeds.start);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut failures: Vec<(u64, String)> = thread::scope(|scope| {
        let worker = || {
            let mut found = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return found;
                }
                found.extend(run(seed, false).failure.map(|failure| (seed, failure)));
            }
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        running
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    failures.sort();
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (seed, failure) in failures {
        kinds.entry(kind(&failure)).or_default().push(seed);
    }
    let mut text = String::new();
    for (kind, seeds) in kinds {
        let _ = writeln!(text, "{} {kind}: {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    text
}

/// A failure without what differs from seed to seed: SPIs and times.
fn kind(failure: &str) -> String {
    let is_number = |word: &str| {
        let word = word.trim_end_matches(',');
        (word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit())) || word.contains('.')
    };
    let words = failure.split_whitespace().filter(|word| !is_number(word));
    words.collect::<Vec<_>>().join(" ")
}
