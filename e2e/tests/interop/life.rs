//! The life of SAs between our agent and strongSwan: rekeys, re-authentication, deletes, crashes, with numbered traffic
//! all the time and every loss counted.

use std::time::Duration;

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    interop::{
        agent::{Agent, Initiation},
        case::{Case, PLAIN},
        ground::Ground,
        strongswan::Release,
        traffic::Numbered,
        wire::Watch,
    },
    traffic::DatagramReport,
};

use crate::{
    ends::{Ends, OURS, THEIRS},
    world::{ESTABLISHED, World, ensure},
};

/// Until both ends have come to rest, strongSwan's five seconds for an old inbound SA included.
const REST: Duration = Duration::from_secs(20);
/// From the return of a peer to packets that pass again.
const RECOVERY: Duration = Duration::from_secs(5);
/// Packets that must come back after a step: half a second of them.
pub(crate) const AFTERWARDS: u64 = 100;

/// Both ends under traffic.
pub(crate) struct Stage<'a> {
    /// The daemons.
    pub(crate) ends: Ends<'a>,
    /// The packets.
    pub(crate) traffic: Numbered<'a>,
}

/// Rekeys of CHILD SAs that we begin.
pub(crate) fn child_rekeys_by_us(world: &World) -> Result<String> {
    lossless(world, PLAIN, &Release::Installed, |stage| {
        for _ in 0..2 {
            replaced(stage, Part::Child, || stage.ends.agent.rekey_child())?;
        }
        Ok(())
    })
}

/// Rekeys of CHILD SAs that they begin.
pub(crate) fn child_rekeys_by_them(world: &World) -> Result<String> {
    lossless(world, PLAIN, &Release::Installed, |stage| {
        for _ in 0..2 {
            replaced(stage, Part::Child, || stage.ends.strongswan.rekey_child())?;
        }
        Ok(())
    })
}

/// Rekeys of the IKE SA that we begin; the new one rekeys a CHILD SA for either end.
pub(crate) fn ike_rekeys_by_us(world: &World) -> Result<String> {
    lossless(world, PLAIN, &Release::Installed, |stage| {
        for _ in 0..2 {
            replaced(stage, Part::Ike, || stage.ends.agent.rekey_ike())?;
        }
        replaced(stage, Part::Child, || stage.ends.strongswan.rekey_child())?;
        replaced(stage, Part::Child, || stage.ends.agent.rekey_child())
    })
}

/// Rekeys of the IKE SA that they begin, likewise.
pub(crate) fn ike_rekeys_by_them(world: &World) -> Result<String> {
    lossless(world, PLAIN, &Release::Installed, |stage| {
        for _ in 0..2 {
            replaced(stage, Part::Ike, || stage.ends.strongswan.rekey_ike())?;
        }
        replaced(stage, Part::Child, || stage.ends.agent.rekey_child())?;
        replaced(stage, Part::Child, || stage.ends.strongswan.rekey_child())
    })
}

/// They authenticate anew and make before they break.
pub(crate) fn reauthentication_by_them(world: &World) -> Result<String> {
    lossless(world, PLAIN, &Release::Installed, |stage| {
        replaced(stage, Part::Ike, || stage.ends.strongswan.reauthenticate())
    })
}

/// They break before they make: a gap that ends.
pub(crate) fn reauthentication_by_them_with_a_break(world: &World) -> Result<String> {
    with_a_gap(world, Duration::from_secs(3), |stage| {
        stage
            .ends
            .strongswan
            .set("make_before_break = yes", "make_before_break = no")?;
        replaced(stage, Part::Ike, || stage.ends.strongswan.reauthenticate())
    })
}

/// They delete the CHILD SA; we want it, so it comes back.
pub(crate) fn a_child_that_they_delete_comes_back(world: &World) -> Result<String> {
    with_a_gap(world, Duration::from_secs(2), |stage| {
        replaced(stage, Part::Child, || stage.ends.strongswan.delete_child())
    })
}

/// They delete the IKE SA; likewise.
pub(crate) fn an_ike_sa_that_they_delete_comes_back(world: &World) -> Result<String> {
    with_a_gap(world, Duration::from_secs(3), |stage| {
        replaced(stage, Part::Ike, || stage.ends.strongswan.delete_ike())
    })
}

/// We take the tunnel down: no SA is left at either end, nothing passes, and what is sent is dropped; up again, it is back.
pub(crate) fn down_and_up_by_us(world: &World) -> Result<String> {
    with_a_gap(world, Duration::from_secs(15), |stage| {
        stage.ends.agent.down()?;
        for side in [OURS, THEIRS] {
            eventually("no SA is left", REST, || {
                let found = stage.ends.kernel_sas(side)?;
                ensure(found == 0, || {
                    format!("{found} SAs in the kernel of {}", side.name())
                })
            })?;
        }
        stage.ends.agent.up().map(drop)
    })
}

/// Their host crashes and comes back while only we have something to say.
pub(crate) fn crash_of_theirs(world: &World) -> Result<String> {
    let mut recovered = Duration::ZERO;
    let evidence = with_a_gap(world, Duration::from_secs(20), |stage| {
        stage.ends.strongswan.kill()?;
        // A host that crashes loses what its kernel had.
        stage.ends.flush(THEIRS)?;
        stage.ends.strongswan.run()?;
        recovered = stage.traffic.wait_for(AFTERWARDS, RECOVERY)?;
        Ok(())
    })?;
    Ok(format!("back after {:.1} s; {evidence}", recovered.as_secs_f64()))
}

/// Our agent is killed and starts again: the kernel's SAs carry the traffic meanwhile, and new ones take their place.
pub(crate) fn crash_of_ours(world: &World) -> Result<String> {
    with_a_gap(world, Duration::from_secs(1), |stage| {
        stage.ends.agent.kill()?;
        stage.traffic.wait_for(AFTERWARDS, ESTABLISHED)?;
        stage.ends.agent.run()?;
        eventually("an IKE SA of the new run", ESTABLISHED, || {
            name_of(&stage.ends.agent, Part::Ike)
        })
        .map(drop)
    })
}

/// Nothing may be lost.
fn lossless(
    world: &World,
    case: Case,
    release: &Release,
    step: impl FnOnce(&mut Stage<'_>) -> Result<()>,
) -> Result<String> {
    under_traffic(world, case, release, Duration::ZERO, step)
}

/// One gap, no longer than `limit`.
fn with_a_gap(
    world: &World,
    limit: Duration,
    step: impl FnOnce(&mut Stage<'_>) -> Result<()>,
) -> Result<String> {
    under_traffic(world, PLAIN, &Release::Installed, limit, step)
}

/// Establishes, starts the traffic, takes a step, and then asks for: packets again, no gap longer than `limit`, one IKE SA
/// with one pair at both ends, nothing in clear.
pub(crate) fn under_traffic(
    world: &World,
    case: Case,
    release: &Release,
    limit: Duration,
    step: impl FnOnce(&mut Stage<'_>) -> Result<()>,
) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, case.hidden())?;
    let watch = Watch::start(&ground, OURS)?;
    let ends = Ends::start(&ground, case, release, Initiation::Eager)?;
    ends.strongswan
        .established(ESTABLISHED)
        .map_err(|error| ends.with_logs(&error))?;
    let traffic = Numbered::start(&ground, OURS, case.flow(OURS).1)?;
    let mut stage = Stage { ends, traffic };
    let outcome = step(&mut stage).and_then(|()| {
        stage.traffic.wait_for(AFTERWARDS, ESTABLISHED)?;
        at_rest(&stage.ends)
    });
    let Stage { ends, traffic } = stage;
    let report = traffic.stop()?;
    let judged = outcome.and_then(|()| judge(&report, limit)).and_then(|books| {
        let seen = watch.stop_with(case.protection(), 2)?;
        Ok(format!("{books}; {seen}"))
    });
    judged.map_err(|error| ends.with_logs(&error))
}

/// What an SA belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The pair of CHILD SAs.
    Child,
    /// The IKE SA.
    Ike,
}

/// What tells the present SA of a kind from its successor.
pub(crate) fn name_of(agent: &Agent<'_>, part: Part) -> Result<String> {
    let status = agent.status()?;
    let peer = &status["peers"][0];
    let name = match part {
        Part::Child => &peer["children"][0]["inboundSpi"],
        Part::Ike => &peer["ike"]["initiatorSpi"],
    };
    name.as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::observed(format!("no {part:?} SA: {status}")))
}

/// Does something, and waits until our agent has another SA of the kind than before.
pub(crate) fn replaced(stage: &Stage<'_>, part: Part, action: impl FnOnce() -> Result<String>) -> Result<()> {
    let name = || name_of(&stage.ends.agent, part);
    let before = name()?;
    action()?;
    eventually(&format!("another {part:?} SA than {before}"), ESTABLISHED, || {
        let now = name()?;
        ensure(now != before, || format!("still {now}"))
    })?;
    stage.traffic.wait_for(AFTERWARDS, ESTABLISHED).map(drop)
}

/// One IKE SA with one pair, the same at both ends.
pub(crate) fn at_rest(ends: &Ends<'_>) -> Result<()> {
    eventually("one IKE SA with one pair at both ends", REST, || {
        let theirs = ends.strongswan.established(Duration::ZERO)?;
        ensure((theirs.ike_sas, theirs.child_sas) == (1, 1), || {
            format!("{theirs:?}")
        })?;
        let status = ends.agent.status()?;
        let pairs = status["peers"][0]["children"].as_array().map_or(0, Vec::len);
        ensure(pairs == 1 && !status["peers"][0]["ike"].is_null(), || {
            status.to_string()
        })?;
        // Two SAs each: what was replaced is gone from the kernels as well.
        for side in [OURS, THEIRS] {
            let found = ends.kernel_sas(side)?;
            ensure(found == 2, || {
                format!("{found} SAs in the kernel of {}", side.name())
            })?;
        }
        Ok(())
    })
}

/// Judges the books: nothing lost, or no gap that is longer than `limit`.
pub(crate) fn judge(report: &DatagramReport, limit: Duration) -> Result<String> {
    let allowed = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let clean = if limit.is_zero() {
        report.missing() == 0
    } else {
        report.longest_gap_ms <= allowed
    };
    ensure(clean && report.duplicates == 0, || format!("{report:?}"))?;
    Ok(format!(
        "{} packets, {} lost, longest gap {} ms",
        report.sent,
        report.missing(),
        report.longest_gap_ms
    ))
}
