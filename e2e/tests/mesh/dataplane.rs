//! The kernel data plane, case by case, on every kernel of the lab: the machine that runs the tests often has no ESP.

use std::sync::Arc;

use ipsecmesh_e2e::{
    error::{Error, Result},
    lab::{Lab, Node, NodeOptions, binaries::DATAPLANE_SUITE},
};

use crate::{
    kernels::{newer_kernels, release},
    world::{NODES, World, ensure},
};

/// Cases that run on every kernel: fewer of them is a suite that did not run.
const CASES: usize = 66;
/// What a kernel before Linux 6.10 lacks, and the suite says so.
const NEWER: [&str; 2] = ["SAs that say which way they go", "keepalives of the kernel"];

/// The suite in a namespace of its own on a node of each kernel: every case, those that need ESP included. What an old
/// kernel lacks, the newer ones do.
pub(crate) fn whole_suite_on_every_kernel(world: &World) -> Result<String> {
    let lab = world.lab()?;
    let (kernels, mut seen) = newer_kernels();
    let mut nodes = vec![lab.node(NODES[0])?];
    let mut names = Vec::new();
    let outcome = kernels.into_iter().try_for_each(|(suite, kernel)| {
        let name = format!("plain-{suite}");
        let options = NodeOptions {
            plain: true,
            kernel,
            ..NodeOptions::default()
        };
        names.push(name.clone());
        nodes.push(lab.add_node(&name, options)?);
        Ok(())
    });
    let reports = outcome.and_then(|()| {
        nodes
            .iter()
            .map(|node| passed(&lab, node))
            .collect::<Result<Vec<_>>>()
    });
    for name in &names {
        lab.remove_node(name)?;
    }
    seen.extend(reports?);
    Ok(seen.join("; "))
}

fn passed(lab: &Lab, node: &Arc<Node>) -> Result<String> {
    let release = release(node)?;
    let suite = lab.program_on_node(DATAPLANE_SUITE);
    let report = node
        .run(&[&suite])
        .map_err(|error| Error::observed(format!("Linux {release}: {error}")))?;
    let with = |word: &str| report.lines().filter(|line| line.starts_with(word)).count();
    let (passed, lacking) = (with("ok "), with("lacks "));
    let whole = passed + lacking == report.lines().count() && passed >= CASES;
    ensure(whole, || format!("Linux {release}: {report}"))?;
    // The machine's own kernel may be an old one; the newer suites' have all.
    let expected = if node.name() == NODES[0] { NEWER.len() } else { 0 };
    let said = NEWER.iter().filter(|what| report.contains(*what)).count();
    ensure(lacking <= expected && said == lacking, || {
        format!("Linux {release} lacks what it should have: {report}")
    })?;
    Ok(format!(
        "{passed} cases on Linux {release}, {lacking} that it lacks"
    ))
}
