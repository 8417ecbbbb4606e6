//! Where a field stands in a file: the line of its value, found by reading the document again until the field comes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line of `field` in document `index` (from 0) of `text`, from 1: of its value, or of the deepest part of its path
/// that is there. `None` where the document is not YAML that far.
pub(super) fn line(text: &str, index: usize, field: &str) -> Option<usize> {
    let path = segments(field);
    let document = serde_yaml_ng::Deserializer::from_str(text).nth(index)?;
    let found = Finder { path: &path }.deserialize(document).err()?;
    found.location().map(|location| location.line())
}

#[derive(Debug, PartialEq, Eq)]
enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

/// `spec.traffic.selectors[0].protocol`.
fn segments(field: &str) -> Vec<Segment<'_>> {
    let mut segments = Vec::new();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        let (key, indexes) = part.split_once('[').unwrap_or((part, ""));
        segments.push(Segment::Key(key));
        let indexes = indexes
            .split('[')
            .filter_map(|index| index.trim_end_matches(']').parse().ok());
        segments.extend(indexes.map(Segment::Index));
    }
    segments
}

/// Reads until the path ends, and fails there: the error knows its place.
#[derive(Clone, Copy)]
struct Finder<'a> {
    path: &'a [Segment<'a>],
}

/// What the error says; nobody reads it.
const HERE: &str = "here";

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Some((Segment::Key(wanted), rest)) = self.path.split_first() {
            while let Some(key) = map.next_key::<serde_json::Value>()? {
                if key.as_str() == Some(*wanted) {
                    map.next_value_seed(Finder { path: rest })?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Err(A::Error::custom(HERE))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((Segment::Index(wanted), rest)) = self.path.split_first() {
            for _ in 0..*wanted {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Finder { path: rest })?;
        }
        Err(A::Error::custom(HERE))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(HERE))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom(HERE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# two documents
kind: A
spec:
  plain: 1
  flow: {a: 1,
    b: [x, {c: true}]}
---
kind: B
spec:
  text: |
    spec:
      plain: 2
  plain: null
";

    #[test]
    fn a_field_is_found_in_its_document_whatever_the_style() {
        for (index, field, expected) in [
            (0, "", 2),
            (0, "kind", 2),
            (0, "spec.plain", 4),
            (0, "spec.flow", 5),
            (0, "spec.flow.b[1].c", 6),
            // What is not there is missing in what is.
            (0, "spec.absent.deeper", 4),
            (0, "spec.flow.b[7]", 6),
            (1, "", 8),
            (1, "spec.plain", 13),
        ] {
            assert_eq!(line(TEXT, index, field), Some(expected), "{index} {field}");
        }
        assert_eq!(line(TEXT, 2, "spec"), None);
    }
}
