//! New keys under traffic: nobody notices.

use std::time::Duration;

use ipsecmesh_e2e::error::{Error, Result, eventually};

use crate::{
    evidence::{Allowed, Watch},
    standing::Standing,
    world::{NODES, World, ensure},
};

/// Rekey, linger of the old inbound SA, delete.
const REKEYED: Duration = Duration::from_secs(45);

/// Enforcing mesh, traffic; all CHILD SAs rekeyed from all nodes at once; no loss, every SA is another one.
pub(crate) fn child_sas(world: &World) -> Result<String> {
    rekey(world, &["rekey"], |kept| kept.1 == 0)
}

/// Enforcing mesh, traffic; all IKE SAs rekeyed from all nodes at once; no loss, every IKE SA is another one.
pub(crate) fn ike_sas(world: &World) -> Result<String> {
    rekey(world, &["rekey", "--ike"], |kept| kept.0 == 0)
}

/// Both ends of every pair ask at about the same time, so crossing rekeys are among them.
fn rekey(world: &World, command: &[&str], all_new: fn((usize, usize)) -> bool) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let before = Standing::now(lab)?;
    let watch = Watch::all(&pods)?;
    std::thread::scope(|scope| {
        let asked: Vec<_> = NODES.iter().map(|node| scope.spawn(move || lab.agent(node, command))).collect();
        let panicked = || Error::observed("a thread of the trial panicked");
        asked.into_iter().try_for_each(|one| one.join().map_err(|_| panicked())?.map(drop))
    })?;
    let after = eventually("every SA is a new one", REKEYED, || {
        let after = Standing::now(lab)?;
        let kept = after.kept(&before);
        ensure(all_new(kept), || format!("{} IKE SAs and {} SAs are the old ones", kept.0, kept.1))?;
        Ok(after)
    })?;
    let evidence = watch.finish(&Allowed::default())?;
    let (ike, sas) = after.kept(&before);
    Ok(format!(
        "{} IKE SAs and {} SAs replaced; {evidence}",
        after.ike.len() - ike,
        after.count() - sas
    ))
}
