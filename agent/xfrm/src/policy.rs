//! Policies: what is protected, what passes, what is dropped.

use std::net::IpAddr;

use netlink_packet_xfrm::policy::{DelGetMessage, ModifyMessage};
use netlink_packet_xfrm::{
    Address, Id, UserPolicyId, UserPolicyInfo, UserTemplate, XFRM_POLICY_ALLOW, XFRM_POLICY_BLOCK,
    XFRM_POLICY_FWD, XFRM_POLICY_IN, XFRM_POLICY_OUT, XfrmAttrs,
};

use crate::address::{Selector, family};
use crate::ownership::{self, PolicyIndex, Reqid};
use crate::sa::{Mode, Protocol};

/// Direction of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards this host.
    In,
    /// From this host, and through it towards a peer.
    Out,
    /// Through this host, from a peer: what tunnel mode has taken out and what is not for this host itself.
    Forward,
}

impl Direction {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::In => XFRM_POLICY_IN,
            Self::Out => XFRM_POLICY_OUT,
            Self::Forward => XFRM_POLICY_FWD,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            XFRM_POLICY_IN => Some(Self::In),
            XFRM_POLICY_OUT => Some(Self::Out),
            XFRM_POLICY_FWD => Some(Self::Forward),
            _ => None,
        }
    }
}

/// One policy of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Direction.
    pub direction: Direction,
    /// What it matches.
    pub selector: Selector,
    /// Its name in the kernel. An update keeps the index that the policy has.
    pub index: PolicyIndex,
    /// Rank within our priorities: 0 wins.
    pub rank: u16,
    /// What it does.
    pub action: Action,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Packets pass in clear.
    Allow,
    /// Packets are dropped.
    Block,
    /// Packets go through an SA that fits the template.
    Protect(Template),
}

/// Which SA a policy takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The SA's protocol.
    pub protocol: Protocol,
    /// The SA's reqid.
    pub reqid: Reqid,
    /// The SA's mode.
    pub mode: Mode,
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// `level use`: cleartext where there is no SA. Otherwise `required`: a packet without an SA is dropped.
    pub optional: bool,
}

impl Policy {
    pub(crate) fn to_wire(self) -> ModifyMessage {
        let (action, nlas) = match self.action {
            Action::Allow => (XFRM_POLICY_ALLOW, Vec::new()),
            Action::Block => (XFRM_POLICY_BLOCK, Vec::new()),
            Action::Protect(template) => (
                XFRM_POLICY_ALLOW,
                vec![XfrmAttrs::Template(vec![template.to_wire()])],
            ),
        };
        ModifyMessage {
            user_policy_info: UserPolicyInfo {
                selector: self.selector.to_wire(),
                priority: ownership::priority(self.rank),
                index: self.index.value(),
                direction: self.direction.code(),
                action,
                ..UserPolicyInfo::default()
            },
            nlas,
        }
    }
}

impl Template {
    fn to_wire(self) -> UserTemplate {
        UserTemplate {
            id: Id {
                daddr: Address::from_ip(&self.destination),
                spi: 0,
                proto: self.protocol.code(),
            },
            family: family(self.destination),
            saddr: Address::from_ip(&self.source),
            reqid: self.reqid.value(),
            mode: self.mode.code(),
            optional: u8::from(self.optional),
            ..UserTemplate::default()
        }
    }
}

/// Names a policy by what it matches; the kernel holds one per direction and selector.
pub(crate) fn by_selector(direction: Direction, selector: Selector) -> DelGetMessage {
    DelGetMessage {
        user_policy_id: UserPolicyId {
            selector: selector.to_wire(),
            index: 0,
            direction: direction.code(),
        },
        nlas: Vec::new(),
    }
}

/// Names a policy by its index, which is ours by type.
pub(crate) fn by_index(direction: Direction, index: PolicyIndex) -> DelGetMessage {
    DelGetMessage {
        user_policy_id: UserPolicyId {
            index: index.value(),
            direction: direction.code(),
            ..UserPolicyId::default()
        },
        nlas: Vec::new(),
    }
}
