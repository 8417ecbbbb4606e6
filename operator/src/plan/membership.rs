//! Selectors to memberships: which nodes take part in a tunnel, on which side, and how many peers each has.

use std::collections::{BTreeMap, BTreeSet};

use ipsecmesh_crds::Phase;
use ipsecmesh_crds::peer::{Membership, Side};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};

use super::address::NodeFacts;
use super::transition::transition;

/// The parsed selectors of a tunnel. One to an external peer selects no node at its far side.
#[derive(Clone, Debug)]
pub(crate) struct Selectors {
    local: Selector,
    remote: Option<Selector>,
}

/// The far side of a tunnel, as far as pairs are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FarSide {
    /// One external peer.
    External,
    /// Nodes of the cluster.
    Nodes,
}

/// A selector does not parse; the text names the field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {cause}")]
pub(crate) struct InvalidSelector {
    /// Path of the field.
    pub(crate) field: &'static str,
    /// What is wrong with it.
    pub(crate) cause: String,
}

impl Selectors {
    /// Parses both selectors; an absent one at the far side means that no node is there.
    pub(crate) fn parse(
        local: &LabelSelector,
        remote: Option<&LabelSelector>,
    ) -> Result<Self, InvalidSelector> {
        let parse = |field: &'static str, selector: &LabelSelector| {
            Selector::try_from(selector.clone()).map_err(|error| InvalidSelector {
                field,
                cause: format!("{error}; operators are In, NotIn, Exists and DoesNotExist"),
            })
        };
        Ok(Self {
            local: parse("spec.local.nodeSelector", local)?,
            remote: remote
                .map(|remote| parse("spec.remote.nodes.nodeSelector", remote))
                .transpose()?,
        })
    }

    /// The side that a node is on, if any.
    pub(crate) fn side(&self, node: &NodeFacts) -> Option<Side> {
        if !node.linux {
            return None;
        }
        match (
            self.local.matches(&node.labels),
            self.remote
                .as_ref()
                .is_some_and(|remote| remote.matches(&node.labels)),
        ) {
            (true, true) => Some(Side::Both),
            (true, false) => Some(Side::Local),
            (false, true) => Some(Side::Remote),
            (false, false) => None,
        }
    }
}

/// The memberships in `tunnel` as they are to be published, by node. See [`transition`] for `phase` and `step`.
pub(crate) fn plan_members(
    tunnel: &str,
    current: &BTreeMap<String, Membership>,
    desired: &BTreeMap<String, Side>,
    phase: Phase,
    step: bool,
) -> BTreeMap<String, Membership> {
    let phases: BTreeMap<String, Option<Phase>> = current
        .iter()
        .map(|(node, membership)| (node.clone(), membership.phase))
        .collect();
    let selected: BTreeSet<String> = desired.keys().cloned().collect();
    let next = transition(&phases, &selected, phase, step).into_iter();
    let member = |(node, phase): (String, Option<Phase>)| {
        // A node that leaves stays on its old side until it is gone.
        let side = desired
            .get(&node)
            .copied()
            .or_else(|| current.get(&node).map(|membership| membership.side))?;
        let tunnel = tunnel.to_owned();
        Some((node, Membership { tunnel, side, phase }))
    };
    next.filter_map(member).collect()
}

/// How many peers each member has: unordered pairs {a, b} with a local, b remote, a ≠ b; or the one external peer.
pub(crate) fn peer_counts(sides: &BTreeMap<String, Side>, far: FarSide) -> BTreeMap<String, usize> {
    let count = |wanted: Side| sides.values().filter(|side| **side == wanted).count();
    let (local, remote, both) = (count(Side::Local), count(Side::Remote), count(Side::Both));
    let peers = |side: Side| match (far, side) {
        (FarSide::External, _) => 1,
        (FarSide::Nodes, Side::Local) => remote + both,
        (FarSide::Nodes, Side::Remote) => local + both,
        (FarSide::Nodes, Side::Both) => (local + remote + both).saturating_sub(1),
    };
    sides
        .iter()
        .map(|(node, side)| (node.clone(), peers(*side)))
        .collect()
}

/// The number of pairs of a tunnel: of nodes, or of each node with the external peer.
pub(crate) fn pair_count(sides: &BTreeMap<String, Side>, far: FarSide) -> usize {
    let ends: usize = peer_counts(sides, far).values().sum();
    match far {
        FarSide::External => ends,
        FarSide::Nodes => ends / 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, labels: &[(&str, &str)]) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            linux: true,
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..NodeFacts::default()
        }
    }

    fn selector(value: serde_json::Value) -> LabelSelector {
        serde_json::from_value(value).expect("LabelSelector")
    }

    #[test]
    fn selectors_give_sides() {
        let any = LabelSelector::default();
        let all = Selectors::parse(&any, Some(&any)).expect("empty selectors");
        assert_eq!(all.side(&node("a", &[])), Some(Side::Both));
        let windows = NodeFacts {
            linux: false,
            ..node("w", &[])
        };
        assert_eq!(all.side(&windows), None);
        let db = selector(json!({"matchLabels": {"pool": "db"}}));
        let app = selector(
            json!({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["app", "db"]}]}),
        );
        let selectors = Selectors::parse(&db, Some(&app)).expect("selectors");
        assert_eq!(selectors.side(&node("a", &[("pool", "db")])), Some(Side::Both));
        assert_eq!(selectors.side(&node("b", &[("pool", "app")])), Some(Side::Remote));
        assert_eq!(selectors.side(&node("c", &[])), None);
        let external = Selectors::parse(&db, None).expect("selectors");
        assert_eq!(external.side(&node("a", &[("pool", "db")])), Some(Side::Local));
        assert_eq!(external.side(&node("b", &[("pool", "app")])), None);
    }

    #[test]
    fn a_bad_operator_names_the_field() {
        let bad =
            selector(json!({"matchExpressions": [{"key": "pool", "operator": "Near", "values": ["x"]}]}));
        let error = Selectors::parse(&LabelSelector::default(), Some(&bad))
            .expect_err("bad operator")
            .to_string();
        assert!(error.starts_with("spec.remote.nodes.nodeSelector: "), "{error}");
        assert!(error.contains("operators are In, NotIn"), "{error}");
    }

    #[test]
    fn pairs_are_counted_once() {
        let sides = |list: &[(&str, Side)]| -> BTreeMap<String, Side> {
            list.iter()
                .map(|(node, side)| ((*node).to_owned(), *side))
                .collect()
        };
        let cases = [
            (
                sides(&[("a", Side::Both), ("b", Side::Both), ("c", Side::Both)]),
                3,
            ),
            (
                sides(&[("a", Side::Local), ("b", Side::Remote), ("c", Side::Remote)]),
                2,
            ),
            (
                sides(&[("a", Side::Both), ("b", Side::Remote), ("c", Side::Remote)]),
                2,
            ),
            (sides(&[("a", Side::Local), ("b", Side::Local)]), 0),
            (sides(&[("a", Side::Both)]), 0),
        ];
        for (sides, expected) in cases {
            assert_eq!(pair_count(&sides, FarSide::Nodes), expected, "{sides:?}");
        }
        let two = sides(&[("a", Side::Local), ("b", Side::Local)]);
        assert_eq!(pair_count(&two, FarSide::External), 2);
        assert_eq!(peer_counts(&two, FarSide::External).get("a"), Some(&1));
    }

    #[test]
    fn a_leaving_node_keeps_its_side_and_gets_a_phase() {
        let member = |side, phase| Membership {
            tunnel: "mesh".to_owned(),
            side,
            phase,
        };
        let current = BTreeMap::from([
            ("a".to_owned(), member(Side::Both, None)),
            ("b".to_owned(), member(Side::Remote, None)),
        ]);
        let desired = BTreeMap::from([("a".to_owned(), Side::Both), ("c".to_owned(), Side::Local)]);
        let next = plan_members("mesh", &current, &desired, Phase::Enforcing, true);
        assert_eq!(next["a"], member(Side::Both, None));
        assert_eq!(next["b"], member(Side::Remote, Some(Phase::Draining)));
        assert_eq!(next["c"], member(Side::Local, Some(Phase::Permissive)));
    }
}
