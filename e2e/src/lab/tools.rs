//! A user's own commands, run as a user would: kubectl and helm.

use std::{
    ffi::OsString,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::command;
use crate::error::{Context, Error, Result, eventually};

/// kubectl with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Kubectl {
    /// Links kubectl into the lab's folder; its caches stay there too.
    pub fn new(folder: &Path, controlplane: &Path, kubeconfig: &Path) -> Result<Self> {
        let program = folder.join("bin/kubectl");
        let _ = std::fs::remove_file(&program);
        symlink(controlplane, &program).context(|| format!("link {}", program.display()))?;
        Ok(Self {
            program,
            environment: vec![
                ("KUBECONFIG", kubeconfig.into()),
                ("KUBECACHEDIR", folder.join("cache/kube").into()),
                ("KUBECTL_KUBERC", "false".into()),
            ],
        })
    }

    /// The same kubectl as somebody else.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: &Path) -> Self {
        let mut other = self.clone();
        for (name, value) in &mut other.environment {
            if *name == "KUBECONFIG" {
                *value = kubeconfig.into();
            }
        }
        other
    }

    /// Path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs kubectl; standard output is the result.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::finish(&mut self.command(arguments), None)
    }

    /// Runs kubectl with a manifest on standard input (`-f -` is added).
    pub fn with_manifest(&self, arguments: &[&str], manifest: &str) -> Result<String> {
        let words: Vec<&str> = arguments.iter().copied().chain(["-f", "-"]).collect();
        command::finish(&mut self.command(&words), Some(manifest))
    }

    /// `kubectl apply`.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.with_manifest(&["apply"], manifest)
    }

    /// `kubectl get -o json`, typed.
    pub fn object<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let words: Vec<&str> = ["get"]
            .into_iter()
            .chain(arguments.iter().copied())
            .chain(["-o", "json"])
            .collect();
        let text = self.run(&words)?;
        serde_json::from_str(&text)
            .map_err(|error| Error::observed(format!("kubectl {}: {error}", words.join(" "))))
    }

    /// One value by JSON path, `{.status.phase}`.
    pub fn value(&self, object: &[&str], path: &str) -> Result<String> {
        let output = format!("jsonpath={path}");
        let words: Vec<&str> = ["get"]
            .into_iter()
            .chain(object.iter().copied())
            .chain(["-o", &output])
            .collect();
        self.run(&words)
    }

    /// Waits until a value by JSON path is what it must be.
    pub fn wait_for_value(&self, object: &[&str], path: &str, wanted: &str, limit: Duration) -> Result<()> {
        eventually(&format!("{} {path} = {wanted}", object.join(" ")), limit, || {
            let value = self.value(object, path)?;
            if value == wanted {
                Ok(())
            } else {
                Err(Error::observed(value))
            }
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().cloned()).args(arguments);
        command
    }
}

/// helm 4, with its caches in the lab's folder.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Helm {
    /// Links helm into the lab's folder.
    pub fn new(folder: &Path, helm: &Path, kubeconfig: &Path) -> Result<Self> {
        let program = folder.join("bin/helm");
        let _ = std::fs::remove_file(&program);
        symlink(helm, &program).context(|| format!("link {}", program.display()))?;
        Ok(Self {
            program,
            environment: vec![
                ("KUBECONFIG", kubeconfig.into()),
                ("KUBECACHEDIR", folder.join("cache/kube").into()),
                ("HELM_CACHE_HOME", folder.join("cache/helm").into()),
                ("HELM_CONFIG_HOME", folder.join("cache/helm/config").into()),
                ("HELM_DATA_HOME", folder.join("cache/helm/data").into()),
            ],
        })
    }

    /// Path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs helm; standard output is the result.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().cloned()).args(arguments);
        command::finish(&mut command, None)
    }
}
