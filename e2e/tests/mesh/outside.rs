//! A host outside the cluster: a kernel of its own on the node network, without kubelet, with our agent on YAML files.

use std::{sync::Arc, time::Duration};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    interop::task::Task,
    lab::{Lab, Node, NodeOptions},
};

const NAME: &str = "outside";
const FOLDER: &str = "/tmp/outside";
const START: Duration = Duration::from_secs(20);

/// The running host. Dropping it takes it out of the lab.
pub(crate) struct Outside {
    lab: Arc<Lab>,
    node: Arc<Node>,
    agent: Option<Task>,
}

impl Outside {
    /// Boots it; its agent starts with [`Outside::run`].
    pub(crate) fn boot(lab: &Arc<Lab>) -> Result<Self> {
        let options = NodeOptions {
            plain: true,
            ..NodeOptions::default()
        };
        Ok(Self {
            lab: lab.clone(),
            node: lab.add_node(NAME, options)?,
            agent: None,
        })
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        self.node.address().to_string()
    }

    /// The host itself.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Writes a file of its manifests' folder; the agent sees that by itself.
    pub(crate) fn write(&self, path: &str, content: &str) -> Result<()> {
        let script =
            r#"umask 077; mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1.new" && mv "$1.new" "$1""#;
        let path = format!("{FOLDER}/manifests/{path}");
        self.node
            .run(&["sh", "-c", script, "sh", &path, content])
            .map(drop)
    }

    /// Takes a file away.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        self.node
            .run(&["rm", &format!("{FOLDER}/manifests/{path}")])
            .map(drop)
    }

    /// Starts the agent.
    pub(crate) fn run(&mut self) -> Result<()> {
        let program = self.lab.program_on_node("ipsecmesh-agent");
        let script = format!(
            "mkdir -p {FOLDER}/manifests; echo $$ >{FOLDER}/pid; exec {program} --manifests {FOLDER}/manifests --node-name \
             {NAME} --state-dir {FOLDER}/state --run-dir {FOLDER}/run >>{FOLDER}/agent.log 2>&1"
        );
        self.agent = Some(Task::start(self.node.channel(), "the agent outside", &script)?);
        eventually("the agent outside answers", START, || self.control("status"))
            .map(drop)
            .map_err(|error| Error::observed(format!("{error}\n{}", self.log())))
    }

    /// Kills the agent; SAs and policies stay in the kernel.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.node
            .run(&["sh", "-c", &format!("kill -9 $(cat {FOLDER}/pid)")])?;
        drop(self.agent.take());
        Ok(())
    }

    /// A command of the agent.
    pub(crate) fn control(&self, words: &str) -> Result<String> {
        let program = self.lab.program_on_node("ipsecmesh-agent");
        let line = format!("{program} {words} --run-dir {FOLDER}/run");
        self.node.run(&["sh", "-c", &line])
    }

    /// The end of the agent's log.
    pub(crate) fn log(&self) -> String {
        self.node
            .run(&["tail", "-n", "30", &format!("{FOLDER}/agent.log")])
            .unwrap_or_default()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.agent.take());
        // INVARIANT: a host that cannot be removed fails the next trial, which counts the lab's nodes.
        let _ = self.lab.remove_node(NAME);
    }
}
