//! Interoperability: our agent and strongSwan as Debian ships it, in both roles, over the ESP and AH of a real kernel.
//!
//! One booted kernel; every trial has network namespaces of its own in it. Needs root and `e2e/setup.sh`:
//! `cargo test --workspace --test interop`, with a part of a name behind `--` for some of the trials only.

use std::sync::Arc;

use ipsecmesh_e2e::error::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use matrix::Starter;
use world::World;

mod matrix;
mod standalone;
mod world;

/// What a trial is: it answers with the evidence that the table at the end shows.
type Check = fn(&World) -> Result<String>;

const TRIALS: &[(&str, Check)] = &[
    ("ground::strongswan_with_itself", matrix::strongswan_with_itself),
    ("standalone::commands_as_written", standalone::commands_as_written),
    (
        "standalone::strongswan_as_written",
        standalone::strongswan_as_written,
    ),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let mut trials = Vec::new();
    for (name, check) in TRIALS {
        let world = world.clone();
        trials.push(Trial::test(*name, move || {
            world.run(name, *check).map_err(Failed::from)
        }));
    }
    for (name, case) in matrix::rows() {
        for starter in Starter::of(&case).iter().copied() {
            let (world, name) = (world.clone(), format!("matrix::{name}::{starter}"));
            trials.push(Trial::test(name.clone(), move || {
                world
                    .run(&name, |world| matrix::row(world, &case, starter))
                    .map_err(Failed::from)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end();
    conclusion.exit();
}
