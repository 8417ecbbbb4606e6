//! Nodes join and leave.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Error, Result, eventually},
    lab::{Lab, NodeOptions},
    protocol::Taint,
    traffic::Stream,
};

use crate::{
    evidence::{Allowed, MARKER, Watch, cleartext},
    standing::Standing,
    world::{NODES, ROLLOUT, World, ensure, pod_name, wait_ready},
};

const NEW: &str = "worker-4";
/// Until a node that is back or new has its SAs, from its Ready on.
const JOINED: Duration = Duration::from_mins(2);
/// What is blocked after a node's removal is released after a while.
const AFTERMATH: Duration = Duration::from_mins(2);
const TAINT: &str = "ipsecmesh.io/agent-not-ready";

/// Enforcing mesh, traffic; a fourth node joins, and leaves; its first packets are ESP or dropped, the others lose none.
pub(crate) fn added_and_removed(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab().clone();
    let watch = Watch::all(&pods)?;
    let wire = lab.capture("worker-1", ALL_BUT_API)?;
    let taints = vec![Taint {
        key: TAINT.into(),
        value: None,
        effect: "NoSchedule".into(),
    }];
    let node = lab.add_node(
        NEW,
        NodeOptions {
            taints,
            ..NodeOptions::default()
        },
    )?;
    let begin = Instant::now();
    // The first pod of a node gets the first address: somebody talks to it before it is there.
    let address = format!("10.244.{}.2", node.index());
    let arguments = ["send", "--to", &address, "--rate", "50", "--marker", MARKER];
    let early = Stream::start(&lab, NODES[0], &pod_name(0), &arguments)?;
    untainted(&lab)?;
    let pod = lab.start_traffic_pod("trial-4", NEW, &["serve"])?;
    ensure(pod == address, || format!("the pod has {pod}, not {address}"))?;
    let first = eventually("packets arrive", JOINED, || {
        let report = early.settled()?;
        ensure(report.received > 0, || format!("{report:?}"))?;
        Ok(report)
    })?;
    let arrived = begin.elapsed();
    wait_ready(&lab, JOINED)?;
    let four = Standing::settled(&lab, JOINED)?;
    let all: Vec<_> = lab.nodes().iter().map(|node| node.address()).collect();
    let seen = wire.finish()?;
    if let Some(fault) = cleartext(&seen, &all, &Allowed::default()) {
        return Err(Error::observed(fault));
    }
    drop(early);
    lab.kubectl()
        .run(&["delete", "pod", "trial-4", "--force", "--grace-period=0"])?;
    leave(&lab)?;
    // Packets for a node whose SAs do not stand yet, or no more, are blocked: that is what they count as.
    let evidence = watch.finish(&Allowed {
        counters: &["XfrmOutNoStates", "XfrmInNoStates", "XfrmOutPolBlock"],
        ..Allowed::default()
    })?;
    Ok(format!(
        "{} blocked, the first arrives as ESP after {:.1} s; {} SAs with 4 nodes; {} on its wire; the others: {evidence}",
        first.lost,
        arrived.as_secs_f64(),
        four.count(),
        seen.counts()
    ))
}

/// Takes away every node that a trial has added and waits until the three are at rest.
pub(crate) fn leave(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        if !NODES.contains(&node.name()) {
            lab.remove_node(node.name())?;
        }
    }
    eventually("the directory forgets the added nodes", ROLLOUT, || {
        let names = ["get", "ipsecpeer,ipsecnode", "-o", "name"];
        let found = lab.kubectl().run(&names)?;
        let ours = |line: &&str| NODES.iter().any(|node| line.ends_with(&format!("/{node}")));
        ensure(found.lines().all(|line| ours(&line)), || found.clone())
    })?;
    wait_ready(lab, ROLLOUT)?;
    Standing::settled(lab, AFTERMATH).map(drop)
}

/// The operator takes the taint away when the agent is Ready.
fn untainted(lab: &Lab) -> Result<()> {
    eventually("the taint is gone", JOINED, || {
        let taints = lab.kubectl().value(&["node", NEW], "{.spec.taints[*].key}")?;
        ensure(!taints.contains(TAINT), || taints.clone())
    })
}
