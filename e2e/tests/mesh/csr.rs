//! What a node cannot get a certificate for, asked of the real API server and the running signer.

use std::time::Duration;

use ipsecmesh_e2e::{
    error::{Error, Result, eventually},
    lab::{Kubectl, Lab, product::NAMESPACE},
};
use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::world::{World, ensure, refusal};

const SIGNER: &str = "ipsecmesh.io/node";
const DECISION: Duration = Duration::from_secs(15);
const AGENT: &str = "ipsecmesh-agent";
const WEAK: &str = include_str!("fixtures/rsa-1024.csr");

/// Agent's service account without a pod; refused at admission.
pub(crate) fn without_a_node_claim(world: &World) -> Result<String> {
    let lab = world.product()?;
    let token = lab.kubectl().run(&["create", "token", AGENT, "-n", NAMESPACE])?;
    let said = refusal(
        submit(
            &holder(&lab, &token)?,
            "no-claim",
            SIGNER,
            &request("worker-1", &[])?,
        ),
        "a request without claims",
    )?;
    ensure(
        said.contains("with the token of a pod that runs on a node"),
        || said.clone(),
    )?;
    Ok("refused at admission".into())
}

/// Another service account; refused at admission.
pub(crate) fn from_another_service_account(world: &World) -> Result<String> {
    let lab = world.product()?;
    let token = lab
        .kubectl()
        .run(&["create", "token", "ipsecmesh-operator", "-n", NAMESPACE])?;
    let kubectl = holder(&lab, &token)?;
    let said = refusal(
        submit(&kubectl, "another", SIGNER, &request("worker-1", &[])?),
        "another account's request",
    )?;
    ensure(
        said.contains("forbidden") || said.contains("only an ipsecmesh agent"),
        || said.clone(),
    )?;
    // With the rights to create requests, the admission policy still refuses.
    let said = refusal(
        submit(lab.kubectl(), "admin", SIGNER, &request("worker-1", &[])?),
        "an administrator's request",
    )?;
    ensure(said.contains("only an ipsecmesh agent"), || said.clone())?;
    Ok("refused at admission".into())
}

/// An agent asks kube-apiserver's own signer; refused at admission.
pub(crate) fn for_another_signer(world: &World) -> Result<String> {
    let lab = world.product()?;
    let kubectl = agent(&lab, "worker-1")?;
    let signer = "kubernetes.io/kube-apiserver-client";
    let said = refusal(
        submit(&kubectl, "another-signer", signer, &request("worker-1", &[])?),
        "another signer",
    )?;
    ensure(
        said.contains("may request certificates of the signer ipsecmesh.io/node only"),
        || said.clone(),
    )?;
    Ok("refused at admission".into())
}

/// worker-1's agent writes worker-2 into its request; the certificate says worker-1.
pub(crate) fn for_another_nodes_name(world: &World) -> Result<String> {
    let lab = world.product()?;
    let kubectl = agent(&lab, "worker-1")?;
    submit(&kubectl, "another-name", SIGNER, &request("worker-2", &[])?)?;
    let certificate = issued(&lab, "another-name")?;
    ensure(
        certificate.contains("worker-1") && !certificate.contains("worker-2"),
        || certificate.clone(),
    )?;
    Ok("issued for the claim's node, not the request's".into())
}

/// Extra names in the request; none of them in the certificate, all of them in the approval.
pub(crate) fn with_extra_names(world: &World) -> Result<String> {
    let lab = world.product()?;
    let kubectl = agent(&lab, "worker-1")?;
    submit(
        &kubectl,
        "extra-names",
        SIGNER,
        &request("worker-1", &["evil.example.com"])?,
    )?;
    let certificate = issued(&lab, "extra-names")?;
    ensure(!certificate.contains("evil.example.com"), || certificate.clone())?;
    let approval = condition(&lab, "extra-names", "Approved")?;
    ensure(approval.contains("subject alternative name"), || {
        format!("the approval names nothing: {approval}")
    })?;
    Ok(format!("stripped: {approval}"))
}

/// Claims of worker-2 with worker-1's pod, which only an impersonator could have; denied with both names.
pub(crate) fn with_another_nodes_pod(world: &World) -> Result<String> {
    let lab = world.product()?;
    let (pod, pod_uid) = agent_pod(&lab, "worker-1")?;
    let node_uid = lab.kubectl().value(&["node", "worker-2"], "{.metadata.uid}")?;
    let claim =
        |name: &str, value: &str| format!("--as-user-extra=authentication.kubernetes.io/{name}={value}");
    let claims = [
        format!("--as=system:serviceaccount:{NAMESPACE}:{AGENT}"),
        claim("node-name", "worker-2"),
        claim("node-uid", &node_uid),
        claim("pod-name", &pod),
        claim("pod-uid", &pod_uid),
    ];
    let mut words: Vec<&str> = claims.iter().map(String::as_str).collect();
    words.insert(0, "create");
    lab.kubectl().with_manifest(
        &words,
        &manifest("another-pod", SIGNER, &request("worker-2", &[])?),
    )?;
    let denial = denied(&lab, "another-pod")?;
    ensure(denial.contains("worker-1") && denial.contains("worker-2"), || {
        denial.clone()
    })?;
    Ok(denial)
}

/// RSA-1024; denied with the reason.
pub(crate) fn with_a_weak_key(world: &World) -> Result<String> {
    let lab = world.product()?;
    submit(&agent(&lab, "worker-1")?, "weak-key", SIGNER, WEAK)?;
    let denial = denied(&lab, "weak-key")?;
    ensure(denial.contains("RSA") || denial.contains("key"), || {
        denial.clone()
    })?;
    Ok(denial)
}

/// kubectl with a pod-bound token of a node's agent: what that agent, or who stole its token, can do.
fn agent(lab: &Lab, node: &str) -> Result<Kubectl> {
    let (pod, uid) = agent_pod(lab, node)?;
    let bound = [
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={pod}"),
        &format!("--bound-object-uid={uid}"),
    ]
    .map(str::to_owned);
    let mut words = vec!["create", "token", AGENT, "-n", NAMESPACE];
    words.extend(bound.iter().map(String::as_str));
    holder(lab, &lab.kubectl().run(&words)?)
}

fn agent_pod(lab: &Lab, node: &str) -> Result<(String, String)> {
    let selector = format!("spec.nodeName={node}");
    let template = "{range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let pods = lab.kubectl().value(
        &["pods", "-n", NAMESPACE, "--field-selector", &selector],
        template,
    )?;
    pods.lines()
        .filter(|line| line.starts_with(AGENT))
        .find_map(|line| line.split_once(' '))
        .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
        .ok_or_else(|| Error::observed(format!("no agent on {node}: {pods}")))
}

fn holder(lab: &Lab, token: &str) -> Result<Kubectl> {
    lab.plane().kubectl_with_token(token.trim())
}

fn submit(kubectl: &Kubectl, name: &str, signer: &str, request: &str) -> Result<String> {
    kubectl.with_manifest(&["create"], &manifest(name, signer, request))
}

fn manifest(name: &str, signer: &str, request: &str) -> String {
    serde_json::json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": format!("trial-{name}")},
        "spec": {"request": ByteString(request.as_bytes().to_vec()), "signerName": signer, "usages": ["digital signature", "ipsec tunnel"]},
    })
    .to_string()
}

fn request(node: &str, names: &[&str]) -> Result<String> {
    let failed = |error: rcgen::Error| Error::observed(format!("certificate request: {error}"));
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    let key = KeyPair::generate().map_err(failed)?;
    params
        .serialize_request(&key)
        .map_err(failed)?
        .pem()
        .map_err(failed)
}

/// The certificate of an approved request: names stand in DER as they are written.
fn issued(lab: &Lab, name: &str) -> Result<String> {
    let name = format!("trial-{name}");
    let template = "go-template={{.status.certificate | base64decode}}";
    let pem = eventually(&format!("{name} is signed"), DECISION, || {
        let pem = lab.kubectl().run(&["get", "csr", &name, "-o", template])?;
        if pem.contains("BEGIN CERTIFICATE") {
            Ok(pem)
        } else {
            Err(Error::observed(format!(
                "{:?}",
                condition(lab, &name[6..], "Denied")
            )))
        }
    })?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Error::observed(format!("{error:?}")))?;
    Ok(String::from_utf8_lossy(&der).into_owned())
}

fn denied(lab: &Lab, name: &str) -> Result<String> {
    eventually(&format!("{name} is denied"), DECISION, || {
        let said = condition(lab, name, "Denied")?;
        if said.trim() == ":" {
            Err(Error::observed("no decision yet"))
        } else {
            Ok(said)
        }
    })
}

fn condition(lab: &Lab, name: &str, kind: &str) -> Result<String> {
    let at = |field: &str| format!("{{.status.conditions[?(@.type==\"{kind}\")].{field}}}");
    lab.kubectl().value(
        &["csr", &format!("trial-{name}")],
        &format!("{}: {}", at("reason"), at("message")),
    )
}
