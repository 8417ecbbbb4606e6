//! What the agent reads out of a node certificate.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipsecmesh_ike::{DistinguishedName, Identity};
use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{KeyUsage, SubjectAltName};

/// The fields of a node certificate that decisions rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Serial number in hex.
    pub(crate) serial: String,
    /// Start of validity, seconds since 1970.
    pub(crate) not_before: u64,
    /// End of validity, seconds since 1970.
    pub(crate) not_after: u64,
    /// DNS names of the subjectAltName.
    pub(crate) dns_names: Vec<String>,
    /// URIs of the subjectAltName.
    pub(crate) uris: Vec<String>,
    /// E-mail and IP addresses of the subjectAltName.
    pub(crate) addresses: Vec<Identity>,
    /// The subject in DER.
    pub(crate) subject: Vec<u8>,
    /// Whether its key may sign what IKE wants signed (RFC 4945 §5.1.3.2).
    pub(crate) signs: bool,
    /// SubjectPublicKeyInfo in DER.
    pub(crate) spki: Vec<u8>,
}

/// The certificate does not parse.
#[derive(Debug, thiserror::Error)]
#[error("the certificate does not parse: {0}")]
pub(crate) struct LeafError(String);

impl Leaf {
    /// Reads `certificate`, without judging it.
    pub(crate) fn parse(certificate: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let parsed =
            x509_cert::Certificate::from_der(certificate.as_ref()).map_err(|e| LeafError(e.to_string()))?;
        let names = webpki::EndEntityCert::try_from(certificate).map_err(|e| LeafError(e.to_string()))?;
        let body = parsed.tbs_certificate();
        let subject = body.subject().to_der().map_err(|e| LeafError(e.to_string()))?;
        Ok(Self {
            serial: hex(body.serial_number().as_bytes()),
            not_before: body.validity().not_before.to_unix_duration().as_secs(),
            not_after: body.validity().not_after.to_unix_duration().as_secs(),
            dns_names: names.valid_dns_names().map(str::to_owned).collect(),
            uris: names.valid_uri_names().map(str::to_owned).collect(),
            addresses: addresses(body)?,
            subject,
            signs: body
                .get_extension::<KeyUsage>()
                .map_err(|e| LeafError(e.to_string()))?
                .is_none_or(|(_, usage)| usage.digital_signature() || usage.non_repudiation()),
            spki: names.subject_public_key_info().as_ref().to_vec(),
        })
    }

    /// Whether it speaks for `identity` (RFC 4945 §3.1): exactly, never by a wildcard. A distinguished name may be written
    /// otherwise than the subject.
    pub(crate) fn carries(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Fqdn(name) => self.dns_names.iter().any(|has| has.eq_ignore_ascii_case(name)),
            Identity::Address(_) | Identity::Email(_) => {
                self.addresses.iter().any(|has| has.matches(identity))
            }
            Identity::Dn(name) => {
                DistinguishedName::from_der(&self.subject).is_some_and(|subject| subject.matches(name))
            }
            // No certificate carries the others.
            Identity::KeyId(_) | _ => false,
        }
    }

    /// Who it speaks for, for messages.
    pub(crate) fn identities(&self) -> String {
        let subject = DistinguishedName::from_der(&self.subject).map(Identity::Dn);
        let dns = self.dns_names.iter().cloned().map(Identity::Fqdn);
        let all: Vec<String> = dns
            .chain(self.addresses.iter().cloned())
            .chain(subject)
            .map(|identity| identity.to_string())
            .collect();
        all.join(", ")
    }

    /// Fingerprint of the public key, as `IPsecPeer.spec.keys` holds it.
    pub(crate) fn key_fingerprint(&self) -> String {
        fingerprint(&self.spki)
    }
}

/// A time as people read it.
pub(crate) fn date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}

fn addresses(body: &x509_cert::TbsCertificate) -> Result<Vec<Identity>, LeafError> {
    let (_, names) = match body.get_extension::<SubjectAltName>() {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Vec::new()),
        Err(error) => return Err(LeafError(error.to_string())),
    };
    let address = |name: GeneralName| match name {
        GeneralName::Rfc822Name(address) => Some(Identity::Email(address.as_str().to_owned())),
        GeneralName::IpAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(octets.as_bytes()).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(octets.as_bytes()).map(IpAddr::from);
            v4.or(v6).ok().map(Identity::Address)
        }
        GeneralName::OtherName(_)
        | GeneralName::DnsName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::UniformResourceIdentifier(_)
        | GeneralName::RegisteredId(_) => None,
    };
    Ok(names.0.into_iter().filter_map(address).collect())
}

/// `sha256:` and the digest of `der` in hex.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(der)))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
