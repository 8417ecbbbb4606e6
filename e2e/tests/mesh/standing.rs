//! Which SAs and policies stand, as the kernels and the agents show them, and whether both ends of each pair agree.

use std::{collections::BTreeMap, time::Duration};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    lab::{KernelSa, Lab},
};
use serde::Deserialize;

/// Policies per peer under enforcement: the overlay in both directions, and no errors about decrypted packets in clear.
const POLICIES_PER_PEER: usize = 3;

/// A mesh at rest: one IKE SA and one pair of CHILD SAs per pair of nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Standing {
    /// SPIs of the IKE SA by the two nodes' names, the lesser first.
    pub(crate) ike: BTreeMap<(String, String), String>,
    /// The kernels' SAs by node.
    pub(crate) sas: BTreeMap<String, Vec<KernelSa>>,
}

impl Standing {
    /// What stands now; an error says what is missing or too much.
    pub(crate) fn now(lab: &Lab) -> Result<Self> {
        let nodes = lab.nodes();
        let peers = nodes.len() - 1;
        let (mut ike, mut sas) = (BTreeMap::new(), BTreeMap::new());
        for node in &nodes {
            let name = node.name();
            let kernel = lab.kernel_sas(name)?;
            one_pair_each(name, &kernel, peers)?;
            let (_, policies) = lab.our_kernel_state(name)?;
            if policies != POLICIES_PER_PEER * peers {
                let wanted = POLICIES_PER_PEER * peers;
                return Err(Error::observed(format!(
                    "{name}: {policies} policies, not {wanted}"
                )));
            }
            for (peer, spis) in ike_sas(lab, name, peers)? {
                let pair = if *name < *peer {
                    (name.to_owned(), peer)
                } else {
                    (peer, name.to_owned())
                };
                let known = ike.insert(pair.clone(), spis.clone());
                if let Some(other) = known.filter(|other| *other != spis) {
                    return Err(Error::observed(format!(
                        "{pair:?}: IKE SA {spis} here, {other} there"
                    )));
                }
            }
            sas.insert(name.to_owned(), kernel);
        }
        both_ends_agree(&sas)?;
        Ok(Self { ike, sas })
    }

    /// Waits until the mesh is at rest.
    pub(crate) fn settled(lab: &Lab, limit: Duration) -> Result<Self> {
        eventually(
            "one IKE SA and one pair of CHILD SAs per pair of nodes, no leftovers",
            limit,
            || Self::now(lab),
        )
    }

    /// How many of the SAs are those of an earlier time: (IKE SAs, kernel SAs).
    pub(crate) fn kept(&self, before: &Self) -> (usize, usize) {
        let ike = self
            .ike
            .values()
            .filter(|spis| before.ike.values().any(|old| old == *spis))
            .count();
        let old: Vec<&KernelSa> = before.sas.values().flatten().collect();
        let sas = self.sas.values().flatten().filter(|sa| old.contains(sa)).count();
        (ike, sas)
    }

    /// Number of SAs in all kernels.
    pub(crate) fn count(&self) -> usize {
        self.sas.values().map(Vec::len).sum()
    }
}

fn one_pair_each(name: &str, sas: &[KernelSa], peers: usize) -> Result<()> {
    let mut ends: Vec<_> = sas.iter().map(|sa| (&sa.source, &sa.destination)).collect();
    ends.dedup();
    if sas.len() == 2 * peers && ends.len() == 2 * peers {
        return Ok(());
    }
    let seen: Vec<String> = sas.iter().map(ToString::to_string).collect();
    Err(Error::observed(format!(
        "{name}: {} SAs, not {}: {}",
        sas.len(),
        2 * peers,
        seen.join("; ")
    )))
}

/// What one end sends with, the other end has; so no packet can meet a missing SA.
fn both_ends_agree(sas: &BTreeMap<String, Vec<KernelSa>>) -> Result<()> {
    let mut seen: BTreeMap<&KernelSa, usize> = BTreeMap::new();
    for sa in sas.values().flatten() {
        *seen.entry(sa).or_default() += 1;
    }
    match seen.iter().find(|(_, count)| **count != 2) {
        None => Ok(()),
        Some((sa, count)) => Err(Error::observed(format!("{sa} stands on {count} of 2 nodes"))),
    }
}

#[derive(Deserialize)]
struct AgentState {
    peers: Vec<AgentPeer>,
}

#[derive(Deserialize)]
struct AgentPeer {
    node: String,
    ike: Option<AgentIke>,
    failure: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentIke {
    initiator_spi: String,
    responder_spi: String,
}

/// The IKE SAs of a node by peer, from its agent.
fn ike_sas(lab: &Lab, node: &str, peers: usize) -> Result<Vec<(String, String)>> {
    let text = lab.agent(node, &["status", "-o", "json"])?;
    let state: AgentState =
        serde_json::from_str(&text).map_err(|error| Error::observed(format!("{node}: {error}: {text}")))?;
    let mut found = Vec::new();
    for peer in state.peers {
        let Some(ike) = peer.ike else {
            let why = peer.failure.unwrap_or_default();
            return Err(Error::observed(format!(
                "{node}: no IKE SA with {}: {why}",
                peer.node
            )));
        };
        found.push((peer.node, format!("{}/{}", ike.initiator_spi, ike.responder_spi)));
    }
    if found.len() == peers {
        Ok(found)
    } else {
        Err(Error::observed(format!(
            "{node}: {} peers, not {peers}",
            found.len()
        )))
    }
}
