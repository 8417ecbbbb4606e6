//! Certificate signing requests: check, approve, publish the key, sign; or deny with a reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipsecmesh_crds::identity::NodeIdentity;
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, SIGNER};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};

use crate::apply::Error;
use crate::context::Context;
use crate::controller::authority::active;
use crate::metrics::Decision;
use crate::pki::ca::CertificateAuthority;
use crate::pki::fingerprint;
use crate::pki::profile::NodeProfile;
use crate::pki::signer::{self, Claims, Denial, Request};

/// Nothing to do before something changes; a look in between costs nothing.
const WAIT: Duration = Duration::from_secs(5);

/// The peer's keys: present and next.
const MAX_KEYS: usize = 2;

/// One look at one request.
pub(crate) async fn reconcile(
    csr: Arc<CertificateSigningRequest>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    if csr.spec.signer_name != SIGNER || is_settled(&csr) {
        return Ok(Action::await_change());
    }
    let request = match signer::check(&csr.spec, &context.settings.agent) {
        Ok(request) => request,
        Err(denial) => return deny(&context, &csr, None, &denial).await,
    };
    let claims = &request.claims;
    let (node, pod) = live(&context, claims).await?;
    if let Err(denial) = signer::confirm(claims, node.as_ref(), pod.as_ref(), &context.settings.agent) {
        return deny(&context, &csr, Some(claims), &denial).await;
    }
    let Some((owner, authority)) = active(&context) else {
        tracing::info!(csr = csr.name_any(), "waits for the authority");
        return Ok(Action::requeue(WAIT));
    };
    if !is_approved(&csr) {
        if let Err(wait) = context.admit(&claims.node_name) {
            let denial = Denial {
                reason: "TooManyRequests",
                message: format!(
                    "node {} asks too often; ask again after {} s",
                    claims.node_name,
                    wait.as_secs()
                ),
            };
            return deny(&context, &csr, Some(claims), &denial).await;
        }
        approve(&context, &csr, &request).await?;
    }
    if !publish_key(&context, claims, &fingerprint(&request.spki)).await? {
        tracing::info!(
            csr = csr.name_any(),
            node = claims.node_name,
            "waits for the node's IPsecPeer"
        );
        return Ok(Action::requeue(Duration::from_secs(1)));
    }
    issue(&context, &csr, &request, &owner, &authority).await?;
    Ok(Action::await_change())
}

/// Whether nothing is left to do: denied, failed, or signed.
fn is_settled(csr: &CertificateSigningRequest) -> bool {
    let signed = csr
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref())
        .is_some_and(|c| !c.0.is_empty());
    signed || has_condition(csr, "Denied") || has_condition(csr, "Failed")
}

fn is_approved(csr: &CertificateSigningRequest) -> bool {
    has_condition(csr, "Approved")
}

fn has_condition(csr: &CertificateSigningRequest, type_: &str) -> bool {
    let conditions = csr
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == type_)
}

/// The claimed objects as the API server has them now; stores lag behind.
async fn live(context: &Context, claims: &Claims) -> Result<(Option<Node>, Option<Pod>), Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.agent.namespace);
    let node = nodes
        .get_opt(&claims.node_name)
        .await
        .map_err(Error::api::<Node>("get", &claims.node_name))?;
    let pod = pods
        .get_opt(&claims.pod_name)
        .await
        .map_err(Error::api::<Pod>("get", &claims.pod_name))?;
    Ok((node, pod))
}

async fn approve(context: &Context, csr: &CertificateSigningRequest, request: &Request) -> Result<(), Error> {
    let mut message = format!("the requester runs on node {}", request.claims.node_name);
    if !request.ignored.is_empty() {
        message.push_str("; ignored of the request: ");
        message.push_str(&request.ignored.join(", "));
    }
    decide(context, csr, "Approved", "RequesterVerified", &message).await
}

async fn deny(
    context: &Context,
    csr: &CertificateSigningRequest,
    claims: Option<&Claims>,
    denial: &Denial,
) -> Result<Action, Error> {
    tracing::warn!(csr = csr.name_any(), user = csr.spec.username, %denial, "denied a certificate");
    decide(context, csr, "Denied", denial.reason, &denial.message).await?;
    context.metrics.decided(Decision::Denied, denial.reason);
    let agent = claims.and_then(|claims| context.stores().agents.get(&ObjectRef::new(&claims.node_name)));
    if let Some(agent) = agent {
        let note = format!("{}: {}", csr.name_any(), denial.message);
        context
            .events
            .warning::<IPsecNode>(&agent, "CertificateDenied", note)
            .await;
    }
    Ok(Action::await_change())
}

/// Writes the decision; the version makes sure that nobody decided in between.
async fn decide(
    context: &Context,
    csr: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: &str,
) -> Result<(), Error> {
    let name = csr.name_any();
    let now = Time(Timestamp::now());
    let mut conditions = csr
        .status
        .clone()
        .unwrap_or_default()
        .conditions
        .unwrap_or_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
    let body = serde_json::json!({
        "metadata": {"resourceVersion": csr.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let result = api
        .patch_approval(&name, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    context.metrics.wrote("CertificateSigningRequest");
    result
        .map(drop)
        .map_err(Error::api::<CertificateSigningRequest>("decide on", &name))
}

/// Puts the key into the directory before the certificate exists: peers refuse a key that is not there.
/// False while the node has no directory entry yet.
async fn publish_key(context: &Context, claims: &Claims, key: &str) -> Result<bool, Error> {
    let api: Api<IPsecPeer> = Api::all(context.client.clone());
    let found = api
        .get_opt(&claims.node_name)
        .await
        .map_err(Error::api::<IPsecPeer>("get", &claims.node_name))?;
    let Some(mut peer) = found.filter(|peer| peer.spec.node_uid == claims.node_uid) else {
        return Ok(false);
    };
    if peer.spec.keys.iter().any(|known| known == key) {
        return Ok(true);
    }
    append_key(&mut peer.spec.keys, key);
    peer.metadata.managed_fields = None;
    context.writer().apply(&api, &peer).await?;
    Ok(true)
}

/// The new key is the last one; the oldest goes when there is no room.
fn append_key(keys: &mut Vec<String>, key: &str) {
    keys.push(key.to_owned());
    let surplus = keys.len().saturating_sub(MAX_KEYS);
    keys.drain(..surplus);
}

async fn issue(
    context: &Context,
    csr: &CertificateSigningRequest,
    request: &Request,
    owner: &IPsecAuthority,
    authority: &CertificateAuthority,
) -> Result<(), Error> {
    let claims = &request.claims;
    let identity = NodeIdentity::new(&claims.node_name, &claims.node_uid, &owner.spec.trust_domain);
    let profile = NodeProfile {
        identity: identity.dns_name(),
        spiffe_id: identity.uri(),
        spki: request.spki.clone(),
    };
    let lifetime = owner.spec.node_certificate.lifetime.to_std();
    let issued = authority.issue(&profile, lifetime, SystemTime::now())?;
    let name = csr.name_any();
    let body = serde_json::json!({"status": {"certificate": ByteString(issued.pem.into_bytes())}});
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let result = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    context.metrics.wrote("CertificateSigningRequest");
    result.map_err(Error::api::<CertificateSigningRequest>("sign", &name))?;
    context.metrics.decided(Decision::Issued, "RequesterVerified");
    tracing::info!(
        csr = name,
        node = claims.node_name,
        serial = issued.serial,
        "issued a certificate"
    );
    if let Some(agent) = context.stores().agents.get(&ObjectRef::new(&claims.node_name)) {
        let until = Timestamp::try_from(issued.not_after)
            .map(|time| time.to_string())
            .unwrap_or_default();
        let note = format!("serial {}, valid until {until}", issued.serial);
        context
            .events
            .normal::<IPsecNode>(&agent, "CertificateIssued", note)
            .await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_keeps_the_present_key_and_the_next() {
        let mut keys = Vec::new();
        for key in ["a", "b", "c"] {
            append_key(&mut keys, key);
        }
        assert_eq!(keys, ["b", "c"]);
    }
}
