//! What the driver tells the engine: its own identity and limits, and each peer with its children.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::distinguished_name::DistinguishedName;
use crate::time::WallTime;
use crate::types::{BootId, ChildId, PeerId, SaProtocol};

/// What holds for every SA of this engine.
#[derive(Clone)]
pub struct EndpointConfig {
    /// Sent to every peer inside IKE_AUTH (decision 20).
    pub boot_id: BootId,
    /// Certificate and key of this host; `None` until it has one. Certificate-authenticated exchanges wait for it.
    pub credentials: Option<Credentials>,
    /// Judges the certificates of peers.
    pub verifier: Arc<dyn CertificateVerifier>,
    /// Retransmission of requests (RFC 7296 §2.1).
    pub retransmit: Retransmit,
    /// Bounds on work for hosts that have not authenticated.
    pub limits: Limits,
    /// Longest IP packet, in bytes, that carries an IKE message to a peer that takes fragments (RFC 7383 §2.5.1); `None`
    /// offers no fragmentation.
    pub fragment_size: Option<u16>,
}

impl EndpointConfig {
    /// The fragment size that fits through every IPv6 path, and through nearly every IPv4 path.
    pub const FRAGMENT_SIZE: u16 = 1280;

    /// The longest IKE message in one packet on this path: without the headers of IP and UDP and the non-ESP marker.
    pub(crate) fn longest_message(&self, path: crate::types::Path) -> Option<usize> {
        let ip = if path.remote.is_ipv4() { 20 } else { 40 };
        Some(usize::from(self.fragment_size?).saturating_sub(ip + 8 + 4))
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("boot_id", &self.boot_id)
            .field("credentials", &self.credentials)
            .field("retransmit", &self.retransmit)
            .field("limits", &self.limits)
            .field("fragment_size", &self.fragment_size)
            .finish_non_exhaustive()
    }
}

/// A certificate chain and the key of its leaf.
#[derive(Clone)]
pub struct Credentials {
    /// DER certificates, leaf first, without the trust anchor.
    pub chain: Arc<[Vec<u8>]>,
    /// Signs with the leaf's private key. The engine never sees the key.
    pub signer: Arc<dyn Signer>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} certificates)", self.chain.len())
    }
}

/// The private key of this host.
pub trait Signer: Send + Sync {
    /// The algorithms that [`Signer::sign`] offers, best first.
    fn algorithms(&self) -> &[SignatureAlgorithm];

    /// Signs `message` (not its hash); the result is in the encoding of RFC 7427.
    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A signature algorithm of RFC 7427. Which curve ECDSA is on, the key says: RFC 7427 §3 leaves every hash to every curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA2-256, as DER-encoded `Ecdsa-Sig-Value`.
    EcdsaSha256,
    /// ECDSA with SHA2-384, likewise.
    EcdsaSha384,
    /// ECDSA with SHA2-512, likewise.
    EcdsaSha512,
    /// Ed25519, which hashes by itself (RFC 8420).
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA2-256: verified, never signed with (RFC 8247 §3.2).
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA2-384, likewise.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA2-512, likewise.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA2-256 for the message and for MGF1, and a salt as long as the hash (RFC 4055 §3.1).
    RsaPssSha256,
    /// RSASSA-PSS with SHA2-384, likewise.
    RsaPssSha384,
    /// RSASSA-PSS with SHA2-512, likewise.
    RsaPssSha512,
}

/// The key did not sign. The reason is the driver's to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key could not sign")]
pub struct SignError;

/// Judges the certificate of a peer: chain, validity, usage, names, pinned key (decision 23).
pub trait CertificateVerifier: Send + Sync {
    /// `chain` is the peer's, leaf first, untrusted. `identity` is what the peer claims *and* what the configuration
    /// of `peer` expects; the engine has compared the two. On success the leaf's SubjectPublicKeyInfo in DER.
    fn verify(
        &self,
        peer: PeerId,
        identity: &Identity,
        chain: &[&[u8]],
        at: WallTime,
    ) -> Result<Vec<u8>, CertificateError>;

    /// SHA-1 hashes of the SubjectPublicKeyInfo of the trust anchors that `peer` is judged by, for CERTREQ (RFC 7296 §3.7).
    fn authorities(&self, peer: PeerId) -> Vec<[u8; 20]>;
}

/// Why a certificate is refused; told to the driver, never to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(pub String);

/// An identity of RFC 7296 §3.5.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Identity {
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_DER_ASN1_DN: compared as RFC 5280 §7.1 says.
    Dn(DistinguishedName),
    /// ID_RFC822_ADDR: the part behind the `@` is compared without case (RFC 5280 §7.5).
    Email(String),
    /// ID_FQDN: compared without case.
    Fqdn(String),
    /// ID_KEY_ID: opaque bytes.
    KeyId(Vec<u8>),
}

impl Identity {
    /// Whether two identities are the same one.
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dn(a), Self::Dn(b)) => a.matches(b),
            (Self::Email(a), Self::Email(b)) => match (a.rsplit_once('@'), b.rsplit_once('@')) {
                (Some((a, a_host)), Some((b, b_host))) => a == b && a_host.eq_ignore_ascii_case(b_host),
                _ => a == b,
            },
            (Self::Fqdn(a), Self::Fqdn(b)) => a.eq_ignore_ascii_case(b),
            (Self::Address(a), Self::Address(b)) => a == b,
            (Self::KeyId(a), Self::KeyId(b)) => a == b,
            (Self::Address(_) | Self::Dn(_) | Self::Email(_) | Self::Fqdn(_) | Self::KeyId(_), _) => false,
        }
    }
}

impl fmt::Display for Identity {
    /// Kind and value, as the API names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => write!(f, "IPv4 {address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "IPv6 {address}"),
            Self::Dn(name) => write!(f, "DN {name}"),
            Self::Email(address) => write!(f, "Email {}", address.escape_debug()),
            Self::Fqdn(name) => write!(f, "FQDN {}", name.escape_debug()),
            Self::KeyId(id) => write!(f, "KeyID {}", id.escape_ascii()),
        }
    }
}

/// Retransmission of a request (RFC 7296 §2.1): at 0, `initial`, then each time `factor` percent longer up to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmit {
    /// First wait; default 500 ms.
    pub initial: Duration,
    /// Growth in percent of the previous wait; default 180.
    pub factor_percent: u32,
    /// Longest wait; default 8 s.
    pub cap: Duration,
    /// Transmissions of an initial exchange before the peer is called unreachable; default 8.
    pub tries: u32,
}

impl Default for Retransmit {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            factor_percent: 180,
            cap: Duration::from_secs(8),
            tries: 8,
        }
    }
}

/// Bounds on what unauthenticated hosts can make the engine hold or compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Half-open SAs as responder above which COOKIE is asked for (RFC 7296 §2.6); default 64.
    pub cookie_threshold: usize,
    /// Half-open SAs as responder, all sources; default 4096.
    pub half_open: usize,
    /// Half-open SAs as responder from one address; default 8.
    pub half_open_per_source: usize,
    /// Life of a half-open SA; default 30 s.
    pub half_open_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cookie_threshold: 64,
            half_open: 4096,
            half_open_per_source: 8,
            half_open_timeout: Duration::from_secs(30),
        }
    }
}

/// One peer: exactly one IKE SA with it at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The driver's name for it.
    pub id: PeerId,
    /// Address of this host that the SA uses.
    pub local_address: IpAddr,
    /// The only address from which this peer is accepted.
    pub remote_address: IpAddr,
    /// IDi or IDr of this host.
    pub local_identity: Identity,
    /// The only identity that is accepted from `remote_address`.
    pub remote_identity: Identity,
    /// How both ends prove themselves.
    pub auth: PeerAuth,
    /// Mixed into the keys besides that.
    pub ppk: Option<Ppk>,
    /// Proposals of the IKE SA in order of preference; never empty.
    pub ike_proposals: Vec<IkeProposal>,
    /// No IKE SA stands for longer after the peer has proven its identity: a new one is made before (RFC 7296 §2.8.3), and
    /// in between the IKE SA is rekeyed. 10 min to 168 h.
    pub ike_lifetime: Duration,
    /// Liveness checks (RFC 7296 §2.4).
    pub liveness: Liveness,
    /// Who starts.
    pub initiation: Initiation,
    /// Whether ESP is carried in UDP 4500 (RFC 3948).
    pub encapsulation: Encapsulation,
    /// What is protected with this peer.
    pub children: Vec<ChildConfig>,
}

/// How both ends of a peer prove themselves.
#[derive(Clone, PartialEq, Eq)]
pub enum PeerAuth {
    /// RFC 7427 signatures with the credentials of the endpoint.
    Certificate,
    /// Shared secrets (RFC 7296 §2.15).
    Psk {
        /// Used to prove ourselves, and accepted.
        current: Zeroizing<Vec<u8>>,
        /// Accepted while the peer may still use it.
        previous: Option<Zeroizing<Vec<u8>>>,
    },
}

impl fmt::Debug for PeerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "Certificate",
            Self::Psk { .. } => "Psk(redacted)",
        })
    }
}

/// A post-quantum preshared key (RFC 8784): whoever breaks the key exchange later does not have the keys of CHILD SAs
/// without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ppk {
    /// Its name at both ends: 1–255 bytes.
    pub id: Vec<u8>,
    /// Used, and accepted.
    pub current: Zeroizing<Vec<u8>>,
    /// Accepted while the peer may still use it.
    pub previous: Option<Zeroizing<Vec<u8>>>,
    /// Without it there is no IKE SA.
    pub required: bool,
}

impl Ppk {
    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.id))
    }
}

impl fmt::Debug for Ppk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ppk")
            .field("id", &self.name())
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// Who starts, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiation {
    /// At once, and again with back-off while it does not succeed.
    Eager,
    /// This end only answers, and starts itself when nothing came for `grace` (decision 5).
    EagerAfter {
        /// How long the other end has.
        grace: Duration,
    },
    /// When [`crate::Command::Acquire`] says that traffic waits.
    OnDemand,
}

/// Whether ESP is carried in UDP (RFC 3948, RFC 7296 §2.23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Always, as if a NAT had been found.
    Always,
    /// When a NAT is found.
    Auto,
    /// Not even behind a NAT: the negotiation fails there.
    Never,
}

/// Liveness checks by empty INFORMATIONAL exchanges (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Silence after which the peer is asked.
    pub interval: Duration,
    /// How often a request that finds no answer is asked again, 1–10: each time, like the first, with two transmissions.
    pub max_retries: u8,
    /// What happens when it does not answer all transmissions of the request.
    pub action: LivenessAction,
}

impl Liveness {
    /// Transmissions of a request before the peer is called unreachable. With the default waits of [`Retransmit`] it is
    /// after 6 s, 19 s, 35 s (3 retries), 51 s and so on, 147 s at the most.
    pub(crate) fn transmissions(self) -> u32 {
        2 * (1 + u32::from(self.max_retries))
    }
}

/// What a peer's silence leads to. Children stay in the kernel until they are replaced or expire (decision 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessAction {
    /// Forget the IKE SA; wait for traffic or for the peer.
    Clear,
    /// Forget the IKE SA and start a new one.
    Restart,
}

/// One proposal of an IKE SA: each list in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    /// Ciphers: either combined modes only (RFC 5282), or none of them.
    pub encryption: Vec<Encryption>,
    /// Integrity algorithms: empty with combined modes, and only with them.
    pub integrity: Vec<Integrity>,
    /// Pseudorandom functions.
    pub prf: Vec<Prf>,
    /// Key exchange methods.
    pub key_exchange: Vec<KeyExchange>,
    /// Additional key exchanges before IKE_AUTH and in rekeys (RFC 9370): all of them are a must, in this order.
    pub additional: AdditionalKeyExchanges,
}

/// One proposal of a CHILD SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildProposal {
    /// ESP or AH: the same in all proposals of a child.
    pub protocol: SaProtocol,
    /// Ciphers, none with AH: either combined modes only (RFC 4106), or none of them.
    pub encryption: Vec<Encryption>,
    /// Integrity algorithms: empty with combined modes, and only with them.
    pub integrity: Vec<Integrity>,
    /// Methods for perfect forward secrecy at CREATE_CHILD_SA; both "one of these" and "none" are offered and accepted,
    /// unless additional key exchanges follow.
    pub key_exchange: Vec<KeyExchange>,
    /// Additional key exchanges after CREATE_CHILD_SA (RFC 9370), all of them, in this order. With them a method of
    /// `key_exchange` is a must as well.
    pub additional: AdditionalKeyExchanges,
}

/// A cipher of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encryption {
    /// ENCR_AES_GCM_16 with a 128-bit key.
    AesGcm16Key128,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    AesGcm16Key256,
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
    /// ENCR_AES_CBC with a 128-bit key (RFC 3602); needs an integrity algorithm.
    AesCbcKey128,
    /// ENCR_AES_CBC with a 256-bit key (RFC 3602); needs an integrity algorithm.
    AesCbcKey256,
}

/// An integrity algorithm of an SA, for ciphers that do not authenticate and for AH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512,
}

/// A pseudorandom function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

/// A key exchange method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyExchange {
    /// Group 19, 256-bit random ECP.
    Ecp256,
    /// Group 20, 384-bit random ECP.
    Ecp384,
    /// Group 21, 521-bit random ECP.
    Ecp521,
    /// Group 14, 2048-bit MODP (RFC 3526).
    Modp2048,
    /// Group 15, 3072-bit MODP (RFC 3526).
    Modp3072,
    /// Group 16, 4096-bit MODP (RFC 3526).
    Modp4096,
    /// Group 31, Curve25519.
    X25519,
}

/// A key encapsulation mechanism for an additional key exchange: ML-KEM (FIPS 203).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kem {
    /// ML-KEM-512.
    MlKem512,
    /// ML-KEM-768.
    MlKem768,
    /// ML-KEM-1024.
    MlKem1024,
}

/// An additional key exchange (RFC 9370): any method there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdditionalKeyExchange {
    /// A key encapsulation mechanism.
    Kem(Kem),
    /// A method that can stand alone as well.
    Method(KeyExchange),
}

/// The additional key exchanges of a proposal or suite, in their order: at most seven, each once (RFC 9370 §2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditionalKeyExchanges([Option<AdditionalKeyExchange>; 7]);

impl AdditionalKeyExchanges {
    /// None.
    pub const NONE: Self = Self([None; 7]);

    /// `None` when there are more than seven, or one occurs twice.
    pub fn new(methods: &[AdditionalKeyExchange]) -> Option<Self> {
        let mut all = Self::NONE;
        let mut left = methods.iter();
        for place in &mut all.0 {
            *place = left.next().copied();
        }
        let distinct = all
            .iter()
            .all(|one| all.iter().filter(|other| *other == one).count() == 1);
        (distinct && left.next().is_none()).then_some(all)
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = AdditionalKeyExchange> + use<> {
        self.0.into_iter().flatten()
    }

    /// The one that follows so many others.
    pub fn after(&self, done: u32) -> Option<AdditionalKeyExchange> {
        let mut numbered = self.iter().zip(0..);
        numbered.find_map(|(method, number)| (number == done).then_some(method))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

/// What one child protects, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildConfig {
    /// The driver's name for it; unique within the peer, the same after an edit.
    pub id: ChildId,
    /// Encapsulation mode.
    pub mode: Mode,
    /// Proposals in order of preference; never empty.
    pub proposals: Vec<ChildProposal>,
    /// Selectors at this end.
    pub local_selectors: Vec<TrafficSelector>,
    /// Selectors at the peer.
    pub remote_selectors: Vec<TrafficSelector>,
    /// Hard limits of one SA.
    pub lifetime: Lifetime,
    /// The soft limit is the hard one less this share, plus or minus jitter. 1–50.
    pub rekey_margin_percent: u8,
    /// Extended sequence numbers (RFC 4303 §2.2.1): offered first.
    pub esn: bool,
    /// Anti-replay window in packets, passed on to the data plane.
    pub replay_window: u32,
    /// Binds the SAs to the policies of the data plane; passed through.
    pub reqid: u32,
}

/// Encapsulation mode of a CHILD SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Between the two hosts (RFC 7296 §1.3.1).
    Transport,
    /// Whole IP packets.
    Tunnel,
}

/// Hard limits of a CHILD SA, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Age; 5 min to 24 h from the API, any here.
    pub time: Duration,
    /// Bytes under one key.
    pub bytes: Option<u64>,
    /// Packets under one key.
    pub packets: Option<u64>,
}

/// A traffic selector (RFC 7296 §3.13.1): one protocol, one range of ports, one range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficSelector {
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// First address.
    pub first_address: IpAddr,
    /// Last address, of the same family.
    pub last_address: IpAddr,
}
