//! The API as the API server enforces it: schema, rules, transitions, with the messages that users see.

use std::fs;

use ipsecmesh_e2e::{
    error::{Error, Result},
    lab::Lab,
};
use serde::Deserialize;

use crate::world::{World, ensure, refusal};

const DRY_RUN: [&str; 3] = ["create", "--dry-run=server", "--validate=strict"];

#[derive(Deserialize)]
struct Expected {
    file: String,
    accepted: bool,
    field: Option<String>,
    message: Option<String>,
}

/// Control plane; `helm install` of the definitions; all four kinds are established.
pub(crate) fn definitions_are_accepted(world: &World) -> Result<String> {
    let lab = world.definitions()?;
    let names = lab.kubectl().run(&["get", "crd", "-o", "name"])?;
    for kind in ["ipsectunnels", "ipsecauthorities", "ipsecpeers", "ipsecnodes"] {
        ensure(names.contains(&format!("{kind}.ipsecmesh.io")), || {
            format!("{kind} is missing from {names}")
        })?;
    }
    lab.kubectl().run(&[
        "wait",
        "--for=condition=Established",
        "--timeout=10s",
        "crd",
        "--all",
    ])?;
    Ok("4 kinds established".into())
}

/// Definitions; every sample file; accepted, or refused with its message and field.
pub(crate) fn every_sample_is_judged_with_message_and_field(world: &World) -> Result<String> {
    let lab = world.definitions()?;
    let folder = lab.checkout().join("crds/tests/cases/cel");
    let read = |file: &str| {
        fs::read_to_string(folder.join(file)).map_err(|error| Error::observed(format!("{file}: {error}")))
    };
    let table: Vec<Expected> = serde_yaml_ng::from_str(&read("expected.yaml")?)
        .map_err(|error| Error::observed(error.to_string()))?;
    let mut faults = Vec::new();
    for expected in &table {
        let outcome = lab.kubectl().with_manifest(&DRY_RUN, &read(&expected.file)?);
        faults.extend(judge(expected, outcome));
    }
    ensure(faults.is_empty(), || faults.join("\n"))?;
    Ok(format!("{} samples", table.len()))
}

/// A stored object; updates that break a transition rule; refused with the rule's message.
pub(crate) fn what_must_not_change_does_not(world: &World) -> Result<String> {
    let lab = world.definitions()?;
    let tunnel = |remote: &str| {
        manifest(
            "IPsecTunnel",
            "transition",
            &format!("{{suspend: true, {remote}}}"),
        )
    };
    lab.kubectl().apply(&tunnel("remote: {type: Nodes}"))?;
    let external = tunnel("remote: {type: External, external: {address: 192.0.2.1}}, traffic: {type: Host}");
    let result = refused(&lab, &external, "remote.type is immutable");
    lab.kubectl()
        .run(&["delete", "ipsectunnel", "transition", "--wait=false"])?;
    result?;
    let authority = |spec: &str| manifest("IPsecAuthority", "transition", spec);
    lab.kubectl().apply(&authority("{rotation: {generation: 2}}"))?;
    let falling = refused(
        &lab,
        &authority("{rotation: {generation: 1}}"),
        "rotation.generation may only rise",
    );
    let moved = refused(
        &lab,
        &authority("{trustDomain: other.local, rotation: {generation: 2}}"),
        "trustDomain is immutable",
    );
    lab.kubectl()
        .run(&["delete", "ipsecauthority", "transition", "--wait=false"])?;
    falling.and(moved)?;
    Ok("3 transitions refused".into())
}

/// Definitions; `null` where a value is optional; refused or dropped, never stored.
pub(crate) fn null_for_an_optional_field_is_refused(world: &World) -> Result<String> {
    let lab = world.definitions()?;
    let words: Vec<&str> = DRY_RUN.into_iter().chain(["-o", "json"]).collect();
    let object = manifest("IPsecTunnel", "nothing", "{suite: null}");
    match lab.kubectl().with_manifest(&words, &object) {
        Err(error) => {
            let said = error.to_string();
            ensure(said.contains("spec.suite"), || {
                format!("the refusal does not name the field: {said}")
            })?;
            Ok("refused by name".into())
        }
        Ok(stored) => {
            ensure(!stored.contains("\"suite\""), || {
                format!("null was stored: {stored}")
            })?;
            Ok("dropped, not stored".into())
        }
    }
}

/// Definitions; a field that does not exist; refused by name.
pub(crate) fn an_unknown_field_is_refused_under_strict_validation(world: &World) -> Result<String> {
    let lab = world.definitions()?;
    let object = manifest("IPsecTunnel", "unknown", "{failurePolice: Block}");
    let said = refusal(lab.kubectl().with_manifest(&DRY_RUN, &object), "an unknown field")?;
    ensure(said.contains("unknown field \"spec.failurePolice\""), || {
        said.clone()
    })?;
    Ok("refused by name".into())
}

fn judge(expected: &Expected, outcome: Result<String>) -> Vec<String> {
    let file = &expected.file;
    match outcome {
        Ok(_) if expected.accepted => Vec::new(),
        Ok(_) => vec![format!("{file}: accepted")],
        Err(error) if expected.accepted => vec![format!("{file}: {error}")],
        Err(error) => {
            let said = error.to_string();
            let wanted = [&expected.message, &expected.field];
            wanted
                .into_iter()
                .flatten()
                .filter(|text| !said.contains(text.as_str()))
                .map(|text| format!("{file}: does not say {text:?}: {said}"))
                .collect()
        }
    }
}

fn refused(lab: &Lab, object: &str, message: &str) -> Result<()> {
    let said = refusal(lab.kubectl().apply(object), object)?;
    ensure(said.contains(message), || {
        format!("does not say {message:?}: {said}")
    })
}

fn manifest(kind: &str, name: &str, spec: &str) -> String {
    format!("{{apiVersion: ipsecmesh.io/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}")
}
