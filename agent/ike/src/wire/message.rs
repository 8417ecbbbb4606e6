//! Whole messages: the header and what follows it, in clear or sealed.

use super::error::{DecodeError, EncodeError, Malformation};
use super::fragment::{FragmentEnvelope, FragmentPosition};
use super::header::{HEADER_LENGTH, Header};
use super::notify::Notify;
use super::payload::{ChainItem, MAX_PAYLOADS, Payload, Payloads, encode_chain, next_item};
use super::reader::Reader;
use super::writer::Writer;
use super::{NotifyType, PayloadType};

/// Bytes of an SK payload in front of what is sealed.
pub(crate) const SK_HEAD: usize = 4;
/// Bytes of an SKF payload in front of what is sealed.
pub(crate) const SKF_HEAD: usize = 8;

/// A datagram whose header has been read and whose length has been checked; nothing else of it yet.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    first: PayloadType,
    chain: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the header. Other major versions pass, so that they can be answered; [`Message::body`] refuses them.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(datagram);
        let (header, first, length) = Header::decode(&mut r)?;
        match usize::try_from(length) {
            Ok(length) if length == datagram.len() => Ok(Self {
                header,
                first,
                chain: r.rest(),
            }),
            Ok(length) if length < datagram.len() => Err(DecodeError::new("message", Malformation::Trailing)),
            _ => Err(DecodeError::new("message", Malformation::Truncated)),
        }
    }

    /// Reads what follows the header: payloads in clear, or where the sealed part is.
    pub fn body(&self) -> Result<Body, DecodeError> {
        if self.header.version.major() != 2 {
            return Err(DecodeError::new("header.version", Malformation::OutOfRange));
        }
        match self.find_envelope()? {
            Some(body) => Ok(body),
            None => Payloads::decode(self.first, self.chain).map(Body::Plain),
        }
    }

    /// What a request to begin shows at first glance, without a copy of anything.
    pub(crate) fn glance(&self) -> Result<Glance<'a>, DecodeError> {
        let mut r = Reader::new(self.chain);
        let mut kind = self.first;
        let mut glance = Glance::default();
        for _ in 0..=MAX_PAYLOADS {
            if kind == PayloadType::NONE {
                return Ok(glance);
            }
            let item = next_item(&mut r)?;
            if kind == PayloadType::NONCE {
                glance.nonce = Some(item.body);
            } else if kind == PayloadType::NOTIFY {
                let (notify, data) = Notify::glance(item.body)?;
                if notify == NotifyType::COOKIE && glance.cookie.is_none() {
                    glance.cookie = Some(data);
                }
            }
            kind = item.next;
        }
        Err(DecodeError::new("payload chain", Malformation::Limit))
    }

    /// SK and SKF are the last payload where they occur (RFC 7296 §3.14). Payloads in front of them are covered by
    /// the integrity check but mean nothing to us: unknown critical ones are an error, all others are skipped.
    fn find_envelope(&self) -> Result<Option<Body>, DecodeError> {
        let mut r = Reader::new(self.chain);
        let mut kind = self.first;
        for _ in 0..=MAX_PAYLOADS {
            if kind == PayloadType::NONE {
                return Ok(None);
            }
            let ChainItem { next, critical, body } = next_item(&mut r)?;
            if kind == PayloadType::SK || kind == PayloadType::SKF {
                r.finish("encrypted payload")?;
                let start = HEADER_LENGTH + self.chain.len() - body.len();
                let envelope = Envelope { first: next, start };
                return if kind == PayloadType::SK {
                    Ok(Some(Body::Protected(envelope)))
                } else {
                    FragmentEnvelope::decode(envelope, body).map(|fragment| Some(Body::Fragment(fragment)))
                };
            }
            if critical && !Payload::is_known(kind) {
                return Err(DecodeError::new(
                    "payload chain",
                    Malformation::UnsupportedCritical(kind),
                ));
            }
            kind = next;
        }
        Err(DecodeError::new("payload chain", Malformation::Limit))
    }
}

/// What a cookie is made of and compared with (RFC 7296 §2.6).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glance<'a> {
    pub(crate) cookie: Option<&'a [u8]>,
    pub(crate) nonce: Option<&'a [u8]>,
}

/// What follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A sealed fragment (RFC 7383).
    Fragment(FragmentEnvelope),
    /// Payloads in clear, as only IKE_SA_INIT and errors without an SA have them.
    Plain(Payloads),
    /// Sealed payloads.
    Protected(Envelope),
}

/// Where the sealed part of a message lies (RFC 7296 §3.14): IV, ciphertext and check value from `start` to the end of
/// the datagram, authenticated together with everything in front (RFC 5282 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub(crate) first: PayloadType,
    pub(crate) start: usize,
}

/// A message in clear.
pub fn encode(header: &Header, payloads: &[Payload]) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::default();
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    encode_header(header, first, &mut w, |w| encode_chain(payloads, w));
    w.finish()
}

/// The chain of payloads as it is before it is sealed.
pub(crate) fn encode_content(payloads: &[Payload]) -> Result<Vec<u8>, EncodeError> {
    let mut inner = Writer::default();
    encode_chain(payloads, &mut inner);
    inner.finish()
}

/// The header of a message and the head of its SK payload, or of its SKF payload when it is a fragment
/// (RFC 7383 §2.5), to which the caller appends exactly `sealed_length` bytes. `first` is the type of the first payload
/// inside.
pub(crate) fn encode_sealed_head(
    header: &Header,
    first: PayloadType,
    fragment: Option<FragmentPosition>,
    sealed_length: usize,
) -> Result<Vec<u8>, EncodeError> {
    let (kind, head) = match fragment {
        None => (PayloadType::SK, SK_HEAD),
        Some(_) => (PayloadType::SKF, SKF_HEAD),
    };
    let too_long = EncodeError {
        field: "encrypted payload",
    };
    let payload_length = u16::try_from(sealed_length + head).map_err(|_| too_long)?;
    let mut w = Writer::default();
    encode_header(header, kind, &mut w, |w| {
        w.u8(first.0);
        w.u8(0);
        w.u16(payload_length);
        if let Some(position) = fragment {
            w.u16(position.number());
            w.u16(position.total());
        }
    });
    let mut datagram = w.finish()?;
    let total = datagram.len() + sealed_length;
    patch_length(&mut datagram, total)?;
    Ok(datagram)
}

/// Sets the length field of a message.
fn patch_length(datagram: &mut [u8], total: usize) -> Result<(), EncodeError> {
    let too_long = EncodeError { field: "message" };
    let total = u32::try_from(total).map_err(|_| too_long)?;
    datagram
        .get_mut(HEADER_LENGTH - 4..HEADER_LENGTH)
        .ok_or(too_long)?
        .copy_from_slice(&total.to_be_bytes());
    Ok(())
}

fn encode_header(header: &Header, first: PayloadType, w: &mut Writer, chain: impl FnOnce(&mut Writer)) {
    w.u64(header.initiator_spi.value());
    w.u64(header.responder_spi.map_or(0, crate::types::IkeSpi::value));
    w.u8(first.0);
    w.u8(header.version.0);
    w.u8(header.exchange.0);
    w.u8(header.flags.value());
    w.u32(header.message_id.0);
    w.sized_u32(HEADER_LENGTH - 4, "message", chain);
}
