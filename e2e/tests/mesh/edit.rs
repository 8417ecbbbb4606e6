//! Edits of a live tunnel: other algorithms, fewer nodes, all nodes again; tunnels that overlap.

use std::time::Duration;

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Error, Result, eventually},
    lab::Lab,
};

use crate::{
    evidence::{Allowed, Watch},
    standing::Standing,
    world::{NODES, ROLLOUT, World, ensure, wait_ready},
};

/// Packets of one pair, there and back, that may be blocked while it changes from one tunnel's SAs to another's, twice.
const HANDED_OVER: u64 = 200;
/// Rekey with another proposal, linger of the old inbound SAs.
const REPLACED: Duration = Duration::from_mins(1);

/// Enforcing mesh, traffic; other algorithms and another lifetime; no loss, every SA is a new one.
pub(crate) fn other_algorithms(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::now(lab)?;
    let watch = Watch::all(&pods)?;
    let proposals = r#"{"spec": {"childSA": {"lifetime": {"time": "40m"}, "proposals": [{"encryption": ["AES-GCM-16-128"]}]}}}"#;
    patch(lab, proposals)?;
    let after = eventually("every SA is a new one", REPLACED, || {
        let after = Standing::now(lab)?;
        let kept = after.kept(&before).1;
        ensure(kept == 0, || format!("{kept} SAs are the old ones"))?;
        Ok(after)
    })?;
    wait_ready(lab, ROLLOUT)?;
    let evidence = watch.finish(&Allowed::default())?;
    patch(
        lab,
        r#"{"spec": {"childSA": {"lifetime": {"time": "1h"}, "proposals": null}}}"#,
    )?;
    wait_ready(lab, ROLLOUT)?;
    Ok(format!("{} SAs with other algorithms; {evidence}", after.count()))
}

/// Enforcing mesh, traffic; worker-3 leaves the selection and comes back; no loss either way, worker-1 and worker-2
/// stay as they are.
pub(crate) fn fewer_nodes(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    for node in &NODES[..2] {
        lab.kubectl()
            .run(&["label", "node", node, "trial=in", "--overwrite"])?;
    }
    let before = Standing::now(lab)?;
    let watch = Watch::all(&pods)?;
    let wire = lab.capture("worker-1", ALL_BUT_API)?;
    let chosen = r#"{"matchLabels": {"trial": "in"}}"#;
    let narrow = format!(
        r#"{{"spec": {{"local": {{"nodeSelector": {chosen}}}, "remote": {{"nodes": {{"nodeSelector": {chosen}}}}}}}}}"#
    );
    patch(lab, &narrow)?;
    eventually("worker-3 has nothing of ours", ROLLOUT, || {
        let left = lab.our_kernel_state("worker-3")?;
        ensure(left == (0, 0), || format!("{left:?}"))
    })?;
    wait_ready(lab, ROLLOUT)?;
    let two = lab.kernel_sas("worker-1")?;
    ensure(
        two.len() == 2 && two.iter().all(|sa| before.sas["worker-1"].contains(sa)),
        || format!("worker-1 has {two:?}"),
    )?;
    patch(
        lab,
        r#"{"spec": {"local": {"nodeSelector": null}, "remote": {"nodes": null}}}"#,
    )?;
    let after = Standing::settled(lab, ROLLOUT)?;
    wait_ready(lab, ROLLOUT)?;
    // The pairs with worker-3 are in clear for a while, as asked; the pair that stays never is.
    let stays = [lab.node("worker-1")?.address(), lab.node("worker-2")?.address()];
    wire.finish()?.assert_no_cleartext(&stays)?;
    let dark_until = 0;
    let evidence = watch.finish(&Allowed {
        dark_until,
        ..Allowed::default()
    })?;
    let kept = after.kept(&before);
    ensure(kept.0 >= 1, || "the pair that stayed got another IKE SA".into())?;
    for node in &NODES[..2] {
        lab.kubectl().run(&["label", "node", node, "trial-"])?;
    }
    Ok(format!("worker-3 left and joined again; {evidence}"))
}

/// Enforcing mesh, traffic; a tunnel of lower rank has nothing and says so; one of higher rank takes a pair over and
/// gives it back; nothing in clear at any time, nothing lost but while the pair changes hands.
pub(crate) fn overlapping_tunnels(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let quiet = Watch::all(&pods)?;
    lab.kubectl().apply(&other(1, ""))?;
    let shadowed = says(lab, "trial", "Ready", "False Overridden")?;
    ensure(shadowed.contains("cluster-mesh"), || shadowed.clone())?;
    says(lab, "trial", "Enforced", "False Overridden")?;
    remove_other(lab)?;
    quiet.finish(&Allowed::default())?;

    for node in &NODES[..2] {
        lab.kubectl()
            .run(&["label", "node", node, "trial=in", "--overwrite"])?;
    }
    let busy = Watch::all(&pods)?;
    let chosen = r#"{"matchLabels": {"trial": "in"}}"#;
    let fields = format!(
        r#", "local": {{"nodeSelector": {chosen}}}, "remote": {{"nodes": {{"nodeSelector": {chosen}}}}}"#
    );
    lab.kubectl().apply(&other(200, &fields))?;
    says(lab, "trial", "Enforced", "True Enforcing")?;
    says(lab, "trial", "Ready", "True ")?;
    let part = says(lab, "cluster-mesh", "Programmed", "True PartiallyProgrammed")?;
    ensure(part.contains("trial"), || part.clone())?;
    wait_ready(lab, ROLLOUT)?;
    let taken = Standing::settled(lab, ROLLOUT)?;
    remove_other(lab)?;
    says(lab, "cluster-mesh", "Programmed", "True Programmed")?;
    wait_ready(lab, ROLLOUT)?;
    let back = Standing::settled(lab, ROLLOUT)?;
    let evidence = busy.finish(&Allowed {
        lost: HANDED_OVER,
        counters: &[
            "XfrmOutNoStates",
            "XfrmInNoStates",
            "XfrmInTmplMismatch",
            "XfrmOutPolBlock",
        ],
        ..Allowed::default()
    })?;
    for node in &NODES[..2] {
        lab.kubectl().run(&["label", "node", node, "trial-"])?;
    }
    Ok(format!(
        "lower rank: {shadowed:?}; higher rank: a pair taken ({} SAs) and given back ({}); {evidence}",
        taken.count(),
        back.count()
    ))
}

/// A second tunnel, of this priority and with these further fields.
fn other(priority: u16, fields: &str) -> String {
    format!(
        r#"{{"apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecTunnel", "metadata": {{"name": "trial"}}, "spec": {{"priority": {priority}{fields}}}}}"#
    )
}

fn remove_other(lab: &Lab) -> Result<()> {
    lab.kubectl()
        .run(&["delete", "ipsectunnel", "trial", "--timeout=60s"])
        .map(drop)
}

/// Waits until a condition has this status and reason; what it says.
fn says(lab: &Lab, tunnel: &str, condition: &str, wanted: &str) -> Result<String> {
    let found = format!("{{.status.conditions[?(@.type==\"{condition}\")]");
    let template = format!("{found}.status}} {found}.reason}} {found}.message}}");
    eventually(&format!("{tunnel}: {condition}={wanted}"), ROLLOUT, || {
        let said = lab.kubectl().value(&["ipsectunnel", tunnel], &template)?;
        ensure(said.starts_with(wanted), || said.clone())?;
        Ok(said)
    })
}

/// Edits the tunnel by a merge patch.
pub(crate) fn patch(lab: &Lab, patch: &str) -> Result<()> {
    let words = [
        "patch",
        "ipsectunnel",
        "cluster-mesh",
        "--type=merge",
        "-p",
        patch,
    ];
    let said = lab.kubectl().run(&words)?;
    ensure(!said.contains("no change"), || said.clone()).map_err(|error| Error::observed(error.to_string()))
}
