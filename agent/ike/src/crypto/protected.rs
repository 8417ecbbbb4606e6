//! Sealed messages (RFC 7296 §3.14), and the proof that one was opened.

use super::error::CryptoError;
use super::provider::Provider;
use super::reassembly::Reassembly;
use super::sealing::SealingKey;
use crate::wire::{
    Body, DecodeError, Envelope, ExchangeType, FragmentEnvelope, FragmentPosition, HEADER_LENGTH, Header,
    Message, Payload, PayloadType, Payloads, SK_HEAD, SKF_HEAD, encode_content, encode_sealed_head,
};

/// Proof that the peer sealed what is inside: nothing but [`Opener`] makes one.
#[derive(Debug)]
pub struct IntegrityChecked<T>(T);

impl<T> IntegrityChecked<T> {
    /// What was checked.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// What was checked, without the proof.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Something made of what was checked, which is therefore checked as well.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> IntegrityChecked<U> {
        IntegrityChecked(f(self.0))
    }

    /// Like [`IntegrityChecked::map`], for a conversion that can fail.
    pub fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<IntegrityChecked<U>, E> {
        f(self.0).map(IntegrityChecked)
    }
}

impl<T> IntegrityChecked<Option<T>> {
    /// What was checked, if there is anything.
    pub(super) fn transpose(self) -> Option<IntegrityChecked<T>> {
        self.0.map(IntegrityChecked)
    }
}

/// A message that the peer sealed.
#[derive(Debug)]
pub struct Opened {
    /// Its header, which the check covers.
    pub header: Header,
    /// Its payloads. The peer itself made them wrong where they do not parse: that is answered, not dropped.
    pub payloads: Result<Payloads, DecodeError>,
    /// The message as [`unsealed`] gives it, where it is one of IKE_INTERMEDIATE: AUTH covers that.
    pub intermediate: Option<Vec<u8>>,
}

impl Opened {
    pub(super) fn new(header: Header, first: PayloadType, content: &[u8]) -> Self {
        let covered = header.exchange == ExchangeType::IKE_INTERMEDIATE;
        Self {
            header,
            payloads: Payloads::decode(first, content),
            intermediate: covered
                .then(|| unsealed_content(&header, first, content))
                .flatten(),
        }
    }
}

/// A sealed message as AUTH covers it (RFC 9242 §3.3.2): header, head of the SK payload and payloads, with lengths as if
/// there were no IV, padding and check value.
pub fn unsealed(header: &Header, payloads: &[Payload]) -> Option<Vec<u8>> {
    let content = encode_content(payloads).ok()?;
    unsealed_content(header, first_of(payloads), &content)
}

fn unsealed_content(header: &Header, first: PayloadType, content: &[u8]) -> Option<Vec<u8>> {
    let mut message = encode_sealed_head(header, first, None, content.len()).ok()?;
    message.extend_from_slice(content);
    Some(message)
}

/// A fragment that the peer sealed (RFC 7383). Only in this form may a fragment be kept.
#[derive(Debug)]
pub struct Fragment {
    /// The header of the message that it is a part of.
    pub header: Header,
    /// Which part.
    pub position: FragmentPosition,
    /// Type of the message's first payload; counts in fragment number 1 only (RFC 7383 §2.5).
    pub first_payload: PayloadType,
    /// The part of the chain of payloads.
    pub content: Vec<u8>,
}

/// Seals our messages of one IKE SA. The explicit IV of a combined mode is a counter, so that no nonce occurs twice under
/// one key (RFC 5282 §3.1); a retransmission sends the bytes that were sealed before.
#[derive(Debug)]
pub struct Sealer {
    key: SealingKey,
    next_iv: u64,
    /// A longer message goes in fragments, where the peer takes them.
    longest: Option<usize>,
}

impl Sealer {
    pub(super) fn new(key: SealingKey) -> Self {
        Self {
            key,
            next_iv: 0,
            longest: None,
        }
    }

    /// The whole message in one datagram: header, SK payload, check value.
    pub fn seal(
        &mut self,
        provider: &Provider,
        header: &Header,
        payloads: &[Payload],
    ) -> Result<Vec<u8>, CryptoError> {
        let content = encode_content(payloads).map_err(|_| CryptoError::MessageTooLong)?;
        self.seal_part(provider, header, first_of(payloads), None, &content)
    }

    /// The message in one datagram, or in fragments (RFC 7383 §2.5) where both ends have agreed on them and one would be
    /// too long.
    pub fn seal_message(
        &mut self,
        provider: &Provider,
        header: &Header,
        payloads: &[Payload],
    ) -> Result<Vec<Vec<u8>>, CryptoError> {
        let content = encode_content(payloads).map_err(|_| CryptoError::MessageTooLong)?;
        let first = first_of(payloads);
        let whole = HEADER_LENGTH + SK_HEAD + self.key.sealed_length(content.len());
        let fits = |longest: usize| whole <= longest;
        let Some(longest) = self.longest.filter(|longest| !fits(*longest)) else {
            return Ok(vec![self.seal_part(provider, header, first, None, &content)?]);
        };
        let room = longest.saturating_sub(HEADER_LENGTH + SKF_HEAD);
        let room = self.key.room(room).max(1);
        let total = u16::try_from(content.len().div_ceil(room)).map_err(|_| CryptoError::MessageTooLong)?;
        let parts = (1..=total).zip(content.chunks(room)).map(|(number, part)| {
            let position = FragmentPosition::new(number, total).map_err(|_| CryptoError::MessageTooLong)?;
            let first = if number == 1 { first } else { PayloadType::NONE };
            self.seal_part(provider, header, first, Some(position), part)
        });
        parts.collect()
    }

    /// From now on messages of more than `longest` bytes go in fragments.
    pub(super) fn allow_fragments(&mut self, longest: usize) {
        self.longest = Some(longest);
    }

    /// The longest message that goes in one datagram, where the peer takes fragments.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.longest
    }

    fn seal_part(
        &mut self,
        provider: &Provider,
        header: &Header,
        first: PayloadType,
        fragment: Option<FragmentPosition>,
        content: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let counter = self.next_iv;
        self.next_iv = counter.checked_add(1).ok_or(CryptoError::KeyExhausted)?;
        let sealed_length = self.key.sealed_length(content.len());
        let mut datagram = encode_sealed_head(header, first, fragment, sealed_length)
            .map_err(|_| CryptoError::MessageTooLong)?;
        self.key.seal(provider, counter, &mut datagram, content)?;
        Ok(datagram)
    }
}

fn first_of(payloads: &[Payload]) -> PayloadType {
    payloads.first().map_or(PayloadType::NONE, Payload::kind)
}

/// Opens the peer's messages of one IKE SA.
#[derive(Debug)]
pub struct Opener {
    key: SealingKey,
    /// Fragments are welcome.
    fragments: Option<Directions>,
}

/// A request of the peer and its response to ours may come at the same time, and neither takes the other's place.
#[derive(Debug, Default)]
struct Directions {
    request: Reassembly,
    response: Reassembly,
}

impl Opener {
    pub(super) fn new(key: SealingKey) -> Self {
        Self { key, fragments: None }
    }

    /// From now on fragments are taken.
    pub(super) fn allow_fragments(&mut self) {
        self.fragments = Some(Directions::default());
    }

    /// Checks and decrypts a sealed message or one fragment of it; the message when it is complete.
    pub fn open_message(
        &mut self,
        provider: &Provider,
        datagram: &mut [u8],
        body: &Body,
    ) -> Result<Option<IntegrityChecked<Opened>>, CryptoError> {
        match body {
            Body::Protected(envelope) => self.open(provider, datagram, *envelope).map(Some),
            Body::Fragment(fragment) if self.fragments.is_some() => {
                let fragment = self.open_fragment(provider, datagram, *fragment)?;
                let response = fragment.get().header.flags.is_response();
                Ok(self.fragments.as_mut().and_then(|directions| {
                    let reassembly = if response {
                        &mut directions.response
                    } else {
                        &mut directions.request
                    };
                    reassembly.add(fragment)
                }))
            }
            // Fragments that were not agreed on, and what is in clear, are nobody's.
            Body::Fragment(_) | Body::Plain(_) => Err(CryptoError::Unauthenticated),
        }
    }

    /// Checks and decrypts a message in place. Every failure is the same [`CryptoError::Unauthenticated`].
    pub fn open(
        &self,
        provider: &Provider,
        datagram: &mut [u8],
        envelope: Envelope,
    ) -> Result<IntegrityChecked<Opened>, CryptoError> {
        let header = Message::parse(datagram)
            .map_err(|_| CryptoError::Unauthenticated)?
            .header;
        let content = self.decrypt(provider, datagram, envelope.start)?;
        Ok(IntegrityChecked(Opened::new(header, envelope.first, content)))
    }

    /// Checks and decrypts one fragment in place by its own check value, before anything of it is kept
    /// (RFC 7383 §2.6).
    pub fn open_fragment(
        &self,
        provider: &Provider,
        datagram: &mut [u8],
        fragment: FragmentEnvelope,
    ) -> Result<IntegrityChecked<Fragment>, CryptoError> {
        let header = Message::parse(datagram)
            .map_err(|_| CryptoError::Unauthenticated)?
            .header;
        let content = self
            .decrypt(provider, datagram, fragment.envelope.start)?
            .to_vec();
        let (position, first_payload) = (fragment.position, fragment.envelope.first);
        Ok(IntegrityChecked(Fragment {
            header,
            position,
            first_payload,
            content,
        }))
    }

    /// What lies between the IV and the padding.
    fn decrypt<'a>(
        &self,
        provider: &Provider,
        datagram: &'a mut [u8],
        start: usize,
    ) -> Result<&'a [u8], CryptoError> {
        self.key.open(provider, datagram, start)
    }
}
