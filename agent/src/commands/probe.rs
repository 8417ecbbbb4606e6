//! `probe`: what this host can do for IPsec, as a table.

use std::io::{self, Write as _};

/// Prints the table; an error when the agent could not work here.
pub(crate) async fn probe() -> Result<(), String> {
    let report = crate::probe::run().await;
    write!(io::stdout(), "kernel   {}\n{report}", report.kernel).map_err(|e| e.to_string())?;
    match report.obstacle() {
        None => Ok(()),
        Some(obstacle) => Err(format!("this host cannot carry IPsec: {}", obstacle.message)),
    }
}
