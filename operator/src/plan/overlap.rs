//! What tunnels of higher rank take away from a tunnel: pairs of nodes that both select, with an encapsulation of both.

use std::collections::{BTreeMap, BTreeSet};

use ipsecmesh_crds::peer::Side;

use super::overlay::Encapsulation;

/// What a tunnel has published for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim {
    /// Its name.
    pub(crate) name: String,
    /// Its members.
    pub(crate) sides: BTreeMap<String, Side>,
    /// Its encapsulations.
    pub(crate) entries: BTreeSet<Encapsulation>,
}

/// How much of a tunnel others have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Nothing.
    #[default]
    Nothing,
    /// Some of it: names of those that have it.
    Part(BTreeSet<String>),
    /// All of it.
    All(BTreeSet<String>),
}

/// What `winners`, which all outrank `own`, have of it.
///
/// Nodes that are on the same sides of all tunnels are alike: classes of nodes are compared, not nodes, so that a mesh
/// of thousands costs no more than one of three.
pub(crate) fn overlap(own: &Claim, winners: &[Claim]) -> Overlap {
    let mut classes: BTreeMap<(Side, Vec<Option<Side>>), usize> = BTreeMap::new();
    for (node, side) in &own.sides {
        let others = winners.iter().map(|winner| winner.sides.get(node).copied());
        *classes.entry((*side, others.collect())).or_default() += 1;
    }
    let mut names = BTreeSet::new();
    let mut free = false;
    for (at, ((side, others), count)) in classes.iter().enumerate() {
        for ((other_side, other_others), _) in classes.iter().skip(at) {
            let same = (side, others) == (other_side, other_others);
            if !side.pairs_with(*other_side) || (same && *count < 2) {
                continue;
            }
            for entry in &own.entries {
                let mut whole = false;
                for (winner, sides) in winners.iter().zip(others.iter().zip(other_others)) {
                    let paired = matches!(sides, (Some(a), Some(b)) if a.pairs_with(*b));
                    let touching = winner
                        .entries
                        .iter()
                        .filter(|theirs| paired && touches(**theirs, *entry));
                    for theirs in touching {
                        names.insert(winner.name.clone());
                        whole |= theirs.port.is_none() || theirs.port == entry.port;
                    }
                }
                free |= !whole;
            }
        }
    }
    match (names.is_empty(), free) {
        (true, _) => Overlap::Nothing,
        (false, true) => Overlap::Part(names),
        (false, false) => Overlap::All(names),
    }
}

/// Whether one packet can be of both.
fn touches(a: Encapsulation, b: Encapsulation) -> bool {
    a.protocol == b.protocol && (a.port.is_none() || b.port.is_none() || a.port == b.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Both, Local, Remote};

    const VXLAN: Encapsulation = Encapsulation {
        protocol: 17,
        port: Some(4789),
    };
    const GENEVE: Encapsulation = Encapsulation {
        protocol: 17,
        port: Some(6081),
    };
    const UDP: Encapsulation = Encapsulation {
        protocol: 17,
        port: None,
    };

    fn claim(name: &str, sides: &[(&str, Side)], entries: &[Encapsulation]) -> Claim {
        Claim {
            name: name.to_owned(),
            sides: sides
                .iter()
                .map(|(node, side)| ((*node).to_owned(), *side))
                .collect(),
            entries: entries.iter().copied().collect(),
        }
    }

    #[test]
    fn what_is_taken_by_pairs_and_encapsulations() {
        let three = [("a", Both), ("b", Both), ("c", Both)];
        let two = [("a", Both), ("b", Both)];
        let star = [("a", Local), ("b", Remote), ("c", Remote)];
        for (what, own, winner, expected) in [
            (
                "the same",
                claim("own", &three, &[VXLAN]),
                claim("w", &three, &[VXLAN]),
                "all",
            ),
            (
                "another port",
                claim("own", &three, &[VXLAN]),
                claim("w", &three, &[GENEVE]),
                "",
            ),
            (
                "any port",
                claim("own", &three, &[VXLAN]),
                claim("w", &three, &[UDP]),
                "all",
            ),
            (
                "one port of any",
                claim("own", &three, &[UDP]),
                claim("w", &three, &[VXLAN]),
                "part",
            ),
            (
                "one of two ports",
                claim("own", &three, &[VXLAN, GENEVE]),
                claim("w", &three, &[VXLAN]),
                "part",
            ),
            (
                "one of three pairs",
                claim("own", &three, &[VXLAN]),
                claim("w", &two, &[VXLAN]),
                "part",
            ),
            (
                "the only pair",
                claim("own", &two, &[VXLAN]),
                claim("w", &three, &[VXLAN]),
                "all",
            ),
            (
                "one node in common",
                claim("own", &three, &[VXLAN]),
                claim("w", &two[..1], &[VXLAN]),
                "",
            ),
            (
                "two of three pairs",
                claim("own", &three, &[VXLAN]),
                claim("w", &star, &[VXLAN]),
                "part",
            ),
            (
                "a star within",
                claim("own", &star, &[VXLAN]),
                claim("w", &three, &[VXLAN]),
                "all",
            ),
            (
                "one side only",
                claim("own", &two, &[VXLAN]),
                claim("w", &[("a", Local), ("b", Local)], &[VXLAN]),
                "",
            ),
            (
                "nothing published",
                claim("own", &[], &[]),
                claim("w", &three, &[VXLAN]),
                "",
            ),
        ] {
            let names = BTreeSet::from(["w".to_owned()]);
            let expected = match expected {
                "all" => Overlap::All(names),
                "part" => Overlap::Part(names),
                _ => Overlap::Nothing,
            };
            assert_eq!(overlap(&own, &[winner]), expected, "{what}");
        }
    }

    #[test]
    fn several_tunnels_take_it_together() {
        let own = claim("own", &[("a", Both), ("b", Both)], &[VXLAN, GENEVE]);
        let winners = [
            claim("v", &[("a", Both), ("b", Both)], &[VXLAN]),
            claim("g", &[("a", Local), ("b", Remote)], &[GENEVE]),
        ];
        let names = BTreeSet::from(["v".to_owned(), "g".to_owned()]);
        assert_eq!(overlap(&own, &winners), Overlap::All(names));
    }
}
