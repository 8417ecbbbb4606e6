//! The release over its life: upgrade, rollback, uninstall, reinstall, each under traffic.

use std::time::Instant;

use ipsecmesh_e2e::{
    error::{Result, eventually},
    lab::{
        Lab,
        product::{NAMESPACE, RELEASE},
    },
};

use serde_json::Value;

use crate::{
    evidence::{Allowed, Watch, now},
    standing::Standing,
    world::{ROLLOUT, World, ensure, refusal, wait_ready},
};

/// Enforcing mesh, traffic; `helm upgrade` with a changed value replaces all pods, `helm rollback` does it again;
/// nothing lost, nothing in clear, no leftovers.
pub(crate) fn upgrade_and_rollback(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    let begin = Instant::now();
    lab.helm_chart("upgrade", &["logFormat=json"])?;
    rolled_out(lab)?;
    let args = lab.kubectl().value(
        &["daemonset", "-n", NAMESPACE, "ipsecmesh-agent"],
        "{.spec.template.spec.containers[0].args}",
    )?;
    ensure(args.contains("--log-format=json"), || args.clone())?;
    let upgraded = begin.elapsed();
    lab.helm().run(&["rollback", RELEASE, "-n", NAMESPACE])?;
    rolled_out(lab)?;
    let rolled_back = begin.elapsed();
    let standing = Standing::settled(lab, ROLLOUT)?;
    wait_ready(lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed::agent_away())?;
    Ok(format!(
        "all pods new after {:.0} s, again after {:.0} s, {} SAs; {evidence}",
        upgraded.as_secs_f64(),
        rolled_back.as_secs_f64(),
        standing.count()
    ))
}

/// Enforcing mesh, traffic; `helm uninstall` goes back through the phases: nothing lost, nothing left; the tunnel object
/// stays, and after `helm install` it is enforced again: nothing lost either.
pub(crate) fn uninstall_and_reinstall(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let down = Watch::all(&pods)?;
    let (begin, dark_until) = (Instant::now(), now());
    lab.uninstall_product()?;
    let uninstalled = begin.elapsed();
    lab.wait_until_kernels_are_clean(ROLLOUT)?;
    // The pod of an earlier `helm test` is done and the user's to remove.
    let running = "--field-selector=status.phase!=Succeeded";
    let left = lab
        .kubectl()
        .run(&["get", "pods", "-n", NAMESPACE, running, "-o", "name"])?;
    ensure(left.trim().is_empty(), || format!("pods are left: {left}"))?;
    lab.kubectl().run(&["get", "ipsectunnel", "cluster-mesh"])?;
    let without = down.finish(&Allowed {
        dark_until,
        ..Allowed::agent_away()
    })?;
    let up = Watch::all(&pods)?;
    let begin = Instant::now();
    lab.helm_chart("install", &[])?;
    lab.wait_for_product()?;
    eventually("the tunnel is enforced again", ROLLOUT, || {
        let phase = lab
            .kubectl()
            .value(&["ipsectunnel", "cluster-mesh"], "{.status.rollout.phase}")?;
        ensure(phase == "Enforcing", || phase.clone())
    })?;
    let dark_from = now();
    let reinstalled = begin.elapsed();
    wait_ready(lab, ROLLOUT)?;
    Standing::settled(lab, ROLLOUT)?;
    let with = up.finish(&Allowed {
        dark_from,
        ..Allowed::agent_away()
    })?;
    Ok(format!(
        "uninstalled in {:.0} s, 0 SAs, policies and pods left: {without}; enforced again after {:.0} s: {with}",
        uninstalled.as_secs_f64(),
        reinstalled.as_secs_f64()
    ))
}

/// Definitions of an older release; `helm upgrade`; refused with what to do; the definitions' chart repairs it.
pub(crate) fn chart_refuses_old_definitions(world: &World) -> Result<String> {
    let lab = world.product()?;
    older_definition(&lab)?;
    let said = refusal(lab.helm_chart("upgrade", &[]), "an upgrade with old definitions");
    lab.install_definitions()?;
    let said = said?;
    ensure(
        said.contains("too old") && said.contains("ipsecmesh-crds"),
        || said.clone(),
    )?;
    let field = "{.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.memberships.items.properties.phase.type}";
    let repaired = lab.kubectl().value(&["crd", "ipsecpeers.ipsecmesh.io"], field)?;
    ensure(repaired == "string", || {
        format!("memberships[].phase is {repaired:?} after the upgrade of the definitions")
    })?;
    Ok("names the old definition and the chart to upgrade".into())
}

/// The definition of peers as a release before `memberships[].phase` had it, applied by whoever applied it last: a chart.
fn older_definition(lab: &Lab) -> Result<()> {
    let words = ["crd", "ipsecpeers.ipsecmesh.io", "--show-managed-fields"];
    let mut definition: Value = lab.kubectl().object(&words)?;
    let managers = definition["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let applied = managers.iter().find(|entry| entry["operation"] == "Apply");
    let manager = applied
        .and_then(|entry| entry["manager"].as_str())
        .unwrap_or("helm")
        .to_owned();
    let kept = ["name", "labels", "annotations"];
    if let Some(metadata) = definition["metadata"].as_object_mut() {
        metadata.retain(|field, _| kept.contains(&field.as_str()));
    }
    if let Some(object) = definition.as_object_mut() {
        object.remove("status");
    }
    let memberships =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/memberships/items/properties";
    let removed = definition
        .pointer_mut(memberships)
        .and_then(Value::as_object_mut)
        .and_then(|fields| fields.remove("phase"));
    ensure(removed.is_some(), || {
        "memberships[].phase is not in the definition".into()
    })?;
    let manager = format!("--field-manager={manager}");
    let words = ["apply", "--server-side", "--force-conflicts", &manager];
    lab.kubectl()
        .with_manifest(&words, &definition.to_string())
        .map(drop)
}

/// Waits until both workloads run what the chart says.
pub(crate) fn rolled_out(lab: &Lab) -> Result<()> {
    for workload in ["daemonset/ipsecmesh-agent", "deployment/ipsecmesh-operator"] {
        lab.kubectl()
            .run(&["rollout", "status", workload, "-n", NAMESPACE, "--timeout=180s"])?;
    }
    lab.wait_for_product()
}
