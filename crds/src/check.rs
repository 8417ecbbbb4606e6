//! What the API server says of an object when it is created, without an API server: fields, types, bounds, then the rules.
//! The wording is the server's, so that whoever has read a message once knows it again.

use std::collections::BTreeMap;
use std::fmt;

use kube::core::cel::{Validator, apply_defaults};
use regex::Regex;
use serde_json::{Map, Value};

use crate::schema;

/// A field that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Path of the field, such as `spec.ike.lifetime`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The definitions, ready to check objects.
pub struct Checker {
    kinds: BTreeMap<String, Value>,
    patterns: BTreeMap<String, Regex>,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kinds.keys()).finish()
    }
}

impl Default for Checker {
    fn default() -> Self {
        let mut checker = Self {
            kinds: BTreeMap::new(),
            patterns: BTreeMap::new(),
        };
        for definition in schema::definitions() {
            let schema = definition
                .spec
                .versions
                .into_iter()
                .find(|version| version.name == crate::VERSION)
                .and_then(|version| version.schema?.open_api_v3_schema)
                .and_then(|schema| serde_json::to_value(schema).ok());
            if let Some(schema) = schema {
                checker.learn_patterns(&schema);
                checker.kinds.insert(definition.spec.names.kind, schema);
            }
        }
        checker
    }
}

impl Checker {
    /// Checks `object` as an object of `kind`, and against `old`, which it replaces. Gives it back as the API server would store it: with its defaults, without
    /// nulls, and without the status, which nobody but the machinery writes.
    pub fn check(&self, kind: &str, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Refusal>> {
        let Some(schema) = self.kinds.get(kind) else {
            let known: Vec<&str> = self.kinds.keys().map(String::as_str).collect();
            return Err(vec![refusal(
                "kind",
                format!(
                    "Unsupported value: {kind:?}: supported values: {}",
                    known.join(", ")
                ),
            )]);
        };
        let mut object = object.clone();
        drop_nulls(&mut object);
        let mut found = Vec::new();
        envelope(&object, &mut found);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        let spec_schema = &schema["properties"]["spec"];
        match object.get("spec") {
            None => found.push(refusal("spec", "Required value".to_owned())),
            Some(spec) => self.value(spec_schema, spec, "spec", &mut found),
        }
        if !found.is_empty() {
            return Err(found);
        }
        let object = apply_defaults(schema, &object);
        match Validator::new().validate(schema, &object, old) {
            Ok(()) => Ok(object),
            Err(errors) => Err(errors
                .into_vec()
                .into_iter()
                .map(|error| refusal(&error.field_path, format!("Invalid value: {}", error.message)))
                .collect()),
        }
    }

    fn learn_patterns(&mut self, schema: &Value) {
        match schema {
            Value::Object(fields) => {
                if let Some(Value::String(pattern)) = fields.get("pattern")
                    && let Ok(compiled) = Regex::new(pattern)
                {
                    self.patterns.insert(pattern.clone(), compiled);
                }
                fields.values().for_each(|value| self.learn_patterns(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.learn_patterns(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn value(&self, schema: &Value, value: &Value, path: &str, found: &mut Vec<Refusal>) {
        let wanted = schema["type"].as_str().unwrap_or("object");
        let fits = match (wanted, value) {
            ("object", Value::Object(_))
            | ("array", Value::Array(_))
            | ("string", Value::String(_))
            | ("boolean", Value::Bool(_))
            | ("number", Value::Number(_)) => true,
            ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
            _ => false,
        };
        if !fits {
            let message = format!(
                "Invalid value: {:?}: must be of type {wanted}, not {}",
                shown(value),
                name(value)
            );
            found.push(refusal(path, message));
            return;
        }
        if let Some(choices) = schema["enum"].as_array()
            && !choices.contains(value)
        {
            let names: Vec<String> = choices.iter().map(ToString::to_string).collect();
            let message = format!(
                "Unsupported value: {value}: supported values: {}",
                names.join(", ")
            );
            found.push(refusal(path, message));
            return;
        }
        match value {
            Value::Object(fields) => self.object(schema, fields, path, found),
            Value::Array(items) => self.array(schema, items, path, found),
            Value::String(text) => self.text(schema, text, path, found),
            Value::Number(number) => bounds(schema, number.as_f64().unwrap_or_default(), path, found),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&self, schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<Refusal>) {
        for required in schema["required"].as_array().into_iter().flatten() {
            let Some(name) = required.as_str() else { continue };
            let defaulted = schema["properties"][name].get("default").is_some();
            if !fields.contains_key(name) && !defaulted {
                found.push(refusal(&format!("{path}.{name}"), "Required value".to_owned()));
            }
        }
        if let Some(most) = schema["maxProperties"].as_u64()
            && fields.len() as u64 > most
        {
            let message = format!("Too many: {}: must have at most {most} items", fields.len());
            found.push(refusal(path, message));
        }
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                    self.value(schema, value, &path, found);
                }
                (None, _) => {
                    let known: Vec<&str> = schema["properties"]
                        .as_object()
                        .into_iter()
                        .flat_map(|fields| fields.keys().map(String::as_str))
                        .collect();
                    found.push(refusal(&path, unknown_field(name, &known)));
                }
            }
        }
    }

    fn array(&self, schema: &Value, items: &[Value], path: &str, found: &mut Vec<Refusal>) {
        let count = items.len() as u64;
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
            found.push(refusal(
                path,
                format!("Too many: {count}: must have at most {most} items"),
            ));
        }
        if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
            let message = format!("Invalid value: {count}: should have at least {least} items");
            found.push(refusal(path, message));
        }
        for (index, item) in items.iter().enumerate() {
            self.value(&schema["items"], item, &format!("{path}[{index}]"), found);
        }
    }

    fn text(&self, schema: &Value, text: &str, path: &str, found: &mut Vec<Refusal>) {
        let length = text.chars().count() as u64;
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            found.push(refusal(
                path,
                format!("Too long: may not be more than {most} bytes"),
            ));
        } else if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            let message = format!("Invalid value: {text:?}: should be at least {least} chars long");
            found.push(refusal(path, message));
        } else if let Some(pattern) = schema["pattern"].as_str()
            && !self
                .patterns
                .get(pattern)
                .is_some_and(|pattern| pattern.is_match(text))
        {
            found.push(refusal(
                path,
                format!("Invalid value: {text:?}: should match '{pattern}'"),
            ));
        }
    }
}

fn refusal(field: &str, message: String) -> Refusal {
    Refusal {
        field: field.to_owned(),
        message,
    }
}

/// What is around `spec`.
const ENVELOPE: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

/// A field that nobody knows, with the one that was probably meant.
fn unknown_field(name: &str, known: &[&str]) -> String {
    let likely = known
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min();
    let meant = likely.map_or_else(String::new, |(_, candidate)| {
        format!(" did you mean {candidate:?}?")
    });
    format!("unknown field;{meant} known here: {}", known.join(", "))
}

/// How many letters differ, with case counted little: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    let mut previous = None;
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut left = None;
        for (j, y) in b.chars().enumerate() {
            let at = |cells: &[usize], column: usize| cells.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&row, j) + usize::from(x != y))
                .min(at(&row, j + 1) + 1)
                .min(at(&next, j) + 1);
            if j > 0 && Some(y) == previous && Some(x) == left {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
            left = Some(y);
        }
        previous = Some(x);
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

/// What is around `spec`: group and version, the name, and nothing unknown.
fn envelope(object: &Value, found: &mut Vec<Refusal>) {
    let Some(fields) = object.as_object() else {
        found.push(refusal("", "Invalid value: must be an object".to_owned()));
        return;
    };
    let version = format!("{}/{}", crate::GROUP, crate::VERSION);
    if fields.get("apiVersion").and_then(Value::as_str) != Some(&version) {
        let given = fields.get("apiVersion").unwrap_or(&Value::Null);
        let message = format!("Unsupported value: {given}: supported values: {version:?}");
        found.push(refusal("apiVersion", message));
    }
    for name in fields.keys() {
        if name != "status" && !ENVELOPE.contains(&name.as_str()) {
            found.push(refusal(name, unknown_field(name, &ENVELOPE)));
        }
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        found.push(refusal(
            "metadata.name",
            "Required value: name is required".to_owned(),
        ));
    } else if !is_subdomain(name) {
        let message = format!(
            "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character"
        );
        found.push(refusal("metadata.name", message));
    }
}

fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn bounds(schema: &Value, number: f64, path: &str, found: &mut Vec<Refusal>) {
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        let message = format!("Invalid value: {number}: should be greater than or equal to {least}");
        found.push(refusal(path, message));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        let message = format!("Invalid value: {number}: should be less than or equal to {most}");
        found.push(refusal(path, message));
    }
}

/// The server drops nulls of fields that are not nullable, and none of ours is.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The beginning of a value: a whole document in a message helps nobody.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_was_meant_is_named() {
        let known = ["traffic", "remote", "childSA", "mode"];
        for (name, meant) in [
            ("trafic", Some("traffic")),
            ("childSa", Some("childSA")),
            ("child_sa", Some("childSA")),
            ("rmeote", Some("remote")),
            ("colour", None),
            ("x", None),
        ] {
            let said = unknown_field(name, &known);
            let expected = meant.map(|meant| format!("did you mean {meant:?}?"));
            assert_eq!(said.contains("did you mean"), meant.is_some(), "{said}");
            assert!(said.contains(&expected.unwrap_or_default()), "{said}");
        }
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
