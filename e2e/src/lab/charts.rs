//! Both charts against the tools that judge charts: helm's linter, and kubeconform with the API server's own schemas.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::{Lab, LabOptions, tool};
use crate::{
    error::{Context, Error, Result},
    report::Progress,
};

const CHARTS: [&str; 2] = ["ipsecmesh-crds", "ipsecmesh"];
/// Values that switch on what is off by default, so that every template is judged.
const EVERYTHING: &str = "tunnels[0].name=cluster-mesh";

/// Lints and validates; needs a control plane, for its schemas, but no nodes.
pub fn check(progress: &Progress) -> Result<()> {
    let lab = Lab::start_control_plane(&LabOptions::new("charts", 0), progress)?;
    for chart in CHARTS {
        let path = chart_path(&lab, chart);
        progress.step(&format!("helm lint --strict {chart}"), || {
            lab.helm().run(&["lint", "--strict", &path])
        })?;
    }
    progress.step("definitions are accepted by the API server", || {
        lab.install_definitions()
    })?;
    let schemas = lab.folder().join("schemas");
    progress.step("schemas from the API server's OpenAPI", || {
        write_schemas(&lab, &schemas)
    })?;
    for chart in CHARTS {
        progress.step(&format!("kubeconform {chart}"), || conform(&lab, chart, &schemas))?;
    }
    Ok(())
}

fn chart_path(lab: &Lab, chart: &str) -> String {
    lab.checkout().join("charts").join(chart).display().to_string()
}

fn conform(lab: &Lab, chart: &str, schemas: &Path) -> Result<()> {
    let path = chart_path(lab, chart);
    let mut arguments = vec!["template", chart, &path, "--namespace", "ipsecmesh-system"];
    if chart == "ipsecmesh" {
        arguments.extend(["--set", EVERYTHING, "--set", "crds.check=false"]);
    }
    let manifests = lab.helm().run(&arguments)?;
    let file = schemas.join(format!("{chart}.yaml"));
    fs::write(&file, manifests).context(|| format!("write {}", file.display()))?;
    let location = format!(
        "{}/{{{{.Group}}}}-{{{{.ResourceKind}}}}-{{{{.ResourceAPIVersion}}}}.json",
        schemas.display()
    );
    let name = file.display().to_string();
    tool(
        &lab.tools().kubeconform,
        &["-strict", "-summary", "-schema-location", &location, &name],
        schemas,
    )
    .map(drop)
}

/// One file per kind that refers to one file of definitions.
fn write_schemas(lab: &Lab, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    let text = lab.kubectl().run(&["get", "--raw", "/openapi/v2"])?;
    let api: Value =
        serde_json::from_str(&text).map_err(|error| Error::observed(format!("/openapi/v2: {error}")))?;
    let mut definitions = api["definitions"].as_object().cloned().unwrap_or_default();
    for (name, definition) in &mut definitions {
        close(definition);
        if name.ends_with(".Quantity") {
            *definition = json!({"type": ["string", "number"]});
        }
    }
    for (name, definition) in &definitions {
        for kind in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let part = |key: &str| kind[key].as_str().unwrap_or_default().to_lowercase();
            let (group, version) = (part("group"), part("version"));
            // kubeconform's name for the core group is its version.
            let group = if group.is_empty() { &version } else { &group };
            let file = folder.join(format!("{group}-{}-{version}.json", part("kind")));
            write_json(
                &file,
                &json!({"$ref": format!("_definitions.json#/definitions/{name}")}),
            )?;
        }
    }
    write_json(
        &folder.join("_definitions.json"),
        &json!({"definitions": Value::Object(definitions)}),
    )
}

/// No field that the API does not know; and what OpenAPI 2 cannot say: a number or a text.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("format").and_then(Value::as_str) == Some("int-or-string") {
                object.clear();
                object.insert("type".into(), json!(["string", "integer"]));
            }
            if object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                object.remove("type");
            }
            close_object(object);
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn close_object(object: &mut Map<String, Value>) {
    let fields = object.get("properties").is_some_and(Value::is_object);
    let typed = object.get("type").and_then(Value::as_str) == Some("object");
    let open = object.contains_key("additionalProperties")
        || object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if fields && typed && !open {
        object.insert("additionalProperties".into(), Value::Bool(false));
    }
}

fn write_json(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, value.to_string()).context(|| format!("write {}", file.display()))
}
