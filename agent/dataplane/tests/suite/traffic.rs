//! Real packets through the kernel, in every mode: what arrives, what the wire shows, what is refused.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipsecmesh_dataplane::{
    DataPlane, Demand, Direction, KernelDataPlane, Policy, PolicyAction, PolicyKey, Prefix, SaFeatures,
    Selector,
};
use ipsecmesh_ike::{
    EffectAction, EffectOutcome, Integrity, Mode, SaName, SaProtocol, SaSpec, TrafficSelector,
};

use super::net::{Net, Wire, deliver, far, middle, near, refuse};
use super::suite::{
    Lack, REQID, Report, Verdict, all_good, half, header, here, here6, host, name, same, there, there6,
};

const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;
const SERVICE: u16 = 7007;
const SPI: u32 = 0xfeed_0000;

#[path = "errors.rs"]
mod errors;
#[path = "headers.rs"]
mod headers;
#[path = "limits.rs"]
mod limits;
#[path = "newer.rs"]
mod newer;
#[path = "selectors.rs"]
mod selectors;

/// One way to carry traffic.
#[derive(Clone, Copy)]
struct Shape {
    title: &'static str,
    mode: Mode,
    protocol: SaProtocol,
    inner_v4: bool,
    outer_v4: bool,
    encapsulated: bool,
}

const fn shape(
    title: &'static str,
    mode: Mode,
    protocol: SaProtocol,
    (inner_v4, outer_v4): (bool, bool),
    encapsulated: bool,
) -> Shape {
    Shape {
        title,
        mode,
        protocol,
        inner_v4,
        outer_v4,
        encapsulated,
    }
}

const V4: (bool, bool) = (true, true);
const V6: (bool, bool) = (false, false);
const V4_IN_V6: (bool, bool) = (true, false);
const V6_IN_V4: (bool, bool) = (false, true);

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    shape("traffic: ESP, transport mode, IPv4", Mode::Transport, SaProtocol::Esp, V4, false),
    shape("traffic: ESP, transport mode, IPv6", Mode::Transport, SaProtocol::Esp, V6, false),
    shape("traffic: ESP in UDP, transport mode, IPv4", Mode::Transport, SaProtocol::Esp, V4, true),
    shape("traffic: ESP in UDP, transport mode, IPv6", Mode::Transport, SaProtocol::Esp, V6, true),
    shape("traffic: ESP, tunnel mode, IPv4 in IPv4", Mode::Tunnel, SaProtocol::Esp, V4, false),
    shape("traffic: ESP, tunnel mode, IPv6 in IPv6", Mode::Tunnel, SaProtocol::Esp, V6, false),
    shape("traffic: ESP, tunnel mode, IPv4 in IPv6", Mode::Tunnel, SaProtocol::Esp, V4_IN_V6, false),
    shape("traffic: ESP, tunnel mode, IPv6 in IPv4", Mode::Tunnel, SaProtocol::Esp, V6_IN_V4, false),
    shape("traffic: ESP in UDP, tunnel mode, IPv4 in IPv4", Mode::Tunnel, SaProtocol::Esp, V4, true),
    shape("traffic: ESP in UDP, tunnel mode, IPv6 in IPv6", Mode::Tunnel, SaProtocol::Esp, V6, true),
    shape("traffic: ESP in UDP, tunnel mode, IPv4 in IPv6", Mode::Tunnel, SaProtocol::Esp, V4_IN_V6, true),
    shape("traffic: ESP in UDP, tunnel mode, IPv6 in IPv4", Mode::Tunnel, SaProtocol::Esp, V6_IN_V4, true),
    shape("traffic: AH, transport mode, IPv4", Mode::Transport, SaProtocol::Ah, V4, false),
    shape("traffic: AH, transport mode, IPv6", Mode::Transport, SaProtocol::Ah, V6, false),
    shape("traffic: AH, tunnel mode, IPv4 in IPv4", Mode::Tunnel, SaProtocol::Ah, V4, false),
    shape("traffic: AH, tunnel mode, IPv6 in IPv6", Mode::Tunnel, SaProtocol::Ah, V6, false),
    shape("traffic: AH, tunnel mode, IPv4 in IPv6", Mode::Tunnel, SaProtocol::Ah, V4_IN_V6, false),
    shape("traffic: AH, tunnel mode, IPv6 in IPv4", Mode::Tunnel, SaProtocol::Ah, V6_IN_V4, false),
];

/// Runs all cases in namespaces of their own.
pub(crate) async fn run(features: SaFeatures) -> Report {
    let mut report = Report::default();
    match open(features).await {
        Ok((net, mut ends)) => {
            report.verdicts.extend(headers::run(&net, &mut ends).await);
            report.verdicts.extend(errors::run(&net, &mut ends).await);
            report.verdicts.extend(limits::run(&net, &mut ends).await);
            report.verdicts.extend(selectors::run(&net, &mut ends).await);
            let (verdicts, lacking) = newer::run(&net, &mut ends, features).await;
            report.verdicts.extend(verdicts);
            report.lacking.extend(lacking);
            for shape in SHAPES {
                let verdict = shape.carry(&net, &mut ends).await;
                report.verdicts.push((shape.title, verdict));
            }
        }
        Err(error) => report.verdicts.push(("traffic: set-up", Err(error))),
    }
    report
}

async fn open(features: SaFeatures) -> Result<(Net, Ends), String> {
    let net = Net::build()?;
    let (a, b) = (net.a.plane(features).await?, net.b.plane(features).await?);
    Ok((net, Ends { a, b }))
}

/// The data planes of both ends.
struct Ends {
    a: KernelDataPlane,
    b: KernelDataPlane,
}

/// Sockets at the ends of a flow, and the address that the near one calls.
struct Flow {
    near: UdpSocket,
    far: UdpSocket,
    address: SocketAddr,
}

impl Flow {
    fn round_trip(&self, text: &str) -> Result<(), String> {
        let caller = deliver(&self.near, &self.far, self.address, text)?;
        deliver(&self.far, &self.near, caller, &format!("{text} back")).map(drop)
    }
}

impl Shape {
    async fn carry(&self, net: &Net, ends: &mut Ends) -> Result<(), String> {
        let flows = self.flows(net)?;
        let wires = [net.a.watch("wire0")?, net.b.watch("wire1")?];
        all_good(
            "policies of a",
            ends.a.put_policies(&self.policies(true)).await,
            self.count(),
        )?;
        all_good(
            "policies of b",
            ends.b.put_policies(&self.policies(false)).await,
            self.count(),
        )?;
        let first = self.install(ends, 0).await?;
        let mut outcome = all(&flows, |flow| flow.round_trip("secret one"));
        let second = self.install(ends, 2).await?;
        outcome = outcome.and_then(|()| all(&flows, |flow| flow.round_trip("secret two")));
        remove(ends, &first).await?;
        outcome = outcome.and_then(|()| all(&flows, |flow| flow.round_trip("secret three")));
        outcome = outcome.and(self.counted(ends, &second).await);
        outcome = outcome.and(self.looks_right(&wires, flows.len()));
        let keys: Vec<PolicyKey> = self.policies(true).iter().map(|policy| policy.key).collect();
        all_good("removal", ends.a.remove_policies(&keys).await, keys.len())?;
        let refused = |flow: &Flow| refuse(&flow.near, &flow.far, flow.address, "in clear");
        outcome = outcome.and_then(|()| all(&flows, refused));
        remove(ends, &second).await?;
        let keys: Vec<PolicyKey> = self.policies(false).iter().map(|policy| policy.key).collect();
        all_good("removal", ends.b.remove_policies(&keys).await, keys.len())?;
        outcome?;
        all(&flows, |flow| flow.round_trip("open again"))
    }

    /// From the near host itself to the far end, and in tunnel mode also to the gateway's own inner address.
    fn flows(&self, net: &Net) -> Result<Vec<Flow>, String> {
        let flow = |from: IpAddr, port, far: UdpSocket| {
            let address = far.local_addr().map_err(|error| error.to_string())?;
            let near = net.a.socket(from, port)?;
            Ok::<_, String>(Flow { near, far, address })
        };
        match self.mode {
            Mode::Transport => {
                let (from, to) = self.outer();
                Ok(vec![flow(from, 0, net.b.socket(to, SERVICE)?)?])
            }
            Mode::Tunnel => {
                let (from, v4) = (near(self.inner_v4), self.inner_v4);
                Ok(vec![
                    flow(from, 0, net.b.socket(middle(v4), SERVICE)?)?,
                    flow(from, 0, net.c.socket(far(v4), SERVICE)?)?,
                ])
            }
        }
    }

    fn outer(&self) -> (IpAddr, IpAddr) {
        if self.outer_v4 {
            (here(), there())
        } else {
            (here6(), there6())
        }
    }

    /// What each end protects: its own block and the other's.
    fn blocks(&self) -> (Prefix, Prefix) {
        let (local, remote) = self.outer();
        match (self.mode, self.inner_v4) {
            (Mode::Transport, _) => (host(local), host(remote)),
            (Mode::Tunnel, true) => (host(near(true)), block([10, 2, 0, 0].into(), 16)),
            (Mode::Tunnel, false) => (host(near(false)), block([0xfd00, 2, 0, 0, 0, 0, 0, 0].into(), 32)),
        }
    }

    fn count(&self) -> usize {
        match self.mode {
            Mode::Transport => 2,
            Mode::Tunnel => 3,
        }
    }

    fn policies(&self, at_a: bool) -> Vec<Policy> {
        let ((a, b), (block_a, block_b)) = (self.outer(), self.blocks());
        let towards_b = (block_a, block_b, a, b);
        let towards_a = (block_b, block_a, b, a);
        let (leaving, coming) = if at_a {
            (towards_b, towards_a)
        } else {
            (towards_a, towards_b)
        };
        let one = |direction, (source, destination, from, to)| Policy {
            key: PolicyKey {
                direction,
                selector: Selector {
                    source,
                    destination,
                    protocol: UDP,
                    source_port: None,
                    destination_port: None,
                },
            },
            action: PolicyAction::Protect {
                demand: Demand::Required,
                protocol: self.protocol,
                reqid: REQID,
                tunnel: self.mode == Mode::Tunnel,
                source: from,
                destination: to,
            },
            rank: 7,
        };
        let mut policies = vec![
            one(Direction::Outbound, leaving),
            one(Direction::Inbound, coming),
            one(Direction::Forward, coming),
        ];
        policies.truncate(self.count());
        policies
    }

    /// A pair of SAs at both ends, receivers first.
    async fn install(&self, ends: &mut Ends, offset: u32) -> Result<[SaName; 2], String> {
        let (a, b) = self.outer();
        let towards = |spi, from, to| SaName {
            protocol: self.protocol,
            ..name(spi, from, to)
        };
        let names = [towards(SPI + offset, a, b), towards(SPI + offset + 1, b, a)];
        let there = |spec| EffectAction::InstallInbound(Box::new(spec));
        let back = |spec| EffectAction::InstallOutbound(Box::new(spec));
        done(&mut ends.b, there(self.half(names[0], true))).await?;
        done(&mut ends.a, there(self.half(names[1], false))).await?;
        done(&mut ends.a, back(self.half(names[0], true))).await?;
        done(&mut ends.b, back(self.half(names[1], false))).await?;
        Ok(names)
    }

    fn half(&self, name: SaName, towards_b: bool) -> SaSpec {
        let (block_a, block_b) = self.blocks();
        let (source, destination) = if towards_b {
            (block_a, block_b)
        } else {
            (block_b, block_a)
        };
        let mut spec = match (self.protocol, self.mode) {
            (SaProtocol::Esp, _) => half(name),
            (SaProtocol::Ah, Mode::Transport) => header(name, Integrity::HmacSha256, self.mode),
            (SaProtocol::Ah, Mode::Tunnel) => header(name, Integrity::HmacSha512, self.mode),
        };
        spec.mode = self.mode;
        spec.source_selectors = vec![selector(source)];
        spec.destination_selectors = vec![selector(destination)];
        spec.encapsulation = self.encapsulated.then_some((4500, 4500));
        spec
    }

    async fn counted(&self, ends: &mut Ends, names: &[SaName; 2]) -> Result<(), String> {
        for plane in [&mut ends.a, &mut ends.b] {
            for usage in plane.usage(names).await {
                let packets = usage.map(|usage| usage.packets);
                if packets.is_none_or(|packets| packets == 0) {
                    return Err(format!("an SA of the second pair carried {packets:?} packets"));
                }
            }
        }
        Ok(())
    }

    /// All that left carries the protocol; nothing of what ESP carries can be read.
    fn looks_right(&self, wires: &[Wire; 2], flows: usize) -> Result<(), String> {
        for wire in wires {
            let packets = wire.packets();
            let carried: Vec<&Vec<u8>> = packets.iter().filter(|packet| self.is_carrier(packet)).collect();
            // Three round trips of every flow.
            same("packets in the right dress", &carried.len(), &(3 * flows))?;
            let readable = packets.iter().filter(|packet| shows(packet, b"secret")).count();
            let expected = if self.protocol == SaProtocol::Ah {
                carried.len()
            } else {
                0
            };
            same("packets that can be read", &readable, &expected)?;
        }
        Ok(())
    }

    fn is_carrier(&self, packet: &[u8]) -> bool {
        let (version, next, payload) = match packet.first().map(|byte| byte >> 4) {
            Some(4) => (true, packet.get(9), packet.get(20..)),
            Some(6) => (false, packet.get(6), packet.get(40..)),
            _ => return false,
        };
        let expected = match (self.encapsulated, self.protocol) {
            (true, _) => UDP,
            (false, SaProtocol::Esp) => ESP,
            (false, SaProtocol::Ah) => AH,
        };
        let in_udp = payload.is_some_and(|payload| payload.starts_with(&[0x11, 0x94, 0x11, 0x94]));
        version == self.outer_v4 && next == Some(&expected) && (!self.encapsulated || in_udp)
    }
}

fn all(flows: &[Flow], each: impl FnMut(&Flow) -> Result<(), String>) -> Result<(), String> {
    flows.iter().try_for_each(each)
}

fn block(address: IpAddr, length: u8) -> Prefix {
    Prefix { address, length }
}

/// The whole block for UDP, as a negotiation writes it.
fn selector(block: Prefix) -> TrafficSelector {
    let last_address = match block.address {
        IpAddr::V4(first) => {
            let hosts = u32::MAX.checked_shr(block.length.into()).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(first.to_bits() | hosts).into()
        }
        IpAddr::V6(first) => {
            let hosts = u128::MAX.checked_shr(block.length.into()).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(first.to_bits() | hosts).into()
        }
    };
    TrafficSelector {
        protocol: UDP,
        first_port: 0,
        last_port: u16::MAX,
        first_address: block.address,
        last_address,
    }
}

fn shows(packet: &[u8], text: &[u8]) -> bool {
    packet.windows(text.len()).any(|window| window == text)
}

async fn done(plane: &mut KernelDataPlane, effect: EffectAction) -> Result<(), String> {
    let outcomes = plane.apply_effects(vec![effect]).await;
    same("outcome", &outcomes, &vec![EffectOutcome::Done])
}

/// Outbound halves go first.
async fn remove(ends: &mut Ends, names: &[SaName; 2]) -> Result<(), String> {
    all_good("removal", ends.a.remove_sas(&names[..1]).await, 1)?;
    all_good("removal", ends.b.remove_sas(&names[1..]).await, 1)?;
    all_good("removal", ends.b.remove_sas(&names[..1]).await, 1)?;
    all_good("removal", ends.a.remove_sas(&names[1..]).await, 1)
}
