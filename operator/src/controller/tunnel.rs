//! Tunnels: memberships, phases, conditions. Reads the stores, plans, writes what differs.

mod credentials;
mod findings;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{TryStreamExt as _, stream};
use ipsecmesh_crds::peer::{Membership, Side};
use ipsecmesh_crds::tunnel::{FailurePolicy, RolloutMode};
use ipsecmesh_crds::{FINALIZER, IPsecNode, IPsecPeer, IPsecTunnel, Phase, phase};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};

use crate::apply::Error;
use crate::context::Context;
use crate::controller::tunnel::findings::References;
use crate::pki::sealing::Sealing;
use crate::plan::address::NodeFacts;
use crate::plan::echo::{Expected, Follower, Lag, Sas};
use crate::plan::membership::{FarSide, peer_counts, plan_members};
use crate::plan::overlay::Encapsulation;
use crate::plan::rollout::{BLOCKED_AFTER, DRAIN, Goal, Situation, needs_drain, next_phase};
use crate::plan::teardown::{Teardown, teardown};
use crate::plan::transition::transition;
use crate::verdict::Findings;
use crate::view;

/// The writes of one membership change that are under way at once.
const WRITERS: usize = 16;

/// A tunnel and everything that the plans read for it.
struct Look<'a> {
    context: &'a Context,
    tunnel: &'a IPsecTunnel,
    name: String,
    far: FarSide,
    nodes: BTreeMap<String, NodeFacts>,
    peers: BTreeMap<String, Arc<IPsecPeer>>,
    agents: BTreeMap<String, Arc<IPsecNode>>,
    members: BTreeMap<String, Membership>,
    overlay: BTreeMap<Encapsulation, Option<Phase>>,
    references: References,
    sealings: BTreeMap<String, Sealing>,
    uninstalling: bool,
}

/// One look at one tunnel.
pub(crate) async fn reconcile(tunnel: Arc<IPsecTunnel>, context: Arc<Context>) -> Result<Action, Error> {
    let deleting = tunnel.metadata.deletion_timestamp.is_some();
    let guarded = tunnel.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let api: Api<IPsecTunnel> = Api::all(context.client.clone());
    if deleting && !guarded {
        return Ok(Action::await_change());
    }
    if !guarded {
        // The write comes back as a change and starts the next look.
        context.writer().set_finalizer(&api, &*tunnel, true).await?;
        return Ok(Action::await_change());
    }
    let mut look = Look::new(&context, &tunnel);
    let (mut findings, selected) = look.findings();
    look.sealings = look.sealings(&selected);
    let plan = look.plan(&mut findings, selected);
    credentials::write(&look, &plan.members).await?;
    write_members(&look, &plan.members).await?;
    if plan.done {
        context.writer().set_finalizer(&api, &*tunnel, false).await?;
        context.forget(&look.name);
        context.metrics.forget_tunnel(&look.name);
        tracing::info!(tunnel = look.name, "nothing of the tunnel is left");
        return Ok(Action::await_change());
    }
    match look.publish(&api, &findings, &plan).await {
        // The last look has ended it; this one worked on what the watch had not told yet.
        Err(error) if deleting && error.is_not_found() => return Ok(Action::await_change()),
        published => published?,
    }
    Ok(plan.again.map_or_else(Action::await_change, Action::requeue))
}

/// What is to be written.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Plan {
    goal: Goal,
    in_transition: bool,
    members: BTreeMap<String, Membership>,
    rollout: Option<(i64, Phase)>,
    overlay: BTreeMap<Encapsulation, Option<Phase>>,
    selected: BTreeMap<String, Side>,
    followers: Vec<Follower>,
    lags: BTreeMap<String, Lag>,
    expected: Option<Expected>,
    blocked: bool,
    timed_out: bool,
    done: bool,
    again: Option<Duration>,
}

impl<'a> Look<'a> {
    fn new(context: &'a Context, tunnel: &'a IPsecTunnel) -> Self {
        let stores = context.stores();
        let name = tunnel.name_any();
        let facts = stores
            .nodes
            .state()
            .into_iter()
            .map(|node| NodeFacts::of(&node))
            .filter(|node| node.linux);
        let nodes: BTreeMap<String, NodeFacts> = facts.map(|node| (node.name.clone(), node)).collect();
        let is_of_node = |node: &str, uid: &str| nodes.get(node).is_some_and(|known| known.uid == uid);
        let peers = stores
            .peers
            .state()
            .into_iter()
            .filter(|peer| is_of_node(&peer.name_any(), &peer.spec.node_uid));
        let peers: BTreeMap<String, Arc<IPsecPeer>> = peers.map(|peer| (peer.name_any(), peer)).collect();
        let agents = stores.agents.state().into_iter();
        let agents = agents.filter(|agent| is_of_node(&agent.name_any(), &agent.spec.node_uid));
        let agents = agents.map(|agent| (agent.name_any(), agent)).collect();
        let members = peers.iter().filter_map(|(node, peer)| {
            let membership = peer
                .spec
                .memberships
                .iter()
                .find(|membership| membership.tunnel == name)?;
            Some((node.clone(), membership.clone()))
        });
        let marker = stores.config_maps.get(&context.lifecycle());
        let marker = marker.is_some_and(|config| {
            let value = config.data.as_ref().and_then(|data| data.get("uninstall"));
            value.is_some_and(|value| value == "true")
        });
        Self {
            context,
            tunnel,
            far: view::far_side(&tunnel.spec),
            members: members.collect(),
            overlay: view::published_overlay(tunnel),
            references: References::default(),
            sealings: BTreeMap::new(),
            uninstalling: marker,
            name,
            nodes,
            peers,
            agents,
        }
    }

    fn goal(&self) -> Goal {
        if self.tunnel.metadata.deletion_timestamp.is_some() || self.uninstalling {
            Goal::Remove
        } else if self.tunnel.spec.failure_policy == FailurePolicy::Allow {
            Goal::Permit
        } else {
            Goal::Enforce
        }
    }
}

impl Look<'_> {
    /// The next state of everything that is published. Refines `findings` by what is only known here.
    fn plan(&self, findings: &mut Findings, selected: BTreeMap<String, Side>) -> Plan {
        let goal = self.goal();
        let keeps = self.tunnel.spec.suspend || findings.accepted.is_some() || findings.refs.is_some();
        let moves = goal == Goal::Remove || !keeps;
        let wanted = if goal == Goal::Remove || keeps {
            self.sides()
        } else {
            selected.clone()
        };
        let entries = if goal == Goal::Remove || keeps {
            self.overlay.keys().copied().collect()
        } else {
            self.encapsulations(&selected).unwrap_or_else(|problem| {
                findings.programmed.get_or_insert(problem);
                self.overlay.keys().copied().collect()
            })
        };
        let rollout = view::rollout(self.tunnel);
        // Without nodes or traffic there is nothing to roll out yet.
        let no_traffic = entries.is_empty() && self.far == FarSide::Nodes;
        let idle = rollout.is_none() && (goal == Goal::Remove || wanted.is_empty() || no_traffic);
        let phase = rollout.map(|(_, phase)| phase).unwrap_or_default();
        let rest = plan_members(
            &self.name,
            &self.members,
            &self.published_only(&wanted),
            phase,
            false,
        );
        let edited = self.is_edited();
        let settled =
            rest == self.members && transition(&self.overlay, &entries, phase, false) == self.overlay;
        let expected = rollout.map(|(generation, phase)| self.expected(generation, phase));
        let followers = self.followers(&selected, &rest);
        let lags = self.lags(&followers, expected.as_ref(), goal);
        let acked =
            settled && !edited && expected.is_some() && lags.is_empty() && findings.distrust.is_none();
        let acknowledged = self.acknowledged(expected.as_ref(), acked);
        let overrides: Vec<Phase> = self.overrides_in_force();
        let drains = needs_drain(phase, overrides.iter().copied());
        let drained = acknowledged.is_some_and(|time| time >= DRAIN);
        let step = acked && moves && (!drains || drained);
        let mut plan = Plan {
            members: self.members.clone(),
            rollout,
            overlay: self.overlay.clone(),
            in_transition: !overrides.is_empty() || !settled,
            goal,
            selected,
            followers,
            lags,
            expected,
            blocked: false,
            timed_out: false,
            done: false,
            again: None,
        };
        if idle || !moves {
            plan.done = self.is_deleted() && idle;
            return plan;
        }
        if goal != Goal::Remove {
            plan.members = plan_members(
                &self.name,
                &self.members,
                &self.published_only(&wanted),
                phase,
                step,
            );
            plan.overlay = transition(&self.overlay, &entries, phase, step);
        }
        let gated = self.tunnel.spec.rollout == RolloutMode::Gated;
        let situation = Situation {
            phase: rollout.map(|(_, phase)| phase),
            goal,
            gated,
            acknowledged,
        };
        let next = next_phase(situation);
        let restarts = phase == Phase::Removing && next == Phase::Permissive;
        let generation = rollout.map_or(1, |(generation, _)| generation + i64::from(edited || restarts));
        plan.rollout = Some((generation, next));
        plan.again = acknowledged
            .filter(|_| drains)
            .and_then(|time| DRAIN.checked_sub(time))
            .filter(|t| !t.is_zero());
        self.watch_the_clock(&mut plan, acked);
        if plan.rollout != rollout {
            // What the nodes have echoed was about another phase: nobody follows this one yet.
            plan.expected = Some(self.expected(generation, next));
            plan.lags = self.lags(&plan.followers, plan.expected.as_ref(), goal);
        }
        plan
    }

    /// Ends what waits too long: a rollout is called blocked, a teardown goes on without the nodes that do not follow.
    fn watch_the_clock(&self, plan: &mut Plan, acked: bool) {
        let phase = plan.rollout.map(|(_, phase)| phase);
        if plan.goal == Goal::Remove {
            let since = self.going_since();
            let published = view::rollout(self.tunnel).map(|(_, phase)| phase);
            // Members go only when all have acknowledged. A look that wrote that and failed afterwards, on a conflict
            // at the finalizer for example, has left nobody who could acknowledge it once more.
            let acked = acked || self.members.is_empty();
            let state = teardown(published, acked, since);
            plan.timed_out = state == Teardown::TimedOut;
            if plan.timed_out {
                plan.rollout = plan.rollout.map(|(generation, _)| (generation, Phase::Removing));
            }
            plan.done = self.is_deleted() && state != Teardown::Wait;
            if plan.done {
                plan.members.clear();
            }
            plan.again = plan.again.or(Some(Duration::from_secs(30)));
            return;
        }
        let target = if plan.goal == Goal::Permit {
            Phase::Permissive
        } else {
            Phase::Enforcing
        };
        let arrived = phase == Some(target) && !plan.in_transition;
        let state = format!("{:?} {}", plan.expected, arrived || acked);
        let waits = self.context.lasting("rollout", &self.name, &state);
        if !arrived && !acked {
            plan.blocked = waits >= BLOCKED_AFTER;
            plan.again = plan
                .again
                .or_else(|| BLOCKED_AFTER.checked_sub(waits).filter(|left| !left.is_zero()));
        }
    }

    fn is_deleted(&self) -> bool {
        self.tunnel.metadata.deletion_timestamp.is_some()
    }

    /// Since when the tunnel is on its way out.
    fn going_since(&self) -> Duration {
        match &self.tunnel.metadata.deletion_timestamp {
            Some(time) => Timestamp::now()
                .duration_since(time.0)
                .try_into()
                .unwrap_or_default(),
            None => self.context.lasting("uninstall", &self.name, "on"),
        }
    }

    /// Whether the spec is another one than the one that is published.
    fn is_edited(&self) -> bool {
        let observed = self
            .tunnel
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        observed.is_some() && observed != self.tunnel.metadata.generation
    }

    /// The present members' sides.
    fn sides(&self) -> BTreeMap<String, Side> {
        self.members
            .iter()
            .map(|(node, membership)| (node.clone(), membership.side))
            .collect()
    }

    /// Only a node with a directory entry can be a member.
    fn published_only(&self, sides: &BTreeMap<String, Side>) -> BTreeMap<String, Side> {
        let known = sides.iter().filter(|(node, _)| self.peers.contains_key(*node));
        known.map(|(node, side)| (node.clone(), *side)).collect()
    }

    fn expected(&self, generation: i64, phase: Phase) -> Expected {
        let peers = self.context.stores().peers.state();
        let names: Vec<(String, Arc<IPsecPeer>)> =
            peers.into_iter().map(|peer| (peer.name_any(), peer)).collect();
        let specs = names.iter().map(|(name, peer)| (name.as_str(), &peer.spec));
        let overlay = view::effective_overlay(&self.overlay);
        Expected {
            generation,
            phase,
            transition: phase::transition_hash(phase::overrides(&self.name, &overlay, specs)),
        }
    }

    fn overrides_in_force(&self) -> Vec<Phase> {
        let members = self.members.values().filter_map(|membership| membership.phase);
        members
            .chain(self.overlay.values().filter_map(|phase| *phase))
            .collect()
    }

    /// All nodes that take part, those on their way out included.
    fn followers(
        &self,
        selected: &BTreeMap<String, Side>,
        planned: &BTreeMap<String, Membership>,
    ) -> Vec<Follower> {
        let counts = peer_counts(&self.sides(), self.far);
        let all: BTreeSet<&String> = selected.keys().chain(self.members.keys()).collect();
        let follower = |name: &String| {
            let agent = self.agents.get(name).map(Arc::as_ref);
            let no_address = (!self.peers.contains_key(name)).then(|| {
                let message = format!("{name} has no usable InternalIP: kubectl describe ipsecnode {name}");
                ("AddressConflict".to_owned(), message)
            });
            Follower {
                name: name.clone(),
                ready: self.nodes.get(name).is_some_and(|node| node.ready),
                published: planned.get(name) == self.members.get(name) && self.has_credentials(name),
                peers: counts.get(name).copied().unwrap_or_default(),
                trouble: no_address
                    .or_else(|| view::trouble(name, agent))
                    .or_else(|| self.sealing_trouble(name)),
                echo: agent.and_then(|agent| view::echo(agent, &self.name)),
            }
        };
        all.into_iter().map(follower).collect()
    }

    /// The Ready nodes that do not follow, with the cause.
    fn lags(&self, followers: &[Follower], expected: Option<&Expected>, goal: Goal) -> BTreeMap<String, Lag> {
        let Some(expected) = expected else {
            return BTreeMap::new();
        };
        let spec = &self.tunnel.spec;
        let most = followers
            .iter()
            .map(|follower| follower.peers)
            .max()
            .unwrap_or_default();
        let rises =
            expected.phase == Phase::Permissive || self.overrides_in_force().contains(&Phase::Permissive);
        let with_sas = goal == Goal::Enforce && rises && spec.child_sa.initiation.is_eager(most);
        let ready: BTreeSet<&str> = followers
            .iter()
            .filter(|f| f.ready)
            .map(|f| f.name.as_str())
            .collect();
        let sas = match (with_sas, self.far) {
            (false, _) => Sas::Any,
            (true, FarSide::External) => Sas::WithExternal,
            (true, FarSide::Nodes) => Sas::WithReady {
                ready: &ready,
                unready: followers.len() - ready.len(),
            },
        };
        let lag = |follower: &Follower| Some((follower.name.clone(), follower.lag(expected, sas)?));
        followers
            .iter()
            .filter(|follower| follower.ready)
            .filter_map(lag)
            .collect()
    }

    /// For how long all have acknowledged what is published.
    fn acknowledged(&self, expected: Option<&Expected>, acked: bool) -> Option<Duration> {
        let state = if acked {
            format!("{expected:?}")
        } else {
            String::new()
        };
        let time = self.context.lasting("acknowledged", &self.name, &state);
        acked.then_some(time)
    }
}

/// Writes the memberships that differ into the directory.
async fn write_members(look: &Look<'_>, planned: &BTreeMap<String, Membership>) -> Result<(), Error> {
    let api: Api<IPsecPeer> = Api::all(look.context.client.clone());
    let changed = look
        .peers
        .iter()
        .filter(|(node, _)| planned.get(*node) != look.members.get(*node));
    let writes = changed.map(|(node, peer)| {
        let mut next = IPsecPeer::clone(peer);
        next.spec
            .memberships
            .retain(|membership| membership.tunnel != look.name);
        next.spec.memberships.extend(planned.get(node).cloned());
        next.spec.memberships.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
        let api = &api;
        async move { look.context.writer().apply(api, &next).await.map(drop) }
    });
    let writes: Vec<_> = writes.collect();
    stream::iter(writes.into_iter().map(Ok))
        .try_for_each_concurrent(WRITERS, |write| write)
        .await
}
