//! Certificates that their authority has taken back: revocation lists (RFC 5280 §5) from files.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_cert::crl::{CertificateList, RevokedCert};
use x509_cert::der::Decode as _;
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::ext::pkix::CrlReason;

use crate::identity::leaf::{date, hex};

/// What is known about the certificates that an authority has taken back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Revocation {
    /// The lists of a file.
    Lists(RevocationLists),
    /// There is a file, and it was never readable: who is revoked is not known, and nobody is accepted.
    Unreadable(String),
}

/// The lists of one file. The signature of each is checked with its authority's key when it is used.
#[derive(Debug)]
pub(crate) struct RevocationLists {
    file: String,
    der: Vec<Vec<u8>>,
    lists: Vec<CertRevocationList<'static>>,
    parsed: Vec<CertificateList>,
}

impl PartialEq for RevocationLists {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.der) == (&other.file, &other.der)
    }
}

impl Eq for RevocationLists {}

impl RevocationLists {
    /// Reads PEM, or one list in DER. `file` is for messages.
    pub(crate) fn parse(file: &str, content: &[u8]) -> Result<Self, String> {
        let text = content.windows(PEM.len()).any(|window| window == PEM);
        let der: Vec<Vec<u8>> = if text {
            CertificateRevocationListDer::pem_slice_iter(content)
                .map(|list| list.map(|der| der.as_ref().to_vec()))
                .collect::<Result<_, _>>()
                .map_err(|error| format!("{file}: not PEM: {error}"))?
        } else {
            vec![content.to_vec()]
        };
        let mut read = Self {
            file: file.to_owned(),
            der: Vec::new(),
            lists: Vec::new(),
            parsed: Vec::new(),
        };
        for (number, der) in der.into_iter().enumerate() {
            let list = OwnedCertRevocationList::from_der(&der)
                .map_err(|error| format!("{file}: list {}: {}", number + 1, describe(&error)))?;
            let parsed = CertificateList::from_der(&der)
                .map_err(|error| format!("{file}: list {}: {error}", number + 1))?;
            read.lists.push(list.into());
            read.parsed.push(parsed);
            read.der.push(der);
        }
        if read.lists.is_empty() {
            return Err(format!(
                "{file} holds no revocation list (-----BEGIN X509 CRL-----)"
            ));
        }
        Ok(read)
    }

    /// In the form that the verifier of chains wants.
    pub(crate) fn lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.lists.iter().collect()
    }

    /// Which certificate of a chain is on a list, and since when.
    pub(crate) fn revoked(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        chain.iter().enumerate().find_map(|(position, der)| {
            let certificate = x509_cert::Certificate::from_der(der).ok()?;
            let body = certificate.tbs_certificate();
            let entry = self
                .parsed
                .iter()
                .filter(|list| list.tbs_cert_list.issuer == *body.issuer())
                .flat_map(|list| list.tbs_cert_list.revoked_certificates.iter().flatten())
                .find(|entry| entry.serial_number == *body.serial_number())?;
            let what = if position == 0 {
                "it is revoked".to_owned()
            } else {
                format!("the certificate of its authority {} is revoked", body.subject())
            };
            Some(format!(
                "{what}: {} lists serial number {} since {}{}; its owner needs another certificate",
                self.file,
                hex(body.serial_number().as_bytes()),
                date(entry.revocation_date.to_unix_duration().as_secs()),
                reason(entry)
            ))
        })
    }

    /// What people have to know at this time (seconds since 1970): a list is overdue.
    pub(crate) fn overdue(&self, now: u64) -> Option<String> {
        let ends = self
            .parsed
            .iter()
            .filter_map(|list| list.tbs_cert_list.next_update.as_ref());
        let first = ends.map(|end| end.to_unix_duration().as_secs()).min()?;
        (now >= first).then(|| {
            format!(
                "{}: the next list was due at {} (nextUpdate): fetch it; until then the present one counts, and who was \
                 revoked since is accepted",
                self.file,
                date(first)
            )
        })
    }
}

/// What a list in PEM begins with.
const PEM: &[u8] = b"-----BEGIN";

/// The reason code (RFC 5280 §5.3.1), where the authority gives one.
fn reason(entry: &RevokedCert) -> String {
    entry
        .crl_entry_extensions
        .iter()
        .flatten()
        .find(|extension| extension.extn_id == CrlReason::OID)
        .and_then(|extension| CrlReason::from_der(extension.extn_value.as_bytes()).ok())
        .map(|reason| format!(" ({reason:?})"))
        .unwrap_or_default()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "dozens of ways to be malformed, which name themselves"
)]
fn describe(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedCrlVersion | webpki::Error::MalformedExtensions => {
            "not of version 2 with its extensions (RFC 5280 §5.2): let the authority write crlNumber and \
             authorityKeyIdentifier (`crl_extensions` of `openssl ca`)"
                .to_owned()
        }
        webpki::Error::UnsupportedDeltaCrl => "a delta list: give the complete one".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => {
            "an indirect list: give the one that the authority has signed itself".to_owned()
        }
        other => format!("not a revocation list: {other}"),
    }
}

#[cfg(test)]
mod tests;
