//! The operator of ipsecmesh: reconciles tunnels, publishes peers, runs the certificate authority.

mod app;
mod apply;
mod args;
mod context;
mod controller;
mod events;
mod http;
mod leader;
mod metrics;
mod pki;
mod plan;
mod status;
mod uninstall;
mod verdict;
mod verify;
mod view;
mod world;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, LogFormat};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(match &cli.command {
        Command::Run(args) => args.common.log_format,
        Command::Uninstall(args) => args.common.log_format,
        Command::Verify(args) => args.log_format,
    });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => app::run(args).await,
            Command::Uninstall(args) => uninstall::run(args).await,
            Command::Verify(args) => verify::run(args).await,
        }
    });
    // A lost lease must not wait for a request that hangs.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
