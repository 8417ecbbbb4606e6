//! PID 1: the file systems a node writes to, then a child that is the node, then reaping until the kernel ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitStatus, wait},
    },
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork},
};

use super::node;
use crate::protocol::{CONFIG_PARAMETER, HOST_ROOT, NodeConfig, ROOT_PARAMETER};

/// Where the kubelet finds the node's durable folder.
pub(super) const STATE: &str = "/var/lib/ipsecmesh";
/// Where the node writes its logs.
pub(super) const LOGS: &str = "/run/lab/logs";
/// Where the node sees the root that its kernel came from, with the kernel's modules.
pub(super) const KERNEL_ROOT: &str = "/run/lab/kernel";
/// Folders of the host's root that become the node's own.
const WRITABLE: &[&str] = &[
    "/run", "/tmp", "/var/lib", "/var/log", "/var/tmp", "/root", "/mnt",
];

/// Boots the node and returns only if that failed before the kernel could be told to power off.
pub fn run() -> ExitCode {
    let config = match prepare() {
        Ok(config) => config,
        Err(error) => return give_up(&error),
    };
    // SAFETY: PID 1 has one thread at this point, so the child inherits no lock that another thread holds.
    #[expect(
        unsafe_code,
        reason = "PID 1 must stay apart from the node so that it can reap every orphan"
    )]
    match unsafe { fork() } {
        Ok(ForkResult::Child) => node::run(config),
        Ok(ForkResult::Parent { child }) => loop {
            match wait() {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == child => {
                    return give_up(&io::Error::other("the node's own process ended"));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return give_up(&error.into()),
            }
        },
        Err(error) => give_up(&error.into()),
    }
}

/// Ends the kernel, as pulling the plug does.
pub(super) fn power_off() -> ExitCode {
    nix::unistd::sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(_) => ExitCode::FAILURE,
    }
}

fn prepare() -> io::Result<NodeConfig> {
    mount_kernel_file_systems()?;
    console()?;
    let command_line = fs::read_to_string("/proc/cmdline")?;
    let path = config_path(&command_line)?;
    let text = fs::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let config: NodeConfig = serde_json::from_slice(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    })?;
    let state = canonical(&config.state_directory)?;
    let logs = canonical(&config.log_directory)?;
    for folder in WRITABLE {
        mount_new(
            "tmpfs",
            "tmpfs",
            folder,
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )?;
    }
    let host = host_root(&command_line);
    let of_host = |path: &Path| host.join(path.strip_prefix("/").unwrap_or(path));
    mount_host(&host, HOST_ROOT, MsFlags::MS_RDONLY)?;
    mount_host(Path::new("/"), KERNEL_ROOT, MsFlags::MS_RDONLY)?;
    mount_host(&of_host(&state), STATE, MsFlags::empty())?;
    mount_host(&of_host(&logs), LOGS, MsFlags::empty())?;
    Ok(config)
}

/// Some kernels mount /dev themselves before their init starts.
fn mount_kernel_file_systems() -> io::Result<()> {
    mount_new("proc", "proc", "/proc", MsFlags::empty(), None)?;
    mount_new("sysfs", "sysfs", "/sys", MsFlags::empty(), None)?;
    if fs::read_to_string("/proc/mounts")?
        .lines()
        .all(|line| !line.contains(" /dev devtmpfs "))
    {
        mount_new("devtmpfs", "devtmpfs", "/dev", MsFlags::empty(), None)?;
    }
    fs::create_dir_all("/dev/pts")?;
    fs::create_dir_all("/dev/shm")?;
    mount_new(
        "devpts",
        "devpts",
        "/dev/pts",
        MsFlags::empty(),
        Some("newinstance,ptmxmode=0666"),
    )?;
    mount_new("tmpfs", "tmpfs", "/dev/shm", MsFlags::empty(), None)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    Ok(())
}

/// The kernel opened the console before /dev was mounted; take it from there now.
fn console() -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    dup2_stdin(console.as_fd())?;
    dup2_stdout(console.as_fd())?;
    dup2_stderr(console.as_fd())?;
    Ok(())
}

fn config_path(command_line: &str) -> io::Result<PathBuf> {
    command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(CONFIG_PARAMETER))
        .map(PathBuf::from)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no {CONFIG_PARAMETER} on the kernel's command line"),
            )
        })
}

/// Where the kernel as a process sees the host's root: not at its own, where it came from another system's.
fn host_root(command_line: &str) -> PathBuf {
    command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(ROOT_PARAMETER))
        .map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn mount_host(source: &Path, target: &str, flags: MsFlags) -> io::Result<()> {
    fs::create_dir_all(target)?;
    mount_new("none", "hostfs", target, flags, source.to_str())
}

fn mount_new(
    source: &str,
    kind: &str,
    target: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> io::Result<()> {
    mount(Some(source), target, Some(kind), flags, options)
        .map_err(|error| io::Error::other(format!("mount {kind} on {target}: {error}")))
}

fn give_up(error: &io::Error) -> ExitCode {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        // INVARIANT: nobody is left to tell if the console refuses.
        let _ = writeln!(console, "ipsecmesh-lab-node: {error}");
    }
    power_off()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_named_on_the_command_line() {
        let path = config_path("mem=256M ipsecmesh.config=/tmp/a/node1.json con=null").expect("named");
        assert_eq!(path, Path::new("/tmp/a/node1.json"));
        assert!(config_path("mem=256M").is_err());
    }

    #[test]
    fn the_hosts_root_is_where_the_kernel_was_told() {
        assert_eq!(host_root("rootflags=/host rw"), Path::new("/host"));
        assert_eq!(host_root("mem=256M"), Path::new("/"));
    }
}
