//! The certificate authority: its key in a Secret, its public root in the authority's status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipsecmesh_crds::IPsecAuthority;
use ipsecmesh_crds::authority::{
    AuthorityNodes, AuthoritySummary, IPsecAuthorityStatus, RootCertificate, RotationStatus,
};
use ipsecmesh_crds::condition::ConditionType;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};

use crate::apply::Error;
use crate::context::Context;
use crate::pki::ca::{CaError, CertificateAuthority};
use crate::pki::fingerprint;
use crate::plan::address::NodeFacts;
use crate::status::{self, Truth, Verdict};

/// The one authority that is live until rotations come.
pub(crate) const DEFAULT: &str = "default";

/// A root that ends sooner than this is said to expire.
const EXPIRES_SOON: Duration = Duration::from_hours(720);

/// All agents watch authorities: mere counts are not written more often than this.
const COUNT_PAUSE: Duration = Duration::from_secs(10);

/// Even without any change, the root's end is looked at this often.
const LOOK: Duration = Duration::from_hours(1);

/// The authority that signs now, with its object.
pub(crate) fn active(context: &Context) -> Option<(Arc<IPsecAuthority>, Arc<CertificateAuthority>)> {
    Some((
        context.stores().authorities.get(&ObjectRef::new(DEFAULT))?,
        context.authority()?,
    ))
}

/// One look at one authority.
pub(crate) async fn reconcile(
    authority: Arc<IPsecAuthority>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    if authority.name_any() != DEFAULT {
        let message = format!("only the authority {DEFAULT} is live today; delete this one or rename it");
        return refuse(&context, &authority, "UnsupportedField", message).await;
    }
    if let Some(problem) = status::unsupported(ipsecmesh_crds::support::unsupported_authority_fields(
        &authority.spec,
    )) {
        context.set_authority(None);
        return refuse(&context, &authority, "UnsupportedField", problem).await;
    }
    let loaded = load_or_create(&context, &authority).await?;
    let (root, problem) = match loaded {
        Ok(root) => (Some(Arc::new(root)), None),
        Err(problem) => (None, Some(problem)),
    };
    if context.set_authority(root.clone()) {
        if let Some(root) = &root {
            tracing::info!(fingerprint = root.fingerprint(), "the authority can sign");
        }
        context.authority_changed().await;
    }
    publish(&context, &authority, root.as_deref(), problem).await
}

/// Reads the root from its Secret, or makes it there. The inner error is for the authority's condition.
async fn load_or_create(
    context: &Context,
    authority: &IPsecAuthority,
) -> Result<Result<CertificateAuthority, String>, Error> {
    let name = &context.settings.ca_secret;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let secret = match api
        .get_opt(name)
        .await
        .map_err(Error::api::<Secret>("get", name))?
    {
        Some(secret) => secret,
        None => match create_secret(context, &api).await {
            Ok(secret) => secret,
            Err(error) => {
                let namespace = &context.settings.namespace;
                return Ok(Err(format!(
                    "Secret {namespace}/{name} is missing: {error}; create it empty"
                )));
            }
        },
    };
    let now = SystemTime::now();
    match CertificateAuthority::load(&secret, now) {
        Ok(Some(root)) => Ok(Ok(root)),
        Ok(None) => {
            let lifetime = authority.spec.ca_lifetime.to_std();
            let (root, data) = CertificateAuthority::generate(&authority.spec.trust_domain, lifetime, now)?;
            keep(context, &api, &secret, &data).await?;
            tracing::info!(
                fingerprint = root.fingerprint(),
                "made a new certificate authority"
            );
            Ok(Ok(root))
        }
        Err(error @ CaError::Build(_)) => Err(error.into()),
        Err(error) => Ok(Err(format!(
            "Secret {}/{name}: {error}",
            context.settings.namespace
        ))),
    }
}

/// The chart makes the Secret, because a POST cannot be limited to one name; without the chart we may be allowed to.
async fn create_secret(context: &Context, api: &Api<Secret>) -> Result<Secret, kube::Error> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(context.settings.ca_secret.clone()),
            ..ObjectMeta::default()
        },
        ..Secret::default()
    };
    context.metrics.wrote("Secret");
    api.create(&PostParams::default(), &secret).await
}

/// Fills the empty Secret; its version makes sure that nobody else filled it in between.
async fn keep(
    context: &Context,
    api: &Api<Secret>,
    secret: &Secret,
    data: &BTreeMap<String, ByteString>,
) -> Result<(), Error> {
    let name = secret.name_any();
    let body = Secret {
        metadata: ObjectMeta {
            resource_version: secret.resource_version(),
            ..ObjectMeta::default()
        },
        data: Some(data.clone()),
        ..Secret::default()
    };
    context.metrics.wrote("Secret");
    let result = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    result.map(drop).map_err(Error::api::<Secret>("fill", &name))
}

/// Says why an authority is not live.
async fn refuse(
    context: &Context,
    authority: &IPsecAuthority,
    reason: &'static str,
    message: String,
) -> Result<Action, Error> {
    let verdicts = vec![
        Verdict::new(ConditionType::Accepted, Truth::False, reason, message.clone()),
        Verdict::new(ConditionType::Ready, Truth::False, reason, message),
    ];
    let status = IPsecAuthorityStatus {
        conditions: conditions(authority, &verdicts),
        observed_generation: authority.metadata.generation,
        ..authority.status.clone().unwrap_or_default()
    };
    write(context, authority, status).await?;
    Ok(Action::await_change())
}

/// Publishes the root and the state of the nodes.
async fn publish(
    context: &Context,
    authority: &IPsecAuthority,
    root: Option<&CertificateAuthority>,
    problem: Option<String>,
) -> Result<Action, Error> {
    let before = authority.status.clone().unwrap_or_default();
    let mut verdicts = vec![Verdict::new(
        ConditionType::Accepted,
        Truth::True,
        "Accepted",
        String::new(),
    )];
    let mut status = IPsecAuthorityStatus {
        observed_generation: authority.metadata.generation,
        ..before.clone()
    };
    if let Some(root) = root {
        describe(context, root, &mut status);
        verdicts.extend(expiry(context, authority, root).await);
    }
    let counts = status.nodes.unwrap_or_default();
    verdicts.push(if let Some(problem) = problem {
        Verdict::new(ConditionType::Ready, Truth::False, "NoRoot", problem)
    } else {
        let message = format!(
            "{}/{} nodes hold a certificate of the active CA",
            counts.issued_by_active, counts.total
        );
        Verdict::new(ConditionType::Ready, Truth::True, "Issuing", message)
    });
    status.conditions = conditions(authority, &verdicts);
    let only_counts = without_counts(&before) == without_counts(&status);
    if only_counts && before != status {
        let waited = context.lasting("counts", &authority.name_any(), &format!("{:?}", before.nodes));
        if waited < COUNT_PAUSE {
            return Ok(Action::requeue(COUNT_PAUSE.saturating_sub(waited)));
        }
    }
    write(context, authority, status).await?;
    Ok(Action::requeue(LOOK))
}

/// The status without what changes with every node.
fn without_counts(status: &IPsecAuthorityStatus) -> IPsecAuthorityStatus {
    let mut status = status.clone();
    status.nodes = None;
    status.summary = None;
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

fn describe(context: &Context, root: &CertificateAuthority, status: &mut IPsecAuthorityStatus) {
    let not_after = Time(Timestamp::try_from(root.not_after()).unwrap_or(Timestamp::MAX));
    context.metrics.root_expires(root.not_after());
    let entry = RootCertificate {
        fingerprint: root.fingerprint().to_owned(),
        not_after,
    };
    let hash = fingerprint(root.bundle().as_bytes());
    let linux = context.stores().nodes.state();
    let agents = context.stores().agents.state();
    let reports: Vec<_> = agents.iter().filter_map(|agent| agent.status.as_ref()).collect();
    let trusting = reports
        .iter()
        .filter(|report| report.bundle_hash.as_ref() == Some(&hash))
        .count();
    let issuer = |report: &&&ipsecmesh_crds::IPsecNodeStatus| {
        report
            .certificate
            .as_ref()
            .is_some_and(|certificate| certificate.issuer == root.fingerprint())
    };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let nodes = AuthorityNodes {
        total: count(linux.iter().filter(|node| NodeFacts::of(node).linux).count()),
        trusting_bundle: count(trusting),
        issued_by_active: count(reports.iter().filter(issuer).count()),
    };
    status.nodes = Some(nodes);
    status.summary = Some(AuthoritySummary {
        nodes: format!("{}/{}", nodes.issued_by_active, nodes.total),
    });
    status.rotation.get_or_insert_with(RotationStatus::default);
    status.active_ca = Some(entry.clone());
    status.trusted = vec![entry];
    status.bundle = Some(root.bundle().to_owned());
    status.bundle_hash = Some(hash);
}

async fn expiry(
    context: &Context,
    authority: &IPsecAuthority,
    root: &CertificateAuthority,
) -> Option<Verdict> {
    let left = root
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    if left > EXPIRES_SOON.min(authority.spec.ca_lifetime.to_std() / 3) {
        return None;
    }
    let days = left.as_secs() / (24 * 3600);
    let message = format!("the root certificate expires in {days} days and rotation is not automatic yet");
    context
        .events
        .warning(authority, "CAExpiresSoon", message.clone())
        .await;
    Some(Verdict::new(
        ConditionType::ExpiringSoon,
        Truth::True,
        "RootExpires",
        message,
    ))
}

fn conditions(
    authority: &IPsecAuthority,
    verdicts: &[Verdict],
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let before = authority
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    status::merge(before, verdicts, authority.metadata.generation, Timestamp::now())
}

async fn write(
    context: &Context,
    authority: &IPsecAuthority,
    status: IPsecAuthorityStatus,
) -> Result<(), Error> {
    if authority.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<IPsecAuthority> = Api::all(context.client.clone());
    context
        .writer()
        .apply_status(&api, authority, &status)
        .await
        .map(drop)
}
