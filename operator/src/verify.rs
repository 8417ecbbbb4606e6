//! `verify`: the chart's test. Every Ready Linux node has to have a Ready IPsecNode.

use std::time::Duration;

use ipsecmesh_crds::IPsecNode;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{Instant, sleep};

use crate::app::connect;
use crate::args::VerifyArgs;
use crate::plan::address::NodeFacts;
use crate::uninstall::say;
use crate::view;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// One line of the table.
#[derive(Debug, PartialEq)]
struct Line {
    node: String,
    ready: bool,
    message: String,
}

/// Runs the test.
pub(crate) async fn run(args: VerifyArgs) -> Result<(), String> {
    let client = connect().await?;
    let deadline = Instant::now() + args.timeout;
    loop {
        let lines = look(&client).await;
        let good = lines
            .as_ref()
            .is_ok_and(|lines| lines.iter().all(|line| line.ready));
        if !good && Instant::now() < deadline {
            sleep(PAUSE).await;
            continue;
        }
        let lines = lines.map_err(|error| format!("cannot read the API: {error}"))?;
        table(&lines);
        let missing = lines.iter().filter(|line| !line.ready).count();
        return if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} of {} nodes are not ready", lines.len()))
        };
    }
}

async fn look(client: &Client) -> Result<Vec<Line>, kube::Error> {
    let everything = ListParams::default();
    let agents = Api::<IPsecNode>::all(client.clone()).list(&everything).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&everything).await?;
    let nodes = nodes
        .iter()
        .map(NodeFacts::of)
        .filter(|node| node.linux && node.ready);
    Ok(nodes
        .map(|node| line(&node, agents.iter().find(|agent| agent.name_any() == node.name)))
        .collect())
}

fn line(node: &NodeFacts, agent: Option<&IPsecNode>) -> Line {
    let agent = agent.filter(|agent| agent.spec.node_uid == node.uid);
    let ready = agent.is_some_and(view::is_ready);
    let conditions = agent
        .and_then(|agent| agent.status.as_ref())
        .map(|status| status.conditions.as_slice());
    let condition = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let message = match (agent, condition) {
        (None, _) => "no IPsecNode: is an operator leading?".to_owned(),
        (Some(_), None) => "its agent has not reported".to_owned(),
        (Some(_), Some(condition)) => format!("{} {}", condition.reason, condition.message),
    };
    Line {
        node: node.name.clone(),
        ready,
        message: message.trim().to_owned(),
    }
}

fn table(lines: &[Line]) {
    let width = lines
        .iter()
        .map(|line| line.node.len())
        .max()
        .unwrap_or_default()
        .max(4);
    say(&format!("{:width$}  READY  MESSAGE", "NODE"));
    for line in lines {
        say(&format!(
            "{:width$}  {:5}  {}",
            line.node, line.ready, line.message
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_node_needs_its_own_ready_agent() {
        let node = NodeFacts {
            name: "a".to_owned(),
            uid: "1".to_owned(),
            ..NodeFacts::default()
        };
        let time = "2026-01-01T00:00:00Z";
        let condition = json!({"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": time});
        let agent: IPsecNode = serde_json::from_value(json!({
            "apiVersion": "ipsecmesh.io/v1alpha1", "kind": "IPsecNode", "metadata": {"name": "a"},
            "spec": {"nodeUID": "1"}, "status": {"conditions": [condition]},
        }))
        .expect("IPsecNode");
        assert!(line(&node, Some(&agent)).ready);
        let reborn = NodeFacts {
            uid: "2".to_owned(),
            ..node.clone()
        };
        assert!(!line(&reborn, Some(&agent)).ready);
        assert_eq!(line(&node, None).message, "no IPsecNode: is an operator leading?");
    }
}
