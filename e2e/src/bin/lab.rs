//! `ipsecmesh-lab`: the demo, a lab that stays, and what `make` calls of the lab.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ipsecmesh_e2e::{
    demo,
    error::{Error, Result},
    lab::{cache::Tools, charts, checkout, detached, hosts},
    report::{self, Progress},
};

/// A real Kubernetes cluster with real kernels on this machine.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot a cluster, encrypt it, show it on the wire, clean up.
    Demo {
        /// Nodes of the cluster.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
        nodes: u8,
    },
    /// Boot a lab with the product installed and leave it running.
    Up {
        /// Nodes of the cluster.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
    },
    /// End the lab that `up` started, or remove what a killed one left.
    Down,
    /// Run a command on a node of the lab; without one, a prompt.
    Shell {
        /// Node, `worker-1`.
        node: String,
        /// Program and arguments.
        #[arg(last = true)]
        argv: Vec<String>,
    },
    /// Show what crosses a node's wire.
    Capture {
        /// Node, `worker-1`.
        node: String,
        /// tcpdump's filter, `esp` for example.
        #[arg(trailing_var_arg = true)]
        filter: Vec<String>,
    },
    /// Boot one kernel with ESP and give a root shell on it, for docs/STANDALONE.md; it ends with the shell.
    Hosts,
    /// Build what the lab needs once per machine.
    Prepare,
    /// Lint both charts and validate what they render.
    Charts,
    /// The process that keeps the lab of `up`.
    #[command(hide = true)]
    Keep {
        /// Nodes of the cluster.
        #[arg(long)]
        nodes: u8,
    },
}

fn main() -> ExitCode {
    let task = Arguments::parse().command;
    let name = task.name();
    match perform(task) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            report::fail(name, &error);
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<i32> {
    let done = |outcome: Result<()>| outcome.map(|()| 0);
    detached::require(&["linux.uml", "tcpdump", "ip", "setpriv", "nsenter", "go", "cargo"])?;
    match task {
        Task::Demo { nodes } => done(demo::run(nodes)),
        Task::Up { nodes } => done(detached::up(nodes)),
        Task::Down => done(detached::down().and_then(|()| detached::sweep_all())),
        Task::Shell { node, argv } => detached::shell(&node, &argv),
        Task::Capture { node, filter } => detached::capture(&node, &filter),
        Task::Hosts => hosts::run(),
        Task::Prepare => done(prepare()),
        Task::Charts => done(charts::check(&Progress::new())),
        Task::Keep { nodes } => done(detached::keep(nodes)),
    }
}

fn prepare() -> Result<()> {
    let tools = Tools::prepare(&checkout()?, &Progress::new())?;
    for program in [&tools.controlplane, &tools.helm, &tools.kubeconform] {
        report::say(&format!("{}", program.display()));
    }
    if tools.controlplane.exists() {
        Ok(())
    } else {
        Err(Error::observed("the control plane is gone from the cache"))
    }
}

impl Task {
    fn name(&self) -> &'static str {
        match self {
            Self::Demo { .. } => "demo",
            Self::Up { .. } => "lab up",
            Self::Down => "lab down",
            Self::Shell { .. } => "shell",
            Self::Capture { .. } => "capture",
            Self::Hosts => "hosts",
            Self::Prepare => "prepare",
            Self::Charts => "charts",
            Self::Keep { .. } => "lab",
        }
    }
}
