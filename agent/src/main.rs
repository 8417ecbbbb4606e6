//! The agent of ipsecmesh: one per node, it turns desired tunnels into security associations.

mod app;
mod args;
mod clock;
mod commands;
mod desired;
mod engine;
#[cfg(test)]
mod fixture;
mod identity;
mod metrics;
mod model;
mod net;
mod overlay;
mod persist;
mod probe;
mod readiness;
mod reconcile;
mod server;
mod source;
mod status;
mod task;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, LogArgs, LogFormat};
use crate::commands::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or_else(|| Command::Run(Box::new(cli.run)));
    let log = match &command {
        Command::Run(args) => args.log,
        Command::Flush(log) | Command::Probe(log) => *log,
        Command::Down(_) | Command::Rekey(_) | Command::Status(_) | Command::Up(_) => LogArgs::default(),
    };
    let served = matches!(command, Command::Run(_));
    start_log(log);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime does not start: {error}")),
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Run(args) => app::run(*args).await.map_err(|error| error.to_string().into()),
            Command::Flush(_) => commands::flush().await.map_err(Failure::Refused),
            Command::Probe(_) => commands::probe().await.map_err(Failure::Refused),
            Command::Rekey(args) => commands::rekey(&args).await,
            Command::Status(args) => commands::status(&args).await,
            Command::Down(args) => commands::tunnel(&args, true).await,
            Command::Up(args) => commands::tunnel(&args, false).await,
        }
    });
    // A watch that hangs must not delay the end: the next agent waits for the sockets.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if served => fail(failure.message()),
        Err(failure) => {
            // A person reads it: the log's form helps nobody. INVARIANT: nobody is left to tell if stderr refuses.
            let _ = writeln!(std::io::stderr(), "error: {}", failure.message().trim_end());
            ExitCode::from(failure.code())
        }
    }
}

fn start_log(args: LogArgs) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=warn,kube_runtime=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn fail(message: &str) -> ExitCode {
    tracing::error!("{message}");
    ExitCode::FAILURE
}
