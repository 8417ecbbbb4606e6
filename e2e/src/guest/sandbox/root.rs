//! A container's root: a tmpfs with the system's programs and libraries read-only, an own /proc, /sys, /dev and /etc.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{chdir, pivot_root},
};
use serde::{Deserialize, Serialize};

/// The files that a container sees.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::guest) struct Root {
    /// `readOnlyRootFilesystem`.
    pub(in crate::guest) read_only: bool,
    /// The image's program as the node sees it; the container sees it as `/NAME`.
    pub(in crate::guest) entrypoint: PathBuf,
    /// Content of /etc/hosts.
    pub(in crate::guest) hosts: String,
    /// Volumes, in the order of the Pod.
    pub(in crate::guest) mounts: Vec<Mount>,
}

/// A volume where the container sees it.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::guest) struct Mount {
    /// Folder or file of the node.
    pub(in crate::guest) source: PathBuf,
    /// Path in the container.
    pub(in crate::guest) target: PathBuf,
    /// Whether the container may only read.
    pub(in crate::guest) read_only: bool,
}

/// Where the new root is put together, seen by this mount namespace only.
const STAGE: &str = "/run/lab/root";
/// Read-only system folders; links among them stay links.
const SYSTEM: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64"];
/// Folders and files of the node's /etc that programs need.
const ETC: &[&str] = &[
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ssl",
    "passwd",
    "group",
    "protocols",
    "services",
];
/// Device nodes of a container.
const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];
/// Folders every image has.
const EMPTY: &[&str] = &[
    "tmp",
    "run",
    "root",
    "home",
    "mnt",
    "opt",
    "srv",
    "var/lib",
    "var/log",
    "var/tmp",
    "var/cache",
];
/// What a container may read but not write below /proc.
const PROC_READ_ONLY: &[&str] = &["sys", "sysrq-trigger", "irq", "bus"];

impl Root {
    /// Makes this the root of the calling process, which is alone in a new mount namespace.
    pub(super) fn enter(&self) -> io::Result<()> {
        let stage = Path::new(STAGE);
        fs::create_dir_all(stage)?;
        mount_kind("tmpfs", stage, MsFlags::empty(), Some("mode=755"))?;
        for name in SYSTEM {
            share_system(name)?;
        }
        for folder in EMPTY {
            fs::create_dir_all(stage.join(folder))?;
        }
        for folder in ["tmp", "var/tmp"] {
            fs::set_permissions(stage.join(folder), fs::Permissions::from_mode(0o1777))?;
        }
        self.etc()?;
        devices()?;
        kernel_file_systems()?;
        let name = self.entrypoint.file_name().unwrap_or_default();
        bind(&self.entrypoint, &stage.join(name), true)?;
        for volume in &self.mounts {
            bind(&volume.source, &below(stage, &volume.target), volume.read_only)?;
        }
        self.pivot()
    }

    fn etc(&self) -> io::Result<()> {
        let etc = Path::new(STAGE).join("etc");
        fs::create_dir_all(&etc)?;
        for name in ETC {
            let source = Path::new("/etc").join(name);
            if source.exists() {
                bind(&source, &etc.join(name), true)?;
            }
        }
        fs::write(etc.join("hosts"), &self.hosts)?;
        fs::write(etc.join("hostname"), fs::read("/proc/sys/kernel/hostname")?)?;
        fs::write(
            etc.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: files dns\n",
        )?;
        fs::write(etc.join("resolv.conf"), "")
    }

    fn pivot(&self) -> io::Result<()> {
        let stage = Path::new(STAGE);
        chdir(stage)?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        if self.read_only {
            remount_read_only(Path::new("/"))?;
        }
        Ok(())
    }
}

fn share_system(name: &str) -> io::Result<()> {
    let source = Path::new("/").join(name);
    let target = Path::new(STAGE).join(name);
    match fs::symlink_metadata(&source) {
        Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(&source)?, target),
        Ok(_) => bind(&source, &target, true),
        Err(_) => Ok(()),
    }
}

fn devices() -> io::Result<()> {
    let dev = Path::new(STAGE).join("dev");
    fs::create_dir_all(&dev)?;
    mount_kind("tmpfs", &dev, MsFlags::MS_NOSUID, Some("mode=755"))?;
    for name in DEVICES {
        bind(&Path::new("/dev").join(name), &dev.join(name), false)?;
    }
    fs::create_dir_all(dev.join("shm"))?;
    mount_kind(
        "tmpfs",
        &dev.join("shm"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(link))?;
    }
    Ok(())
}

fn kernel_file_systems() -> io::Result<()> {
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = Path::new(STAGE).join("proc");
    fs::create_dir_all(&proc)?;
    mount_kind("proc", &proc, hardened, None)?;
    for name in PROC_READ_ONLY
        .iter()
        .map(|name| proc.join(name))
        .filter(|path| path.exists())
    {
        bind(&name, &name, true)?;
    }
    let sys = Path::new(STAGE).join("sys");
    fs::create_dir_all(&sys)?;
    mount_kind("sysfs", &sys, hardened | MsFlags::MS_RDONLY, None)
}

/// A container's absolute path below the stage.
fn below(stage: &Path, path: &Path) -> PathBuf {
    stage.join(path.strip_prefix("/").unwrap_or(path))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    if source.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(target)?;
    }
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|error| {
        io::Error::other(format!(
            "bind {} on {}: {error}",
            source.display(),
            target.display()
        ))
    })?;
    if read_only {
        remount_read_only(target)
    } else {
        Ok(())
    }
}

/// A bind mount takes its flags in a second step, which must repeat the restrictions it already has.
fn remount_read_only(target: &Path) -> io::Result<()> {
    let present = statvfs(target)?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    flags.set(MsFlags::MS_NOSUID, present.contains(FsFlags::ST_NOSUID));
    flags.set(MsFlags::MS_NODEV, present.contains(FsFlags::ST_NODEV));
    flags.set(MsFlags::MS_NOEXEC, present.contains(FsFlags::ST_NOEXEC));
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|error| io::Error::other(format!("read-only {}: {error}", target.display())))
}

fn mount_kind(kind: &str, target: &Path, flags: MsFlags, options: Option<&str>) -> io::Result<()> {
    mount(Some(kind), target, Some(kind), flags, options)
        .map_err(|error| io::Error::other(format!("mount {kind} on {}: {error}", target.display())))
}
