//! Security associations: ESP (RFC 4303) and AH (RFC 4302) in both modes, extended sequence numbers, UDP encapsulation
//! (RFC 3948).
//!
//! Tunnel mode keeps what the kernel does by itself, because it is what RFC 4301 §5.1.2 asks for: the outer header has
//! the inner one's DSCP and, over IPv4, its DF bit, the inner header comes out with its own DSCP, and ECN is handled as
//! RFC 6040 says. So path MTU discovery works through the tunnel, and no covert change of class crosses it.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_xfrm::state::{DelGetMessage, ModifyMessage};
use netlink_packet_xfrm::{
    Address, EncapTmpl, IPPROTO_AH, IPPROTO_ESP, Id, LifetimeConfig, ReplayEsn, UDP_ENCAP_ESPINUDP, UserSaId,
    UserSaInfo, XFRM_INF, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL, XFRM_STATE_AF_UNSPEC, XFRM_STATE_ALIGN4,
    XFRM_STATE_ESN, XfrmAttrs,
};
use zeroize::Zeroizing;

use crate::address::{Selector, family};
use crate::algorithm::Algorithm;
use crate::ownership::Reqid;

/// `XFRMA_SA_DIR` of Linux 6.10 and later: the SA says which way it goes.
pub(crate) const XFRMA_SA_DIR: u16 = 33;
/// `XFRMA_NAT_KEEPALIVE_INTERVAL` of Linux 6.11 and later: the kernel keeps the mapping of a NAT open.
pub(crate) const XFRMA_NAT_KEEPALIVE_INTERVAL: u16 = 34;
pub(crate) const SA_DIR_IN: u8 = 1;
pub(crate) const SA_DIR_OUT: u8 = 2;

/// The kernel's largest anti-replay window, in packets.
pub const MAX_REPLAY_WINDOW: u32 = 4096;

const BITS_PER_WORD: u32 = 32;

/// What names an SA: the kernel finds it by protocol, destination and SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaId {
    /// ESP or AH: each has SPIs of its own.
    pub protocol: Protocol,
    /// The SPI, in host order.
    pub spi: u32,
    /// Source address of its packets.
    pub source: IpAddr,
    /// Destination address of its packets.
    pub destination: IpAddr,
}

/// One SA to install.
#[derive(Debug)]
pub struct Sa {
    /// SPI and addresses.
    pub id: SaId,
    /// Binds it to policies.
    pub reqid: Reqid,
    /// Encapsulation.
    pub mode: Mode,
    /// Which way its packets go.
    pub direction: SaDirection,
    /// What it encrypts and authenticates with.
    pub algorithm: Algorithm,
    /// The cipher's key, its salt, then the integrity key: what the algorithm has of these.
    pub key: Key,
    /// Extended sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// Anti-replay window in packets, at most [`MAX_REPLAY_WINDOW`]; inbound only.
    pub replay_window: u32,
    /// UDP ports (source, destination) where ESP travels in UDP.
    pub encapsulation: Option<(u16, u16)>,
    /// Seconds without traffic after which the kernel sends a keepalive (RFC 3948 §4), where it knows how to; outbound
    /// SAs in UDP only.
    pub keepalive: Option<u32>,
    /// What may travel through it, in tunnel mode of either family; `None` is everything between its addresses, and in
    /// tunnel mode everything.
    pub selector: Option<Selector>,
    /// When the kernel reports it, and when it stops using it.
    pub limits: Limits,
}

/// Which way an SA's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaDirection {
    /// Towards this host.
    In,
    /// From this host.
    Out,
}

/// The protocol of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Encapsulating Security Payload.
    Esp,
    /// Authentication Header.
    Ah,
}

impl Protocol {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Esp => IPPROTO_ESP,
            Self::Ah => IPPROTO_AH,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            IPPROTO_ESP => Some(Self::Esp),
            IPPROTO_AH => Some(Self::Ah),
            _ => None,
        }
    }
}

/// Encapsulation mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Between the two hosts.
    Transport,
    /// Whole IP packets.
    Tunnel,
}

impl Mode {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Transport => XFRM_MODE_TRANSPORT,
            Self::Tunnel => XFRM_MODE_TUNNEL,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            XFRM_MODE_TRANSPORT => Some(Self::Transport),
            XFRM_MODE_TUNNEL => Some(Self::Tunnel),
            _ => None,
        }
    }
}

/// Key bytes; wiped when dropped, never shown.
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// How many there are.
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Limits by volume. Age is the IKE engine's business: an SA must outlive a stopped agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which the kernel reports the SA.
    pub soft_bytes: Option<u64>,
    /// Bytes after which it is gone.
    pub hard_bytes: Option<u64>,
    /// Packets after which the kernel reports the SA.
    pub soft_packets: Option<u64>,
    /// Packets after which it is gone.
    pub hard_packets: Option<u64>,
}

impl Limits {
    pub(crate) fn from_wire(wire: &LifetimeConfig) -> Self {
        let limit = |value| (value != XFRM_INF).then_some(value);
        Self {
            soft_bytes: limit(wire.soft_byte_limit),
            hard_bytes: limit(wire.hard_byte_limit),
            soft_packets: limit(wire.soft_packet_limit),
            hard_packets: limit(wire.hard_packet_limit),
        }
    }

    fn to_wire(self) -> LifetimeConfig {
        LifetimeConfig {
            soft_byte_limit: self.soft_bytes.unwrap_or(XFRM_INF),
            hard_byte_limit: self.hard_bytes.unwrap_or(XFRM_INF),
            soft_packet_limit: self.soft_packets.unwrap_or(XFRM_INF),
            hard_packet_limit: self.hard_packets.unwrap_or(XFRM_INF),
            ..LifetimeConfig::default()
        }
    }
}

/// What this kernel can do with SAs beyond Linux 5.x; found out by the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaFeatures {
    /// `XFRMA_SA_DIR` (Linux 6.10).
    pub direction: bool,
    /// `XFRMA_NAT_KEEPALIVE_INTERVAL` (Linux 6.11).
    pub keepalive: bool,
}

impl Sa {
    /// The message holds a copy of the key: the request that it goes into wipes it.
    pub(crate) fn to_wire(&self, features: SaFeatures) -> ModifyMessage {
        let mut info = UserSaInfo {
            id: Id {
                daddr: Address::from_ip(&self.id.destination),
                spi: self.id.spi,
                proto: self.id.protocol.code(),
            },
            saddr: Address::from_ip(&self.id.source),
            lifetime_cfg: self.limits.to_wire(),
            reqid: self.reqid.value(),
            family: family(self.id.destination),
            mode: self.mode.code(),
            flags: self.flags(),
            ..UserSaInfo::default()
        };
        if let Some(selector) = self.selector {
            info.selector = selector.to_wire();
        }
        let mut nlas = self.algorithm.attributes(&self.key.0);
        nlas.extend(self.replay(features).map(XfrmAttrs::ReplayStateEsn));
        nlas.extend(self.encapsulation.map(encapsulation));
        if features.direction {
            nlas.push(XfrmAttrs::Other(DefaultNla::new(
                XFRMA_SA_DIR,
                vec![self.direction_code()],
            )));
        }
        let keepalive = self.keepalive.filter(|_| {
            // The kernel refuses it elsewhere.
            features.keepalive && self.direction == SaDirection::Out && self.encapsulation.is_some()
        });
        nlas.extend(keepalive.map(|seconds| {
            let seconds = seconds.to_ne_bytes().to_vec();
            XfrmAttrs::Other(DefaultNla::new(XFRMA_NAT_KEEPALIVE_INTERVAL, seconds))
        }));
        ModifyMessage {
            user_sa_info: info,
            nlas,
        }
    }

    /// Without a selector the kernel takes the outer family for the inner one, unless it is told not to. It pads AH to
    /// multiples of eight octets, which is right for IPv6; for IPv4 they are of four (RFC 4302 §3.3.3.2.1), and a peer
    /// that does it so drops every other packet.
    fn flags(&self) -> u8 {
        let any_family = self.mode == Mode::Tunnel && self.selector.is_none();
        let align4 = self.id.protocol == Protocol::Ah && self.id.destination.is_ipv4();
        [
            (self.esn, XFRM_STATE_ESN),
            (any_family, XFRM_STATE_AF_UNSPEC),
            (align4, XFRM_STATE_ALIGN4),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// The sending end checks no replay. A kernel that knows the direction wants no window there; an older one refuses
    /// ESN without one, so it gets the smallest.
    fn replay(&self, features: SaFeatures) -> Option<ReplayEsn> {
        let window = match (self.direction, self.esn, features.direction) {
            (SaDirection::In, _, _) => self.replay_window.clamp(1, MAX_REPLAY_WINDOW),
            (SaDirection::Out, true, false) => 1,
            (SaDirection::Out, true, true) => 0,
            (SaDirection::Out, false, _) => return None,
        };
        let words = window.div_ceil(BITS_PER_WORD);
        Some(ReplayEsn {
            bmp_len: words,
            replay_window: window,
            bmp: vec![0; usize::try_from(words).unwrap_or(0)],
            ..ReplayEsn::default()
        })
    }

    fn direction_code(&self) -> u8 {
        match self.direction {
            SaDirection::In => SA_DIR_IN,
            SaDirection::Out => SA_DIR_OUT,
        }
    }
}

fn encapsulation((source, destination): (u16, u16)) -> XfrmAttrs {
    XfrmAttrs::EncapsulationTemplate(EncapTmpl {
        encap_type: UDP_ENCAP_ESPINUDP,
        encap_sport: source,
        encap_dport: destination,
        encap_oa: Address::default(),
    })
}

/// Names an SA to read or delete. The kernel looks only at protocol, destination and SPI.
pub(crate) fn by_id(id: SaId) -> DelGetMessage {
    DelGetMessage {
        user_sa_id: UserSaId {
            daddr: Address::from_ip(&id.destination),
            spi: id.spi,
            family: family(id.destination),
            proto: id.protocol.code(),
        },
        nlas: Vec::new(),
    }
}
