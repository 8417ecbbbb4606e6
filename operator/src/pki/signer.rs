//! Who gets a certificate: the checks of the signer `ipsecmesh.io/node`, as pure functions.
//!
//! The node's name comes from the claims that the API server stamped into the requester's token, never from the
//! request. Of the PKCS#10 only the public key is taken; whatever else it asks for is named in the approval and ignored.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use k8s_openapi::api::core::v1::{Node, Pod};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, Reader as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::request::{CertReq, ExtensionReq};

/// The usages that a request may carry, and has to carry at least one of.
const ALLOWED_USAGES: [&str; 2] = ["digital signature", "ipsec tunnel"];

/// A P-256 request is some 300 bytes, an RSA-4096 one 1.6 kB: what is larger is not looked at.
const MAX_REQUEST: usize = 8 * 1024;

const ID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// The agent as the signer knows it.
#[derive(Clone, Debug)]
pub(crate) struct AgentIdentity {
    /// The namespace of the agent's pods and of its service account.
    pub(crate) namespace: String,
    /// The agent's service account.
    pub(crate) service_account: String,
}

/// A request is refused; both texts go into the CSR's `Denied` condition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Denial {
    /// A word in CamelCase.
    pub(crate) reason: &'static str,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

/// What the API server stamped into the requester's token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claims {
    /// The Node that the requesting pod runs on.
    pub(crate) node_name: String,
    /// Its UID when the token was made.
    pub(crate) node_uid: String,
    /// The requesting pod.
    pub(crate) pod_name: String,
    /// Its UID.
    pub(crate) pod_uid: String,
}

/// A request whose form is right; what it claims is still to be compared with live objects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The requester's claims.
    pub(crate) claims: Claims,
    /// The public key, DER SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
    /// What the request asked for besides and does not get.
    pub(crate) ignored: Vec<String>,
}

/// Checks all of a request that needs no other object.
pub(crate) fn check(spec: &CertificateSigningRequestSpec, agent: &AgentIdentity) -> Result<Request, Denial> {
    check_usages(spec.usages.as_deref().unwrap_or_default())?;
    check_requester(spec.username.as_deref().unwrap_or_default(), agent)?;
    let claims = claims(spec.extra.as_ref())?;
    let request = parse(&spec.request.0)?;
    check_key(&request)?;
    check_self_signature(&request)?;
    Ok(Request {
        claims,
        spki: request
            .info
            .public_key
            .to_der()
            .map_err(|error| malformed(&error.to_string()))?,
        ignored: ignored(&request),
    })
}

/// Compares the claims with the live Node and Pod: the API server does not re-verify them when a token is used.
pub(crate) fn confirm(
    claims: &Claims,
    node: Option<&Node>,
    pod: Option<&Pod>,
    agent: &AgentIdentity,
) -> Result<(), Denial> {
    let Claims {
        node_name,
        node_uid,
        pod_name,
        pod_uid,
    } = claims;
    let Some(node) = node else {
        return deny(
            "NodeNotFound",
            format!("the requester's Node {node_name} does not exist"),
        );
    };
    if node.metadata.uid.as_deref() != Some(node_uid) {
        return deny(
            "NodeUIDMismatch",
            format!(
                "the requester's token is of an earlier Node {node_name} (UID {node_uid}); restart the agent's pod"
            ),
        );
    }
    let namespace = &agent.namespace;
    let Some(pod) = pod else {
        return deny(
            "PodNotFound",
            format!("the requester's Pod {namespace}/{pod_name} does not exist"),
        );
    };
    if pod.metadata.uid.as_deref() != Some(pod_uid) {
        return deny(
            "PodUIDMismatch",
            format!("the requester's token is of an earlier Pod {namespace}/{pod_name} (UID {pod_uid})"),
        );
    }
    let spec = pod.spec.as_ref();
    let runs_on = spec
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    if runs_on != node_name {
        return deny(
            "PodOnAnotherNode",
            format!("Pod {namespace}/{pod_name} runs on Node {runs_on:?}, but its token names {node_name}"),
        );
    }
    let account = spec
        .and_then(|spec| spec.service_account_name.as_deref())
        .unwrap_or_default();
    if account != agent.service_account {
        return deny(
            "PodOfAnotherServiceAccount",
            format!(
                "Pod {namespace}/{pod_name} uses service account {account:?}, not {}",
                agent.service_account
            ),
        );
    }
    Ok(())
}

fn check_usages(usages: &[String]) -> Result<(), Denial> {
    let foreign: Vec<&str> = usages
        .iter()
        .map(String::as_str)
        .filter(|u| !ALLOWED_USAGES.contains(u))
        .collect();
    if foreign.is_empty() && !usages.is_empty() {
        return Ok(());
    }
    let found = if foreign.is_empty() {
        "none".to_owned()
    } else {
        foreign.join(", ")
    };
    deny(
        "UsageNotAllowed",
        format!(
            "spec.usages may hold {} only; found: {found}",
            ALLOWED_USAGES.join(" and ")
        ),
    )
}

fn check_requester(username: &str, agent: &AgentIdentity) -> Result<(), Denial> {
    let expected = format!(
        "system:serviceaccount:{}:{}",
        agent.namespace, agent.service_account
    );
    if username == expected {
        return Ok(());
    }
    deny(
        "NotTheAgent",
        format!("only {expected} may ask for a node certificate; this request is from {username}"),
    )
}

fn claims(extra: Option<&BTreeMap<String, Vec<String>>>) -> Result<Claims, Denial> {
    let claim = |name: &str| {
        let key = format!("authentication.kubernetes.io/{name}");
        let values = extra
            .and_then(|extra| extra.get(&key))
            .map(Vec::as_slice)
            .unwrap_or_default();
        match values {
            [value] if !value.is_empty() => Ok(value.clone()),
            [] | [_] => deny(
                "ClaimMissing",
                format!(
                    "the requester's token has no claim {key}: use a token that is bound to the agent's running pod"
                ),
            ),
            [_, _, ..] => deny(
                "ClaimAmbiguous",
                format!("the requester's token has several values of {key}"),
            ),
        }
    };
    Ok(Claims {
        node_name: claim("node-name")?,
        node_uid: claim("node-uid")?,
        pod_name: claim("pod-name")?,
        pod_uid: claim("pod-uid")?,
    })
}

fn parse(pem: &[u8]) -> Result<CertReq, Denial> {
    if pem.len() > MAX_REQUEST {
        return Err(malformed(&format!(
            "{} bytes are more than {MAX_REQUEST}",
            pem.len()
        )));
    }
    CertReq::from_pem(pem).map_err(|error| malformed(&error.to_string()))
}

fn check_key(request: &CertReq) -> Result<(), Denial> {
    let algorithm = &request.info.public_key.algorithm;
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    if algorithm.oid == ID_EC_PUBLIC_KEY && curve == Some(SECP256R1) {
        return Ok(());
    }
    let found = match algorithm.oid {
        RSA_ENCRYPTION => rsa_description(request),
        ED25519 => "Ed25519".to_owned(),
        ID_EC_PUBLIC_KEY => format!(
            "ECDSA on the curve {}",
            curve.map_or("unnamed".to_owned(), |oid| oid.to_string())
        ),
        other => format!("algorithm {other}"),
    };
    deny(
        "KeyTypeNotAllowed",
        format!("a node's key has to be ECDSA P-256; this request holds {found}"),
    )
}

/// `RSA-1024` instead of just `RSA`: the length is what the reader of a denial asks for next.
fn rsa_description(request: &CertReq) -> String {
    let key = request.info.public_key.subject_public_key.raw_bytes();
    let modulus = x509_cert::der::SliceReader::new(key).and_then(|mut reader| {
        reader.sequence(|inner| {
            let modulus = inner
                .decode::<x509_cert::der::asn1::UintRef<'_>>()?
                .as_bytes()
                .len();
            inner.drain(inner.remaining_len())?;
            Ok(modulus)
        })
    });
    modulus.map_or_else(
        |_error: x509_cert::der::Error| "RSA".to_owned(),
        |bytes| format!("RSA-{}", bytes * 8),
    )
}

fn check_self_signature(request: &CertReq) -> Result<(), Denial> {
    let algorithm: &'static dyn VerificationAlgorithm = match request.algorithm.oid {
        ECDSA_WITH_SHA256 => &signature::ECDSA_P256_SHA256_ASN1,
        ECDSA_WITH_SHA384 => &signature::ECDSA_P256_SHA384_ASN1,
        other => {
            return deny(
                "SignatureNotAllowed",
                format!("the request has to be signed with ECDSA and SHA-256 or SHA-384, not with {other}"),
            );
        }
    };
    let signed = request
        .info
        .to_der()
        .map_err(|error| malformed(&error.to_string()))?;
    let key = request.info.public_key.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(algorithm, key)
        .verify(&signed, request.signature.raw_bytes())
        .map_err(|_unspecified| Denial {
            reason: "BadSelfSignature",
            message: "the request is not signed by the key that it holds".to_owned(),
        })
}

/// What the request asks for and does not get, for the approval's message.
fn ignored(request: &CertReq) -> Vec<String> {
    let mut ignored = Vec::new();
    let subject = request.info.subject.to_string();
    if !subject.is_empty() {
        ignored.push(format!("subject {subject:?}"));
    }
    let extensions = request.info.attributes.iter().filter_map(|attribute| {
        let values = attribute.values.iter().filter_map(|value| value.to_der().ok());
        let parsed = values.filter_map(|der| ExtensionReq::from_der(&der).ok());
        (attribute.oid == <ExtensionReq as x509_cert::der::oid::AssociatedOid>::OID)
            .then(|| parsed.flat_map(|request| request.0).collect::<Vec<_>>())
    });
    for extension in extensions.flatten() {
        if extension.extn_id == <SubjectAltName as x509_cert::der::oid::AssociatedOid>::OID {
            let count =
                SubjectAltName::from_der(extension.extn_value.as_bytes()).map_or(0, |san| san.0.len());
            ignored.push(format!("{count} subject alternative name(s)"));
        } else {
            ignored.push(format!("extension {}", extension.extn_id));
        }
    }
    ignored.truncate(8);
    ignored
}

fn malformed(detail: &str) -> Denial {
    Denial {
        reason: "MalformedRequest",
        message: format!("spec.request is not a PEM encoded PKCS#10 request: {detail}"),
    }
}

fn deny<T>(reason: &'static str, message: String) -> Result<T, Denial> {
    Err(Denial { reason, message })
}

#[cfg(test)]
mod tests;
