//! The cluster that the trials share, and the steps that bring it to where a trial starts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    lab::{Lab, LabOptions, product},
    node_channel::Output,
    report::{self, Progress},
};

use crate::standing::Standing;

/// Nodes of the cluster.
pub(crate) const NODES: [&str; 3] = ["worker-1", "worker-2", "worker-3"];
/// A first reaction of the machinery.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// A rollout with all its phases, on a busy machine.
pub(crate) const ROLLOUT: Duration = Duration::from_mins(1);

/// Which lab of this checkout it is.
const INSTANCE: &str = "test";

/// The cluster, booted when the first trial asks for it.
#[derive(Default)]
pub(crate) struct World {
    lab: Mutex<Option<Arc<Lab>>>,
    table: Mutex<Vec<(String, String)>>,
}

impl World {
    /// Runs a trial and keeps its evidence and duration for the table.
    pub(crate) fn run(&self, name: &str, check: crate::Check) -> Result<()> {
        let start = Instant::now();
        let outcome = check(self);
        let took = start.elapsed().as_secs_f64();
        let evidence = match &outcome {
            Ok(evidence) => evidence.clone(),
            Err(_) => {
                self.repair();
                "FAILED".to_owned()
            }
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.push((name.to_owned(), format!("{took:6.1} s  {evidence}")));
        outcome.map(drop)
    }

    /// Shows what was seen, and removes the cluster.
    pub(crate) fn end(&self) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        report::table("What the trials saw", &table);
        if let Some(lab) = self.lab.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = lab.stop()
        {
            report::fail("removing the lab", &error);
        }
    }

    /// Which lab of this checkout it is.
    #[expect(clippy::unused_self, reason = "a world has one lab")]
    pub(crate) fn instance(&self) -> &'static str {
        INSTANCE
    }

    /// The booted cluster.
    pub(crate) fn lab(&self) -> Result<Arc<Lab>> {
        let mut lab = self.lab.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lab) = lab.as_ref() {
            return Ok(lab.clone());
        }
        let booted = Lab::start(&LabOptions::new(INSTANCE, 3), &Progress::quiet())?;
        *lab = Some(booted.clone());
        Ok(booted)
    }

    /// The product without a tunnel, and a pod on every node.
    pub(crate) fn clear_mesh(&self) -> Result<Pods> {
        let lab = self.product()?;
        lab.kubectl()
            .run(&["delete", "ipsectunnel", "--all", "--timeout=60s"])?;
        lab.wait_until_kernels_are_clean(ROLLOUT)?;
        self.pods()
    }

    /// A pod on every node.
    pub(crate) fn pods(&self) -> Result<Pods> {
        let lab = self.lab()?;
        let addresses = NODES
            .iter()
            .enumerate()
            .map(|(at, node)| pod(&lab, &pod_name(at), node))
            .collect::<Result<_>>()?;
        Ok(Pods { lab, addresses })
    }

    /// The product with its tunnel in force on all nodes, at rest, and a pod on every node.
    pub(crate) fn mesh(&self) -> Result<Pods> {
        let lab = self.product()?;
        let pods = self.pods()?;
        if lab
            .kubectl()
            .run(&["get", "ipsectunnel", "cluster-mesh"])
            .is_err()
        {
            lab.kubectl().apply(product::TUNNEL)?;
        }
        wait_ready(&lab, ROLLOUT)?;
        Standing::settled(&lab, ROLLOUT)?;
        Ok(pods)
    }

    /// After a failed trial: what the next ones start from. What cannot be repaired fails there, with its own words.
    fn repair(&self) {
        let lab = self.lab.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(lab) = lab else { return };
        if lab.kubectl().run(&["get", "--raw", "/readyz"]).is_err() {
            let _ = lab.start_api_server();
        }
        for node in lab.nodes() {
            if !NODES.contains(&node.name()) {
                let _ = lab.remove_node(node.name());
            } else if node.channel().wait_ready(SOON).is_err() {
                let _ = lab.start_node(node.name());
            }
            let _ = lab.heal(node.name());
        }
    }

    /// A cluster with our definitions.
    pub(crate) fn definitions(&self) -> Result<Arc<Lab>> {
        let lab = self.lab()?;
        if lab
            .kubectl()
            .run(&["get", "crd", "ipsectunnels.ipsecmesh.io"])
            .is_err()
        {
            lab.install_definitions()?;
        }
        Ok(lab)
    }

    /// A cluster with the product installed and Ready.
    pub(crate) fn product(&self) -> Result<Arc<Lab>> {
        let lab = self.definitions()?;
        let installed = lab
            .helm()
            .run(&["status", product::RELEASE, "-n", product::NAMESPACE])
            .is_ok();
        if !installed {
            lab.helm_chart("install", &[])?;
        }
        lab.wait_for_product()?;
        Ok(lab)
    }
}

/// What a pod of the trials does while nothing is asked of it.
const POD_ARGUMENTS: &[&str] = &["serve"];

/// Name of the pod on the node at this place in [`NODES`].
pub(crate) fn pod_name(at: usize) -> String {
    format!("trial-{}", at + 1)
}

/// The address of a running pod, started anew if its node lost it.
fn pod(lab: &Lab, name: &str, node: &str) -> Result<String> {
    let running = lab
        .node(node)?
        .channel()
        .pods()
        .map_err(|error| Error::observed(format!("the pods of {node}: {error}")))?;
    let known = lab
        .kubectl()
        .value(&["pod", name], "{.status.phase} {.status.podIP}")
        .unwrap_or_default();
    match known.split_once(' ') {
        Some(("Running", address))
            if running
                .iter()
                .any(|pod| pod.name == name && !pod.processes.is_empty()) =>
        {
            return Ok(address.to_owned());
        }
        Some(_) => drop(
            lab.kubectl()
                .run(&["delete", "pod", name, "--force", "--grace-period=0"])?,
        ),
        None => {}
    }
    lab.start_traffic_pod(name, node, POD_ARGUMENTS)
}

/// Waits until the tunnel of the README is Ready for the spec that it has now.
pub(crate) fn wait_ready(lab: &Lab, limit: Duration) -> Result<()> {
    let condition = |field: &str| format!("{{.status.conditions[?(@.type==\"Ready\")].{field}}}");
    let template = format!(
        "{} {} {{.metadata.generation}} {}",
        condition("status"),
        condition("observedGeneration"),
        condition("message")
    );
    eventually("cluster-mesh is Ready", limit, || {
        let said = lab.kubectl().value(&["ipsectunnel", "cluster-mesh"], &template)?;
        let words: Vec<&str> = said.splitn(4, ' ').collect();
        match words.as_slice() {
            ["True", observed, generation, ..] if observed == generation => Ok(()),
            _ => Err(Error::observed(said)),
        }
    })
}

/// The trials' pods, one per node.
pub(crate) struct Pods {
    lab: Arc<Lab>,
    /// In the order of [`NODES`].
    addresses: Vec<String>,
}

impl Pods {
    /// The cluster.
    pub(crate) fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    /// Address of the pod on the node at this place in [`NODES`].
    pub(crate) fn address(&self, at: usize) -> &str {
        &self.addresses[at]
    }

    /// Pings from one pod to another, `count` times, with a text as payload; all must come back.
    pub(crate) fn ping(&self, from: usize, to: usize, marker: &str, count: usize) -> Result<String> {
        let pattern: String = marker
            .bytes()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let count = count.to_string();
        let argv = [
            "ping",
            "-n",
            "-c",
            &count,
            "-i",
            "0.1",
            "-W",
            "2",
            "-s",
            "64",
            "-p",
            &pattern,
            &self.addresses[to],
        ];
        let node = self.lab.node(NODES[from])?;
        let output = node
            .channel()
            .run_in_pod_network("default", &pod_name(from), &argv)
            .and_then(Output::text);
        output
            .map_err(|error| Error::observed(format!("ping {} → {}: {error}", pod_name(from), pod_name(to))))
    }
}

/// Fails with the message unless the condition holds.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::observed(message()))
    }
}

/// The error of something that must fail, as text.
pub(crate) fn refusal<T>(outcome: Result<T>, what: &str) -> Result<String> {
    match outcome {
        Ok(_) => Err(Error::observed(format!("{what} was accepted"))),
        Err(error) => Ok(error.to_string()),
    }
}
