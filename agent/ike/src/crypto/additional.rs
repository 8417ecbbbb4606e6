//! Additional key exchanges (RFC 9370): their negotiation, and the two halves of one whatever its kind.

use super::error::CryptoError;
use super::negotiate::NotOffered;
use super::provider::{ActiveKeyExchange, Decapsulator, Provider};
use super::secret::Secret;
use crate::config::{AdditionalKeyExchange, AdditionalKeyExchanges};
use crate::wire::{Proposal, Transform, TransformType};

/// The initiator's half.
pub enum StartedKeyExchange {
    /// Of a key encapsulation mechanism.
    Kem(Box<dyn Decapsulator>),
    /// Of a method that can stand alone as well.
    Method(Box<dyn ActiveKeyExchange>),
}

impl StartedKeyExchange {
    /// What it is.
    pub fn method(&self) -> AdditionalKeyExchange {
        match self {
            Self::Kem(started) => AdditionalKeyExchange::Kem(started.kem()),
            Self::Method(started) => AdditionalKeyExchange::Method(started.method()),
        }
    }

    /// What goes into the KE payload of the request.
    pub fn public_value(&self) -> &[u8] {
        match self {
            Self::Kem(started) => started.public_key(),
            Self::Method(started) => started.public_value(),
        }
    }

    /// The shared secret, from the KE payload of the response.
    pub fn complete(&self, data: &[u8]) -> Result<Secret, CryptoError> {
        match self {
            Self::Kem(started) => started.decapsulate(data),
            Self::Method(started) => started.complete(data),
        }
    }
}

impl Provider {
    /// Begins one as initiator.
    pub fn start_additional(&self, method: AdditionalKeyExchange) -> Result<StartedKeyExchange, CryptoError> {
        match method {
            AdditionalKeyExchange::Kem(kem) => {
                self.kem.generate(kem, self.random).map(StartedKeyExchange::Kem)
            }
            AdditionalKeyExchange::Method(method) => self
                .key_exchange
                .start(method, self.random)
                .map(StartedKeyExchange::Method),
        }
    }

    /// The responder's half: what goes into the KE payload of the response, and the shared secret.
    pub fn answer_additional(
        &self,
        method: AdditionalKeyExchange,
        data: &[u8],
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        match method {
            AdditionalKeyExchange::Kem(kem) => self.kem.encapsulate(kem, data, self.random),
            AdditionalKeyExchange::Method(method) => {
                let ours = self.key_exchange.start(method, self.random)?;
                let shared = ours.complete(data)?;
                Ok((ours.public_value().to_vec(), shared))
            }
        }
    }
}

/// The transforms that offer all of `ours`: the first as ADDKE1, and so on.
pub(super) fn offer(ours: &AdditionalKeyExchanges) -> impl Iterator<Item = Transform> {
    TransformType::ADDITIONAL
        .into_iter()
        .zip(ours.iter())
        .map(|(kind, method)| Transform::additional(kind, method))
}

/// The types of [`offer`].
pub(super) fn types(ours: &AdditionalKeyExchanges) -> impl Iterator<Item = TransformType> {
    TransformType::ADDITIONAL.into_iter().take(ours.iter().count())
}

/// What to answer to an offer: all of ours in our order, each under the first type where the peer has it, and "none" for
/// the types in between. `None` is "no match": ours are a must, and so are the peer's types without "none"
/// (RFC 9370 §2.2.1). Since ours are all different, so are those of the answer.
pub(super) fn select(ours: &AdditionalKeyExchanges, theirs: &Proposal) -> Option<Vec<Transform>> {
    let mut left = ours.iter().peekable();
    let mut chosen = Vec::new();
    for kind in TransformType::ADDITIONAL {
        if theirs.of_kind(kind).next().is_none() {
            continue;
        }
        let wanted = left.peek().map(|method| Transform::additional(kind, *method));
        let none = Transform::new(kind, 0);
        match wanted.filter(|wanted| theirs.transforms.contains(wanted)) {
            Some(wanted) => {
                left.next();
                chosen.push(wanted);
            }
            None if theirs.transforms.contains(&none) => chosen.push(none),
            None => return None,
        }
    }
    left.next().is_none().then_some(chosen)
}

/// Whether a response has all that was offered.
pub(super) fn confirm(offered: &AdditionalKeyExchanges, response: &Proposal) -> Result<(), NotOffered> {
    if offer(offered).all(|transform| response.transforms.contains(&transform)) {
        Ok(())
    } else {
        Err(NotOffered("additional key exchanges not as offered"))
    }
}
