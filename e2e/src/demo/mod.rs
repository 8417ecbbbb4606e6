//! The demo.

use crate::{
    error::Result,
    lab::{Lab, LabOptions},
    report::Progress,
};

/// Runs it.
pub fn run(nodes: u8) -> Result<()> {
    let progress = Progress::new();
    let lab = Lab::start(&LabOptions::new("demo", nodes), &progress)?;
    std::thread::sleep(std::time::Duration::from_secs(30));
    lab.stop()
}
