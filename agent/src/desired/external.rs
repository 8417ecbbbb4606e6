//! What a host that is in no directory wants: policies for exactly the selectors of its tunnels, one CHILD SA for each,
//! and one IKE SA for all tunnels to the same address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsecmesh_crds::phase::{Demand as PhaseDemand, Demands};
use ipsecmesh_dataplane::{Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};
use ipsecmesh_ike::{
    ChildConfig, ChildId, DistinguishedName, Identity, Initiation, Mode, PeerAuth, PeerConfig, Ppk,
    TrafficSelector,
};

use crate::desired::naming::{Part, Reqids, peer_id};
use crate::desired::pair::{PairPlan, demands_outbound, host, icmp_errors};
use crate::desired::{Desired, DesiredPeer, Inputs, PeerTrust, TunnelView};
use crate::identity::leaf::fingerprint;
use crate::model::{Ends, External, ExternalAuth, PacketSelector, Start};

const ICMPV6: u8 = 58;

/// A tunnel to an external peer whose address is known.
#[derive(Clone, Copy, Debug)]
struct Far<'a> {
    view: &'a TunnelView<'a>,
    external: &'a External,
    ends: Ends,
}

impl Desired {
    /// Adds what all tunnels to external peers want.
    pub(super) fn add_external(&mut self, views: &[TunnelView<'_>], reqids: &Reqids, inputs: &Inputs<'_>) {
        let mut groups: BTreeMap<(IpAddr, IpAddr), Vec<Far<'_>>> = BTreeMap::new();
        for view in views {
            let Some(external) = view.tunnel.external() else {
                continue;
            };
            match inputs.resolved.get(&external.address) {
                Some(Ok(ends)) => {
                    let far = Far {
                        view,
                        external,
                        ends: *ends,
                    };
                    groups.entry((ends.local, ends.remote)).or_default().push(far);
                }
                Some(Err(reason)) => self.blame(&view.tunnel.name, reason),
                None => self.blame(&view.tunnel.name, "the peer's address is being looked up"),
            }
        }
        for group in groups.into_values() {
            self.add_group(&group, reqids, inputs);
        }
    }

    fn blame(&mut self, tunnel: &str, reason: &str) {
        for goal in self.tunnels.iter_mut().filter(|goal| goal.name == tunnel) {
            goal.problem = Some(reason.to_owned());
        }
    }

    /// One pair of addresses. The IKE SA follows the highest-ranked tunnel: a responder cannot tell tunnels apart at
    /// IKE_SA_INIT.
    fn add_group(&mut self, group: &[Far<'_>], reqids: &Reqids, inputs: &Inputs<'_>) {
        let Some(leader) = group.first() else { return };
        let node = self
            .peers
            .values()
            .find(|peer| {
                let config = &peer.config;
                (config.local_address, config.remote_address) == (leader.ends.local, leader.ends.remote)
            })
            .map(|peer| peer.node.clone());
        self.own_addresses.insert(leader.ends.local);
        let mut plan = PairPlan::default();
        let mut taken: BTreeMap<PolicyKey, (&str, Policy)> = BTreeMap::new();
        let mut children = Vec::new();
        let id = peer_id("external", leader.ends.local, leader.ends.remote);
        for far in group {
            let name = far.view.tunnel.name.as_str();
            for policy in far.policies(reqids, inputs) {
                match taken.get(&policy.key) {
                    Some((winner, _)) if *winner != name => {
                        let winners = plan.overridden.entry(name.to_owned()).or_default();
                        winners.insert((*winner).to_owned());
                    }
                    _ => {
                        taken.insert(policy.key, (name, policy));
                    }
                }
            }
            let mut ids = Vec::new();
            if let Some(remark) = far.remark(leader) {
                let mut goals = self.tunnels.iter_mut();
                if let Some(goal) = goals.find(|goal| goal.name == name) {
                    goal.remark = Some(remark);
                }
            }
            if let Some(reason) = far.obstacle(leader, node.as_deref(), inputs) {
                self.blame(name, &reason);
            } else if far.view.tunnel.is_negotiable() && !inputs.down.contains(name) {
                let wanted = far.children(reqids, &taken);
                ids.extend(wanted.iter().map(|child| (id, child.id)));
                children.extend(wanted);
            }
            plan.members.insert(name.to_owned(), ids);
        }
        plan.policies = taken.into_values().map(|(_, policy)| policy).collect();
        let carries_errors = group.iter().flat_map(|far| &far.external.selectors);
        let carries_errors = carries_errors
            .into_iter()
            .any(|one| [0, 1, ICMPV6].contains(&one.protocol));
        if !carries_errors && plan.policies.iter().any(demands_outbound) {
            plan.policies
                .push(icmp_errors(leader.ends.local, leader.ends.remote));
        }
        for policy in plan.policies {
            self.policies.entry(policy.key).or_insert(policy);
        }
        for goal in &mut self.tunnels {
            if let (Some(ids), Some(address)) = (plan.members.remove(&goal.name), &goal.external) {
                goal.members.insert(address.clone(), ids);
            }
            if let Some(winners) = plan.overridden.remove(&goal.name) {
                goal.overridden_by.extend(winners);
            }
        }
        let auth = leader.auth(inputs);
        if let (Some(auth), false) = (auth, children.is_empty()) {
            let config = leader.config(id, auth, children, inputs);
            self.peers.insert(
                id,
                DesiredPeer {
                    node: leader.external.address.clone(),
                    startable: config.auth != PeerAuth::Certificate || inputs.own_ready,
                    config,
                    boot: None,
                    trust: PeerTrust {
                        roots: leader.roots(inputs).map(|pem| fingerprint(pem.as_bytes())),
                        ..PeerTrust::default()
                    },
                },
            );
        }
    }
}

impl Far<'_> {
    /// What this tunnel wants of the IKE SA that it shares, and does not get.
    fn remark(&self, leader: &Self) -> Option<String> {
        let (ours, theirs) = (self.view.tunnel, leader.view.tunnel);
        let fields = [
            ("spec.ike.proposals", ours.ike_proposals != theirs.ike_proposals),
            ("spec.ike.lifetime", ours.ike_lifetime != theirs.ike_lifetime),
            ("spec.ike.dpd", ours.liveness != theirs.liveness),
            (
                "spec.childSA.encapsulation",
                ours.encapsulation != theirs.encapsulation,
            ),
            ("spec.childSA.initiation", ours.start != theirs.start),
        ];
        let differing: Vec<&str> = fields
            .into_iter()
            .filter_map(|(field, differs)| differs.then_some(field))
            .collect();
        (!differing.is_empty()).then(|| {
            format!(
                "{}: tunnel {} of a higher rank has the same peer {}, and the one IKE SA follows it: give both the same",
                differing.join(", "),
                theirs.name,
                self.ends.remote
            )
        })
    }

    /// Why this tunnel can have no SAs.
    fn obstacle(&self, leader: &Self, node: Option<&str>, inputs: &Inputs<'_>) -> Option<String> {
        let address = self.ends.remote;
        if let Some(node) = node {
            return Some(format!(
                "spec.remote.external.address: {address} is an address of node {node}: use remote.type Nodes"
            ));
        }
        let ours = (
            &self.external.identity,
            &self.external.local_identity,
            &self.external.auth,
            &self.external.ppk,
        );
        let theirs = (
            &leader.external.identity,
            &leader.external.local_identity,
            &leader.external.auth,
            &leader.external.ppk,
        );
        if ours != theirs || !agree(self.auth(inputs).as_ref(), leader.auth(inputs).as_ref()) {
            return Some(format!(
                "spec.remote.external: tunnel {} has the same peer {address} with other identities or authentication, and \
                 one IKE SA serves both: give them the same, or take one away",
                leader.view.tunnel.name
            ));
        }
        if self.auth(inputs).is_none() {
            return Some("spec.auth.psk.secretRef: there is no usable pre-shared key".to_owned());
        }
        if self.external.ppk.is_some() && self.ppk(inputs).is_none() {
            return Some("spec.auth.ppk.secretRef: there is no usable post-quantum preshared key".to_owned());
        }
        None
    }

    /// The roots that the peer has of its own.
    fn roots<'b>(&self, inputs: &Inputs<'b>) -> Option<&'b String> {
        match &self.external.auth {
            ExternalAuth::Certificate { trust_bundle, .. } => inputs.bundles.get(trust_bundle.as_ref()?),
            ExternalAuth::Psk => None,
        }
    }

    fn auth(&self, inputs: &Inputs<'_>) -> Option<PeerAuth> {
        match self.external.auth {
            ExternalAuth::Certificate { .. } => Some(PeerAuth::Certificate),
            ExternalAuth::Psk => {
                let psk = inputs.psks.get(&self.view.tunnel.name)?;
                Some(PeerAuth::Psk {
                    current: psk.current.clone(),
                    previous: psk.previous.clone(),
                })
            }
        }
    }

    fn ppk(&self, inputs: &Inputs<'_>) -> Option<Ppk> {
        let (id, required) = self.external.ppk.as_ref()?;
        let key = inputs.ppks.get(&self.view.tunnel.name)?;
        Some(Ppk {
            id: id.as_bytes().to_vec(),
            current: key.current.clone(),
            previous: key.previous.clone(),
            required: *required,
        })
    }

    /// The weakest demands of the tunnel and of this host as its member.
    fn demands(&self, inputs: &Inputs<'_>) -> Demands {
        let tunnel = self.view.phase.demands();
        let own = inputs.own.membership(&self.view.tunnel.name);
        own.and_then(|own| own.phase)
            .map_or(tunnel, |phase| tunnel.weakest(phase.demands()))
    }

    fn policies(&self, reqids: &Reqids, inputs: &Inputs<'_>) -> Vec<Policy> {
        let demands = self.demands(inputs);
        let mut policies = Vec::new();
        for selector in &self.external.selectors {
            let Some(reqid) = reqids.of_selector(&self.view.tunnel.name, *selector) else {
                continue;
            };
            policies.extend(self.sides(selector).into_iter().filter_map(|key| {
                let demand = match if key.direction == Direction::Outbound {
                    demands.outbound
                } else {
                    demands.inbound
                } {
                    PhaseDemand::None => return None,
                    PhaseDemand::Optional => Demand::Optional,
                    PhaseDemand::Required => Demand::Required,
                };
                Some(self.protect(key, demand, reqid, width(selector)))
            }));
        }
        policies.extend(self.bypasses());
        policies
    }

    fn protect(&self, key: PolicyKey, demand: Demand, reqid: u32, width: u16) -> Policy {
        let (source, destination) = match key.direction {
            Direction::Outbound => (self.ends.local, self.ends.remote),
            Direction::Inbound | Direction::Forward => (self.ends.remote, self.ends.local),
        };
        Policy {
            key,
            action: PolicyAction::Protect {
                demand,
                protocol: self.view.tunnel.protocol,
                reqid,
                tunnel: self.is_tunnel(),
                source,
                destination,
            },
            rank: self.view.tunnel.policy_rank + width,
        }
    }

    /// What stays in clear: it is asked before everything else of this tunnel.
    fn bypasses(&self) -> Vec<Policy> {
        self.external
            .bypass
            .iter()
            .flat_map(|selector| self.sides(selector))
            .map(|key| Policy {
                key,
                action: PolicyAction::Bypass,
                rank: self.view.tunnel.policy_rank,
            })
            .collect()
    }

    /// What of a selector the kernel asks for: what comes out of a tunnel may be for somebody behind this host.
    fn sides(&self, selector: &PacketSelector) -> Vec<PolicyKey> {
        let mut directions = vec![Direction::Inbound, Direction::Outbound];
        directions.extend(self.is_tunnel().then_some(Direction::Forward));
        directions
            .into_iter()
            .map(|direction| self.key(direction, selector))
            .collect()
    }

    fn key(&self, direction: Direction, selector: &PacketSelector) -> PolicyKey {
        let local = (
            selector.local.unwrap_or_else(|| host(self.ends.local)),
            selector.local_port,
        );
        let remote = (
            selector.remote.unwrap_or_else(|| host(self.ends.remote)),
            selector.remote_port,
        );
        let (source, destination) = match direction {
            Direction::Outbound => (local, remote),
            Direction::Inbound | Direction::Forward => (remote, local),
        };
        PolicyKey {
            direction,
            selector: Selector {
                source: source.0,
                destination: destination.0,
                protocol: selector.protocol,
                source_port: source.1,
                destination_port: destination.1,
            },
        }
    }

    /// One CHILD SA per selector that no higher-ranked tunnel has: IKE's lists of selectors would mean every combination
    /// of both ends.
    fn children(&self, reqids: &Reqids, taken: &BTreeMap<PolicyKey, (&str, Policy)>) -> Vec<ChildConfig> {
        let tunnel = self.view.tunnel;
        let own = |selector: &&PacketSelector| {
            taken
                .get(&self.key(Direction::Outbound, selector))
                .is_some_and(|(name, _)| *name == tunnel.name)
        };
        // The same selector twice is one.
        let selectors: BTreeSet<&PacketSelector> = self.external.selectors.iter().filter(own).collect();
        let child = |selector: &PacketSelector| {
            let reqid = reqids.of_selector(&tunnel.name, *selector)?;
            let key = self.key(Direction::Outbound, selector);
            let protocol = selector.protocol;
            Some(ChildConfig {
                id: ChildId(reqid & 0xffff),
                mode: tunnel.mode,
                proposals: tunnel.child_proposals.clone(),
                local_selectors: vec![traffic_selector(
                    protocol,
                    key.selector.source,
                    selector.local_port,
                )],
                remote_selectors: vec![traffic_selector(
                    protocol,
                    key.selector.destination,
                    selector.remote_port,
                )],
                lifetime: tunnel.lifetime,
                rekey_margin_percent: tunnel.rekey_margin_percent,
                esn: tunnel.esn,
                replay_window: tunnel.replay_window,
                reqid,
            })
        };
        selectors.into_iter().filter_map(child).collect()
    }

    fn config(
        &self,
        id: ipsecmesh_ike::PeerId,
        auth: PeerAuth,
        children: Vec<ChildConfig>,
        inputs: &Inputs<'_>,
    ) -> PeerConfig {
        let tunnel = self.view.tunnel;
        PeerConfig {
            id,
            local_address: self.ends.local,
            remote_address: self.ends.remote,
            local_identity: self.local_identity(inputs),
            remote_identity: self
                .external
                .identity
                .clone()
                .unwrap_or(Identity::Address(self.ends.remote)),
            auth,
            ppk: self.ppk(inputs),
            ike_proposals: tunnel.ike_proposals.clone(),
            ike_lifetime: tunnel.ike_lifetime,
            liveness: tunnel.liveness,
            initiation: match tunnel.start {
                Start::Auto | Start::Eager => Initiation::Eager,
                Start::OnDemand => Initiation::OnDemand,
            },
            encapsulation: tunnel.encapsulation,
            children,
        }
    }

    /// What the spec says; otherwise this host's name where it has one, and its address where it has none.
    fn local_identity(&self, inputs: &Inputs<'_>) -> Identity {
        let own = &inputs.own.identity;
        let subject = inputs.own_subject.and_then(DistinguishedName::from_der);
        match &self.external.local_identity {
            // As the certificate has it: the peer compares both byte by byte (RFC 4945 §3.1.5).
            Some(Identity::Dn(name)) => Identity::Dn(
                subject
                    .filter(|subject| subject.matches(name))
                    .unwrap_or_else(|| name.clone()),
            ),
            Some(identity) => identity.clone(),
            None if own.is_empty() => Identity::Address(self.ends.local),
            None => Identity::Fqdn(own.clone()),
        }
    }

    fn is_tunnel(&self) -> bool {
        self.view.tunnel.mode == Mode::Tunnel
    }
}

/// Whether two tunnels to one peer are authenticated alike. While a pre-shared key changes, the one may have its new
/// generation a moment before the other one.
fn agree(ours: Option<&PeerAuth>, theirs: Option<&PeerAuth>) -> bool {
    let (
        Some(PeerAuth::Psk { current, previous }),
        Some(PeerAuth::Psk {
            current: other,
            previous: before,
        }),
    ) = (ours, theirs)
    else {
        return ours == theirs;
    };
    current == other || previous.as_ref() == Some(other) || before.as_ref() == Some(current)
}

/// Names under which the SAs of a tunnel to an external peer get reqids.
pub(super) fn reqid_names(name: &str, external: &External) -> Vec<(String, Part)> {
    let selectors = external.selectors.iter();
    selectors
        .map(|selector| (name.to_owned(), Part::Selector(*selector)))
        .collect()
}

/// The narrower selector is asked first.
fn width(selector: &PacketSelector) -> u16 {
    match (selector.protocol, selector.local_port, selector.remote_port) {
        (0, ..) => 3,
        (_, None, None) => 2,
        _ => 1,
    }
}

fn traffic_selector(protocol: u8, prefix: Prefix, port: Option<u16>) -> TrafficSelector {
    let (first_address, last_address) = range(prefix);
    TrafficSelector {
        protocol,
        first_port: port.unwrap_or_default(),
        last_port: port.unwrap_or(u16::MAX),
        first_address,
        last_address,
    }
}

/// First and last address.
pub(super) fn range(prefix: Prefix) -> (IpAddr, IpAddr) {
    let last = match prefix.address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(u32::from(prefix.length)).unwrap_or_default();
            IpAddr::V4((address.to_bits() | hosts).into())
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX
                .checked_shr(u32::from(prefix.length))
                .unwrap_or_default();
            IpAddr::V6((address.to_bits() | hosts).into())
        }
    };
    (prefix.address, last)
}

#[cfg(test)]
mod tests;
