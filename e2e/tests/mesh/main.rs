//! The mesh, end to end: one booted cluster of three real kernels, the product from its own charts, trials in order.
//!
//! Every trial makes sure of what it needs, so `-- NAME` runs any of them alone; in order they share the cluster.
//! Needs root and `e2e/setup.sh`: `cargo test --workspace --test mesh`.

use std::sync::Arc;

use ipsecmesh_e2e::error::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

mod api;
mod csr;
mod dataplane;
mod edit;
mod encrypt;
mod evidence;
mod external;
mod host;
mod hostile;
mod idle;
mod input;
mod install;
mod kernels;
mod lifecycle;
mod nodes;
mod outside;
mod restart;
mod standing;
mod volume;
mod world;

/// What a trial is: it answers with the evidence that the table at the end shows.
type Check = fn(&World) -> Result<String>;

const TRIALS: &[(&str, Check)] = &[
    ("api::definitions_are_accepted", api::definitions_are_accepted),
    (
        "api::every_sample_is_judged_with_message_and_field",
        api::every_sample_is_judged_with_message_and_field,
    ),
    (
        "api::what_must_not_change_does_not",
        api::what_must_not_change_does_not,
    ),
    (
        "api::null_for_an_optional_field_is_refused",
        api::null_for_an_optional_field_is_refused,
    ),
    (
        "api::an_unknown_field_is_refused_under_strict_validation",
        api::an_unknown_field_is_refused_under_strict_validation,
    ),
    (
        "install::pods_on_two_nodes_talk_in_clear",
        install::pods_on_two_nodes_talk_in_clear,
    ),
    (
        "dataplane::whole_suite_on_every_kernel",
        dataplane::whole_suite_on_every_kernel,
    ),
    (
        "install::chart_refuses_without_definitions",
        install::chart_refuses_without_definitions,
    ),
    ("install::both_charts", install::both_charts),
    ("install::changes_no_traffic", install::changes_no_traffic),
    ("install::helm_test", install::helm_test),
    ("input::selects_nothing", input::selects_nothing),
    ("input::missing_authority", input::missing_authority),
    ("input::unsupported_field", input::unsupported_field),
    ("input::protected_tunnel", input::protected_tunnel),
    ("encrypt::from_clear_to_enforced", encrypt::from_clear_to_enforced),
    ("encrypt::rekeys_lose_nothing", encrypt::rekeys_lose_nothing),
    ("encrypt::edits_lose_nothing", encrypt::edits_lose_nothing),
    ("edit::other_algorithms", edit::other_algorithms),
    ("edit::fewer_nodes", edit::fewer_nodes),
    ("edit::overlapping_tunnels", edit::overlapping_tunnels),
    ("restart::agent_is_replaced", restart::agent_is_replaced),
    ("restart::agents_are_killed", restart::agents_are_killed),
    ("restart::leader_is_killed", restart::leader_is_killed),
    ("restart::api_server_is_away", restart::api_server_is_away),
    (
        "restart::node_crashes_and_returns",
        restart::node_crashes_and_returns,
    ),
    ("volume::soft_and_hard_limits", volume::soft_and_hard_limits),
    ("nodes::added_and_removed", nodes::added_and_removed),
    ("kernels::mesh_of_three_kernels", kernels::mesh_of_three_kernels),
    ("external::pre_shared_key", external::pre_shared_key),
    ("external::trust_bundle", external::trust_bundle),
    (
        "external::nobody_else_is_sealed_to",
        external::nobody_else_is_sealed_to,
    ),
    ("host::without_a_capability", host::without_a_capability),
    ("host::without_esp", host::without_esp),
    ("host::with_the_port_taken", host::with_the_port_taken),
    (
        "hostile::datagrams_change_nothing",
        hostile::datagrams_change_nothing,
    ),
    ("hostile::foreign_certificate", hostile::foreign_certificate),
    ("lifecycle::upgrade_and_rollback", lifecycle::upgrade_and_rollback),
    (
        "lifecycle::uninstall_and_reinstall",
        lifecycle::uninstall_and_reinstall,
    ),
    (
        "lifecycle::chart_refuses_old_definitions",
        lifecycle::chart_refuses_old_definitions,
    ),
    ("idle::nobody_writes_at_rest", idle::nobody_writes_at_rest),
    (
        "encrypt::deletion_leaves_nothing",
        encrypt::deletion_leaves_nothing,
    ),
    // Certificates that nobody uses push the one in use out of the directory, until its node renews it: so these come
    // last.
    ("csr::without_a_node_claim", csr::without_a_node_claim),
    (
        "csr::from_another_service_account",
        csr::from_another_service_account,
    ),
    ("csr::for_another_signer", csr::for_another_signer),
    ("csr::for_another_nodes_name", csr::for_another_nodes_name),
    ("csr::with_extra_names", csr::with_extra_names),
    ("csr::with_another_nodes_pod", csr::with_another_nodes_pod),
    ("csr::with_a_weak_key", csr::with_a_weak_key),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let trials = TRIALS
        .iter()
        .map(|(name, check)| {
            let world = world.clone();
            Trial::test(*name, move || world.run(name, *check).map_err(Failed::from))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end();
    conclusion.exit();
}
