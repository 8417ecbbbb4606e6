//! The chain of payloads behind a header (RFC 7296 §3.2).

use super::auth::Auth;
use super::cert::{Certificate, CertificateRequest};
use super::delete::Delete;
use super::error::{DecodeError, Malformation};
use super::id::Identification;
use super::ke::KeyExchangeData;
use super::message::Glance;
use super::nonce::Nonce;
use super::notify::Notify;
use super::reader::Reader;
use super::sa::SecurityAssociation;
use super::ts::TrafficSelectors;
use super::writer::Writer;
use super::{NotifyType, PayloadType};

/// Payloads that one message may have. A certificate-authenticated IKE_AUTH has about twenty.
pub const MAX_PAYLOADS: usize = 64;

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// AUTH.
    Auth(Auth),
    /// CERT.
    Certificate(Certificate),
    /// CERTREQ.
    CertificateRequest(CertificateRequest),
    /// D.
    Delete(Delete),
    /// IDi.
    IdInitiator(Identification),
    /// IDr.
    IdResponder(Identification),
    /// KE.
    KeyExchange(KeyExchangeData),
    /// Ni or Nr.
    Nonce(Nonce),
    /// N.
    Notify(Notify),
    /// SA.
    SecurityAssociation(SecurityAssociation),
    /// TSi.
    TsInitiator(TrafficSelectors),
    /// TSr.
    TsResponder(TrafficSelectors),
    /// A payload that we do not know and that is not critical.
    Unknown(Unknown),
    /// V.
    VendorId(Vec<u8>),
}

/// A payload that we do not know: skipped (RFC 7296 §2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its type.
    pub kind: PayloadType,
    /// What follows its generic header.
    pub body: Vec<u8>,
}

impl Payload {
    /// The type that the header in front of it names.
    pub fn kind(&self) -> PayloadType {
        match self {
            Self::Auth(_) => PayloadType::AUTH,
            Self::Certificate(_) => PayloadType::CERT,
            Self::CertificateRequest(_) => PayloadType::CERTREQ,
            Self::Delete(_) => PayloadType::DELETE,
            Self::IdInitiator(_) => PayloadType::IDI,
            Self::IdResponder(_) => PayloadType::IDR,
            Self::KeyExchange(_) => PayloadType::KE,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::SecurityAssociation(_) => PayloadType::SA,
            Self::TsInitiator(_) => PayloadType::TSI,
            Self::TsResponder(_) => PayloadType::TSR,
            Self::Unknown(unknown) => unknown.kind,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
        }
    }

    pub(super) fn is_known(kind: PayloadType) -> bool {
        (PayloadType::SA.0..=PayloadType::EAP.0).contains(&kind.0) || kind == PayloadType::SKF
    }

    fn decode(kind: PayloadType, critical: bool, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let payload = match kind {
            PayloadType::AUTH => Self::Auth(Auth::decode(&mut r)?),
            PayloadType::CERT => Self::Certificate(Certificate::decode(&mut r)?),
            PayloadType::CERTREQ => Self::CertificateRequest(CertificateRequest::decode(&mut r)?),
            PayloadType::DELETE => Self::Delete(Delete::decode(&mut r)?),
            PayloadType::IDI => Self::IdInitiator(Identification::decode(&mut r)?),
            PayloadType::IDR => Self::IdResponder(Identification::decode(&mut r)?),
            PayloadType::KE => Self::KeyExchange(KeyExchangeData::decode(&mut r)?),
            PayloadType::NONCE => Self::Nonce(Nonce::decode(&mut r)?),
            PayloadType::NOTIFY => Self::Notify(Notify::decode(&mut r)?),
            PayloadType::SA => Self::SecurityAssociation(SecurityAssociation::decode(&mut r)?),
            PayloadType::TSI => Self::TsInitiator(TrafficSelectors::decode(&mut r)?),
            PayloadType::TSR => Self::TsResponder(TrafficSelectors::decode(&mut r)?),
            PayloadType::VENDOR_ID => Self::VendorId(r.rest().to_vec()),
            PayloadType::SK | PayloadType::SKF => {
                return Err(DecodeError::new("encrypted payload", Malformation::OutOfRange));
            }
            kind if critical && !Self::is_known(kind) => {
                return Err(DecodeError::new(
                    "payload chain",
                    Malformation::UnsupportedCritical(kind),
                ));
            }
            kind => Self::Unknown(Unknown {
                kind,
                body: r.rest().to_vec(),
            }),
        };
        r.finish("payload")?;
        Ok(payload)
    }

    fn encode_body(&self, w: &mut Writer) {
        match self {
            Self::Auth(auth) => auth.encode(w),
            Self::Certificate(certificate) => certificate.encode(w),
            Self::CertificateRequest(request) => request.encode(w),
            Self::Delete(delete) => delete.encode(w),
            Self::IdInitiator(id) | Self::IdResponder(id) => id.encode(w),
            Self::KeyExchange(ke) => ke.encode(w),
            Self::Nonce(nonce) => nonce.encode(w),
            Self::Notify(notify) => notify.encode(w),
            Self::SecurityAssociation(sa) => sa.encode(w),
            Self::TsInitiator(ts) | Self::TsResponder(ts) => ts.encode(w),
            Self::Unknown(unknown) => w.bytes(&unknown.body),
            Self::VendorId(id) => w.bytes(id),
        }
    }
}

/// The payloads of one message, in the order of the wire. Those that can occur only once do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payloads(Vec<Payload>);

/// An accessor for each payload that occurs at most once.
macro_rules! single {
    ($($(#[$meta:meta])* $name:ident: $variant:ident -> $type:ty,)*) => {
        $($(#[$meta])* pub fn $name(&self) -> Option<&$type> {
            self.0.iter().find_map(|payload| if let Payload::$variant(found) = payload { Some(found) } else { None })
        })*
    };
}

impl Payloads {
    /// Reads a chain that begins with a payload of type `first` and ends where `bytes` ends.
    pub fn decode(first: PayloadType, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let mut payloads = Vec::new();
        let mut kind = first;
        while kind != PayloadType::NONE {
            if payloads.len() == MAX_PAYLOADS {
                return Err(DecodeError::new("payload chain", Malformation::Limit));
            }
            let ChainItem { next, critical, body } = next_item(&mut r)?;
            if let Some(field) = single_name(kind)
                && payloads.iter().any(|payload: &Payload| payload.kind() == kind)
            {
                return Err(DecodeError::new(field, Malformation::Duplicate));
            }
            payloads.push(Payload::decode(kind, critical, body)?);
            kind = next;
        }
        r.finish("payload chain")?;
        Ok(Self(payloads))
    }

    single! {
        /// SA.
        security_association: SecurityAssociation -> SecurityAssociation,
        /// KE.
        key_exchange: KeyExchange -> KeyExchangeData,
        /// IDi.
        id_initiator: IdInitiator -> Identification,
        /// IDr.
        id_responder: IdResponder -> Identification,
        /// AUTH.
        auth: Auth -> Auth,
        /// Ni or Nr.
        nonce: Nonce -> Nonce,
        /// TSi.
        ts_initiator: TsInitiator -> TrafficSelectors,
        /// TSr.
        ts_responder: TsResponder -> TrafficSelectors,
    }

    /// All notifies.
    pub fn notifies(&self) -> impl Iterator<Item = &Notify> {
        self.0.iter().filter_map(|payload| {
            if let Payload::Notify(notify) = payload {
                Some(notify)
            } else {
                None
            }
        })
    }

    /// The first notify of a type.
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// The first notify that is an error.
    pub fn error_notify(&self) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    /// The same payloads, with other data in AUTH.
    pub(crate) fn with_auth_data(&self, data: &[u8]) -> Self {
        let mut payloads = self.clone();
        for payload in &mut payloads.0 {
            if let Payload::Auth(auth) = payload {
                data.clone_into(&mut auth.data);
            }
        }
        payloads
    }

    /// What a cookie is made of and compared with.
    pub(crate) fn glance(&self) -> Glance<'_> {
        Glance {
            cookie: self
                .notify(NotifyType::COOKIE)
                .map(|notify| notify.data.as_slice()),
            nonce: self.nonce().map(Nonce::as_bytes),
        }
    }

    /// All deletes.
    pub fn deletes(&self) -> impl Iterator<Item = &Delete> {
        self.0.iter().filter_map(|payload| {
            if let Payload::Delete(delete) = payload {
                Some(delete)
            } else {
                None
            }
        })
    }

    /// All certificates, in order: the leaf is first (RFC 7296 §3.6).
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter().filter_map(|payload| {
            if let Payload::Certificate(found) = payload {
                Some(found)
            } else {
                None
            }
        })
    }

    /// All certificate requests.
    pub fn certificate_requests(&self) -> impl Iterator<Item = &CertificateRequest> {
        self.0.iter().filter_map(|payload| {
            if let Payload::CertificateRequest(found) = payload {
                Some(found)
            } else {
                None
            }
        })
    }

    /// In the order of the wire.
    pub fn as_slice(&self) -> &[Payload] {
        &self.0
    }
}

impl From<Vec<Payload>> for Payloads {
    fn from(payloads: Vec<Payload>) -> Self {
        Self(payloads)
    }
}

/// One step along the chain.
pub(super) struct ChainItem<'a> {
    pub(super) next: PayloadType,
    pub(super) critical: bool,
    pub(super) body: &'a [u8],
}

/// Reads a generic payload header and takes the body that its length bounds.
pub(super) fn next_item<'a>(r: &mut Reader<'a>) -> Result<ChainItem<'a>, DecodeError> {
    let next = PayloadType(r.u8("payload.next_payload")?);
    let critical = r.u8("payload.critical")? & 0x80 != 0;
    let length = r.u16("payload.length")?;
    let body = r.nested(length, 4, "payload.length")?.rest();
    Ok(ChainItem { next, critical, body })
}

pub(super) fn encode_chain(payloads: &[Payload], w: &mut Writer) {
    let following = payloads
        .iter()
        .skip(1)
        .map(Payload::kind)
        .chain([PayloadType::NONE]);
    for (payload, next) in payloads.iter().zip(following) {
        w.u8(next.0);
        w.u8(0);
        w.sized_u16(2, "payload", |w| payload.encode_body(w));
    }
}

/// The name of a payload that occurs at most once in a message.
fn single_name(kind: PayloadType) -> Option<&'static str> {
    Some(match kind {
        PayloadType::SA => "SA payload",
        PayloadType::KE => "KE payload",
        PayloadType::IDI => "IDi payload",
        PayloadType::IDR => "IDr payload",
        PayloadType::AUTH => "AUTH payload",
        PayloadType::NONCE => "nonce payload",
        PayloadType::TSI => "TSi payload",
        PayloadType::TSR => "TSr payload",
        _ => return None,
    })
}
