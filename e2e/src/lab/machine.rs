//! One real kernel without a cluster: for what two daemons say to each other in its network namespaces.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Network, Node, NodeOptions, Site, binaries::Binaries, checkout, clean_up_on_signal, folder, namespace,
    pki::Pki, prepare_folder, state, state::State, take_over,
};
use crate::{
    error::{Error, Result},
    protocol::{NodeConfig, PeerNode},
    report::Progress,
};

const NAME: &str = "machine";

/// A booted kernel. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    binaries: Binaries,
    node: Node,
    _network: Network,
}

impl Machine {
    /// Builds the workspace's programs and boots a kernel that can run them.
    pub fn boot(instance: &str, progress: &Progress) -> Result<Self> {
        let folder = folder(instance)?;
        take_over(&folder)?;
        prepare_folder(&folder)?;
        let namespace = namespace(instance)?;
        let state = Arc::new(State::create(&folder, &namespace)?);
        clean_up_on_signal(&folder)?;
        let build = || Binaries::build(&checkout()?, &folder.join("bin"));
        let booted = progress
            .step("build the product and the lab's programs", build)
            .and_then(|binaries| {
                let boot = || boot(&folder, &namespace, &binaries, &state);
                let (network, node) = progress.step("boot a kernel", boot)?;
                Ok((binaries, network, node))
            });
        let (binaries, network, node) = booted.inspect_err(|_| drop(state::sweep(&folder)))?;
        Ok(Self {
            folder,
            binaries,
            node,
            _network: network,
        })
    }

    /// Its kernel.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// A program of the workspace, as the node sees it.
    pub fn program(&self, name: &str) -> Result<String> {
        let path = self.binaries.path(name)?;
        Ok(NodeConfig::host_path(path).display().to_string())
    }

    /// A file or folder of the host, as the node sees it.
    pub fn seen(path: &Path) -> String {
        NodeConfig::host_path(path).display().to_string()
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it and removes what it made. Repeating it is harmless.
    pub fn stop(&self) -> Result<()> {
        state::sweep(&self.folder)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::report::fail("removing the machine", &error);
        }
    }
}

fn boot(folder: &Path, namespace: &str, binaries: &Binaries, state: &Arc<State>) -> Result<(Network, Node)> {
    let network = Network::create(namespace)?;
    let pki = Pki::create(&folder.join("pki"))?;
    let site = Site {
        folder,
        network: &network,
        pki: &pki,
        init: binaries.path("ipsecmesh-lab-node")?,
        images: BTreeMap::new(),
    };
    let options = NodeOptions {
        plain: true,
        ..NodeOptions::default()
    };
    let node = Node::create(1, NAME, options, &site, vec![PeerNode::numbered(NAME, 1)])?;
    node.boot(&network, state)?;
    node.wait_until_up().map_err(|error| {
        Error::observed(format!(
            "{error}\n{}",
            super::command::tail(&node.logs().join("node.log"))
        ))
    })?;
    Ok((network, node))
}
