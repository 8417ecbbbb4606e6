//! The run of one seed: who begins, the weather, and what happens to whom.

use std::time::Duration;

use ipsecmesh_ike::crypto::Provider;
use ipsecmesh_ike::*;

use crate::chance::{Dice, Weather};
use crate::support::{cheap, peer_config, psk};
use crate::world::{Act, World};

/// Nothing happens after so many seconds, and the weather is fair.
pub(crate) const FAULTS_END: u64 = 60;

/// Sets up the world of a seed; also tells how many children there are at the end.
pub(crate) fn build(seed: u64, providers: [&'static Provider; 2]) -> (World, usize) {
    cheap::seed(seed);
    let mut world = World::new(seed, providers);
    let mut dice = Dice(seed);
    let children = 1 + dice.below(3);
    let secret = dice.percent(50).then(|| psk(b"a secret of both"));
    // Neither end, one, or both have an additional key exchange.
    let quantum = dice.below(4);
    // A cipher and an integrity algorithm instead of a combined mode.
    let separate = seed % 4 == 3;
    let both = dice.percent(50);
    let rtt = [0, 1, 20, 100][dice.index(4)];
    for index in 0..2_u8 {
        let (local, remote) = (index + 1, 2 - index);
        let mut config = peer_config(local, remote, small(children));
        if let Some(secret) = &secret {
            config.auth = secret.clone();
        }
        if seed % 5 == 2 {
            // The peers prove their identities anew again and again.
            config.ike_lifetime = Duration::from_secs(60 + seed % 90);
        }
        if separate {
            for proposal in &mut config.ike_proposals {
                proposal.encryption = vec![Encryption::AesCbcKey256];
                proposal.integrity = vec![Integrity::HmacSha384];
            }
        }
        if quantum > u64::from(index) {
            let plain = config.ike_proposals.clone();
            for proposal in plain.into_iter().rev() {
                let additional = vec![Kem::MlKem768];
                config.ike_proposals.insert(
                    0,
                    IkeProposal {
                        additional,
                        ..proposal
                    },
                );
            }
        }
        if index == 1 && !both {
            let grace = Duration::from_secs(3);
            config.initiation = Initiation::EagerAfter { grace };
        }
        let delay = if both { Duration::ZERO } else { dice.millis(0, 500) };
        world.at(delay, usize::from(index), Act::Upsert(Box::new(config)));
    }
    let low = rtt / 2;
    world.weather = Weather {
        loss: [0, 0, 5, 15, 30][dice.index(5)],
        duplicates: [0, 5, 30][dice.index(3)],
        delay: (low, low + [0, 5, 50, 800][dice.index(4)]),
        kernel: [(0, 0), (0, 2), (0, 100)][dice.index(3)],
        refusals: [0, 0, 0, 10][dice.index(4)],
    };
    let mut left = children;
    let mut edited = false;
    let kinds = if dice.percent(40) { 12 } else { 7 };
    for _ in 0..dice.below(7) {
        let when = Duration::from_millis(dice.below((FAULTS_END - 5) * 1000));
        happen(&mut world, &mut dice, when, rtt, kinds, (&mut left, &mut edited));
    }
    if edited {
        // Whatever came in which order: at last both ends want the same.
        for node in 0..2 {
            let when = Duration::from_secs(FAULTS_END - 2) + dice.millis(0, 1000);
            world.at(when, node, Act::Children(small(left)));
        }
    }
    (world, usize::try_from(left).unwrap_or_default())
}

/// One thing, or the same at both ends a little apart, so that the exchanges cross.
fn happen(
    world: &mut World,
    dice: &mut Dice,
    when: Duration,
    rtt: u64,
    kinds: u64,
    edit: (&mut u64, &mut bool),
) {
    let (children, edited) = edit;
    let node = dice.index(2);
    let child = 1 + small(dice.below(*children));
    let apart = dice.millis(0, 1 + rtt);
    let mut both = |first: Act, second: Act| {
        world.at(when, node, first);
        world.at(when + apart, 1 - node, second);
    };
    match dice.below(kinds) {
        0 => world.at(when, node, Act::RekeyChild(child)),
        1 => world.at(when, node, Act::RekeyIke),
        2 | 3 => both(Act::RekeyChild(child), Act::RekeyChild(child)),
        4 => both(Act::RekeyIke, Act::RekeyIke),
        5 => both(Act::RekeyIke, Act::RekeyChild(child)),
        6 => world.at(
            when,
            node,
            Act::Expire {
                hard: dice.percent(20),
            },
        ),
        7 | 8 => {
            let kernel_lost = dice.percent(50);
            world.at(when, node, Act::Restart { kernel_lost });
            if kernel_lost && dice.percent(50) {
                world.at(when + Duration::from_secs(1), 1 - node, Act::PeerBooted);
            }
        }
        9 => world.at(when, node, Act::Outage(1 + dice.below(90))),
        10 => {
            world.at(when, node, Act::Remove);
            world.at(when + dice.millis(0, 20_000), node, Act::Return);
        }
        _ => {
            let act = if dice.percent(50) {
                Act::Shorter
            } else {
                *children = 1 + dice.below(3);
                *edited = true;
                Act::Children(small(*children))
            };
            world.at(when, node, act.clone());
            world.at(when + dice.millis(0, 3000), 1 - node, act);
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, providers: [&'static Provider; 2], tracing: bool) -> World {
    let (mut world, children) = build(seed, providers);
    world.tracing = tracing;
    storm(&mut world, seed);
    world.weather = Weather {
        delay: world.weather.delay,
        ..Weather::FAIR
    };
    let end = Duration::from_secs(FAULTS_END + 340);
    world.run(end);
    world.check_rest(children);
    for node in 0..2 {
        world.at(world.now, node, Act::Remove);
    }
    world.run(end + Duration::from_mins(1));
    world.check_gone();
    world
}

/// The part of a run in which things happen.
pub(crate) fn storm(world: &mut World, seed: u64) {
    let mut second = 0;
    while second < FAULTS_END && world.failure.is_none() {
        second += 5;
        world.run(Duration::from_secs(second));
        if seed.is_multiple_of(3) {
            world.traffic();
        }
    }
}
