//! The kernel's ESP and policies (XFRM), through `ipsecmesh-xfrm`.
//!
//! Nothing is flushed, and nothing foreign is touched: a policy is replaced only after its index was read and found to
//! be ours, and deleted by that index; an SA is deleted only after its reqid was read and found to be ours.

mod convert;
mod features;
mod indexes;
mod policies;
mod sas;

use ipsecmesh_ike::{EffectAction, EffectOutcome, EspSpi, SaName};
use ipsecmesh_xfrm::{Connection, Event, Events, HashThresholds, Reply, Request, SaFeatures, XfrmError};

use crate::spec::{Policy, PolicyKey};
use crate::{DataPlane, DataPlaneError, DataPlaneEvent, SaStatus, Snapshot};
pub use features::detect;
use indexes::Indexes;

/// The data plane of the kernel, in the network namespace of the thread that opened it.
pub struct KernelDataPlane {
    connection: Connection,
    events: Events,
    features: SaFeatures,
    indexes: Indexes,
}

impl KernelDataPlane {
    /// Opens it and learns which of our policies stand. Must be called within a tokio runtime.
    pub async fn open(features: SaFeatures) -> Result<Self, DataPlaneError> {
        let failed = |error: XfrmError| refused("open", "the kernel's data plane", &error);
        let mut connection = Connection::open().map_err(failed)?;
        // Events before the first dump: what happens in between must not be lost.
        let events = Events::open().map_err(failed)?;
        set_thresholds(&mut connection).await.map_err(failed)?;
        let mut plane = Self {
            connection,
            events,
            features,
            indexes: Indexes::default(),
        };
        plane.dump_policies().await?;
        Ok(plane)
    }
}

impl DataPlane for KernelDataPlane {
    async fn apply_effects(&mut self, effects: Vec<EffectAction>) -> Vec<EffectOutcome> {
        let mut outcomes = Vec::with_capacity(effects.len());
        for run in effects.chunk_by(|a, b| sas::Kind::of(a) == sas::Kind::of(b)) {
            let mut done = match run.first().map(sas::Kind::of) {
                Some(sas::Kind::Removal) => self.remove_effects(run).await,
                Some(sas::Kind::Move) => self.move_effects(run).await,
                Some(sas::Kind::Installation) | None => self.install_effects(run).await,
            };
            outcomes.append(&mut done);
        }
        outcomes
    }

    async fn put_policies(&mut self, policies: &[Policy]) -> Vec<Result<(), DataPlaneError>> {
        self.put(policies).await
    }

    async fn remove_policies(&mut self, keys: &[PolicyKey]) -> Vec<Result<(), DataPlaneError>> {
        self.remove(keys).await
    }

    async fn touch_policies(&mut self, keys: &[PolicyKey]) -> Vec<Result<(), DataPlaneError>> {
        self.touch(keys).await
    }

    async fn snapshot(&mut self) -> Result<Snapshot, DataPlaneError> {
        let (policies, foreign_policies) = self.list_policies().await?;
        let (sas, waiting, foreign_sas) = self.list_sas().await?;
        Ok(Snapshot {
            policies,
            sas,
            waiting,
            foreign: (foreign_policies, foreign_sas),
        })
    }

    async fn remove_sas(&mut self, names: &[SaName]) -> Vec<Result<(), DataPlaneError>> {
        self.delete_sas(names).await
    }

    async fn usage(&mut self, names: &[SaName]) -> Vec<Option<SaStatus>> {
        let states = self.read_sas(names).await;
        states
            .into_iter()
            .map(|state| state.ok().flatten().and_then(|state| convert::sa_status(&state)))
            .collect()
    }

    fn keeps_mappings_open(&self) -> bool {
        self.features.keepalive
    }

    async fn next_event(&mut self) -> DataPlaneEvent {
        loop {
            if let Some(event) = data_plane_event(self.events.next().await) {
                return event;
            }
        }
    }
}

/// `None` for the end of a larval SA, which has no SPI: traffic that still waits sends another ACQUIRE.
fn data_plane_event(event: Event) -> Option<DataPlaneEvent> {
    Some(match event {
        Event::Acquire {
            reqid,
            source,
            destination,
        } => DataPlaneEvent::Acquire {
            reqid: reqid.value(),
            source,
            destination,
        },
        Event::Expire { spi, hard, .. } => DataPlaneEvent::Expire {
            spi: EspSpi::new(spi)?,
            hard,
        },
        Event::Mapping { spi, remote, .. } => DataPlaneEvent::Mapping {
            spi: EspSpi::new(spi)?,
            remote,
        },
        Event::Overrun => DataPlaneEvent::Overrun,
    })
}

/// Set once, and only where somebody chose otherwise: it is a setting of the whole network namespace.
async fn set_thresholds(connection: &mut Connection) -> Result<(), XfrmError> {
    let replies = connection.execute_one(Request::read_hash_thresholds()).await?;
    if replies.contains(&Reply::HashThresholds(HashThresholds::HOSTS)) {
        return Ok(());
    }
    connection
        .execute_one(Request::set_hash_thresholds(HashThresholds::HOSTS))
        .await
        .map(drop)
}

/// One step of a plan: a request for the kernel, or what is settled without it.
type Step<T> = Result<Request, T>;

/// Asks what is to be asked, in batches; results in the order of the plan.
async fn carry_out<T>(
    connection: &mut Connection,
    plan: Vec<Step<T>>,
    finish: impl Fn(usize, Result<(), XfrmError>) -> T,
) -> Vec<T> {
    let mut requests = Vec::with_capacity(plan.len());
    let mut settled = Vec::with_capacity(plan.len());
    for step in plan {
        settled.push(match step {
            Ok(request) => {
                requests.push(request);
                None
            }
            Err(result) => Some(result),
        });
    }
    let mut outcomes = connection.execute(requests).await.into_iter();
    let mut next = || outcomes.next().map_or(Ok(()), |outcome| outcome.map(drop));
    settled
        .into_iter()
        .enumerate()
        .map(|(position, result)| result.unwrap_or_else(|| finish(position, next())))
        .collect()
}

fn refused(operation: &'static str, object: impl Into<String>, error: &XfrmError) -> DataPlaneError {
    let reason = if error.permission() {
        format!("{error}: the agent lacks CAP_NET_ADMIN in this network namespace")
    } else {
        error.to_string()
    };
    DataPlaneError {
        operation,
        object: object.into(),
        reason,
    }
}
