//! The lab's command line.

use std::process::ExitCode;

use ipsecmesh_e2e::{lab::{Lab, LabOptions}, report::{self, Progress}};

fn main() -> ExitCode {
    let progress = Progress::new();
    let arg = std::env::args().nth(1).unwrap_or_default();
    if arg == "plane" {
        match Lab::start_control_plane(&LabOptions::new("dev", 0), &progress) {
            Ok(lab) => { report::say(&format!("{:?}", lab.kubectl().run(&["get","ns,clusterrole/system:node"]))); std::thread::sleep(std::time::Duration::from_secs(3)); return ExitCode::SUCCESS },
            Err(error) => { report::fail("start", &error); return ExitCode::FAILURE }
        }
    }
    match Lab::start(&LabOptions::new("dev", 2), &progress) {
        Ok(lab) => {
            report::say(&format!("export KUBECONFIG={}", lab.folder().join("kubeconfig").display()));
            std::thread::sleep(std::time::Duration::from_secs(arg.parse().unwrap_or(3600)));
            ExitCode::SUCCESS
        }
        Err(error) => { report::fail("start", &error); ExitCode::FAILURE }
    }
}
