//! A lab that stays: a process of its own keeps it, other commands find it through its state file.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::SocketAddrV4,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Lab, LabOptions, command, folder, hosts, namespace, network,
    state::{self, Record, State, namespace_file},
};
use crate::{
    error::{Context, Error, Result, eventually},
    node_channel::{Event, NodeChannel},
    protocol::{EXEC_PORT, Exec},
    report::{Progress, say},
};

/// Instance name of the lab that stays.
pub const INSTANCE: &str = "lab";

/// Starts the keeper, shows what it does and returns when the lab stands.
pub fn up(nodes: u8) -> Result<()> {
    let log = keeper_log()?;
    if let Some(record) = running()? {
        say("The lab runs already.");
        explain(&record);
        return Ok(());
    }
    let output = File::create(&log).context(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().context(|| log.display().to_string())?;
    let program = std::env::current_exe().context(|| "own program".into())?;
    let mut keeper = Command::new("setsid")
        .arg(program)
        .args(["keep", "--nodes", &nodes.to_string()])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context(|| "start the lab's keeper".into())?;
    let record = follow(&mut keeper, &log)?;
    explain(&record);
    Ok(())
}

/// The keeper: boots the lab with the product installed and stays until it is told to end.
pub fn keep(nodes: u8) -> Result<()> {
    let progress = Progress::new();
    let lab = Lab::start(&LabOptions::new(INSTANCE, nodes), &progress)?;
    progress.step("install both charts", || lab.install_product(&[]))?;
    lab.mark_ready()?;
    loop {
        std::thread::park();
    }
}

/// Ends the lab, or removes what a killed one left behind.
pub fn down() -> Result<()> {
    let folder = folder(INSTANCE)?;
    let Some(record) = State::read(&folder) else {
        say("No lab of this checkout runs.");
        return Ok(());
    };
    if let Some(owner) = record.owner.filter(state::ProcessIdentity::alive) {
        kill(Pid::from_raw(owner.pid), Signal::SIGTERM).context(|| format!("end process {}", owner.pid))?;
        eventually("the keeper ended", Duration::from_secs(20), || {
            if owner.alive() {
                Err(Error::observed("it still runs"))
            } else {
                Ok(())
            }
        })?;
    }
    state::sweep(&folder)?;
    say("The lab is gone: no process, namespace or link of it is left.");
    Ok(())
}

/// Runs a command on a node of the lab; without one, tells how.
pub fn shell(node: &str, argv: &[String]) -> Result<i32> {
    let record = needed()?;
    let argv = if argv.is_empty() {
        return repl(node, &record);
    } else {
        argv.to_vec()
    };
    execute(&channel(node, &record)?, argv)
}

/// Shows what crosses a node's wire until interrupted.
pub fn capture(node: &str, filter: &[String]) -> Result<i32> {
    let record = needed()?;
    let index = record
        .nodes
        .iter()
        .find(|(name, _)| name == node)
        .map(|(_, address)| address.octets()[3] - 10)
        .ok_or_else(|| unknown(node, &record))?;
    let net = format!("--net={}", namespace_file(&record.namespace).display());
    let status = Command::new("nsenter")
        .args([
            &net,
            "--",
            "tcpdump",
            "-n",
            "-p",
            "-l",
            "-i",
            &network::uplink_tap(index),
        ])
        .args(filter)
        .status()
        .context(|| "start tcpdump".into())?;
    Ok(status.code().unwrap_or_default())
}

fn repl(node: &str, record: &Record) -> Result<i32> {
    let channel = channel(node, record)?;
    say(&format!(
        "Commands run on {node} as root, one per line; end with Ctrl-D."
    ));
    let mut out = std::io::stdout();
    loop {
        let _ = write!(out, "{node}# ");
        let _ = out.flush();
        let mut line = String::new();
        if std::io::stdin()
            .read_line(&mut line)
            .context(|| "read the terminal".into())?
            == 0
        {
            return Ok(0);
        }
        if !line.trim().is_empty() {
            execute(&channel, vec!["sh".into(), "-c".into(), line])?;
        }
    }
}

fn execute(channel: &NodeChannel, argv: Vec<String>) -> Result<i32> {
    let mut running = channel
        .start(Exec {
            argv,
            ..Exec::default()
        })
        .context(|| "reach the node's exec channel".into())?;
    loop {
        match running
            .next_event()
            .context(|| "read the command's output".into())?
        {
            Event::Stdout(bytes) => drop(std::io::stdout().write_all(&bytes)),
            Event::Stderr(bytes) => drop(std::io::stderr().write_all(&bytes)),
            Event::Exit(code) => return Ok(code),
        }
    }
}

fn channel(node: &str, record: &Record) -> Result<NodeChannel> {
    let (_, address) = record
        .nodes
        .iter()
        .find(|(name, _)| name == node)
        .ok_or_else(|| unknown(node, record))?;
    Ok(NodeChannel::new(
        SocketAddrV4::new(*address, EXEC_PORT),
        Some(namespace_file(&record.namespace)),
    ))
}

fn unknown(node: &str, record: &Record) -> Error {
    let known: Vec<&str> = record.nodes.iter().map(|(name, _)| name.as_str()).collect();
    Error::observed(format!(
        "the lab has no node {node}; its nodes are {}",
        known.join(", ")
    ))
}

fn needed() -> Result<Record> {
    running()?.ok_or_else(|| Error::observed("no lab of this checkout runs; start it with `make lab`"))
}

/// The record of a lab that stands, not of one that a crash left.
fn running() -> Result<Option<Record>> {
    let record = State::read(&folder(INSTANCE)?);
    Ok(record
        .filter(|record| record.ready && record.owner.as_ref().is_some_and(state::ProcessIdentity::alive)))
}

/// Passes the keeper's output on until the lab stands or the keeper ends.
fn follow(keeper: &mut Child, log: &std::path::Path) -> Result<Record> {
    let mut reader = File::open(log).context(|| format!("open {}", log.display()))?;
    loop {
        let ended = keeper.try_wait().context(|| "wait for the lab's keeper".into())?;
        let mut text = String::new();
        let _ = reader.read_to_string(&mut text);
        let _ = write!(std::io::stdout(), "{text}");
        if let Some(status) = ended {
            return Err(Error::Ended(format!(
                "the lab did not start ({status}); log: {}",
                log.display()
            )));
        }
        if let Some(record) = running()? {
            return Ok(record);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn keeper_log() -> Result<PathBuf> {
    let log = folder(INSTANCE)?.with_extension("log");
    let parent = log.parent().map(PathBuf::from).unwrap_or_default();
    fs::create_dir_all(&parent).context(|| format!("make {}", parent.display()))?;
    Ok(log)
}

/// How to use a lab that stands.
fn explain(record: &Record) {
    let Ok(folder) = folder(INSTANCE) else { return };
    let program = std::env::current_exe()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let node = record.nodes.first().map_or("worker-1", |(name, _)| name.as_str());
    say(&format!(
        "
The lab stands: {nodes}, Kubernetes {version}. Use it:
  export KUBECONFIG={config}
  export PATH={bin}:$PATH                       # kubectl, helm
  kubectl apply -f - <<< '{{apiVersion: ipsecmesh.io/v1alpha1, kind: IPsecTunnel, metadata: {{name: cluster-mesh}}, spec: {{}}}}'
  {program} shell {node} -- ip xfrm state       # a command on a node; without one: a prompt
  {program} capture {node}                      # what crosses its wire
  {program} down                                # or `make lab-down`
Logs: {logs}
Its network namespace: {namespace}",
        nodes = record.nodes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
        version = super::cache::KUBERNETES,
        config = folder.join("kubeconfig").display(),
        bin = folder.join("bin").display(),
        logs = folder.display(),
        namespace = namespace(INSTANCE).unwrap_or_default(),
    ));
}

/// Removes what other instances of this checkout left when they were killed.
pub fn sweep_all() -> Result<()> {
    for instance in [INSTANCE, "demo", "test", "charts", hosts::INSTANCE, "interop"] {
        let folder = folder(instance)?;
        let alive = State::read(&folder)
            .and_then(|record| record.owner)
            .is_some_and(|owner| owner.alive());
        if !alive {
            state::sweep(&folder)?;
        }
    }
    Ok(())
}

/// Whether a program can be found, for a clear message before anything starts.
pub fn require(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| command::run("sh", &["-c", &format!("command -v {program}")]).is_err())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::observed(format!(
        "missing: {}; run ./e2e/setup.sh as root",
        missing.join(", ")
    )))
}
