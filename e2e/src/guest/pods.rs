//! The table of pods that run here: the kubelet fills it, the exec channel looks names up in it.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::sandbox::process::Process;
use crate::protocol::PodInfo;

/// Shared by the kubelet's pods and the exec channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    table: Arc<Mutex<BTreeMap<String, Entry>>>,
}

/// A pod with a sandbox.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Namespace of the pod.
    pub(super) namespace: String,
    /// Name of the pod.
    pub(super) name: String,
    /// Its address.
    pub(super) address: Option<Ipv4Addr>,
    /// Its network namespace; absent with `hostNetwork`.
    pub(super) network: Option<PathBuf>,
    /// Running containers.
    pub(super) containers: BTreeMap<String, RunningContainer>,
}

/// A container with a process.
#[derive(Clone, Debug)]
pub(super) struct RunningContainer {
    /// The entrypoint as the node numbers it.
    pub(super) pid: i32,
    /// What runs in it; a further process gets its environment and rights.
    pub(super) process: Process,
}

impl Pods {
    pub(super) fn insert(&self, uid: &str, entry: Entry) {
        self.lock().insert(uid.to_owned(), entry);
    }

    pub(super) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    pub(super) fn set_container(&self, uid: &str, container: &str, running: Option<RunningContainer>) {
        if let Some(entry) = self.lock().get_mut(uid) {
            match running {
                Some(running) => entry.containers.insert(container.to_owned(), running),
                None => entry.containers.remove(container),
            };
        }
    }

    /// The pod that `kubectl` would mean.
    pub(super) fn find(&self, namespace: &str, name: &str) -> io::Result<Entry> {
        let table = self.lock();
        let found = table
            .values()
            .find(|entry| entry.namespace == namespace && entry.name == name);
        found
            .cloned()
            .ok_or_else(|| not_found(format!("no pod {namespace}/{name} runs on this node")))
    }

    /// A running container of a pod.
    pub(super) fn container(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
    ) -> io::Result<RunningContainer> {
        let mut entry = self.find(namespace, name)?;
        entry.containers.remove(container).ok_or_else(|| {
            not_found(format!(
                "container {container} of pod {namespace}/{name} does not run"
            ))
        })
    }

    pub(super) fn list(&self) -> Vec<PodInfo> {
        let info = |(uid, entry): (&String, &Entry)| PodInfo {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
            uid: uid.clone(),
            address: entry.address,
            processes: entry
                .containers
                .iter()
                .map(|(name, running)| (name.clone(), running.pid))
                .collect(),
        };
        self.lock().iter().map(info).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, message)
}
