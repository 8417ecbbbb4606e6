//! SAs in the kernel: installed, removed, read and listed.

use ipsecmesh_ike::{EffectAction, EffectOutcome, SaName, SaSpec};
use ipsecmesh_xfrm::{Reply, Request, Sa, SaDirection, SaState, XfrmError};

use super::{KernelDataPlane, carry_out, convert, refused};
use crate::check::{NOT_IN_UDP, NOT_THERE};
use crate::{DataPlaneError, SaStatus, Waiting};

type Outcome = Result<(), DataPlaneError>;

/// Removals and moves must read before they write, installations need not: a batch holds one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Installation,
    Move,
    Removal,
}

impl Kind {
    pub(super) fn of(effect: &EffectAction) -> Self {
        match effect {
            EffectAction::InstallInbound(_) | EffectAction::InstallOutbound(_) => Self::Installation,
            EffectAction::Encapsulate(..) => Self::Move,
            EffectAction::RemoveInbound(_) | EffectAction::RemoveOutbound(_) => Self::Removal,
        }
    }
}

fn moved(effect: &EffectAction) -> Option<(SaName, (u16, u16))> {
    match effect {
        EffectAction::Encapsulate(name, ports) => Some((*name, *ports)),
        EffectAction::InstallInbound(_)
        | EffectAction::InstallOutbound(_)
        | EffectAction::RemoveInbound(_)
        | EffectAction::RemoveOutbound(_) => None,
    }
}

fn removed(effect: &EffectAction) -> Option<SaName> {
    match effect {
        EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => Some(*name),
        EffectAction::InstallInbound(_)
        | EffectAction::InstallOutbound(_)
        | EffectAction::Encapsulate(..) => None,
    }
}

fn installed(effect: &EffectAction) -> Option<(&SaSpec, SaDirection)> {
    match effect {
        EffectAction::InstallInbound(spec) => Some((spec, SaDirection::In)),
        EffectAction::InstallOutbound(spec) => Some((spec, SaDirection::Out)),
        EffectAction::RemoveInbound(_) | EffectAction::RemoveOutbound(_) | EffectAction::Encapsulate(..) => {
            None
        }
    }
}

impl KernelDataPlane {
    pub(super) async fn install_effects(&mut self, effects: &[EffectAction]) -> Vec<EffectOutcome> {
        let plan = effects.iter().filter_map(installed).map(|(spec, direction)| {
            let sa: Result<Sa, String> = convert::sa(spec, direction);
            match sa {
                Ok(sa) => Ok(Request::add_sa(&sa, self.features)),
                Err(reason) => Err(EffectOutcome::Failed(format!("install SA: {reason}"))),
            }
        });
        let plan = plan.collect();
        carry_out(&mut self.connection, plan, |_, outcome| match outcome {
            Ok(()) => EffectOutcome::Done,
            Err(error) if error.exists() => EffectOutcome::SpiInUse,
            Err(error) => EffectOutcome::Failed(error.to_string()),
        })
        .await
    }

    /// Gives SAs of ours other UDP ports; the kernel keeps their keys and counters.
    pub(super) async fn move_effects(&mut self, effects: &[EffectAction]) -> Vec<EffectOutcome> {
        let (names, ports): (Vec<SaName>, Vec<(u16, u16)>) = effects.iter().filter_map(moved).unzip();
        let states = self.read_sas(&names).await;
        let failed = |reason: String| EffectOutcome::Failed(format!("encapsulate SA: {reason}"));
        let plan = states.into_iter().zip(ports).map(|(state, ports)| match state {
            Ok(Some(state)) => {
                Request::set_encapsulation(&state, ports).ok_or_else(|| failed(NOT_IN_UDP.into()))
            }
            Ok(None) => Err(failed(NOT_THERE.into())),
            Err(error) => Err(failed(error.to_string())),
        });
        let plan = plan.collect();
        carry_out(&mut self.connection, plan, |_, outcome| match outcome {
            Ok(()) => EffectOutcome::Done,
            Err(error) => EffectOutcome::Failed(error.to_string()),
        })
        .await
    }

    pub(super) async fn remove_effects(&mut self, effects: &[EffectAction]) -> Vec<EffectOutcome> {
        let names: Vec<SaName> = effects.iter().filter_map(removed).collect();
        let results = self.delete_sas(&names).await;
        let outcome = |result: Outcome| match result {
            Ok(()) => EffectOutcome::Done,
            Err(error) => EffectOutcome::Failed(error.to_string()),
        };
        results.into_iter().map(outcome).collect()
    }

    /// Deletes SAs that are there and ours; one that is not there counts as deleted.
    pub(super) async fn delete_sas(&mut self, names: &[SaName]) -> Vec<Outcome> {
        let states = self.read_sas(names).await;
        let plan = states.into_iter().zip(names).map(|(state, name)| match state {
            Ok(Some(_)) => Ok(Request::delete_sa(convert::sa_id(name))),
            Ok(None) => Err(Ok(())),
            Err(error) => Err(Err(refused("remove SA", convert::sa_text(name), &error))),
        });
        let finish = |position: usize, outcome: Result<(), XfrmError>| match outcome {
            Err(error) if !error.missing() => {
                Err(refused("remove SA", convert::sa_text(&names[position]), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        };
        carry_out(&mut self.connection, plan.collect(), finish).await
    }

    /// Reads SAs, in the same order; `None` where there is none of ours.
    pub(super) async fn read_sas(&mut self, names: &[SaName]) -> Vec<Result<Option<SaState>, XfrmError>> {
        let requests = names
            .iter()
            .map(|name| Request::read_sa(convert::sa_id(name)))
            .collect();
        let outcomes = self.connection.execute(requests).await;
        let state = |(outcome, name): (Result<Vec<Reply>, XfrmError>, &SaName)| match outcome {
            Ok(replies) => Ok(replies
                .into_iter()
                .find_map(Reply::into_sa)
                .filter(|state| ours(state, name))),
            Err(error) if error.missing() => Ok(None),
            Err(error) => Err(error),
        };
        outcomes.into_iter().zip(names).map(state).collect()
    }

    /// Our SAs, the traffic of ours that waits for one, and how many SAs are not ours.
    pub(super) async fn list_sas(&mut self) -> Result<(Vec<SaStatus>, Vec<Waiting>, usize), DataPlaneError> {
        let replies = self.connection.dump(Request::dump_sas()).await;
        let replies = replies.map_err(|error| refused("list", "SAs", &error))?;
        let (mut sas, mut waiting, mut foreign) = (Vec::new(), Vec::new(), 0);
        for state in replies.into_iter().filter_map(Reply::into_sa) {
            match (state.reqid, convert::sa_status(&state)) {
                (Some(_), Some(status)) => sas.push(status),
                (Some(reqid), None) => waiting.push(Waiting {
                    reqid: reqid.value(),
                    source: state.id.source,
                    destination: state.id.destination,
                }),
                (None, _) => foreign += 1,
            }
        }
        Ok((sas, waiting, foreign))
    }
}

/// The kernel finds an SA by destination and SPI alone; ours has our reqid and the source that we mean.
fn ours(state: &SaState, name: &SaName) -> bool {
    state.reqid.is_some() && state.id.source == name.source
}
