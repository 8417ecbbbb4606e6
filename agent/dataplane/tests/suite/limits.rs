//! Limits by volume: the soft one is told, the hard one ends the SA, and what comes after it never leaves in clear. And the
//! end of the numbers, which never come round.

use ipsecmesh_dataplane::{DataPlane, DataPlaneEvent};
use ipsecmesh_ike::{EffectAction, EspSpi, Mode, SaProtocol};
use tokio::time::timeout;

use super::super::linux::ip;
use super::super::net::PATIENCE;
use super::{Ends, Net, REQID, SPI, Shape, V4, V6, all_good, done, name, refuse, remove, same, shape, shows};
use crate::suite::Verdict;

const SOFT: u64 = 3;
const HARD: u64 = 6;
/// UDP header and text: what the kernel counts in transport mode.
const BYTES_EACH: u64 = 8 + 17;

#[rustfmt::skip]
const CASES: [(Shape, Unit); 4] = [
    (shape("limits: ESP in tunnel mode ends at its packets", Mode::Tunnel, SaProtocol::Esp, V4, false), Unit::Packets),
    (shape("limits: ESP in transport mode ends at its packets", Mode::Transport, SaProtocol::Esp, V6, false), Unit::Packets),
    (shape("limits: AH in tunnel mode ends at its packets", Mode::Tunnel, SaProtocol::Ah, V4, false), Unit::Packets),
    (shape("limits: ESP in transport mode ends at its bytes", Mode::Transport, SaProtocol::Esp, V4, false), Unit::Bytes),
];

/// What is counted.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Packets,
}

pub(super) async fn run(net: &Net, ends: &mut Ends) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (case, unit) in CASES {
        verdicts.push((case.title, ends_at_its_limit(&case, unit, net, ends).await));
    }
    verdicts.push((
        "limits: sequence numbers do not come round",
        never_round(net, ends).await,
    ));
    verdicts
}

/// RFC 4303 §3.3.3. The agent's SAs have a limit in front of it; the kernel holds even where that fails. The numbers begin
/// near their end, which only somebody else's tool can ask for: an SA of our reqid.
async fn never_round(net: &Net, ends: &mut Ends) -> Result<(), String> {
    const LEFT: u32 = 3;
    let shape = shape("", Mode::Transport, SaProtocol::Esp, V4, false);
    let policies = shape.policies(true);
    all_good("policies", ends.a.put_policies(&policies).await, policies.len())?;
    let (a, b) = shape.outer();
    let name = name(SPI + 70, a, b);
    net.a.enter()?;
    ip(&format!(
        "xfrm state add src {a} dst {b} proto esp spi 0x{} reqid {REQID} mode transport replay-oseq {} aead \
         rfc4106(gcm(aes)) 0x{} 128",
        name.spi,
        u32::MAX - LEFT,
        "5a".repeat(36)
    ))?;
    let flow = shape.flows(net)?.pop().ok_or("no flow")?;
    let wire = net.a.watch("wire0")?;
    for _ in 0..LEFT + 3 {
        refuse(&flow.near, &flow.far, flow.address, "secret to the end")?;
    }
    let numbers: Vec<u32> = wire
        .packets()
        .iter()
        .filter_map(|packet| number(packet))
        .collect();
    let expected: Vec<u32> = (u32::MAX - LEFT + 1..=u32::MAX).collect();
    same("the numbers that were used", &numbers, &expected)?;
    let keys: Vec<_> = policies.iter().map(|policy| policy.key).collect();
    all_good("removal", ends.a.remove_policies(&keys).await, keys.len())?;
    remove(ends, &[name, name]).await
}

/// The sequence number of a packet that left; 0 for anything but ESP, which may not leave.
fn number(packet: &[u8]) -> Option<u32> {
    packet.first().filter(|byte| **byte >> 4 == 4)?;
    match packet.get(9) {
        Some(50) => Some(u32::from_be_bytes(packet.get(24..28)?.try_into().ok()?)),
        _ => Some(0),
    }
}

async fn ends_at_its_limit(shape: &Shape, unit: Unit, net: &Net, ends: &mut Ends) -> Result<(), String> {
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
    match unit {
        Unit::Bytes => {
            sa.soft_lifetime.bytes = Some(SOFT * BYTES_EACH);
            sa.lifetime.bytes = Some(HARD * BYTES_EACH);
        }
        Unit::Packets => {
            sa.soft_lifetime.packets = Some(SOFT);
            sa.lifetime.packets = Some(HARD);
        }
    }
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
