//! Conditions: their types, and the merge that keeps the time of the last transition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The spec is valid and its behaviour is live.
    Accepted,
    /// The node has a certificate (`IPsecNode`).
    CertificateReady,
    /// The node can protect traffic (`IPsecNode`).
    DataplaneReady,
    /// Something works less well than it should; only while true.
    Degraded,
    /// Cleartext is no longer possible.
    Enforced,
    /// The root expires soon; only while true.
    ExpiringSoon,
    /// Every selected node has every policy.
    Programmed,
    /// The summary.
    Ready,
    /// Work is in progress; only while true (kstatus).
    Reconciling,
    /// All references were found.
    ResolvedRefs,
    /// A rotation runs; only while true.
    Rotating,
    /// Nothing will happen until the user acts; only while true (kstatus).
    Stalled,
}

impl ConditionType {
    /// As written in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::CertificateReady => "CertificateReady",
            Self::DataplaneReady => "DataplaneReady",
            Self::Degraded => "Degraded",
            Self::Enforced => "Enforced",
            Self::ExpiringSoon => "ExpiringSoon",
            Self::Programmed => "Programmed",
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Rotating => "Rotating",
            Self::Stalled => "Stalled",
        }
    }
}

/// What is found about one condition; `None` is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition.
    pub type_: ConditionType,
    /// Whether it holds.
    pub holds: Option<bool>,
    /// Why, in `CamelCase`.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

/// The conditions after these findings. A condition whose status stays keeps its time; one without a finding goes.
pub fn merge(
    previous: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let one = |finding: &Finding| {
        let type_ = finding.type_.as_str();
        let status = match finding.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let same = previous
            .iter()
            .find(|old| old.type_ == type_ && old.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.clone(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: same.unwrap_or(&fresh(now)).last_transition_time.clone(),
        }
    };
    findings.iter().map(one).collect()
}

fn fresh(now: &Time) -> Condition {
    Condition {
        type_: String::new(),
        status: String::new(),
        reason: String::new(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: now.clone(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn the_time_changes_with_the_status_only() {
        let at = |second| Time(Timestamp::from_second(second).expect("in range"));
        let ready = |holds, reason: &str| {
            [Finding {
                type_: ConditionType::Ready,
                holds,
                reason: reason.into(),
                message: String::new(),
            }]
        };
        let first = merge(&[], &ready(None, "Waiting"), Some(1), &at(1));
        let second = merge(&first, &ready(None, "StillWaiting"), Some(2), &at(2));
        let third = merge(&second, &ready(Some(true), "Ready"), Some(2), &at(3));
        let times: Vec<_> = [&first, &second, &third]
            .iter()
            .map(|c| c[0].last_transition_time.clone())
            .collect();
        assert_eq!(times, [at(1), at(1), at(3)]);
        assert_eq!(
            (second[0].reason.as_str(), second[0].observed_generation),
            ("StillWaiting", Some(2))
        );
        assert!(merge(&third, &[], Some(3), &at(4)).is_empty());
    }
}
