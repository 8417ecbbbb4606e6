//! Durations and byte counts as they are written in the API, parsed once.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// What a duration looks like in the API, in whole hours, minutes and seconds.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s)){1,3}$";

/// A value that is not what its field wants. The message names the value and gives an example.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not one to three groups of at most five digits and a unit.
    #[error("{0:?} is not a duration: write whole hours, minutes and seconds, such as 24h, 90m or 1h30m")]
    Duration(String),
    /// Not a quantity, not a whole number of bytes, or more than 2^64 - 1.
    #[error("{0:?} is not a number of bytes: write a whole number with a suffix, such as 64Gi or 500M")]
    Bytes(String),
}

/// A duration of whole seconds, written as `24h` or `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiDuration {
    seconds: u32,
}

impl ApiDuration {
    /// A duration of this many seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        Self { seconds }
    }

    /// A duration of this many minutes.
    pub const fn from_mins(minutes: u32) -> Self {
        Self {
            seconds: minutes * 60,
        }
    }

    /// A duration of this many hours.
    pub const fn from_hours(hours: u32) -> Self {
        Self {
            seconds: hours * 3600,
        }
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u32 {
        self.seconds
    }

    /// As the standard library's type.
    pub const fn to_std(self) -> Duration {
        Duration::from_secs(self.seconds as u64)
    }
}

impl From<ApiDuration> for Duration {
    fn from(duration: ApiDuration) -> Self {
        duration.to_std()
    }
}

impl FromStr for ApiDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_duration(text).ok_or_else(|| UnitError::Duration(text.to_owned()))
    }
}

impl fmt::Display for ApiDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        for (count, unit) in [(hours, 'h'), (minutes, 'm'), (seconds, 's')] {
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        if self.seconds == 0 {
            f.write_str("0s")
        } else {
            Ok(())
        }
    }
}

/// A number of bytes, written as a Kubernetes quantity such as `64Gi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteQuantity {
    bytes: u64,
}

impl ByteQuantity {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Bytes.
    pub const fn as_bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for ByteQuantity {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_bytes(text)
            .map(Self::from_bytes)
            .ok_or_else(|| UnitError::Bytes(text.to_owned()))
    }
}

impl fmt::Display for ByteQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = BINARY_SUFFIXES
            .iter()
            .rev()
            .find(|(_, shift)| self.bytes > 0 && self.bytes.trailing_zeros() >= *shift);
        match suffix {
            Some((suffix, shift)) => write!(f, "{}{suffix}", self.bytes >> shift),
            None => write!(f, "{}", self.bytes),
        }
    }
}

/// How long until something expires, in one coarse unit (`364d`, `23h`, `12m`), so that a status which holds it changes rarely.
pub fn coarse(remaining: Duration) -> String {
    let seconds = remaining.as_secs();
    match seconds {
        0 => "expired".to_owned(),
        1..3600 => format!("{}m", seconds.div_ceil(60)),
        3600..172_800 => format!("{}h", seconds / 3600),
        172_800.. => format!("{}d", seconds / 86_400),
    }
}

fn parse_duration(text: &str) -> Option<ApiDuration> {
    let mut seconds: u32 = 0;
    let mut groups = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let factor = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        if !(1..=5).contains(&digits) {
            return None;
        }
        groups += 1;
        seconds = seconds.checked_add(rest[..digits].parse::<u32>().ok()? * factor)?;
        rest = &rest[digits + 1..];
    }
    (1..=3).contains(&groups).then_some(ApiDuration { seconds })
}

const BINARY_SUFFIXES: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

const DECIMAL_SUFFIXES: [(&str, i32); 9] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// The grammar of Kubernetes' `resource.Quantity`, restricted to whole, non-negative results.
fn parse_bytes(text: &str) -> Option<u64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let mantissa: u128 = digits.parse().ok()?;
    let point = -i32::try_from(fraction.len()).ok()?;
    let bytes = match BINARY_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        Some((_, shift)) => scale(mantissa.checked_mul(1 << shift)?, point)?,
        None => scale(mantissa, point.checked_add(decimal_exponent(suffix)?)?)?,
    };
    u64::try_from(bytes).ok()
}

fn decimal_exponent(suffix: &str) -> Option<i32> {
    if suffix.is_empty() {
        return Some(0);
    }
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some(*exponent);
    }
    suffix.strip_prefix(['e', 'E'])?.parse().ok()
}

/// `mantissa × 10^exponent`, if that is a whole number.
fn scale(mantissa: u128, exponent: i32) -> Option<u128> {
    if mantissa == 0 {
        return Some(0);
    }
    let factor = 10u128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 {
        mantissa.checked_mul(factor)
    } else {
        mantissa.is_multiple_of(factor).then(|| mantissa / factor)
    }
}

impl Serialize for ApiDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for ByteQuantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteQuantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ApiDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 18, "pattern": DURATION_PATTERN})
    }
}

impl JsonSchema for ByteQuantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds, canonical) in [
            ("24h", 86_400, "24h"),
            ("90m", 5_400, "1h30m"),
            ("1h30m15s", 5_415, "1h30m15s"),
            ("0s", 0, "0s"),
            ("2184h", 7_862_400, "2184h"),
        ] {
            let parsed: ApiDuration = text.parse().expect(text);
            assert_eq!(
                (parsed.as_secs(), parsed.to_string().as_str()),
                (seconds, canonical)
            );
        }
        for text in [
            "", "1", "h", "1d", "1.5h", "-1h", "123456s", "1h1m1s1s", "1h ", "h1",
        ] {
            assert_eq!(
                text.parse::<ApiDuration>(),
                Err(UnitError::Duration(text.to_owned()))
            );
        }
        assert!(
            "1d".parse::<ApiDuration>()
                .expect_err("no days")
                .to_string()
                .starts_with("\"1d\" is not a duration")
        );
    }

    #[test]
    fn byte_counts() {
        for (text, bytes, canonical) in [
            ("64Gi", 64 << 30, "64Gi"),
            ("1Mi", 1 << 20, "1Mi"),
            ("1.5Gi", 3 << 29, "1536Mi"),
            ("500M", 500_000_000, "500M_"),
            ("1e6", 1_000_000, "1000000_"),
            ("1048576000m", 1_048_576, "1Mi"),
            ("+7", 7, "7"),
            ("0", 0, "0"),
        ] {
            let parsed: ByteQuantity = text.parse().expect(text);
            assert_eq!(parsed.as_bytes(), bytes, "{text}");
            let again: ByteQuantity = parsed.to_string().parse().expect("what we write, we read");
            assert_eq!(again, parsed);
            if !canonical.ends_with('_') {
                assert_eq!(parsed.to_string(), canonical);
            }
        }
        for text in [
            "", ".", "12Q", "Gi", "1.2.3", "-1", "1m", "1.5", "99999Ei", "1e40", "1 Gi",
        ] {
            assert_eq!(
                text.parse::<ByteQuantity>(),
                Err(UnitError::Bytes(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn coarse_units() {
        for (seconds, text) in [
            (0, "expired"),
            (59, "1m"),
            (3599, "60m"),
            (3600, "1h"),
            (86_400, "24h"),
            (31_500_000, "364d"),
        ] {
            assert_eq!(coarse(Duration::from_secs(seconds)), text);
        }
    }
}
