//! As much of DER (X.690) as public keys and algorithm identifiers need: elements of a known tag with a minimal definite
//! length, one after the other. What is not that is `None`; nothing panics.

/// SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// BIT STRING.
pub(crate) const BIT_STRING: u8 = 0x03;
/// NULL.
pub(crate) const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER.
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;

/// What is left to read of one structure.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The content of the next element, which has to have this tag.
    pub(crate) fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() != Some(&tag) {
            return None;
        }
        self.element().map(|(_, content)| content)
    }

    /// Tag and content of the next element, whatever it is.
    pub(crate) fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match (first, rest) {
            (0..=0x7f, _) => (usize::from(first), rest),
            (0x81, [length, rest @ ..]) if *length >= 0x80 => (usize::from(*length), rest),
            (0x82, [high, low, rest @ ..]) if *high > 0 => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element as a structure of its own.
    pub(crate) fn nested(&mut self, tag: u8) -> Option<Self> {
        self.content(tag).map(Self)
    }

    /// NULL, or nothing at all, as RFC 4055 §2.1 and §5 leave it to the sender of some parameters; then the end.
    pub(crate) fn null_or_end(mut self) -> Option<()> {
        if !self.0.is_empty() && !self.content(NULL)?.is_empty() {
            return None;
        }
        self.end()
    }

    /// The structure ends here.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// Whether the structure ends here.
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}
