//! What the engine does beside IKE: carry out the desired state, adopt what an earlier run left, count traffic, and
//! compare what stands with what should.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipsecmesh_dataplane::{DataPlane, Policy, PolicyAction, PolicyKey, SaStatus, Snapshot};
use ipsecmesh_ike::{Command, Instant, PeerConfig, PeerId, SaName};

use crate::desired::Desired;
use crate::engine::Sockets;
use crate::engine::adoption::Adoption;
use crate::engine::event::Traffic;
use crate::engine::sas::Change;
use crate::engine::task::Engine;
use crate::reconcile::{KnownPeer, Steps, has_sa, orphans, steps};

/// Counters of SAs are read this often: signs of life for liveness, and the metrics of tunnels.
const COUNT_EVERY: Duration = Duration::from_millis(1500);
/// What stands is compared with what is desired this often: somebody else may have changed it.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// Policies wait this long for the end of their SAs.
const HOLD: Duration = Duration::from_secs(5);
const HOLD_STEP: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(30);

impl<D: DataPlane, S: Sockets> Engine<D, S> {
    /// The start: what stands stays, and what the last run enforced is there before anybody is asked.
    pub(super) async fn take_over(&mut self, remembered: &[Policy]) {
        let now = self.clock.now().mono;
        self.schedule.count = now + COUNT_EVERY;
        self.schedule.compare = now + COMPARE_EVERY;
        match self.plane.snapshot().await {
            Ok(snapshot) => {
                self.adopt(snapshot);
            }
            Err(error) => {
                tracing::error!(%error, "what stands cannot be read; trying again");
                self.schedule.compare = now + FIRST_RETRY;
            }
        }
        let missing: Vec<Policy> = remembered
            .iter()
            .filter(|policy| !self.actual.policies.contains_key(&policy.key))
            .copied()
            .collect();
        self.put(&missing).await;
        tracing::info!(
            policies = self.actual.policies.len(),
            reinstalled = missing.len(),
            adopted = self.adoption.sas().len(),
            "took over what an earlier run left"
        );
        self.count_standing();
    }

    /// What stands before this run has made anything is an earlier run's.
    fn adopt(&mut self, snapshot: Snapshot) {
        self.adopted = true;
        self.adoption = Adoption::new(&snapshot.sas);
        self.actual.policies = by_key(snapshot.policies);
        self.waiting = snapshot.waiting;
        self.view.update(|view| view.foreign = snapshot.foreign);
    }

    /// Brings the data plane and the engine to what is desired, as far as they let it.
    pub(super) async fn reconcile(&mut self) {
        let Some(desired) = self.desired.clone() else {
            return;
        };
        self.refresh_peers(&desired);
        let nodes = desired.peers.iter().map(|(id, peer)| (*id, peer.node.clone()));
        self.names.extend(nodes);
        let steps = steps(&desired, &self.actual);
        let mut refused = self.put(&steps.put_policies).await;
        self.change_peers(&desired, &steps, &mut refused);
        self.wake_waiting();
        self.drain().await;
        let now = self.clock.now().mono;
        let orphans = orphans(&desired, self.adoption.sas());
        self.adoption.orphaned(&orphans, &desired.own_addresses, now);
        self.remove_due(now).await;
        let held = self
            .remove_policies(&desired, &steps.remove_policies, now, &mut refused)
            .await;
        self.plan_retry(now, held, !refused.is_empty());
        let programmed = refused.is_empty() && !held;
        self.view.update(|view| {
            view.peers.retain(|id, _| desired.peers.contains_key(id));
            for (id, peer) in &desired.peers {
                view.peers.entry(*id).or_default().node.clone_from(&peer.node);
            }
            view.refused = refused;
            if programmed {
                view.programmed = desired.revision;
            }
        });
        self.count_standing();
    }

    /// What is known about peers, before it is compared.
    fn refresh_peers(&mut self, desired: &Desired) {
        let connected: BTreeSet<PeerId> = self.view.read(|view| {
            let up = view.peers.iter().filter(|(_, peer)| peer.ike.is_some());
            up.map(|(id, _)| *id).collect()
        });
        for (id, known) in &mut self.actual.peers {
            known.connected = connected.contains(id);
            if let Some(wanted) = desired.peers.get(id).filter(|_| known.connected) {
                known.trust = wanted.trust.clone();
            }
        }
    }

    /// Installs policies; those that were refused come back with the reason.
    async fn put(&mut self, policies: &[Policy]) -> BTreeMap<String, String> {
        let mut refused = BTreeMap::new();
        if policies.is_empty() {
            return refused;
        }
        let results = self.plane.put_policies(policies).await;
        for (policy, result) in policies.iter().zip(results) {
            match result {
                Ok(()) => {
                    self.actual.policies.insert(policy.key, *policy);
                }
                Err(error) => {
                    tracing::warn!(%error, "policy refused");
                    refused.insert(error.object.clone(), error.to_string());
                }
            }
        }
        refused
    }

    fn change_peers(&mut self, desired: &Desired, steps: &Steps, refused: &mut BTreeMap<String, String>) {
        for peer in &steps.remove_peers {
            if !self.actual.peers.get(peer).is_some_and(|known| known.connected) {
                self.names.remove(peer);
            }
            self.command(Command::RemovePeer { peer: *peer });
            self.actual.peers.remove(peer);
        }
        for config in &steps.upsert_peers {
            if self.lacks_policy(desired, config) {
                // No SA before its policies: the retry comes back here.
                continue;
            }
            let upsert = Command::UpsertPeer(Box::new(config.clone()));
            match self.endpoint.handle_command(upsert, self.clock.now()) {
                Ok(()) => self.remember(desired, config),
                Err(error) => {
                    let node = desired
                        .peers
                        .get(&config.id)
                        .map_or("?", |peer| peer.node.as_str());
                    tracing::warn!(node, %error, "peer refused");
                    refused.insert(format!("peer {node}"), error.to_string());
                }
            }
        }
        for peer in &steps.retry_peers {
            if let (Some(known), Some(wanted)) = (self.actual.peers.get_mut(peer), desired.peers.get(peer)) {
                known.trust = wanted.trust.clone();
                self.command(Command::RetryPeer { peer: *peer });
            }
        }
        for (peer, boot) in &steps.boots {
            if let Some(known) = self.actual.peers.get_mut(peer) {
                known.boot = Some(*boot);
                self.command(Command::PeerBooted {
                    peer: *peer,
                    boot: *boot,
                });
            }
        }
    }

    fn lacks_policy(&self, desired: &Desired, config: &PeerConfig) -> bool {
        let ends = (config.local_address, config.remote_address);
        desired.policies.values().any(|policy| match policy.action {
            PolicyAction::Protect {
                source, destination, ..
            } => {
                ((source, destination) == ends || (destination, source) == ends)
                    && self.actual.policies.get(&policy.key) != Some(policy)
            }
            PolicyAction::Bypass | PolicyAction::Discard => false,
        })
    }

    fn remember(&mut self, desired: &Desired, config: &PeerConfig) {
        let known = self.actual.peers.remove(&config.id);
        let known = KnownPeer {
            config: config.clone(),
            boot: known.as_ref().and_then(|known| known.boot),
            trust: desired
                .peers
                .get(&config.id)
                .map(|peer| peer.trust.clone())
                .unwrap_or_default(),
            connected: known.is_some_and(|known| known.connected),
        };
        self.actual.peers.insert(config.id, known);
    }

    /// Traffic that has waited since before this run: the kernel does not ask a second time.
    fn wake_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.owner(waiting.reqid, waiting.destination) {
                Some((peer, child)) => self.command(Command::Acquire { peer, child }),
                None => self.waiting.push(waiting),
            }
        }
    }

    /// Removes policies. Those of a pair that ends wait until its SAs are gone, so that nothing leaves in clear between
    /// the two; whether any waits is the answer.
    async fn remove_policies(
        &mut self,
        desired: &Desired,
        keys: &[PolicyKey],
        now: Instant,
        refused: &mut BTreeMap<String, String>,
    ) -> bool {
        let patient = self
            .schedule
            .holding
            .is_none_or(|since| now.saturating_since(since) < HOLD);
        let (held, free): (Vec<PolicyKey>, Vec<PolicyKey>) = keys
            .iter()
            .partition(|key| patient && self.waits_for_sas(desired, key));
        if !free.is_empty() {
            let results = self.plane.remove_policies(&free).await;
            for (key, result) in free.iter().zip(results) {
                match result {
                    Ok(()) => {
                        self.actual.policies.remove(key);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "policy stays");
                        refused.insert(error.object.clone(), error.to_string());
                    }
                }
            }
        }
        !held.is_empty()
    }

    fn waits_for_sas(&self, desired: &Desired, key: &PolicyKey) -> bool {
        let Some(policy) = self.actual.policies.get(key) else {
            return false;
        };
        let PolicyAction::Protect {
            reqid,
            source,
            destination,
            ..
        } = policy.action
        else {
            return false;
        };
        let wanted = desired.peers.values().any(|peer| {
            let ends = (peer.config.local_address, peer.config.remote_address);
            let its = peer.config.children.iter().any(|child| child.reqid == reqid);
            its && (ends == (source, destination) || ends == (destination, source))
        });
        let standing: Vec<_> = self.standing().collect();
        !wanted && has_sa(policy, standing.iter().map(|(name, reqid)| (name, *reqid)))
    }

    fn plan_retry(&mut self, now: Instant, held: bool, refused: bool) {
        self.schedule.holding = if held {
            self.schedule.holding.or(Some(now))
        } else {
            None
        };
        self.schedule.refusals = if refused { self.schedule.refusals + 1 } else { 0 };
        self.schedule.retry = if held {
            Some(now + HOLD_STEP)
        } else if refused {
            let doubled = FIRST_RETRY * 2_u32.saturating_pow(self.schedule.refusals.saturating_sub(1).min(8));
            Some(now + doubled.min(SLOWEST_RETRY))
        } else {
            None
        };
    }

    /// What is due by the schedule.
    pub(super) async fn look_after(&mut self, now: Instant) {
        self.remove_due(now).await;
        if self.schedule.count <= now {
            self.schedule.count = now + COUNT_EVERY;
            self.count_traffic().await;
        }
        if self.schedule.compare <= now {
            self.compare().await;
        } else if self.schedule.retry.is_some_and(|at| at <= now) {
            self.reconcile().await;
        }
    }

    async fn remove_due(&mut self, now: Instant) {
        let due = self.adoption.take_due(now);
        if due.is_empty() {
            return;
        }
        for error in self
            .plane
            .remove_sas(&due)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(%error, "an SA of an earlier run stays");
        }
        self.count_standing();
    }

    /// Reads the counters of all SAs: metrics, signs of life, and SAs that somebody else removed.
    async fn count_traffic(&mut self) {
        let names: Vec<_> = self.sas.iter().map(|(name, _)| name).collect();
        let usage = self.plane.usage(&names).await;
        let mut sending = Vec::new();
        for (name, status) in names.into_iter().zip(usage) {
            let Some(record) = self.sas.find(name) else {
                continue;
            };
            let Some(SaStatus { bytes, packets, .. }) = status else {
                tracing::warn!(spi = %name.spi, "an SA is gone that nobody here removed");
                self.sas.apply(Change::Remove(name));
                self.command(Command::Expire {
                    spi: name.spi,
                    hard: true,
                });
                continue;
            };
            let (more_bytes, more_packets) = (
                bytes.saturating_sub(record.bytes),
                packets.saturating_sub(record.packets),
            );
            let due = record.count(bytes, packets);
            let (inbound, reqid) = (record.inbound, record.reqid);
            if due {
                self.command(Command::Expire {
                    spi: name.spi,
                    hard: false,
                });
            }
            if more_packets == 0 {
                continue;
            }
            if inbound {
                self.command(Command::InboundSeen { spi: name.spi });
            } else {
                sending.push(name.spi);
            }
            let tunnel = self
                .desired
                .as_ref()
                .and_then(|desired| desired.reqids.get(&reqid).cloned());
            if let Some(tunnel) = tunnel {
                self.metrics.traffic(&tunnel, inbound, more_bytes, more_packets);
            }
        }
        // After all signs of life of this round.
        for spi in sending {
            self.command(Command::OutboundSeen { spi });
        }
        self.keep_mappings_open().await;
        self.note_traffic();
        self.drain().await;
    }

    /// What went through each pair of SAs, for those who ask: as it was counted last.
    pub(super) fn note_traffic(&self) {
        self.view.note(|view| {
            for (name, record) in self.sas.iter() {
                let child = view
                    .peers
                    .get_mut(&record.peer)
                    .and_then(|peer| peer.children.get_mut(&record.child));
                let Some(child) = child else { continue };
                let traffic = Traffic {
                    bytes: record.bytes,
                    packets: record.packets,
                };
                if record.inbound && child.inbound == name.spi {
                    child.received = traffic;
                } else if !record.inbound && child.outbound == name.spi {
                    (child.sent, child.shape) = (traffic, Some(record.shape));
                }
            }
        });
    }

    /// Reads everything of ours that stands, and repairs what differs. Nothing is written when nothing does (I4).
    pub(super) async fn compare(&mut self) {
        let now = self.clock.now().mono;
        self.schedule.compare = now + COMPARE_EVERY;
        let snapshot = match self.plane.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(%error, "what stands cannot be read; trying again");
                self.schedule.compare = now + FIRST_RETRY;
                return;
            }
        };
        if !self.adopted {
            // The first look had failed: what nobody here made belongs to an earlier run and carries traffic.
            let earlier = |sa: &SaStatus| !self.sas.contains(sa.name);
            let sas = snapshot.sas.iter().filter(|sa| earlier(sa)).cloned().collect();
            self.adopt(Snapshot { sas, ..snapshot });
            self.reconcile().await;
            return;
        }
        self.actual.policies = by_key(snapshot.policies);
        self.adoption.retain(&snapshot.sas);
        // An ACQUIRE may have been lost, and the kernel does not ask a second time.
        self.waiting = snapshot.waiting;
        self.view.update(|view| view.foreign = snapshot.foreign);
        let adopted: BTreeSet<SaName> = self.adoption.sas().iter().map(|sa| sa.name).collect();
        let strays: Vec<_> = snapshot
            .sas
            .iter()
            .filter(|sa| !sa.larval && !self.sas.contains(sa.name))
            .filter(|sa| !adopted.contains(&sa.name))
            .map(|sa| sa.name)
            .collect();
        if !strays.is_empty() {
            tracing::warn!(count = strays.len(), "SAs of ours that nobody uses are removed");
            self.plane.remove_sas(&strays).await;
        }
        self.count_traffic().await;
        self.reconcile().await;
    }
}

fn by_key(policies: Vec<Policy>) -> BTreeMap<PolicyKey, Policy> {
    policies.into_iter().map(|policy| (policy.key, policy)).collect()
}
