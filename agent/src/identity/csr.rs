//! One certificate request: made once, then read until it is answered. The agent may create and get requests, no more.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The signer that the operator runs.
const SIGNER: &str = "ipsecmesh.io/node";
/// How long one request is waited for before it is looked at anew.
const PATIENCE: Duration = Duration::from_mins(2);
const FIRST_POLL: Duration = Duration::from_millis(50);
const SLOWEST_POLL: Duration = Duration::from_secs(2);

/// Why there is no certificate yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsrError {
    /// The operator said no. A new key is needed for the next attempt.
    #[error("the request {name} was denied: {reason}: {message}")]
    Denied {
        /// Name of the request.
        name: String,
        /// The signer's word.
        reason: String,
        /// The signer's sentence.
        message: String,
    },
    /// What was issued is no certificate.
    #[error("the request {name} was answered with something that is no certificate: {reason}")]
    Invalid {
        /// Name of the request.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API server refused or did not answer.
    #[error("certificate request: {0}")]
    Kube(#[from] kube::Error),
    /// The key did not sign the request.
    #[error("the request could not be made: {0}")]
    Local(#[from] rcgen::Error),
    /// Nobody answered yet.
    #[error("the request {name} is not answered yet: is the operator running?")]
    Pending {
        /// Name of the request.
        name: String,
    },
}

/// Asks for a certificate for `key` under `name` and waits for the answer; leaf first.
pub(crate) async fn request(
    api: &Api<CertificateSigningRequest>,
    name: &str,
    common_name: &str,
    key: &KeyPair,
    lifetime: Duration,
) -> Result<Vec<CertificateDer<'static>>, CsrError> {
    match api
        .create(&PostParams::default(), &object(name, common_name, key, lifetime)?)
        .await
    {
        // The same key asked before a restart.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = FIRST_POLL;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SLOWEST_POLL);
        if let Some(chain) = answer(name, &api.get(name).await?)? {
            return Ok(chain);
        }
    }
    Err(CsrError::Pending {
        name: name.to_owned(),
    })
}

fn object(
    name: &str,
    common_name: &str,
    key: &KeyPair,
    lifetime: Duration,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    // The signer takes the names from the token of the requester; the subject is for people.
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let request = parameters.serialize_request(key)?.pem()?;
    let seconds = i32::try_from(lifetime.as_secs()).unwrap_or(i32::MAX);
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            // The API server accepts nothing below ten minutes.
            expiration_seconds: Some(seconds.max(600)),
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "ipsec tunnel".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

fn answer(
    name: &str,
    request: &CertificateSigningRequest,
) -> Result<Option<Vec<CertificateDer<'static>>>, CsrError> {
    let Some(status) = &request.status else {
        return Ok(None);
    };
    let refused = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"));
    if let Some(condition) = refused {
        return Err(CsrError::Denied {
            name: name.to_owned(),
            reason: condition
                .reason
                .clone()
                .unwrap_or_else(|| condition.type_.clone()),
            message: condition.message.clone().unwrap_or_default(),
        });
    }
    let Some(pem) = &status.certificate else {
        return Ok(None);
    };
    let invalid = |reason: String| CsrError::Invalid {
        name: name.to_owned(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.0)
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(e.to_string()))?;
    if chain.is_empty() {
        return Err(invalid("it holds no certificate".to_owned()));
    }
    Ok(Some(chain))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::certificates::v1::{
        CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    };

    use super::*;

    #[test]
    fn the_request_names_signer_usages_and_lifetime() {
        let key = KeyPair::generate().expect("key");
        let made = object("r", "node-a.node.example", &key, Duration::from_hours(168)).expect("made");
        assert_eq!(made.spec.signer_name, SIGNER);
        assert_eq!(made.spec.expiration_seconds, Some(604_800));
        assert_eq!(
            made.spec.usages.expect("usages"),
            ["digital signature", "ipsec tunnel"]
        );
        let short = object("r", "n", &key, Duration::from_secs(1)).expect("made");
        assert_eq!(short.spec.expiration_seconds, Some(600));
    }

    #[test]
    fn a_denial_carries_the_signers_words() {
        let mut request = CertificateSigningRequest::default();
        assert!(answer("r", &request).expect("open").is_none());
        request.status = Some(CertificateSigningRequestStatus {
            certificate: None,
            conditions: Some(vec![CertificateSigningRequestCondition {
                type_: "Denied".to_owned(),
                reason: Some("NodeMismatch".to_owned()),
                message: Some("no such node".to_owned()),
                ..CertificateSigningRequestCondition::default()
            }]),
        });
        let text = answer("r", &request).expect_err("denied").to_string();
        assert_eq!(text, "the request r was denied: NodeMismatch: no such node");
    }
}
