//! What is wrong with a tunnel's spec and with what it refers to, and what it selects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsecmesh_crds::peer::Side;
use ipsecmesh_crds::rank::{Narrowness, Rank};
use ipsecmesh_crds::tunnel::{AuthType, RemoteType, TrustBundle};
use ipsecmesh_crds::{IPsecTunnel, support};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use super::Look;
use crate::context::Context;
use crate::pki::bundle::trust_bundle;
use crate::pki::psk::{self, Material};
use crate::plan::membership::{FarSide, peer_counts};
use crate::plan::overlay::{Detected, Encapsulation, describe, detect};
use crate::verdict::{Findings, Problem};
use crate::view;

/// What a tunnel refers to, as far as it is there and good.
#[derive(Clone, Debug, Default)]
pub(super) struct References {
    /// The pre-shared key that is to be sealed to its nodes.
    pub(super) psk: Option<Material>,
    /// The external peer's roots.
    pub(super) bundle: Option<TrustBundle>,
}

impl Look<'_> {
    /// What is wrong with the spec, and whom it selects. Keeps what its references lead to.
    pub(super) fn findings(&mut self) -> (Findings, BTreeMap<String, Side>) {
        let spec = &self.tunnel.spec;
        let mut findings = Findings {
            distrust: missing_policies(self.context),
            ..Findings::default()
        };
        if let Some(message) = crate::status::unsupported(support::unsupported_in_cluster(spec)) {
            findings.accepted = Some(Problem::new("UnsupportedField", message));
        }
        let selectors = view::selectors(spec);
        let sides = match &selectors {
            Ok(selectors) => {
                let sides = self
                    .nodes
                    .values()
                    .filter_map(|node| Some((node.name.clone(), selectors.side(node)?)));
                sides.collect()
            }
            Err(error) => {
                findings.accepted = Some(Problem::new("InvalidSelector", error.to_string()));
                BTreeMap::new()
            }
        };
        if findings.accepted.is_none() {
            findings.accepted = self.bad_peer(&sides);
        }
        match self.resolve() {
            // What stands stays as it is while the tunnel is suspended.
            Ok(_) if spec.suspend => {}
            Ok(references) => self.references = references,
            Err(problem) => findings.refs = Some(problem),
        }
        if findings.accepted.is_none() {
            findings.programmed = nobody(&sides, self.far);
        }
        if let (Some(distrust), AuthType::Psk) = (&findings.distrust, spec.auth.type_) {
            // Without them any agent could put its own key into another node's status.
            self.references.psk = None;
            let message = format!("pre-shared keys are not sealed to nodes: {}", distrust.message);
            findings
                .programmed
                .get_or_insert(Problem::new("AdmissionPolicyMissing", message));
        }
        (findings, sides)
    }

    /// What the spec refers to, or what of it is not there or not good.
    fn resolve(&self) -> Result<References, Problem> {
        let auth = &self.tunnel.spec.auth;
        let stores = self.context.stores();
        let namespace = &self.context.settings.namespace;
        let mut references = References::default();
        if let Some(authority) = auth.authority() {
            if stores.authorities.get(&ObjectRef::new(authority)).is_none() {
                let message = format!(
                    "spec.auth.certificate.authorityRef.name: there is no IPsecAuthority {authority:?}; create it, or name one of: kubectl get ipsecauthorities"
                );
                return Err(Problem::new("AuthorityNotFound", message));
            }
            let bundle = auth.certificate.as_ref();
            if let Some(reference) = bundle.and_then(|certificate| certificate.trust_bundle_ref.as_ref()) {
                let place = ObjectRef::new(&reference.name).within(namespace);
                let config = stores.config_maps.get(&place);
                references.bundle = Some(trust_bundle(config.as_deref(), reference, namespace)?);
            }
        } else if let Some(psk) = &auth.psk {
            let reference = &psk.secret_ref;
            let secret = stores
                .secrets
                .get(&ObjectRef::new(&reference.name).within(namespace));
            references.psk = Some(psk::material(secret.as_deref(), reference, namespace)?);
        }
        Ok(references)
    }

    /// Why the external peer cannot be one.
    fn bad_peer(&self, sides: &BTreeMap<String, Side>) -> Option<Problem> {
        let external = self.tunnel.spec.remote.external.as_ref()?;
        if let Ok(address) = external.address.parse::<IpAddr>() {
            if self.context.is_api_server(address) {
                let message = format!(
                    "spec.remote.external.address: {address} is an address of the API server: while such a tunnel does not \
                     stand, its nodes could not be told anything any more; name another peer"
                );
                return Some(Problem::new("InvalidPeerAddress", message));
            }
            let mut nodes = self.nodes.values();
            if let Some(node) = nodes.find(|node| node.addresses.contains(&address)) {
                let message = format!(
                    "spec.remote.external.address: {address} is an address of node {}: take remote.type Nodes",
                    node.name
                );
                return Some(Problem::new("InvalidPeerAddress", message));
            }
        }
        let all = self.context.stores().tunnels.state();
        let winner = all.iter().find(|other| {
            other.name_any() != self.name
                && outranks(other, self.tunnel)
                && contradicts(other, self.tunnel)
                && shares_a_node(self, other, sides)
        })?;
        let message = format!(
            "spec.remote.external: IPsecTunnel {} has the same peer {} on some of these nodes with other identities or \
             authentication, and one IKE SA serves both: give them the same, or take one away",
            winner.name_any(),
            external.address
        );
        Some(Problem::new("Conflicted", message))
    }

    /// The encapsulations to protect, or why they are not known; what is published stays until others are agreed on. A
    /// tunnel to an external peer has none: its selectors say what is meant.
    pub(super) fn encapsulations(
        &self,
        selected: &BTreeMap<String, Side>,
    ) -> Result<BTreeSet<Encapsulation>, Problem> {
        let explicit = view::explicit_overlay(&self.tunnel.spec);
        if !explicit.is_empty() || self.tunnel.spec.remote.type_ == RemoteType::External {
            return Ok(explicit);
        }
        let ready = selected
            .keys()
            .filter(|node| self.nodes.get(*node).is_some_and(|node| node.ready));
        let reports = ready.map(|node| {
            let report = self
                .agents
                .get(node)
                .and_then(|agent| view::detected_overlay(agent));
            (node.clone(), report)
        });
        match detect(&reports.collect()) {
            Detected::Agreed(entries) => Ok(entries),
            Detected::Mismatch(found) => Err(Problem::new(
                "OverlayMismatch",
                format!(
                    "nodes have different overlays: {}; set spec.traffic.overlay",
                    describe(&found)
                ),
            )),
            Detected::Nothing if self.overlay.is_empty() => Err(Problem::new(
                "NoOverlayDetected",
                "no node has a VXLAN or Geneve device: set spec.traffic.overlay, or install the CNI"
                    .to_owned(),
            )),
            Detected::Unknown(silent) if self.overlay.is_empty() => {
                let nodes = crate::plan::echo::names(&silent);
                Err(Problem::new(
                    "AgentsNotReady",
                    format!(
                        "the agents of {nodes} have not reported their overlay yet: check that their pods run"
                    ),
                ))
            }
            Detected::Nothing | Detected::Unknown(_) => Ok(self.overlay.keys().copied().collect()),
        }
    }
}

/// Without the admission policies any agent could speak for another node.
fn missing_policies(context: &Context) -> Option<Problem> {
    let stores = context.stores();
    let missing = context.settings.admission_policies.iter().filter(|name| {
        stores.policies.get(&ObjectRef::new(name)).is_none()
            || !stores.bindings.state().iter().any(|binding| {
                binding.spec.as_ref().and_then(|spec| spec.policy_name.as_ref()) == Some(*name)
            })
    });
    let missing: Vec<String> = missing.cloned().collect();
    (!missing.is_empty()).then(|| {
        let message = format!(
            "the ValidatingAdmissionPolicy {} or its binding is missing: reports of agents are not trusted without it; upgrade the chart",
            missing.join(", ")
        );
        Problem::new("RolloutBlocked", message)
    })
}

/// Whether the selectors make no pair.
fn nobody(sides: &BTreeMap<String, Side>, far: FarSide) -> Option<Problem> {
    if peer_counts(sides, far).values().any(|count| *count > 0) {
        return None;
    }
    let fields = match far {
        FarSide::External => "spec.local.nodeSelector matches",
        FarSide::Nodes => "spec.local.nodeSelector and spec.remote.nodes.nodeSelector match",
    };
    let message = match sides.len() {
        0 => format!("{fields} no Linux node; compare with: kubectl get nodes --show-labels"),
        count => format!(
            "{fields} {count} node(s), but no pair with one node of each side; compare with: kubectl get nodes --show-labels"
        ),
    };
    Some(Problem::new("NoNodesSelected", message))
}

fn outranks(other: &IPsecTunnel, own: &IPsecTunnel) -> bool {
    let rank = |tunnel| Rank::of(tunnel, Narrowness::default());
    rank(other) < rank(own)
}

/// Whether both have the same external peer and prove themselves differently to it: a responder cannot tell tunnels apart
/// at IKE_SA_INIT.
fn contradicts(other: &IPsecTunnel, own: &IPsecTunnel) -> bool {
    let (Some(theirs), Some(ours)) = (&other.spec.remote.external, &own.spec.remote.external) else {
        return false;
    };
    let proof = |tunnel: &IPsecTunnel| tunnel.spec.auth.clone();
    theirs.address.eq_ignore_ascii_case(&ours.address) && (theirs != ours || proof(other) != proof(own))
}

fn shares_a_node(look: &Look<'_>, other: &IPsecTunnel, sides: &BTreeMap<String, Side>) -> bool {
    view::selectors(&other.spec).is_ok_and(|selectors| {
        let mut own = sides.keys().filter_map(|node| look.nodes.get(node));
        own.any(|node| selectors.side(node).is_some())
    })
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::IPsecTunnelSpec;
    use serde_json::json;

    use super::*;

    fn tunnel(name: &str, priority: u16, address: &str, secret: &str) -> IPsecTunnel {
        let spec: IPsecTunnelSpec = serde_json::from_value(json!({
            "priority": priority,
            "remote": {"type": "External", "external": {"address": address}},
            "traffic": {"type": "Host"},
            "auth": {"type": "PSK", "psk": {"secretRef": {"name": secret, "key": "psk"}}},
        }))
        .expect("a spec");
        IPsecTunnel::new(name, spec)
    }

    #[test]
    fn one_peer_has_one_way_to_be_authenticated() {
        let own = tunnel("own", 100, "Array.example.com", "a");
        for (other, wrong) in [
            (tunnel("x", 200, "array.example.com", "b"), true),
            (tunnel("x", 200, "Array.example.com", "a"), false),
            (tunnel("x", 200, "192.0.2.10", "b"), false),
            (IPsecTunnel::new("x", IPsecTunnelSpec::default()), false),
        ] {
            assert_eq!(contradicts(&other, &own), wrong, "{other:?}");
        }
        assert!(outranks(&tunnel("x", 200, "a", "a"), &own));
        assert!(!outranks(&tunnel("z", 100, "a", "a"), &own));
    }

    #[test]
    fn a_selector_that_selects_nobody_is_named() {
        let sides = |list: &[(&str, Side)]| -> BTreeMap<String, Side> {
            list.iter()
                .map(|(node, side)| ((*node).to_owned(), *side))
                .collect()
        };
        let one = sides(&[("a", Side::Local)]);
        assert_eq!(nobody(&one, FarSide::External), None);
        let says = |sides, far| nobody(&sides, far).expect("nobody").message;
        assert!(says(one, FarSide::Nodes).contains("match 1 node(s), but no pair"));
        assert!(
            says(sides(&[]), FarSide::External).starts_with("spec.local.nodeSelector matches no Linux node")
        );
    }
}
