//! Runs the data plane's suite on this machine's kernel, in a network namespace of its own: one line per case
//! and one for everything that the kernel lacks. Needs root, `ip` and `tc`. Ends with 1 where a case fails.

#[path = "../tests/suite/linux.rs"]
mod linux;
#[path = "../tests/suite/nat.rs"]
mod nat;
#[path = "../tests/suite/net.rs"]
mod net;
#[path = "../tests/suite/mod.rs"]
mod suite;
#[path = "../tests/suite/traffic.rs"]
mod traffic;

use std::io::{self, Write as _};
use std::process::ExitCode;

use ipsecmesh_dataplane::{KernelDataPlane, kernel};
use ipsecmesh_xfrm::Connection;
use linux::Linux;
use suite::{Ability, Report, World as _};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = match (Linux::enter(), runtime) {
        (Ok(world), Ok(runtime)) => runtime.block_on(run(&world)),
        (Err(error), _) => failure("set-up", error),
        (_, Err(error)) => failure("set-up", error.to_string()),
    };
    if tell(&report).is_ok() && report.failed().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, verdict) in &report.verdicts {
        match verdict {
            Ok(()) => writeln!(out, "ok      {name}")?,
            Err(error) => writeln!(out, "FAILED  {name}: {error}")?,
        }
    }
    for (name, reason) in &report.lacking {
        writeln!(out, "lacks   {name}: {reason}")?;
    }
    Ok(())
}

async fn run(world: &Linux) -> Report {
    let features = match Connection::open() {
        Ok(mut connection) => kernel::detect(&mut connection).await,
        Err(error) => return failure("open", error.to_string()),
    };
    match KernelDataPlane::open(features).await {
        Ok(mut plane) => {
            let mut report = suite::run(&mut plane, world).await;
            if world.lacks(Ability::Packets).is_none() {
                let traffic = traffic::run(features).await;
                report.verdicts.extend(traffic.verdicts);
                report.lacking.extend(traffic.lacking);
                report.verdicts.extend(nat::run(features).await);
            }
            report
        }
        Err(error) => failure("open", error.to_string()),
    }
}

fn failure(what: &'static str, error: String) -> Report {
    Report {
        verdicts: vec![(what, Err(error))],
        lacking: Vec::new(),
    }
}
