//! What the kernel tells about what stands: SAs, policies, thresholds. Foreign objects are recognised and only counted.
//!
//! Attributes are walked here instead of by the crate's parsers: those copy key bytes to places that nobody wipes.

use std::net::IpAddr;

use zeroize::Zeroizing;

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_xfrm::{
    EncapTmpl, ReplayEsn, UserPolicyInfo, UserSaInfo, UserTemplate, XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA,
    XFRM_MSG_NEWSPDINFO, XFRM_POLICY_ALLOW, XFRM_STATE_ESN, XFRM_USER_POLICY_INFO_LEN, XFRM_USER_SA_INFO_LEN,
    XFRMA_ALG_AEAD, XFRMA_ALG_AUTH, XFRMA_ALG_AUTH_TRUNC, XFRMA_ALG_CRYPT, XFRMA_ENCAP, XFRMA_LASTUSED,
    XFRMA_REPLAY_ESN_VAL, XFRMA_SPD_IPV4_HTHRESH, XFRMA_SPD_IPV6_HTHRESH, XFRMA_TMPL,
};

use crate::address::{Selector, ip};
use crate::algorithm::{Aead, Algorithm};
use crate::ownership::{self, PolicyIndex, Reqid};
use crate::policy::{Action, Direction, Policy, Template};
use crate::sa::{
    Key, Limits, Mode, Protocol, SA_DIR_IN, SA_DIR_OUT, Sa, SaDirection, SaId, XFRMA_NAT_KEEPALIVE_INTERVAL,
    XFRMA_SA_DIR,
};

/// Directions from here on belong to a socket's own policy, not to the policy database.
const FIRST_SOCKET_DIRECTION: u8 = 3;

/// One object out of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An SA.
    Sa(SaState),
    /// A policy.
    Policy(PolicyState),
    /// The hash thresholds.
    HashThresholds(HashThresholds),
    /// Something that this crate does not ask for.
    Other,
}

impl Reply {
    /// The SA, if it is one.
    pub fn into_sa(self) -> Option<SaState> {
        match self {
            Self::Sa(state) => Some(state),
            Self::Policy(_) | Self::HashThresholds(_) | Self::Other => None,
        }
    }

    /// The policy, if it is one.
    pub fn into_policy(self) -> Option<PolicyState> {
        match self {
            Self::Policy(state) => Some(state),
            Self::Sa(_) | Self::HashThresholds(_) | Self::Other => None,
        }
    }
}

/// One SA as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaState {
    /// SPI and addresses; the SPI is 0 where traffic waits for an SA.
    pub id: SaId,
    /// Its reqid when it is ours.
    pub reqid: Option<Reqid>,
    /// Mode; `None` for one that this crate does not make.
    pub mode: Option<Mode>,
    /// No keys: made by an ACQUIRE or an SPI allocation.
    pub larval: bool,
    /// Which way it goes, where the kernel says.
    pub direction: Option<SaDirection>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Anti-replay window in packets; 0 where the kernel reports none.
    pub replay_window: u32,
    /// UDP ports (source, destination).
    pub encapsulation: Option<(u16, u16)>,
    /// Seconds without traffic after which the kernel sends a keepalive, where it does.
    pub keepalive: Option<u32>,
    /// When the kernel reports it, and when it stops using it.
    pub limits: Limits,
    /// Bytes so far.
    pub bytes: u64,
    /// Packets so far.
    pub packets: u64,
    /// Seconds since 1970 when it was added.
    pub added_at: u64,
    /// Seconds since 1970 of its last packet, where there was one.
    pub last_used: Option<u64>,
}

/// One policy as it stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// Index in our range.
    Ours(Policy),
    /// Somebody else's: its index and priority, for messages.
    Foreign {
        /// Index.
        index: u32,
        /// Priority.
        priority: u32,
    },
    /// A socket's own.
    Socket,
}

/// Prefix lengths (local, remote) from which policies are hashed instead of searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashThresholds {
    /// For IPv4.
    pub ipv4: (u8, u8),
    /// For IPv6.
    pub ipv6: (u8, u8),
}

impl HashThresholds {
    /// Host addresses only: what a mesh of hosts wants, and the kernel's default.
    pub const HOSTS: Self = Self {
        ipv4: (32, 32),
        ipv6: (128, 128),
    };
}

/// Reads one message of an answer; `None` when it is too short for its type.
pub(crate) fn parse(message_type: u16, payload: &[u8]) -> Option<Reply> {
    match message_type {
        XFRM_MSG_NEWSA => sa(payload).map(Reply::Sa),
        XFRM_MSG_NEWPOLICY => policy(payload).map(Reply::Policy),
        XFRM_MSG_NEWSPDINFO => thresholds(payload).map(Reply::HashThresholds),
        _ => Some(Reply::Other),
    }
}

fn sa(payload: &[u8]) -> Option<SaState> {
    let info = UserSaInfo::parse(payload).ok()?;
    let mut state = SaState {
        id: SaId {
            protocol: Protocol::from_code(info.id.proto)?,
            spi: info.id.spi,
            source: ip(&info.saddr, info.family)?,
            destination: ip(&info.id.daddr, info.family)?,
        },
        reqid: Reqid::new(info.reqid),
        mode: Mode::from_code(info.mode),
        larval: true,
        direction: None,
        esn: info.flags & XFRM_STATE_ESN != 0,
        replay_window: info.replay_window.into(),
        encapsulation: None,
        keepalive: None,
        limits: Limits::from_wire(&info.lifetime_cfg),
        bytes: info.lifetime_cur.bytes,
        packets: info.lifetime_cur.packets,
        added_at: info.lifetime_cur.add_time,
        last_used: None,
    };
    for attribute in attributes(payload.get(XFRM_USER_SA_INFO_LEN..)?) {
        state.take(attribute.kind(), attribute.value());
    }
    Some(state)
}

impl SaState {
    /// The same SA with other ports, as the kernel wants to be told: complete, but with a key that it does not look at.
    /// `None` for an SA that is not ours, has no keys or does not travel in UDP.
    pub(crate) fn with_ports(&self, ports: (u16, u16)) -> Option<Sa> {
        const UNUSED: Algorithm = Algorithm::Aead(Aead::AesGcm128);
        self.encapsulation.filter(|_| !self.larval)?;
        Some(Sa {
            id: self.id,
            reqid: self.reqid?,
            mode: self.mode?,
            direction: self.direction.unwrap_or(SaDirection::In),
            algorithm: UNUSED,
            key: Key::new(Zeroizing::new(vec![0; UNUSED.key_length()])),
            esn: self.esn,
            replay_window: self.replay_window,
            encapsulation: Some(ports),
            keepalive: self.keepalive,
            selector: None,
            limits: self.limits,
        })
    }

    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            XFRMA_ALG_AEAD | XFRMA_ALG_CRYPT | XFRMA_ALG_AUTH | XFRMA_ALG_AUTH_TRUNC => self.larval = false,
            XFRMA_REPLAY_ESN_VAL => {
                if let Ok(replay) = ReplayEsn::parse(value) {
                    self.replay_window = replay.replay_window;
                }
            }
            XFRMA_ENCAP => {
                let template = EncapTmpl::parse(value).ok();
                self.encapsulation = template.map(|template| (template.encap_sport, template.encap_dport));
            }
            XFRMA_LASTUSED => {
                let seconds = value.try_into().ok().map(u64::from_ne_bytes);
                self.last_used = seconds.filter(|seconds| *seconds != 0);
            }
            XFRMA_NAT_KEEPALIVE_INTERVAL => {
                let seconds = value.try_into().ok().map(u32::from_ne_bytes);
                self.keepalive = seconds.filter(|seconds| *seconds != 0);
            }
            XFRMA_SA_DIR => {
                self.direction = match value.first() {
                    Some(&SA_DIR_IN) => Some(SaDirection::In),
                    Some(&SA_DIR_OUT) => Some(SaDirection::Out),
                    _ => None,
                }
            }
            _ => {}
        }
    }
}

fn policy(payload: &[u8]) -> Option<PolicyState> {
    let info = UserPolicyInfo::parse(payload).ok()?;
    if info.direction >= FIRST_SOCKET_DIRECTION {
        return Some(PolicyState::Socket);
    }
    let template = attributes(payload.get(XFRM_USER_POLICY_INFO_LEN..)?)
        .find(|attribute| attribute.kind() == XFRMA_TMPL)
        .and_then(|attribute| UserTemplate::parse(attribute.value()).ok());
    let ours = ours(&info, template.as_ref()).map(PolicyState::Ours);
    Some(ours.unwrap_or(PolicyState::Foreign {
        index: info.index,
        priority: info.priority,
    }))
}

/// A policy with an index of ours that this version could not have written is left alone like a foreign one.
fn ours(info: &UserPolicyInfo, wire: Option<&UserTemplate>) -> Option<Policy> {
    let action = match (info.action, wire) {
        (XFRM_POLICY_ALLOW, None) => Action::Allow,
        (XFRM_POLICY_ALLOW, Some(wire)) => Action::Protect(template(wire)?),
        _ => Action::Block,
    };
    Some(Policy {
        direction: Direction::from_code(info.direction)?,
        selector: Selector::from_wire(&info.selector)?,
        index: PolicyIndex::new(info.index)?,
        rank: ownership::rank(info.priority),
        action,
    })
}

fn template(wire: &UserTemplate) -> Option<Template> {
    Some(Template {
        protocol: Protocol::from_code(wire.id.proto)?,
        reqid: Reqid::new(wire.reqid)?,
        mode: Mode::from_code(wire.mode)?,
        source: ip(&wire.saddr, wire.family)?,
        destination: ip(&wire.id.daddr, wire.family)?,
        optional: wire.optional != 0,
    })
}

fn thresholds(payload: &[u8]) -> Option<HashThresholds> {
    const FLAGS_LENGTH: usize = 4;
    let mut thresholds = HashThresholds::HOSTS;
    for attribute in attributes(payload.get(FLAGS_LENGTH..)?) {
        let &[local, remote, ..] = attribute.value() else {
            continue;
        };
        match attribute.kind() {
            XFRMA_SPD_IPV4_HTHRESH => thresholds.ipv4 = (local, remote),
            XFRMA_SPD_IPV6_HTHRESH => thresholds.ipv6 = (local, remote),
            _ => {}
        }
    }
    Some(thresholds)
}

/// The attributes up to the first malformed one.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// The template's reqid and outer addresses out of an ACQUIRE's attributes.
pub(crate) fn acquire_template(bytes: &[u8]) -> Option<(Reqid, Option<(IpAddr, IpAddr)>)> {
    let wire = attributes(bytes)
        .find(|attribute| attribute.kind() == XFRMA_TMPL)
        .and_then(|attribute| UserTemplate::parse(attribute.value()).ok())?;
    let outer = ip(&wire.saddr, wire.family).zip(ip(&wire.id.daddr, wire.family));
    Some((Reqid::new(wire.reqid)?, outer))
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
