//! Nodes: each Linux Node gets its directory entry (IPsecPeer) and its private channel (IPsecNode), and loses its taint
//! when its agent is ready.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipsecmesh_crds::node::SealedCredential;
use ipsecmesh_crds::peer::Membership;
use ipsecmesh_crds::{
    AGENT_NOT_READY_TAINT, IPsecNode, IPsecNodeSpec, IPsecPeer, IPsecPeerSpec, Phase, identity,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use serde_json::json;

use crate::apply::Error;
use crate::args::Cidr;
use crate::context::Context;
use crate::controller::authority::DEFAULT;
use crate::plan::address::{AddressRules, NodeFacts, Publication, publish};
use crate::view;

/// One look at one Node.
pub(crate) async fn reconcile(node: Arc<Node>, context: Arc<Context>) -> Result<Action, Error> {
    let facts = NodeFacts::of(&node);
    if !facts.linux || node.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let agent = ensure_agent(&context, &facts).await?;
    ensure_peer(&context, &facts, agent.as_deref()).await?;
    if agent.is_some_and(|agent| agent.spec.node_uid == facts.uid && view::is_ready(&agent)) {
        remove_taint(&context, &node).await?;
    }
    Ok(Action::await_change())
}

/// The Node's IPsecNode, made where it is missing. `None` while one of an earlier Node is on its way out.
async fn ensure_agent(context: &Context, facts: &NodeFacts) -> Result<Option<Arc<IPsecNode>>, Error> {
    let api: Api<IPsecNode> = Api::all(context.client.clone());
    let known = context.stores().agents.get(&ObjectRef::new(&facts.name));
    let known = match known {
        Some(known) => Some(known),
        // The store lags behind: what was just made must not be written over.
        None => api
            .get_opt(&facts.name)
            .await
            .map_err(Error::api::<IPsecNode>("get", &facts.name))?
            .map(Arc::new),
    };
    if let Some(known) = known {
        if known.spec.node_uid != facts.uid {
            delete_stale(context, &api, known.as_ref()).await?;
            return Ok(None);
        }
        return drop_stale_credentials(context, &api, known).await.map(Some);
    }
    let mut made = IPsecNode::new(
        &facts.name,
        IPsecNodeSpec {
            node_uid: facts.uid.clone(),
            ..IPsecNodeSpec::default()
        },
    );
    made.metadata = owned_by(facts);
    context
        .writer()
        .apply(&api, &made)
        .await
        .map(|made| Some(Arc::new(made)))
}

/// Takes away the credentials of tunnels that are gone.
async fn drop_stale_credentials(
    context: &Context,
    api: &Api<IPsecNode>,
    known: Arc<IPsecNode>,
) -> Result<Arc<IPsecNode>, Error> {
    let tunnels = &context.stores().tunnels;
    let exists = |credential: &SealedCredential| tunnels.get(&ObjectRef::new(&credential.tunnel)).is_some();
    if known.spec.sealed_credentials.iter().all(exists) {
        return Ok(known);
    }
    let mut next = IPsecNode::clone(&known);
    next.status = None;
    next.spec.sealed_credentials.retain(exists);
    context.writer().apply(api, &next).await.map(Arc::new)
}

/// The Node's IPsecPeer: made where it is missing, patched where an address, the boot or a membership's tunnel changed.
async fn ensure_peer(context: &Context, facts: &NodeFacts, agent: Option<&IPsecNode>) -> Result<(), Error> {
    let stores = context.stores();
    let Some(authority) = stores.authorities.get(&ObjectRef::new(DEFAULT)) else {
        return Ok(());
    };
    let publication = publication(context, facts);
    if let (Some(agent), false) = (agent, publication.refused.is_empty()) {
        context
            .events
            .warning(agent, "AddressConflict", publication.refused.join("; "))
            .await;
    }
    let api: Api<IPsecPeer> = Api::all(context.client.clone());
    let known = match stores.peers.get(&ObjectRef::new(&facts.name)) {
        Some(known) => Some(known),
        None => api
            .get_opt(&facts.name)
            .await
            .map_err(Error::api::<IPsecPeer>("get", &facts.name))?
            .map(Arc::new),
    };
    let Some(known) = known else {
        // A peer without an address cannot be reached: it is published as soon as it has one.
        if publication.addresses.is_empty() {
            return Ok(());
        }
        let mut made = IPsecPeer::new(
            &facts.name,
            IPsecPeerSpec {
                memberships: joining(context, facts),
                ..spec(facts, &publication, &authority.spec.trust_domain, None)
            },
        );
        made.metadata = owned_by(facts);
        return context.writer().apply(&api, &made).await.map(drop);
    };
    if known.spec.node_uid != facts.uid {
        return delete_stale(context, &api, known.as_ref()).await;
    }
    let mut desired = spec(
        facts,
        &publication,
        &authority.spec.trust_domain,
        Some(&known.spec),
    );
    desired
        .memberships
        .retain(|membership| stores.tunnels.get(&ObjectRef::new(&membership.tunnel)).is_some());
    if desired == known.spec {
        return Ok(());
    }
    let mut changed = IPsecPeer::new(&facts.name, desired);
    changed.metadata = owned_by(facts);
    changed.metadata.resource_version = known.resource_version();
    context.writer().apply(&api, &changed).await.map(drop)
}

/// What is published of a Node. An owner whose address is refused keeps what it has: nobody is unpublished by another.
fn spec(
    facts: &NodeFacts,
    publication: &Publication,
    trust_domain: &str,
    known: Option<&IPsecPeerSpec>,
) -> IPsecPeerSpec {
    let addresses: Vec<String> = publication.addresses.iter().map(ToString::to_string).collect();
    let kept = known.map(|known| known.addresses.clone()).unwrap_or_default();
    IPsecPeerSpec {
        node_uid: facts.uid.clone(),
        boot_id: facts.boot_id.clone(),
        identity: identity::dns_name(&facts.name, trust_domain),
        addresses: if addresses.is_empty() { kept } else { addresses },
        pod_cidrs: facts.pod_cidrs.iter().take(4).cloned().collect(),
        keys: known.map(|known| known.keys.clone()).unwrap_or_default(),
        memberships: known.map(|known| known.memberships.clone()).unwrap_or_default(),
    }
}

/// The memberships of a Node that joins the cluster: it has no overrides, so that its first packet is already
/// encrypted or dropped where its tunnels enforce.
fn joining(context: &Context, facts: &NodeFacts) -> Vec<Membership> {
    let member = |tunnel: &Arc<ipsecmesh_crds::IPsecTunnel>| {
        let phase = tunnel.status.as_ref()?.rollout.as_ref()?.phase;
        let comes = matches!(phase, Phase::Permissive | Phase::Encrypting | Phase::Enforcing);
        let side = view::selectors(&tunnel.spec).ok()?.side(facts)?;
        let steady = comes && tunnel.metadata.deletion_timestamp.is_none() && !tunnel.spec.suspend;
        steady.then(|| Membership {
            tunnel: tunnel.name_any(),
            side,
            phase: None,
        })
    };
    let mut memberships: Vec<Membership> = context
        .stores()
        .tunnels
        .state()
        .iter()
        .filter_map(member)
        .collect();
    memberships.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
    memberships
}

fn publication(context: &Context, facts: &NodeFacts) -> Publication {
    let stores = context.stores();
    let nodes: Vec<NodeFacts> = stores
        .nodes
        .state()
        .iter()
        .map(|node| NodeFacts::of(node))
        .collect();
    let published: BTreeMap<IpAddr, String> = stores
        .peers
        .state()
        .iter()
        .filter(|peer| {
            nodes
                .iter()
                .any(|node| node.name == peer.name_any() && node.uid == peer.spec.node_uid)
        })
        .flat_map(|peer| {
            let owner = peer.name_any();
            let addresses: Vec<IpAddr> = peer
                .spec
                .addresses
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect();
            addresses.into_iter().map(move |address| (address, owner.clone()))
        })
        .collect();
    publish(facts, &nodes.iter(), &published, &rules(context))
}

fn rules(context: &Context) -> AddressRules {
    let stores = context.stores();
    let cidrs = stores.service_cidrs.state();
    let services = cidrs
        .iter()
        .filter_map(|cidr| cidr.spec.as_ref())
        .flat_map(|spec| spec.cidrs.iter().flatten());
    AddressRules {
        allowed: context.settings.node_cidrs.clone(),
        api_server: context.api_server(),
        services: services.filter_map(|text| text.parse::<Cidr>().ok()).collect(),
    }
}

fn owned_by(facts: &NodeFacts) -> ObjectMeta {
    ObjectMeta {
        name: Some(facts.name.clone()),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: facts.name.clone(),
            uid: facts.uid.clone(),
            ..OwnerReference::default()
        }]),
        ..ObjectMeta::default()
    }
}

/// An object of an earlier Node of the same name: the garbage collector would remove it too, but later.
async fn delete_stale<K>(context: &Context, api: &Api<K>, stale: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let name = stale.name_any();
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: stale.uid(),
        resource_version: None,
    });
    context.metrics.wrote(&K::kind(&()));
    match api
        .delete(&name, &params)
        .await
        .map_err(Error::api::<K>("delete", &name))
    {
        Err(error) if !error.is_not_found() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes the taint that kept pods away until the agent was ready.
async fn remove_taint(context: &Context, node: &Node) -> Result<(), Error> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let Some(index) = taints.iter().position(|taint| taint.key == AGENT_NOT_READY_TAINT) else {
        return Ok(());
    };
    let name = node.name_any();
    // The test makes sure that the index still means our taint.
    let taint = format!("/spec/taints/{index}");
    let steps = json!([
        {"op": "test", "path": format!("{taint}/key"), "value": AGENT_NOT_READY_TAINT},
        {"op": "remove", "path": taint},
    ]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(steps)?);
    let api: Api<Node> = Api::all(context.client.clone());
    context.metrics.wrote("Node");
    api.patch(&name, &PatchParams::default(), &patch)
        .await
        .map_err(Error::api::<Node>("untaint", &name))?;
    tracing::info!(node = name, "the agent is ready: removed the taint");
    Ok(())
}
