//! One tunnel, from cleartext to ESP, rekeyed, edited, and back.

use std::{thread, time::{Duration, Instant}};

use ipsecmesh_e2e::{
    error::Result,
    lab::product::TUNNEL,
};

use crate::{
    evidence::{Traffic, Watch},
    world::{NODES, ROLLOUT, World, ensure},
};

const NAME: &[&str] = &["ipsectunnel", "cluster-mesh"];

/// Traffic in clear; apply; enforced everywhere; nothing lost on the way, nothing readable afterwards.
pub(crate) fn from_clear_to_enforced(world: &World) -> Result<String> {
    let mesh = world.clear_mesh()?;
    let lab = &mesh.lab;
    let traffic = Traffic::start(&mesh)?;
    thread::sleep(Duration::from_secs(1));
    lab.kubectl().apply(TUNNEL)?;
    let begin = Instant::now();
    lab.kubectl()
        .wait_for_value(NAME, "{.status.pairs.desired}{.status.rollout.phase}", "3Encrypting", ROLLOUT)?;
    let pairs = begin.elapsed().as_secs_f64();
    world.wait_until_ready()?;
    let enforced = begin.elapsed().as_secs_f64();
    let sas = lab.wait_for_one_pair_each(Duration::from_secs(1))?;
    let watch = Watch::start(lab, &NODES)?;
    thread::sleep(Duration::from_secs(2));
    let wire = watch.finish(&[])?;
    let lost = traffic.lossless()?;
    ensure(enforced <= 10.0, || format!("Enforcing took {enforced:.1} s"))?;
    Ok(format!("all pairs after {pairs:.1} s, Enforcing after {enforced:.1} s; {sas} SAs per node; {lost}; {wire}"))
}

/// CHILD and IKE SAs of all nodes replaced at once, twice; new SPIs, one pair each, nothing lost.
pub(crate) fn rekeys_lose_nothing(world: &World) -> Result<String> {
    let mesh = world.mesh()?;
    let lab = &mesh.lab;
    let traffic = Traffic::start(&mesh)?;
    let watch = Watch::start(lab, &NODES)?;
    let before = lab.kernel_sas(NODES[0])?;
    for arguments in [&["rekey"][..], &["rekey", "--ike"], &["rekey"]] {
        for node in NODES {
            lab.agent(node, arguments)?;
        }
        thread::sleep(Duration::from_secs(1));
    }
    lab.wait_for_one_pair_each(Duration::from_secs(30))?;
    let after = lab.kernel_sas(NODES[0])?;
    let kept = after.iter().filter(|sa| before.iter().any(|old| old.spi == sa.spi)).count();
    ensure(kept == 0, || format!("{kept} SAs were not replaced"))?;
    let lost = traffic.lossless()?;
    Ok(format!("{} SAs replaced; {lost}; {}", after.len(), watch.finish(&[])?))
}

/// Another lifetime and another port for the overlay; the new port passes the phases alone; nothing lost.
pub(crate) fn edits_lose_nothing(world: &World) -> Result<String> {
    let mesh = world.mesh()?;
    let lab = &mesh.lab;
    let traffic = Traffic::start(&mesh)?;
    let watch = Watch::start(lab, &NODES)?;
    let overlay = r#"{"spec":{"childSA":{"lifetime":{"time":"30m"}},"traffic":{"overlay":[{"protocol":17,"port":8472},{"protocol":17,"port":6081}]}}}"#;
    let begin = Instant::now();
    lab.kubectl().run(&["patch", "ipsectunnel", "cluster-mesh", "--type=merge", "-p", overlay])?;
    let settled = "{.status.effectiveOverlay}{.status.conditions[?(@.type==\"Ready\")].status}";
    let wanted = r#"[{"port":6081,"protocol":17},{"port":8472,"protocol":17}]True"#;
    lab.kubectl().wait_for_value(NAME, settled, wanted, ROLLOUT)?;
    let took = begin.elapsed().as_secs_f64();
    let back = r#"[{"op":"remove","path":"/spec/traffic/overlay"}]"#;
    lab.kubectl().run(&["patch", "ipsectunnel", "cluster-mesh", "--type=json", "-p", back])?;
    let wanted = r#"[{"port":8472,"protocol":17}]True"#;
    lab.kubectl().wait_for_value(NAME, settled, wanted, ROLLOUT)?;
    let lost = traffic.lossless()?;
    Ok(format!("in force after {took:.1} s, and back; {lost}; {}", watch.finish(&[])?))
}

/// Deletion goes back through the phases: nothing lost, nothing left, readable again.
pub(crate) fn deletion_leaves_nothing(world: &World) -> Result<String> {
    let mesh = world.mesh()?;
    let lab = &mesh.lab;
    let traffic = Traffic::start(&mesh)?;
    thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    lab.kubectl().run(&["delete", "ipsectunnel", "cluster-mesh", "--timeout=60s"])?;
    let took = begin.elapsed().as_secs_f64();
    lab.wait_until_kernels_are_clean(Duration::from_secs(15))?;
    thread::sleep(Duration::from_secs(2));
    Ok(format!("gone after {took:.1} s, 0 SAs and policies left; {}", traffic.lossless()?))
}
