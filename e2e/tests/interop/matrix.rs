//! The matrix: what is agreed on, established from either end, with packets both ways and nothing else on the wire.

use std::fmt;

use ipsecmesh_e2e::{
    error::{Error, Result},
    interop::{
        agent::{Agent, Initiation},
        case::{Case, PLAIN, Path, Suite},
        ground::{Ground, Side},
        strongswan::StrongSwan,
        wire::Watch,
    },
};

use crate::world::{ESTABLISHED, World, ping_both_ways};

/// Where our agent stands.
pub(crate) const OURS: Side = Side::Left;
/// Where strongSwan stands.
pub(crate) const THEIRS: Side = Side::Right;
/// Pings in each direction.
const PINGS: usize = 5;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// Our agent.
    We,
    /// strongSwan.
    They,
}

impl Starter {
    /// Whom a case can be begun by: nobody finds the way to a host behind a NAT.
    pub(crate) fn of(case: &Case) -> &'static [Self] {
        match case.hidden() {
            None => &[Self::We, Self::They],
            Some(OURS) => &[Self::We],
            Some(THEIRS) => &[Self::They],
        }
    }
}

impl fmt::Display for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::We => "we_begin",
            Self::They => "they_begin",
        })
    }
}

/// Every value of every dimension, and the pairs that have something to do with each other.
pub(crate) fn rows() -> Vec<(&'static str, Case)> {
    vec![
        ("psk_gcm256_transport_esp_v4", PLAIN),
        (
            "psk_gcm128_transport_esp_v4",
            Case {
                suite: Suite::Gcm128,
                ..PLAIN
            },
        ),
        (
            "psk_gcm256_transport_esp_v4_udp",
            Case {
                path: Path::ForcedUdp,
                ..PLAIN
            },
        ),
    ]
}

/// One row: establish, ping both ways, look at the wire.
pub(crate) fn row(world: &World, case: &Case, starter: Starter) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, case.hidden())?;
    let watch = Watch::start(&ground, OURS)?;
    let strongswan = StrongSwan::start(&ground, THEIRS, case)?;
    let initiation = match starter {
        Starter::We => Initiation::Eager,
        Starter::They => Initiation::OnDemand,
    };
    let agent = Agent::start(&ground, OURS, case, initiation)?;
    let outcome = match starter {
        Starter::We => Ok(String::new()),
        Starter::They => strongswan.initiate(),
    };
    let agreed = outcome.and_then(|_| strongswan.established(ESTABLISHED));
    let evidence = agreed.and_then(|agreed| {
        ping_both_ways(&ground, case, PINGS)?;
        let seen = watch.stop();
        seen.expect(case.protection(), 4 * PINGS)?;
        Ok(format!("{}, {}; {seen}", agreed.ike, agreed.child))
    });
    evidence.map_err(|error| {
        Error::observed(format!(
            "{error}\n--- our agent\n{}\n--- charon\n{}",
            agent.log(),
            strongswan.log()
        ))
    })
}

/// The ground itself: strongSwan with strongSwan, so that a fault of a row is not one of the harness.
pub(crate) fn strongswan_with_itself(world: &World) -> Result<String> {
    let machine = world.machine()?;
    let ground = Ground::prepare(&machine, None)?;
    let watch = Watch::start(&ground, OURS)?;
    let right = StrongSwan::start(&ground, Side::Right, &PLAIN)?;
    let left = StrongSwan::start(&ground, Side::Left, &PLAIN)?;
    left.initiate()?;
    let agreed = right.established(ESTABLISHED)?;
    ping_both_ways(&ground, &PLAIN, PINGS)?;
    let seen = watch.stop();
    seen.expect(PLAIN.protection(), 4 * PINGS)?;
    Ok(format!("{}, {}; {seen}", agreed.ike, agreed.child))
}
