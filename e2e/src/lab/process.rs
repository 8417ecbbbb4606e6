//! A process of the lab: recorded before anything else can fail, logged to a file, dead when its lab is.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use super::{
    command,
    network::Network,
    state::{ProcessIdentity, State},
};
use crate::error::{Context, Error, Result};

/// A running process in the lab's network namespace.
#[derive(Debug)]
pub struct Process {
    identity: ProcessIdentity,
    child: Mutex<Child>,
    log: PathBuf,
    state: Arc<State>,
}

impl Process {
    /// Starts `program`; output goes to `log`, which is appended to.
    pub fn start<I: AsRef<OsStr>>(
        name: &str,
        network: &Network,
        state: &Arc<State>,
        program: &Path,
        arguments: &[I],
        log: &Path,
    ) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context(|| format!("open {}", log.display()))?;
        // The signal to the child when its parent thread ends: a lab that is killed takes everything with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = network.spawn(command)?;
        let identity = ProcessIdentity::of(name, i32::try_from(child.id()).unwrap_or_default())?;
        let recorded = identity.clone();
        state.update(|record| record.processes.push(recorded))?;
        Ok(Self {
            identity,
            child: Mutex::new(child),
            log: log.into(),
            state: state.clone(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its log if it no longer runs.
    pub fn check(&self) -> Result<()> {
        match self.child().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::Ended(format!(
                "{} ended ({status}); log {}:\n{}",
                self.identity.name,
                self.log.display(),
                command::tail(&self.log)
            ))),
            Err(error) => Err(Error::observed(format!("{}: {error}", self.identity.name))),
        }
    }

    /// Ends it at once, with everything in its process group.
    pub fn kill(&self) -> Result<()> {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        self.reap(Duration::from_secs(5))
    }

    /// Sends SIGTERM and waits; SIGKILL after `grace`.
    pub fn stop(&self, signal: Signal, grace: Duration) -> Result<()> {
        let _ = kill(Pid::from_raw(self.pid()), signal);
        match self.reap(grace) {
            Ok(()) => Ok(()),
            Err(_) => self.kill(),
        }
    }

    /// Waits for its end.
    pub fn reap(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(_)) = self.child().try_wait() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Error::observed(format!(
                    "{} still runs after {limit:?}",
                    self.identity.name
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.state
            .update(|record| record.processes.retain(|process| *process != self.identity))
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.check().is_ok() {
            let _ = self.kill();
        }
    }
}
