//! The seeded simulation of two endpoints. A failing seed prints itself and its trace.
//!
//! `IKE_SIM_SEED=n` runs one seed alone, `IKE_SIM_SEEDS=count` with `IKE_SIM_FIRST=n` surveys many and prints each kind
//! of failure once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod chance;
mod plan;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use chance::Weather;
use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;
use plan::run;
use support::{cheap, peer_config};
use world::{Act, Bug, World};

fn both() -> [&'static Provider; 2] {
    [cheap::provider(), cheap::provider()]
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine has no environment; who replays a seed has"
)]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn fail(seed: u64) -> ! {
    let world = run(seed, both(), true);
    panic!(
        "{}\nseed {seed}: {}\nreplay with IKE_SIM_SEED={seed} cargo test -p ipsecmesh-ike --test sim one_seed",
        world.trace,
        world.failure.unwrap_or_default()
    );
}

fn run_seeds(seeds: Range<u64>) {
    for seed in seeds {
        if run(seed, both(), false).failure.is_some() {
            fail(seed);
        }
    }
}

/// Failures by kind, with some seeds of each.
fn survey(seeds: Range<u64>) -> String {
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let is_spi = |word: &str| word.len() == 8 && word.chars().all(|c| c.is_ascii_hexdigit());
    for seed in seeds {
        if let Some(failure) = run(seed, both(), false).failure {
            let words = failure
                .split_whitespace()
                .filter(|word| !is_spi(word.trim_end_matches(',')));
            let kind = words.collect::<Vec<_>>().join(" ");
            kinds.entry(kind).or_default().push(seed);
        }
    }
    let mut text = String::new();
    for (kind, seeds) in kinds {
        let _ = writeln!(text, "{} {kind}: {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    text
}

#[test]
fn ten_thousand_seeds_come_to_rest_with_one_sa_each() {
    run_seeds(0..10_000);
}

#[test]
fn ten_thousand_more_seeds_come_to_rest_with_one_sa_each() {
    run_seeds(10_000..20_000);
}

/// For people: does nothing unless the environment asks for it.
#[test]
fn one_seed_or_many_on_request() {
    if let Some(seed) = variable("IKE_SIM_SEED")
        && run(seed, both(), false).failure.is_some()
    {
        fail(seed);
    }
    if let Some(count) = variable("IKE_SIM_SEEDS") {
        let first = variable("IKE_SIM_FIRST").unwrap_or(0);
        let found = survey(first..first + count);
        assert!(found.is_empty(), "\n{found}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..50 {
        assert_eq!(
            run(seed, both(), false).trace_hash,
            run(seed, both(), false).trace_hash,
            "seed {seed}"
        );
    }
}

#[test]
fn planted_faults_are_caught() {
    for bug in [Bug::EarlyAnswer, Bug::NoGrace, Bug::Forgets, Bug::WrongKey] {
        let caught = (0..40).any(|seed| {
            let (mut world, children) = plan::build(seed, both());
            world.bug = bug;
            plan::storm(&mut world, seed);
            world.weather = Weather::FAIR;
            world.run(Duration::from_secs(plan::FAULTS_END + 340));
            world.check_rest(children);
            world.failure.is_some()
        });
        assert!(caught, "{bug:?} went unnoticed");
    }
}

/// Both nodes begin at the same moment (decision 5): one IKE SA and one set of pairs within 5 s, on a network that
/// loses nothing.
#[test]
fn crossing_starts_end_in_one_sa_within_five_seconds() {
    for rtt in [0, 1, 100] {
        for seed in 0..200 {
            cheap::seed(seed);
            let mut world = World::new(seed, both());
            world.weather = Weather {
                delay: (rtt / 2, rtt / 2 + 1),
                ..Weather::FAIR
            };
            for index in 0..2_u8 {
                let config = peer_config(index + 1, 2 - index, 1);
                world.at(Duration::ZERO, usize::from(index), Act::Upsert(Box::new(config)));
            }
            world.run(Duration::from_secs(5));
            let established = |event: &&(Duration, Event)| matches!(event.1, Event::ChildEstablished { .. });
            for node in &world.nodes {
                let pairs = node.events.iter().filter(established).count();
                assert_eq!(pairs, 1, "seed {seed}, RTT {rtt}");
                assert_eq!(node.endpoint.counts().ike_sas, 1, "seed {seed}, RTT {rtt}");
            }
            world.run(Duration::from_secs(40));
            world.check_rest(1);
            assert_eq!(world.failure, None, "seed {seed}, RTT {rtt}");
        }
    }
}

/// A network that was down, and nodes that crashed and are back: the pair stands within five seconds, whoever begins
/// and however long it took.
#[test]
fn what_comes_back_is_connected_within_five_seconds() {
    let crashes: [&[usize]; 4] = [&[], &[0], &[1], &[0, 1]];
    for (crashed, seed) in crashes
        .into_iter()
        .flat_map(|crashed| (0..100).map(move |seed| (crashed, seed)))
    {
        cheap::seed(seed);
        let mut world = World::new(seed, both());
        for index in 0..2_u8 {
            let mut config = peer_config(index + 1, 2 - index, 1);
            if index == 1 {
                let grace = Duration::from_secs(3);
                config.initiation = Initiation::EagerAfter { grace };
            }
            world.at(Duration::ZERO, usize::from(index), Act::Upsert(Box::new(config)));
        }
        let down = Duration::from_secs(20);
        let away = 1 + seed * 3;
        let back = down + Duration::from_secs(away);
        world.at(down, 0, Act::Outage(away));
        for node in crashed {
            world.at(back, *node, Act::Restart { kernel_lost: true });
        }
        world.run(back + Duration::from_secs(5));
        assert!(
            world.connected(),
            "seed {seed}, crashed {crashed:?}, away for {away} s"
        );
        world.run(back + Duration::from_mins(3));
        world.check_rest(1);
        assert_eq!(world.failure, None, "seed {seed}, crashed {crashed:?}");
    }
}

/// The peers prove their identities anew again and again, both ends within moments of each other: the pair never
/// ceases to carry traffic, and there is one IKE SA after each.
#[test]
fn re_authentication_never_leaves_an_end_without_its_pair() {
    for seed in 0..60 {
        cheap::seed(seed);
        let mut world = World::new(seed, both());
        world.weather = Weather {
            delay: (0, seed),
            ..Weather::FAIR
        };
        for index in 0..2_u8 {
            let mut config = peer_config(index + 1, 2 - index, 2);
            config.ike_lifetime = Duration::from_mins(1);
            world.at(Duration::ZERO, usize::from(index), Act::Upsert(Box::new(config)));
        }
        for second in 5..=300 {
            world.run(Duration::from_secs(second));
            assert!(world.connected(), "seed {seed}, second {second}");
        }
        world.check_rest(2);
        assert_eq!(world.failure, None, "seed {seed}");
        let anew =
            |event: &&(Duration, Event)| matches!(event.1, Event::IkeEstablished { replaces: None, .. });
        for node in &world.nodes {
            let times = node.events.iter().filter(anew).count();
            assert!((5..=8).contains(&times), "seed {seed}: {times} times");
        }
    }
}
