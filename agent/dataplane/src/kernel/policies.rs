//! Policies in the kernel: added, replaced, touched, removed and listed.

use ipsecmesh_xfrm::{Policy as XfrmPolicy, PolicyIndex, PolicyState, Reply, Request, XfrmError};

use super::{KernelDataPlane, carry_out, convert, refused};
use crate::spec::{Policy, PolicyKey};
use crate::{DataPlaneError, check};

type Outcome = Result<(), DataPlaneError>;
type Standing = Result<Option<PolicyState>, DataPlaneError>;

impl KernelDataPlane {
    /// Adds policies; where a selector is taken by one of ours, replaces it. Adding first: most are new.
    pub(super) async fn put(&mut self, policies: &[Policy]) -> Vec<Outcome> {
        let mut offered = Vec::with_capacity(policies.len());
        let mut plan = Vec::with_capacity(policies.len());
        for policy in policies {
            let added = self.addition(policy);
            offered.push(added.as_ref().ok().map(|added| added.index));
            plan.push(match added {
                Ok(added) => Ok(Request::add_policy(added)),
                Err(error) => Err(Err(Ok(error))),
            });
        }
        // The inner error tells a refusal of ours from one of the kernel.
        let outcomes: Vec<Result<(), Result<DataPlaneError, XfrmError>>> =
            carry_out(&mut self.connection, plan, |_, outcome| outcome.map_err(Err)).await;
        for (outcome, offered) in outcomes.iter().zip(offered) {
            if let (Err(_), Some(index)) = (outcome, offered) {
                self.indexes.free(index);
            }
        }
        self.replace_where_taken(policies, outcomes).await
    }

    /// Writes policies of ours once more with what the kernel has.
    pub(super) async fn touch(&mut self, keys: &[PolicyKey]) -> Vec<Outcome> {
        let standing = self.read(keys).await;
        let plan = standing
            .into_iter()
            .zip(keys)
            .map(|(standing, key)| match standing {
                Ok(Some(PolicyState::Ours(policy))) => Ok(Request::update_policy(policy)),
                Ok(Some(other)) => Err(Err(taken("touch policy", *key, &other))),
                Ok(None) => Err(Err(missing(*key))),
                Err(error) => Err(Err(error)),
            });
        let refuse = |position: usize, outcome: Result<(), XfrmError>| {
            outcome.map_err(|error| refused("touch policy", convert::text(keys[position]), &error))
        };
        carry_out(&mut self.connection, plan.collect(), refuse).await
    }

    /// Deletes policies of ours by their index; a foreign one with the same selector stays.
    pub(super) async fn remove(&mut self, keys: &[PolicyKey]) -> Vec<Outcome> {
        let standing = self.read(keys).await;
        let mut plan = Vec::with_capacity(keys.len());
        let mut freed = Vec::with_capacity(keys.len());
        for standing in standing {
            let ours = match &standing {
                Ok(Some(PolicyState::Ours(policy))) => Some(*policy),
                Ok(_) | Err(_) => None,
            };
            freed.push(ours.map(|policy| policy.index));
            plan.push(match ours {
                Some(policy) => Ok(Request::delete_policy(policy.direction, policy.index)),
                None => Err(standing.map(drop)),
            });
        }
        let refuse = |position: usize, outcome: Result<(), XfrmError>| match outcome {
            Err(error) if !error.missing() => {
                Err(refused("remove policy", convert::text(keys[position]), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        };
        let outcomes = carry_out(&mut self.connection, plan, refuse).await;
        for (outcome, index) in outcomes.iter().zip(freed) {
            if let (Ok(()), Some(index)) = (outcome, index) {
                self.indexes.free(index);
            }
        }
        outcomes
    }

    /// Our policies, and how many are not ours. What is known about indexes is learnt anew.
    pub(super) async fn list_policies(&mut self) -> Result<(Vec<Policy>, usize), DataPlaneError> {
        let states = self.dump_policies().await?;
        let foreign = states
            .iter()
            .filter(|state| matches!(state, PolicyState::Foreign { .. }))
            .count();
        Ok((
            states.iter().filter_map(ours).map(convert::from_kernel).collect(),
            foreign,
        ))
    }

    pub(super) async fn dump_policies(&mut self) -> Result<Vec<PolicyState>, DataPlaneError> {
        let replies = self.connection.dump(Request::dump_policies()).await;
        let replies = replies.map_err(|error| refused("list", "policies", &error))?;
        let states: Vec<PolicyState> = replies.into_iter().filter_map(Reply::into_policy).collect();
        self.indexes.replace(states.iter().filter_map(index));
        Ok(states)
    }

    fn addition(&mut self, policy: &Policy) -> Result<XfrmPolicy, DataPlaneError> {
        let failed = |reason: String| DataPlaneError {
            operation: "install policy",
            object: convert::text(policy.key),
            reason,
        };
        check::policy(policy).map_err(failed)?;
        let index = self.indexes.take(convert::direction(policy.key.direction));
        let index = index.ok_or_else(|| failed("all policy indexes of our range are taken".into()))?;
        convert::to_kernel(policy, index).map_err(failed)
    }

    async fn replace_where_taken(
        &mut self,
        policies: &[Policy],
        outcomes: Vec<Result<(), Result<DataPlaneError, XfrmError>>>,
    ) -> Vec<Outcome> {
        let exists = |outcome: &Result<(), Result<DataPlaneError, XfrmError>>| matches!(outcome, Err(Err(error)) if error.exists());
        let positions: Vec<usize> = (0..outcomes.len())
            .filter(|position| outcomes.get(*position).is_some_and(exists))
            .collect();
        let clashing: Vec<Policy> = positions.iter().map(|position| policies[*position]).collect();
        let mut results: Vec<Outcome> = outcomes
            .into_iter()
            .zip(policies)
            .map(|(outcome, policy)| {
                outcome.map_err(|error| {
                    error.unwrap_or_else(|error| refused("install policy", convert::text(policy.key), &error))
                })
            })
            .collect();
        for (position, result) in positions.into_iter().zip(self.replace(&clashing).await) {
            results[position] = result;
        }
        results
    }

    /// Replaces policies whose selector is taken, where the one that stands is ours.
    async fn replace(&mut self, policies: &[Policy]) -> Vec<Outcome> {
        let keys: Vec<PolicyKey> = policies.iter().map(|policy| policy.key).collect();
        let standing = self.read(&keys).await;
        let plan = standing
            .into_iter()
            .zip(policies)
            .map(|(standing, policy)| match standing {
                Ok(Some(PolicyState::Ours(old))) => match convert::to_kernel(policy, old.index) {
                    Ok(new) => Ok(Request::update_policy(new)),
                    Err(reason) => Err(Err(DataPlaneError {
                        operation: "install policy",
                        object: convert::text(policy.key),
                        reason,
                    })),
                },
                Ok(Some(other)) => Err(Err(taken("install policy", policy.key, &other))),
                Ok(None) => Err(Err(missing(policy.key))),
                Err(error) => Err(Err(error)),
            });
        let refuse = |position: usize, outcome: Result<(), XfrmError>| {
            outcome.map_err(|error| refused("update policy", convert::text(keys[position]), &error))
        };
        carry_out(&mut self.connection, plan.collect(), refuse).await
    }

    /// Reads what stands at selectors, in the same order.
    async fn read(&mut self, keys: &[PolicyKey]) -> Vec<Standing> {
        let requests = keys.iter().map(|key| {
            Request::read_policy(
                convert::direction(key.direction),
                convert::selector(&key.selector),
            )
        });
        let outcomes = self.connection.execute(requests.collect()).await;
        let standing = |(outcome, key): (Result<Vec<Reply>, XfrmError>, &PolicyKey)| match outcome {
            Ok(replies) => Ok(replies.into_iter().find_map(Reply::into_policy)),
            Err(error) if error.missing() => Ok(None),
            Err(error) => Err(refused("read policy", convert::text(*key), &error)),
        };
        outcomes.into_iter().zip(keys).map(standing).collect()
    }
}

fn ours(state: &PolicyState) -> Option<&XfrmPolicy> {
    match state {
        PolicyState::Ours(policy) => Some(policy),
        PolicyState::Foreign { .. } | PolicyState::Socket => None,
    }
}

/// An index of our range, even on a policy that this version cannot read.
fn index(state: &PolicyState) -> Option<PolicyIndex> {
    match state {
        PolicyState::Ours(policy) => Some(policy.index),
        PolicyState::Foreign { index, .. } => PolicyIndex::new(*index),
        PolicyState::Socket => None,
    }
}

fn taken(operation: &'static str, key: PolicyKey, state: &PolicyState) -> DataPlaneError {
    let reason = match state {
        PolicyState::Foreign { index, priority } => format!(
            "a policy that is not ours has the same selector (index {index}, priority {priority}): the kernel holds one \
             per direction and selector; remove it with `ip xfrm policy delete dir {} index {index}`",
            convert::direction_word(key.direction)
        ),
        PolicyState::Ours(_) | PolicyState::Socket => "the kernel answered with another policy".into(),
    };
    DataPlaneError {
        operation,
        object: convert::text(key),
        reason,
    }
}

fn missing(key: PolicyKey) -> DataPlaneError {
    DataPlaneError {
        operation: "update policy",
        object: convert::text(key),
        reason: "it is not in the kernel any more: somebody removed it".into(),
    }
}
