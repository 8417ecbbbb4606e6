//! Traffic selectors: narrowing to what both ends allow (RFC 7296 §2.9).

use std::net::IpAddr;

use crate::config::TrafficSelector;

/// What is in both lists, in the order of `ours`; empty when they do not meet.
pub(crate) fn narrow<'a>(
    ours: &[TrafficSelector],
    theirs: impl Iterator<Item = &'a TrafficSelector>,
) -> Vec<TrafficSelector> {
    let theirs: Vec<&TrafficSelector> = theirs.collect();
    let mut narrowed: Vec<TrafficSelector> = Vec::new();
    for our in ours {
        for their in &theirs {
            if let Some(common) = intersect(our, their)
                && !narrowed.iter().any(|known| contains(known, &common))
            {
                narrowed.push(common);
            }
        }
    }
    narrowed
}

/// Whether every selector of `inner` lies within one of `outer`, and there is one.
pub(crate) fn within<'a>(
    mut inner: impl Iterator<Item = &'a TrafficSelector>,
    outer: &[TrafficSelector],
) -> bool {
    let mut any = false;
    inner.all(|selector| {
        any = true;
        outer.iter().any(|outer| contains(outer, selector))
    }) && any
}

/// The peer's selectors as this end has to read them. In transport mode through a NAT each end writes addresses that the
/// other does not see: a single one stands for the end that the packets come from or go to (RFC 7296 §2.23.1). The
/// address is that of an authenticated peer, so that it can claim none but its own.
pub(crate) fn seen<'a>(
    list: impl Iterator<Item = &'a TrafficSelector>,
    translated: Option<IpAddr>,
) -> Vec<TrafficSelector> {
    let seen = |selector: &TrafficSelector| match translated {
        Some(address) if selector.first_address == selector.last_address => TrafficSelector {
            first_address: address,
            last_address: address,
            ..*selector
        },
        Some(_) | None => *selector,
    };
    list.map(seen).collect()
}

/// Whether two lists say the same, in any order.
pub(crate) fn same(a: &[TrafficSelector], b: &[TrafficSelector]) -> bool {
    within(a.iter(), b) && within(b.iter(), a)
}

fn contains(outer: &TrafficSelector, inner: &TrafficSelector) -> bool {
    intersect(outer, inner).as_ref() == Some(inner)
}

fn intersect(a: &TrafficSelector, b: &TrafficSelector) -> Option<TrafficSelector> {
    let protocol = match (a.protocol, b.protocol) {
        (0, other) | (other, 0) => other,
        (a, b) if a == b => a,
        _ => return None,
    };
    let same_family = matches!(
        (a.first_address, b.first_address),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
    );
    let common = TrafficSelector {
        protocol,
        first_port: a.first_port.max(b.first_port),
        last_port: a.last_port.min(b.last_port),
        first_address: a.first_address.max(b.first_address),
        last_address: a.last_address.min(b.last_address),
    };
    // OPAQUE is 65535-0 (RFC 4301 §4.4.1.1) and meets only itself.
    let opaque = |s: &TrafficSelector| s.first_port > s.last_port;
    let ports = match (opaque(a), opaque(b)) {
        (false, false) => common.first_port <= common.last_port,
        (true, true) => true,
        _ => false,
    };
    (same_family && ports && common.first_address <= common.last_address).then_some(common)
}
