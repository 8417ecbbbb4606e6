//! IPv6 neighbour discovery (RFC 4861) beside policies for every protocol: without it no packet finds the next host,
//! protected or not, and no IKE message either. It never leaves the link.

use std::net::IpAddr;

use ipsecmesh_dataplane::{Direction, Policy, PolicyAction, PolicyKey, Prefix, Selector};

const ICMPV6: u8 = 58;
/// Solicitations and advertisements of routers and neighbours; for ICMP the kernel takes the type as the source port.
const TYPES: [u16; 4] = [133, 134, 135, 136];

/// What has to pass in clear so that `policies` can be met at all: none where they leave ICMPv6 alone.
pub(super) fn bypasses<'a>(mut policies: impl Iterator<Item = &'a Policy>) -> Vec<Policy> {
    if !policies.any(catches) {
        return Vec::new();
    }
    let everywhere = Prefix {
        address: IpAddr::from([0; 16]),
        length: 0,
    };
    let bypass = |direction, kind| Policy {
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
    [Direction::Inbound, Direction::Outbound]
        .into_iter()
        .flat_map(|direction| TYPES.map(|kind| bypass(direction, kind)))
        .collect()
}

fn catches(policy: &Policy) -> bool {
    let selector = &policy.key.selector;
    let protects = matches!(
        policy.action,
        PolicyAction::Protect { .. } | PolicyAction::Discard
    );
    let names_an_error = selector.source_port.is_some_and(|kind| !TYPES.contains(&kind));
    let caught = selector.protocol == 0 || (selector.protocol == ICMPV6 && !names_an_error);
    protects && caught && selector.source.address.is_ipv6()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(address: IpAddr, protocol: u8, kind: Option<u16>) -> Policy {
        let any = Prefix { address, length: 0 };
        Policy {
            key: PolicyKey {
                direction: Direction::Outbound,
                selector: Selector {
                    source: any,
                    destination: any,
                    protocol,
                    source_port: kind,
                    destination_port: None,
                },
            },
            action: PolicyAction::Discard,
            rank: 1,
        }
    }

    #[test]
    fn discovery_passes_where_it_would_be_caught_and_only_there() {
        let (v4, v6) = (IpAddr::from([0; 4]), IpAddr::from([0; 16]));
        for (policy, expected) in [
            (policy(v6, 0, None), 8),
            (policy(v6, ICMPV6, None), 8),
            (policy(v6, ICMPV6, Some(135)), 8),
            (policy(v6, ICMPV6, Some(1)), 0),
            (policy(v6, 17, None), 0),
            (policy(v4, 0, None), 0),
        ] {
            assert_eq!(bypasses([policy].iter()).len(), expected, "{policy:?}");
        }
    }
}
