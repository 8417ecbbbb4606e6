//! The agent's types and the kernel's, one way and the other. Pure.

use std::net::IpAddr;

use ipsecmesh_ike::{EspSpi, Mode, SaName, SaProtocol, SaSpec, TrafficSelector};
use ipsecmesh_xfrm as xfrm;
use ipsecmesh_xfrm::PolicyIndex;

use crate::SaStatus;
use crate::check;
use crate::spec::{Demand, Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};

/// Default interval of RFC 3948 §4.
const KEEPALIVE_SECONDS: u32 = 20;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

pub(super) fn direction(direction: Direction) -> xfrm::Direction {
    match direction {
        Direction::Inbound => xfrm::Direction::In,
        Direction::Outbound => xfrm::Direction::Out,
        Direction::Forward => xfrm::Direction::Forward,
    }
}

pub(super) fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Forward => "fwd",
    }
}

pub(super) fn protocol(protocol: SaProtocol) -> xfrm::Protocol {
    match protocol {
        SaProtocol::Esp => xfrm::Protocol::Esp,
        SaProtocol::Ah => xfrm::Protocol::Ah,
    }
}

fn protocol_from_kernel(protocol: xfrm::Protocol) -> SaProtocol {
    match protocol {
        xfrm::Protocol::Esp => SaProtocol::Esp,
        xfrm::Protocol::Ah => SaProtocol::Ah,
    }
}

pub(super) fn selector(selector: &Selector) -> xfrm::Selector {
    let prefix = |prefix: Prefix| xfrm::Prefix {
        address: prefix.address,
        length: prefix.length,
    };
    xfrm::Selector {
        source: prefix(selector.source),
        destination: prefix(selector.destination),
        protocol: selector.protocol,
        source_port: selector.source_port,
        destination_port: selector.destination_port,
    }
}

/// A policy as the kernel wants it, under an index; the error names the field.
pub(super) fn to_kernel(policy: &Policy, index: PolicyIndex) -> Result<xfrm::Policy, String> {
    check::policy(policy)?;
    let action = match policy.action {
        PolicyAction::Bypass => xfrm::Action::Allow,
        PolicyAction::Discard => xfrm::Action::Block,
        PolicyAction::Protect {
            demand,
            protocol: sa_protocol,
            reqid,
            tunnel,
            source,
            destination,
        } => xfrm::Action::Protect(xfrm::Template {
            protocol: protocol(sa_protocol),
            reqid: check::reqid(reqid)?,
            mode: if tunnel {
                xfrm::Mode::Tunnel
            } else {
                xfrm::Mode::Transport
            },
            source,
            destination,
            optional: demand == Demand::Optional,
        }),
    };
    Ok(xfrm::Policy {
        direction: direction(policy.key.direction),
        selector: selector(&policy.key.selector),
        index,
        rank: policy.rank,
        action,
    })
}

pub(super) fn from_kernel(policy: &xfrm::Policy) -> Policy {
    let prefix = |prefix: xfrm::Prefix| Prefix {
        address: prefix.address,
        length: prefix.length,
    };
    let action = match policy.action {
        xfrm::Action::Allow => PolicyAction::Bypass,
        xfrm::Action::Block => PolicyAction::Discard,
        xfrm::Action::Protect(template) => PolicyAction::Protect {
            demand: if template.optional {
                Demand::Optional
            } else {
                Demand::Required
            },
            protocol: protocol_from_kernel(template.protocol),
            reqid: template.reqid.value(),
            tunnel: template.mode == xfrm::Mode::Tunnel,
            source: template.source,
            destination: template.destination,
        },
    };
    Policy {
        key: PolicyKey {
            direction: match policy.direction {
                xfrm::Direction::In => Direction::Inbound,
                xfrm::Direction::Out => Direction::Outbound,
                xfrm::Direction::Forward => Direction::Forward,
            },
            selector: Selector {
                source: prefix(policy.selector.source),
                destination: prefix(policy.selector.destination),
                protocol: policy.selector.protocol,
                source_port: policy.selector.source_port,
                destination_port: policy.selector.destination_port,
            },
        },
        action,
        rank: policy.rank,
    }
}

/// An SA as the kernel wants it; the error names the field.
pub(super) fn sa(spec: &SaSpec, direction: xfrm::SaDirection) -> Result<xfrm::Sa, String> {
    let (reqid, algorithm) = check::sa(spec)?;
    Ok(xfrm::Sa {
        id: sa_id(&spec.name),
        reqid,
        mode: match spec.mode {
            Mode::Transport => xfrm::Mode::Transport,
            Mode::Tunnel => xfrm::Mode::Tunnel,
        },
        direction,
        algorithm,
        key: xfrm::Key::new(spec.key.0.clone()),
        esn: spec.esn,
        replay_window: spec.replay_window,
        encapsulation: spec.encapsulation,
        keepalive: spec.keepalive.then_some(KEEPALIVE_SECONDS),
        selector: sa_selector(spec),
        limits: limits(spec),
    })
}

/// Volume as negotiated. Without extended sequence numbers also the end of the numbers, which never come round
/// (RFC 4303 §3.3.3): the kernel would only stop sending, the limit brings a new SA in time.
fn limits(spec: &SaSpec) -> xfrm::Limits {
    const LAST_NUMBER: u64 = u32::MAX as u64;
    const NEARLY: u64 = LAST_NUMBER / 16 * 15;
    let within = |limit: Option<u64>, most: u64| {
        if spec.esn {
            limit
        } else {
            Some(limit.map_or(most, |limit| limit.min(most)))
        }
    };
    xfrm::Limits {
        soft_bytes: spec.soft_lifetime.bytes,
        hard_bytes: spec.lifetime.bytes,
        soft_packets: within(spec.soft_lifetime.packets, NEARLY),
        hard_packets: within(spec.lifetime.packets, LAST_NUMBER),
    }
}

/// The kernel checks decrypted packets against the SA's own selector (RFC 4301 §5.2), where one selector can say what was
/// negotiated; where it cannot, the policies alone check. In transport mode also where no address translator stands
/// between: behind one, packets carry other addresses than those that were negotiated.
fn sa_selector(spec: &SaSpec) -> Option<xfrm::Selector> {
    let ([source], [destination]) = (
        spec.source_selectors.as_slice(),
        spec.destination_selectors.as_slice(),
    ) else {
        return None;
    };
    let (source_block, destination_block) = (block(source)?, block(destination)?);
    let fits = match spec.mode {
        Mode::Transport => {
            source_block == xfrm::Prefix::host(spec.name.source)
                && destination_block == xfrm::Prefix::host(spec.name.destination)
        }
        Mode::Tunnel => source_block.address.is_ipv4() == destination_block.address.is_ipv4(),
    };
    if !fits || source.protocol != destination.protocol {
        return None;
    }
    let has_ports = ![ICMP, ICMPV6].contains(&source.protocol);
    let port = |selector| if has_ports { port(selector) } else { Ok(None) };
    Some(xfrm::Selector {
        source: source_block,
        destination: destination_block,
        protocol: source.protocol,
        source_port: port(source).ok()?,
        destination_port: port(destination).ok()?,
    })
}

/// The range as one block; `None` for a range that is none.
fn block(selector: &TrafficSelector) -> Option<xfrm::Prefix> {
    let (first, last, width) = match (selector.first_address, selector.last_address) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u128::from(first.to_bits()), u128::from(last.to_bits()), u32::BITS)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits(), last.to_bits(), u128::BITS),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    // A block's ends differ in all bits behind the prefix, and in no other.
    let host_bits = first ^ last;
    let length = width.checked_sub(u128::BITS - host_bits.leading_zeros())?;
    let is_block = host_bits & (host_bits.wrapping_add(1)) == 0 && first & host_bits == 0;
    Some(xfrm::Prefix {
        address: selector.first_address,
        length: u8::try_from(length).ok()?,
    })
    .filter(|_| is_block)
}

/// A range of ports, which the kernel cannot say.
struct PortRange;

/// One port, or `None` for all of them.
fn port(selector: &TrafficSelector) -> Result<Option<u16>, PortRange> {
    match (selector.first_port, selector.last_port) {
        (0, u16::MAX) => Ok(None),
        (first, last) if first == last => Ok(Some(first)),
        _ => Err(PortRange),
    }
}

pub(super) fn sa_id(name: &SaName) -> xfrm::SaId {
    xfrm::SaId {
        protocol: protocol(name.protocol),
        spi: name.spi.value(),
        source: name.source,
        destination: name.destination,
    }
}

/// `None` for one without SPI, or one that is not ours.
pub(super) fn sa_status(state: &xfrm::SaState) -> Option<SaStatus> {
    Some(SaStatus {
        name: SaName {
            protocol: protocol_from_kernel(state.id.protocol),
            spi: EspSpi::new(state.id.spi)?,
            source: state.id.source,
            destination: state.id.destination,
        },
        reqid: state.reqid?.value(),
        encapsulation: state.encapsulation,
        larval: state.larval,
        bytes: state.bytes,
        packets: state.packets,
        added_at: state.added_at,
        last_used: state.last_used,
    })
}

/// Such as "out 172.30.0.11/32 -> 172.30.0.12/32 proto 17 dport 8472".
pub(super) fn text(key: PolicyKey) -> String {
    let Selector {
        source,
        destination,
        protocol,
        source_port,
        destination_port,
    } = key.selector;
    let mut text = format!(
        "{} {}/{} -> {}/{}",
        direction_word(key.direction),
        source.address,
        source.length,
        destination.address,
        destination.length
    );
    let parts = [
        ("proto", (protocol != 0).then_some(u16::from(protocol))),
        ("sport", source_port),
        ("dport", destination_port),
    ];
    for (name, value) in parts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.to_string())))
    {
        text.extend([" ", name, " ", value.as_str()]);
    }
    text
}

/// Such as "ESP spi 19500001 172.30.0.11 -> 172.30.0.12".
pub(super) fn sa_text(name: &SaName) -> String {
    format!(
        "{} spi {} {} -> {}",
        name.protocol, name.spi, name.source, name.destination
    )
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
