//! The loop: inputs in any order, outputs drained after each of them in the order that [`Endpoint`] asks for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_dataplane::{
    DataPlane, DataPlaneEvent, Demand, Direction, Policy, PolicyAction, PolicyKey, Waiting,
};
use ipsecmesh_ike::{
    ChildId, Command, Effect, EffectOutcome, Endpoint, Event, Instant, Path, PeerId, SaName, Transmit,
};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::desired::Desired;
use crate::engine::Sockets;
use crate::engine::adoption::Adoption;
use crate::engine::command::{EngineCommand, RekeyRequest};
use crate::engine::event::SharedView;
use crate::engine::sas::{Change, Sas};
use crate::metrics::Metrics;
use crate::reconcile::Actual;

/// The largest IKE datagram that UDP carries.
const MAX_DATAGRAM: usize = 65_535;
/// After an error of the sockets, so that a broken one does not take the whole processor.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// What the engine is made of.
pub(crate) struct Parts<D, S> {
    /// IKEv2.
    pub(crate) endpoint: Endpoint,
    /// Where SAs and policies go.
    pub(crate) plane: D,
    /// Where datagrams come from and go to.
    pub(crate) sockets: S,
    /// Both clocks.
    pub(crate) clock: Clock,
    /// What others see.
    pub(crate) view: SharedView,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// What it is told; its end is the engine's end.
    pub(crate) commands: mpsc::Receiver<EngineCommand>,
}

/// The engine at work.
pub(crate) struct Engine<D, S> {
    pub(super) endpoint: Endpoint,
    pub(super) plane: D,
    pub(super) sockets: S,
    pub(super) clock: Clock,
    pub(super) view: SharedView,
    pub(super) metrics: Metrics,
    commands: mpsc::Receiver<EngineCommand>,
    pub(super) desired: Option<Arc<Desired>>,
    pub(super) actual: Actual,
    /// Nodes of the peers, for the log.
    pub(super) names: BTreeMap<PeerId, String>,
    pub(super) sas: Sas,
    pub(super) adoption: Adoption,
    /// What an earlier run left has been read.
    pub(super) adopted: bool,
    /// Traffic that waited before this run, until its peer is known.
    pub(super) waiting: Vec<Waiting>,
    pub(super) schedule: Schedule,
}

/// When the engine looks after what no event announces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    /// Counters of SAs are read.
    pub(super) count: Instant,
    /// What stands is compared with what is desired.
    pub(super) compare: Instant,
    /// What was refused or had to wait is tried again.
    pub(super) retry: Option<Instant>,
    /// Refusals in a row.
    pub(super) refusals: u32,
    /// Since when policies wait for the end of their SAs.
    pub(super) holding: Option<Instant>,
}

impl<D: DataPlane, S: Sockets> Engine<D, S> {
    /// An engine that has not looked at anything yet.
    pub(crate) fn new(parts: Parts<D, S>) -> Self {
        Self {
            endpoint: parts.endpoint,
            plane: parts.plane,
            sockets: parts.sockets,
            clock: parts.clock,
            view: parts.view,
            metrics: parts.metrics,
            commands: parts.commands,
            desired: None,
            actual: Actual::default(),
            names: BTreeMap::new(),
            sas: Sas::default(),
            adoption: Adoption::default(),
            adopted: false,
            waiting: Vec::new(),
            schedule: Schedule::default(),
        }
    }

    /// Runs until the sender of commands is gone. SAs and policies stay: the next run adopts them.
    pub(crate) async fn run(mut self, remembered: &[Policy]) {
        self.take_over(remembered).await;
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        loop {
            self.drain().await;
            let deadline = self.clock.deadline(self.next_deadline());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.carry_out(command).await,
                    None => return,
                },
                received = self.sockets.receive(&mut datagram) => self.received(received, &mut datagram).await,
                event = self.plane.next_event() => self.data_plane_event(event).await,
                () = tokio::time::sleep_until(deadline) => self.timeouts().await,
            }
        }
    }

    async fn carry_out(&mut self, command: EngineCommand) {
        match command {
            EngineCommand::Distrust(peers) => {
                for peer in peers {
                    if self.actual.peers.remove(&peer).is_some() {
                        self.command(Command::RemovePeer { peer });
                    }
                }
                // They are still wanted, and begin again.
                self.reconcile().await;
            }
            EngineCommand::SetDesired(desired) => {
                self.desired = Some(desired);
                self.schedule.refusals = 0;
                self.reconcile().await;
            }
            EngineCommand::SetCredentials(credentials) => {
                self.command(Command::SetCredentials(credentials.0));
            }
            EngineCommand::Rekey(request) => self.rekey(request),
        }
    }

    async fn received(&mut self, received: io::Result<Path>, datagram: &mut [u8]) {
        match received {
            Ok(path) => {
                let disposition = self.endpoint.handle_datagram(path, datagram, self.clock.now());
                self.metrics.datagram(disposition);
                tracing::trace!(remote = %path.remote, ?disposition, "datagram");
            }
            Err(error) => {
                tracing::warn!(%error, "receiving on UDP 500 and 4500");
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
        }
    }

    async fn data_plane_event(&mut self, event: DataPlaneEvent) {
        match event {
            DataPlaneEvent::Acquire {
                reqid, destination, ..
            } => {
                if let Some((peer, child)) = self.owner(reqid, destination) {
                    self.command(Command::Acquire { peer, child });
                }
            }
            DataPlaneEvent::Expire { spi, hard } => self.command(Command::Expire { spi, hard }),
            DataPlaneEvent::Mapping { spi, remote } => {
                tracing::debug!(%spi, %remote, "a NAT has another mapping for the peer");
                self.command(Command::Mapping { spi, remote });
            }
            DataPlaneEvent::Overrun => {
                tracing::warn!("the kernel dropped events: comparing everything");
                self.compare().await;
            }
        }
    }

    /// The child whose SA is missing.
    pub(super) fn owner(&self, reqid: u32, destination: std::net::IpAddr) -> Option<(PeerId, ChildId)> {
        self.actual.peers.iter().find_map(|(id, known)| {
            let child = known.config.children.iter().find(|child| child.reqid == reqid)?;
            (known.config.remote_address == destination).then_some((*id, child.id))
        })
    }

    /// A command whose refusal would be a mistake of this program or a race with the end of a peer.
    pub(super) fn command(&mut self, command: Command) {
        if let Err(error) = self.endpoint.handle_command(command, self.clock.now()) {
            tracing::debug!(%error, "the engine did not take a command");
        }
    }

    fn rekey(&mut self, request: RekeyRequest) {
        let tunnel = |child: &ChildId| {
            self.desired
                .as_ref()
                .and_then(|desired| desired.tunnel_of(*child))
        };
        let chosen: Vec<(PeerId, Vec<ChildId>)> = self.view.read(|view| {
            let standing = view.peers.iter().filter(|(_, peer)| peer.ike.is_some());
            standing
                .filter_map(|(id, peer)| {
                    let children = peer.children.keys().copied();
                    match request.name.as_deref() {
                        Some(name) if name != peer.node => {
                            let its: Vec<_> = children.filter(|child| tunnel(child) == Some(name)).collect();
                            (!its.is_empty()).then_some((*id, its))
                        }
                        Some(_) | None => Some((*id, children.collect())),
                    }
                })
                .collect()
        });
        let mut started = 0;
        for (peer, children) in chosen {
            if request.ike {
                self.command(Command::RekeyIke { peer });
                started += 1;
            } else {
                started += children.len();
                for child in children {
                    self.command(Command::RekeyChild { peer, child });
                }
            }
        }
        // Nobody may wait for the answer any more.
        let _ = request.reply.send(started);
    }

    async fn timeouts(&mut self) {
        let now = self.clock.now();
        self.endpoint.handle_timeout(now);
        self.drain().await;
        self.look_after(now.mono).await;
    }

    fn next_deadline(&self) -> Instant {
        let upkeep = self.schedule.count.min(self.schedule.compare);
        [
            self.endpoint.poll_timeout().map(|(at, _)| at),
            self.adoption.next(),
            self.schedule.retry,
        ]
        .into_iter()
        .flatten()
        .fold(upkeep, Instant::min)
    }

    /// Effects, datagrams, events: until there is nothing left.
    pub(super) async fn drain(&mut self) {
        loop {
            let effects: Vec<Effect> = std::iter::from_fn(|| self.endpoint.poll_effect()).collect();
            if effects.is_empty() {
                break;
            }
            self.apply(effects).await;
        }
        let mut datagram = Vec::new();
        while let Some(Transmit { path }) = self.endpoint.poll_transmit(&mut datagram) {
            if let Err(error) = self.sockets.send(&path, &datagram).await {
                tracing::debug!(remote = %path.remote, %error, "sending failed; the exchange is repeated");
            }
        }
        let events: Vec<Event> = std::iter::from_fn(|| self.endpoint.poll_event()).collect();
        if !events.is_empty() {
            self.tell(&events);
        }
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        let (planned, actions): (Vec<_>, Vec<_>) = effects
            .into_iter()
            .map(|effect| ((effect.id, Change::of(&effect.action)), effect.action))
            .unzip();
        let outcomes = self.plane.apply_effects(actions).await;
        let mut touched = Vec::new();
        for ((id, change), outcome) in planned.into_iter().zip(outcomes) {
            if outcome == EffectOutcome::Done {
                if let Change::Add(name, record) = change
                    && !record.inbound
                {
                    touched.append(&mut self.stale_routes(name, record.reqid));
                }
                self.sas.apply(change);
            } else {
                tracing::warn!(?change, ?outcome, "the data plane refused an SA");
            }
            self.endpoint.handle_effect(id, outcome, self.clock.now());
        }
        if !touched.is_empty() {
            for refused in self
                .plane
                .touch_policies(&touched)
                .await
                .into_iter()
                .filter_map(Result::err)
            {
                tracing::warn!(error = %refused, "flows may keep their cached route");
            }
        }
    }

    /// Outbound policies whose flows have cached a route without the new SA (decision 17): those of optional policies,
    /// and those whose packets may wait because there was no SA.
    fn stale_routes(&self, name: SaName, reqid: u32) -> Vec<PolicyKey> {
        let ends = (name.source, name.destination);
        let first = !self
            .standing()
            .any(|(other, its)| its == reqid && (other.source, other.destination) == ends);
        let stale = |policy: &&Policy| match policy.action {
            PolicyAction::Protect {
                demand,
                reqid: its,
                source,
                destination,
                ..
            } => its == reqid && (source, destination) == ends && (first || demand == Demand::Optional),
            PolicyAction::Bypass | PolicyAction::Discard => false,
        };
        let outbound = self
            .actual
            .policies
            .values()
            .filter(|p| p.key.direction == Direction::Outbound);
        outbound.filter(stale).map(|policy| policy.key).collect()
    }

    /// All SAs that stand, of this run and of an earlier one, with their reqids.
    pub(super) fn standing(&self) -> impl Iterator<Item = (SaName, u32)> {
        let own = self.sas.iter().map(|(name, record)| (name, record.reqid));
        own.chain(self.adoption.sas().iter().map(|sa| (sa.name, sa.reqid)))
    }

    fn tell(&mut self, events: &[Event]) {
        let now = self.clock.now().mono;
        for event in events {
            log(event, &self.names);
            self.forget_name(event);
            if let Event::ChildEstablished { peer, child, .. } = event
                && let Some(known) = self.actual.peers.get(peer)
                && let Some(config) = known.config.children.iter().find(|config| config.id == *child)
            {
                let (local, remote) = (known.config.local_address, known.config.remote_address);
                self.adoption.replaced(config.reqid, local, remote, now);
            }
        }
        let metrics = self.metrics.clone();
        self.view.update(|view| {
            for event in events {
                view.fold(event, &metrics);
            }
        });
        self.note_traffic();
        self.count_standing();
    }

    /// The name of a peer that is not desired any more is needed until its last IKE SA has ended.
    fn forget_name(&mut self, event: &Event) {
        let desired = self.desired.as_ref().map(|desired| &desired.peers);
        if let Event::IkeClosed { peer, .. } = event
            && desired.is_none_or(|peers| !peers.contains_key(peer))
        {
            self.names.remove(peer);
        }
    }

    pub(super) fn count_standing(&self) {
        let adopted = self.adoption.sas().len();
        let policies = self.actual.policies.len();
        let (ike, children) = self.view.read(crate::engine::event::View::sa_counts);
        self.metrics.standing(ike, children, adopted, policies);
        let stale = self
            .view
            .read(|view| (view.adopted, view.policies) != (adopted, policies));
        if stale {
            self.view
                .update(|view| (view.adopted, view.policies) = (adopted, policies));
        }
    }
}

/// What a person reads in the log: no keys are in an event.
fn log(event: &Event, names: &BTreeMap<PeerId, String>) {
    let node = |peer: &PeerId| names.get(peer).map_or("?", String::as_str);
    match event {
        Event::ChildEstablished {
            peer,
            inbound,
            outbound,
            replaces,
            ..
        } => {
            tracing::info!(node = node(peer), %inbound, %outbound, rekeyed = replaces.is_some(), "CHILD SA established");
        }
        Event::ChildClosed { peer, reason, .. } => {
            tracing::debug!(node = node(peer), ?reason, "CHILD SA closed");
        }
        Event::IkeEstablished { peer, replaces, .. } => {
            tracing::info!(
                node = node(peer),
                rekeyed = replaces.is_some(),
                "IKE SA established"
            );
        }
        Event::IkeClosed { peer, reason, .. } => tracing::info!(node = node(peer), ?reason, "IKE SA closed"),
        Event::Failed {
            peer,
            failure,
            detail,
            ..
        } => {
            tracing::warn!(node = node(peer), ?failure, detail, "negotiation failed");
        }
        Event::Retransmitted { peer, attempt } => {
            tracing::debug!(node = node(peer), attempt, "request sent again");
        }
        _ => {}
    }
}
