//! What a person on the host is told: tunnels, peers, SAs and what is wrong, without keys.

use std::collections::BTreeMap;

use ipsecmesh_ike::{ChildId, Initiation, Mode, PeerId};
use serde::{Deserialize, Serialize};

use crate::desired::{Desired, TunnelGoal};
use crate::engine::event::{ChildView, PeerView, Traffic, View};
use crate::model::Remote;
use crate::source::Snapshot;
use crate::status::tunnels;

/// The whole answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalStatus {
    /// Version of the agent.
    pub(crate) version: String,
    /// This host's name.
    pub(crate) node: String,
    /// The agent does its part.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) waiting_for: Option<String>,
    /// Tunnels in order of rank.
    pub(crate) tunnels: Vec<LocalTunnel>,
    /// Peers with their SAs.
    pub(crate) peers: Vec<LocalPeer>,
    /// Objects that cannot be used as they are, with place, field and fix.
    pub(crate) refused_objects: BTreeMap<String, String>,
    /// What the data plane refused.
    pub(crate) refused: BTreeMap<String, String>,
    /// The last revision of the desired state that stands completely.
    pub(crate) programmed: u64,
    /// Policies of ours.
    pub(crate) policies: usize,
    /// SAs of an earlier run that still stand.
    pub(crate) adopted_sas: usize,
    /// Policies of others.
    pub(crate) foreign_policies: usize,
    /// SAs of others.
    pub(crate) foreign_sas: usize,
}

/// A tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalTunnel {
    /// Its name.
    pub(crate) name: String,
    /// `Nodes` or `External`.
    pub(crate) remote: String,
    /// Its phase.
    pub(crate) phase: String,
    /// One word.
    pub(crate) state: TunnelState,
    /// Its peers.
    pub(crate) peers: Vec<String>,
    /// What is wrong, and what to do.
    pub(crate) problem: Option<String>,
}

/// How a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TunnelState {
    /// All its SAs stand.
    Up,
    /// Some of its SAs do not stand yet.
    Connecting,
    /// SAs come with the first packet.
    Idle,
    /// An SA failed.
    Failing,
    /// A person took it down.
    Down,
    /// Its spec says so.
    Suspended,
}

/// A peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalPeer {
    /// Name of the node, or address of the external peer.
    pub(crate) node: String,
    /// The engine's name for it.
    pub(crate) peer: String,
    /// This host's address.
    pub(crate) local_address: Option<String>,
    /// Its address.
    pub(crate) remote_address: Option<String>,
    /// Its IKE SA.
    pub(crate) ike: Option<LocalIke>,
    /// Its CHILD SAs.
    pub(crate) children: Vec<LocalChild>,
    /// What kind of thing is wrong: `AuthenticationFailed`, `NoProposalChosen` and so on, as in the API's conditions.
    pub(crate) failure_reason: Option<String>,
    /// What is wrong, and what to do.
    pub(crate) failure: Option<String>,
    /// The tunnel that it concerns, if only one.
    pub(crate) failing_tunnel: Option<String>,
    /// Since when, in seconds since 1970.
    pub(crate) failing_since: Option<u64>,
}

/// An IKE SA.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalIke {
    /// SPI of the initiator.
    pub(crate) initiator_spi: String,
    /// SPI of the responder.
    pub(crate) responder_spi: String,
    /// What both ends agreed on.
    pub(crate) suite: String,
    /// Seconds since 1970.
    pub(crate) since: u64,
}

/// A pair of CHILD SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalChild {
    /// The engine's name for it.
    pub(crate) child: u32,
    /// The tunnel that it belongs to.
    pub(crate) tunnel: Option<String>,
    /// Inbound SPI.
    pub(crate) inbound_spi: String,
    /// Outbound SPI.
    pub(crate) outbound_spi: String,
    /// Protocol, mode, cipher: `ESP Transport AES-GCM-16-256 ESN`.
    pub(crate) shape: Option<String>,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// What came through it.
    pub(crate) received: Traffic,
    /// What went through it.
    pub(crate) sent: Traffic,
}

impl LocalStatus {
    /// Puts together what is wanted and what stands.
    pub(crate) fn of(snapshot: &Snapshot, desired: &Desired, view: &View, down: &[String]) -> Self {
        let tunnel = |goal: &TunnelGoal| LocalTunnel::of(goal, snapshot, desired, view, down);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: snapshot
                .own
                .as_ref()
                .map(|own| own.node.clone())
                .unwrap_or_default(),
            tunnels: desired.tunnels.iter().map(tunnel).collect(),
            refused_objects: snapshot.refused.clone(),
            peers: view
                .peers
                .iter()
                .map(|(id, peer)| LocalPeer::of(*id, peer, desired))
                .collect(),
            refused: view.refused.clone(),
            programmed: view.programmed,
            policies: view.policies,
            adopted_sas: view.adopted,
            foreign_policies: view.foreign.0,
            foreign_sas: view.foreign.1,
            ..Self::default()
        }
    }
}

impl LocalStatus {
    /// What is missing until everything is up, in one line: the agent itself, a refused object, or a tunnel.
    pub(crate) fn missing(&self) -> Option<String> {
        let unready = self.waiting_for.clone();
        let refused = || {
            let (object, reason) = self.refused_objects.iter().chain(&self.refused).next()?;
            Some(format!("{object} is refused: {}", reason.replace('\n', "; ")))
        };
        let tunnel = || {
            let settled = [TunnelState::Up, TunnelState::Idle];
            let tunnel = self
                .tunnels
                .iter()
                .find(|tunnel| !settled.contains(&tunnel.state))?;
            let problem = tunnel.problem.as_deref().unwrap_or("no problem is known");
            let problem = problem.replace('\n', "; ");
            Some(format!("tunnel {} is {:?}: {problem}", tunnel.name, tunnel.state))
        };
        unready
            .or_else(|| (!self.ready).then(|| "the agent starts".to_owned()))
            .or_else(refused)
            .or_else(tunnel)
    }
}

impl LocalTunnel {
    fn of(goal: &TunnelGoal, snapshot: &Snapshot, desired: &Desired, view: &View, down: &[String]) -> Self {
        let tunnel = snapshot.tunnels.iter().find(|tunnel| tunnel.name == goal.name);
        let children = || goal.members.values().flatten();
        let stands = |(peer, child): &(PeerId, ChildId)| {
            let peer = view.peers.get(peer);
            peer.is_some_and(|peer| peer.children.contains_key(child))
        };
        let failure = children().find_map(|(peer, child)| {
            let failure = view.peers.get(peer)?.failure.as_ref()?;
            let its = failure.child.is_none_or(|failed| failed == *child);
            its.then(|| failure.detail.clone())
        });
        let refused = snapshot
            .refused
            .get(&format!("IPsecTunnel {}", goal.name))
            .cloned();
        let overridden = (!goal.overridden_by.is_empty()).then(|| {
            let winners: Vec<&str> = goal.overridden_by.iter().map(String::as_str).collect();
            format!(
                "tunnels of a higher rank have selectors of it: {}",
                winners.join(", ")
            )
        });
        let problem = goal.problem.clone().or(refused).or(failure).or(overridden);
        let remark = goal.remark.clone();
        let state = if down.contains(&goal.name) {
            TunnelState::Down
        } else if tunnel.is_some_and(|tunnel| tunnel.suspended) {
            TunnelState::Suspended
        } else if children().all(stands) && goal.problem.is_none() {
            TunnelState::Up
        } else if problem.is_some() {
            TunnelState::Failing
        } else if children().any(|(peer, _)| starts(desired, *peer)) {
            TunnelState::Connecting
        } else {
            TunnelState::Idle
        };
        Self {
            name: goal.name.clone(),
            remote: match tunnel.map(|tunnel| &tunnel.remote) {
                Some(Remote::External(_)) => "External".to_owned(),
                Some(Remote::Nodes) | None => "Nodes".to_owned(),
            },
            phase: format!("{:?}", goal.rollout.phase),
            state,
            peers: goal.members.keys().cloned().collect(),
            problem: problem.or(remark),
        }
    }
}

/// Whether SAs with it are started without traffic.
fn starts(desired: &Desired, peer: PeerId) -> bool {
    let peer = desired.peers.get(&peer);
    peer.is_some_and(|peer| peer.config.initiation != Initiation::OnDemand)
}

impl LocalPeer {
    fn of(id: PeerId, peer: &PeerView, desired: &Desired) -> Self {
        let config = desired.peers.get(&id).map(|peer| &peer.config);
        Self {
            node: peer.node.clone(),
            peer: format!("{:016x}", id.0),
            local_address: config.map(|config| config.local_address.to_string()),
            remote_address: config.map(|config| config.remote_address.to_string()),
            ike: peer.ike.map(|ike| LocalIke {
                initiator_spi: ike.initiator_spi.to_string(),
                responder_spi: ike.responder_spi.to_string(),
                suite: ike.suite.to_string(),
                since: ike.since,
            }),
            children: peer
                .children
                .iter()
                .map(|(child, pair)| LocalChild::of(*child, pair, desired))
                .collect(),
            failure_reason: peer
                .failure
                .as_ref()
                .map(|failure| tunnels::reason(failure.failure).to_owned()),
            failure: peer.failure.as_ref().map(|failure| failure.detail.clone()),
            failing_tunnel: peer
                .failure
                .as_ref()
                .and_then(|failure| desired.tunnel_of(failure.child?))
                .map(str::to_owned),
            failing_since: peer.failure.as_ref().map(|failure| failure.since),
        }
    }
}

impl LocalChild {
    fn of(child: ChildId, pair: &ChildView, desired: &Desired) -> Self {
        Self {
            child: child.0,
            tunnel: desired.tunnel_of(child).map(str::to_owned),
            inbound_spi: pair.inbound.to_string(),
            outbound_spi: pair.outbound.to_string(),
            shape: pair.shape.map(|shape| {
                let mut words = vec![shape.protocol.to_string()];
                words.extend(shape.udp.then(|| "in UDP".to_owned()));
                words.push(match shape.mode {
                    Mode::Transport => "Transport".to_owned(),
                    Mode::Tunnel => "Tunnel".to_owned(),
                });
                words.extend(shape.encryption.map(|cipher| cipher.to_string()));
                words.extend(shape.esn.then(|| "ESN".to_owned()));
                words.join(" ")
            }),
            since: pair.since,
            received: pair.received,
            sent: pair.sent,
        }
    }
}
