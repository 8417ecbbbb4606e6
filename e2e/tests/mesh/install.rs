//! From an empty cluster to the installed product: nothing changes until a tunnel exists.

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Error, Result, eventually},
    lab::{Lab, product},
};

use crate::{
    evidence::now,
    world::{ROLLOUT, World, ensure, refusal},
};

/// Text in the packets' payload that anyone on the wire can look for.
const MARKER: &str = "MESH-READABLE-16";

/// Two nodes, a pod on each; ping with a marker; arrives, and stands on the wire in clear.
pub(crate) fn pods_on_two_nodes_talk_in_clear(world: &World) -> Result<String> {
    let pods = world.pods()?;
    let lab = world.lab()?;
    let capture = lab.capture("worker-1", ALL_BUT_API)?;
    pods.ping(0, 1, MARKER, 5)?;
    let wire = capture.finish()?;
    let readable = wire.readable(MARKER);
    ensure(readable >= 10, || {
        format!("the marker is in {readable} packets of {}", wire.counts())
    })?;
    Ok(format!(
        "marker readable in {readable} packets, {}",
        wire.counts()
    ))
}

/// No definitions; `helm install` of the product; refused with what to do.
pub(crate) fn chart_refuses_without_definitions(world: &World) -> Result<String> {
    let lab = world.lab()?;
    if lab
        .kubectl()
        .run(&["get", "crd", "ipsectunnels.ipsecmesh.io"])
        .is_ok()
    {
        lab.helm().run(&["uninstall", "ipsecmesh-crds"])?;
        remove_definitions(&lab)?;
    }
    let said = refusal(lab.helm_chart("install", &[]), "the chart without definitions")?;
    ensure(said.contains("ipsecmesh-crds"), || {
        format!("does not name the chart of the definitions: {said}")
    })?;
    Ok("names the missing chart".into())
}

/// Both charts; operator twice and one agent per node are Ready.
pub(crate) fn both_charts(world: &World) -> Result<String> {
    let lab = world.product()?;
    lab.kubectl().run(&["get", "ipsecauthority", "default"])?;
    let pods = lab
        .kubectl()
        .run(&["get", "pods", "-n", product::NAMESPACE, "--no-headers"])?;
    Ok(format!("{} pods Ready", pods.lines().count()))
}

/// The product without a tunnel; ping; still in clear, no XFRM state or policy of ours.
pub(crate) fn changes_no_traffic(world: &World) -> Result<String> {
    let lab = world.product()?;
    lab.wait_until_kernels_are_clean(std::time::Duration::ZERO)?;
    pods_on_two_nodes_talk_in_clear(world)
}

/// The product; `helm test`; passes.
pub(crate) fn helm_test(world: &World) -> Result<String> {
    let lab = world.product()?;
    let said = lab.helm().run(&[
        "test",
        product::RELEASE,
        "-n",
        product::NAMESPACE,
        "--timeout",
        "60s",
    ])?;
    ensure(said.contains("Succeeded"), || said.clone())?;
    Ok("every node is Ready".into())
}

/// The API server cleans a definition up once and, when its storage was just coming up, not again before the definition
/// changes: each look changes what is still there.
fn remove_definitions(lab: &Lab) -> Result<()> {
    lab.kubectl().run(&["delete", "crd", "--all", "--wait=false"])?;
    eventually("the definitions are gone", ROLLOUT, || {
        let left = lab.kubectl().run(&["get", "crd", "-o", "name"])?;
        if left.trim().is_empty() {
            return Ok(());
        }
        let look = format!("ipsecmesh-trial/look={}", now());
        let _ = lab
            .kubectl()
            .run(&["annotate", "crd", "--all", "--overwrite", &look]);
        Err(Error::observed(left))
    })
}
