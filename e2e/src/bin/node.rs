//! `ipsecmesh-lab-node`: PID 1 of a lab node, and, by its first argument, the steps that start a container.

use std::process::ExitCode;

use ipsecmesh_e2e::guest::{boot, sandbox};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return boot::run();
    }
    match std::env::args().nth(1).as_deref() {
        Some(sandbox::RUN) => sandbox::run(),
        Some(sandbox::ENTER) => sandbox::enter(),
        _ => {
            sandbox::complain("this program is a node's init: boot a kernel with init= naming it");
            ExitCode::from(2)
        }
    }
}
