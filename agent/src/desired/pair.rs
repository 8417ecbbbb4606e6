//! What one pair of addresses wants: policies in both directions, and one peer with its children.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipsecmesh_crds::phase::{Demand as PhaseDemand, Demands, Phase};
use ipsecmesh_dataplane::{Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};
use ipsecmesh_ike::{
    ChildConfig, ChildId, Identity, Initiation, Mode, PeerAuth, PeerConfig, PeerId, TrafficSelector,
};

use crate::desired::TunnelView;
use crate::desired::external::range;
use crate::desired::naming::{Reqids, peer_id, starts};
use crate::model::{Overlay, OverlayEntry, Peer};

/// How long the node that does not start waits before it starts itself (decision 5).
const GRACE: Duration = Duration::from_secs(3);

/// Two nodes at one address each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    /// This node.
    pub(crate) own: &'a Peer,
    /// The other node.
    pub(crate) peer: &'a Peer,
    /// This node's address.
    pub(crate) local: IpAddr,
    /// The other node's address.
    pub(crate) remote: IpAddr,
}

/// What a pair wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairPlan {
    /// Policies, one per direction and selector.
    pub(crate) policies: Vec<Policy>,
    /// The peer of the engine, when any tunnel wants SAs.
    pub(crate) config: Option<PeerConfig>,
    /// Children by tunnel.
    pub(crate) members: BTreeMap<String, Vec<(PeerId, ChildId)>>,
    /// By tunnel, the higher-ranked tunnels that took selectors of it away.
    pub(crate) overridden: BTreeMap<String, BTreeSet<String>>,
}

/// A policy that a tunnel wants.
#[derive(Clone, Copy, Debug)]
struct Claim<'a> {
    /// The tunnel's name.
    tunnel: &'a str,
    /// The tunnel is where its owner wants it: it enforces, or it is permissive by its failure policy. What is not firm
    /// is on its way and yields to what is.
    firm: bool,
    /// The policy.
    policy: Policy,
}

impl PairPlan {
    /// What is left for a node that is gone: required policies without SAs block, the rest says nothing about a host
    /// that may get its addresses next.
    pub(crate) fn keep_blocking_only(&mut self) {
        self.policies.retain(|policy| match policy.action {
            PolicyAction::Protect { demand, .. } => demand == Demand::Required,
            PolicyAction::Bypass | PolicyAction::Discard => true,
        });
    }
}

impl Pair<'_> {
    /// Goes through the tunnels in order of rank: the first one that wants a selector has it (decision 16). What is
    /// enforced is asked before what is on its way: a tunnel that comes or goes opens no cleartext where another one
    /// enforces.
    pub(crate) fn plan(
        &self,
        views: &[TunnelView<'_>],
        reqids: &Reqids,
        down: &BTreeSet<String>,
    ) -> PairPlan {
        let mut plan = PairPlan::default();
        let claims = self.claims(views, reqids);
        let mut taken: BTreeMap<PolicyKey, &Claim<'_>> = BTreeMap::new();
        let (firm, moving): (Vec<&Claim<'_>>, Vec<&Claim<'_>>) = claims.iter().partition(|claim| claim.firm);
        for claim in firm.into_iter().chain(moving) {
            let winner = taken.get(&claim.policy.key).or_else(|| {
                let mut others = taken.values().filter(|_| !claim.firm);
                others.find(|other| other.firm && overlap(&other.policy.key, &claim.policy.key))
            });
            if let Some(winner) = winner {
                let winners = plan.overridden.entry(claim.tunnel.to_owned()).or_default();
                winners.insert(winner.tunnel.to_owned());
            } else {
                taken.insert(claim.policy.key, claim);
            }
        }
        let up: Vec<&TunnelView<'_>> = views
            .iter()
            .filter(|view| !down.contains(&view.tunnel.name))
            .collect();
        self.children(&up, reqids, &taken, &mut plan);
        plan.policies = taken.into_values().map(|claim| claim.policy).collect();
        let blocks_errors = plan.policies.iter().any(demands_outbound);
        plan.policies
            .extend(blocks_errors.then(|| icmp_errors(self.local, self.remote)));
        plan
    }

    /// What every tunnel wants of this pair, in order of rank.
    fn claims<'v>(&self, views: &'v [TunnelView<'_>], reqids: &Reqids) -> Vec<Claim<'v>> {
        let mut claims = Vec::new();
        for view in views {
            let Some(phases) = self.phases(view) else {
                continue;
            };
            let tunnel = view.tunnel.name.as_str();
            for entry in &view.overlay {
                let Some(reqid) = reqids.of(tunnel, entry.overlay.protocol) else {
                    continue;
                };
                let demands = with_entry(phases, *entry);
                let firm = demands == Phase::Enforcing.demands() || !view.tunnel.block;
                let policies = self.policies(view, *entry, demands, reqid);
                claims.extend(policies.into_iter().map(|policy| Claim { tunnel, firm, policy }));
            }
        }
        claims
    }

    /// The children of the tunnels that have a selector, and the peer for them.
    fn children(
        &self,
        views: &[&TunnelView<'_>],
        reqids: &Reqids,
        taken: &BTreeMap<PolicyKey, &Claim<'_>>,
        plan: &mut PairPlan,
    ) {
        let id = peer_id(&self.peer.uid, self.local, self.remote);
        let mut children = Vec::new();
        let mut leader: Option<&TunnelView<'_>> = None;
        for view in views.iter().copied().filter(|view| self.phases(view).is_some()) {
            let name = view.tunnel.name.as_str();
            let mut ids = Vec::new();
            for protocol in protocols(&view.overlay) {
                let has_any = taken
                    .iter()
                    .any(|(key, claim)| claim.tunnel == name && key.selector.protocol == protocol);
                // Without a proposal that this agent can carry out the policies block: one bad tunnel must not keep the
                // engine from the others of this pair.
                if let (true, Some(reqid)) =
                    (has_any && view.tunnel.is_negotiable(), reqids.of(name, protocol))
                {
                    let child = self.child(view, protocol, reqid);
                    ids.push((id, child.id));
                    children.push(child);
                    leader = leader.or(Some(view));
                }
            }
            plan.members.insert(name.to_owned(), ids);
        }
        plan.config = leader.map(|view| self.config(id, view, views, children));
    }

    /// The demands of the tunnel and of both members, weakest first; `None` when the two are no pair of this tunnel.
    fn phases(&self, view: &TunnelView<'_>) -> Option<Demands> {
        let own = self.own.membership(&view.tunnel.name)?;
        let peer = self.peer.membership(&view.tunnel.name)?;
        if !own.pairs_with(peer) {
            return None;
        }
        let overrides = [own.phase, peer.phase].into_iter().flatten();
        Some(overrides.fold(view.phase.demands(), |demands, phase| {
            demands.weakest(phase.demands())
        }))
    }

    fn policies(
        &self,
        view: &TunnelView<'_>,
        entry: OverlayEntry,
        demands: Demands,
        reqid: u32,
    ) -> Vec<Policy> {
        let overlay = entry.overlay;
        let tunnel = in_tunnel(view, overlay.protocol);
        let rank = view.tunnel.policy_rank + u16::from(overlay.port.is_none());
        let mut policies = Vec::new();
        for (own, other) in self.blocks(overlay) {
            let coming = (other, own, self.remote, self.local, demands.inbound);
            let leaving = (own, other, self.local, self.remote, demands.outbound);
            let sides = [
                (Direction::Inbound, coming),
                // What comes out of a tunnel may be for somebody behind this host.
                (Direction::Forward, coming),
                (Direction::Outbound, leaving),
            ];
            for (direction, (source_block, destination_block, source, destination, demand)) in sides {
                let demand = match demand {
                    PhaseDemand::None => continue,
                    PhaseDemand::Optional => Demand::Optional,
                    PhaseDemand::Required => Demand::Required,
                };
                if direction == Direction::Forward && !tunnel {
                    continue;
                }
                policies.push(Policy {
                    key: PolicyKey {
                        direction,
                        selector: Selector {
                            source: source_block,
                            destination: destination_block,
                            protocol: overlay.protocol,
                            source_port: None,
                            // The overlay's port is the destination in both directions.
                            destination_port: overlay.port,
                        },
                    },
                    action: PolicyAction::Protect {
                        demand,
                        protocol: view.tunnel.protocol,
                        reqid,
                        tunnel,
                        source,
                        destination,
                    },
                    rank,
                });
            }
        }
        policies
    }

    /// What is protected between the two nodes: (this end, the other end).
    fn blocks(&self, overlay: Overlay) -> Vec<(Prefix, Prefix)> {
        let hosts = (host(self.local), host(self.remote));
        if overlay != Overlay::POD_NETWORK {
            return vec![hosts];
        }
        let mut blocks = Vec::new();
        for own in self.own_blocks() {
            for other in self.peer_blocks() {
                let like = own.address.is_ipv4() == other.address.is_ipv4();
                // Between the hosts themselves nothing has a pod's address.
                if like && (own, other) != hosts {
                    blocks.push((own, other));
                }
            }
        }
        blocks
    }

    /// This node's pods, and the node itself: it answers for its pods, and its own programs talk to others.
    fn own_blocks(&self) -> Vec<Prefix> {
        self.pod_blocks(self.own, self.local)
    }

    fn peer_blocks(&self) -> Vec<Prefix> {
        self.pod_blocks(self.peer, self.remote)
    }

    /// Pod networks travel between one pair of addresses, IPv4 where both nodes have it, whatever their own family.
    fn pod_blocks(&self, node: &Peer, address: IpAddr) -> Vec<Prefix> {
        let has_v4 = |peer: &Peer| peer.addresses.iter().any(IpAddr::is_ipv4);
        if self.local.is_ipv6() && has_v4(self.own) && has_v4(self.peer) {
            return Vec::new();
        }
        let mut blocks = node.pods.clone();
        blocks.push(host(address));
        blocks
    }

    /// One CHILD SA per tunnel and protocol: any port, since the overlay's port is the destination in both directions
    /// and one SA cannot say that (decision 18).
    fn child(&self, view: &TunnelView<'_>, protocol: u8, reqid: u32) -> ChildConfig {
        let tunnel = view.tunnel;
        let selector = |block: Prefix| {
            let (first_address, last_address) = range(block);
            TrafficSelector {
                protocol,
                first_port: 0,
                last_port: u16::MAX,
                first_address,
                last_address,
            }
        };
        let (own, other) = if protocol == Overlay::POD_NETWORK.protocol {
            (self.own_blocks(), self.peer_blocks())
        } else {
            (vec![host(self.local)], vec![host(self.remote)])
        };
        ChildConfig {
            id: ChildId(reqid & 0xffff),
            mode: if in_tunnel(view, protocol) {
                Mode::Tunnel
            } else {
                Mode::Transport
            },
            proposals: tunnel.child_proposals.clone(),
            local_selectors: own.into_iter().map(selector).collect(),
            remote_selectors: other.into_iter().map(selector).collect(),
            lifetime: tunnel.lifetime,
            rekey_margin_percent: tunnel.rekey_margin_percent,
            esn: tunnel.esn,
            replay_window: tunnel.replay_window,
            reqid,
        }
    }

    /// The IKE SA follows the highest-ranked tunnel: a responder cannot tell tunnels apart at IKE_SA_INIT.
    fn config(
        &self,
        id: PeerId,
        leader: &TunnelView<'_>,
        views: &[&TunnelView<'_>],
        children: Vec<ChildConfig>,
    ) -> PeerConfig {
        let eager = views.iter().any(|view| view.eager && self.phases(view).is_some());
        let initiation = match (eager, starts(&self.own.uid, &self.peer.uid)) {
            (false, _) => Initiation::OnDemand,
            (true, true) => Initiation::Eager,
            (true, false) => Initiation::EagerAfter { grace: GRACE },
        };
        PeerConfig {
            id,
            local_address: self.local,
            remote_address: self.remote,
            local_identity: Identity::Fqdn(self.own.identity.clone()),
            remote_identity: Identity::Fqdn(self.peer.identity.clone()),
            auth: PeerAuth::Certificate,
            ppk: None,
            ike_proposals: leader.tunnel.ike_proposals.clone(),
            ike_lifetime: leader.tunnel.ike_lifetime,
            liveness: leader.tunnel.liveness,
            initiation,
            encapsulation: leader.tunnel.encapsulation,
            children,
        }
    }
}

/// Errors about decrypted packets quote them: none leaves in clear (decision 30).
pub(super) fn icmp_errors(local: IpAddr, remote: IpAddr) -> Policy {
    // Destination unreachable, port unreachable: RFC 792, RFC 4443 §3.1.
    let (protocol, kind, code) = if local.is_ipv4() { (1, 3, 3) } else { (58, 1, 4) };
    Policy {
        key: PolicyKey {
            direction: Direction::Outbound,
            selector: Selector {
                source: host(local),
                destination: host(remote),
                protocol,
                source_port: Some(kind),
                destination_port: Some(code),
            },
        },
        action: PolicyAction::Discard,
        rank: 0,
    }
}

fn protocols(overlay: &[OverlayEntry]) -> BTreeSet<u8> {
    overlay.iter().map(|entry| entry.overlay.protocol).collect()
}

fn with_entry(demands: Demands, entry: OverlayEntry) -> Demands {
    entry
        .phase
        .map_or(demands, |phase| demands.weakest(phase.demands()))
}

/// Whether nothing may leave in clear by it.
pub(super) fn demands_outbound(policy: &Policy) -> bool {
    policy.key.direction == Direction::Outbound
        && matches!(
            policy.action,
            PolicyAction::Protect {
                demand: Demand::Required,
                ..
            }
        )
}

/// Pods' addresses are inside in any case, also where the spec that is in force cannot be carried out.
fn in_tunnel(view: &TunnelView<'_>, protocol: u8) -> bool {
    view.tunnel.mode == Mode::Tunnel || protocol == Overlay::POD_NETWORK.protocol
}

/// Whether one packet can match both.
fn overlap(a: &PolicyKey, b: &PolicyKey) -> bool {
    let (one, other) = (&a.selector, &b.selector);
    let ports = match (one.destination_port, other.destination_port) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    };
    let protocols = one.protocol == other.protocol || one.protocol == 0 || other.protocol == 0;
    a.direction == b.direction
        && protocols
        && ports
        && meet(one.source, other.source)
        && meet(one.destination, other.destination)
}

/// Whether two blocks have an address in common.
fn meet(a: Prefix, b: Prefix) -> bool {
    let ((a_first, a_last), (b_first, b_last)) = (range(a), range(b));
    a.address.is_ipv4() == b.address.is_ipv4() && a_first <= b_last && b_first <= a_last
}

/// One address.
pub(super) fn host(address: IpAddr) -> Prefix {
    Prefix {
        address,
        length: if address.is_ipv4() { 32 } else { 128 },
    }
}
