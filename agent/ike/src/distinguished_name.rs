//! Distinguished names, the content of ID_DER_ASN1_DN (RFC 7296 §3.5): read strictly, compared as RFC 5280 §7.1 says, and
//! shown as RFC 4514 writes them.

use std::fmt;

use crate::der::{Der, OBJECT_IDENTIFIER, SEQUENCE};

/// No certificate authority writes longer names, and a peer's is read before it has proven anything.
const LONGEST: usize = 2048;

const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// Attribute types by the names of RFC 4514 §3, and the two more that certificates use.
const TYPES: [(&str, &[u8]); 11] = [
    ("CN", &[0x55, 4, 3]),
    ("SERIALNUMBER", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("EMAILADDRESS", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

/// A `Name` of RFC 5280 §4.1.2.4 in DER that is known to be one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistinguishedName {
    der: Vec<u8>,
}

/// One attribute: its type, and its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute<'a> {
    type_: &'a [u8],
    value: Value<'a>,
}

/// A value: text, however it is encoded, or bytes of a type that has no text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Text(&'a str),
    Other(u8, &'a [u8]),
}

/// Type, string type and content of an attribute, so that equal ones mean the same.
type Comparable<'a> = (&'a [u8], u8, Vec<u8>);

impl DistinguishedName {
    /// Reads a name. `None` for what is none, is empty, or is longer than 2048 bytes.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        if der.len() > LONGEST || relative_names(der)?.is_empty() {
            return None;
        }
        Some(Self { der: der.to_vec() })
    }

    /// The name as it is on the wire and in a certificate.
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// Whether two names mean the same (RFC 5280 §7.1): the same attributes in the same order, text compared without case
    /// and without superfluous spaces, in whatever string type it is. A certificate's subject is compared byte by byte
    /// instead (RFC 4945 §3.1).
    pub fn matches(&self, other: &Self) -> bool {
        self.comparable() == other.comparable()
    }

    fn comparable(&self) -> Vec<Vec<Comparable<'_>>> {
        let comparable = |attribute: Attribute<'_>| match attribute.value {
            Value::Text(text) => {
                let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
                (UTF8_STRING, words.join(" ").into_bytes())
            }
            Value::Other(tag, bytes) => (tag, bytes.to_vec()),
        };
        let mut names = Vec::new();
        for attributes in relative_names(&self.der).unwrap_or_default() {
            let mut name: Vec<_> = attributes
                .into_iter()
                .map(|attribute| {
                    let type_ = attribute.type_;
                    let (tag, value) = comparable(attribute);
                    (type_, tag, value)
                })
                .collect();
            // The members of a SET have no order of their own.
            name.sort();
            names.push(name);
        }
        names
    }
}

impl fmt::Display for DistinguishedName {
    /// The last relative name first (RFC 4514 §2.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = relative_names(&self.der).unwrap_or_default();
        for (number, attributes) in names.iter().rev().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            for (number, attribute) in attributes.iter().enumerate() {
                if number > 0 {
                    f.write_str("+")?;
                }
                attribute.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinguishedName({self})")
    }
}

impl fmt::Display for Attribute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(_, type_)| *type_ == self.type_) {
            Some((name, _)) => write!(f, "{name}=")?,
            None => write!(f, "{}=", Dotted(self.type_))?,
        }
        match self.value {
            Value::Text(text) => escaped(text, f),
            Value::Other(tag, bytes) => {
                write!(f, "#{tag:02x}{:02x}", bytes.len().min(255))?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// An object identifier as RFC 4512 §1.4 writes it.
struct Dotted<'a>(&'a [u8]);

impl fmt::Display for Dotted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut arc: u64 = 0;
        let mut first = true;
        for byte in self.0 {
            arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
            if byte & 0x80 != 0 {
                continue;
            }
            if std::mem::take(&mut first) {
                let root = (arc / 40).min(2);
                write!(f, "{root}.{}", arc - root * 40)?;
            } else {
                write!(f, ".{arc}")?;
            }
            arc = 0;
        }
        Ok(())
    }
}

/// RFC 4514 §2.4: what would end the value, or could not be read, is escaped.
fn escaped(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let last = text.chars().count().saturating_sub(1);
    for (position, character) in text.chars().enumerate() {
        let edge = position == 0 && "# ".contains(character) || position == last && character == ' ';
        if character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                write!(f, "\\{byte:02x}")?;
            }
        } else if edge || "\"+,;<>\\".contains(character) {
            write!(f, "\\{character}")?;
        } else {
            write!(f, "{character}")?;
        }
    }
    Ok(())
}

/// `Name ::= SEQUENCE OF SET OF SEQUENCE { type, value }`, all of it and nothing behind it.
fn relative_names(der: &[u8]) -> Option<Vec<Vec<Attribute<'_>>>> {
    let mut whole = Der::new(der);
    let mut name = whole.nested(SEQUENCE)?;
    whole.end()?;
    let mut names = Vec::new();
    while !name.is_empty() {
        let mut set = name.nested(SET)?;
        let mut attributes = Vec::new();
        while !set.is_empty() {
            attributes.push(attribute(set.nested(SEQUENCE)?)?);
        }
        if attributes.is_empty() {
            return None;
        }
        names.push(attributes);
    }
    Some(names)
}

fn attribute(mut pair: Der<'_>) -> Option<Attribute<'_>> {
    let type_ = pair.content(OBJECT_IDENTIFIER)?;
    let (tag, content) = pair.element()?;
    pair.end()?;
    let value = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => Value::Text(std::str::from_utf8(content).ok()?),
        tag => Value::Other(tag, content),
    };
    (!type_.is_empty()).then_some(Attribute { type_, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[(type, string tag, value)]`, one relative name each.
    fn name(parts: &[(&[u8], u8, &str)]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).expect("short");
            [&[tag, length][..], content].concat()
        };
        let sets: Vec<u8> = parts
            .iter()
            .flat_map(|(type_, tag, value)| {
                let pair = [wrap(OBJECT_IDENTIFIER, type_), wrap(*tag, value.as_bytes())].concat();
                wrap(SET, &wrap(SEQUENCE, &pair))
            })
            .collect();
        wrap(SEQUENCE, &sets)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    fn parsed(parts: &[(&[u8], u8, &str)]) -> DistinguishedName {
        DistinguishedName::from_der(&name(parts)).expect("a name")
    }

    #[test]
    fn text_is_compared_without_case_spaces_and_string_type() {
        let a = parsed(&[(O, PRINTABLE_STRING, "Example  Corp"), (CN, UTF8_STRING, "vpn")]);
        for (same, b) in [
            (
                true,
                parsed(&[(O, UTF8_STRING, " example corp"), (CN, IA5_STRING, "VPN")]),
            ),
            (
                false,
                parsed(&[(CN, UTF8_STRING, "vpn"), (O, UTF8_STRING, "Example Corp")]),
            ),
            (false, parsed(&[(O, UTF8_STRING, "Example Corp")])),
            (
                false,
                parsed(&[(O, UTF8_STRING, "ExampleCorp"), (CN, UTF8_STRING, "vpn")]),
            ),
            (
                false,
                parsed(&[(O, UTF8_STRING, "Example Corp"), (O, UTF8_STRING, "vpn")]),
            ),
            // A type without text is compared byte by byte.
            (
                false,
                parsed(&[(O, 0x04, "Example  Corp"), (CN, UTF8_STRING, "vpn")]),
            ),
        ] {
            assert_eq!(a.matches(&b), same, "{a} {b}");
            assert_eq!(b.matches(&a), same, "{b} {a}");
        }
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        let shown = |parts: &[(&[u8], u8, &str)]| parsed(parts).to_string();
        assert_eq!(
            shown(&[
                (O, PRINTABLE_STRING, "Example, Inc."),
                (CN, UTF8_STRING, " vpn\n")
            ]),
            "CN=\\ vpn\\0a,O=Example\\, Inc."
        );
        assert_eq!(
            shown(&[(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2], UTF8_STRING, "x")]),
            "1.2.840.113549.2=x"
        );
        assert_eq!(shown(&[(CN, 0x04, "ab")]), "CN=#04026162");
    }

    #[test]
    fn what_is_no_name_is_refused_at_every_length() {
        let good = name(&[(O, UTF8_STRING, "Example"), (CN, UTF8_STRING, "vpn")]);
        for length in 0..good.len() {
            assert_eq!(DistinguishedName::from_der(&good[..length]), None, "{length}");
        }
        let behind = [&good[..], &[0]].concat();
        let empty = [SEQUENCE, 0];
        let no_attribute = [SEQUENCE, 2, SET, 0];
        let long_length = [
            &[SEQUENCE, 0x81, u8::try_from(good.len() - 2).expect("short")],
            &good[2..],
        ]
        .concat();
        let not_text = name(&[(CN, UTF8_STRING, "abc")])
            .iter()
            .map(|b| if *b == b'b' { 0xff } else { *b })
            .collect();
        let huge = [&[SEQUENCE, 0x82, 0xff, 0xff][..], &vec![0; 0xffff]].concat();
        for bad in [
            behind,
            empty.to_vec(),
            no_attribute.to_vec(),
            long_length,
            not_text,
            huge,
        ] {
            assert_eq!(DistinguishedName::from_der(&bad), None, "{bad:02x?}");
        }
    }
}
