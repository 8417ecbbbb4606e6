//! The switch from cleartext to ESP and back, under traffic.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Error, Result, eventually},
    lab::{Lab, product},
};

use crate::{
    evidence::{Allowed, MARKER, Watch, now},
    standing::Standing,
    world::{ROLLOUT, World, ensure, wait_ready},
};

/// What `kubectl apply` may take until every pair is encrypted, and until cleartext is refused.
const ENCRYPTED: Duration = Duration::from_secs(2);
const ENFORCED: Duration = Duration::from_secs(5);
/// On this machine the whole cluster shares two cores: the targets are compared in the evidence, the bound is looser.
const BUSY: u32 = 4;

/// Product without tunnel, traffic; `kubectl apply` of `spec: {}`; Ready, no packet lost, none in clear afterwards.
pub(crate) fn switches_without_loss(world: &World) -> Result<String> {
    let lab = world.product()?;
    let pods = world.pods()?;
    ensure(
        lab.kubectl().run(&["get", "ipsectunnel", "cluster-mesh"]).is_err(),
        || "a tunnel is there already".into(),
    )?;
    let watch = Watch::all(&pods)?;
    let begin = Instant::now();
    lab.kubectl().apply(product::TUNNEL)?;
    wait_for_phase(&lab, "Encrypting")?;
    let encrypted = begin.elapsed();
    wait_for_phase(&lab, "Enforcing")?;
    let enforced = begin.elapsed();
    let dark_from = now();
    wait_ready(&lab, ROLLOUT)?;
    Standing::settled(&lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed {
        dark_from,
        ..Allowed::default()
    })?;
    ensure(encrypted < ENCRYPTED * BUSY && enforced < ENFORCED * BUSY, || {
        format!("encrypted after {encrypted:?}, enforcing after {enforced:?}")
    })?;
    Ok(format!(
        "outbound ESP after {:.1} s, Enforcing after {:.1} s; {evidence}",
        encrypted.as_secs_f64(),
        enforced.as_secs_f64()
    ))
}

/// Enforcing mesh; traffic of five seconds; ESP only, the marker nowhere, one pair of SAs per pair of nodes.
pub(crate) fn is_encrypted(world: &World) -> Result<String> {
    const WINDOW: Duration = Duration::from_secs(5);
    let pods = world.mesh()?;
    let lab = pods.lab();
    let capture = lab.capture("worker-2", ALL_BUT_API)?;
    let watch = Watch::all(&pods)?;
    std::thread::sleep(WINDOW);
    let evidence = watch.finish(&Allowed::default())?;
    let wire = capture.finish()?;
    ensure(wire.readable(MARKER) == 0 && wire.counts().esp > 100, || {
        format!("readable {}, {}", wire.readable(MARKER), wire.counts())
    })?;
    let standing = Standing::now(lab)?;
    let table = lab.kubectl().run(&["get", "ipsec"])?;
    for name in ["cluster-mesh", "worker-1", "worker-3", "default"] {
        ensure(table.contains(name), || format!("`kubectl get ipsec` has no {name}: {table}"))?;
    }
    Ok(format!("{} IKE SAs, {} SAs; {evidence}", standing.ike.len(), standing.count()))
}

/// Enforcing mesh, traffic; `kubectl delete`; no packet lost, none in clear before, nothing left on any node.
pub(crate) fn deletes_without_loss(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let (begin, dark_until) = (Instant::now(), now());
    lab.kubectl().run(&["delete", "ipsectunnel", "cluster-mesh", "--timeout=90s"])?;
    let took = begin.elapsed();
    lab.wait_until_kernels_are_clean(ROLLOUT)?;
    let evidence = watch.finish(&Allowed {
        dark_until,
        ..Allowed::default()
    })?;
    let clear = crate::install::pods_on_two_nodes_talk_in_clear(world)?;
    Ok(format!("gone after {:.1} s, no SA or policy left; {evidence}; then {clear}", took.as_secs_f64()))
}

/// Waits until the published phase is this one or a later one on the way up.
pub(crate) fn wait_for_phase(lab: &Lab, phase: &str) -> Result<()> {
    let order = ["Permissive", "Encrypting", "Enforcing"];
    let place = |phase: &str| order.iter().position(|known| *known == phase);
    eventually(&format!("phase {phase}"), ROLLOUT, || {
        let present = lab.kubectl().value(&["ipsectunnel", "cluster-mesh"], "{.status.rollout.phase}")?;
        if place(&present) >= place(phase) { Ok(()) } else { Err(Error::observed(present)) }
    })
}
