//! The agent ends, in order and not, and comes back: the kernel goes on alone, and nothing is left over.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    lab::{Lab, product::NAMESPACE},
};

use crate::{
    evidence::{Allowed, Watch},
    standing::Standing,
    world::{NODES, ROLLOUT, World, ensure, wait_ready},
};

/// SIGTERM: the DaemonSet's pod is deleted and made again.
pub(crate) fn agent_is_replaced(world: &World) -> Result<String> {
    disrupt(world, |lab| {
        let pod = lab.agent_pod(NODES[0])?;
        lab.kubectl()
            .run(&["delete", "pod", "-n", NAMESPACE, &pod])
            .map(drop)
    })
}

/// `kill -9`, on two nodes at once.
pub(crate) fn agents_are_killed(world: &World) -> Result<String> {
    disrupt(world, |lab| {
        NODES[1..].iter().try_for_each(|node| kill_agent(lab, node))
    })
}

pub(crate) fn kill_agent(lab: &Lab, node: &str) -> Result<()> {
    lab.node(node)?
        .run(&["pkill", "-KILL", "-f", "ipsecmesh-agent run"])
        .map(drop)
}

fn disrupt(world: &World, blow: impl Fn(&Arc<Lab>) -> Result<()>) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let begin = Instant::now();
    blow(lab)?;
    thread::sleep(Duration::from_secs(2));
    lab.wait_for_product()?;
    let standing = Standing::settled(lab, ROLLOUT)?;
    let took = begin.elapsed().as_secs_f64();
    wait_ready(lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!(
        "at rest after {took:.1} s with {} SAs; {evidence}",
        standing.count()
    ))
}

/// The leader is killed for good: the other replica takes over within 15 s, and no SA changes.
pub(crate) fn leader_is_killed(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::settled(lab, ROLLOUT)?;
    let lease = &["lease", "-n", NAMESPACE, "ipsecmesh-operator"];
    let holder = lab.kubectl().value(lease, "{.spec.holderIdentity}")?;
    let pod = holder.split('_').next().unwrap_or_default().to_owned();
    let begin = Instant::now();
    lab.kubectl().run(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        &pod,
        "--force",
        "--grace-period=0",
    ])?;
    eventually("another leader", Duration::from_secs(15), || {
        let now = lab.kubectl().value(lease, "{.spec.holderIdentity}")?;
        ensure(now != holder && !now.is_empty(), || now.clone())
    })?;
    let took = begin.elapsed().as_secs_f64();
    lab.wait_for_product()?;
    let after = Standing::settled(lab, ROLLOUT)?;
    ensure(after == before, || format!("SAs changed: {before:?} → {after:?}"))?;
    Ok(format!(
        "new leader after {took:.1} s, the same {} SAs",
        after.count()
    ))
}

/// The API server is gone for a minute, with a rekey and an agent's crash meanwhile.
pub(crate) fn api_server_is_away(world: &World) -> Result<String> {
    const AWAY: Duration = Duration::from_mins(1);
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    lab.stop_api_server()?;
    let begin = Instant::now();
    // The pod cannot be looked up now; the agent listens on the node's loopback.
    let agent = lab.program_on_node("ipsecmesh-agent");
    lab.node(NODES[0])?.run(&[&agent, "rekey"])?;
    thread::sleep(Duration::from_secs(3));
    kill_agent(lab, NODES[1])?;
    thread::sleep(AWAY.saturating_sub(begin.elapsed()));
    lab.start_api_server()?;
    lab.wait_for_nodes(&NODES)?;
    lab.wait_for_product()?;
    Standing::settled(lab, ROLLOUT)?;
    wait_ready(lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!("{} s away; {evidence}", AWAY.as_secs()))
}

/// A node's kernel is gone in an instant and boots again: the others lose nothing among themselves, and it is back
/// with one pair each.
pub(crate) fn node_crashes_and_returns(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::among(&pods, &[0, 1])?;
    lab.node(NODES[2])?.crash()?;
    thread::sleep(Duration::from_secs(5));
    lab.start_node(NODES[2])?;
    let begin = Instant::now();
    lab.wait_for_nodes(&NODES)?;
    let standing = eventually("SAs with the node", ROLLOUT, || Standing::now(lab))?;
    let took = begin.elapsed().as_secs_f64();
    lab.wait_for_product()?;
    wait_ready(lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed {
        // What the two sent to the node while it was away, and what it sent before its agent ran.
        counters: &[
            "XfrmInNoStates",
            "XfrmOutNoStates",
            "XfrmInTmplMismatch",
            "XfrmOutPolBlock",
        ],
        ..Allowed::default()
    })?;
    let pods = world.mesh()?;
    let all = Watch::all(&pods)?;
    thread::sleep(Duration::from_secs(1));
    let then = all.finish(&Allowed::default())?;
    if standing.count() == 0 {
        return Err(Error::observed("no SAs"));
    }
    Ok(format!(
        "SAs {took:.1} s after its network stood; the others: {evidence}; then: {then}"
    ))
}
