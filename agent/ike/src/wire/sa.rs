//! The Security Association payload: proposals, their transforms, the transforms' attributes (RFC 7296 §3.3).

use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::spi::Spi;
use super::writer::Writer;
use super::{AttributeType, Protocol, TransformType};

/// Proposals that one payload may have: their numbers are one byte and rise by one.
const MAX_PROPOSALS: usize = 255;

/// "More of them follow", in the first byte of a proposal and of a transform.
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const LAST: u8 = 0;

/// Set in an attribute's type when its value is the two bytes that follow (RFC 7296 §3.3.5).
const SHORT_FORMAT: u16 = 0x8000;

/// An SA payload: the offer, or in a response the one proposal that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// In order of the sender's preference.
    pub proposals: Vec<Proposal>,
}

/// One proposal: a protocol, the sender's SPI, and for each transform type the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// 1 for the first of an offer; the response repeats the number of the chosen one.
    pub number: u8,
    /// IKE or ESP.
    pub protocol: Protocol,
    /// Absent in IKE_SA_INIT.
    pub spi: Spi,
    /// Several of one type are alternatives.
    pub transforms: Vec<Transform>,
}

/// One algorithm. Two transforms are the same only when all of their attributes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// What kind of algorithm.
    pub kind: TransformType,
    /// Which, in the registry of its kind.
    pub id: u16,
    /// In the order of the wire.
    pub attributes: Vec<Attribute>,
}

/// An attribute of a transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Which.
    pub kind: AttributeType,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute, in either format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Type and value.
    Short(u16),
    /// Type, length and value.
    Long(Vec<u8>),
}

impl SecurityAssociation {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut proposals = Vec::new();
        let mut more = true;
        while more {
            if proposals.len() == MAX_PROPOSALS {
                return Err(DecodeError::new("SA.proposals", Malformation::Limit));
            }
            more = more_follow(r.u8("proposal.last")?, MORE_PROPOSALS, "proposal.last")?;
            r.u8("proposal.reserved")?;
            let length = r.u16("proposal.length")?;
            proposals.push(Proposal::decode(r.nested(length, 4, "proposal.length")?)?);
        }
        Ok(Self { proposals })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        let last = self.proposals.len().saturating_sub(1);
        for (index, proposal) in self.proposals.iter().enumerate() {
            w.u8(if index == last { LAST } else { MORE_PROPOSALS });
            w.u8(0);
            w.sized_u16(2, "proposal", |w| proposal.encode(w));
        }
    }
}

impl Proposal {
    /// The transforms of one type.
    pub fn of_kind(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms
            .iter()
            .filter(move |transform| transform.kind == kind)
    }

    fn decode(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let number = r.u8("proposal.number")?;
        let protocol = Protocol(r.u8("proposal.protocol")?);
        let spi_size = r.u8("proposal.spi_size")?;
        let count = usize::from(r.u8("proposal.transform_count")?);
        let spi = Spi::from_bytes(protocol, r.take(usize::from(spi_size), "proposal.spi")?);
        let mut transforms = Vec::new();
        while transforms.len() < count {
            let more = more_follow(r.u8("transform.last")?, MORE_TRANSFORMS, "transform.last")?;
            r.u8("transform.reserved")?;
            let length = r.u16("transform.length")?;
            transforms.push(Transform::decode(r.nested(length, 4, "transform.length")?)?);
            if more != (transforms.len() < count) {
                return Err(DecodeError::new(
                    "proposal.transform_count",
                    Malformation::OutOfRange,
                ));
            }
        }
        r.finish("proposal")?;
        Ok(Self {
            number,
            protocol,
            spi,
            transforms,
        })
    }

    fn encode(&self, w: &mut Writer) {
        w.u8(self.number);
        w.u8(self.protocol.0);
        w.count_u8(self.spi.len(), "proposal.spi");
        w.count_u8(self.transforms.len(), "proposal.transforms");
        self.spi.encode(w);
        let last = self.transforms.len().saturating_sub(1);
        for (index, transform) in self.transforms.iter().enumerate() {
            w.u8(if index == last { LAST } else { MORE_TRANSFORMS });
            w.u8(0);
            w.sized_u16(2, "transform", |w| transform.encode(w));
        }
    }
}

impl Transform {
    /// A transform without attributes.
    pub fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            attributes: Vec::new(),
        }
    }

    /// A transform whose key length in bits is negotiated.
    pub fn with_key_length(kind: TransformType, id: u16, bits: u16) -> Self {
        let key_length = Attribute {
            kind: AttributeType::KEY_LENGTH,
            value: AttributeValue::Short(bits),
        };
        Self {
            kind,
            id,
            attributes: vec![key_length],
        }
    }

    fn decode(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let kind = TransformType(r.u8("transform.type")?);
        r.u8("transform.reserved")?;
        let id = r.u16("transform.id")?;
        let mut attributes = Vec::new();
        while !r.is_empty() {
            attributes.push(Attribute::decode(&mut r)?);
        }
        Ok(Self { kind, id, attributes })
    }

    fn encode(&self, w: &mut Writer) {
        w.u8(self.kind.0);
        w.u8(0);
        w.u16(self.id);
        for attribute in &self.attributes {
            attribute.encode(w);
        }
    }
}

impl Attribute {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = r.u16("attribute.type")?;
        let value = if kind & SHORT_FORMAT != 0 {
            AttributeValue::Short(r.u16("attribute.value")?)
        } else {
            let length = r.u16("attribute.length")?;
            AttributeValue::Long(r.take(usize::from(length), "attribute.value")?.to_vec())
        };
        Ok(Self {
            kind: AttributeType(kind & !SHORT_FORMAT),
            value,
        })
    }

    fn encode(&self, w: &mut Writer) {
        match &self.value {
            AttributeValue::Short(value) => {
                w.u16(self.kind.0 | SHORT_FORMAT);
                w.u16(*value);
            }
            AttributeValue::Long(value) => {
                w.u16(self.kind.0 & !SHORT_FORMAT);
                w.count_u16(value.len(), "attribute");
                w.bytes(value);
            }
        }
    }
}

fn more_follow(byte: u8, more: u8, field: &'static str) -> Result<bool, DecodeError> {
    match byte {
        LAST => Ok(false),
        byte if byte == more => Ok(true),
        _ => Err(DecodeError::new(field, Malformation::OutOfRange)),
    }
}
