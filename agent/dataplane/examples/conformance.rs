//! Runs the data plane's suite on this machine's kernel, in a network namespace of its own: one line per case.
//! Needs root, a kernel with ESP and AES-GCM, and `ip`. Ends with 1 where a case fails.

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

use std::io::Write;
use std::process::ExitCode;

use ipsecmesh_dataplane::{KernelDataPlane, SaFeatures};
use linux::Linux;
use suite::{Cases, Verdict};

fn main() -> ExitCode {
    let given = |option: &str| std::env::args().any(|argument| argument == option);
    let features = SaFeatures {
        direction: given("--sa-direction"),
        keepalive: given("--keepalive"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let verdicts = match (Linux::enter(), runtime) {
        (Ok(world), Ok(runtime)) => runtime.block_on(run(&world, features)),
        (Err(error), _) => vec![("set-up", Err(error))],
        (_, Err(error)) => vec![("set-up", Err(error.to_string()))],
    };
    let failed = verdicts.iter().filter(|(_, verdict)| verdict.is_err()).count();
    let mut out = std::io::stdout().lock();
    for (name, verdict) in &verdicts {
        let written = match verdict {
            Ok(()) => writeln!(out, "ok      {name}"),
            Err(error) => writeln!(out, "FAILED  {name}: {error}"),
        };
        if written.is_err() {
            return ExitCode::FAILURE;
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(world: &Linux, features: SaFeatures) -> Vec<Verdict> {
    match KernelDataPlane::open(features).await {
        Ok(mut plane) => {
            let mut verdicts = suite::run(&mut plane, world, Cases::All).await;
            verdicts.extend(traffic::run(features).await);
            verdicts.extend(nat::run(features).await);
            verdicts
        }
        Err(error) => vec![("open", Err(error.to_string()))],
    }
}
