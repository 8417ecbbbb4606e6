//! Selectors finer than hosts (RFC 4301 §4.4.1.1): a protocol, a port, in the policies and in the SA itself.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use ipsecmesh_dataplane::{DataPlane, Policy, PolicyKey};
use ipsecmesh_ike::{EffectAction, Mode, SaName, SaProtocol, SaSpec, TrafficSelector};
use socket2::{Domain, Socket, Type};

use super::super::net::{Net, PATIENCE, refuse};
use super::{
    Ends, Flow, SERVICE, SPI, Shape, UDP, V4, V4_IN_V6, V6, all_good, done, name, same, shape, shows,
};
use crate::suite::Verdict;

const TCP: u8 = 6;
/// A service beside the selected one.
const OTHER: u16 = SERVICE + 1;

const CASES: [Shape; 4] = [
    shape(
        "selectors: one port of UDP in transport mode, IPv4",
        Mode::Transport,
        SaProtocol::Esp,
        V4,
        false,
    ),
    shape(
        "selectors: one port of UDP in transport mode, IPv6",
        Mode::Transport,
        SaProtocol::Esp,
        V6,
        false,
    ),
    shape(
        "selectors: one port of UDP in tunnel mode, IPv4 in IPv6",
        Mode::Tunnel,
        SaProtocol::Esp,
        V4_IN_V6,
        false,
    ),
    shape(
        "selectors: one port of UDP in transport mode of AH, IPv4",
        Mode::Transport,
        SaProtocol::Ah,
        V4,
        false,
    ),
];

pub(super) async fn run(net: &Net, ends: &mut Ends) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for case in CASES {
        verdicts.push((case.title, one_port(&case, net, ends).await));
    }
    for (title, families) in [
        ("selectors: one port of TCP, IPv4", V4),
        ("selectors: one port of TCP, IPv6", V6),
    ] {
        let shape = shape(title, Mode::Transport, SaProtocol::Esp, families, false);
        verdicts.push((title, one_protocol(&shape, net, ends).await));
    }
    for (title, mode) in [
        (
            "selectors: an SA takes in what was negotiated for it alone, transport mode",
            Mode::Transport,
        ),
        (
            "selectors: an SA takes in what was negotiated for it alone, tunnel mode",
            Mode::Tunnel,
        ),
    ] {
        let shape = shape(title, mode, SaProtocol::Esp, V4, false);
        verdicts.push((title, not_negotiated(&shape, net, ends).await));
    }
    verdicts
}

/// What each end has and what is selected at the service's end.
struct Narrow<'a> {
    shape: &'a Shape,
    protocol: u8,
    /// Whether `a` takes all ports for selected: more than `b` does.
    a_is_wide: bool,
}

impl Narrow<'_> {
    /// The shape's policies for the service's port at `b` alone.
    fn policies(&self, at_a: bool) -> Vec<Policy> {
        let (_, block_b) = self.shape.blocks();
        let mut policies = self.shape.policies(at_a);
        for policy in &mut policies {
            let selector = &mut policy.key.selector;
            selector.protocol = self.protocol;
            if at_a && self.a_is_wide {
                continue;
            }
            if selector.source == block_b {
                selector.source_port = Some(SERVICE);
            } else {
                selector.destination_port = Some(SERVICE);
            }
        }
        policies
    }

    fn half(&self, name: SaName, towards_b: bool, at_a: bool) -> SaSpec {
        let mut spec = self.shape.half(name, towards_b);
        let ends = [&mut spec.source_selectors, &mut spec.destination_selectors];
        for (selectors, is_b) in ends.into_iter().zip([!towards_b, towards_b]) {
            for selector in selectors {
                selector.protocol = self.protocol;
                if is_b && !(at_a && self.a_is_wide) {
                    *selector = TrafficSelector {
                        first_port: SERVICE,
                        last_port: SERVICE,
                        ..*selector
                    };
                }
            }
        }
        spec
    }

    /// Sets policies and SAs up, does something, and takes everything away.
    async fn within(&self, ends: &mut Ends, act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let (at_a, at_b) = (self.policies(true), self.policies(false));
        all_good("policies", ends.a.put_policies(&at_a).await, at_a.len())?;
        all_good("policies", ends.b.put_policies(&at_b).await, at_b.len())?;
        let (a, b) = self.shape.outer();
        let of = |spi, from, to| SaName {
            protocol: self.shape.protocol,
            ..name(spi, from, to)
        };
        let names = [of(SPI + 30, a, b), of(SPI + 31, b, a)];
        let inbound = |spec| EffectAction::InstallInbound(Box::new(spec));
        let outbound = |spec| EffectAction::InstallOutbound(Box::new(spec));
        done(&mut ends.b, inbound(self.half(names[0], true, false))).await?;
        done(&mut ends.a, inbound(self.half(names[1], false, true))).await?;
        done(&mut ends.a, outbound(self.half(names[0], true, true))).await?;
        done(&mut ends.b, outbound(self.half(names[1], false, false))).await?;
        let outcome = act();
        let keys = |policies: &[Policy]| -> Vec<PolicyKey> { policies.iter().map(|one| one.key).collect() };
        all_good("removal", ends.a.remove_policies(&keys(&at_a)).await, at_a.len())?;
        all_good("removal", ends.b.remove_policies(&keys(&at_b)).await, at_b.len())?;
        super::remove(ends, &names).await?;
        outcome
    }
}

async fn one_port(shape: &Shape, net: &Net, ends: &mut Ends) -> Result<(), String> {
    let narrow = Narrow {
        shape,
        protocol: UDP,
        a_is_wide: false,
    };
    let selected = shape.flows(net)?.pop().ok_or("no flow")?;
    let beside = beside(&selected, shape, net)?;
    let wires = [net.a.watch("wire0")?, net.b.watch("wire1")?];
    narrow
        .within(ends, || {
            selected.round_trip("secret of one port")?;
            beside.round_trip("public of the other")
        })
        .await?;
    for wire in wires {
        let packets = wire.packets();
        let carried = packets.iter().filter(|packet| shape.is_carrier(packet));
        same("packets in the right dress", &carried.count(), &1)?;
        let public = packets
            .iter()
            .filter(|packet| shows(packet, b"public of the other") && !shape.is_carrier(packet));
        same("packets beside it in clear", &public.count(), &1)?;
    }
    Ok(())
}

/// The same hosts, another port.
fn beside(flow: &Flow, shape: &Shape, net: &Net) -> Result<Flow, String> {
    let near = flow.near.local_addr().map_err(|error| error.to_string())?;
    let host = match shape.mode {
        Mode::Transport => &net.b,
        Mode::Tunnel => &net.c,
    };
    Ok(Flow {
        near: net.a.socket(near.ip(), 0)?,
        far: host.socket(flow.address.ip(), OTHER)?,
        address: SocketAddr::new(flow.address.ip(), OTHER),
    })
}

async fn one_protocol(shape: &Shape, net: &Net, ends: &mut Ends) -> Result<(), String> {
    let narrow = Narrow {
        shape,
        protocol: TCP,
        a_is_wide: false,
    };
    let datagrams = shape.flows(net)?.pop().ok_or("no flow")?;
    let wire = net.a.watch("wire0")?;
    narrow
        .within(ends, || {
            datagrams.round_trip("public of another protocol")?;
            say(net, datagrams.address, "secret of a stream")
        })
        .await?;
    let packets = wire.packets();
    let carried = packets.iter().filter(|packet| shape.is_carrier(packet)).count();
    // SYN, ACK, the text, and what the end of the connection takes.
    same("segments in ESP", &(carried >= 3), &true)?;
    let readable = |text: &[u8]| packets.iter().filter(|packet| shows(packet, text)).count();
    same("readable text of the stream", &readable(b"secret"), &0)?;
    same("datagrams in clear", &readable(b"public"), &1)
}

/// Says something over TCP to a listener at the far host.
fn say(net: &Net, address: SocketAddr, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("TCP to {address}: {error}");
    let socket = || Socket::new(Domain::for_address(address), Type::STREAM, None);
    net.b.enter()?;
    let listener = socket().map_err(failed)?;
    listener.bind(&address.into()).map_err(failed)?;
    listener.listen(1).map_err(failed)?;
    net.a.enter()?;
    let mut near = socket().map_err(failed)?;
    near.connect_timeout(&address.into(), PATIENCE).map_err(failed)?;
    near.write_all(text.as_bytes()).map_err(failed)?;
    let (mut far, _) = listener.accept().map_err(failed)?;
    far.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut came = vec![0; text.len()];
    far.read_exact(&mut came).map_err(failed)?;
    same("what came", &came, &text.as_bytes().to_vec())
}

/// RFC 4301 §5.2 step 4: the selectors of the SA that a packet came through are checked, not only the policies.
async fn not_negotiated(shape: &Shape, net: &Net, ends: &mut Ends) -> Result<(), String> {
    let narrow = Narrow {
        shape,
        protocol: UDP,
        a_is_wide: true,
    };
    let selected = shape.flows(net)?.pop().ok_or("no flow")?;
    let beside = beside(&selected, shape, net)?;
    let wire = net.a.watch("wire0")?;
    let before = net.b.counter("XfrmInStateMismatch")?;
    narrow
        .within(ends, || {
            selected.round_trip("secret of one port")?;
            refuse(&beside.near, &beside.far, beside.address, "secret of no port")
        })
        .await?;
    let packets = wire.packets();
    let carried = packets.iter().filter(|packet| shape.is_carrier(packet));
    same("packets that were sent in ESP", &carried.count(), &2)?;
    let mismatches = net.b.counter("XfrmInStateMismatch")? - before;
    same("packets that their SA's selector refused", &mismatches, &1)
}
