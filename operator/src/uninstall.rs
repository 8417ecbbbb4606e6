//! `uninstall`: the chart's pre-delete hook. Asks the leader to take every tunnel back to cleartext, and waits until no
//! node holds anything of it, so that nothing is left behind without an agent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use ipsecmesh_crds::{IPsecNode, IPsecTunnel, Phase};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::app::connect;
use crate::args::UninstallArgs;
use crate::plan::address::NodeFacts;
use crate::plan::echo::names;
use crate::view;

/// What is waited for of one tunnel.
#[derive(Debug, PartialEq)]
struct Waiting {
    phase: Phase,
    /// The Ready nodes that have not followed to this phase.
    nodes: Vec<String>,
}

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the hook.
pub(crate) async fn run(args: UninstallArgs) -> Result<(), String> {
    let client = connect().await?;
    mark(&client, &args).await?;
    say("asked the operator to take all tunnels back to cleartext");
    let deadline = Instant::now() + args.timeout;
    let mut said = String::new();
    loop {
        let progress = match look(&client).await {
            Ok(waiting) if waiting.is_empty() => {
                say("no node holds anything of any tunnel");
                return Ok(());
            }
            Ok(waiting) => describe(&waiting),
            // The API server may be away for a moment; the hook has time.
            Err(error) => format!("cannot look: {error}"),
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "timed out after {} s: {progress}. Is an operator running (kubectl get lease -n {})? \
                 On a node whose agent is gone, run: ipsecmesh-agent flush",
                args.timeout.as_secs(),
                args.common.namespace
            ));
        }
        if progress != said {
            say(&progress);
            said = progress;
        }
        sleep(PAUSE).await;
    }
}

async fn mark(client: &Client, args: &UninstallArgs) -> Result<(), String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &args.common.namespace);
    let name = &args.common.lifecycle_config_map;
    let body = json!({"data": {"uninstall": "true"}});
    let result = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    let place = format!("{}/{name}", args.common.namespace);
    result.map(drop).map_err(|error| {
        format!("cannot mark ConfigMap {place}: {error}; name it with --namespace and --lifecycle-config-map")
    })
}

/// What is waited for: by tunnel, its phase and the Ready nodes that still hold something of it.
async fn look(client: &Client) -> Result<BTreeMap<String, Waiting>, kube::Error> {
    let everything = ListParams::default();
    let tunnels = Api::<IPsecTunnel>::all(client.clone()).list(&everything).await?;
    let agents = Api::<IPsecNode>::all(client.clone()).list(&everything).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&everything).await?;
    let ready: Vec<String> = nodes
        .iter()
        .map(NodeFacts::of)
        .filter(|node| node.linux && node.ready)
        .map(|node| node.name)
        .collect();
    let agents: Vec<IPsecNode> = agents
        .items
        .into_iter()
        .filter(|agent| ready.contains(&agent.name_any()))
        .collect();
    Ok(tunnels
        .iter()
        .filter_map(|tunnel| waiting(tunnel, &agents))
        .collect())
}

/// A tunnel that is not gone from all nodes yet; one that never started is on none.
fn waiting(tunnel: &IPsecTunnel, agents: &[IPsecNode]) -> Option<(String, Waiting)> {
    let (generation, phase) = view::rollout(tunnel)?;
    let name = tunnel.name_any();
    let holds = |agent: &&IPsecNode| match view::echo(agent, &name) {
        Some(echo) => echo.phase != phase || echo.generation != generation,
        None => false,
    };
    let holders: Vec<String> = agents
        .iter()
        .filter(holds)
        .map(kube::ResourceExt::name_any)
        .collect();
    (phase != Phase::Removing || !holders.is_empty()).then_some((
        name,
        Waiting {
            phase,
            nodes: holders,
        },
    ))
}

fn describe(waiting: &BTreeMap<String, Waiting>) -> String {
    let one = |(tunnel, waiting): (&String, &Waiting)| {
        let phase = waiting.phase;
        if waiting.nodes.is_empty() {
            format!("{tunnel}: {phase}")
        } else {
            format!("{tunnel}: {phase}, waiting for {}", names(&waiting.nodes))
        }
    };
    waiting.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Progress goes to standard output: Helm shows it.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reads it when the pipe is closed.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tunnel(phase: Option<&str>) -> IPsecTunnel {
        let mut value = json!({
            "apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecTunnel", "metadata": {"name": "mesh"}, "spec": {},
        });
        if let Some(phase) = phase {
            value["status"] = json!({"rollout": {"generation": 2, "phase": phase}, "conditions": []});
        }
        serde_json::from_value(value).expect("IPsecTunnel")
    }

    fn agent(name: &str, phase: &str) -> IPsecNode {
        let rollout = json!({"generation": 2, "phase": phase});
        let peers = json!({"desired": 0, "established": 0, "idle": 0, "failed": 0});
        let report = json!({"name": "mesh", "rollout": rollout, "programmed": false, "peers": peers});
        serde_json::from_value(json!({
            "apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecNode", "metadata": {"name": name},
            "spec": {"nodeUID": "u"}, "status": {"tunnels": [report]},
        }))
        .expect("IPsecNode")
    }

    #[test]
    fn the_hook_waits_for_every_echo_of_removing() {
        let agents = [agent("a", "Removing"), agent("b", "Releasing")];
        assert_eq!(waiting(&tunnel(None), &agents), None);
        let found = BTreeMap::from_iter(waiting(&tunnel(Some("Removing")), &agents));
        assert_eq!(describe(&found), "mesh: Removing, waiting for b");
        assert_eq!(waiting(&tunnel(Some("Removing")), &agents[..1]), None);
        let found = BTreeMap::from_iter(waiting(&tunnel(Some("Draining")), &agents[1..]));
        assert_eq!(describe(&found), "mesh: Draining, waiting for b");
    }
}
