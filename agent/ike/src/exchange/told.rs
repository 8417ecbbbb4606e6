//! What the peer's refusals mean to people: what went wrong, and one sentence about what to do (RFC 7296 §3.10.1).

use crate::output::Failure;
use crate::wire::NotifyType;

/// IKE_SA_INIT was refused.
pub(super) fn refused_init(kind: NotifyType) -> (Failure, String) {
    match kind {
        NotifyType::NO_PROPOSAL_CHOSEN => (
            Failure::NoProposalChosen,
            "the peer accepts none of the IKE proposals (NO_PROPOSAL_CHOSEN); give both ends the same ike.proposals or suite, \
             its log says what it expects"
                .to_owned(),
        ),
        NotifyType::INVALID_MAJOR_VERSION => (
            Failure::Protocol,
            "the peer does not speak IKEv2 (INVALID_MAJOR_VERSION); enable it there".to_owned(),
        ),
        kind => other("IKE_SA_INIT", kind),
    }
}

/// IKE_AUTH was refused as a whole: there is no IKE SA.
pub(super) fn refused_auth(kind: Option<NotifyType>) -> (Failure, String) {
    match kind {
        Some(NotifyType::AUTHENTICATION_FAILED) => (
            Failure::Authentication,
            "the peer refused our identity or proof (AUTHENTICATION_FAILED); compare both ends' identities, secrets and \
             certificates, its log says which"
                .to_owned(),
        ),
        None => (
            Failure::Authentication,
            "the peer answered IKE_AUTH without a proof of its identity".to_owned(),
        ),
        Some(kind) => match refused_child(kind) {
            (Failure::Protocol, _) => other("IKE_AUTH", kind),
            precise => precise,
        },
    }
}

/// A pair was refused; the IKE SA stands.
pub(super) fn refused_child(kind: NotifyType) -> (Failure, String) {
    match kind {
        NotifyType::NO_PROPOSAL_CHOSEN => (
            Failure::NoProposalChosen,
            "the peer accepts none of the proposals for the CHILD SA (NO_PROPOSAL_CHOSEN); give both ends the same \
             childSA.proposals or suite, its log says what it expects"
                .to_owned(),
        ),
        NotifyType::TS_UNACCEPTABLE => (
            Failure::TrafficSelectors,
            "the peer has no child with these traffic selectors in this mode (TS_UNACCEPTABLE); make the selectors and modes \
             of both ends mirror each other"
                .to_owned(),
        ),
        NotifyType::SINGLE_PAIR_REQUIRED => (
            Failure::TrafficSelectors,
            "the peer takes one pair of addresses per CHILD SA (SINGLE_PAIR_REQUIRED); name single addresses as traffic \
             selectors"
                .to_owned(),
        ),
        NotifyType::NO_ADDITIONAL_SAS => (
            Failure::NoAdditionalSas,
            "the peer takes no further CHILD SA on this IKE SA (NO_ADDITIONAL_SAS); raise its limit, or protect less with \
             it"
            .to_owned(),
        ),
        NotifyType::FAILED_CP_REQUIRED | NotifyType::INTERNAL_ADDRESS_FAILURE => (
            Failure::AddressAssignment,
            format!(
                "the peer hands out addresses ({kind}), which this end does not ask for; configure it as a \
                 site-to-site peer"
            ),
        ),
        kind => other("the CHILD SA", kind),
    }
}

fn other(what: &str, kind: NotifyType) -> (Failure, String) {
    (Failure::Protocol, format!("the peer refused {what} with {kind}"))
}
