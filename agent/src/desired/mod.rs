//! From objects to the complete desired state of this node: pure, so that every rule has a table of cases.

mod external;
pub(crate) mod naming;
mod neighbours;
pub(crate) mod pair;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsecmesh_crds::phase::{Override, Phase, transition_hash};
use ipsecmesh_dataplane::{Policy, PolicyKey};
use ipsecmesh_ike::{BootId, ChildId, PeerConfig, PeerId};

use crate::desired::naming::{Part, Reqids};
use crate::desired::pair::{Pair, PairPlan};
use crate::model::{Overlay, OverlayEntry, Peer, Psk, Resolved, Rollout, Start, Tunnel};
use crate::persist::Latch;

/// Up to this many peers a node starts all its SAs at once (decision 4).
const EAGER_PEERS: usize = 256;

/// What the desired state is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Inputs<'a> {
    /// All tunnels, in order of rank.
    pub(crate) tunnels: &'a [Tunnel],
    /// All other nodes of the directory.
    pub(crate) peers: &'a [Peer],
    /// Nodes and addresses that left the directory a short time ago.
    pub(crate) departed: &'a [Departed],
    /// This node in the directory.
    pub(crate) own: &'a Peer,
    /// Tunnels that were enforced here.
    pub(crate) latch: &'a Latch,
    /// Overlays of latched tunnels, for objects without status.
    pub(crate) last_overlays: &'a BTreeMap<String, Vec<Overlay>>,
    /// This node can prove who it is, and the directory holds its key.
    pub(crate) own_ready: bool,
    /// The subject of this node's certificate, in DER.
    pub(crate) own_subject: Option<&'a [u8]>,
    /// Keys are pinned only where the directory names them.
    pub(crate) unpinned: bool,
    /// Where the external peers are.
    pub(crate) resolved: &'a Resolved,
    /// Pre-shared keys, by the name of the tunnel.
    pub(crate) psks: &'a BTreeMap<String, Psk>,
    /// Roots of external peers in PEM, by name and key.
    pub(crate) bundles: &'a BTreeMap<(String, String), String>,
    /// Post-quantum preshared keys, by the name of the tunnel.
    pub(crate) ppks: &'a BTreeMap<String, Psk>,
    /// Tunnels that a person has taken down: policies stand, SAs do not.
    pub(crate) down: &'a BTreeSet<String>,
}

/// A node that left the directory, or an address that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departed {
    /// The node as it was, with the addresses that it has no more.
    pub(crate) peer: Peer,
    /// The node is still there under another address: its SAs stay until the new ones stand. Otherwise its traffic is
    /// blocked where it was protected.
    pub(crate) moved: bool,
    /// End of this treatment, seconds since 1970.
    pub(crate) until: u64,
}

/// The complete desired state of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    /// Counts the states that were computed.
    pub(crate) revision: u64,
    /// Policies by what names them in the kernel.
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    /// Peers of the IKE engine.
    pub(crate) peers: BTreeMap<PeerId, DesiredPeer>,
    /// What each tunnel's echo waits for.
    pub(crate) tunnels: Vec<TunnelGoal>,
    /// The tunnel that each reqid belongs to.
    pub(crate) reqids: BTreeMap<u32, String>,
    /// Addresses of this node: they tell outbound SAs from inbound ones.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
}

/// A peer of the IKE engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredPeer {
    /// The Node's name.
    pub(crate) node: String,
    /// What the engine gets.
    pub(crate) config: PeerConfig,
    /// The boot that the directory knows.
    pub(crate) boot: Option<BootId>,
    /// Both ends can prove who they are. A peer that runs already is kept in any case.
    pub(crate) startable: bool,
    /// What the judgement of its certificate rests on; a change is worth another attempt.
    pub(crate) trust: PeerTrust,
}

/// What the judgement of a peer's certificate rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerTrust {
    /// UID of the Node.
    pub(crate) uid: String,
    /// Fingerprints of its keys.
    pub(crate) keys: BTreeSet<String>,
    /// Fingerprint of the roots that it has of its own.
    pub(crate) roots: Option<String>,
}

/// What a tunnel's echo waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelGoal {
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// What is echoed.
    pub(crate) rollout: Rollout,
    /// Hash over the overrides that are applied.
    pub(crate) transition: Option<String>,
    /// The SAs of all pairs must stand (or have failed) before the echo.
    pub(crate) needs_sas: bool,
    /// Cleartext is refused in both directions from now on.
    pub(crate) enforced: bool,
    /// The latch is to be cleared.
    pub(crate) releases: bool,
    /// Its overlay, to be remembered with the latch.
    pub(crate) overlays: Vec<Overlay>,
    /// The other nodes with the SAs that they want.
    pub(crate) members: BTreeMap<String, Vec<(PeerId, ChildId)>>,
    /// Higher-ranked tunnels that took selectors of it away.
    pub(crate) overridden_by: BTreeSet<String>,
    /// Other nodes of it that have no address of a family that this node has.
    pub(crate) apart: BTreeSet<String>,
    /// Its external peer's address, as the spec has it.
    pub(crate) external: Option<String>,
    /// Why its external peer cannot be talked to.
    pub(crate) problem: Option<String>,
    /// What of its spec does not count, although it works.
    pub(crate) remark: Option<String>,
}

/// Computes the desired state.
pub(crate) fn desired(inputs: &Inputs<'_>) -> Desired {
    let views: Vec<TunnelView<'_>> = inputs
        .tunnels
        .iter()
        .filter_map(|tunnel| TunnelView::new(tunnel, inputs))
        .collect();
    let reqids = Reqids::assign(views.iter().map(TunnelView::reqid_names));
    let mut state = Desired {
        reqids: reqids.tunnels(),
        own_addresses: inputs.own.addresses.iter().copied().collect(),
        tunnels: views.iter().map(|view| view.goal(inputs)).collect(),
        ..Desired::default()
    };
    for peer in inputs.peers {
        let addresses = address_pairs(inputs.own, peer);
        if addresses.is_empty() {
            state.set_apart(peer, inputs);
        }
        for (local, remote) in addresses {
            let pair = Pair {
                own: inputs.own,
                peer,
                local,
                remote,
            };
            state.absorb(peer, pair.plan(&views, &reqids, inputs.down), inputs, true);
        }
    }
    for departed in inputs.departed {
        for (local, remote) in address_pairs(inputs.own, &departed.peer) {
            let pair = Pair {
                own: inputs.own,
                peer: &departed.peer,
                local,
                remote,
            };
            let mut plan = pair.plan(&views, &reqids, inputs.down);
            if !departed.moved {
                plan.config = None;
                plan.keep_blocking_only();
            }
            state.absorb(&departed.peer, plan, inputs, false);
        }
    }
    state.add_external(&views, &reqids, inputs);
    let bypasses = neighbours::bypasses(state.policies.values());
    state
        .policies
        .extend(bypasses.into_iter().map(|policy| (policy.key, policy)));
    state
}

impl Desired {
    /// The tunnel that a child belongs to.
    pub(crate) fn tunnel_of(&self, child: ChildId) -> Option<&str> {
        let mut reqids = self.reqids.iter();
        reqids
            .find(|(reqid, _)| **reqid & 0xffff == child.0)
            .map(|(_, tunnel)| tunnel.as_str())
    }

    /// Notes in every tunnel that pairs this node with `peer` that no packet can go between them.
    fn set_apart(&mut self, peer: &Peer, inputs: &Inputs<'_>) {
        for goal in &mut self.tunnels {
            let memberships = (inputs.own.membership(&goal.name), peer.membership(&goal.name));
            if let (Some(own), Some(other)) = memberships
                && own.pairs_with(other)
            {
                goal.apart.insert(peer.node.clone());
            }
        }
    }

    /// Adds what one pair of addresses wants. What is there already wins: a node that is back over its departed self.
    fn absorb(&mut self, peer: &Peer, plan: PairPlan, inputs: &Inputs<'_>, counted: bool) {
        for policy in plan.policies {
            self.policies.entry(policy.key).or_insert(policy);
        }
        for goal in &mut self.tunnels {
            let Some(children) = plan.members.get(&goal.name) else {
                continue;
            };
            if counted {
                goal.members
                    .entry(peer.node.clone())
                    .or_default()
                    .extend(children);
            }
            goal.overridden_by
                .extend(plan.overridden.get(&goal.name).into_iter().flatten().cloned());
        }
        let Some(config) = plan.config else {
            return;
        };
        self.peers.entry(config.id).or_insert_with(|| DesiredPeer {
            node: peer.node.clone(),
            config,
            boot: peer.boot,
            startable: inputs.own_ready && (inputs.unpinned || !peer.keys.is_empty()),
            trust: PeerTrust {
                uid: peer.uid.clone(),
                keys: peer.keys.clone(),
                roots: None,
            },
        });
    }
}

/// One pair of addresses per family that both nodes have (decision 28).
fn address_pairs(own: &Peer, peer: &Peer) -> Vec<(IpAddr, IpAddr)> {
    let mut pairs = Vec::new();
    for local in &own.addresses {
        let first = own.address_like(*local) == Some(*local);
        if let Some(remote) = peer.address_like(*local)
            && first
        {
            pairs.push((*local, remote));
        }
    }
    pairs
}

/// A tunnel that this node takes part in, with the phase that it really applies.
#[derive(Clone, Debug)]
pub(crate) struct TunnelView<'a> {
    /// The tunnel.
    pub(crate) tunnel: &'a Tunnel,
    /// The tunnel's phase as applied: never weaker than the latch allows.
    pub(crate) phase: Phase,
    /// Its overlay entries.
    pub(crate) overlay: Vec<OverlayEntry>,
    /// SAs are started without traffic.
    pub(crate) eager: bool,
}

impl<'a> TunnelView<'a> {
    fn new(tunnel: &'a Tunnel, inputs: &Inputs<'_>) -> Option<Self> {
        inputs.own.membership(&tunnel.name)?;
        let latched = tunnel.block && inputs.latch.enforced.contains(&tunnel.uid);
        let phase = match tunnel.rollout.map(|rollout| rollout.phase) {
            None | Some(Phase::Permissive | Phase::Encrypting) if latched => Phase::Enforcing,
            Some(phase) => phase,
            // Not accepted by the controller, and never enforced here.
            None => return None,
        };
        let remembered = inputs
            .last_overlays
            .get(&tunnel.uid)
            .filter(|_| latched && tunnel.overlay.is_empty());
        let overlay = match remembered {
            Some(last) => last
                .iter()
                .map(|overlay| OverlayEntry {
                    overlay: *overlay,
                    phase: None,
                })
                .collect(),
            None => tunnel.overlay.clone(),
        };
        let members = inputs
            .peers
            .iter()
            .filter(|peer| peer.membership(&tunnel.name).is_some())
            .count();
        let eager = match tunnel.start {
            Start::Auto => members <= EAGER_PEERS || tunnel.external().is_some(),
            Start::Eager => true,
            Start::OnDemand => false,
        };
        Some(Self {
            tunnel,
            phase,
            overlay,
            eager,
        })
    }

    /// The names under which its SAs get reqids: one per protocol or selector, since each has SAs of its own.
    fn reqid_names(&self) -> Vec<(String, Part)> {
        if let Some(external) = self.tunnel.external() {
            return external::reqid_names(&self.tunnel.name, external);
        }
        let protocols: BTreeSet<u8> = self.overlay.iter().map(|entry| entry.overlay.protocol).collect();
        protocols
            .into_iter()
            .map(|protocol| (self.tunnel.name.clone(), Part::Protocol(protocol)))
            .collect()
    }

    fn goal(&self, inputs: &Inputs<'_>) -> TunnelGoal {
        // What is echoed is what was asked for, also where the latch holds more: the controller moves on by it.
        let asked = self.tunnel.rollout.unwrap_or(Rollout {
            generation: 0,
            phase: self.phase,
        });
        let releases = matches!(self.phase, Phase::Releasing | Phase::Removing) || !self.tunnel.block;
        TunnelGoal {
            name: self.tunnel.name.clone(),
            uid: self.tunnel.uid.clone(),
            rollout: asked,
            transition: self.transition(inputs),
            needs_sas: self.eager && asked.phase == Phase::Permissive,
            enforced: self.phase == Phase::Enforcing,
            releases,
            overlays: self.overlay.iter().map(|entry| entry.overlay).collect(),
            members: BTreeMap::new(),
            overridden_by: BTreeSet::new(),
            apart: BTreeSet::new(),
            external: self.tunnel.external().map(|external| external.address.clone()),
            problem: self.lacks_pods(inputs),
            remark: None,
        }
    }

    /// Without a block of its own this node protects the pods of others only as far as they talk to the node itself.
    fn lacks_pods(&self, inputs: &Inputs<'_>) -> Option<String> {
        let between_pods = self
            .overlay
            .iter()
            .any(|entry| entry.overlay == Overlay::POD_NETWORK);
        (between_pods && inputs.own.pods.is_empty()).then(|| {
            "spec.traffic.type: PodNetwork needs Node.spec.podCIDRs, which this node does not have; let the cluster allocate \
             them, or take type Overlay"
                .to_owned()
        })
    }

    /// Hash over the overrides of members and overlay entries that this node applies.
    fn transition(&self, inputs: &Inputs<'_>) -> Option<String> {
        let nodes = std::iter::once(inputs.own)
            .chain(inputs.peers)
            .filter_map(|peer| {
                let phase = peer.membership(&self.tunnel.name)?.phase?;
                Some(Override::Member {
                    node: peer.node.clone(),
                    phase,
                })
            });
        let entries = self.overlay.iter().filter_map(|entry| {
            Some(Override::Overlay {
                protocol: entry.overlay.protocol,
                port: entry.overlay.port,
                phase: entry.phase?,
            })
        });
        transition_hash(nodes.chain(entries))
    }
}

#[cfg(test)]
mod tests;
