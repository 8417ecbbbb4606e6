//! Credentials of a tunnel to an external peer: sealed to each of its nodes, kept while they are the present ones, taken
//! away from nodes that have no part in it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{TryStreamExt as _, stream};
use ipsecmesh_crds::IPsecNode;
use ipsecmesh_crds::node::SealedCredential;
use ipsecmesh_crds::peer::{Membership, Side};
use ipsecmesh_crds::tunnel::AuthType;
use kube::{Api, ResourceExt as _};

use super::{Look, WRITERS};
use crate::apply::Error;
use crate::pki::sealing::{Candidate, Sealing, seal, sealing};

impl Look<'_> {
    /// Where each node that takes part, or is to take part, stands; nothing without a key that is good.
    pub(super) fn sealings(&self, selected: &BTreeMap<String, Side>) -> BTreeMap<String, Sealing> {
        let Some(material) = &self.references.psk else {
            return BTreeMap::new();
        };
        let all: BTreeSet<&String> = selected.keys().chain(self.members.keys()).collect();
        let one = |node: &String| {
            let agent = self.agents.get(node)?;
            let found = sealing(self.candidate(node, agent), self.credential(agent), material);
            Some((node.clone(), found))
        };
        all.into_iter().filter_map(one).collect()
    }

    /// Whether the node's agent has the present credentials, or needs none.
    pub(super) fn has_credentials(&self, node: &str) -> bool {
        match self.sealings.get(node) {
            None => true,
            Some(Sealing::Due(_) | Sealing::Impossible(_)) => false,
            Some(Sealing::Current) => self.agents.get(node).is_some_and(|agent| {
                let observed = agent
                    .status
                    .as_ref()
                    .and_then(|status| status.observed_generation);
                observed >= agent.metadata.generation
            }),
        }
    }

    /// Why nothing can be sealed to a node, as (reason, message).
    pub(super) fn sealing_trouble(&self, node: &str) -> Option<(String, String)> {
        match self.sealings.get(node)? {
            Sealing::Impossible(problem) => Some((problem.reason.clone(), problem.message.clone())),
            Sealing::Current | Sealing::Due(_) => None,
        }
    }

    fn candidate<'b>(&'b self, node: &'b str, agent: &'b IPsecNode) -> Candidate<'b> {
        let peer = self.peers.get(node);
        Candidate {
            node,
            uid: &agent.spec.node_uid,
            said: agent
                .status
                .as_ref()
                .and_then(|status| status.sealing_key.as_ref()),
            pinned: peer.map(|peer| peer.spec.keys.as_slice()).unwrap_or_default(),
        }
    }

    fn credential<'b>(&self, agent: &'b IPsecNode) -> Option<&'b SealedCredential> {
        let mut all = agent.spec.sealed_credentials.iter();
        all.find(|credential| credential.tunnel == self.name)
    }

    /// The node's credentials for this tunnel as they are to be. Those in force stay when there is no better one.
    fn wanted(
        &self,
        node: &str,
        agent: &IPsecNode,
        planned: &BTreeMap<String, Membership>,
    ) -> Option<SealedCredential> {
        let present = self.credential(agent).cloned();
        let takes_part = planned.contains_key(node) || self.members.contains_key(node);
        if !takes_part || self.tunnel.spec.auth.type_ != AuthType::Psk {
            return None;
        }
        let (Some(Sealing::Due(recipient)), Some(material)) = (self.sealings.get(node), &self.references.psk)
        else {
            return present;
        };
        let sealed = seal(self.candidate(node, agent), recipient, &self.name, material);
        sealed
            .inspect_err(|problem| tracing::warn!(node, reason = problem.message, "nothing was sealed"))
            .ok()
            .or(present)
    }
}

/// Writes the credentials that differ into the nodes' private channels. A node gets them before its membership.
pub(super) async fn write(look: &Look<'_>, planned: &BTreeMap<String, Membership>) -> Result<(), Error> {
    let api: Api<IPsecNode> = Api::all(look.context.client.clone());
    let changed = look.agents.iter().filter_map(|(node, agent)| {
        let wanted = look.wanted(node, agent, planned);
        (wanted.as_ref() != look.credential(agent)).then(|| changed(agent, &look.name, wanted))
    });
    let writes = changed.map(|next| {
        let api = &api;
        async move {
            look.context.writer().apply(api, &next).await?;
            tracing::info!(
                node = next.name_any(),
                tunnel = look.name,
                "the node's credentials changed"
            );
            Ok(())
        }
    });
    let writes: Vec<_> = writes.collect();
    stream::iter(writes.into_iter().map(Ok))
        .try_for_each_concurrent(WRITERS, |write| write)
        .await
}

/// The node's object with another credential for `tunnel`, planned from exactly this version of it.
fn changed(agent: &Arc<IPsecNode>, tunnel: &str, wanted: Option<SealedCredential>) -> IPsecNode {
    let mut next = IPsecNode::clone(agent);
    next.status = None;
    let credentials = &mut next.spec.sealed_credentials;
    credentials.retain(|credential| credential.tunnel != tunnel);
    credentials.extend(wanted);
    credentials.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
    next
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::{IPsecNodeSpec, IPsecNodeStatus};

    use super::*;

    fn credential(tunnel: &str, key_id: &str) -> SealedCredential {
        SealedCredential {
            tunnel: tunnel.to_owned(),
            key_id: key_id.to_owned(),
            ..SealedCredential::default()
        }
    }

    #[test]
    fn a_write_changes_one_tunnels_credential_and_no_status() {
        let spec = IPsecNodeSpec {
            sealed_credentials: vec![credential("a", "1"), credential("c", "1")],
            ..IPsecNodeSpec::default()
        };
        let mut agent = IPsecNode::new("node", spec);
        agent.status = Some(IPsecNodeStatus::default());
        let agent = Arc::new(agent);
        let ids = |next: &IPsecNode| -> Vec<(String, String)> {
            let all = next.spec.sealed_credentials.iter();
            all.map(|one| (one.tunnel.clone(), one.key_id.clone())).collect()
        };
        let pair = |tunnel: &str, id: &str| (tunnel.to_owned(), id.to_owned());
        let added = changed(&agent, "b", Some(credential("b", "2")));
        assert_eq!(ids(&added), [pair("a", "1"), pair("b", "2"), pair("c", "1")]);
        assert_eq!(added.status, None);
        let replaced = changed(&agent, "c", Some(credential("c", "3")));
        assert_eq!(ids(&replaced), [pair("a", "1"), pair("c", "3")]);
        assert_eq!(ids(&changed(&agent, "a", None)), [pair("c", "1")]);
    }
}
