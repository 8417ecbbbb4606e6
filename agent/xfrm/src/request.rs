//! Requests: one netlink message each, encoded in batches, wiped after use.

use std::fmt;

use netlink_packet_core::{Emitable, NetlinkHeader};
use netlink_packet_xfrm::policy::{GetSpdInfoMessage, NewSpdInfoMessage, SpdHThresh, SpdInfoAttrs};
use netlink_packet_xfrm::state::GetDumpMessage;
use netlink_packet_xfrm::{XFRM_MSG_GETPOLICY, XfrmAttrs, XfrmMessage};
use zeroize::{Zeroize, Zeroizing};

use crate::address::Selector;
use crate::dump::{HashThresholds, SaState};
use crate::ownership::PolicyIndex;
use crate::policy::{self, Direction, Policy};
use crate::sa::{self, Sa, SaFeatures, SaId};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const HEADER_LENGTH: usize = 16;
const ALIGNMENT: usize = 4;

/// One request to the kernel.
pub struct Request {
    message: XfrmMessage,
    flags: u16,
    operation: &'static str,
}

impl Request {
    /// Installs an SA; fails where the SPI is taken.
    pub fn add_sa(sa: &Sa, features: SaFeatures) -> Self {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        Self::new("add SA", XfrmMessage::AddSa(sa.to_wire(features)), flags)
    }

    /// Gives an SA that travels in UDP other ports (source, destination); `None` for one that does not. The kernel copies
    /// ports and limits out of this message and nothing else: it keeps its keys, numbers and counters.
    pub fn set_encapsulation(state: &SaState, ports: (u16, u16)) -> Option<Self> {
        let sa = state.with_ports(ports)?;
        let features = SaFeatures {
            direction: state.direction.is_some(),
            keepalive: state.keepalive.is_some(),
        };
        Some(Self::new(
            "set the UDP ports of an SA",
            XfrmMessage::UpdateSa(sa.to_wire(features)),
            NLM_F_ACK,
        ))
    }

    /// Removes an SA. Whoever asks has made sure that it is ours: the kernel's name for it does not say.
    pub fn delete_sa(id: SaId) -> Self {
        Self::new("delete SA", XfrmMessage::DeleteSa(sa::by_id(id)), NLM_F_ACK)
    }

    /// Reads one SA.
    pub fn read_sa(id: SaId) -> Self {
        Self::new("read SA", XfrmMessage::GetSa(sa::by_id(id)), NLM_F_ACK)
    }

    /// Lists all SAs of the network namespace.
    pub fn dump_sas() -> Self {
        Self::new(
            "dump SAs",
            XfrmMessage::GetDumpSa(GetDumpMessage { nlas: Vec::new() }),
            NLM_F_DUMP,
        )
    }

    /// Installs a policy; fails where one with the same selector stands.
    pub fn add_policy(policy: Policy) -> Self {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        Self::new("add policy", XfrmMessage::AddPolicy(policy.to_wire()), flags)
    }

    /// Replaces the policy with the same selector, whoever owns it: read it first.
    pub fn update_policy(policy: Policy) -> Self {
        Self::new(
            "update policy",
            XfrmMessage::UpdatePolicy(policy.to_wire()),
            NLM_F_ACK,
        )
    }

    /// Removes a policy of ours.
    pub fn delete_policy(direction: Direction, index: PolicyIndex) -> Self {
        Self::new(
            "delete policy",
            XfrmMessage::DeletePolicy(policy::by_index(direction, index)),
            NLM_F_ACK,
        )
    }

    /// Reads the policy of a selector.
    pub fn read_policy(direction: Direction, selector: Selector) -> Self {
        Self::new(
            "read policy",
            XfrmMessage::GetPolicy(policy::by_selector(direction, selector)),
            NLM_F_ACK,
        )
    }

    /// Lists all policies of the network namespace.
    pub fn dump_policies() -> Self {
        Self::new(
            "dump policies",
            XfrmMessage::Other((XFRM_MSG_GETPOLICY, Vec::new())),
            NLM_F_DUMP,
        )
    }

    /// Reads the prefix lengths from which policies are hashed.
    pub fn read_hash_thresholds() -> Self {
        let message = XfrmMessage::GetSpdInfo(GetSpdInfoMessage { flags: u32::MAX });
        Self::new("read policy hash thresholds", message, NLM_F_ACK)
    }

    /// Sets the prefix lengths from which policies are hashed.
    pub fn set_hash_thresholds(thresholds: HashThresholds) -> Self {
        let pair = |(lbits, rbits)| SpdHThresh { lbits, rbits };
        let message = XfrmMessage::NewSpdInfo(NewSpdInfoMessage {
            flags: u32::MAX,
            nlas: vec![
                SpdInfoAttrs::SpdIpv4HThresh(pair(thresholds.ipv4)),
                SpdInfoAttrs::SpdIpv6HThresh(pair(thresholds.ipv6)),
            ],
        });
        Self::new("set policy hash thresholds", message, NLM_F_ACK)
    }

    /// What it does, for errors.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    fn new(operation: &'static str, message: XfrmMessage, flags: u16) -> Self {
        Self {
            message,
            flags: flags | NLM_F_REQUEST,
            operation,
        }
    }

    fn length(&self) -> usize {
        HEADER_LENGTH + self.message.buffer_len()
    }

    fn emit(&self, sequence_number: u32, buffer: &mut [u8]) {
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(self.length()).unwrap_or(u32::MAX);
        header.message_type = self.message.message_type();
        header.flags = self.flags;
        header.sequence_number = sequence_number;
        let (head, body) = buffer.split_at_mut(HEADER_LENGTH);
        header.emit(head);
        self.message.emit(&mut body[..self.message.buffer_len()]);
    }
}

impl fmt::Debug for Request {
    /// Never the message: it may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "these attributes hold keys, all others do not"
)]
impl Drop for Request {
    fn drop(&mut self) {
        if let XfrmMessage::AddSa(message) | XfrmMessage::UpdateSa(message) = &mut self.message {
            for attribute in &mut message.nlas {
                match attribute {
                    XfrmAttrs::EncryptionAlgAead(algorithm) => algorithm.alg_key.zeroize(),
                    XfrmAttrs::EncryptionAlg(algorithm) => algorithm.alg_key.zeroize(),
                    XfrmAttrs::AuthenticationAlgTrunc(algorithm) => algorithm.alg_key.zeroize(),
                    _ => {}
                }
            }
        }
    }
}

/// Encodes requests one after the other, numbered from `first`. The buffer has its final size from the start, so that no
/// key stays behind in a smaller one.
pub(crate) fn encode(requests: &[Request], first: u32) -> Zeroizing<Vec<u8>> {
    let total = requests
        .iter()
        .map(|request| request.length().next_multiple_of(ALIGNMENT))
        .sum();
    let mut buffer = Zeroizing::new(vec![0; total]);
    let mut rest = buffer.as_mut_slice();
    for (sequence, request) in (first..=u32::MAX).zip(requests) {
        let (message, tail) = rest.split_at_mut(request.length().next_multiple_of(ALIGNMENT));
        request.emit(sequence, message);
        rest = tail;
    }
    buffer
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
