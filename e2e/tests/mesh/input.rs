//! Tunnels that cannot work say so: which field, why, and what to do, within ten seconds.

use std::time::{Duration, Instant};

use ipsecmesh_e2e::{
    error::{Result, eventually},
    lab::Lab,
};

use crate::world::{World, ensure};

const TOLD: Duration = Duration::from_secs(10);

/// No node has the label; NoNodesSelected.
pub(crate) fn selects_nothing(world: &World) -> Result<String> {
    let nodes = r#"{"matchLabels": {"no-such": "label"}}"#;
    told(
        world,
        &format!(r#"{{"local": {{"nodeSelector": {nodes}}}}}"#),
        "NoNodesSelected",
        "spec.local.nodeSelector",
    )
}

/// No such authority; AuthorityNotFound with its name.
pub(crate) fn missing_authority(world: &World) -> Result<String> {
    let spec = r#"{"auth": {"certificate": {"authorityRef": {"name": "nobody"}}}}"#;
    told(world, spec, "AuthorityNotFound", "nobody")
}

/// A field whose behaviour comes later; UnsupportedField with field, value and what works today.
pub(crate) fn unsupported_field(world: &World) -> Result<String> {
    told(
        world,
        r#"{"childSA": {"proposals": [{"encryption": ["AES-GCM-16-256"], "keyExchange": ["MODP-2048"]}]}}"#,
        "UnsupportedField",
        "spec.childSA.proposals[0].keyExchange: MODP-2048",
    )
}

/// Deletion protection; DELETE is refused with what to do.
pub(crate) fn protected_tunnel(world: &World) -> Result<String> {
    let lab = world.product()?;
    lab.kubectl()
        .apply(&manifest(r#"{"suspend": true, "deletionProtection": true}"#))?;
    let said = crate::world::refusal(
        lab.kubectl()
            .run(&["delete", "ipsectunnel", "trial", "--wait=false"]),
        "deletion of a protected tunnel",
    );
    let patch = r#"{"spec": {"deletionProtection": false}}"#;
    lab.kubectl()
        .run(&["patch", "ipsectunnel", "trial", "--type=merge", "-p", patch])?;
    remove(&lab)?;
    let said = said?;
    ensure(said.contains("deletionProtection to false"), || said.clone())?;
    Ok("DELETE refused until the protection is off".into())
}

fn told(world: &World, spec: &str, reason: &str, word: &str) -> Result<String> {
    let lab = world.product()?;
    let begin = Instant::now();
    lab.kubectl().apply(&manifest(spec))?;
    let ready = "{.status.conditions[?(@.type==\"Ready\")]";
    let template = format!("{ready}.status}} {ready}.reason}} {ready}.message}}");
    let said = eventually(&format!("Ready=False, {reason}"), TOLD, || {
        let said = lab.kubectl().value(&["ipsectunnel", "trial"], &template)?;
        ensure(said.starts_with(&format!("False {reason} ")), || said.clone())?;
        Ok(said)
    });
    let took = begin.elapsed();
    let described = lab.kubectl().run(&["describe", "ipsectunnel", "trial"]);
    remove(&lab)?;
    let said = said?;
    ensure(said.contains(word), || format!("does not name {word:?}: {said}"))?;
    let described = described?;
    ensure(described.contains(reason), || {
        format!("`kubectl describe` does not say it: {described}")
    })?;
    Ok(format!("{said:?} after {:.1} s", took.as_secs_f64()))
}

fn manifest(spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecTunnel", "metadata": {{"name": "trial"}}, "spec": {spec}}}"#
    )
}

fn remove(lab: &Lab) -> Result<()> {
    lab.kubectl()
        .run(&["delete", "ipsectunnel", "trial", "--timeout=60s"])
        .map(drop)
}
