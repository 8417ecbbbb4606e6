//! Values a Pod asks for by reference: environment, downward fields, `$(NAME)` in commands.

use std::{collections::BTreeMap, net::Ipv4Addr};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, ObjectFieldSelector, Pod, Secret,
};
use kube::{Api, Client};

use super::PodError;

/// What fields of the pod can be asked for.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    /// The pod.
    pub(super) pod: &'a Pod,
    /// Its address.
    pub(super) address: Option<Ipv4Addr>,
    /// The node's address.
    pub(super) host: Ipv4Addr,
}

impl Fields<'_> {
    /// The value of a `fieldRef`.
    pub(super) fn value(&self, selector: &ObjectFieldSelector) -> Result<String, PodError> {
        let path = selector.field_path.as_str();
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let value = match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => metadata.uid.clone(),
            "metadata.labels" => Some(pairs(metadata.labels.as_ref())),
            "metadata.annotations" => Some(pairs(metadata.annotations.as_ref())),
            "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
            "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
            "status.hostIP" | "status.hostIPs" => Some(self.host.to_string()),
            "status.podIP" | "status.podIPs" => self.address.map(|address| address.to_string()),
            other => {
                let map = |path, map: &Option<_>| keyed(other, path, map.as_ref());
                let found = map("metadata.labels", &metadata.labels);
                return found
                    .or_else(|| map("metadata.annotations", &metadata.annotations))
                    .ok_or_else(|| {
                        PodError::config(format!("fieldRef {other}: this kubelet does not know the field"))
                    });
            }
        };
        value.ok_or_else(|| PodError::config(format!("fieldRef {path}: has no value yet")))
    }
}

/// The container's own environment, in order; later ones may refer to earlier ones.
pub(super) async fn environment(
    client: &Client,
    container: &Container,
    fields: &Fields<'_>,
    base: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, PodError> {
    let mut sources = Sources::new(
        client,
        fields.pod.metadata.namespace.as_deref().unwrap_or("default"),
    );
    let mut environment = base;
    for source in container.env_from.iter().flatten() {
        for (key, value) in sources.all(source).await? {
            set(
                &mut environment,
                &format!("{}{key}", source.prefix.as_deref().unwrap_or_default()),
                value,
            );
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(variable, fields, &mut sources, &environment).await? {
            set(&mut environment, &variable.name, value);
        }
    }
    Ok(environment)
}

/// Replaces `$(NAME)` by the environment's value; `$$` is a dollar sign; unknown names stay as they are.
pub(super) fn expand(text: &str, environment: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match environment.iter().find(|(key, _)| key == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

async fn value_of(
    variable: &EnvVar,
    fields: &Fields<'_>,
    sources: &mut Sources,
    environment: &[(String, String)],
) -> Result<Option<String>, PodError> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(
            variable.value.as_deref().unwrap_or_default(),
            environment,
        )));
    };
    if let Some(selector) = &from.field_ref {
        return fields.value(selector).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        return sources
            .key("ConfigMap", &key.name, &key.key, key.optional == Some(true))
            .await;
    }
    if let Some(key) = &from.secret_key_ref {
        return sources
            .key("Secret", &key.name, &key.key, key.optional == Some(true))
            .await;
    }
    Err(PodError::config(format!(
        "env {}: this kubelet resolves fieldRef, configMapKeyRef and secretKeyRef",
        variable.name
    )))
}

fn set(environment: &mut Vec<(String, String)>, key: &str, value: String) {
    environment.retain(|(present, _)| present != key);
    environment.push((key.to_owned(), value));
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

fn keyed(path: &str, map_path: &str, map: Option<&BTreeMap<String, String>>) -> Option<String> {
    let key = path
        .strip_prefix(map_path)?
        .strip_prefix("['")?
        .strip_suffix("']")?;
    Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
}

/// ConfigMaps and Secrets of one namespace, each read once.
pub(super) struct Sources {
    config_maps: Api<ConfigMap>,
    secrets: Api<Secret>,
    read: BTreeMap<(&'static str, String), Option<Content>>,
}

/// The keys of a ConfigMap or Secret.
pub(super) type Content = BTreeMap<String, Vec<u8>>;

impl Sources {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            config_maps: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            read: BTreeMap::new(),
        }
    }

    /// All keys of an object; `None` if it does not exist and may be absent.
    pub(super) async fn content(
        &mut self,
        kind: &'static str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&Content>, PodError> {
        let index = (kind, name.to_owned());
        if !self.read.contains_key(&index) {
            let content = match kind {
                "Secret" => self.secrets.get_opt(name).await?.map(secret_content),
                _ => self.config_maps.get_opt(name).await?.map(config_map_content),
            };
            self.read.insert(index.clone(), content);
        }
        match self.read.get(&index) {
            Some(Some(content)) => Ok(Some(content)),
            _ if optional => Ok(None),
            _ => Err(PodError::config(format!("{kind} {name} does not exist"))),
        }
    }

    async fn key(
        &mut self,
        kind: &'static str,
        name: &str,
        key: &str,
        optional: bool,
    ) -> Result<Option<String>, PodError> {
        let value = self
            .content(kind, name, optional)
            .await?
            .and_then(|content| content.get(key));
        match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(PodError::config(format!("{kind} {name} has no key {key}"))),
        }
    }

    async fn all(&mut self, source: &EnvFromSource) -> Result<Vec<(String, String)>, PodError> {
        let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => ("ConfigMap", map.name.clone(), map.optional),
            (None, Some(secret)) => ("Secret", secret.name.clone(), secret.optional),
            (None, None) => return Ok(Vec::new()),
        };
        let content = self.content(kind, &name, optional == Some(true)).await?;
        let text =
            |(key, value): (&String, &Vec<u8>)| (key.clone(), String::from_utf8_lossy(value).into_owned());
        Ok(content.into_iter().flatten().map(text).collect())
    }
}

fn config_map_content(map: ConfigMap) -> Content {
    let text = map
        .data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.into_bytes()));
    let binary = map
        .binary_data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}

fn secret_content(secret: Secret) -> Content {
    secret
        .data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_parentheses_are_replaced() {
        let environment = [("NODE".to_owned(), "n1".to_owned())];
        let cases = [
            ("--node=$(NODE)", "--node=n1"),
            ("$(OTHER)", "$(OTHER)"),
            ("$$(NODE)", "$(NODE)"),
            ("5$", "5$"),
            ("a$b", "a$b"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &environment), expected);
        }
    }
}
