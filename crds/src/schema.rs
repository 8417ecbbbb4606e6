//! The definitions of the four kinds as the API server gets them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel};

/// All four definitions, in the order of their names.
///
/// `kube`'s derive marks optional fields as `nullable`, and a `null` that the server keeps would count as set in CEL's
/// `has()`: it is taken out, so that the server drops such nulls. Formats that Kubernetes does not know become those that it does.
///
/// # Panics
///
/// Never: what the derive makes is JSON, and cleaning it keeps its shape.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        IPsecAuthority::crd(),
        IPsecNode::crd(),
        IPsecPeer::crd(),
        IPsecTunnel::crd(),
    ]
    .into_iter()
    .map(|definition| {
        let mut value = serde_json::to_value(definition).expect("a definition is JSON");
        clean(&mut value);
        serde_json::from_value(value).expect("cleaning keeps the shape of a definition")
    })
    .collect()
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "nullable" && value.is_boolean()));
            if let Some(Value::String(format)) = map.get_mut("format") {
                match format.as_str() {
                    "uint8" | "uint16" => "int32".clone_into(format),
                    "uint32" | "uint64" => "int64".clone_into(format),
                    _ => {}
                }
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A label selector with every list and string bounded, as CEL's cost limits want. Operators are not an enum: a wrong
/// one is reported by the tunnel's condition, with the name of the field.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "maxLength": 317},
                        "operator": {"type": "string", "maxLength": 32},
                        "values": {
                            "type": "array",
                            "maxItems": 32,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                },
            },
        },
    })
}

/// A bounded list of conditions, merged by type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {"type": "string", "maxLength": 64},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 64},
                "message": {"type": "string", "maxLength": 4096},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": json!({"type": "string", "format": "date-time"}),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;

    use super::*;

    #[test]
    fn all_kinds_are_of_the_one_group_and_version() {
        let groups = [
            IPsecAuthority::group(&()),
            IPsecNode::group(&()),
            IPsecPeer::group(&()),
            IPsecTunnel::group(&()),
        ];
        assert!(groups.iter().all(|group| group == crate::GROUP));
        for definition in definitions() {
            assert!(
                definition
                    .spec
                    .versions
                    .iter()
                    .all(|version| version.name == crate::VERSION)
            );
        }
    }

    #[test]
    fn no_field_is_nullable_and_formats_are_known() {
        let text = serde_json::to_string(&definitions()).expect("JSON");
        assert!(
            !text.contains("\"nullable\"") && !text.contains("\"uint") && !text.contains("\"enum\":[null]")
        );
    }
}
