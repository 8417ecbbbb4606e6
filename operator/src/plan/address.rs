//! Which addresses of which Node are published: first come, first served, and never the API server's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::args::Cidr;

/// What the plans read of a Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    /// Name of the Node.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was created.
    pub(crate) created: Option<Timestamp>,
    /// Whether it runs Linux: others have no agent.
    pub(crate) linux: bool,
    /// Whether its kubelet says that it is Ready.
    pub(crate) ready: bool,
    /// Changes with every boot.
    pub(crate) boot_id: Option<String>,
    /// Its first InternalIP of each family.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its pods' networks.
    pub(crate) pod_cidrs: Vec<String>,
}

impl NodeFacts {
    /// The facts of `node`.
    pub(crate) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let info = status.and_then(|status| status.node_info.as_ref());
        let system = node.labels().get("kubernetes.io/os").map(String::as_str);
        let system = system.or(info.map(|info| info.operating_system.as_str()));
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let pod_cidrs = node
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_cidrs.clone())
            .unwrap_or_default();
        Self {
            name: node.name_any(),
            uid: node.uid().unwrap_or_default(),
            labels: node.labels().clone(),
            created: node.creation_timestamp().map(|time| time.0),
            linux: system == Some("linux"),
            ready: conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            boot_id: info.map(|info| info.boot_id.clone()).filter(|id| !id.is_empty()),
            addresses: internal_addresses(node),
            pod_cidrs,
        }
    }

    fn is_control_plane(&self) -> bool {
        // A kubelet may not give itself this label (NodeRestriction), so it proves an administrator's will.
        self.labels.contains_key("node-role.kubernetes.io/control-plane")
    }
}

/// One address of each family takes part: peers are keyed by (node, family).
fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let listed = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let internal = listed.iter().filter(|address| address.type_ == "InternalIP");
    let parsed: Vec<IpAddr> = internal
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let first_v4 = parsed.iter().find(|address| address.is_ipv4());
    let first_v6 = parsed.iter().find(|address| address.is_ipv6());
    first_v4.into_iter().chain(first_v6).copied().collect()
}

/// What no Node may claim, and within what.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressRules {
    /// If not empty: only addresses in these networks.
    pub(crate) allowed: Vec<Cidr>,
    /// The API server's endpoints: a worker that claims one would draw its traffic.
    pub(crate) api_server: Vec<IpAddr>,
    /// The networks of Services.
    pub(crate) services: Vec<Cidr>,
}

/// What of a Node is published.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Publication {
    /// For `IPsecPeer.spec.addresses`.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why an address is left out, for a person.
    pub(crate) refused: Vec<String>,
}

/// Decides on the addresses of `node`. `published` are the addresses that the directory holds now, with their owners;
/// `nodes` are all Nodes.
pub(crate) fn publish<'a>(
    node: &NodeFacts,
    nodes: &(impl Iterator<Item = &'a NodeFacts> + Clone),
    published: &BTreeMap<IpAddr, String>,
    rules: &AddressRules,
) -> Publication {
    let mut publication = Publication::default();
    for &address in &node.addresses {
        match refusal(node, address, nodes.clone(), published, rules) {
            None => publication.addresses.push(address),
            Some(reason) => publication.refused.push(reason),
        }
    }
    publication
}

fn refusal<'a>(
    node: &NodeFacts,
    address: IpAddr,
    nodes: impl Iterator<Item = &'a NodeFacts>,
    published: &BTreeMap<IpAddr, String>,
    rules: &AddressRules,
) -> Option<String> {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Some(format!("{address} cannot be a node's address"));
    }
    if !rules.allowed.is_empty() && !rules.allowed.iter().any(|network| network.contains(address)) {
        return Some(format!("{address} is outside of --node-cidrs"));
    }
    if rules.services.iter().any(|network| network.contains(address)) {
        return Some(format!("{address} is in a network of Services"));
    }
    if rules.api_server.contains(&address) && !node.is_control_plane() {
        return Some(format!(
            "{address} is the API server's and this is no control-plane node"
        ));
    }
    let owner = match published.get(&address) {
        Some(owner) => owner.clone(),
        None => first_claimant(address, nodes)?,
    };
    (owner != node.name).then(|| format!("{address} belongs to node {owner}, which had it first"))
}

/// The oldest Node that claims an address nobody holds yet.
fn first_claimant<'a>(address: IpAddr, nodes: impl Iterator<Item = &'a NodeFacts>) -> Option<String> {
    let claimants = nodes.filter(|node| node.linux && node.addresses.contains(&address));
    claimants
        .min_by_key(|node| (node.created, node.name.clone()))
        .map(|node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, age: i64, address: &str) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            linux: true,
            created: Timestamp::from_second(1_000_000 - age).ok(),
            addresses: vec![address.parse().expect("address")],
            ..NodeFacts::default()
        }
    }

    #[test]
    fn only_internal_addresses_count_and_one_of_each_family() {
        let addresses = json!([
            {"type": "Hostname", "address": "a"},
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "10.0.0.2"},
        ]);
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"podCIDRs": ["10.244.1.0/24"]},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("Node");
        let facts = NodeFacts::of(&node);
        assert_eq!(
            facts.addresses,
            ["10.0.0.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().expect("address"))
        );
        assert!(facts.linux && facts.ready);
        assert_eq!(facts.pod_cidrs, ["10.244.1.0/24"]);
    }

    #[test]
    fn the_first_owner_keeps_an_address() {
        let (old, young) = (node("old", 100, "10.0.0.1"), node("young", 1, "10.0.0.1"));
        let nodes = [old.clone(), young.clone()];
        let rules = AddressRules::default();
        let unpublished = BTreeMap::new();
        assert_eq!(
            publish(&old, &nodes.iter(), &unpublished, &rules).addresses,
            old.addresses
        );
        let refused = publish(&young, &nodes.iter(), &unpublished, &rules);
        assert_eq!(
            refused.refused,
            ["10.0.0.1 belongs to node old, which had it first"]
        );
        // Who was published first stays the owner even if an older Node claims the address later.
        let published = BTreeMap::from([(old.addresses[0], "young".to_owned())]);
        assert!(
            publish(&old, &nodes.iter(), &published, &rules)
                .addresses
                .is_empty()
        );
        assert_eq!(
            publish(&young, &nodes.iter(), &published, &rules).addresses,
            young.addresses
        );
    }

    #[test]
    fn the_api_servers_and_services_addresses_are_refused() {
        let rules = AddressRules {
            allowed: vec!["10.0.0.0/8".parse().expect("network")],
            api_server: vec!["10.0.0.1".parse().expect("address")],
            services: vec!["10.96.0.0/12".parse().expect("network")],
        };
        let mut control_plane = node("c", 1, "10.0.0.1");
        control_plane
            .labels
            .insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
        let cases = [
            (node("a", 1, "10.0.0.1"), Some("the API server's")),
            (control_plane, None),
            (node("a", 1, "10.96.0.10"), Some("a network of Services")),
            (node("a", 1, "192.0.2.1"), Some("outside of --node-cidrs")),
            (node("a", 1, "127.0.0.1"), Some("cannot be")),
            (node("a", 1, "10.1.1.1"), None),
        ];
        for (node, expected) in cases {
            let publication = publish(&node, &std::iter::once(&node), &BTreeMap::new(), &rules);
            match expected {
                Some(text) => assert!(publication.refused.concat().contains(text), "{publication:?}"),
                None => assert_eq!(publication.addresses, node.addresses, "{publication:?}"),
            }
        }
    }
}
