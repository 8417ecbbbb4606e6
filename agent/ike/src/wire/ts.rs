//! The Traffic Selector payloads (RFC 7296 §3.13).

use std::net::IpAddr;

use super::SelectorType;
use super::error::{DecodeError, Malformation};
use super::reader::Reader;
use super::writer::Writer;
use crate::config::TrafficSelector;

/// TSi or TSr: at least one selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelectors {
    /// In the order of the wire.
    pub selectors: Vec<Selector>,
}

/// One selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A range of addresses.
    Ip(TrafficSelector),
    /// A type that we do not know: never chosen.
    Other {
        /// The type.
        kind: SelectorType,
        /// The byte that is the protocol of the types that we know.
        protocol: u8,
        /// What follows the length field.
        body: Vec<u8>,
    },
}

impl TrafficSelectors {
    /// The selectors that we can enforce.
    pub fn ip(&self) -> impl Iterator<Item = &TrafficSelector> {
        self.selectors.iter().filter_map(|selector| match selector {
            Selector::Ip(selector) => Some(selector),
            Selector::Other { .. } => None,
        })
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.u8("TS.count")?;
        r.array::<3>("TS.reserved")?;
        if count == 0 {
            return Err(DecodeError::new("TS.count", Malformation::OutOfRange));
        }
        let mut selectors = Vec::new();
        for _ in 0..count {
            selectors.push(Selector::decode(r)?);
        }
        Ok(Self { selectors })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.count_u8(self.selectors.len(), "TS.count");
        w.bytes(&[0; 3]);
        for selector in &self.selectors {
            selector.encode(w);
        }
    }
}

impl FromIterator<TrafficSelector> for TrafficSelectors {
    fn from_iter<I: IntoIterator<Item = TrafficSelector>>(selectors: I) -> Self {
        Self {
            selectors: selectors.into_iter().map(Selector::Ip).collect(),
        }
    }
}

impl Selector {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = SelectorType(r.u8("TS.type")?);
        let protocol = r.u8("TS.protocol")?;
        let length = r.u16("TS.length")?;
        let mut r = r.nested(length, 4, "TS.length")?;
        let selector = match kind {
            SelectorType::IPV4_ADDR_RANGE => Self::Ip(decode_range::<4>(protocol, &mut r)?),
            SelectorType::IPV6_ADDR_RANGE => Self::Ip(decode_range::<16>(protocol, &mut r)?),
            kind => Self::Other {
                kind,
                protocol,
                body: r.rest().to_vec(),
            },
        };
        r.finish("TS.length")?;
        Ok(selector)
    }

    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Ip(selector) => {
                let kind = match selector.first_address {
                    IpAddr::V4(_) => SelectorType::IPV4_ADDR_RANGE,
                    IpAddr::V6(_) => SelectorType::IPV6_ADDR_RANGE,
                };
                w.u8(kind.0);
                w.u8(selector.protocol);
                w.sized_u16(2, "TS", |w| {
                    w.u16(selector.first_port);
                    w.u16(selector.last_port);
                    for address in [selector.first_address, selector.last_address] {
                        match address {
                            IpAddr::V4(address) => w.bytes(&address.octets()),
                            IpAddr::V6(address) => w.bytes(&address.octets()),
                        }
                    }
                });
            }
            Self::Other { kind, protocol, body } => {
                w.u8(kind.0);
                w.u8(*protocol);
                w.sized_u16(2, "TS", |w| w.bytes(body));
            }
        }
    }
}

/// The ports may be out of order: 65535–0 is OPAQUE (RFC 4301 §4.4.1.1). The addresses may not.
fn decode_range<const N: usize>(protocol: u8, r: &mut Reader<'_>) -> Result<TrafficSelector, DecodeError>
where
    IpAddr: From<[u8; N]>,
{
    let first_port = r.u16("TS.first_port")?;
    let last_port = r.u16("TS.last_port")?;
    let first_address = IpAddr::from(r.array::<N>("TS.first_address")?);
    let last_address = IpAddr::from(r.array::<N>("TS.last_address")?);
    if first_address > last_address {
        return Err(DecodeError::new("TS.last_address", Malformation::OutOfRange));
    }
    Ok(TrafficSelector {
        protocol,
        first_port,
        last_port,
        first_address,
        last_address,
    })
}
