//! The seeded simulation of two endpoints. A failing seed prints itself and its trace; `IKE_SIM_SEED=n` runs it alone.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "../support/mod.rs"]
mod support;
mod world;

use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;
use support::{cheap, peer_config, psk};
use world::{Act, Bug, Dice, Weather, World};

const FAULTS_END: u64 = 60;

/// Builds the run of one seed: who begins, the weather, and what happens to whom.
fn build(seed: u64, providers: [&'static Provider; 2]) -> (World, usize) {
    cheap::seed(seed);
    let mut world = World::new(seed, providers);
    let mut dice = Dice(seed);
    let children = 1 + dice.below(3);
    let secret = dice.percent(50).then(|| psk(b"a secret of both"));
    let grace = Duration::from_secs(3);
    let both = dice.percent(50);
    let rtt = [0, 1, 20, 100][usize::try_from(dice.below(4)).unwrap()];
    for index in 0..2_u8 {
        let (local, remote) = (index + 1, 2 - index);
        let mut config = peer_config(local, remote, u32::try_from(children).unwrap());
        if let Some(secret) = &secret {
            config.auth = secret.clone();
        }
        if index == 1 && !both {
            config.initiation = Initiation::EagerAfter { grace };
        }
        let delay = if both { Duration::ZERO } else { dice.millis(0, 500) };
        world.at(delay, usize::from(index), Act::Upsert(Box::new(config)));
    }
    let low = rtt / 2;
    world.weather = Weather {
        loss: [0, 0, 5, 15, 30][usize::try_from(dice.below(5)).unwrap()],
        duplicates: [0, 5, 30][usize::try_from(dice.below(3)).unwrap()],
        delay: (
            low,
            low + [0, 5, 50, 800][usize::try_from(dice.below(4)).unwrap()],
        ),
        kernel: [(0, 0), (0, 2), (0, 100)][usize::try_from(dice.below(3)).unwrap()],
        refusals: [0, 0, 0, 10][usize::try_from(dice.below(4)).unwrap()],
    };
    let restarts = dice.percent(30);
    for _ in 0..dice.below(7) {
        let when = Duration::from_millis(dice.below((FAULTS_END - 5) * 1000));
        let node = usize::try_from(dice.below(2)).unwrap();
        let child = 1 + u32::try_from(dice.below(children)).unwrap();
        match dice.below(if restarts { 9 } else { 7 }) {
            0 => world.at(when, node, Act::RekeyChild(child)),
            1 => world.at(when, node, Act::RekeyIke),
            2 | 3 => {
                // Both ends, a little apart: the requests cross.
                let apart = dice.millis(0, 1 + rtt);
                world.at(when, node, Act::RekeyChild(child));
                world.at(when + apart, 1 - node, Act::RekeyChild(child));
            }
            4 => {
                let apart = dice.millis(0, 1 + rtt);
                world.at(when, node, Act::RekeyIke);
                world.at(when + apart, 1 - node, Act::RekeyIke);
            }
            5 => {
                let apart = dice.millis(0, 1 + rtt);
                world.at(when, node, Act::RekeyIke);
                world.at(when + apart, 1 - node, Act::RekeyChild(child));
            }
            6 => world.at(when, node, Act::Expire { hard: false }),
            7 => {
                let kernel_lost = dice.percent(50);
                // An SA of a previous run whose successor the kernel refuses has nothing to fall back on.
                if kernel_lost || world.weather.refusals > 0 {
                    world.strict = false;
                }
                world.at(when, node, Act::Restart { kernel_lost });
                if kernel_lost && dice.percent(50) {
                    world.at(when + Duration::from_secs(1), 1 - node, Act::PeerBooted);
                }
            }
            _ => {
                let config = peer_config(
                    u8::try_from(node).unwrap() + 1,
                    2 - u8::try_from(node).unwrap(),
                    u32::try_from(children).unwrap(),
                );
                let config = PeerConfig {
                    auth: secret.clone().unwrap_or(PeerAuth::Certificate),
                    ..config
                };
                world.strict = false;
                world.at(when, node, Act::Remove);
                world.at(when + dice.millis(0, 20_000), node, Act::Upsert(Box::new(config)));
            }
        }
    }
    (world, usize::try_from(children).unwrap())
}

/// Runs one seed to its end.
fn run(seed: u64, providers: [&'static Provider; 2], tracing: bool) -> World {
    let (mut world, children) = build(seed, providers);
    world.tracing = tracing;
    if world.weather.loss >= 15 {
        // A DELETE or an IKE SA may be given up under heavy loss; then one end keeps what the other has removed.
        world.strict = false;
    }
    let mut second = 0;
    while second < FAULTS_END && world.failure.is_none() {
        second += 5;
        world.run(Duration::from_secs(second));
        if seed % 3 == 0 {
            world.traffic();
        }
    }
    world.weather = Weather {
        delay: world.weather.delay,
        ..Weather::FAIR
    };
    world.run(Duration::from_secs(FAULTS_END + 340));
    world.check_rest(children);
    world
}

fn fail(seed: u64, providers: [&'static Provider; 2]) -> ! {
    let world = run(seed, providers, true);
    panic!(
        "{}\nseed {seed}: {}\nreplay with IKE_SIM_SEED={seed}",
        world.trace,
        world.failure.unwrap_or_default()
    );
}

fn run_seeds(seeds: impl Iterator<Item = u64>, providers: [&'static Provider; 2]) {
    if let Ok(seed) = std::env::var("IKE_SIM_SEED") {
        fail_or_pass(seed.parse().unwrap(), providers);
        return;
    }
    if std::env::var("IKE_SIM_SURVEY").is_ok() {
        let mut classes: std::collections::BTreeMap<String, Vec<u64>> = std::collections::BTreeMap::new();
        for seed in seeds {
            if let Some(failure) = run(seed, providers, false).failure {
                let class: String = failure
                    .split_whitespace()
                    .filter(|w| {
                        w.len() < 7 || !w.trim_end_matches(',').chars().all(|c| c.is_ascii_hexdigit())
                    })
                    .collect::<Vec<_>>()
                    .join(" ");
                classes.entry(class).or_default().push(seed);
            }
        }
        let mut text = String::new();
        for (class, seeds) in classes {
            text += &format!("{} {class}: {:?}\n", seeds.len(), &seeds[..seeds.len().min(8)]);
        }
        panic!("{text}");
    }
    for seed in seeds {
        if run(seed, providers, false).failure.is_some() {
            fail(seed, providers);
        }
    }
}

fn fail_or_pass(seed: u64, providers: [&'static Provider; 2]) {
    if run(seed, providers, false).failure.is_some() {
        fail(seed, providers);
    }
}

#[test]
fn ten_thousand_seeds_come_to_rest_with_one_sa_each() {
    let first = std::env::var("IKE_SIM_FIRST").map_or(0, |first| first.parse().unwrap());
    run_seeds(first..first + 10_000, [cheap::provider(), cheap::provider()]);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let both = [cheap::provider(), cheap::provider()];
    for seed in 0..50 {
        assert_eq!(
            run(seed, both, false).trace_hash,
            run(seed, both, false).trace_hash,
            "seed {seed}"
        );
    }
}

#[test]
fn planted_bugs_are_caught() {
    let both = [cheap::provider(), cheap::provider()];
    for bug in [Bug::EarlyAnswer, Bug::NoGrace] {
        let caught = (0..40).any(|seed| {
            let (mut world, _) = build(seed, both);
            world.bug = bug;
            world.strict = true;
            world.run(Duration::from_secs(FAULTS_END));
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
            let mut world = World::new(seed, [cheap::provider(), cheap::provider()]);
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
                assert_eq!(
                    node.events.iter().filter(established).count(),
                    1,
                    "seed {seed}, RTT {rtt}"
                );
            }
            for node in &world.nodes {
                assert_eq!(node.endpoint.counts().ike_sas, 1, "seed {seed}, RTT {rtt}");
            }
            world.run(Duration::from_secs(40));
            world.check_rest(1);
            assert_eq!(world.failure, None, "seed {seed}, RTT {rtt}");
        }
    }
}
