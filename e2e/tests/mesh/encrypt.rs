//! One tunnel, from cleartext to ESP, rekeyed, edited, and back.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{error::Result, lab::product::TUNNEL};

use crate::{
    evidence::{Allowed, Watch, now},
    standing::Standing,
    world::{NODES, ROLLOUT, World, ensure},
};

const READY: &str = "{.status.rollout.phase} {.status.conditions[?(@.type==\"Ready\")].status}";
const NAME: &[&str] = &["ipsectunnel", "cluster-mesh"];

/// Traffic in clear; apply; enforced everywhere; nothing lost on the way, nothing readable afterwards.
pub(crate) fn from_clear_to_enforced(world: &World) -> Result<String> {
    let pods = world.clear_mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    thread::sleep(Duration::from_secs(1));
    lab.kubectl().apply(TUNNEL)?;
    let begin = Instant::now();
    let template = "{.status.rollout.phase}";
    lab.kubectl()
        .wait_for_value(NAME, template, "Encrypting", ROLLOUT)?;
    let pairs = begin.elapsed().as_secs_f64();
    lab.kubectl()
        .wait_for_value(NAME, READY, "Enforcing True", ROLLOUT)?;
    let enforced = begin.elapsed().as_secs_f64();
    let dark_from = now();
    let standing = Standing::settled(lab, Duration::from_secs(2))?;
    thread::sleep(Duration::from_secs(2));
    let evidence = watch.finish(&Allowed {
        dark_from,
        ..Allowed::default()
    })?;
    ensure(enforced <= 10.0, || format!("Enforcing took {enforced:.1} s"))?;
    Ok(format!(
        "all pairs after {pairs:.1} s, Enforcing after {enforced:.1} s; {} SAs; {evidence}",
        standing.count()
    ))
}

/// CHILD and IKE SAs of all nodes replaced at once, three times; new SPIs, one pair each, nothing lost.
pub(crate) fn rekeys_lose_nothing(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::settled(lab, ROLLOUT)?;
    let watch = Watch::all(&pods)?;
    for arguments in [&["rekey"][..], &["rekey", "--ike"], &["rekey"]] {
        for node in NODES {
            lab.agent(node, arguments)?;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let after = Standing::settled(lab, ROLLOUT)?;
    let kept = after.kept(&before);
    ensure(kept == (0, 0), || {
        format!("not replaced: {} IKE SAs, {} CHILD SAs", kept.0, kept.1)
    })?;
    let evidence = watch.finish(&Allowed::default())?;
    Ok(format!(
        "{} IKE SAs and {} kernel SAs replaced; {evidence}",
        after.ike.len(),
        after.count()
    ))
}

/// Another lifetime and another port for the overlay; the new port passes the phases alone; nothing lost.
pub(crate) fn edits_lose_nothing(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let overlay = r#"{"spec":{"childSA":{"lifetime":{"time":"30m"}},"traffic":{"overlay":[{"protocol":17,"port":8472},{"protocol":17,"port":6081}]}}}"#;
    let begin = Instant::now();
    lab.kubectl().run(&[
        "patch",
        "ipsectunnel",
        "cluster-mesh",
        "--type=merge",
        "-p",
        overlay,
    ])?;
    let settled = "{.status.effectiveOverlay}{.status.conditions[?(@.type==\"Ready\")].status}";
    let both = r#"[{"port":6081,"protocol":17},{"port":8472,"protocol":17}]True"#;
    lab.kubectl().wait_for_value(NAME, settled, both, ROLLOUT)?;
    let took = begin.elapsed().as_secs_f64();
    let back = r#"[{"op":"remove","path":"/spec/traffic/overlay"},{"op":"remove","path":"/spec/childSA/lifetime/time"}]"#;
    lab.kubectl()
        .run(&["patch", "ipsectunnel", "cluster-mesh", "--type=json", "-p", back])?;
    lab.kubectl()
        .wait_for_value(NAME, settled, r#"[{"port":8472,"protocol":17}]True"#, ROLLOUT)?;
    let evidence = watch.finish(&Allowed::default())?;
    Ok(format!("in force after {took:.1} s, and back; {evidence}"))
}

/// Deletion goes back through the phases: nothing lost, nothing left, readable again.
pub(crate) fn deletion_leaves_nothing(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    let dark_until = now();
    lab.kubectl()
        .run(&["delete", "ipsectunnel", "cluster-mesh", "--timeout=60s"])?;
    let took = begin.elapsed().as_secs_f64();
    lab.wait_until_kernels_are_clean(Duration::from_secs(15))?;
    thread::sleep(Duration::from_secs(2));
    let evidence = watch.finish(&Allowed {
        dark_until,
        ..Allowed::default()
    })?;
    Ok(format!(
        "gone after {took:.1} s, 0 SAs and policies left; {evidence}"
    ))
}
