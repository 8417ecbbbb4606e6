//! Nodes with newer kernels in the mesh: all pairs encrypted, and each agent uses what its kernel has.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Error, Result, eventually},
    lab::{Kernel, Lab, Node, NodeOptions, suite::Suite},
    report::Progress,
    traffic::Stream,
};

use crate::{
    evidence::{Allowed, MARKER, Watch, cleartext},
    nodes::leave,
    standing::Standing,
    world::{NODES, World, ensure, pod_name, wait_ready},
};

/// Until new nodes have their SAs.
const JOINED: Duration = Duration::from_mins(2);
/// Where a node sees the system that its kernel came from: with an `ip` that knows what the kernel knows.
const SYSTEM: &str = "/run/lab/kernel";

/// A mesh of this machine's kernel and two nodes of newer ones; numbered packets between all pairs of the three kernels,
/// both ways; what only newer kernels know is in the SAs of those nodes and in no other's.
pub(crate) fn mesh_of_three_kernels(world: &World) -> Result<String> {
    let (kernels, mut seen) = newer_kernels();
    if kernels.is_empty() {
        return Ok(seen.join("; "));
    }
    let pods = world.mesh()?;
    let lab = pods.lab().clone();
    let watch = Watch::all(&pods)?;
    let begin = Instant::now();
    let mut members = vec![(NODES[0].to_owned(), pod_name(0), pods.address(0).to_owned())];
    for (suite, kernel) in kernels {
        let (name, pod) = (format!("worker-{suite}"), format!("trial-{suite}"));
        let options = NodeOptions {
            kernel,
            ..NodeOptions::default()
        };
        lab.add_node(&name, options)?;
        let address = lab.start_traffic_pod(&pod, &name, &["serve"])?;
        members.push((name, pod, address));
    }
    wait_ready(&lab, JOINED)?;
    let standing = Standing::settled(&lab, JOINED)?;
    seen.push(format!(
        "{} SAs between {} nodes after {:.1} s",
        standing.count(),
        lab.nodes().len(),
        begin.elapsed().as_secs_f64()
    ));
    let proof = all_pairs(&lab, &members).and_then(|pairs| {
        seen.push(pairs);
        members
            .iter()
            .try_for_each(|(name, ..)| used(&lab, name).map(|said| seen.push(said)))
    });
    for (_, pod, _) in members.iter().skip(1) {
        lab.kubectl()
            .run(&["delete", "pod", pod, "--force", "--grace-period=0"])?;
    }
    leave(&lab)?;
    // Packets for a node whose SAs do not stand yet, or no more, are blocked: that is what they count as.
    let evidence = watch.finish(&Allowed {
        counters: &["XfrmOutNoStates", "XfrmInNoStates", "XfrmOutPolBlock"],
        ..Allowed::default()
    })?;
    proof?;
    Ok(format!("{}; the others: {evidence}", seen.join("; ")))
}

/// The kernels of newer suites, and which of them cannot be had here, with the reason.
pub(crate) fn newer_kernels() -> (Vec<(Suite, Kernel)>, Vec<String>) {
    let (mut kernels, mut left_out) = (Vec::new(), Vec::new());
    for suite in [Suite::Trixie, Suite::Forky] {
        match Kernel::of(suite, &Progress::quiet()) {
            Ok(kernel) => kernels.push((suite, kernel)),
            Err(error) => left_out.push(format!("LEFT OUT the kernel of {suite}: {error}")),
        }
    }
    (kernels, left_out)
}

/// The release of a node's kernel.
pub(crate) fn release(node: &Node) -> Result<String> {
    Ok(node.run(&["uname", "-r"])?.trim().to_owned())
}

/// Numbered packets from each pod to each later one, which sends them back: none lost, none readable on any wire.
fn all_pairs(lab: &Lab, members: &[(String, String, String)]) -> Result<String> {
    const PACKETS: u64 = 200;
    let captures: Vec<_> = members
        .iter()
        .map(|(name, ..)| lab.capture(name, ALL_BUT_API))
        .collect::<Result<_>>()?;
    let mut streams = Vec::new();
    for (at, (from, pod, _)) in members.iter().enumerate() {
        for (to, _, address) in members.iter().skip(at + 1) {
            let arguments = ["send", "--to", address, "--rate", "50", "--marker", MARKER];
            streams.push((format!("{from}–{to}"), Stream::start(lab, from, pod, &arguments)?));
        }
    }
    let (mut sent, pairs) = (0, streams.len());
    for (pair, stream) in &streams {
        let report = eventually(&format!("{PACKETS} packets between {pair}"), JOINED, || {
            let report = stream.settled()?;
            ensure(report.settled >= PACKETS, || format!("{report:?}"))?;
            Ok(report)
        })?;
        ensure(report.missing() == 0, || format!("{pair}: {report:?}"))?;
        sent += report.settled;
    }
    drop(streams);
    let nodes: Vec<_> = lab.nodes().iter().map(|node| node.address()).collect();
    let mut esp = 0;
    for capture in captures {
        let wire = capture.finish()?;
        esp += wire.counts_between(&nodes).esp;
        if let Some(fault) = cleartext(&wire, &nodes, &Allowed::default()) {
            return Err(Error::observed(fault));
        }
    }
    Ok(format!(
        "0 of {sent} packets lost between {pairs} pairs of kernels, {esp} ESP on their wires, 0 in clear"
    ))
}

/// What the agent of a node has found its kernel to be able to, and whether it uses that and nothing else.
fn used(lab: &Lab, name: &str) -> Result<String> {
    let node = lab.node(name)?;
    let release = release(&node)?;
    let probe = lab.agent(name, &["probe"])?;
    let knows = probe.contains("the kernel takes an SA for its own direction only");
    let keeps = probe.contains("sent by the kernel");
    let newer = !NODES.contains(&name);
    ensure(newer == knows && newer == keeps, || {
        format!("Linux {release}: {probe}")
    })?;
    if !newer {
        return Ok(format!("Linux {release}: no direction, keepalives by the agent"));
    }
    let states = node.run(&["chroot", SYSTEM, "ip", "xfrm", "state"])?;
    let sas = states.lines().filter(|line| line.starts_with("src ")).count();
    let (inbound, outbound) = (
        states.matches("dir in").count(),
        states.matches("dir out").count(),
    );
    ensure(
        inbound == outbound && inbound + outbound == sas && sas > 0,
        || format!("Linux {release}: {inbound} SAs in, {outbound} out, {sas} in all"),
    )?;
    Ok(format!(
        "Linux {release}: {inbound} SAs `dir in`, {outbound} `dir out`, keepalives by the kernel"
    ))
}
