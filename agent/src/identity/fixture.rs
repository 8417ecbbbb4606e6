//! An authority for tests: it issues what the operator issues, and what it never would.

use ipsecmesh_crypto::{KeyEncoding, PROVIDERS, private_key};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::identity::keystore::NodeCertificate;
use crate::identity::trust::TrustBundle;

/// When the tests take place, seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;
/// How long certificates live.
pub(super) const LIFETIME: u64 = 100_000;

const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];
const SERVER_AUTH: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];

/// A root with its key.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// DNS name of the subjectAltName.
    pub(super) dns: &'a str,
    /// URI of the subjectAltName.
    pub(super) uri: &'a str,
    /// Meant for IKE.
    pub(super) ike: bool,
    /// Start of validity.
    pub(super) not_before: u64,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            dns: "a.node.ipsecmesh.local",
            uri: "spiffe://ipsecmesh.local/node/a/uid-a",
            ike: true,
            not_before: NOW - 300,
        }
    }
}

impl Authority {
    /// A new one.
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut parameters = parameters(NOW - LIFETIME, 10 * LIFETIME);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters
            .distinguished_name
            .push(DnType::CommonName, "root of a test");
        let pem = parameters.self_signed(&key).expect("root").pem();
        Self {
            issuer: Issuer::new(parameters, key),
            pem,
        }
    }

    /// What nodes trust.
    pub(super) fn bundle(&self) -> TrustBundle {
        TrustBundle::parse(&self.pem).expect("a bundle")
    }

    /// A certificate for `key`.
    pub(super) fn issue(&self, key: &KeyPair, request: Request<'_>) -> CertificateDer<'static> {
        let mut parameters = parameters(request.not_before, LIFETIME);
        parameters.subject_alt_names = vec![
            SanType::DnsName(request.dns.try_into().expect("a name")),
            SanType::URI(request.uri.try_into().expect("a URI")),
            SanType::Rfc822Name("vpn@example.com".try_into().expect("an address")),
            SanType::IpAddress([192, 0, 2, 7].into()),
        ];
        parameters.is_ca = IsCa::ExplicitNoCa;
        let usage = if request.ike { IPSEC_IKE } else { SERVER_AUTH };
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(usage.to_vec())];
        parameters
            .signed_by(key, &self.issuer)
            .expect("a leaf")
            .der()
            .clone()
    }

    /// A node's certificate with a key of its own, as it is on disk right after it was issued.
    pub(super) fn node(&self, request: Request<'_>) -> NodeCertificate {
        let key = KeyPair::generate().expect("key");
        let der = self.issue(&key, request);
        let key = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, key.serialized_der()).expect("a signer");
        NodeCertificate::new(key, vec![der], 1, request.not_before + 300).expect("matching")
    }
}

fn parameters(not_before: u64, lifetime: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut parameters = CertificateParams::default();
    parameters.not_before = epoch + std::time::Duration::from_secs(not_before);
    parameters.not_after = epoch + std::time::Duration::from_secs(not_before + lifetime);
    parameters
}
