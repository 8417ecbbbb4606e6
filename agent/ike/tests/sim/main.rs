//! The seeded simulation of two and more endpoints. A failing seed prints the rule that was broken and its trace.
//!
//! `IKE_SIM_SEED=n` runs one seed alone, `IKE_SIM_SEEDS=count` with `IKE_SIM_FIRST=n` surveys many and prints each kind
//! of failure once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod act;
mod chance;
mod hostile;
mod kernel;
mod mix;
mod network;
mod node;
mod packets;
mod plan;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod survey;
mod watch;
mod world;

use std::time::Duration;

use chance::Weather;
use ipsecmesh_ike::*;

use act::Act;
use kernel::Bug;
use mix::Mix;
use plan::run;
use support::cheap;
use survey::{run_seeds, survey};
use world::World;

#[test]
fn ten_thousand_seeds_come_to_rest_with_one_sa_each() {
    run_seeds(0..10_000);
}

#[test]
fn ten_thousand_more_seeds_come_to_rest_with_one_sa_each() {
    run_seeds(10_000..20_000);
}

/// For people, and for `make sim-nightly`: does nothing unless the environment asks for it.
#[test]
fn one_seed_or_many_on_request() {
    if let Some(seed) = survey::variable("IKE_SIM_SEED") {
        run_seeds(seed..seed + 1);
    }
    if let Some(count) = survey::variable("IKE_SIM_SEEDS") {
        let first = survey::variable("IKE_SIM_FIRST").unwrap_or(0);
        let found = survey(first..first + count);
        assert!(found.is_empty(), "\n{found}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..50 {
        assert_eq!(
            run(seed, false).trace_hash,
            run(seed, false).trace_hash,
            "seed {seed}"
        );
    }
}

/// Invariant I1 to its end: a run in which every second datagram comes with a forged one is the run without them.
#[test]
fn forged_datagrams_leave_no_trace() {
    for seed in 0..300 {
        let traces = [0, 50].map(|forgeries| {
            let mut world = plan::build(seed);
            world.weather.forgeries = forgeries;
            plan::finish(&mut world);
            assert_eq!(world.failure, None, "seed {seed}");
            world.trace_hash
        });
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

#[test]
fn faults_of_the_kernel_are_caught() {
    for (bug, rules) in [
        (Bug::EarlyAnswer, ["pairs", "I8"]),
        (Bug::Forgets, ["pairs", "rest"]),
        (Bug::NoGrace, ["pairs", "I8"]),
        (Bug::WrongKey, ["pairs", "I8"]),
    ] {
        let caught = (0..40).find_map(|seed| {
            let mut world = plan::build(seed);
            world.plant(bug);
            plan::finish(&mut world);
            world.failure
        });
        let caught = caught.unwrap_or_default();
        assert!(
            rules.iter().any(|rule| caught.starts_with(rule)),
            "{bug:?}: {caught}"
        );
    }
}

/// Hosts whose pairs all have one child, the lower one of each beginning.
fn mesh(seed: u64, hosts: usize, mix: &Mix) -> World {
    cheap::seed(seed);
    let mut world = World::new(seed, hosts);
    for (one, other) in world.pairs() {
        world.mixes.insert((one, other), mix.clone());
        world.children.insert((one, other), 1);
        world.at(Duration::ZERO, one, Act::Upsert(other, 1));
        world.at(Duration::ZERO, other, Act::Upsert(one, 1));
    }
    world
}

/// Both nodes begin at the same moment (decision 5): one IKE SA and one set of pairs within 5 s, on a network that
/// loses nothing.
#[test]
fn crossing_starts_end_in_one_sa_within_five_seconds() {
    let mut mix = Mix::default();
    mix.initiation = [Initiation::Eager; 2];
    for rtt in [0, 1, 100] {
        for seed in 0..200 {
            let mut world = mesh(seed, 2, &mix);
            world.weather.delay = (rtt / 2, rtt / 2 + 1);
            world.run(Duration::from_secs(5));
            let established = |event: &&(Duration, Event)| matches!(event.1, Event::ChildEstablished { .. });
            for node in &world.nodes {
                let pairs = node.events.iter().filter(established).count();
                assert_eq!(pairs, 1, "seed {seed}, RTT {rtt}");
                assert_eq!(node.endpoint.counts().ike_sas, 1, "seed {seed}, RTT {rtt}");
            }
            world.run(Duration::from_secs(40));
            world.check_rest();
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
        let mut world = mesh(seed, 2, &Mix::default());
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
        world.check_rest();
        assert_eq!(world.failure, None, "seed {seed}, crashed {crashed:?}");
    }
}

/// Requests to begin come in the name of every peer, more than there is room for, while the peers connect.
#[test]
fn peers_connect_within_five_seconds_while_requests_flood_in() {
    for seed in 0..40 {
        let mut world = mesh(seed, 3, &Mix::default());
        for (one, other) in world.pairs() {
            for (node, peer) in [(one, other), (other, one)] {
                for tenth in 0..50 {
                    world.at(Duration::from_millis(100 * tenth), node, Act::Flood(peer, 50));
                }
            }
        }
        world.weather = Weather {
            delay: (5, 10),
            ..Weather::FAIR
        };
        world.run(Duration::from_secs(5));
        assert_eq!(world.failure, None, "seed {seed}");
        assert!(world.connected(), "seed {seed}");
        world.run(Duration::from_mins(2));
        world.check_rest();
        assert_eq!(world.failure, None, "seed {seed}");
    }
}

/// A NAT gives a host other ports again and again: both ends follow, and packets pass in both directions.
#[test]
fn a_nat_that_forgets_its_mappings_is_followed() {
    for seed in 0..60 {
        let mut world = mesh(seed, 3, &Mix::default());
        world.network.hide(0, seed % 2 == 0);
        for rebound in 1..6 {
            world.at(Duration::from_secs(30 * rebound), 0, Act::Rebind);
        }
        for second in 5..200 {
            world.at(Duration::from_secs(second), 0, Act::Traffic { told: true });
        }
        world.run(Duration::from_secs(230));
        world.check_rest();
        assert_eq!(world.failure, None, "seed {seed}");
        let closed = |event: &&(Duration, Event)| matches!(event.1, Event::IkeClosed { .. });
        let kept = world
            .nodes
            .iter()
            .all(|node| !node.events.iter().any(|event| closed(&event)));
        assert!(kept, "seed {seed}: an IKE SA did not survive");
    }
}

/// The peers prove their identities anew again and again, both ends within moments of each other: the pair never
/// ceases to carry traffic, and there is one IKE SA after each.
#[test]
fn re_authentication_never_leaves_an_end_without_its_pair() {
    let mut mix = Mix::default();
    mix.initiation = [Initiation::Eager; 2];
    mix.ike_lifetime = Duration::from_mins(1);
    for seed in 0..60 {
        let mut world = mesh(seed, 2, &mix);
        world.weather.delay = (0, seed);
        for second in 5..=300 {
            world.run(Duration::from_secs(second));
            assert!(world.connected(), "seed {seed}, second {second}");
        }
        world.check_rest();
        assert_eq!(world.failure, None, "seed {seed}");
        let anew =
            |event: &&(Duration, Event)| matches!(event.1, Event::IkeEstablished { replaces: None, .. });
        for node in &world.nodes {
            let times = node.events.iter().filter(anew).count();
            assert!((5..=8).contains(&times), "seed {seed}: {times} times");
        }
    }
}

/// What an engine still has on the heap when all its peers are gone is what it began with: queues that are empty.
#[test]
fn an_engine_without_peers_holds_no_memory() {
    /// Room of queues that have been used.
    const QUEUES: i64 = 64 * 1024;
    for seed in 0..100 {
        let world = run(seed, false);
        assert_eq!(world.failure, None, "seed {seed}");
        for node in world.nodes {
            let endpoint = node.endpoint;
            let freed = -allocation_counter::measure(|| drop(endpoint)).bytes_current;
            assert!((0..QUEUES).contains(&freed), "seed {seed}: {freed} bytes");
        }
    }
}
