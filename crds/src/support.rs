//! Which fields ask for behaviour that is not live yet. They are refused by a condition instead of being ignored.

use std::fmt;

use crate::{
    authority::{AuthorityType, Delivery, IPsecAuthoritySpec},
    tunnel::{AuthType, IPsecTunnelSpec, RemoteType, TrafficType},
};

/// A field whose value is not live yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Path of the field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// Why it is refused.
    pub why: Why,
}

/// Why a field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Between nodes nothing but what follows is used.
    NotBetweenNodes(&'static str),
    /// Nothing carries it out yet; what works today.
    NotYet(&'static str),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, why } = self;
        match why {
            Why::NotBetweenNodes(instead) => write!(
                f,
                "{field}: {value} is for external peers only (spec.remote.type External); between nodes works: {instead}"
            ),
            Why::NotYet(today) => write!(f, "{field}: {value} is not supported yet; today works: {today}"),
        }
    }
}

/// The fields of a tunnel that ask for behaviour that is not live yet.
pub fn unsupported_fields(spec: &IPsecTunnelSpec) -> Vec<Unsupported> {
    let mut found = Vec::new();
    if spec.remote.type_ == RemoteType::Nodes {
        external_only(spec, &mut found);
        modp(spec, &mut found);
    }
    found
}

/// The same for tunnels of a cluster: what lives in files beside the manifests of a host has no way to its nodes yet.
pub fn unsupported_in_cluster(spec: &IPsecTunnelSpec) -> Vec<Unsupported> {
    let mut found = unsupported_fields(spec);
    if let Some(ppk) = &spec.auth.ppk {
        found.push(Unsupported {
            field: "spec.auth.ppk".to_owned(),
            value: ppk.id.clone(),
            why: Why::NotYet("hosts without Kubernetes, whose keys are files; ML-KEM in ike.proposals"),
        });
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
                why: Why::NotYet(works_today),
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

/// Between nodes every selected packet passes through phases, which selectors have none of, and all nodes have certificates.
fn external_only(spec: &IPsecTunnelSpec, found: &mut Vec<Unsupported>) {
    let mut check = |wrong: bool, field: &str, value: String, instead| {
        if wrong {
            found.push(Unsupported {
                field: field.to_owned(),
                value,
                why: Why::NotBetweenNodes(instead),
            });
        }
    };
    let (traffic, auth) = (&spec.traffic, &spec.auth);
    check(
        !matches!(traffic.type_, TrafficType::Overlay | TrafficType::PodNetwork),
        "spec.traffic.type",
        format!("{:?}", traffic.type_),
        "Overlay, PodNetwork",
    );
    check(
        !traffic.bypass.is_empty(),
        "spec.traffic.bypass",
        format!("{} entries", traffic.bypass.len()),
        "no entry",
    );
    check(
        auth.type_ != AuthType::Certificate,
        "spec.auth.type",
        "PSK".to_owned(),
        "Certificate",
    );
    let certificate = auth.certificate.as_ref();
    if let Some(bundle) = certificate.and_then(|certificate| certificate.trust_bundle_ref.as_ref()) {
        check(
            true,
            "spec.auth.certificate.trustBundleRef",
            format!("{}/{}", bundle.name, bundle.key),
            "no trust bundle: the authority's own roots",
        );
    }
}

/// MODP groups exist for peers that have nothing better. Nodes all have.
fn modp(spec: &IPsecTunnelSpec, found: &mut Vec<Unsupported>) {
    let ike = spec.ike.proposals.iter().enumerate().map(|(index, one)| {
        let field = format!("spec.ike.proposals[{index}]");
        (field, &one.key_exchange, &one.additional_key_exchange)
    });
    let child = spec.child_sa.proposals.iter().enumerate().map(|(index, one)| {
        let field = format!("spec.childSA.proposals[{index}]");
        (field, &one.key_exchange, &one.additional_key_exchange)
    });
    for (proposal, first, additional) in ike.chain(child) {
        let first = first.iter().filter(|method| method.is_modp());
        let additional = additional.iter().filter(|method| method.is_modp());
        let lists: [(_, Vec<&str>, _); 2] = [
            ("keyExchange", first.map(|one| one.as_str()).collect(), CURVES),
            (
                "additionalKeyExchange",
                additional.map(|one| one.as_str()).collect(),
                CURVES_AND_KEMS,
            ),
        ];
        for (list, modp, instead) in lists {
            if !modp.is_empty() {
                found.push(Unsupported {
                    field: format!("{proposal}.{list}"),
                    value: modp.join(", "),
                    why: Why::NotBetweenNodes(instead),
                });
            }
        }
    }
}

const CURVES: &str = "X25519, ECP-256, ECP-384, ECP-521";
const CURVES_AND_KEMS: &str = "ML-KEM-512, ML-KEM-768, ML-KEM-1024, X25519, ECP-256, ECP-384, ECP-521";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{KeyExchange, Suite};
    use crate::tunnel::{Auth, PpkAuth};

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
        let external: IPsecTunnelSpec = serde_json::from_value(serde_json::json!({
            "remote": {"type": "External", "external": {"address": "192.0.2.10"}},
            "traffic": {"type": "Custom", "selectors": [{"protocol": 6}], "bypass": [{"protocol": 1}]},
            "auth": {"type": "PSK", "psk": {"secretRef": {"name": "storage", "key": "psk"}}},
        }))
        .expect("a spec");
        assert_eq!(unsupported_fields(&external), []);
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
        spec.ike.proposals[0].key_exchange = vec![KeyExchange::X25519, KeyExchange::Modp2048];
        let found = unsupported_fields(&spec);
        let fields: Vec<&str> = found.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["spec.auth.type", "spec.ike.proposals[0].keyExchange"]);
        assert_eq!(
            found[0].to_string(),
            "spec.auth.type: PSK is for external peers only (spec.remote.type External); between nodes works: Certificate"
        );
        assert_eq!(
            found[1].to_string(),
            "spec.ike.proposals[0].keyExchange: MODP-2048 is for external peers only (spec.remote.type External); \
             between nodes works: X25519, ECP-256, ECP-384, ECP-521"
        );
        spec.remote.type_ = RemoteType::External;
        assert_eq!(unsupported_fields(&spec), []);
        spec.auth.ppk = Some(PpkAuth::default());
        assert_eq!(unsupported_fields(&spec), []);
        let in_cluster = unsupported_in_cluster(&spec);
        assert_eq!(in_cluster[0].field, "spec.auth.ppk");
    }
}
