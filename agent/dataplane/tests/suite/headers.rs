//! What the headers of a tunnel say (RFC 4301 §5.1.2, §8.1; RFC 6040), and what has to pass beside a policy for
//! everything.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use ipsecmesh_dataplane::{DataPlane, Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};
use ipsecmesh_ike::{Mode, SaProtocol};
use ipsecmesh_xfrm::udp;
use socket2::SockRef;

use super::super::linux::ip;
use super::super::net::{Net, deliver, refuse};
use super::{
    Ends, Flow, REQID, Shape, V4, V4_IN_V6, V6, V6_IN_V4, all_good, here, here6, host, remove, same, shape,
    there, there6,
};
use crate::suite::Verdict;

/// Expedited forwarding (RFC 3246), in the byte that also holds ECN.
const CLASS: u8 = 0xb8;
const DONT_FRAGMENT: u8 = 0x40;
const ESP: u8 = 50;
const IKE: u16 = 500;

pub(super) async fn run(net: &Net, ends: &mut Ends) -> Vec<Verdict> {
    vec![
        (
            "headers: the outer one has the inner one's class, of either family",
            classes(net, ends).await,
        ),
        (
            "headers: the outer one may be fragmented where the inner one may",
            fragments(net, ends).await,
        ),
        (
            "headers: congestion that the path marks reaches those who know of it, IPv4",
            congestion(net, ends, V4).await,
        ),
        (
            "headers: congestion that the path marks reaches those who know of it, IPv6",
            congestion(net, ends, V6).await,
        ),
        (
            "IKE and neighbour discovery pass a policy for everything, IPv4",
            everything(net, ends, (here(), there())).await,
        ),
        (
            "IKE and neighbour discovery pass a policy for everything, IPv6",
            everything(net, ends, (here6(), there6())).await,
        ),
    ]
}

/// Sets a shape up, does something, and takes everything away.
pub(super) async fn within(
    shape: &Shape,
    net: &Net,
    ends: &mut Ends,
    act: impl FnOnce(&Flow) -> Result<(), String>,
) -> Result<(), String> {
    let flow = shape.flows(net)?.pop().ok_or("no flow")?;
    let (at_a, at_b) = (shape.policies(true), shape.policies(false));
    let count = shape.count();
    all_good("policies", ends.a.put_policies(&at_a).await, count)?;
    all_good("policies", ends.b.put_policies(&at_b).await, count)?;
    let names = shape.install(ends, 20).await?;
    let outcome = act(&flow);
    let keys = |policies: &[Policy]| -> Vec<PolicyKey> { policies.iter().map(|policy| policy.key).collect() };
    all_good("removal", ends.a.remove_policies(&keys(&at_a)).await, count)?;
    all_good("removal", ends.b.remove_policies(&keys(&at_b)).await, count)?;
    remove(ends, &names).await?;
    outcome
}

async fn classes(net: &Net, ends: &mut Ends) -> Result<(), String> {
    for families in [V4, V6, V4_IN_V6, V6_IN_V4] {
        let shape = shape("", Mode::Tunnel, SaProtocol::Esp, families, false);
        let wire = net.a.watch("wire0")?;
        within(&shape, net, ends, |flow| {
            set_class(flow, families.0, CLASS)?;
            flow.round_trip("secret class")?;
            let packets = wire.packets();
            let carried: Vec<u8> = packets
                .iter()
                .filter(|packet| shape.is_carrier(packet))
                .filter_map(|packet| class(packet))
                .collect();
            same("classes", &carried, &vec![CLASS])
        })
        .await?;
    }
    Ok(())
}

fn class(packet: &[u8]) -> Option<u8> {
    match packet {
        [first, second, ..] if first >> 4 == 6 => Some(first << 4 | second >> 4),
        [_, second, ..] => Some(*second),
        _ => None,
    }
}

async fn fragments(net: &Net, ends: &mut Ends) -> Result<(), String> {
    let shape = shape("", Mode::Tunnel, SaProtocol::Esp, V4, false);
    for (without_discovery, expected) in [("0", DONT_FRAGMENT), ("1", 0)] {
        net.a.set("ipv4/ip_no_pmtu_disc", without_discovery)?;
        let wire = net.a.watch("wire0")?;
        within(&shape, net, ends, |flow| {
            flow.round_trip("secret")?;
            let packets = wire.packets();
            let flags: Vec<u8> = packets
                .iter()
                .filter(|packet| shape.is_carrier(packet))
                .filter_map(|packet| packet.get(6))
                .map(|byte| byte & DONT_FRAGMENT)
                .collect();
            same("flags", &flags, &vec![expected])
        })
        .await?;
    }
    net.a.set("ipv4/ip_no_pmtu_disc", "0")
}

/// The way from `a` to `b` marks congestion and another class in every ESP packet. What comes out behind `b` has the class
/// that its sender gave it (RFC 4301 §5.1.2), and the mark where its sender knows of congestion (RFC 6040 §4.2). Where it
/// does not, the kernel lets the packet go on unmarked, as RFC 3168 did; RFC 6040 would drop it.
async fn congestion(net: &Net, ends: &mut Ends, families: (bool, bool)) -> Result<(), String> {
    const CAPABLE: u8 = 0b10;
    const MARKED: u8 = 0b11;
    let shape = shape("", Mode::Tunnel, SaProtocol::Esp, families, false);
    let (protocol, rewrite) = if families.1 {
        ("ip", "ip dsfield set 0x2b pipe csum ip")
    } else {
        ("ipv6", "ip6 traffic_class set 0x2b")
    };
    net.b.tc("qdisc add dev wire1 clsact")?;
    net.b.tc(&format!(
        "filter add dev wire1 ingress protocol {protocol} pref 1 flower ip_proto {ESP:x} action pedit ex munge {rewrite}"
    ))?;
    let (sent, came) = (net.a.watch("wire0")?, net.b.watch("yard0")?);
    let outcome = within(&shape, net, ends, |flow| {
        for (from, outer, inner) in [
            (CLASS | CAPABLE, CLASS | CAPABLE, CLASS | MARKED),
            (CLASS, CLASS, CLASS),
        ] {
            set_class(flow, families.0, from)?;
            flow.round_trip("secret mark")?;
            let classes = |packets: Vec<Vec<u8>>, carrier: bool| -> Vec<u8> {
                packets
                    .iter()
                    .filter(|packet| shape.is_carrier(packet) == carrier && is_ip_of(packet, carrier, &shape))
                    .filter_map(|packet| class(packet))
                    .collect()
            };
            same(
                "the outer class when sent",
                &classes(sent.packets(), true),
                &vec![outer],
            )?;
            same(
                "the inner class behind b",
                &classes(came.packets(), false),
                &vec![inner],
            )?;
        }
        Ok(())
    })
    .await;
    net.b.tc("qdisc del dev wire1 clsact")?;
    outcome
}

/// Beside what a case is about, devices carry the discovery of neighbours.
fn is_ip_of(packet: &[u8], carrier: bool, shape: &Shape) -> bool {
    const ICMPV6: u8 = 58;
    carrier
        || (packet.first().map(|byte| byte >> 4) == Some(if shape.inner_v4 { 4 } else { 6 })
            && packet.get(6) != Some(&ICMPV6))
}

fn set_class(flow: &Flow, ipv4: bool, class: u8) -> Result<(), String> {
    let socket = SockRef::from(&flow.near);
    let set = if ipv4 {
        socket.set_tos_v4(class.into())
    } else {
        socket.set_tclass_v6(class.into())
    };
    set.map_err(|error| format!("set the class: {error}"))
}

/// Policies that let nothing pass without SAs, of which there are none yet.
async fn everything(net: &Net, ends: &mut Ends, (a, b): (IpAddr, IpAddr)) -> Result<(), String> {
    let (at_a, at_b) = (all_between(a, b), all_between(b, a));
    all_good("policies", ends.a.put_policies(&at_a).await, at_a.len())?;
    all_good("policies", ends.b.put_policies(&at_b).await, at_b.len())?;
    let outcome = ike_alone(net, a, b);
    let keys = |policies: &[Policy]| -> Vec<PolicyKey> { policies.iter().map(|policy| policy.key).collect() };
    all_good("removal", ends.a.remove_policies(&keys(&at_a)).await, at_a.len())?;
    all_good("removal", ends.b.remove_policies(&keys(&at_b)).await, at_b.len())?;
    outcome
}

fn ike_alone(net: &Net, a: IpAddr, b: IpAddr) -> Result<(), String> {
    let plain = (net.a.socket(a, 0)?, net.b.socket(b, 7)?);
    let ike = (net.a.socket(a, IKE)?, net.b.socket(b, IKE)?);
    for socket in [&ike.0, &ike.1] {
        udp::allow(socket.as_fd(), a.is_ipv4()).map_err(|error| format!("pass policies: {error}"))?;
    }
    for host in [&net.a, &net.b] {
        host.enter()?;
        ip("neighbour flush all")?;
    }
    deliver(&ike.0, &ike.1, SocketAddr::new(b, IKE), "an IKE message")?;
    deliver(&ike.1, &ike.0, SocketAddr::new(a, IKE), "its answer")?;
    refuse(&plain.0, &plain.1, SocketAddr::new(b, 7), "anything else")
}

fn all_between(own: IpAddr, other: IpAddr) -> Vec<Policy> {
    const ICMPV6: u8 = 58;
    let protect = |direction, source, destination| Policy {
        key: PolicyKey {
            direction,
            selector: Selector {
                source: host(source),
                destination: host(destination),
                protocol: 0,
                source_port: None,
                destination_port: None,
            },
        },
        action: PolicyAction::Protect {
            demand: Demand::Required,
            protocol: SaProtocol::Esp,
            reqid: REQID,
            tunnel: false,
            source,
            destination,
        },
        rank: 9,
    };
    let everywhere = Prefix {
        address: [0; 16].into(),
        length: 0,
    };
    let neighbours = |direction, kind| Policy {
        key: PolicyKey {
            direction,
            selector: Selector {
                source: everywhere,
                destination: everywhere,
                protocol: ICMPV6,
                source_port: Some(kind),
                destination_port: None,
            },
        },
        action: PolicyAction::Bypass,
        rank: 0,
    };
    let mut policies = vec![
        protect(Direction::Outbound, own, other),
        protect(Direction::Inbound, other, own),
    ];
    for kind in 133..=136 {
        policies.push(neighbours(Direction::Outbound, kind));
        policies.push(neighbours(Direction::Inbound, kind));
    }
    policies
}
