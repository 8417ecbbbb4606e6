//! What the engine asks of its driver, and what it tells it. [`crate::Endpoint`] says in which order to drain.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::{Credentials, Encryption, Integrity, Lifetime, Mode, PeerConfig, TrafficSelector};
use crate::types::{BootId, ChildId, ChildSaId, EffectId, EspSpi, IkeSaId, IkeSpi, Path, PeerId, SaProtocol};

/// What the driver wants. Every command is idempotent.
#[derive(Clone, Debug)]
pub enum Command {
    /// Traffic of `child` waits for an SA (kernel ACQUIRE). Unknown names are counted and ignored.
    Acquire {
        /// The peer.
        peer: PeerId,
        /// The child.
        child: ChildId,
    },
    /// The kernel's soft or hard limit of an SA of ours was reached.
    Expire {
        /// Inbound or outbound SPI, as the kernel named it.
        spi: EspSpi,
        /// Hard: the SA is gone.
        hard: bool,
    },
    /// ESP that authenticated came from elsewhere than before: a NAT has another mapping for the peer.
    Mapping {
        /// The inbound SPI.
        spi: EspSpi,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// ESP arrived through an inbound SA: a sign of life, and proof that the peer installed its outbound half.
    InboundSeen {
        /// The inbound SPI.
        spi: EspSpi,
    },
    /// ESP left through an outbound SA. Where nothing has come back for a while, the peer is asked whether it is there;
    /// signs of life of the same moment come first.
    OutboundSeen {
        /// The outbound SPI.
        spi: EspSpi,
    },
    /// The directory says that the peer runs under this boot: SAs made under another one are gone at its end.
    PeerBooted {
        /// The peer.
        peer: PeerId,
        /// Its boot.
        boot: BootId,
    },
    /// A new SA instead of the child's present one, now.
    RekeyChild {
        /// The peer.
        peer: PeerId,
        /// The child.
        child: ChildId,
    },
    /// A new IKE SA instead of the present one, now.
    RekeyIke {
        /// The peer.
        peer: PeerId,
    },
    /// Ends everything with a peer: DELETE to it, SAs removed, configuration forgotten.
    RemovePeer {
        /// The peer.
        peer: PeerId,
    },
    /// The peer's proof is judged by something else now: a new attempt is worth more than the back-off of the last. Where
    /// an IKE SA stands nothing happens, and SAs that wait for a successor go on waiting.
    RetryPeer {
        /// The peer.
        peer: PeerId,
    },
    /// The certificate and key for the next IKE_AUTH; SAs that stand are not touched.
    SetCredentials(Credentials),
    /// Adds a peer or changes it. What is unchanged is not touched; changed proposals or lifetimes of a child rekey it,
    /// an added child is negotiated, a removed one is deleted.
    UpsertPeer(Box<PeerConfig>),
}

/// A command that the engine refuses: a bug of the driver or a limit of the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The configuration cannot be carried out; the message names the field.
    #[error("invalid configuration: {0}")]
    Invalid(String),
    /// Two peers with the same pair of addresses.
    #[error("another peer has the same addresses")]
    DuplicateAddresses,
    /// No such peer.
    #[error("unknown peer")]
    UnknownPeer,
    /// No such child.
    #[error("unknown child")]
    UnknownChild,
}

/// A request to the data plane. The engine holds back what depends on it until [`crate::Endpoint::handle_effect`].
#[derive(Debug)]
pub struct Effect {
    /// To be given back with the outcome.
    pub id: EffectId,
    /// What to do.
    pub action: EffectAction,
}

/// What the data plane is asked to do.
#[derive(Debug)]
pub enum EffectAction {
    /// Install the inbound half.
    InstallInbound(Box<SaSpec>),
    /// Install the outbound half; from then on the kernel sends through it.
    InstallOutbound(Box<SaSpec>),
    /// The peer's end of ESP in UDP has moved: the same SA, other ports (source, destination).
    Encapsulate(SaName, (u16, u16)),
    /// Remove the inbound half. An SA that is not there counts as removed.
    RemoveInbound(SaName),
    /// Remove the outbound half. An SA that is not there counts as removed.
    RemoveOutbound(SaName),
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectOutcome {
    /// It is so.
    Done,
    /// The SPI exists in the kernel already (EEXIST).
    SpiInUse,
    /// Any other refusal; the text is for people.
    Failed(String),
}

/// What names one half of a CHILD SA in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaName {
    /// ESP or AH: each has SPIs of its own.
    pub protocol: SaProtocol,
    /// The SPI, chosen by the receiving end.
    pub spi: EspSpi,
    /// Source address of its packets.
    pub source: std::net::IpAddr,
    /// Destination address of its packets.
    pub destination: std::net::IpAddr,
}

/// One half of a CHILD SA, ready to be installed.
#[derive(Debug)]
pub struct SaSpec {
    /// SPI and addresses.
    pub name: SaName,
    /// The pair that it belongs to.
    pub child_sa: ChildSaId,
    /// The peer that it belongs to.
    pub peer: PeerId,
    /// The configured child that it belongs to.
    pub child: ChildId,
    /// Encapsulation mode.
    pub mode: Mode,
    /// Cipher; AH has none.
    pub encryption: Option<Encryption>,
    /// Integrity algorithm; a combined-mode cipher has none.
    pub integrity: Option<Integrity>,
    /// Cipher key followed by the salt (RFC 4106 §8.1), then the integrity key (RFC 7296 §2.17).
    pub key: SaKey,
    /// Extended sequence numbers, as negotiated.
    pub esn: bool,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Binds it to the policies.
    pub reqid: u32,
    /// UDP ports when ESP is carried in UDP: (source, destination).
    pub encapsulation: Option<(u16, u16)>,
    /// A NAT lies at our end: its mapping is to be kept open while nothing is sent (RFC 3948 §4).
    pub keepalive: bool,
    /// Selectors at the sending end, as negotiated.
    pub source_selectors: Vec<TrafficSelector>,
    /// Selectors at the receiving end, as negotiated.
    pub destination_selectors: Vec<TrafficSelector>,
    /// Hard limits.
    pub lifetime: Lifetime,
    /// Soft limits: the kernel reports them as EXPIRE.
    pub soft_lifetime: Lifetime,
}

/// Key material of one half; wiped when dropped, never shown.
pub struct SaKey(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for SaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaKey(redacted)")
    }
}

/// A datagram to send; its bytes are in the buffer that `poll_transmit` filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where. Local port 4500 wants the non-ESP marker in front.
    pub path: Path,
}

/// Where `poll_transmit` puts the bytes of a datagram.
pub trait TransmitBuffer {
    /// Replaces the content by one datagram.
    fn fill(&mut self, datagram: &[u8]);
}

impl TransmitBuffer for Vec<u8> {
    fn fill(&mut self, datagram: &[u8]) {
        self.clear();
        self.extend_from_slice(datagram);
    }
}

/// What became of a datagram: for counters only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// It authenticated, or started an exchange.
    Accepted,
    /// A stateless answer was made.
    Answered(AnswerReason),
    /// Nothing changed.
    Dropped(DropReason),
}

/// Why a stateless answer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnswerReason {
    /// COOKIE was asked for.
    Cookie,
    /// INVALID_KE_PAYLOAD.
    InvalidKe,
    /// INVALID_MAJOR_VERSION.
    InvalidMajorVersion,
    /// NO_PROPOSAL_CHOSEN.
    NoProposalChosen,
    /// The cached response was sent again.
    Repeated,
    /// INVALID_IKE_SPI.
    UnknownSpi,
    /// UNSUPPORTED_CRITICAL_PAYLOAD.
    UnsupportedCritical,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// A COOKIE that is not ours, or too old.
    BadCookie,
    /// The integrity check failed.
    BadIntegrity,
    /// Too many half-open SAs.
    HalfOpenLimit,
    /// It cannot be answered before this host has a certificate.
    NoCredentials,
    /// It does not parse.
    Malformed,
    /// A message ID outside the window.
    OutsideWindow,
    /// A response that nothing waits for.
    Unexpected,
    /// No peer is configured for its addresses.
    UnknownPeer,
    /// No SA has its SPIs.
    UnknownSpi,
}

/// What happened, for status, metrics and Events. Never carries key material.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A pair of CHILD SAs carries traffic in both directions.
    ChildEstablished {
        /// The peer.
        peer: PeerId,
        /// The child.
        child: ChildId,
        /// The pair.
        child_sa: ChildSaId,
        /// Inbound SPI.
        inbound: EspSpi,
        /// Outbound SPI.
        outbound: EspSpi,
        /// The pair that it replaces.
        replaces: Option<ChildSaId>,
    },
    /// A pair of CHILD SAs is gone at both ends, or at ours for good.
    ChildClosed {
        /// The peer.
        peer: PeerId,
        /// The child.
        child: ChildId,
        /// The pair.
        child_sa: ChildSaId,
        /// Why.
        reason: CloseReason,
    },
    /// An IKE SA stands.
    IkeEstablished {
        /// The peer.
        peer: PeerId,
        /// The SA.
        ike_sa: IkeSaId,
        /// SPI of the initiator.
        initiator_spi: IkeSpi,
        /// SPI of the responder.
        responder_spi: IkeSpi,
        /// What both ends agreed on.
        suite: crate::crypto::IkeSuite,
        /// The SA that it replaces by rekey.
        replaces: Option<IkeSaId>,
    },
    /// An IKE SA is gone.
    IkeClosed {
        /// The peer.
        peer: PeerId,
        /// The SA.
        ike_sa: IkeSaId,
        /// Why.
        reason: CloseReason,
    },
    /// An exchange failed; the engine tries again where that makes sense.
    Failed {
        /// The peer.
        peer: PeerId,
        /// The child, when it concerns only one.
        child: Option<ChildId>,
        /// What went wrong.
        failure: Failure,
        /// One sentence for people: what was expected, what came, what to do.
        detail: String,
        /// When the engine tries again by itself.
        retry_in: Option<Duration>,
    },
    /// A request was sent again.
    Retransmitted {
        /// The peer.
        peer: PeerId,
        /// How often before.
        attempt: u32,
    },
}

/// Why an SA went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// A hard limit.
    Expired,
    /// The driver asked.
    Local,
    /// The data plane refused it.
    DataPlane,
    /// A redundant one of a collision.
    Redundant,
    /// The peer deleted it.
    Remote,
    /// A newer one took its place.
    Replaced,
    /// The peer does not answer.
    Unreachable,
}

/// What went wrong in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The peer wants to assign an address, or to be asked for one.
    AddressAssignment,
    /// The peer refused us, or we refused it.
    Authentication,
    /// The data plane refused an SA.
    DataPlane,
    /// The peer takes no further CHILD SA, or no rekey, on its IKE SA.
    NoAdditionalSas,
    /// This host has no certificate yet.
    NoCredentials,
    /// No proposal in common.
    NoProposalChosen,
    /// A message that breaks the protocol although it authenticated.
    Protocol,
    /// The selectors do not meet, or transport mode was refused.
    TrafficSelectors,
    /// No answer.
    Unreachable,
}
