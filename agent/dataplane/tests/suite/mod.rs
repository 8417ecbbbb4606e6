//! What every data plane must do, whatever carries it. Each case starts from an empty data plane and leaves it empty.

mod make;
mod policies;
mod sas;

use std::net::IpAddr;

use ipsecmesh_dataplane::{DataPlane, PolicyKey};
use ipsecmesh_ike::SaName;

pub(crate) use make::*;
#[allow(unused_imports, reason = "only a kernel with AH carries it")]
pub(crate) use sas::header;

/// What happens outside the data plane: other owners, and traffic.
pub(crate) trait World {
    /// Somebody else installs a policy.
    fn add_foreign_policy(&self, key: PolicyKey) -> Result<(), String>;
    /// And removes it.
    fn remove_foreign_policy(&self, key: PolicyKey) -> Result<(), String>;
    /// Somebody else installs an SA.
    fn add_foreign_sa(&self, name: SaName) -> Result<(), String>;
    /// And removes it.
    fn remove_foreign_sa(&self, name: SaName) -> Result<(), String>;
    /// A local program sends a datagram to the overlay's port.
    fn send(&self, source: IpAddr, destination: IpAddr) -> Result<(), String>;
}

/// Which cases to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cases {
    /// Those that need no ESP.
    #[allow(
        dead_code,
        reason = "not every binary that runs the suite meets a kernel without ESP"
    )]
    Policies,
    /// All.
    #[allow(dead_code, reason = "not every binary that runs the suite has ESP")]
    All,
}

/// The name of a case, and what went wrong.
pub(crate) type Verdict = (&'static str, Result<(), String>);

/// Runs the cases one after the other.
pub(crate) async fn run<P: DataPlane>(plane: &mut P, world: &impl World, cases: Cases) -> Vec<Verdict> {
    let mut verdicts = policies::run(plane, world).await;
    if cases == Cases::All {
        verdicts.extend(sas::run(plane, world).await);
    }
    verdicts
}

/// Fails with a text that shows both sides.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}"))
    }
}

/// All results must be good.
pub(crate) fn all_good<E: std::fmt::Display>(
    what: &str,
    results: Vec<Result<(), E>>,
    count: usize,
) -> Result<(), String> {
    same(&format!("results of {what}"), &results.len(), &count)?;
    results
        .into_iter()
        .try_for_each(|result| result.map_err(|error| format!("{what}: {error}")))
}
