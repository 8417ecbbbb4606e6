//! The kernel data plane, case by case, on a node's kernel: the machine that runs the tests often has no ESP.

use ipsecmesh_e2e::{error::Result, lab::binaries::DATAPLANE_SUITE};

use crate::world::{World, ensure};

/// Cases that the suite had when this was written: fewer of them is a suite that did not run.
const CASES: usize = 47;

/// The suite in a namespace of its own on worker-1: every case, those that need ESP in the kernel included.
pub(crate) fn whole_suite_on_a_node(world: &World) -> Result<String> {
    let lab = world.lab()?;
    let suite = lab.program_on_node(DATAPLANE_SUITE);
    let report = lab.node("worker-1")?.run(&[&suite])?;
    let passed = report.lines().filter(|line| line.starts_with("ok ")).count();
    ensure(passed >= CASES && passed == report.lines().count(), || {
        report.clone()
    })?;
    Ok(format!("{passed} cases passed on a node's kernel"))
}
