//! An authority for tests: it issues what the operator issues, and what it never would.

use ipsecmesh_crypto::{KeyEncoding, PROVIDERS, private_key};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use x509_cert::der::Decode as _;

use crate::identity::keystore::NodeCertificate;
use crate::identity::trust::TrustBundle;

/// When the tests take place, seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;
/// How long certificates live.
pub(crate) const LIFETIME: u64 = 100_000;

const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];
const SERVER_AUTH: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];

/// A root with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// DNS name of the subjectAltName.
    pub(crate) dns: &'a str,
    /// URI of the subjectAltName.
    pub(crate) uri: &'a str,
    /// May sign.
    pub(crate) signs: bool,
    /// Meant for IKE.
    pub(crate) ike: bool,
    /// Start of validity.
    pub(crate) not_before: u64,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            dns: "a.node.ipsecmesh.local",
            uri: "spiffe://ipsecmesh.local/node/a/uid-a",
            signs: true,
            ike: true,
            not_before: NOW - 300,
        }
    }
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self::named("root of a test")
    }

    /// A new one with a name of its own.
    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let parameters = authority(name);
        let pem = parameters.self_signed(&key).expect("root").pem();
        Self {
            issuer: Issuer::new(parameters, key),
            pem,
        }
    }

    /// One below it, and its certificate.
    pub(crate) fn intermediate(&self) -> (Self, CertificateDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let parameters = authority("intermediate of a test");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("intermediate");
        let intermediate = Self {
            issuer: Issuer::new(parameters, key),
            pem: certificate.pem(),
        };
        (intermediate, certificate.der().clone())
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A list of certificates that it takes back, in PEM; the next one is due at `next`.
    pub(crate) fn revoke(&self, certificates: &[&CertificateDer<'_>], next: u64) -> String {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked = |der: &&CertificateDer<'_>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial(der)),
            revocation_time: epoch + std::time::Duration::from_secs(NOW - 100),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: epoch + std::time::Duration::from_secs(NOW - 200),
            next_update: epoch + std::time::Duration::from_secs(next),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        list.pem().expect("PEM")
    }

    /// What nodes trust.
    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::parse(&self.pem).expect("a bundle")
    }

    /// A certificate for `key`.
    pub(crate) fn issue(&self, key: &KeyPair, request: Request<'_>) -> CertificateDer<'static> {
        self.signed(key, request, None)
    }

    /// The same with a serial number.
    pub(crate) fn issue_with_serial(
        &self,
        key: &KeyPair,
        request: Request<'_>,
        serial: u64,
    ) -> CertificateDer<'static> {
        self.signed(key, request, Some(SerialNumber::from(serial)))
    }

    fn signed(
        &self,
        key: &KeyPair,
        request: Request<'_>,
        serial: Option<SerialNumber>,
    ) -> CertificateDer<'static> {
        let mut parameters = parameters(request.not_before, LIFETIME);
        parameters.subject_alt_names = vec![
            SanType::DnsName(request.dns.try_into().expect("a name")),
            SanType::URI(request.uri.try_into().expect("a URI")),
            SanType::Rfc822Name("vpn@example.com".try_into().expect("an address")),
            SanType::IpAddress([192, 0, 2, 7].into()),
        ];
        parameters.is_ca = IsCa::ExplicitNoCa;
        if !request.signs {
            parameters.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        }
        parameters.serial_number = serial;
        let usage = if request.ike { IPSEC_IKE } else { SERVER_AUTH };
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(usage.to_vec())];
        parameters
            .signed_by(key, &self.issuer)
            .expect("a leaf")
            .der()
            .clone()
    }

    /// A node's certificate with a key of its own, as it is on disk right after it was issued.
    pub(crate) fn node(&self, request: Request<'_>) -> NodeCertificate {
        let key = KeyPair::generate().expect("key");
        let der = self.issue(&key, request);
        let key = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, key.serialized_der()).expect("a signer");
        NodeCertificate::new(key, vec![der], 1, request.not_before + 300).expect("matching")
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = parameters(NOW - LIFETIME, 10 * LIFETIME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

fn serial(certificate: &CertificateDer<'_>) -> Vec<u8> {
    let parsed = x509_cert::Certificate::from_der(certificate).expect("a certificate");
    parsed.tbs_certificate().serial_number().as_bytes().to_vec()
}

fn parameters(not_before: u64, lifetime: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut parameters = CertificateParams::default();
    parameters.not_before = epoch + std::time::Duration::from_secs(not_before);
    parameters.not_after = epoch + std::time::Duration::from_secs(not_before + lifetime);
    parameters
}
