//! Interoperability: our agent and strongSwan as Debian ships it, in both roles, over the ESP and AH of a real kernel.
//!
//! One booted kernel; every trial has network namespaces of its own in it. Needs root and `e2e/setup.sh`:
//! `cargo test --workspace --test interop`, with a part of a name behind `--` for some of the trials only.

use std::sync::Arc;

use ipsecmesh_e2e::{error::Result, interop::strongswan::Release};
use libtest_mimic::{Arguments, Failed, Trial};
use matrix::{ROWS, Starter};
use world::World;

mod ends;
mod libreswan;
mod life;
mod matrix;
mod newer;
mod refusals;
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
    ("life::child_rekeys_by_us", life::child_rekeys_by_us),
    ("life::child_rekeys_by_them", life::child_rekeys_by_them),
    ("life::ike_rekeys_by_us", life::ike_rekeys_by_us),
    ("life::ike_rekeys_by_them", life::ike_rekeys_by_them),
    ("life::reauthentication_by_them", life::reauthentication_by_them),
    (
        "life::reauthentication_by_them_with_a_break",
        life::reauthentication_by_them_with_a_break,
    ),
    (
        "life::a_child_that_they_delete_comes_back",
        life::a_child_that_they_delete_comes_back,
    ),
    (
        "life::an_ike_sa_that_they_delete_comes_back",
        life::an_ike_sa_that_they_delete_comes_back,
    ),
    ("life::down_and_up_by_us", life::down_and_up_by_us),
    ("life::crash_of_theirs", life::crash_of_theirs),
    ("life::crash_of_ours", life::crash_of_ours),
    ("refusals::wrong_psk", refusals::wrong_psk),
    (
        "refusals::our_name_is_unknown_to_them",
        refusals::our_name_is_unknown_to_them,
    ),
    (
        "refusals::their_name_is_unknown_to_us",
        refusals::their_name_is_unknown_to_us,
    ),
    (
        "refusals::their_authority_is_unknown",
        refusals::their_authority_is_unknown,
    ),
    (
        "refusals::our_authority_is_unknown",
        refusals::our_authority_is_unknown,
    ),
    (
        "refusals::their_certificate_has_expired",
        refusals::their_certificate_has_expired,
    ),
    (
        "refusals::our_certificate_has_expired",
        refusals::our_certificate_has_expired,
    ),
    ("refusals::ike_proposals", refusals::ike_proposals),
    ("refusals::child_proposals", refusals::child_proposals),
    ("refusals::selectors", refusals::selectors),
    ("refusals::they_want_a_tunnel", refusals::they_want_a_tunnel),
    (
        "refusals::wider_selectors_of_theirs",
        refusals::wider_selectors_of_theirs,
    ),
    (
        "refusals::wider_selectors_of_ours",
        refusals::wider_selectors_of_ours,
    ),
    ("newer::ml_kem_we_begin", newer::ml_kem_we_begin),
    ("newer::ml_kem_they_begin", newer::ml_kem_they_begin),
    ("newer::newer_rekeys", newer::newer_rekeys),
    ("newer::rekeys_that_cross", newer::rekeys_that_cross),
    ("newer::childless_they_begin", newer::childless_they_begin),
    ("libreswan::psk_transport", libreswan::psk_transport),
    ("libreswan::ecdsa_cbc_tunnel", libreswan::ecdsa_cbc_tunnel),
    ("libreswan::rsa_gcm128_udp", libreswan::rsa_gcm128_udp),
    ("libreswan::chacha_tunnel_4in6", libreswan::chacha_tunnel_4in6),
    ("libreswan::rekeys", libreswan::rekeys),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let mut trials = vec![Trial::test("matrix::every_pair_has_its_row", || {
        matrix::every_pair_has_its_row().map_err(Failed::from)
    })];
    for (name, check) in TRIALS {
        let world = world.clone();
        trials.push(Trial::test(*name, move || {
            world.run(name, *check).map_err(Failed::from)
        }));
    }
    for row in ROWS {
        let case = match matrix::case(row) {
            Ok(case) => case,
            Err(error) => {
                trials.push(Trial::test(*row, move || Err(Failed::from(error))));
                continue;
            }
        };
        for starter in Starter::of(case).iter().copied() {
            let (world, name) = (world.clone(), format!("matrix::{row}::{starter}"));
            trials.push(Trial::test(name.clone(), move || {
                world
                    .run(&name, |world| {
                        matrix::row(world, case, &Release::Installed, starter)
                    })
                    .map_err(Failed::from)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end();
    conclusion.exit();
}
