//! The rules of the definitions, offline: every sample object, transitions, and the generated files.

use std::{fs, path::Path};

use ipsecmesh_crds::{check::Checker, generate};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Expected {
    file: String,
    accepted: bool,
    message: Option<String>,
}

#[test]
fn every_sample_is_accepted_or_rejected_with_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/cel");
    let read = |file: &str| fs::read_to_string(folder.join(file)).expect("a sample");
    let table: Vec<Expected> = serde_yaml_ng::from_str(&read("expected.yaml")).expect("the table");
    assert_eq!(
        table.len() + 1,
        fs::read_dir(&folder).expect("samples").count(),
        "every sample has its line"
    );
    for expected in table {
        let object: Value = serde_yaml_ng::from_str(&read(&expected.file)).expect("YAML");
        let said = check(&object, None);
        assert_eq!(said.is_empty(), expected.accepted, "{}: {said:?}", expected.file);
        if let Some(message) = expected.message {
            assert!(
                said.iter().any(|one| one.contains(&message)),
                "{}: {said:?}",
                expected.file
            );
        }
    }
}

#[test]
fn what_must_not_change_does_not() {
    let nodes = tunnel(&json!({}));
    let external = tunnel(&json!({
        "remote": {"type": "External", "external": {"address": "192.0.2.1"}}, "traffic": {"type": "Host"},
    }));
    assert!(check(&nodes, Some(&nodes)).is_empty());
    assert!(check(&external, Some(&nodes))[0].contains("remote.type is immutable"));
    let authority = |spec: Value| json!({"apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecAuthority", "metadata": {"name": "default"}, "spec": spec});
    let second = authority(json!({"rotation": {"generation": 2}}));
    let first = authority(json!({"rotation": {"generation": 1}}));
    assert!(check(&second, Some(&first)).is_empty());
    assert!(check(&first, Some(&second))[0].contains("rotation.generation may only rise"));
    let moved = authority(json!({"trustDomain": "other.local"}));
    let before = authority(json!({}));
    assert!(check(&moved, Some(&before))[0].contains("trustDomain is immutable"));
}

#[test]
fn messages_name_the_field_and_what_is_expected() {
    let said = |spec: &Value| check(&tunnel(spec), None).join("\n");
    for (spec, expected) in [
        (
            json!({"colour": "red"}),
            "spec.colour: unknown field; known here: auth, ",
        ),
        (
            json!({"priority": "high"}),
            "spec.priority: Invalid value: \"\\\"high\\\"\": must be of type integer, not string",
        ),
        (
            json!({"priority": 1001}),
            "spec.priority: Invalid value: 1001: should be less than or equal to 1000",
        ),
        (
            json!({"mode": "tunnel"}),
            "spec.mode: Unsupported value: \"tunnel\": supported values: \"Transport\", \"Tunnel\"",
        ),
        (
            json!({"ike": {"proposals": [{"encryption": ["AES-GCM-16-256"], "prf": ["HMAC-SHA2-256"], "keyExchange": ["X448"]}]}}),
            "spec.ike.proposals[0].keyExchange[0]: Unsupported value: \"X448\": supported values: \"X25519\", ",
        ),
        (
            json!({"childSA": {"proposals": [{"encryption": ["AES-GCM-16-256"], "additionalKeyExchange": ["ML-KEM-768"]}]}}),
            "additional key exchanges need a key exchange that they follow",
        ),
        (
            json!({"childSA": {"proposals": [{"encryption": ["AES-GCM-16-256"], "keyExchange": ["X25519"],
                "additionalKeyExchange": ["ML-KEM-768", "ECP-384", "ML-KEM-768"]}]}}),
            "each additional key exchange may occur once",
        ),
        (
            json!({"ike": {"lifetime": "1 day"}}),
            "spec.ike.lifetime: Invalid value: \"1 day\": should match '^([0-9]{1,5}(h|m|s)){1,3}$'",
        ),
        (
            json!({"ike": {"lifetime": "5m"}}),
            "ike.lifetime must be between 10m and 168h",
        ),
        (
            json!({"auth": {"type": "PSK", "psk": {"secretRef": {"name": "x"}}}}),
            "spec.auth.psk.secretRef.key: Required value",
        ),
        (
            json!({"traffic": {"type": "Custom", "selectors": []}}),
            "spec.traffic.selectors: Invalid value: 0: should have at least 1 items",
        ),
        (json!({"childSA": null}), ""),
    ] {
        assert!(said(&spec).contains(expected), "{spec}: {}", said(&spec));
    }
    let mut foreign = tunnel(&json!({}));
    foreign["apiVersion"] = json!("ipsecmesh.io/v1");
    foreign["metadata"] = json!({"name": "Not_a_name"});
    let said = check(&foreign, None);
    assert!(
        said[0].contains("apiVersion: Unsupported value: \"ipsecmesh.io/v1\""),
        "{said:?}"
    );
    assert!(said[1].starts_with("metadata.name: Invalid value"), "{said:?}");
    assert!(check(&tunnel(&json!({"childSA": null})), None).is_empty());
}

#[test]
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    for (path, content) in generate::files().expect("YAML") {
        let committed = fs::read_to_string(root.join(&path)).unwrap_or_default();
        assert!(
            committed == content,
            "{path} is out of date: run cargo run -p ipsecmesh-crds --bin crdgen"
        );
    }
}

fn tunnel(spec: &Value) -> Value {
    json!({"apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecTunnel", "metadata": {"name": "x"}, "spec": spec})
}

/// What the API server would say of `object`.
fn check(object: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = object["kind"].as_str().expect("a kind");
    let checker = Checker::default();
    let old = old.map(|old| checker.check(kind, old, None).expect("a good object"));
    let said = checker
        .check(kind, object, old.as_ref())
        .err()
        .unwrap_or_default();
    said.iter().map(ToString::to_string).collect()
}
