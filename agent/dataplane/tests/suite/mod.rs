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
    /// Why this backend cannot do something here; `None` where it can.
    fn lacks(&self, ability: Ability) -> Option<String>;
}

/// What not every backend can do everywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Carry packets.
    Packets,
    /// Hold SAs.
    Sas,
}

/// The name of a case, and what went wrong.
pub(crate) type Verdict = (&'static str, Result<(), String>);

/// What the backend cannot do here, and why: its cases are left out, and that is said.
pub(crate) type Lack = (&'static str, String);

/// What came of all cases.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Those that ran.
    pub(crate) verdicts: Vec<Verdict>,
    /// Those that could not.
    pub(crate) lacking: Vec<Lack>,
}

impl Report {
    /// The cases that went wrong.
    pub(crate) fn failed(&self) -> Vec<&Verdict> {
        self.verdicts
            .iter()
            .filter(|(_, verdict)| verdict.is_err())
            .collect()
    }
}

/// Runs the cases that every backend can be asked for, one after the other. Where packets are carried, those about
/// traffic follow.
pub(crate) async fn run<P: DataPlane>(plane: &mut P, world: &impl World) -> Report {
    let mut report = Report {
        verdicts: policies::run(plane, world).await,
        lacking: Vec::new(),
    };
    match world.lacks(Ability::Sas) {
        None => report.verdicts.extend(sas::run(plane, world).await),
        Some(reason) => report.lacking.push(("SAs", reason)),
    }
    let reason = world.lacks(Ability::Packets);
    report.lacking.extend(reason.map(|reason| ("packets", reason)));
    report
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
