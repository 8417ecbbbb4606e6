//! Roots of other Debian suites, for newer kernels and newer peers: fetched once per machine, never mixed into its system.
//!
//! A root is a folder to `chroot` into. Its /proc, /dev, /run and /tmp are for whoever uses it to mount, in a mount
//! namespace of its own; the folder itself is shared by all labs of the machine and stays as it was fetched.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::{
    cache::{self, short_hash},
    command,
};
use crate::{
    error::{Context, Error, Result},
    report::Progress,
};

/// A Debian release that is not the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Testing, which moves: Linux 7.x, strongSwan 6.1 with ML-KEM.
    Forky,
    /// Debian 13: Linux 6.12, libreswan 5.
    Trixie,
}

impl Suite {
    /// Its code name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forky => "forky",
            Self::Trixie => "trixie",
        }
    }

    /// What its root holds beside the essential packages. One list per suite, so that it is fetched once for all uses.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Forky => &[
                "charon-systemd",
                "iproute2",
                "libstrongswan-extra-plugins",
                "libstrongswan-standard-plugins",
                "strongswan-swanctl",
                "user-mode-linux",
            ],
            // Debian's libreswan and strongSwan exclude each other; it asks for bind9-host under a virtual name, which
            // debootstrap does not follow.
            Self::Trixie => &["bind9-host", "iproute2", "libreswan", "user-mode-linux"],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The folder with the suite's root, from the cache or from the mirror that this machine's apt uses.
///
/// An error says why the suite cannot be had here; a trial that needs it is then to be left out, by that reason.
pub fn root(suite: Suite, progress: &Progress) -> Result<PathBuf> {
    let cache = cache::folder()?;
    let name = format!("suite-{suite}-{}", content_hash(suite));
    let ready = cache.join(&name);
    if ready.exists() {
        return Ok(ready);
    }
    let path = cache.join(format!("suite-{suite}.lock"));
    let lock = fs::File::create(&path).context(|| format!("open {}", path.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::observed(format!("lock {}: {errno}", path.display())))?;
    if ready.exists() {
        return Ok(ready);
    }
    let log = cache.join(format!("{name}.log"));
    progress.step(
        &format!("fetch a root of Debian {suite} (about a minute, once per machine)"),
        || fetch(suite, &ready, &log),
    )?;
    Ok(ready)
}

fn fetch(suite: Suite, ready: &Path, log: &Path) -> Result<()> {
    super::detached::require(&["debootstrap"])?;
    let mirror = mirror()?;
    let draft = ready.with_extension("new");
    if draft.exists() {
        // What a fetch that was killed left; its mounts went with its namespace.
        fs::remove_dir_all(&draft).context(|| format!("remove {}", draft.display()))?;
    }
    let output = fs::File::create(log).context(|| format!("open {}", log.display()))?;
    let errors = output.try_clone().context(|| format!("open {}", log.display()))?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(["unshare", "--mount", "--propagation", "private", "--"])
        .args(["debootstrap", "--variant=minbase"])
        .arg(format!("--include={}", suite.packages().join(",")))
        .arg(suite.name())
        .arg(&draft)
        .arg(&mirror)
        .arg(SCRIPT)
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .context(|| "start debootstrap".into())?;
    if !status.success() {
        return Err(Error::observed(format!(
            "Debian {suite} cannot be fetched from {mirror} (debootstrap: {status}); the end of {}:\n{}",
            log.display(),
            command::tail(log)
        )));
    }
    let archives = draft.join("var/cache/apt/archives");
    fs::remove_dir_all(&archives).context(|| format!("remove {}", archives.display()))?;
    fs::rename(&draft, ready).context(|| format!("rename {}", draft.display()))
}

/// Where this machine's apt gets Debian's main archive from.
fn mirror() -> Result<String> {
    let listed = command::run(
        "apt-get",
        &[
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Origin: Debian",
            "Label: Debian",
            "Component: main",
            "Identifier: Packages",
        ],
    )?;
    listed
        .lines()
        .find(|line| line.contains("://"))
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::observed(
                "apt has no mirror of Debian's main archive; add one to /etc/apt/sources.list.d and run apt-get update",
            )
        })
}

fn content_hash(suite: Suite) -> String {
    let mut hash = Sha256::new();
    for package in suite.packages() {
        hash.update(package);
        hash.update(" ");
    }
    short_hash(hash)
}

/// One for all of Debian's suites: older versions of debootstrap do not know the newer names.
const SCRIPT: &str = "/usr/share/debootstrap/scripts/sid";
