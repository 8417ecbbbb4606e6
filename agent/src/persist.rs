//! What survives the agent: latches and the last policies, so that a node blocks before it reaches the API server
//! (decision 22). Files are written whole, synced, and only then renamed into place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ipsecmesh_dataplane::{Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};
use ipsecmesh_ike::SaProtocol;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Overlay;

/// Makes `folder` with mode 0700, or sets that mode.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// Replaces `path` by `content` with mode 0600: either the old or the new content is there, also after a crash.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Tunnels that were enforced, by UID: a restored object without status cannot reopen cleartext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Latch {
    /// UIDs of tunnels that this node has enforced.
    pub(crate) enforced: BTreeSet<String>,
}

/// What was in force when the agent last wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastState {
    /// Policies, to be installed before the first API call.
    pub(crate) policies: Vec<StoredPolicy>,
    /// Resolved overlay of each latched tunnel by UID, for objects that come back without status.
    pub(crate) overlays: BTreeMap<String, Vec<Overlay>>,
}

/// A policy in the file. The format is this program's own: readable, and refused when it is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StoredPolicy {
    inbound: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forward: bool,
    source: (IpAddr, u8),
    destination: (IpAddr, u8),
    protocol: u8,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    rank: u16,
    action: StoredAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredAction {
    Bypass,
    Discard,
    Protect {
        required: bool,
        #[serde(default)]
        ah: bool,
        reqid: u32,
        tunnel: bool,
        source: IpAddr,
        destination: IpAddr,
    },
}

impl From<&Policy> for StoredPolicy {
    fn from(policy: &Policy) -> Self {
        let selector = policy.key.selector;
        Self {
            inbound: policy.key.direction != Direction::Outbound,
            forward: policy.key.direction == Direction::Forward,
            source: (selector.source.address, selector.source.length),
            destination: (selector.destination.address, selector.destination.length),
            protocol: selector.protocol,
            source_port: selector.source_port,
            destination_port: selector.destination_port,
            rank: policy.rank,
            action: match policy.action {
                PolicyAction::Bypass => StoredAction::Bypass,
                PolicyAction::Discard => StoredAction::Discard,
                PolicyAction::Protect {
                    demand,
                    protocol,
                    reqid,
                    tunnel,
                    source,
                    destination,
                } => StoredAction::Protect {
                    required: demand == Demand::Required,
                    ah: protocol == SaProtocol::Ah,
                    reqid,
                    tunnel,
                    source,
                    destination,
                },
            },
        }
    }
}

impl From<&StoredPolicy> for Policy {
    fn from(stored: &StoredPolicy) -> Self {
        let prefix = |(address, length)| Prefix { address, length };
        Self {
            key: PolicyKey {
                direction: match (stored.inbound, stored.forward) {
                    (_, true) => Direction::Forward,
                    (true, false) => Direction::Inbound,
                    (false, false) => Direction::Outbound,
                },
                selector: Selector {
                    source: prefix(stored.source),
                    destination: prefix(stored.destination),
                    protocol: stored.protocol,
                    source_port: stored.source_port,
                    destination_port: stored.destination_port,
                },
            },
            action: match stored.action {
                StoredAction::Bypass => PolicyAction::Bypass,
                StoredAction::Discard => PolicyAction::Discard,
                StoredAction::Protect {
                    required,
                    ah,
                    reqid,
                    tunnel,
                    source,
                    destination,
                } => PolicyAction::Protect {
                    demand: if required {
                        Demand::Required
                    } else {
                        Demand::Optional
                    },
                    protocol: if ah { SaProtocol::Ah } else { SaProtocol::Esp },
                    reqid,
                    tunnel,
                    source,
                    destination,
                },
            },
            rank: stored.rank,
        }
    }
}

/// The files of the state folder. Writes what changed, and nothing when nothing did.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    latch: Latch,
    last: LastState,
}

impl Store {
    /// Opens the folder and reads what a previous run left. A file that cannot be read is reported and kept aside: the
    /// policies that the kernel holds stay in any case.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        private_folder(&folder)?;
        Ok(Self {
            latch: read_or_set_aside(&folder.join(LATCH))?,
            last: read_or_set_aside(&folder.join(POLICIES))?,
            folder,
        })
    }

    /// The latches.
    pub(crate) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// What was in force.
    pub(crate) fn last(&self) -> &LastState {
        &self.last
    }

    /// Writes the latches if they differ from those on disk.
    pub(crate) fn save_latch(&mut self, latch: Latch) -> io::Result<()> {
        if latch != self.latch {
            write_json(&self.folder.join(LATCH), &latch)?;
            self.latch = latch;
        }
        Ok(())
    }

    /// Writes what is in force if it differs from what is on disk.
    pub(crate) fn save_last(&mut self, last: LastState) -> io::Result<()> {
        if last != self.last {
            write_json(&self.folder.join(POLICIES), &last)?;
            self.last = last;
        }
        Ok(())
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_private(path, &serde_json::to_vec_pretty(value)?)
}

fn read_or_set_aside<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).or_else(|error| {
        tracing::error!(file = %path.display(), %error, "state file is not understood and is set aside");
        fs::rename(path, path.with_extension("broken"))?;
        Ok(T::default())
    })
}

const LATCH: &str = "latch.json";
const POLICIES: &str = "policies.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(direction: Direction, action: PolicyAction) -> Policy {
        let host = |last: u8| Prefix {
            address: IpAddr::from([10, 0, 0, last]),
            length: 32,
        };
        Policy {
            key: PolicyKey {
                direction,
                selector: Selector {
                    source: host(1),
                    destination: host(2),
                    protocol: 17,
                    source_port: None,
                    destination_port: Some(8472),
                },
            },
            action,
            rank: 3,
        }
    }

    #[test]
    fn every_policy_comes_back_as_it_was() {
        let protect = PolicyAction::Protect {
            demand: Demand::Required,
            protocol: SaProtocol::Ah,
            reqid: 0x1950_0001,
            tunnel: false,
            source: IpAddr::from([10, 0, 0, 1]),
            destination: IpAddr::from([10, 0, 0, 2]),
        };
        let directions = [Direction::Inbound, Direction::Outbound, Direction::Forward];
        for action in [PolicyAction::Bypass, PolicyAction::Discard, protect] {
            for policy in directions.map(|direction| policy(direction, action)) {
                let text = serde_json::to_string(&StoredPolicy::from(&policy)).expect("text");
                let back: StoredPolicy = serde_json::from_str(&text).expect("parsed");
                assert_eq!(Policy::from(&back), policy);
            }
        }
    }

    #[test]
    fn state_survives_and_a_broken_file_is_set_aside() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(folder.path().to_owned()).expect("opened");
        let latch = Latch {
            enforced: BTreeSet::from(["uid-1".to_owned()]),
        };
        store.save_latch(latch.clone()).expect("written");
        let last = LastState {
            policies: vec![StoredPolicy::from(&policy(
                Direction::Inbound,
                PolicyAction::Discard,
            ))],
            overlays: BTreeMap::default(),
        };
        store.save_last(last.clone()).expect("written");
        let again = Store::open(folder.path().to_owned()).expect("opened");
        assert_eq!((again.latch(), again.last()), (&latch, &last));
        let mode = fs::metadata(folder.path().join(LATCH))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        fs::write(folder.path().join(LATCH), "{").expect("written");
        let broken = Store::open(folder.path().to_owned()).expect("opened");
        assert_eq!(broken.latch(), &Latch::default());
        assert!(folder.path().join("latch.broken").exists());
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(folder.path().to_owned()).expect("opened");
        store.save_latch(Latch::default()).expect("no write");
        assert!(!folder.path().join(LATCH).exists());
    }
}
