//! The demo: a user's first quarter of an hour with the product, told by one program on real kernels.

mod story;

use std::sync::Arc;

use crate::{
    error::Result,
    lab::{Lab, LabOptions},
    report::{self, Progress},
};

/// Boots a cluster, encrypts it, shows it on the wire, and cleans up, whatever happens.
pub fn run(nodes: u8) -> Result<()> {
    let progress = Progress::new();
    let lab = Lab::start(&LabOptions::new("demo", nodes), &progress)?;
    let told = story::tell(&lab, &progress);
    let logs = lab.folder().display().to_string();
    progress.step("clean up", || lab.stop())?;
    match told {
        Ok(mut rows) => {
            rows.push((
                "everything, cleaned up".to_owned(),
                format!("{:.0} s", progress.elapsed().as_secs_f64()),
            ));
            report::table("What was shown", &rows);
            Ok(())
        }
        Err(error) => {
            report::say(&format!(
                "Logs of the nodes, the pods and the control plane: {logs}"
            ));
            Err(error)
        }
    }
}

/// What the parts of the story share.
struct Stage<'a> {
    lab: &'a Arc<Lab>,
    progress: &'a Progress,
    rows: Vec<(String, String)>,
}

impl Stage<'_> {
    /// Keeps a claim with its evidence for the table at the end.
    fn shown(&mut self, claim: &str, evidence: String) {
        self.rows.push((claim.to_owned(), evidence));
    }
}
