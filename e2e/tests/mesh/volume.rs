//! Limits by volume: the kernels count, and tell it at the soft and at the hard one.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    lab::Lab,
};

use crate::{
    edit::patch,
    evidence::{Allowed, Watch, counters},
    standing::Standing,
    world::{NODES, ROLLOUT, World, ensure, wait_ready},
};

/// The pair of nodes between which the watch keeps a TCP flow busy.
const BUSY: [&str; 2] = [NODES[0], NODES[1]];
/// SAs of the pair, those of both directions, that are to follow each other.
const SUCCESSORS: usize = 8;
/// Until something has happened that depends on traffic, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the kernel counts where an SA at its hard limit is asked for one more packet, at the end that sends and at the one
/// that receives: the receiver counts what the sender did not, and is there first.
const EXPIRED: [&str; 2] = ["XfrmOutStateExpired", "XfrmInStateExpired"];

/// Enforcing mesh, traffic; rekeys by bytes long before the hard limit lose nothing. Then one end's agent stands still, so
/// that no rekey can come: a kernel ends its SA at the hard limit and lets nothing more leave, in clear least of all; when
/// the agent goes on, new SAs take the place of those that ended, at both ends.
pub(crate) fn soft_and_hard_limits(world: &World) -> Result<String> {
    let pods = world.mesh()?;
    let lab = pods.lab();
    let watch = Watch::all(&pods)?;
    patch(
        lab,
        r#"{"spec": {"childSA": {"lifetime": {"bytes": "4Mi"}, "rekeyMarginPercent": 50}}}"#,
    )?;
    wait_ready(lab, ROLLOUT)?;
    let soft = followers(lab);
    let evidence = watch.finish(&Allowed::default());
    let (soft, evidence) = (soft?, evidence?);

    let watch = Watch::all(&pods)?;
    let hard = end_at_the_hard_limit(lab);
    patch(
        lab,
        r#"{"spec": {"childSA": {"lifetime": {"bytes": null}, "rekeyMarginPercent": null}}}"#,
    )?;
    wait_ready(lab, ROLLOUT)?;
    let standing = Standing::settled(lab, ROLLOUT)?;
    let blocked = watch.finish(&Allowed {
        lost: 2000,
        // The flow's own retransmissions are far apart by the time that its packets can leave again.
        stall: 60_000,
        counters: &[
            EXPIRED[0],
            EXPIRED[1],
            "XfrmInStateInvalid",
            "XfrmOutNoStates",
            "XfrmInNoStates",
        ],
        ..Allowed::default()
    })?;
    Ok(format!(
        "soft: {soft}, {evidence}; hard: {}, {blocked}, {} SAs at the end",
        hard?,
        standing.count()
    ))
}

/// Waits until the busy pair has had so many SAs one after the other.
fn followers(lab: &Lab) -> Result<String> {
    let begin = Instant::now();
    let mut spis = BTreeSet::new();
    while spis.len() < SUCCESSORS {
        if begin.elapsed() > PATIENCE {
            return Err(Error::observed(format!(
                "{} SAs in {PATIENCE:?}, not {SUCCESSORS}",
                spis.len()
            )));
        }
        spis.extend(between(lab, 0)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(format!(
        "{SUCCESSORS} SAs of one pair in {:.1} s",
        begin.elapsed().as_secs_f64()
    ))
}

fn end_at_the_hard_limit(lab: &Lab) -> Result<String> {
    let before = expired(lab)?;
    signal_agent(lab, "-STOP")?;
    let begin = Instant::now();
    // The numbers and not the SAs: what ended is gone from its kernel, and nothing new can come.
    let old: BTreeSet<String> = between(lab, 1)?.collect();
    let refused = eventually("an SA ends at its hard limit", PATIENCE, || {
        let refused = expired(lab)? - before;
        ensure(refused > 0, || format!("{EXPIRED:?} stand at {before}"))?;
        Ok(refused)
    });
    let took = begin.elapsed().as_secs_f64();
    signal_agent(lab, "-CONT")?;
    let refused = refused?;
    let begin = Instant::now();
    eventually("new SAs stand in place of those that ended", ROLLOUT, || {
        for at in [0, 1] {
            let now: Vec<String> = between(lab, at)?.collect();
            let new = !now.is_empty() && now.iter().all(|spi| !old.contains(spi));
            ensure(new, || format!("{}: {now:?}, before {old:?}", BUSY[at]))?;
        }
        Ok(())
    })?;
    Ok(format!(
        "reached {took:.1} s after the other end's agent had stopped, {refused} packets refused, new SAs at both \
         ends {:.1} s after it went on",
        begin.elapsed().as_secs_f64()
    ))
}

/// SPIs of the SAs between the busy pair, as the node at this place has them.
fn between(lab: &Lab, at: usize) -> Result<impl Iterator<Item = String>> {
    let other = lab.node(BUSY[1 - at])?.address().to_string();
    let sas = lab.kernel_sas(BUSY[at])?.into_iter();
    Ok(sas
        .filter(move |sa| sa.source == other || sa.destination == other)
        .map(|sa| sa.spi))
}

/// Packets that SAs at their hard limit have refused.
fn expired(lab: &Lab) -> Result<u64> {
    let of = |node: &str| -> Result<u64> {
        let counters = counters(lab, node)?;
        Ok(EXPIRED.iter().filter_map(|name| counters.get(*name)).sum())
    };
    BUSY.into_iter().map(of).sum()
}

fn signal_agent(lab: &Lab, signal: &str) -> Result<()> {
    lab.node(BUSY[1])?
        .run(&["pkill", signal, "-f", "ipsecmesh-agent run"])
        .map(drop)
}
