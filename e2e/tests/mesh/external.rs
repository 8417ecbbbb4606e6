//! A peer outside the cluster: pre-shared keys from Secrets, its roots from a ConfigMap, what is said while they are not
//! there, and that nothing is lost while they change.

use std::{
    fs,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipsecmesh_e2e::{
    capture::ALL_BUT_API,
    error::{Context, Error, Result, eventually},
    interop::task::Task,
    lab::{KernelSa, Lab, product::NAMESPACE},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::{
    evidence::MARKER,
    outside::Outside,
    restart::kill_agent,
    world::{ROLLOUT, SOON, World, ensure},
};

const TUNNEL: &[&str] = &["ipsectunnel", "storage"];
const READY: &str = "{.status.rollout.phase} {.status.conditions[?(@.type==\"Ready\")].status}";
/// The node that has the tunnel.
const NODE: &str = "worker-1";
/// Another one.
const OTHER: &str = "worker-2";
const PEER: &str = "array1.example.com";
/// How soon a change of a Secret or ConfigMap is told.
const TOLD: Duration = Duration::from_secs(20);

const FIRST: &str = "first-secret-of-the-storage-array-0123456789";
const SECOND: &str = "second-secret-of-the-storage-array-987654321";

/// A tunnel whose Secret is missing, then short, then good: told, and healed without help. Encrypted both ways on one node,
/// nothing on another. Both generations of the key change under traffic; the API shows no key; deletion leaves nothing.
pub(crate) fn pre_shared_key(world: &World) -> Result<String> {
    let lab = start(world)?;
    let mut outside = Outside::boot(&lab)?;
    outside.write(
        "tunnel.yaml",
        &theirs(&lab, "{type: PSK, psk: {secretRef: {name: mesh, key: psk}}}")?,
    )?;
    outside.write("secrets/mesh/psk", FIRST)?;
    outside.run()?;
    let auth = "{type: PSK, psk: {secretRef: {name: storage, key: psk}}}";
    lab.kubectl().apply(&ours(&outside.address(), auth))?;
    told(&lab, "SecretNotFound", "--type=ipsecmesh.io/psk")?;
    secret(&lab, &[("psk", "too short")])?;
    told(&lab, "WeakPSK", "holds 9 bytes")?;
    secret(&lab, &[("psk", FIRST)])?;
    let begin = Instant::now();
    enforced(&lab, &outside)?;
    let healed = begin.elapsed();
    one_pair(&lab)?;
    let seen = encrypted(&lab, &outside)?;
    sealed_and_not_shown(&lab, &[FIRST])?;
    let changed = change_the_key(&lab, &mut outside)?;
    sealed_and_not_shown(&lab, &[FIRST, SECOND])?;
    gone(&lab)?;
    Ok(format!(
        "healed {:.1} s after the Secret was there; {seen}; {changed}; 0 SAs, policies and credentials left",
        healed.as_secs_f64()
    ))
}

/// The peer's certificate is of a foreign authority: told while the ConfigMap is missing, healed when it comes, refused
/// when its roots become others, healed again.
pub(crate) fn trust_bundle(world: &World) -> Result<String> {
    let lab = start(world)?;
    let partner = Partner::new()?;
    let mut outside = Outside::boot(&lab)?;
    let certificate = "{type: Certificate, certificate: {authorityRef: {name: partner}, trustBundleRef: {name: mesh, key: ca.crt}}}";
    outside.write("tunnel.yaml", &theirs(&lab, certificate)?)?;
    let bundle = lab
        .kubectl()
        .value(&["ipsecauthority", "default"], "{.status.bundle}")?;
    outside.write("bundles/mesh/ca.crt", &bundle)?;
    outside.write("certificates/partner/ca.crt", &partner.root)?;
    outside.write("certificates/partner/tls.crt", &partner.certificate)?;
    outside.write("certificates/partner/tls.key", &partner.key)?;
    outside.run()?;
    let auth = "{type: Certificate, certificate: {trustBundleRef: {name: partner, key: ca.crt}}}";
    lab.kubectl().apply(&ours(&outside.address(), auth))?;
    told(&lab, "ConfigMapNotFound", "create configmap partner")?;
    config_map(&lab, "no certificate")?;
    told(&lab, "InvalidTrustBundle", "holds no certificate")?;
    config_map(&lab, &partner.root)?;
    let begin = Instant::now();
    enforced(&lab, &outside)?;
    let healed = begin.elapsed();
    let seen = encrypted(&lab, &outside)?;
    let stranger = Partner::new()?;
    config_map(&lab, &stranger.root)?;
    let published = "{.status.trustBundle.certificates}";
    eventually("the other roots are published", TOLD, || {
        let roots = lab.kubectl().value(TUNNEL, published)?;
        ensure(roots.trim() == stranger.root.trim(), || roots.clone())
    })?;
    // SAs that stand are not judged again, so that the pair does not fail; a new IKE SA is refused.
    let before = lab.kernel_sas(NODE)?;
    outside.kill()?;
    outside.run()?;
    eventually("the certificate is refused", ROLLOUT, || {
        let said = agent_log(&lab)?;
        ensure(said.contains("no root here has issued it"), || {
            "the agent's log does not say so".into()
        })
    })?;
    config_map(&lab, &partner.root)?;
    replaced(&lab, &outside, &before)?;
    enforced(&lab, &outside)?;
    gone(&lab)?;
    Ok(format!(
        "healed {:.1} s after the ConfigMap was there; {seen}; refused under other roots, and healed",
        healed.as_secs_f64()
    ))
}

/// Without an admission policy nothing is sealed, and with it nothing to a key that the node's certificate does not speak for:
/// both told, both healed.
pub(crate) fn nobody_else_is_sealed_to(world: &World) -> Result<String> {
    let lab = start(world)?;
    let binding = ["validatingadmissionpolicybinding", "ipsecmesh-own-node"];
    let kept: serde_json::Value = lab.kubectl().object(&binding)?;
    lab.kubectl().run(&["delete", binding[0], binding[1]])?;
    secret(&lab, &[("psk", FIRST)])?;
    let auth = "{type: PSK, psk: {secretRef: {name: storage, key: psk}}}";
    // Nobody answers there: it is about what happens before.
    lab.kubectl().apply(&ours("172.30.0.200", auth))?;
    let refused = said_of(&lab, "Programmed", "AdmissionPolicyMissing", "ipsecmesh-own-node");
    let sealed = lab
        .kubectl()
        .value(&["ipsecnode", NODE], "{.spec.sealedCredentials}")?;
    lab.kubectl().apply(&bare(&kept).to_string())?;
    refused?;
    ensure(sealed.is_empty(), || {
        format!("sealed without the policy: {sealed}")
    })?;
    resealed(&lab)?;
    let recipient = "{.spec.sealedCredentials[0].recipient}";
    let before = lab.kubectl().value(&["ipsecnode", NODE], recipient)?;
    let stranger =
        r#"{"status":{"sealingKey":{"publicKey":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk="}}}"#;
    lab.kubectl().run(&[
        "patch",
        "ipsecnode",
        NODE,
        "--subresource=status",
        "--type=merge",
        "-p",
        stranger,
    ])?;
    said_of(&lab, "Programmed", "SealingKeyUntrusted", NODE)?;
    let after = lab.kubectl().value(&["ipsecnode", NODE], recipient)?;
    ensure(before == after, || format!("sealed to {after}, not to {before}"))?;
    kill_agent(&lab, NODE)?;
    eventually("the agent puts its key right", ROLLOUT, || {
        let key = lab
            .kubectl()
            .value(&["ipsecnode", NODE], "{.status.sealingKey.publicKey}")?;
        ensure(before == format!("x25519:{key}"), || key.clone())
    })?;
    gone(&lab)?;
    Ok("AdmissionPolicyMissing and SealingKeyUntrusted told, nothing sealed meanwhile, both healed".into())
}

/// An object as it was applied.
fn bare(object: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"],
        "metadata": {
            "name": object["metadata"]["name"],
            "labels": object["metadata"]["labels"],
            "annotations": object["metadata"]["annotations"],
        },
    })
}

/// The product without tunnels, and one node that the tunnel selects.
fn start(world: &World) -> Result<Arc<Lab>> {
    let pods = world.clear_mesh()?;
    let lab = pods.lab().clone();
    let namespace = ["-n", NAMESPACE, "--ignore-not-found"];
    for kind in [["secret", "storage"], ["configmap", "partner"]] {
        let words: Vec<&str> = ["delete"].into_iter().chain(kind).chain(namespace).collect();
        lab.kubectl().run(&words)?;
    }
    lab.kubectl()
        .run(&["label", "node", NODE, "pool=db", "--overwrite"])?;
    Ok(lab)
}

/// The tunnel as the cluster has it.
fn ours(peer: &str, auth: &str) -> String {
    format!(
        "apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata: {{name: storage}}
spec:
  local: {{nodeSelector: {{matchLabels: {{pool: db}}}}}}
  remote:
    type: External
    external: {{address: {peer}, identity: {{type: FQDN, value: {PEER}}}}}
  traffic: {{type: Host}}
  auth: {auth}
"
    )
}

/// The tunnel as the peer has it.
fn theirs(lab: &Lab, auth: &str) -> Result<String> {
    let identity = lab.kubectl().value(&["ipsecpeer", NODE], "{.spec.identity}")?;
    Ok(format!(
        "apiVersion: ipsecmesh.io/v1alpha1
kind: IPsecTunnel
metadata: {{name: mesh}}
spec:
  remote:
    type: External
    external:
      address: {}
      identity: {{type: FQDN, value: {identity}}}
      localIdentity: {{type: FQDN, value: {PEER}}}
  traffic: {{type: Host}}
  auth: {auth}
",
        lab.node(NODE)?.address()
    ))
}

fn secret(lab: &Lab, entries: &[(&str, &str)]) -> Result<()> {
    let data: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "ipsecmesh.io/psk", "stringData": data,
        "metadata": {"name": "storage", "namespace": NAMESPACE},
    });
    // A key that is not there any more has to go.
    lab.kubectl().run(&[
        "delete",
        "secret",
        "storage",
        "-n",
        NAMESPACE,
        "--ignore-not-found",
    ])?;
    lab.kubectl()
        .with_manifest(&["create"], &object.to_string())
        .map(drop)
}

fn config_map(lab: &Lab, roots: &str) -> Result<()> {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": roots},
        "metadata": {"name": "partner", "namespace": NAMESPACE},
    });
    lab.kubectl().apply(&object.to_string()).map(drop)
}

/// Waits until `ResolvedRefs` says why not, with the fix.
fn told(lab: &Lab, reason: &str, word: &str) -> Result<()> {
    said_of(lab, "ResolvedRefs", reason, word)
}

/// Waits until a condition says why not.
fn said_of(lab: &Lab, type_: &str, reason: &str, word: &str) -> Result<()> {
    let condition = format!("{{.status.conditions[?(@.type==\"{type_}\")]");
    let template = format!("{condition}.status}} {condition}.reason}} {condition}.message}}");
    eventually(&format!("{type_}=False, {reason}"), TOLD, || {
        let said = lab.kubectl().value(TUNNEL, &template)?;
        let right = said.starts_with(&format!("False {reason} ")) && said.contains(word);
        ensure(right, || said.clone())
    })
}

fn enforced(lab: &Lab, outside: &Outside) -> Result<()> {
    lab.kubectl()
        .wait_for_value(TUNNEL, READY, "Enforcing True", ROLLOUT)
        .map_err(|error| {
            let conditions = lab.kubectl().value(TUNNEL, "{.status.conditions}");
            let conditions = conditions.unwrap_or_default();
            Error::observed(format!("{error}\n{conditions}\noutside: {}", outside.log()))
        })
}

/// SAs on the node that is selected, none on another one.
fn one_pair(lab: &Lab) -> Result<()> {
    let (mine, other) = (lab.kernel_sas(NODE)?, lab.kernel_sas(OTHER)?);
    ensure(mine.len() == 2 && other.is_empty(), || {
        format!("{NODE} has {mine:?}, {OTHER} has {other:?}")
    })?;
    let pairs = lab
        .kubectl()
        .value(TUNNEL, "{.status.nodes.selected} {.status.pairs.desired}")?;
    ensure(pairs == "1 1", || format!("nodes and pairs: {pairs}"))
}

/// Pings both ways that all come back, with nothing of them readable on the wire.
fn encrypted(lab: &Lab, outside: &Outside) -> Result<String> {
    let capture = lab.capture(NODE, ALL_BUT_API)?;
    let node = lab.node(NODE)?;
    ping(&node, &outside.address())?;
    ping(outside.node(), &node.address().to_string())?;
    let wire = capture.finish()?;
    let ends: [Ipv4Addr; 2] = [node.address(), outside.node().address()];
    let (esp, readable) = (wire.counts_between(&ends).esp, wire.readable(MARKER));
    ensure(esp >= 40 && readable == 0, || {
        format!("{esp} ESP packets, {readable} readable ones")
    })?;
    Ok(format!("{esp} ESP packets both ways, 0 in clear"))
}

fn ping(from: &ipsecmesh_e2e::lab::Node, to: &str) -> Result<()> {
    let pattern: String = MARKER
        .bytes()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let said = from.run(&[
        "ping", "-n", "-c", "10", "-i", "0.1", "-W", "2", "-s", "64", "-p", &pattern, to,
    ])?;
    ensure(said.contains(" 0% packet loss"), || said.clone())
}

/// The second key beside the first one, then alone, with a new IKE SA after each step, under steady pings.
fn change_the_key(lab: &Lab, outside: &mut Outside) -> Result<String> {
    let peer = outside.address();
    let line = format!("exec ping -n -i 0.02 -W 5 {peer}");
    let pings = Task::start(lab.node(NODE)?.channel(), "ping", &line)?;
    pings.wait_for("bytes from", SOON)?;
    // The cluster is ahead: the peer still proves itself with the former key.
    secret(lab, &[("psk", SECOND), ("psk-previous", FIRST)])?;
    resealed(lab)?;
    anew(lab, outside)?;
    outside.write("secrets/mesh/psk-previous", FIRST)?;
    outside.write("secrets/mesh/psk", SECOND)?;
    anew(lab, outside)?;
    // The former key is done with on both sides.
    secret(lab, &[("psk", SECOND)])?;
    resealed(lab)?;
    outside.remove("secrets/mesh/psk-previous")?;
    anew(lab, outside)?;
    lab.node(NODE)?.run(&["pkill", "-INT", "-x", "ping"])?;
    let (_, said) = pings.wait(SOON)?;
    ensure(said.contains(" 0% packet loss"), || {
        said.lines().rev().take(6).collect::<Vec<_>>().join("\n")
    })?;
    let sent = said
        .lines()
        .rev()
        .find(|line| line.contains("packets transmitted"));
    Ok(format!(
        "two keys changed, 3 new IKE SAs: {}",
        sent.unwrap_or_default().trim()
    ))
}

/// Waits until the node has taken the present version of the Secret over.
fn resealed(lab: &Lab) -> Result<()> {
    let version = lab.kubectl().value(
        &["secret", "storage", "-n", NAMESPACE],
        "{.metadata.resourceVersion}",
    )?;
    let template = "{.spec.sealedCredentials[0].keyID} {.metadata.generation} {.status.observedGeneration}";
    eventually("the node has the present key", TOLD, || {
        let said = lab.kubectl().value(&["ipsecnode", NODE], template)?;
        let words: Vec<&str> = said.split(' ').collect();
        let present = matches!(words.as_slice(), [id, generation, observed]
            if id.starts_with(&format!("rv-{version}-")) && generation == observed);
        ensure(present, || format!("{said}, the Secret has {version}"))
    })
}

/// The peer's agent dies and comes back: its IKE SA is a new one, the kernels' SAs stay until the new ones stand.
fn anew(lab: &Lab, outside: &mut Outside) -> Result<()> {
    let before = lab.kernel_sas(NODE)?;
    outside.kill()?;
    outside.run()?;
    replaced(lab, outside, &before)
}

/// Waits until one pair of SAs stands that was not there before.
fn replaced(lab: &Lab, outside: &Outside, before: &[KernelSa]) -> Result<()> {
    eventually("new SAs", ROLLOUT, || {
        let now = lab.kernel_sas(NODE)?;
        let fresh = now.len() == 2 && now.iter().all(|sa| !before.contains(sa));
        ensure(fresh, || {
            let failing = lab.kubectl().value(TUNNEL, "{.status.failingPairs}");
            let failing = failing.unwrap_or_default();
            format!("{now:?} {failing}\noutside: {}", outside.log())
        })
    })
}

/// What the node's agent has said.
fn agent_log(lab: &Lab) -> Result<String> {
    let name = format!("{NAMESPACE}_{}_agent.log", lab.agent_pod(NODE)?);
    let path = lab.node(NODE)?.logs().join(name);
    fs::read_to_string(&path).context(|| format!("read {}", path.display()))
}

/// Only the selected node has a sealed credential, and the API shows no key in any form.
fn sealed_and_not_shown(lab: &Lab, keys: &[&str]) -> Result<()> {
    let has = |node: &str| {
        lab.kubectl()
            .value(&["ipsecnode", node], "{.spec.sealedCredentials[*].tunnel}")
    };
    let (mine, other) = (has(NODE)?, has(OTHER)?);
    ensure((mine.as_str(), other.as_str()) == ("storage", ""), || {
        format!("{NODE} has {mine:?}, {OTHER} has {other:?}")
    })?;
    let all = lab.kubectl().run(&[
        "get",
        "ipsecnode,ipsecpeer,ipsectunnel,events",
        "-A",
        "-o",
        "yaml",
    ])?;
    for key in keys {
        let encoded = serde_json::to_value(k8s_openapi::ByteString(key.as_bytes().to_vec()));
        let encoded = encoded.map_err(|error| Error::observed(error.to_string()))?;
        let encoded = encoded
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('=')
            .to_owned();
        ensure(!all.contains(key) && !all.contains(&encoded), || {
            "the API shows a pre-shared key".to_owned()
        })?;
    }
    Ok(())
}

/// The tunnel is deleted: no SA, no policy and no credential is left on the node.
fn gone(lab: &Lab) -> Result<()> {
    lab.kubectl()
        .run(&["delete", "ipsectunnel", "storage", "--timeout=60s"])?;
    eventually("nothing is left", ROLLOUT, || {
        let left = lab.our_kernel_state(NODE)?;
        let sealed = lab
            .kubectl()
            .value(&["ipsecnode", NODE], "{.spec.sealedCredentials}")?;
        ensure(left == (0, 0) && sealed.is_empty(), || {
            format!("{left:?} {sealed}")
        })
    })?;
    lab.kubectl().run(&["label", "node", NODE, "pool-"]).map(drop)
}

/// An authority that the cluster does not know, and the peer's certificate of it.
struct Partner {
    root: String,
    certificate: String,
    key: String,
}

impl Partner {
    fn new() -> Result<Self> {
        let failed = |error: rcgen::Error| Error::observed(format!("the partner's authority: {error}"));
        let lasting = |mut params: CertificateParams, name: &str| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2099, 1, 1);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut params = lasting(CertificateParams::default(), "partner");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(failed)?).map_err(failed)?;
        let mut params = lasting(CertificateParams::new([PEER.to_owned()]).map_err(failed)?, PEER);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])];
        let key = KeyPair::generate().map_err(failed)?;
        Ok(Self {
            root: issuer.pem(),
            certificate: params.signed_by(&key, &issuer).map_err(failed)?.pem(),
            key: key.serialize_pem(),
        })
    }
}
