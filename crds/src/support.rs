//! Which fields ask for behaviour that is not live yet. They are refused by a condition instead of being ignored.

use std::fmt;

use crate::{
    authority::{AuthorityType, Delivery, IPsecAuthoritySpec},
    suite::{AdditionalKeyExchange, ChildProposal, IkeProposal, KeyExchange},
    tunnel::{AuthType, DeadPeerDetection, IPsecTunnelSpec, RemoteType, TrafficType},
};

/// A field whose value is not live yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Path of the field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What works today.
    pub works_today: &'static str,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} is not supported yet; today works: {}",
            self.field, self.value, self.works_today
        )
    }
}

/// Where a tunnel is carried out: what is live differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a node of a cluster, with an operator.
    Cluster,
    /// On a host without Kubernetes, from files.
    Host,
}

/// The fields that are live on a host without Kubernetes for tunnels to an external peer, and nowhere else yet.
const LIVE_FOR_EXTERNAL: [&str; 5] = [
    "spec.remote.type",
    "spec.traffic.type",
    "spec.traffic.bypass",
    "spec.auth.type",
    "spec.auth.certificate.trustBundleRef",
];

impl Place {
    /// The fields of a tunnel that ask for behaviour that is not live here.
    pub fn unsupported(self, spec: &IPsecTunnelSpec) -> Vec<Unsupported> {
        let mut found = unsupported_fields(spec);
        if self == Self::Host && spec.remote.type_ == RemoteType::External {
            found.retain(|one| !LIVE_FOR_EXTERNAL.contains(&one.field.as_str()));
        }
        found
    }
}

/// The fields of a tunnel that ask for behaviour that is not live yet.
pub fn unsupported_fields(spec: &IPsecTunnelSpec) -> Vec<Unsupported> {
    let mut found = Vec::new();
    let mut check = |wrong: bool, field: &str, value: String, works_today| {
        if wrong {
            found.push(Unsupported {
                field: field.to_owned(),
                value,
                works_today,
            });
        }
    };
    check(
        spec.remote.type_ != RemoteType::Nodes,
        "spec.remote.type",
        format!("{:?}", spec.remote.type_),
        "Nodes",
    );
    check(
        !matches!(spec.traffic.type_, TrafficType::Overlay | TrafficType::PodNetwork),
        "spec.traffic.type",
        format!("{:?}", spec.traffic.type_),
        "Overlay, PodNetwork",
    );
    check(
        !spec.traffic.bypass.is_empty(),
        "spec.traffic.bypass",
        format!("{} entries", spec.traffic.bypass.len()),
        "no entry",
    );
    check(
        spec.auth.type_ != AuthType::Certificate,
        "spec.auth.type",
        "PSK".to_owned(),
        "Certificate",
    );
    check(
        spec.ike.dpd.max_retries != DeadPeerDetection::default().max_retries,
        "spec.ike.dpd.maxRetries",
        spec.ike.dpd.max_retries.to_string(),
        "3: a question is sent up to 8 times within 35 s",
    );
    let bundle = spec
        .auth
        .certificate
        .as_ref()
        .and_then(|c| c.trust_bundle_ref.as_ref());
    check(
        bundle.is_some(),
        "spec.auth.certificate.trustBundleRef",
        bundle
            .map(|b| format!("{}/{}", b.name, b.key))
            .unwrap_or_default(),
        "no trust bundle: the authority's own roots",
    );
    for (index, proposal) in spec.ike.proposals.iter().enumerate() {
        ike_proposal(&format!("spec.ike.proposals[{index}]"), proposal, &mut found);
    }
    for (index, proposal) in spec.child_sa.proposals.iter().enumerate() {
        child_proposal(&format!("spec.childSA.proposals[{index}]"), proposal, &mut found);
    }
    found
}

/// The fields of an authority that ask for behaviour that is not live yet.
pub fn unsupported_authority_fields(spec: &IPsecAuthoritySpec) -> Vec<Unsupported> {
    let mut found = Vec::new();
    let mut check = |wrong: bool, field: &str, value: String, works_today| {
        if wrong {
            found.push(Unsupported {
                field: field.to_owned(),
                value,
                works_today,
            });
        }
    };
    check(
        spec.type_ != AuthorityType::SelfSigned,
        "spec.type",
        format!("{:?}", spec.type_),
        "SelfSigned",
    );
    check(
        spec.rotation.generation != 0,
        "spec.rotation.generation",
        spec.rotation.generation.to_string(),
        "0",
    );
    let delivery = spec.node_certificate.delivery;
    check(
        delivery != Delivery::Csr,
        "spec.nodeCertificate.delivery",
        format!("{delivery:?}"),
        "CSR",
    );
    found
}

fn ike_proposal(field: &str, proposal: &IkeProposal, found: &mut Vec<Unsupported>) {
    none_live(
        found,
        field,
        "keyExchange",
        &proposal.key_exchange,
        live_group,
        GROUPS,
    );
}

fn child_proposal(field: &str, proposal: &ChildProposal, found: &mut Vec<Unsupported>) {
    none_live(
        found,
        field,
        "keyExchange",
        &proposal.key_exchange,
        live_group,
        GROUPS,
    );
    let more = &proposal.additional_key_exchange;
    none_live(
        found,
        field,
        "additionalKeyExchange",
        more,
        |_: AdditionalKeyExchange| false,
        "none",
    );
}

/// A list of choices is in order as long as one of them is live: the engine does not offer the others.
fn none_live<T: Copy + fmt::Display>(
    found: &mut Vec<Unsupported>,
    proposal: &str,
    name: &str,
    choices: &[T],
    live: impl Fn(T) -> bool,
    works_today: &'static str,
) {
    if choices.is_empty() || choices.iter().any(|choice| live(*choice)) {
        return;
    }
    let value = choices
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    found.push(Unsupported {
        field: format!("{proposal}.{name}"),
        value,
        works_today,
    });
}

fn live_group(group: KeyExchange) -> bool {
    matches!(
        group,
        KeyExchange::X25519 | KeyExchange::Ecp256 | KeyExchange::Ecp384 | KeyExchange::Ecp521
    )
}

const GROUPS: &str = "X25519, ECP-256, ECP-384, ECP-521";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;
    use crate::tunnel::Auth;

    #[test]
    fn every_suite_is_live() {
        for suite in [Suite::Default, Suite::Fips, Suite::Cnsa2] {
            let spec = IPsecTunnelSpec {
                suite: Some(suite),
                ..IPsecTunnelSpec::default()
            };
            assert!(unsupported_fields(&spec).is_empty());
            let mut spelled = spec.clone();
            spelled.suite = None;
            spelled.ike.proposals = suite.ike();
            spelled.child_sa.proposals = suite.child();
            assert!(unsupported_fields(&spelled).is_empty());
        }
    }

    #[test]
    fn defaults_are_live() {
        assert!(unsupported_fields(&IPsecTunnelSpec::default()).is_empty());
        assert!(unsupported_authority_fields(&IPsecAuthoritySpec::default()).is_empty());
    }

    #[test]
    fn what_is_not_live_is_named_with_value_and_alternative() {
        let mut spec = IPsecTunnelSpec {
            auth: Auth {
                type_: AuthType::Psk,
                ..Auth::default()
            },
            ..IPsecTunnelSpec::default()
        };
        spec.ike.proposals = Suite::Fips.ike();
        spec.ike.proposals[0].key_exchange = vec![KeyExchange::Modp2048];
        let found = unsupported_fields(&spec);
        let fields: Vec<&str> = found.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["spec.auth.type", "spec.ike.proposals[0].keyExchange"]);
        assert_eq!(
            found[0].to_string(),
            "spec.auth.type: PSK is not supported yet; today works: Certificate"
        );
    }
}
