//! One table per check of the signer, with requests as an honest agent, a foreign one and a hostile one would send them.

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;
use x509_cert::der::EncodePem as _;

use super::*;
use crate::pki::ca::CertificateAuthority;
use crate::pki::profile::NodeProfile;

const RSA_1024: &str = include_str!("../../../tests/fixtures/rsa-1024.csr.pem");
const P_521: &str = include_str!("../../../tests/fixtures/p521.csr.pem");

fn agent() -> AgentIdentity {
    AgentIdentity {
        namespace: "ipsecmesh-system".to_owned(),
        service_account: "ipsecmesh-agent".to_owned(),
    }
}

fn pkcs10(names: &[&str], subject: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    let key = KeyPair::generate_for(algorithm).expect("key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !subject.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params
        .serialize_request(&key)
        .expect("request")
        .pem()
        .expect("PEM")
}

fn honest() -> CertificateSigningRequestSpec {
    let extra = [
        ("node-name", "node-a"),
        ("node-uid", "uid-a"),
        ("pod-name", "agent-1"),
        ("pod-uid", "uid-p"),
    ];
    CertificateSigningRequestSpec {
        signer_name: "ipsecmesh.io/node".to_owned(),
        username: Some("system:serviceaccount:ipsecmesh-system:ipsecmesh-agent".to_owned()),
        usages: Some(vec!["digital signature".to_owned(), "ipsec tunnel".to_owned()]),
        request: ByteString(pkcs10(&[], "", &PKCS_ECDSA_P256_SHA256).into_bytes()),
        extra: Some(
            extra
                .iter()
                .map(|(name, value)| {
                    (
                        format!("authentication.kubernetes.io/{name}"),
                        vec![(*value).to_owned()],
                    )
                })
                .collect(),
        ),
        ..CertificateSigningRequestSpec::default()
    }
}

fn with(change: impl FnOnce(&mut CertificateSigningRequestSpec)) -> CertificateSigningRequestSpec {
    let mut spec = honest();
    change(&mut spec);
    spec
}

fn requesting(pem: &str) -> CertificateSigningRequestSpec {
    with(|spec| spec.request = ByteString(pem.as_bytes().to_vec()))
}

fn claim(spec: &mut CertificateSigningRequestSpec, name: &str, values: &[&str]) {
    let key = format!("authentication.kubernetes.io/{name}");
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    spec.extra.get_or_insert_default().insert(key, values);
}

#[test]
fn an_honest_request_passes_with_the_claims_of_its_token() {
    let request = check(&honest(), &agent()).expect("passes");
    assert_eq!(request.claims.node_name, "node-a");
    assert_eq!(request.claims.pod_uid, "uid-p");
    assert!(request.ignored.is_empty(), "{:?}", request.ignored);
}

#[test]
fn each_wrong_request_is_denied_with_its_own_reason() {
    let other_account = "system:serviceaccount:default:default";
    let mut tampered = CertReq::from_pem(pkcs10(&[], "x", &PKCS_ECDSA_P256_SHA256)).expect("CSR");
    let other = CertReq::from_pem(pkcs10(&[], "x", &PKCS_ECDSA_P256_SHA256)).expect("CSR");
    tampered.info.public_key = other.info.public_key;
    let tampered = tampered.to_pem(x509_cert::der::pem::LineEnding::LF).expect("PEM");
    let cases = [
        (
            with(|s| s.usages = Some(vec!["server auth".to_owned()])),
            "UsageNotAllowed",
            "found: server auth",
        ),
        (with(|s| s.usages = None), "UsageNotAllowed", "found: none"),
        (
            with(|s| s.username = Some(other_account.to_owned())),
            "NotTheAgent",
            other_account,
        ),
        (with(|s| s.extra = None), "ClaimMissing", "node-name"),
        (with(|s| claim(s, "node-uid", &[])), "ClaimMissing", "node-uid"),
        (with(|s| claim(s, "pod-uid", &[""])), "ClaimMissing", "pod-uid"),
        (
            with(|s| claim(s, "node-name", &["node-a", "node-b"])),
            "ClaimAmbiguous",
            "node-name",
        ),
        (requesting("not PEM"), "MalformedRequest", "PKCS#10"),
        (
            requesting(&"x".repeat(MAX_REQUEST + 1)),
            "MalformedRequest",
            "more than",
        ),
        (
            requesting(RSA_1024),
            "KeyTypeNotAllowed",
            "this request holds RSA-1024",
        ),
        (requesting(P_521), "KeyTypeNotAllowed", "curve 1.3.132.0.35"),
        (
            requesting(&pkcs10(&[], "", &PKCS_ED25519)),
            "KeyTypeNotAllowed",
            "Ed25519",
        ),
        (requesting(&tampered), "BadSelfSignature", "not signed by the key"),
    ];
    for (spec, reason, text) in cases {
        let denial = check(&spec, &agent()).expect_err(reason);
        assert_eq!(denial.reason, reason, "{denial}");
        assert!(denial.message.contains(text), "{denial}");
    }
}

#[test]
fn foreign_names_in_the_request_are_stripped_and_named() {
    let pem = pkcs10(
        &["node-b.node.example.test", "extra.example.test"],
        "node-b",
        &PKCS_ECDSA_P256_SHA256,
    );
    let request = check(&requesting(&pem), &agent()).expect("passes");
    assert_eq!(
        request.ignored,
        ["subject \"CN=node-b\"", "2 subject alternative name(s)"]
    );
    let (ca, _) = CertificateAuthority::generate("example.test", HOUR, SystemTime::now()).expect("CA");
    let profile = NodeProfile {
        identity: "node-a.node.example.test".to_owned(),
        spiffe_id: "spiffe://example.test/node/node-a/uid-a".to_owned(),
        spki: request.spki,
    };
    let issued = ca.issue(&profile, 24 * HOUR, SystemTime::now()).expect("issue");
    assert_eq!(issued.not_after, ca.not_after(), "a leaf never outlives its root");
    let certificate = x509_cert::Certificate::from_pem(&issued.pem).expect("PEM");
    let text = format!("{certificate:?}");
    assert!(!text.contains("node-b"), "{text}");
    let extensions = certificate.tbs_certificate().extensions().expect("extensions");
    let san = extensions
        .iter()
        .find(|e| e.extn_id.to_string() == "2.5.29.17")
        .expect("SAN");
    let san = SubjectAltName::from_der(san.extn_value.as_bytes()).expect("SAN");
    let names = format!("{:?}", san.0);
    assert!(
        names.contains("node-a.node.example.test") && names.contains("uid-a"),
        "{names}"
    );
    assert_eq!(san.0.len(), 2);
}

#[test]
#[expect(clippy::large_stack_arrays, reason = "a table of whole objects")]
fn claims_are_compared_with_live_objects() {
    let claims = check(&honest(), &agent()).expect("passes").claims;
    let node = |uid: &str| -> Node {
        serde_json::from_value(json!({"metadata": {"name": "node-a", "uid": uid}})).expect("Node")
    };
    let pod = |uid: &str, node: &str, account: &str| -> Pod {
        let spec = json!({"nodeName": node, "serviceAccountName": account, "containers": []});
        serde_json::from_value(json!({"metadata": {"name": "agent-1", "uid": uid}, "spec": spec}))
            .expect("Pod")
    };
    let good = pod("uid-p", "node-a", "ipsecmesh-agent");
    confirm(&claims, Some(&node("uid-a")), Some(&good), &agent()).expect("confirmed");
    let cases = [
        (None, Some(good.clone()), "NodeNotFound"),
        (Some(node("uid-new")), Some(good.clone()), "NodeUIDMismatch"),
        (Some(node("uid-a")), None, "PodNotFound"),
        (
            Some(node("uid-a")),
            Some(pod("uid-old", "node-a", "ipsecmesh-agent")),
            "PodUIDMismatch",
        ),
        (
            Some(node("uid-a")),
            Some(pod("uid-p", "node-b", "ipsecmesh-agent")),
            "PodOnAnotherNode",
        ),
        (
            Some(node("uid-a")),
            Some(pod("uid-p", "node-a", "default")),
            "PodOfAnotherServiceAccount",
        ),
    ];
    for (node, pod, reason) in cases {
        let denial = confirm(&claims, node.as_ref(), pod.as_ref(), &agent()).expect_err(reason);
        assert_eq!(denial.reason, reason);
    }
}

const HOUR: std::time::Duration = std::time::Duration::from_hours(1);
use std::time::SystemTime;
