//! Fragments that the peer sealed become one message again (RFC 7383 §2.6): bounded, and of one request and one response
//! at a time.

use std::collections::BTreeMap;
use std::fmt;

use super::protected::{Fragment, IntegrityChecked, Opened};
use crate::wire::{Header, PayloadType};

/// More fragments are not taken: a long chain of certificates has fewer at the smallest MTU of IPv4.
const MAX_FRAGMENTS: u16 = 64;

/// A longer message is not taken.
const MAX_LENGTH: usize = 16 * 1024;

/// The fragments of the request or response that the window lets in; those of another one take its place.
#[derive(Default)]
pub(super) struct Reassembly {
    header: Option<Header>,
    total: u16,
    first_payload: Option<PayloadType>,
    parts: BTreeMap<u16, Vec<u8>>,
    length: usize,
}

impl Reassembly {
    /// Keeps a fragment; gives the message that it completes.
    pub(super) fn add(&mut self, fragment: IntegrityChecked<Fragment>) -> Option<IntegrityChecked<Opened>> {
        fragment.map(|fragment| self.keep(fragment)).transpose()
    }

    fn keep(&mut self, fragment: Fragment) -> Option<Opened> {
        let (number, total) = (fragment.position.number(), fragment.position.total());
        if total > MAX_FRAGMENTS {
            return None;
        }
        // More fragments than before: the sender has begun again with smaller ones (RFC 7383 §2.6).
        if self.header != Some(fragment.header) || total > self.total {
            *self = Self {
                header: Some(fragment.header),
                total,
                ..Self::default()
            };
        }
        if total < self.total || self.parts.contains_key(&number) {
            return None;
        }
        self.length += fragment.content.len();
        if self.length > MAX_LENGTH {
            *self = Self::default();
            return None;
        }
        if number == 1 {
            self.first_payload = Some(fragment.first_payload);
        }
        self.parts.insert(number, fragment.content);
        if self.parts.len() < usize::from(total) {
            return None;
        }
        let done = std::mem::take(self);
        let content: Vec<u8> = done.parts.into_values().flatten().collect();
        Some(Opened::new(fragment.header, done.first_payload?, &content))
    }
}

impl fmt::Debug for Reassembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reassembly({} of {} fragments)", self.parts.len(), self.total)
    }
}
