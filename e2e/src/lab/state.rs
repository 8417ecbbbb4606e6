//! What a lab left on the machine, on disk: so that whoever comes next can remove exactly that and nothing else.
//!
//! A process is known by its id and start time (ids are reused), the namespace by its name. Everything that runs in
//! the lab's own network namespace belongs to the lab as well.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::command;
use crate::error::{Context, Error, Result};

const FILE: &str = "state.json";
const DEATH: Duration = Duration::from_secs(5);

/// The record of a lab, written through to its run folder.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    record: Mutex<Record>,
}

/// What stands in the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Name of the network namespace.
    pub namespace: String,
    /// Process that keeps the lab alive.
    pub owner: Option<ProcessIdentity>,
    /// Everything the lab started.
    pub processes: Vec<ProcessIdentity>,
    /// Port on the host's loopback that leads to the API server.
    pub api_port: u16,
    /// Nodes by name, with their management addresses.
    pub nodes: Vec<(String, std::net::Ipv4Addr)>,
    /// Whether everything stands.
    pub ready: bool,
}

/// A process, told apart from a later one with the same id.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// What it is in the lab.
    pub name: String,
    /// Process id, which is its group's id as well.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The identity of a running process.
    pub fn of(name: &str, pid: i32) -> Result<Self> {
        let start_time = start_time(pid).ok_or_else(|| Error::observed(format!("{name} ended at once")))?;
        Ok(Self {
            name: name.into(),
            pid,
            start_time,
        })
    }

    /// Whether this very process still runs.
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

impl State {
    /// A fresh record in `folder`, owned by this process.
    pub fn create(folder: &Path, namespace: &str) -> Result<Self> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let record = Record {
            namespace: namespace.into(),
            owner: Some(ProcessIdentity::of("owner", own)?),
            ..Record::default()
        };
        let state = Self {
            folder: folder.into(),
            record: Mutex::new(record),
        };
        state.update(|_| ())?;
        Ok(state)
    }

    /// The record of a lab that another process runs or left behind.
    pub fn read(folder: &Path) -> Option<Record> {
        serde_json::from_str(&fs::read_to_string(folder.join(FILE)).ok()?).ok()
    }

    /// Changes the record and writes it.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self
            .record
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut record);
        let text =
            serde_json::to_string_pretty(&*record).map_err(|error| Error::observed(error.to_string()))?;
        let file = self.folder.join(FILE);
        let draft = self.folder.join("state.json.new");
        fs::write(&draft, text).context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, &file).context(|| format!("rename {}", file.display()))
    }
}

/// Removes everything that the record in `folder` names: processes, namespace, and the folder's large content.
pub fn sweep(folder: &Path) -> Result<()> {
    let Some(record) = State::read(folder) else {
        return Ok(());
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut doomed: Vec<i32> = Vec::new();
    for process in record.processes.iter().rev().filter(|process| process.alive()) {
        let _ = killpg(Pid::from_raw(process.pid), Signal::SIGKILL);
        doomed.push(process.pid);
    }
    for pid in inhabitants(&record.namespace)
        .into_iter()
        .filter(|pid| *pid != own)
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        doomed.push(pid);
    }
    let deadline = Instant::now() + DEATH;
    while doomed.iter().any(|pid| running(*pid)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    if namespace_file(&record.namespace).exists() {
        command::run("ip", &["netns", "delete", &record.namespace])?;
    }
    for content in ["etcd", "bin", "uml"] {
        let _ = fs::remove_dir_all(folder.join(content));
    }
    fs::remove_file(folder.join(FILE)).context(|| format!("remove {}", folder.join(FILE).display()))
}

/// Where the kernel keeps a named network namespace.
pub fn namespace_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Ids of all processes in a network namespace.
fn inhabitants(namespace: &str) -> Vec<i32> {
    let Ok(wanted) = fs::metadata(namespace_file(namespace)) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
        })
        .collect()
}

/// Neither gone nor a zombie.
fn running(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|(_, start)| start)
}

/// State and start time: fields 3 and 22 of proc(5) stat; the second field may hold spaces and parentheses.
fn stat(pid: i32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.first()?.to_string(), fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_more_than_its_id() {
        let own = i32::try_from(std::process::id()).expect("pid");
        let identity = ProcessIdentity::of("test", own).expect("alive");
        assert!(identity.alive());
        assert!(
            !ProcessIdentity {
                start_time: identity.start_time + 1,
                ..identity
            }
            .alive()
        );
    }
}
