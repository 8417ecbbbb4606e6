//! Limits by volume: the soft one is told, the hard one ends the SA, and what comes after it never leaves in clear.

use ipsecmesh_dataplane::{DataPlane, DataPlaneEvent};
use ipsecmesh_ike::{EffectAction, EspSpi, Mode, SaProtocol};
use tokio::time::timeout;

use super::super::net::PATIENCE;
use super::{Ends, Net, SPI, Shape, V4, V6, all_good, done, name, refuse, remove, same, shape, shows};
use crate::suite::Verdict;

const SOFT: u64 = 3;
const HARD: u64 = 6;

const CASES: [Shape; 3] = [
    shape(
        "limits: ESP in tunnel mode ends at its packets",
        Mode::Tunnel,
        SaProtocol::Esp,
        V4,
        false,
    ),
    shape(
        "limits: ESP in transport mode ends at its packets",
        Mode::Transport,
        SaProtocol::Esp,
        V6,
        false,
    ),
    shape(
        "limits: AH in tunnel mode ends at its packets",
        Mode::Tunnel,
        SaProtocol::Ah,
        V4,
        false,
    ),
];

pub(super) async fn run(net: &Net, ends: &mut Ends) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for case in CASES {
        verdicts.push((case.title, ends_at_its_limit(&case, net, ends).await));
    }
    verdicts
}

async fn ends_at_its_limit(shape: &Shape, net: &Net, ends: &mut Ends) -> Result<(), String> {
    let count = shape.count();
    all_good(
        "policies",
        ends.a.put_policies(&shape.policies(true)).await,
        count,
    )?;
    let (a, b) = shape.outer();
    let mut sa = shape.half(name(SPI + 9, a, b), true);
    sa.name.protocol = shape.protocol;
    let name = sa.name;
    sa.soft_lifetime.packets = Some(SOFT);
    sa.lifetime.packets = Some(HARD);
    done(&mut ends.a, EffectAction::InstallOutbound(Box::new(sa))).await?;
    let flow = shape.flows(net)?.pop().ok_or("no flow")?;
    let wire = net.a.watch("wire0")?;
    let mut told = Vec::new();
    for _ in 0..HARD + 4 {
        // Nobody receives: only what leaves counts.
        refuse(&flow.near, &flow.far, flow.address, "secret to the end")?;
        while let Ok(event) = timeout(PATIENCE / 100, ends.a.next_event()).await {
            told.push(event);
        }
    }
    let expire = |hard| expiry(name.spi, hard);
    let at = |event: &DataPlaneEvent| told.iter().position(|one| one == event);
    let order = (at(&expire(false)), at(&expire(true)));
    if !matches!(order, (Some(soft), Some(hard)) if soft < hard) {
        return Err(format!("soft and hard limit were told as {told:?}"));
    }
    let packets = wire.packets();
    let carried = packets.iter().filter(|packet| shape.is_carrier(packet)).count();
    let limit = usize::try_from(HARD).unwrap_or_default();
    same(
        "packets up to the hard limit",
        &(carried == limit || carried + 1 == limit),
        &true,
    )?;
    let clear = packets
        .iter()
        .filter(|packet| !shape.is_carrier(packet) && shows(packet, b"secret"));
    same("packets in clear", &clear.count(), &0)?;
    same("the SA after its end", &ends.a.usage(&[name]).await, &vec![None])?;
    let keys: Vec<_> = shape.policies(true).iter().map(|policy| policy.key).collect();
    all_good("removal", ends.a.remove_policies(&keys).await, count)?;
    remove(ends, &[name, name]).await
}

fn expiry(spi: EspSpi, hard: bool) -> DataPlaneEvent {
    DataPlaneEvent::Expire { spi, hard }
}
