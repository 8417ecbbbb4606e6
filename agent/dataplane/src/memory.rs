//! A data plane in memory: for tests of what stands above it.
//!
//! It behaves as the kernel does where the agent can tell the difference: one policy per direction and selector, SPIs
//! taken once, foreign objects that nobody may touch. It can be told to refuse, and it can be made to report events.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipsecmesh_ike::{EffectAction, EffectOutcome, EspSpi, SaName, SaProtocol, SaSpec};
use tokio::sync::Notify;

use crate::check::{NOT_IN_UDP, NOT_THERE};
use crate::spec::{Policy, PolicyKey};
use crate::{DataPlane, DataPlaneError, DataPlaneEvent, SaStatus, Snapshot, Waiting, check};

/// The data plane; [`MemoryHandle`] is the test's end of it.
#[derive(Default)]
pub struct MemoryDataPlane {
    handle: MemoryHandle,
}

/// Looks into a [`MemoryDataPlane`] and plays the part of the outside world.
#[derive(Clone, Default)]
pub struct MemoryHandle {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

/// Something that was written, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A policy was added or replaced.
    PutPolicy(Policy),
    /// A policy was written once more.
    TouchPolicy(PolicyKey),
    /// A policy was removed.
    RemovePolicy(PolicyKey),
    /// An SA was added; `true` for inbound.
    InstallSa(SaName, bool),
    /// An SA travels between other UDP ports.
    Encapsulate(SaName, (u16, u16)),
    /// An SA was removed.
    RemoveSa(SaName),
}

/// What the kernel finds an SA by.
type Place = (SaProtocol, IpAddr, EspSpi);

const fn place(name: &SaName) -> Place {
    (name.protocol, name.destination, name.spi)
}

#[derive(Default)]
struct State {
    policies: BTreeMap<PolicyKey, Policy>,
    foreign_policies: Vec<PolicyKey>,
    sas: BTreeMap<Place, SaStatus>,
    foreign_sas: Vec<Place>,
    waiting: Vec<Waiting>,
    writes: Vec<Write>,
    refusals: VecDeque<String>,
    events: VecDeque<DataPlaneEvent>,
}

impl MemoryDataPlane {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The test's end.
    pub fn handle(&self) -> MemoryHandle {
        self.handle.clone()
    }
}

impl MemoryHandle {
    /// The same data plane once more, as a restarted agent opens it.
    pub fn reopen(&self) -> MemoryDataPlane {
        MemoryDataPlane { handle: self.clone() }
    }

    /// Somebody else removes an SA of ours.
    pub fn lose_sa(&self, name: SaName) {
        self.state().sas.remove(&place(&name));
    }

    /// Somebody else removes a policy of ours.
    pub fn lose_policy(&self, key: PolicyKey) {
        self.state().policies.remove(&key);
    }

    /// Everything that was written so far, in order.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    /// What stands.
    pub fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    /// The next write is refused for this reason; may be called several times.
    pub fn refuse_next(&self, reason: &str) {
        self.state().refusals.push_back(reason.to_owned());
    }

    /// Reports an event; an ACQUIRE also leaves traffic waiting.
    pub fn report(&self, event: DataPlaneEvent) {
        let mut state = self.state();
        if let DataPlaneEvent::Acquire {
            reqid,
            source,
            destination,
        } = event
        {
            state.waiting.push(Waiting {
                reqid,
                source,
                destination,
            });
        }
        state.events.push_back(event);
        drop(state);
        self.wake.notify_one();
    }

    /// Drops the events that nobody has taken yet and says so, as a kernel does whose queue is full.
    pub fn overrun(&self) {
        let mut state = self.state();
        state.events.clear();
        state.events.push_back(DataPlaneEvent::Overrun);
        drop(state);
        self.wake.notify_one();
    }

    /// Counts traffic through an SA.
    pub fn carry(&self, name: SaName, packets: u64, bytes: u64) {
        if let Some(sa) = self.state().sas.get_mut(&place(&name)) {
            sa.packets += packets;
            sa.bytes += bytes;
            sa.last_used = Some(sa.added_at);
        }
    }

    /// Puts a policy there that is not ours.
    pub fn add_foreign_policy(&self, key: PolicyKey) {
        self.state().foreign_policies.push(key);
    }

    /// Its owner takes it away.
    pub fn remove_foreign_policy(&self, key: PolicyKey) {
        self.state().foreign_policies.retain(|foreign| *foreign != key);
    }

    /// Puts an SA there that is not ours.
    pub fn add_foreign_sa(&self, name: SaName) {
        self.state().foreign_sas.push(place(&name));
    }

    /// Its owner takes it away.
    pub fn remove_foreign_sa(&self, name: SaName) {
        self.state()
            .foreign_sas
            .retain(|foreign| *foreign != place(&name));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere leaves the data as it is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataPlane for MemoryDataPlane {
    async fn apply_effects(&mut self, effects: Vec<EffectAction>) -> Vec<EffectOutcome> {
        let mut state = self.handle.state();
        effects.into_iter().map(|effect| state.apply(&effect)).collect()
    }

    async fn put_policies(&mut self, policies: &[Policy]) -> Vec<Result<(), DataPlaneError>> {
        let mut state = self.handle.state();
        policies.iter().map(|policy| state.put(policy)).collect()
    }

    async fn remove_policies(&mut self, keys: &[PolicyKey]) -> Vec<Result<(), DataPlaneError>> {
        let mut state = self.handle.state();
        keys.iter().map(|key| state.remove_policy(*key)).collect()
    }

    async fn touch_policies(&mut self, keys: &[PolicyKey]) -> Vec<Result<(), DataPlaneError>> {
        let mut state = self.handle.state();
        keys.iter().map(|key| state.touch(*key)).collect()
    }

    async fn snapshot(&mut self) -> Result<Snapshot, DataPlaneError> {
        Ok(self.handle.snapshot())
    }

    async fn remove_sas(&mut self, names: &[SaName]) -> Vec<Result<(), DataPlaneError>> {
        let mut state = self.handle.state();
        names.iter().map(|name| state.remove_sa(*name)).collect()
    }

    async fn usage(&mut self, names: &[SaName]) -> Vec<Option<SaStatus>> {
        let state = self.handle.state();
        let ours = |name: &SaName| state.sas.get(&place(name)).filter(|sa| sa.name == *name).cloned();
        names.iter().map(ours).collect()
    }

    fn keeps_mappings_open(&self) -> bool {
        false
    }

    async fn next_event(&mut self) -> DataPlaneEvent {
        loop {
            if let Some(event) = self.handle.state().events.pop_front() {
                return event;
            }
            self.handle.wake.notified().await;
        }
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            policies: self.policies.values().copied().collect(),
            sas: self.sas.values().cloned().collect(),
            waiting: self.waiting.clone(),
            foreign: (self.foreign_policies.len(), self.foreign_sas.len()),
        }
    }

    fn apply(&mut self, effect: &EffectAction) -> EffectOutcome {
        match effect {
            EffectAction::InstallInbound(spec) => self.install(spec, true),
            EffectAction::InstallOutbound(spec) => self.install(spec, false),
            EffectAction::Encapsulate(name, ports) => self.encapsulate(*name, *ports),
            EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => {
                self.remove_sa(*name).map_or_else(
                    |error| EffectOutcome::Failed(error.to_string()),
                    |()| EffectOutcome::Done,
                )
            }
        }
    }

    fn install(&mut self, spec: &SaSpec, inbound: bool) -> EffectOutcome {
        if let Some(reason) = self.refusals.pop_front().or(check::sa(spec).err()) {
            return EffectOutcome::Failed(format!("install SA: {reason}"));
        }
        let place = place(&spec.name);
        if self.sas.contains_key(&place) || self.foreign_sas.contains(&place) {
            return EffectOutcome::SpiInUse;
        }
        let status = SaStatus {
            name: spec.name,
            reqid: spec.reqid,
            encapsulation: spec.encapsulation,
            larval: false,
            bytes: 0,
            packets: 0,
            added_at: 0,
            last_used: None,
        };
        self.sas.insert(place, status);
        let served = |waiting: &Waiting| {
            (waiting.reqid, waiting.source, waiting.destination)
                == (spec.reqid, spec.name.source, spec.name.destination)
        };
        self.waiting.retain(|waiting| !served(waiting));
        self.writes.push(Write::InstallSa(spec.name, inbound));
        EffectOutcome::Done
    }

    fn encapsulate(&mut self, name: SaName, ports: (u16, u16)) -> EffectOutcome {
        if let Some(reason) = self.refusals.pop_front() {
            return EffectOutcome::Failed(format!("encapsulate SA: {reason}"));
        }
        let standing = self.sas.get_mut(&place(&name)).filter(|sa| sa.name == name);
        match standing {
            Some(sa) if sa.encapsulation.is_some() => {
                sa.encapsulation = Some(ports);
                self.writes.push(Write::Encapsulate(name, ports));
                EffectOutcome::Done
            }
            Some(_) => EffectOutcome::Failed(NOT_IN_UDP.into()),
            None => EffectOutcome::Failed(NOT_THERE.into()),
        }
    }

    fn remove_sa(&mut self, name: SaName) -> Result<(), DataPlaneError> {
        let object = || {
            format!(
                "{} spi {} {} -> {}",
                name.protocol, name.spi, name.source, name.destination
            )
        };
        self.refuse("remove SA", object)?;
        let place = place(&name);
        if self.sas.get(&place).is_some_and(|sa| sa.name == name) {
            self.sas.remove(&place);
            self.writes.push(Write::RemoveSa(name));
        }
        Ok(())
    }

    fn put(&mut self, policy: &Policy) -> Result<(), DataPlaneError> {
        let object = || format!("{:?}", policy.key);
        self.refuse("install policy", object)?;
        let failed = |reason| DataPlaneError {
            operation: "install policy",
            object: object(),
            reason,
        };
        check::policy(policy).map_err(failed)?;
        if self.foreign_policies.contains(&policy.key) {
            return Err(failed("a policy that is not ours has the same selector".into()));
        }
        self.policies.insert(policy.key, *policy);
        self.writes.push(Write::PutPolicy(*policy));
        Ok(())
    }

    fn touch(&mut self, key: PolicyKey) -> Result<(), DataPlaneError> {
        let object = || format!("{key:?}");
        self.refuse("touch policy", object)?;
        if !self.policies.contains_key(&key) {
            let reason = "it is not there".into();
            return Err(DataPlaneError {
                operation: "touch policy",
                object: object(),
                reason,
            });
        }
        self.writes.push(Write::TouchPolicy(key));
        Ok(())
    }

    fn remove_policy(&mut self, key: PolicyKey) -> Result<(), DataPlaneError> {
        self.refuse("remove policy", || format!("{key:?}"))?;
        if self.policies.remove(&key).is_some() {
            self.writes.push(Write::RemovePolicy(key));
        }
        Ok(())
    }

    fn refuse(&mut self, operation: &'static str, object: impl Fn() -> String) -> Result<(), DataPlaneError> {
        match self.refusals.pop_front() {
            Some(reason) => Err(DataPlaneError {
                operation,
                object: object(),
                reason,
            }),
            None => Ok(()),
        }
    }
}
