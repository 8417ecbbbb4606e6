//! The run of one seed: how many hosts, how each pair is configured, the weather, and what happens to whom.

use std::time::Duration;

use ipsecmesh_ike::Initiation;

use crate::act::Act;
use crate::chance::{Dice, Weather};
use crate::kernel::Step;
use crate::mix::Mix;
use crate::support::cheap;
use crate::world::World;

/// Nothing happens after so many seconds, and the weather is fair.
pub(crate) const FAULTS_END: u64 = 60;

/// All that was begun has ended after so many more seconds.
pub(crate) const CALM: u64 = 340;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// What is drawn for one thing that happens.
struct Moment<'a> {
    dice: &'a mut Dice,
    when: Duration,
    /// To whom, and with regard to whom.
    node: usize,
    peer: usize,
    /// How many children the two have.
    children: u32,
    /// The longest way of a datagram and back, in milliseconds.
    rtt: u64,
}

/// Sets up the world of a seed.
pub(crate) fn build(seed: u64) -> World {
    cheap::seed(seed);
    let mut dice = Dice(seed);
    let hosts = dice.pick(&[2, 2, 2, 2, 2, 2, 2, 2, 3, 4]);
    let translated = dice.percent(12);
    let mut world = World::new(seed, hosts);
    if translated {
        world.network.hide(0, dice.percent(50));
    }
    world.weather = Weather::draw(&mut dice);
    let calm = dice.percent(60);
    for (one, other) in world.pairs() {
        let mix = Mix::draw(&mut dice, translated && one == 0);
        let children = small(1 + dice.below(3));
        let together = dice.percent(50);
        world.mixes.insert((one, other), mix);
        world.children.insert((one, other), children);
        for (node, peer) in [(one, other), (other, one)] {
            let delay = if together {
                Duration::ZERO
            } else {
                dice.millis(0, 500)
            };
            world.at(delay, node, Act::Upsert(peer, children));
        }
    }
    let told = dice.percent(35);
    for second in 1..FAULTS_END {
        for node in 0..hosts {
            let when = Duration::from_secs(second) + dice.millis(0, 1000);
            world.at(when, node, Act::Traffic { told });
        }
    }
    let pairs: Vec<(usize, usize)> = world.pairs().collect();
    for _ in 0..dice.below(7) {
        let (one, other) = dice.pick(&pairs);
        let (node, peer) = if dice.percent(50) {
            (one, other)
        } else {
            (other, one)
        };
        let moment = Moment {
            when: Duration::from_millis(dice.below((FAULTS_END - 5) * 1000)),
            node,
            peer,
            children: world.children[&(one, other)],
            rtt: 2 * world.weather.delay.0,
            dice: &mut dice,
        };
        happen(&mut world, moment, calm);
    }
    settle(&mut world, &mut dice);
    world
}

/// One thing, or the same at both ends a little apart, so that the exchanges cross; packets all the while.
fn happen(world: &mut World, moment: Moment<'_>, calm: bool) {
    let Moment {
        dice,
        when,
        node,
        peer,
        children,
        rtt,
    } = moment;
    let child = 1 + small(dice.below(u64::from(children)));
    let apart = dice.millis(0, 1 + rtt);
    for burst in 0..8 {
        let at = when + dice.millis(burst * (1 + rtt / 3), (burst + 1) * (2 + rtt / 3));
        world.at(at, node, Act::Traffic { told: false });
        world.at(at, peer, Act::Traffic { told: false });
    }
    let mut both = |first: Act, second: Act| {
        world.at(when, node, first);
        world.at(when + apart, peer, second);
    };
    match dice.below(if calm { 8 } else { 18 }) {
        0 => world.at(when, node, Act::RekeyChild(peer, child)),
        1 => world.at(when, node, Act::RekeyIke(peer)),
        2 | 3 => both(Act::RekeyChild(peer, child), Act::RekeyChild(node, child)),
        4 => both(Act::RekeyIke(peer), Act::RekeyIke(node)),
        5 => both(Act::RekeyIke(peer), Act::RekeyChild(node, child)),
        6 => {
            let hard = !calm && dice.percent(20);
            let which = dice.index(64);
            world.at(when, node, Act::Expire { hard, which });
        }
        7 => {
            let by = dice.pick(&[-YEAR, -HOUR, 5 * HOUR, YEAR]);
            world.at(when, node, Act::WallClock(by));
        }
        8 | 9 => {
            let kernel_lost = dice.percent(50);
            world.at(when, node, Act::Restart { kernel_lost });
            if kernel_lost && dice.percent(50) {
                world.at(when + Duration::from_secs(1), peer, Act::PeerBooted(node));
            }
        }
        10 => world.at(when, node, Act::Outage(1 + dice.below(90))),
        11 => {
            world.at(when, node, Act::Remove(peer));
            world.at(when + dice.millis(0, 20_000), node, Act::Return(peer));
        }
        12 => {
            both(Act::Shorter(peer), Act::Shorter(node));
        }
        13 => edit(world, dice, when, (node, peer)),
        14 => world.at(when, node, Act::Cut(peer, 1 + dice.below(60))),
        15 => {
            let step = dice.pick(&Step::ALL);
            world.at(when, node, Act::Refuse(step, dice.below(3)));
            world.at(when + apart, peer, Act::RekeyChild(node, child));
        }
        16 => world.at(when, node, Act::Flood(peer, 20 + dice.below(200))),
        _ => world.at(when, node, Act::Rebind),
    }
}

/// The children change at one end, and a little later at the other.
fn edit(world: &mut World, dice: &mut Dice, when: Duration, (node, peer): (usize, usize)) {
    let children = small(1 + dice.below(3));
    world.children.insert((node.min(peer), node.max(peer)), children);
    world.at(when, node, Act::Children(peer, children));
    world.at(when + dice.millis(0, 3000), peer, Act::Children(node, children));
}

/// What has to happen once more so that all hosts want the same at the end.
fn settle(world: &mut World, dice: &mut Dice) {
    let children = world.children.clone();
    for ((one, other), children) in children {
        for (node, peer) in [(one, other), (other, one)] {
            // Edits may have come in any order.
            let last = Duration::from_secs(FAULTS_END - 2) + dice.millis(0, 1000);
            world.at(last, node, Act::Children(peer, children));
            if world.mixes[&(one, other)].initiation[0] == Initiation::OnDemand {
                for child in 1..=children {
                    world.at(Duration::from_millis(600), node, Act::Acquire(peer, child));
                    // Whoever was removed is back by then, and what was cut off is in reach.
                    let last = Duration::from_secs(FAULTS_END + 150) + dice.millis(0, 1000);
                    world.at(last, node, Act::Acquire(peer, child));
                }
            }
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, tracing: bool) -> World {
    let mut world = build(seed);
    world.tracing = tracing;
    finish(&mut world);
    world
}

/// Everything that happens, then rest, then the end of all peers.
pub(crate) fn finish(world: &mut World) {
    world.run(Duration::from_secs(FAULTS_END));
    world.weather = Weather {
        delay: world.weather.delay,
        ..Weather::FAIR
    };
    for node in &mut world.nodes {
        node.kernel.refusals.clear();
    }
    let end = Duration::from_secs(FAULTS_END + CALM);
    world.run(end);
    world.check_rest();
    for (one, other) in world.pairs() {
        world.at(world.now, one, Act::Remove(other));
        world.at(world.now, other, Act::Remove(one));
    }
    world.run(world.now + Duration::from_mins(1));
    world.check_gone();
}
