//! What the kernel reports by itself: traffic that waits for an SA, SAs at their limits.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_xfrm::{
    UserAcquire, UserExpire, UserMapping, XFRM_MSG_ACQUIRE, XFRM_MSG_EXPIRE, XFRM_MSG_MAPPING,
    XFRM_USER_ACQUIRE_LEN,
};

use crate::address::{family, ip};
use crate::dump;
use crate::ownership::{PolicyIndex, Reqid};

/// A report of the kernel about something of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Traffic waits for an SA.
    Acquire {
        /// The reqid that the SA must have.
        reqid: Reqid,
        /// Its source.
        source: IpAddr,
        /// Its destination.
        destination: IpAddr,
    },
    /// An SA reached a limit.
    Expire {
        /// Its SPI; 0 when the kernel gave up waiting for one.
        spi: u32,
        /// Its reqid.
        reqid: Reqid,
        /// Hard: it is gone.
        hard: bool,
    },
    /// ESP in UDP authenticated, and came from elsewhere than before.
    Mapping {
        /// The inbound SA's SPI.
        spi: u32,
        /// Its reqid.
        reqid: Reqid,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// Reports were lost, because they came faster than they were read.
    Overrun,
}

/// Reads one report; `None` for those that are malformed, of another kind, or about something foreign.
pub(crate) fn parse(message_type: u16, payload: &[u8]) -> Option<Event> {
    match message_type {
        XFRM_MSG_ACQUIRE => acquire(payload),
        XFRM_MSG_EXPIRE => expire(payload),
        XFRM_MSG_MAPPING => mapping(payload),
        _ => None,
    }
}

/// The addresses of the missing SA stand in the message itself; its reqid only in the template.
fn acquire(payload: &[u8]) -> Option<Event> {
    let acquire = UserAcquire::parse(payload).ok()?;
    PolicyIndex::new(acquire.policy.index)?;
    let (reqid, outer) = dump::acquire_template(payload.get(XFRM_USER_ACQUIRE_LEN..)?)?;
    let selector_family = acquire.selector.family;
    let (source, destination) = ip(&acquire.saddr, selector_family)
        .zip(ip(&acquire.id.daddr, selector_family))
        .filter(|(source, destination)| !source.is_unspecified() && family(*destination) == selector_family)
        .or(outer)?;
    Some(Event::Acquire {
        reqid,
        source,
        destination,
    })
}

fn expire(payload: &[u8]) -> Option<Event> {
    let expire = UserExpire::parse(payload).ok()?;
    Some(Event::Expire {
        spi: expire.state.id.spi,
        reqid: Reqid::new(expire.state.reqid)?,
        hard: expire.hard != 0,
    })
}

fn mapping(payload: &[u8]) -> Option<Event> {
    let mapping = UserMapping::parse(payload).ok()?;
    let address = ip(&mapping.new_saddr, mapping.id.family)?;
    Some(Event::Mapping {
        spi: mapping.id.spi,
        reqid: Reqid::new(mapping.reqid)?,
        remote: SocketAddr::new(address, mapping.new_sport),
    })
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
