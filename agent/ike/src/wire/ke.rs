//! The Key Exchange payload (RFC 7296 §3.4).

use super::KeyExchangeMethod;
use super::error::DecodeError;
use super::reader::Reader;
use super::writer::Writer;

/// A public value. Its length is judged by the method, in `crypto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyExchangeData {
    /// The method that it belongs to.
    pub method: KeyExchangeMethod,
    /// The public value.
    pub data: Vec<u8>,
}

impl KeyExchangeData {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let method = KeyExchangeMethod(r.u16("KE.method")?);
        r.u16("KE.reserved")?;
        Ok(Self {
            method,
            data: r.rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u16(self.method.0);
        w.u16(0);
        w.bytes(&self.data);
    }
}
