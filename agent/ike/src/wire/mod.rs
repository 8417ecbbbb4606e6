//! The IKEv2 wire format (RFC 7296 §3): datagrams to typed payloads and back.
//!
//! Nothing here panics on any input, trusts a length before it has been checked, or allocates more than a small
//! multiple of the datagram. Code points that are not known survive as newtypes over the integer, so that
//! `encode(decode(x)) == x` holds for every message whose reserved bits are zero, as the RFC asks of senders.

mod algorithm;
mod auth;
mod cert;
mod code;
mod delete;
mod error;
mod fragment;
mod header;
mod id;
mod ke;
mod message;
mod nonce;
mod notify;
mod payload;
mod reader;
mod sa;
mod signature;
mod spi;
mod ts;
mod writer;

pub use auth::{Auth, SignatureAuth, decode_hash_algorithms, encode_hash_algorithms};
pub use cert::{Certificate, CertificateRequest};
pub use code::{
    AttributeType, AuthMethod, CertificateEncoding, ExchangeType, HashAlgorithm, IdType, KeyExchangeMethod,
    NotifyType, PayloadType, Protocol, SelectorType, TransformType,
};
pub use delete::Delete;
pub use error::{DecodeError, EncodeError, Malformation};
pub use fragment::{FragmentEnvelope, FragmentPosition};
pub use header::{Flags, Header, MessageId, Role, Version};
pub use id::Identification;
pub use ke::KeyExchangeData;
pub use message::{Body, Envelope, Message, encode};
pub use nonce::Nonce;
pub use notify::Notify;
pub use payload::{MAX_PAYLOADS, Payload, Payloads, Unknown};
pub use sa::{Attribute, AttributeValue, Proposal, SecurityAssociation, Transform};
pub use spi::Spi;
pub use ts::{Selector, TrafficSelectors};

pub(crate) use header::HEADER_LENGTH;
pub(crate) use message::{Glance, SK_HEAD, SKF_HEAD, encode_content, encode_sealed_head};
