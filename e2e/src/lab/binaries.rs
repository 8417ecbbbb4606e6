//! What runs in the lab's pods and as its nodes' PID 1: built by cargo, copied so that a rebuild disturbs no running lab.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use super::command;
use crate::{
    error::{Context, Error, Result},
    protocol::Image,
};

/// Image of the traffic tool.
pub const TRAFFIC_IMAGE: &str = "lab.ipsecmesh.io/traffic:dev";
/// Image of the operator as the chart asks for it.
pub const OPERATOR_IMAGE: &str = "ghcr.io/ipsecmesh/operator:0.1.0";
/// Image of the agent as the chart asks for it.
pub const AGENT_IMAGE: &str = "ghcr.io/ipsecmesh/agent:0.1.0";
/// The data plane's conformance suite as a program.
pub const DATAPLANE_SUITE: &str = "conformance";
/// Unprivileged user of the operator's and the traffic tool's image.
const NON_ROOT: u32 = 65532;

/// Executables by name.
#[derive(Clone, Debug)]
pub struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    /// Builds the workspace's programs and copies them to `folder`.
    pub fn build(checkout: &Path, folder: &Path) -> Result<Self> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(checkout).args([
            "build",
            "--quiet",
            "--workspace",
            "--bins",
            // The data plane's suite: a trial runs it on a node's kernel.
            "--example",
            DATAPLANE_SUITE,
            "--message-format=json-render-diagnostics",
        ]);
        let messages = command::finish(&mut cargo, None)?;
        fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
        let mut found = BTreeMap::new();
        for artifact in messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        {
            let Some(executable) = artifact.executable else {
                continue;
            };
            let copy = folder.join(&artifact.target.name);
            let _ = fs::remove_file(&copy);
            fs::copy(&executable, &copy).context(|| format!("copy {}", executable.display()))?;
            found.insert(artifact.target.name, copy);
        }
        Ok(Self(found))
    }

    /// The path of a program.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .ok_or_else(|| Error::observed(format!("cargo built no {name}")))
    }

    /// What a kubelet runs for which image.
    pub fn images(&self) -> Result<BTreeMap<String, Image>> {
        let images = [
            (TRAFFIC_IMAGE, "ipsecmesh-traffic", Some(NON_ROOT)),
            (OPERATOR_IMAGE, "ipsecmesh-operator", Some(NON_ROOT)),
            (AGENT_IMAGE, "ipsecmesh-agent", None),
        ];
        images
            .into_iter()
            .filter(|(_, name, _)| self.0.contains_key(*name))
            .map(|(image, name, user)| {
                let binary = self.path(name)?.to_owned();
                Ok((
                    image.to_owned(),
                    Image {
                        binary,
                        arguments: Vec::new(),
                        user,
                    },
                ))
            })
            .collect()
    }
}

#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}
