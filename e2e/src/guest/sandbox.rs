//! A container's process: namespaces, root file system, user and capabilities, then the entrypoint.
//!
//! The kubelet starts this program anew with [`RUN`]; it enters the pod's network, makes PID, mount, IPC and host
//! name namespaces, forks the container's PID 1 into them and waits for its end, so that the kubelet sees the
//! entrypoint's exit code as its own child's. [`ENTER`] starts one more process in an existing container.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use serde::{Deserialize, Serialize};

use process::Process;
use root::Root;

pub(super) mod process;
pub(super) mod root;

/// First argument: start a container from the specification that the second argument names.
pub const RUN: &str = "container-run";
/// First argument: start a process in a container's or a pod's namespaces.
pub const ENTER: &str = "container-enter";

/// A container to start.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Container {
    /// Host name of the pod; absent with `hostNetwork`.
    pub(super) host_name: Option<String>,
    /// The pod's network; absent with `hostNetwork`.
    pub(super) network: Option<PathBuf>,
    /// Its files.
    pub(super) root: Root,
    /// What runs in it.
    pub(super) process: Process,
    /// Where to write the container's first process, as the node numbers it.
    pub(super) pid_file: PathBuf,
    /// Where to say why it could not be started.
    pub(super) error_file: PathBuf,
}

/// A further process in namespaces that exist.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Entrance {
    /// A process of the container whose namespaces are entered; absent for the network alone.
    pub(super) target: Option<i32>,
    /// A network namespace to enter while all else stays the node's.
    pub(super) network: Option<PathBuf>,
    /// What runs there.
    pub(super) process: Process,
}

/// Starts a container and answers its exit code.
pub fn run() -> ExitCode {
    let container: Container = match specification() {
        Ok(container) => container,
        Err(error) => return refuse(&error),
    };
    let error_file = container.error_file.clone();
    match start(container) {
        Ok(code) => code,
        Err(error) => {
            // INVARIANT: the kubelet reports a missing error file as an unexplained failure.
            let _ = fs::write(error_file, error.to_string());
            refuse(&error)
        }
    }
}

/// Starts a process in existing namespaces and answers its exit code.
pub fn enter() -> ExitCode {
    match specification().and_then(step_inside) {
        Ok(code) => code,
        Err(error) => refuse(&error),
    }
}

/// Says something on standard error, where this program's callers look.
pub fn complain(text: &str) {
    // INVARIANT: nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "ipsecmesh-lab-node: {text}");
}

/// Writes a specification to a file that [`specification`] takes away again: it may hold secrets of the environment.
pub(super) fn write_specification(
    folder: &Path,
    name: &str,
    content: &impl Serialize,
) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_vec(content)?)?;
    Ok(path)
}

fn specification<T: serde::de::DeserializeOwned>() -> io::Result<T> {
    let path = std::env::args_os()
        .nth(2)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no specification file"))?;
    let text = fs::read(&path)?;
    fs::remove_file(&path)?;
    Ok(serde_json::from_slice(&text)?)
}

fn start(container: Container) -> io::Result<ExitCode> {
    if let Some(network) = &container.network {
        setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    }
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWUTS, container.host_name.is_some());
    unshare(flags)?;
    let pid_file = container.pid_file.clone();
    let error_file = container.error_file.clone();
    fork_and_wait(
        move || {
            if let Some(name) = &container.host_name {
                nix::unistd::sethostname(name)?;
            }
            let errors = File::create(&error_file)?;
            container.root.enter()?;
            let result = container.process.replace_this_one();
            // INVARIANT: as in `run`.
            let _ = result.as_ref().map_err(|error| write!(&errors, "{error}"));
            result
        },
        |child| write_atomically(&pid_file, &child.to_string()),
    )
}

fn step_inside(entrance: Entrance) -> io::Result<ExitCode> {
    if let Some(network) = &entrance.network {
        setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    }
    if let Some(target) = entrance.target {
        // All files are opened before the mount namespace changes what /proc is.
        let namespaces = [
            ("net", CloneFlags::CLONE_NEWNET),
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ]
        .map(|(name, flag)| (File::open(format!("/proc/{target}/ns/{name}")), flag));
        for (file, flag) in namespaces {
            setns(file?, flag)?;
        }
    }
    fork_and_wait(move || entrance.process.replace_this_one(), |_| Ok(()))
}

/// The child becomes the process; the parent waits, because only a child enters a new PID namespace.
fn fork_and_wait(
    child: impl FnOnce() -> io::Result<std::convert::Infallible>,
    parent: impl FnOnce(Pid) -> io::Result<()>,
) -> io::Result<ExitCode> {
    // SAFETY: this program has started no thread on this path, so the child inherits no foreign lock.
    #[expect(
        unsafe_code,
        reason = "a process enters a PID namespace only by being forked into it"
    )]
    match unsafe { fork() }? {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            match child() {
                Ok(never) => match never {},
                Err(error) => {
                    complain(&error.to_string());
                    #[expect(clippy::disallowed_methods, reason = "a forked child has nobody to return to")]
                    std::process::exit(FAILED_TO_START);
                }
            }
        }
        ForkResult::Parent { child } => {
            parent(child)?;
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => return Ok(exit_code(code)),
                    Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(exit_code(128 + signal as i32)),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Exit code of a container whose entrypoint could not be started.
const FAILED_TO_START: i32 = 127;

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Whoever sees the file sees all of it.
fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let partial = path.with_extension("part");
    fs::write(&partial, content)?;
    fs::rename(&partial, path)
}

fn refuse(error: &io::Error) -> ExitCode {
    complain(&error.to_string());
    exit_code(FAILED_TO_START)
}
