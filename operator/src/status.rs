//! Conditions: from verdicts to what is written, without a change where nothing changed.

use std::fmt::Display;

use ipsecmesh_crds::condition::{self, ConditionType, Finding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The API server takes up to 32768 bytes; nobody reads that much.
const MAX_MESSAGE: usize = 1024;

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Truth {
    /// `False`
    False,
    /// `True`
    True,
    /// `Unknown`
    Unknown,
}

/// What a look at an object says about one condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The condition's type.
    pub(crate) type_: ConditionType,
    /// Its status.
    pub(crate) truth: Truth,
    /// A word in CamelCase.
    pub(crate) reason: String,
    /// For a person: what is wrong with which node or pair, and what to do.
    pub(crate) message: String,
}

impl Verdict {
    /// A verdict.
    #[expect(clippy::needless_pass_by_value, reason = "messages are made for the verdict")]
    pub(crate) fn new(type_: ConditionType, truth: Truth, reason: &str, message: String) -> Self {
        Self {
            type_,
            truth,
            reason: reason.to_owned(),
            message: message.chars().take(MAX_MESSAGE).collect(),
        }
    }
}

/// The conditions for `verdicts`, in their order ([`condition::merge`]).
pub(crate) fn merge(
    before: &[Condition],
    verdicts: &[Verdict],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    // The API server keeps whole seconds: written finer, the same condition would never compare equal.
    let seconds = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let findings: Vec<Finding> = verdicts.iter().map(Finding::from).collect();
    condition::merge(before, &findings, generation, &seconds)
}

impl From<&Verdict> for Finding {
    fn from(verdict: &Verdict) -> Self {
        Self {
            type_: verdict.type_,
            holds: match verdict.truth {
                Truth::False => Some(false),
                Truth::True => Some(true),
                Truth::Unknown => None,
            },
            reason: verdict.reason.clone(),
            message: verdict.message.clone(),
        }
    }
}

/// The message about fields whose behaviour is not live yet, if there are any.
pub(crate) fn unsupported<T: Display>(fields: impl IntoIterator<Item = T>) -> Option<String> {
    let fields: Vec<String> = fields.into_iter().map(|field| field.to_string()).collect();
    (!fields.is_empty()).then(|| fields.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_gives_the_same_conditions() {
        let verdicts = [Verdict::new(
            ConditionType::Ready,
            Truth::True,
            "Ready",
            String::new(),
        )];
        let first = merge(
            &[],
            &verdicts,
            Some(1),
            Timestamp::from_second(100).expect("time"),
        );
        let second = merge(
            &first,
            &verdicts,
            Some(1),
            Timestamp::from_second(200).expect("time"),
        );
        assert_eq!(first, second);
        let changed = [Verdict::new(
            ConditionType::Ready,
            Truth::False,
            "AgentsNotReady",
            String::new(),
        )];
        let third = merge(
            &second,
            &changed,
            Some(1),
            Timestamp::from_second(300).expect("time"),
        );
        assert_eq!(third[0].last_transition_time.0.as_second(), 300);
    }
}
