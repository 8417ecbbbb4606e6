//! Which Linux a node runs: this machine's User Mode Linux, or that of another Debian suite's root.
//!
//! A kernel of another suite needs that suite's C library for itself, and nothing else of it: it starts in a chroot with
//! the host's root bound inside, and has that for its own root. So every node has the same user space and the same
//! programs, whatever its kernel.

use std::path::{Path, PathBuf};

use super::suite::{self, Suite};
use crate::{error::Result, report::Progress};

/// The program, here and in the root of a suite.
const PROGRAM: &str = "/usr/bin/linux.uml";
/// Where the host's root is bound into a suite's root.
const HOST: &str = "/mnt";
/// The mounts end with the kernel: it has a mount namespace of its own.
const ENTER: &str = "root=$1 && shift && mount --rbind / \"$root/mnt\" && mount --rbind /proc \"$root/proc\" \
    && mount --rbind /dev \"$root/dev\" && exec chroot \"$root\" \"$@\"";

/// A kernel for nodes; the default is this machine's.
#[derive(Clone, Debug, Default)]
pub struct Kernel(Option<PathBuf>);

impl Kernel {
    /// The kernel of another suite; an error says why the suite cannot be had here.
    pub fn of(suite: Suite, progress: &Progress) -> Result<Self> {
        suite::root(suite, progress).map(|root| Self(Some(root)))
    }

    /// A path of the host as the kernel's process sees it.
    pub(super) fn seen(&self, path: &Path) -> PathBuf {
        match &self.0 {
            None => path.to_owned(),
            Some(_) => Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// What starts it with these arguments.
    pub(super) fn command(&self, arguments: Vec<String>) -> (&'static Path, Vec<String>) {
        let Some(root) = &self.0 else {
            return (Path::new(PROGRAM), arguments);
        };
        let root = root.display().to_string();
        let enter = [
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
            &root,
            PROGRAM,
        ];
        let words = enter.map(str::to_owned).into_iter().chain(arguments).collect();
        (Path::new("unshare"), words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_sees_the_host_inside_its_own_root() {
        let own = Kernel::default();
        assert_eq!(own.seen(Path::new("/tmp/x")), Path::new("/tmp/x"));
        let other = Kernel(Some("/cache/trixie".into()));
        assert_eq!(other.seen(Path::new("/tmp/x")), Path::new("/mnt/tmp/x"));
        assert_eq!(other.seen(Path::new("/")), Path::new("/mnt"));
        let (program, words) = other.command(vec!["mem=1M".into()]);
        assert_eq!(program, Path::new("unshare"));
        assert_eq!(words[words.len() - 3..], ["/cache/trixie", PROGRAM, "mem=1M"]);
    }
}
