//! The agent ends, in order and not, and comes back: the kernel goes on alone, and nothing is left over.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    error::{Error, Result},
    lab::{Lab, product::NAMESPACE},
};

use crate::{
    evidence::{Allowed, Watch},
    standing::Standing,
    world::{World, ensure},
};

/// Start, initial exchanges with every peer, removal of what the previous run left.
const BACK: Duration = Duration::from_secs(90);

/// Enforcing mesh, traffic; agent of worker-2 ends by SIGTERM; no loss, one IKE SA and one pair per pair of nodes again.
pub(crate) fn by_sigterm(world: &World) -> Result<String> {
    restart(world, |lab| {
        let pod = lab.agent_pod("worker-2")?;
        lab.kubectl().run(&["delete", "pod", "-n", NAMESPACE, &pod, "--timeout=30s"]).map(drop)
    })
}

/// Enforcing mesh, traffic; `kill -9` of worker-2's agent; the same.
pub(crate) fn by_kill(world: &World) -> Result<String> {
    restart(world, |lab| kill(lab, "worker-2", &lab.agent_pod("worker-2")?))
}

fn restart(world: &World, end: impl FnOnce(&Lab) -> Result<()>) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::now(lab)?;
    let watch = Watch::all(&pods)?;
    let begin = Instant::now();
    end(lab)?;
    lab.wait_for_product()?;
    let ready = begin.elapsed();
    let after = ipsecmesh_e2e::error::eventually("the agent's new SAs stand alone", BACK, || {
        let after = Standing::now(lab)?;
        // A new process has no IKE SA of the old one: its two pairs are new, the third one is not touched.
        let kept = after.kept(&before).0;
        ensure(kept == 1, || format!("{kept} old IKE SAs, not 1"))?;
        Ok(after)
    })?;
    let settled = begin.elapsed();
    let evidence = watch.finish(&Allowed::default())?;
    Ok(format!(
        "Ready after {:.1} s, {} SAs and no leftovers after {:.1} s; {evidence}",
        ready.as_secs_f64(),
        after.count(),
        settled.as_secs_f64()
    ))
}

/// SIGKILL to a pod's containers, as a crash is.
pub(crate) fn kill(lab: &Lab, node: &str, pod: &str) -> Result<()> {
    let node = lab.node(node)?;
    let pods = node.channel().pods().map_err(|error| Error::observed(error.to_string()))?;
    let processes = pods.iter().filter(|known| known.name == pod).flat_map(|known| known.processes.values());
    let pids: Vec<String> = processes.map(ToString::to_string).collect();
    ensure(!pids.is_empty(), || format!("{pod} runs no process on {}", node.name()))?;
    let mut argv = vec!["kill", "-9"];
    argv.extend(pids.iter().map(String::as_str));
    node.run(&argv).map(drop)
}
