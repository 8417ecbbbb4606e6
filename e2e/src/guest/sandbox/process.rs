//! User, groups, capabilities and `no_new_privs` of a container's process, then `execve`.

use std::{collections::HashSet, convert::Infallible, ffi::CString, io, path::Path};

use caps::{CapSet, Capability};
use nix::{
    sys::prctl,
    unistd::{Gid, Uid, chdir, execve, setgroups, setresgid, setresuid},
};
use serde::{Deserialize, Serialize};

/// What to run and with which rights.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::guest) struct Process {
    /// Program and arguments.
    pub(in crate::guest) argv: Vec<String>,
    /// The whole environment.
    pub(in crate::guest) env: Vec<(String, String)>,
    /// Folder to start in.
    pub(in crate::guest) directory: String,
    /// Rights; absent for a process of the node itself.
    pub(in crate::guest) rights: Option<Rights>,
}

/// What a container may do.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::guest) struct Rights {
    /// User.
    pub(in crate::guest) user: u32,
    /// Primary group.
    pub(in crate::guest) group: u32,
    /// Supplementary groups.
    pub(in crate::guest) groups: Vec<u32>,
    /// Capabilities by canonical name (`CAP_NET_ADMIN`).
    pub(in crate::guest) capabilities: Vec<String>,
    /// Whether exec may not raise them (`allowPrivilegeEscalation: false`).
    pub(in crate::guest) no_new_privileges: bool,
}

impl Process {
    /// Becomes that process; returns only an error.
    pub(super) fn replace_this_one(&self) -> io::Result<Infallible> {
        chdir(self.directory.as_str())
            .map_err(|error| told(&format!("working directory {}", self.directory), error))?;
        let program = self.program()?;
        if let Some(rights) = &self.rights {
            rights.take()?;
        }
        let argv = self
            .argv
            .iter()
            .map(|word| c_string(word))
            .collect::<io::Result<Vec<_>>>()?;
        let env = self
            .env
            .iter()
            .map(|(key, value)| c_string(&format!("{key}={value}")));
        let env = env.collect::<io::Result<Vec<_>>>()?;
        execve(&c_string(&program)?, &argv, &env).map_err(|error| told(&program, error))
    }

    /// The program's path: as given if it holds a slash, else from the process's own PATH.
    fn program(&self) -> io::Result<String> {
        let name = self
            .argv
            .first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "empty command"))?;
        if name.contains('/') {
            return Ok(name.clone());
        }
        let path = self
            .env
            .iter()
            .find(|(key, _)| key == "PATH")
            .map_or("/usr/bin:/bin", |(_, value)| value);
        path.split(':')
            .map(|folder| format!("{}/{name}", folder.trim_end_matches('/')))
            .find(|candidate| Path::new(candidate).is_file())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{name}: not found in PATH {path}"),
                )
            })
    }
}

impl Rights {
    /// Order matters: the bounding set while CAP_SETPCAP is there, identities while CAP_SETUID is there, then the rest.
    fn take(&self) -> io::Result<()> {
        let kept = self.capability_set()?;
        for capability in caps::all().difference(&kept) {
            // A capability that this kernel does not know cannot be held either.
            if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
                caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
            }
        }
        let groups: Vec<Gid> = self.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        setgroups(&groups)?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
        if user.is_root() {
            caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
            caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)?;
        }
        if self.no_new_privileges {
            prctl::set_no_new_privs()?;
        }
        Ok(())
    }

    fn capability_set(&self) -> io::Result<HashSet<Capability>> {
        let known = caps::all();
        let parsed = self.capabilities.iter().map(|name| {
            name.parse::<Capability>()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("capability {name}")))
        });
        let parsed = parsed.collect::<io::Result<HashSet<_>>>()?;
        Ok(parsed.intersection(&known).copied().collect())
    }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

fn told(what: &str, error: nix::errno::Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {}", error.desc()))
}
