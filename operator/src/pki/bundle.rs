//! The roots of external peers out of ConfigMaps of the operator's namespace.

use ipsecmesh_crds::tunnel::{TrustBundle, TrustBundleRef};
use k8s_openapi::api::core::v1::ConfigMap;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_cert::der::pem::{LineEnding, encode_string};

use super::fingerprint;
use crate::verdict::Problem;

/// The API takes this many bytes of PEM: some twenty roots on P-256, eight with RSA-4096.
const LONGEST: usize = 16 * 1024;

/// The bundle that `reference` names, from `config` as the watch knows it: its certificates, and nothing else that stands
/// between them.
pub(crate) fn trust_bundle(
    config: Option<&ConfigMap>,
    reference: &TrustBundleRef,
    namespace: &str,
) -> Result<TrustBundle, Problem> {
    let TrustBundleRef { name, key } = reference;
    let place = format!("spec.auth.certificate.trustBundleRef: ConfigMap {name:?} in namespace {namespace}");
    let Some(config) = config else {
        let message = format!(
            "{place} is not there; create it: kubectl -n {namespace} create configmap {name} --from-file={key}=CA.pem"
        );
        return Err(Problem::new("ConfigMapNotFound", message));
    };
    let Some(text) = config.data.as_ref().and_then(|data| data.get(key)) else {
        let keys: Vec<&String> = config.data.iter().flatten().map(|(key, _)| key).collect();
        let message = format!("{place} has no key {key:?}; it has {keys:?}: add it, or name another one");
        return Err(Problem::new("ConfigMapKeyMissing", message));
    };
    let invalid = |what: String| Problem::new("InvalidTrustBundle", format!("{place}: {key}: {what}"));
    let mut certificates = String::new();
    for (index, item) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        let broken = |error: &dyn std::fmt::Display| {
            invalid(format!(
                "certificate number {} does not parse: {error}; it has to be PEM of an X.509 certificate",
                index + 1
            ))
        };
        let der = item.map_err(|error| broken(&error))?;
        webpki::anchor_from_trusted_cert(&der).map_err(|error| broken(&error))?;
        let pem = encode_string("CERTIFICATE", LineEnding::LF, &der).map_err(|error| broken(&error))?;
        certificates.push_str(&pem);
    }
    if certificates.is_empty() {
        return Err(invalid(
            "holds no certificate; put the roots of the peer's authority there, in PEM".to_owned(),
        ));
    }
    if certificates.len() > LONGEST {
        return Err(invalid(format!(
            "its certificates are {} bytes long, at most {LONGEST} are taken: leave only the peer's roots",
            certificates.len()
        )));
    }
    Ok(TrustBundle {
        name: name.clone(),
        key: key.clone(),
        hash: fingerprint(certificates.as_bytes()),
        certificates,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn root() -> String {
        let key = KeyPair::generate().expect("key");
        let certificate = CertificateParams::default().self_signed(&key).expect("signed");
        certificate.pem()
    }

    fn config(entries: &[(&str, &str)]) -> ConfigMap {
        ConfigMap {
            data: Some(
                entries
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            ),
            ..ConfigMap::default()
        }
    }

    fn read(config: Option<&ConfigMap>) -> Result<TrustBundle, Problem> {
        let reference = TrustBundleRef {
            name: "partner".to_owned(),
            key: "ca.crt".to_owned(),
        };
        trust_bundle(config, &reference, "ipsecmesh-system")
    }

    #[test]
    fn only_certificates_are_passed_on() {
        let (first, second) = (root(), root());
        let key = KeyPair::generate().expect("key").serialize_pem();
        let text = format!("# our partner\n{first}{key}\n{second}");
        let bundle = read(Some(&config(&[("ca.crt", &text)]))).expect("good");
        assert_eq!(bundle.certificates.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!bundle.certificates.contains("PRIVATE") && !bundle.certificates.contains('#'));
        let again = read(Some(&config(&[("ca.crt", &bundle.certificates)]))).expect("good");
        assert_eq!(again, bundle);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_fix() {
        let broken = root().replace("MII", "AAA");
        let many = root().repeat(40);
        for (found, reason, says) in [
            (None, "ConfigMapNotFound", "--from-file=ca.crt=CA.pem"),
            (
                Some(config(&[("ca.pem", "")])),
                "ConfigMapKeyMissing",
                "it has [\"ca.pem\"]",
            ),
            (
                Some(config(&[("ca.crt", "hello")])),
                "InvalidTrustBundle",
                "holds no certificate",
            ),
            (
                Some(config(&[("ca.crt", &broken)])),
                "InvalidTrustBundle",
                "certificate number 1 does not parse",
            ),
            (
                Some(config(&[("ca.crt", &many)])),
                "InvalidTrustBundle",
                "at most 16384",
            ),
        ] {
            let problem = read(found.as_ref()).expect_err(reason);
            assert_eq!(problem.reason, reason, "{problem:?}");
            assert!(problem.message.contains(says), "{problem:?}");
            assert!(
                problem
                    .message
                    .starts_with("spec.auth.certificate.trustBundleRef: "),
                "{problem:?}"
            );
        }
    }
}
