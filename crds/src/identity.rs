//! The identity of a node: its certificate's two names and its IKE identity, made and read in one place.

use thiserror::Error;

/// Why two names are not a node's identity.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The DNS name does not end in `.node.<trust domain>`, or begins with it.
    #[error("DNS name {0:?} is not <node>.node.<trust domain {1}>")]
    DnsName(String, String),
    /// The URI is not a SPIFFE ID of a node in the trust domain.
    #[error("URI {0:?} is not spiffe://{1}/node/<node>/<uid>")]
    Uri(String, String),
    /// The two name different nodes.
    #[error("DNS name and URI name different nodes: {0:?} and {1:?}")]
    Mismatch(String, String),
}

/// The identity of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    /// Name of the Node.
    pub node: String,
    /// UID of the Node.
    pub uid: String,
    /// The authority's trust domain.
    pub trust_domain: String,
}

impl NodeIdentity {
    /// The identity of this node.
    pub fn new(node: &str, uid: &str, trust_domain: &str) -> Self {
        Self {
            node: node.to_owned(),
            uid: uid.to_owned(),
            trust_domain: trust_domain.to_owned(),
        }
    }

    /// The DNS name of the certificate, which is also the IKE identity (`ID_FQDN`).
    pub fn dns_name(&self) -> String {
        dns_name(&self.node, &self.trust_domain)
    }

    /// The URI of the certificate.
    pub fn uri(&self) -> String {
        format!("spiffe://{}/node/{}/{}", self.trust_domain, self.node, self.uid)
    }

    /// Reads the two names of a certificate; both must name the same node of this trust domain.
    pub fn parse(dns: &str, uri: &str, trust_domain: &str) -> Result<Self, IdentityError> {
        let node = dns
            .strip_suffix(trust_domain)
            .and_then(|rest| rest.strip_suffix(".node."))
            .filter(|node| !node.is_empty())
            .ok_or_else(|| IdentityError::DnsName(dns.to_owned(), trust_domain.to_owned()))?;
        let (named, uid) = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(trust_domain))
            .and_then(|rest| rest.strip_prefix("/node/"))
            .and_then(|rest| rest.split_once('/'))
            .filter(|(named, uid)| !named.is_empty() && !uid.is_empty() && !uid.contains('/'))
            .ok_or_else(|| IdentityError::Uri(uri.to_owned(), trust_domain.to_owned()))?;
        if named != node {
            return Err(IdentityError::Mismatch(node.to_owned(), named.to_owned()));
        }
        Ok(Self::new(node, uid, trust_domain))
    }
}

/// The DNS name and IKE identity of a node in a trust domain.
pub fn dns_name(node: &str, trust_domain: &str) -> String {
    format!("{node}.node.{trust_domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for node in ["a", "node-1.example.com", "x.node"] {
            let identity = NodeIdentity::new(node, "0b8f", "ipsecmesh.local");
            let parsed = NodeIdentity::parse(&identity.dns_name(), &identity.uri(), "ipsecmesh.local");
            assert_eq!(parsed, Ok(identity));
        }
    }

    #[test]
    fn foreign_names_are_refused() {
        for (dns, uri) in [
            ("a.node.other.local", "spiffe://ipsecmesh.local/node/a/1"),
            (".node.ipsecmesh.local", "spiffe://ipsecmesh.local/node/a/1"),
            ("a.ipsecmesh.local", "spiffe://ipsecmesh.local/node/a/1"),
            ("a.node.ipsecmesh.local", "spiffe://other.local/node/a/1"),
            ("a.node.ipsecmesh.local", "spiffe://ipsecmesh.local/node/a/"),
            ("a.node.ipsecmesh.local", "spiffe://ipsecmesh.local/node/a/1/2"),
            ("a.node.ipsecmesh.local", "spiffe://ipsecmesh.local/node/b/1"),
        ] {
            assert!(
                NodeIdentity::parse(dns, uri, "ipsecmesh.local").is_err(),
                "{dns} {uri}"
            );
        }
    }
}
