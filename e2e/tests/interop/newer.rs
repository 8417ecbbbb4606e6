//! strongSwan of Debian's testing suite: what the machine's own does not have.

use std::{thread, time::Duration};

use ipsecmesh_e2e::{
    error::{Error, Result},
    interop::{
        agent::{Initiation, manifest},
        case::{Case, PLAIN, Suite},
        ground::Ground,
        proof::Proofs,
        strongswan::{Release, configuration},
        wire::Watch,
    },
};

use crate::{
    ends::{Ends, OURS, THEIRS},
    life::{AFTERWARDS, Part, replaced, under_traffic},
    matrix::{Starter, row},
    world::{ESTABLISHED, World, ensure, ping_both_ways},
};

const DEFAULT: Case = Case {
    suite: Suite::Default,
    ..PLAIN
};

/// What we propose by default is what they choose: X25519 and, in IKE_INTERMEDIATE, ML-KEM-768.
pub(crate) fn ml_kem_we_begin(world: &World) -> Result<String> {
    ml_kem(world, Starter::We)
}

/// Likewise when they begin.
pub(crate) fn ml_kem_they_begin(world: &World) -> Result<String> {
    ml_kem(world, Starter::They)
}

fn ml_kem(world: &World, starter: Starter) -> Result<String> {
    with_newer(world, |release| {
        let evidence = row(world, DEFAULT, release, starter)?;
        ensure(evidence.contains("KE1_ML_KEM_768"), || evidence.clone())?;
        Ok(evidence)
    })
}

/// Rekeys of both kinds by either end lose nothing.
pub(crate) fn newer_rekeys(world: &World) -> Result<String> {
    with_newer(world, |release| {
        under_traffic(world, DEFAULT, release, Duration::ZERO, |stage| {
            replaced(stage, Part::Child, || stage.ends.strongswan.rekey_child())?;
            replaced(stage, Part::Child, || stage.ends.agent.rekey_child())?;
            replaced(stage, Part::Ike, || stage.ends.strongswan.rekey_ike())?;
            replaced(stage, Part::Ike, || stage.ends.agent.rekey_ike())?;
            replaced(stage, Part::Child, || stage.ends.strongswan.rekey_child())
        })
    })
}

/// Both ends rekey at the same moment, and again: one IKE SA with one pair is left, and nothing is lost.
pub(crate) fn rekeys_that_cross(world: &World) -> Result<String> {
    with_newer(world, |release| {
        under_traffic(world, DEFAULT, release, Duration::ZERO, |stage| {
            let ends = &stage.ends;
            for _ in 0..3 {
                at_once(|| ends.strongswan.rekey_child(), || ends.agent.rekey_child())?;
                at_once(|| ends.strongswan.rekey_ike(), || ends.agent.rekey_ike())?;
            }
            stage.traffic.wait_for(AFTERWARDS, ESTABLISHED).map(drop)
        })
    })
}

/// An IKE SA without a child comes first, and the child on it (RFC 6023).
pub(crate) fn childless_they_begin(world: &World) -> Result<String> {
    with_newer(world, |release| {
        let machine = world.machine()?;
        let ground = Ground::prepare(&machine, None)?;
        let watch = Watch::start(&ground, OURS)?;
        let proofs = Proofs::new(DEFAULT.auth)?;
        let ours = manifest(&DEFAULT, OURS, Initiation::OnDemand);
        let theirs = configuration(&DEFAULT, THEIRS, proofs.of(THEIRS));
        let theirs = theirs.replace("mobike = no", "mobike = no\n  childless = force");
        let ends = Ends::start_with(&ground, release, &ours, &theirs, &proofs)?;
        let outcome = ends.strongswan.initiate().and_then(|said| {
            ensure(said.contains("CREATE_CHILD_SA"), || said.clone())?;
            let agreed = ends.strongswan.established(ESTABLISHED)?;
            ping_both_ways(&ground, DEFAULT, 3)?;
            let seen = watch.stop_with(DEFAULT.protection(), 12)?;
            Ok(format!("{}, {}; {seen}", agreed.ike, agreed.child))
        });
        outcome.map_err(|error| ends.with_logs(&error))
    })
}

/// What one of two does while the other one does something else.
fn at_once(
    theirs: impl FnOnce() -> Result<String> + Send,
    ours: impl FnOnce() -> Result<String>,
) -> Result<()> {
    thread::scope(|scope| {
        let theirs = scope.spawn(theirs);
        ours()?;
        // A rekey of theirs that meets ours may be told as failed: the other one stands then.
        match theirs.join() {
            Ok(Ok(_) | Err(Error::Command { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::observed("the thread of a rekey ended early")),
        }
    })
}

fn with_newer(world: &World, trial: impl FnOnce(&Release) -> Result<String>) -> Result<String> {
    match world.forky() {
        Ok(root) => trial(&Release::Root(root.to_owned())),
        Err(why) => Ok(why),
    }
}
