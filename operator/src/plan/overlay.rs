//! Which encapsulation carries the pods' traffic: from the spec, or from what the agents find on their nodes.

use std::collections::{BTreeMap, BTreeSet};

/// One encapsulation: IP protocol and destination port.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Encapsulation {
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// Destination port, where the protocol has ports.
    pub(crate) port: Option<u16>,
}

/// What the nodes say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Detected {
    /// All that found something found this.
    Agreed(BTreeSet<Encapsulation>),
    /// Some found different things: node names by what they found.
    Mismatch(BTreeMap<BTreeSet<Encapsulation>, Vec<String>>),
    /// All nodes reported and none found anything.
    Nothing,
    /// These nodes have not reported yet and the others found nothing.
    Unknown(Vec<String>),
}

/// Merges the reports: `None` is a node that has not reported, an empty set one that found nothing.
///
/// A node that found nothing does not contradict the others: its overlay device may come with its first pod.
pub(crate) fn detect(reports: &BTreeMap<String, Option<BTreeSet<Encapsulation>>>) -> Detected {
    let mut found: BTreeMap<BTreeSet<Encapsulation>, Vec<String>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (node, report) in reports {
        match report {
            None => silent.push(node.clone()),
            Some(entries) if entries.is_empty() => {}
            Some(entries) => found.entry(entries.clone()).or_default().push(node.clone()),
        }
    }
    if found.len() > 1 {
        return Detected::Mismatch(found);
    }
    match found.into_keys().next() {
        Some(entries) => Detected::Agreed(entries),
        None if silent.is_empty() => Detected::Nothing,
        None => Detected::Unknown(silent),
    }
}

impl Encapsulation {
    /// Every protocol between the pod networks of two nodes.
    pub(crate) const POD_NETWORK: Self = Self {
        protocol: 0,
        port: None,
    };
}

impl std::fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}/{port}", self.protocol),
            None => write!(f, "{}", self.protocol),
        }
    }
}

/// The differing reports for a message: `17/8472 on a, b; 17/6081 on c`.
pub(crate) fn describe(found: &BTreeMap<BTreeSet<Encapsulation>, Vec<String>>) -> String {
    let parts = found.iter().map(|(entries, nodes)| {
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        format!("{} on {}", entries.join("+"), super::echo::names(nodes))
    });
    parts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: Encapsulation = Encapsulation {
        protocol: 17,
        port: Some(8472),
    };
    const GENEVE: Encapsulation = Encapsulation {
        protocol: 17,
        port: Some(6081),
    };

    #[test]
    fn reports_are_merged() {
        let set = |entries: &[Encapsulation]| Some(entries.iter().copied().collect::<BTreeSet<_>>());
        let reports = |list: &[(&str, Option<BTreeSet<Encapsulation>>)]| {
            list.iter()
                .map(|(node, report)| ((*node).to_owned(), report.clone()))
                .collect::<BTreeMap<_, _>>()
        };
        let agreed = Detected::Agreed(BTreeSet::from([VXLAN]));
        assert_eq!(
            detect(&reports(&[("a", set(&[VXLAN])), ("b", set(&[VXLAN]))])),
            agreed
        );
        assert_eq!(
            detect(&reports(&[("a", set(&[VXLAN])), ("b", set(&[])), ("c", None)])),
            agreed
        );
        assert_eq!(
            detect(&reports(&[("a", set(&[])), ("b", set(&[]))])),
            Detected::Nothing
        );
        assert_eq!(
            detect(&reports(&[("a", set(&[])), ("b", None)])),
            Detected::Unknown(vec!["b".to_owned()])
        );
        let Detected::Mismatch(found) = detect(&reports(&[("a", set(&[VXLAN])), ("b", set(&[GENEVE]))]))
        else {
            panic!("mismatch");
        };
        assert_eq!(describe(&found), "17/6081 on b; 17/8472 on a");
    }
}
