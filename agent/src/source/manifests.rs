//! The objects of a host without Kubernetes: the same kinds in YAML files of one folder, checked as the API server checks
//! them, and read again when they change. There is no operator: what it would decide is decided here.

mod certificates;
mod crls;
mod folder;
mod locate;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_crds::tunnel::auth::DEFAULT_AUTHORITY;
use ipsecmesh_crds::tunnel::{
    AuthType, EffectiveOverlay, FailurePolicy, RemoteType, SecretKeyRef, TrafficType,
};
use ipsecmesh_crds::{
    IPsecAuthority, IPsecAuthoritySpec, IPsecPeer, IPsecTunnel, IPsecTunnelStatus, Phase, tunnel,
};
use ipsecmesh_ike::Identity;
use ipsecmesh_ike::crypto::Provider;
use kube::core::{Selector, SelectorExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::clock::wall;
use crate::identity;
use crate::identity::keystore::NodeCertificate;
use crate::identity::renew::IdentityState;
use crate::identity::revocation::Revocation;
use crate::model::{ExternalAuth, Membership, Overlay, Peer, Psk, Tunnel};
use crate::source::Snapshot;
use crate::source::convert::{self, RankedTunnel};
use crate::source::kube::tell;
use crate::source::manifests::certificates::Own;
use crate::source::manifests::crls::Revocations;
use crate::source::manifests::folder::{Document, Folder};
use crate::source::table::Row;
use crate::task::Task;

/// How soon a change of a file is seen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Labels = BTreeMap<String, String>;

/// What the files say: objects, and who this host is.
pub(crate) struct Manifests {
    /// The objects.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The host's certificate.
    pub(crate) identity: watch::Receiver<IdentityState>,
    /// What reads them.
    pub(crate) task: Task,
}

/// Follows the files in `folder` for the host `name`.
pub(crate) fn follow(folder: PathBuf, name: &str, provider: &'static Provider) -> Manifests {
    let (publisher, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (state, identity) = watch::channel(IdentityState::default());
    let follower = Follower {
        reader: Reader::new(folder, name, provider),
        publisher,
        state,
    };
    Manifests {
        snapshots,
        identity,
        task: Task::spawn("manifests", follower.run()),
    }
}

struct Follower {
    reader: Reader,
    publisher: watch::Sender<Arc<Snapshot>>,
    state: watch::Sender<IdentityState>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let snapshot = self.reader.look();
            // First, so that a peer that starts finds it.
            let certificate = self.reader.certificate.as_ref();
            self.state.send_if_modified(|present| {
                let print = |one: &Arc<NodeCertificate>| one.fingerprint();
                let fresh = present.certificate.as_ref().map(print) != certificate.map(print);
                if fresh {
                    present.certificate = certificate.cloned();
                }
                fresh
            });
            self.publisher.send_if_modified(|present| {
                let fresh = **present != snapshot;
                if fresh {
                    tell(present, &snapshot);
                    *present = Arc::new(snapshot);
                }
                fresh
            });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What the files said last.
struct Reader {
    path: PathBuf,
    name: String,
    folder: Folder,
    tunnels: BTreeMap<String, RankedTunnel>,
    psks: BTreeMap<String, Psk>,
    ppks: BTreeMap<String, Psk>,
    own: Own,
    certificate: Option<Arc<NodeCertificate>>,
    bundles: BTreeMap<(String, String), String>,
    /// Roots of authorities.
    roots: BTreeMap<String, String>,
    revocations: Revocations,
}

impl Reader {
    fn new(path: PathBuf, name: &str, provider: &'static Provider) -> Self {
        Self {
            folder: Folder::new(path.clone()),
            path,
            name: name.to_owned(),
            tunnels: BTreeMap::new(),
            psks: BTreeMap::new(),
            ppks: BTreeMap::new(),
            own: Own::new(provider),
            certificate: None,
            bundles: BTreeMap::new(),
            roots: BTreeMap::new(),
            revocations: Revocations::default(),
        }
    }

    /// Reads what has changed, and says everything.
    fn look(&mut self) -> Snapshot {
        self.folder.look();
        let mut refused: BTreeMap<String, String> = self.folder.problems().collect();
        let documents = first_of_each(self.folder.documents(), &mut refused);
        let mut peers = Vec::new();
        for document in documents.iter().filter(|document| document.kind == "IPsecPeer") {
            let Some(object) = parsed::<IPsecPeer>(document, &mut refused) else {
                continue;
            };
            let labels = object.metadata.labels.clone().unwrap_or_default();
            let peer = note(document, convert::peer(&object, None), &mut refused);
            peers.extend(peer.map(|peer| (labels, peer)));
        }
        let mut directory = Directory::new(&self.name, peers);
        let mut ranked = BTreeMap::new();
        let (mut wanted, mut quantum) = (Vec::new(), Vec::new());
        for document in documents.iter().filter(|document| document.kind == "IPsecTunnel") {
            let Some(mut object) = parsed::<IPsecTunnel>(document, &mut refused) else {
                continue;
            };
            if let Err(problem) = directory.select(&object) {
                refused.insert(object_name(document), placed(document, &problem));
                continue;
            }
            decide(&mut object);
            let row = convert::tunnel(&object, self.tunnels.get(&document.name));
            let row = complete(&object, row);
            if let Some(tunnel) = note(document, row, &mut refused) {
                wanted.extend(psk_of(&object).map(|key| (document.name.clone(), key)));
                let ppk = object.spec.auth.ppk.as_ref();
                quantum.extend(ppk.map(|ppk| (document.name.clone(), ppk.secret_ref.clone())));
                ranked.insert(document.name.clone(), tunnel);
            }
        }
        self.tunnels = ranked;
        let (keys, problems) = secrets::refresh(&self.path, "spec.auth.psk", &wanted, &self.psks);
        self.psks = keys;
        let (keys, more) = secrets::refresh(&self.path, "spec.auth.ppk", &quantum, &self.ppks);
        self.ppks = keys;
        for (tunnel, problem) in problems.into_iter().chain(more) {
            add(&mut refused, format!("IPsecTunnel {tunnel}"), problem);
        }
        let authorities = self.authorities(&documents, &mut refused);
        self.certify(&mut refused);
        let revocations = self.revoked(&authorities, &mut refused);
        if let Some(certificate) = &self.certificate
            && directory.own.identity.is_empty()
            && let Some(name) = certificate.leaf.dns_names.first()
        {
            directory.own.identity.clone_from(name);
        }
        self.doubt_own_identity(&directory.own, &mut refused);
        Snapshot {
            synced: true,
            tunnels: self.in_order(),
            peers: directory.others,
            own: Some(directory.own),
            node: None,
            authorities,
            psks: self.psks.clone(),
            ppks: self.ppks.clone(),
            bundles: self.bundles.clone(),
            revocations,
            host: true,
            refused,
        }
    }

    /// This host's certificate and the roots of its peers, as the tunnels name them. What is worse than what stood there
    /// before changes nothing.
    fn certify(&mut self, refused: &mut BTreeMap<String, String>) {
        let mut bundles = BTreeMap::new();
        let mut used: Option<String> = None;
        for (name, ranked) in &self.tunnels {
            let Some((authority, bundle)) = certified_by(&ranked.tunnel) else {
                continue;
            };
            let object = format!("IPsecTunnel {name}");
            if let Some(first) = used.as_ref().filter(|first| *first != authority) {
                add(
                    refused,
                    object.clone(),
                    format!(
                        "spec.auth.certificate.authorityRef.name: {authority}: another tunnel uses {first}, and a host has \
                         one certificate: name the same in all"
                    ),
                );
                continue;
            }
            if let Some((bundle, key)) = bundle {
                let before = self.bundles.remove(&(bundle.clone(), key.clone()));
                match certificates::bundle(&self.path, bundle, key) {
                    Ok(pem) => {
                        bundles.insert((bundle.clone(), key.clone()), pem);
                    }
                    Err(problem) => {
                        add(
                            refused,
                            object.clone(),
                            format!("spec.auth.certificate.trustBundleRef: {problem}"),
                        );
                        bundles.extend(before.map(|pem| ((bundle.clone(), key.clone()), pem)));
                    }
                }
            }
            if used.is_none() {
                used = Some(authority.to_owned());
                match self.own.look(&self.path, authority, wall().as_secs()) {
                    Ok(certificate) => self.certificate = Some(certificate),
                    Err(problem) => {
                        let kept = if self.certificate.is_some() {
                            "; the certificate that was read before stays in use"
                        } else {
                            ""
                        };
                        add(
                            refused,
                            object,
                            format!("spec.auth.certificate.authorityRef: {problem}{kept}"),
                        );
                    }
                }
            }
        }
        self.bundles = bundles;
    }

    /// A certificate that does not carry the name that this host will claim is refused by every peer: it is told before.
    fn doubt_own_identity(&self, own: &Peer, refused: &mut BTreeMap<String, String>) {
        let Some(leaf) = self.certificate.as_ref().map(|certificate| &certificate.leaf) else {
            return;
        };
        for (name, ranked) in &self.tunnels {
            let Some((authority, _)) = certified_by(&ranked.tunnel) else {
                continue;
            };
            let told = ranked
                .tunnel
                .external()
                .and_then(|external| external.local_identity.clone());
            let (object, field, identity) = match told {
                Some(identity) => (
                    format!("IPsecTunnel {name}"),
                    "spec.remote.external.localIdentity",
                    identity,
                ),
                None if own.identity.is_empty() => continue,
                None => (
                    format!("IPsecPeer {}", own.node),
                    "spec.identity",
                    Identity::Fqdn(own.identity.clone()),
                ),
            };
            if !leaf.carries(&identity) {
                let problem = format!(
                    "{field}: certificates/{authority}/tls.crt does not carry {identity}, only {}: name one of these, or \
                     have a certificate issued that carries it",
                    leaf.identities()
                );
                refused.entry(object).or_insert(problem);
            }
        }
    }

    /// The revocation lists beside the roots of authorities and peers.
    fn revoked(
        &mut self,
        authorities: &BTreeMap<String, crate::model::Authority>,
        refused: &mut BTreeMap<String, String>,
    ) -> BTreeMap<String, Arc<Revocation>> {
        let of_authorities = authorities
            .keys()
            .map(|name| (identity::authority_folder(name), format!("IPsecAuthority {name}")));
        let of_bundles = self
            .bundles
            .keys()
            .map(|(name, _)| (identity::bundle_folder(name), identity::bundle_folder(name)));
        let objects: BTreeMap<String, String> = of_authorities.chain(of_bundles).collect();
        let wanted = objects.keys().cloned().collect();
        let (lists, problems) = self.revocations.look(&self.path, &wanted, wall().as_secs());
        for (folder, problem) in problems {
            let object = objects.get(&folder).cloned().unwrap_or(folder);
            add(refused, object, problem);
        }
        lists
    }

    fn in_order(&self) -> Vec<Tunnel> {
        let mut ranked: Vec<&RankedTunnel> = self.tunnels.values().collect();
        ranked.sort_by(|a, b| a.rank.cmp(&b.rank));
        let numbered = ranked.into_iter().enumerate();
        numbered
            .map(|(order, ranked)| Tunnel {
                order,
                ..ranked.tunnel.clone()
            })
            .collect()
    }

    /// The authorities that objects declare or tunnels name, with the roots in their folders. One of which there is nothing
    /// more to say needs no object.
    fn authorities(
        &mut self,
        documents: &[Document],
        refused: &mut BTreeMap<String, String>,
    ) -> BTreeMap<String, crate::model::Authority> {
        let mut wanted = BTreeMap::new();
        for document in documents
            .iter()
            .filter(|document| document.kind == "IPsecAuthority")
        {
            if let Some(object) = parsed::<IPsecAuthority>(document, refused) {
                let blamed = (object_name(document), format!("{}: ", document.place("")));
                wanted.insert(document.name.clone(), (blamed, object));
            }
        }
        for (tunnel, ranked) in &self.tunnels {
            if let Some((authority, None)) = certified_by(&ranked.tunnel) {
                wanted.entry(authority.to_owned()).or_insert_with(|| {
                    let field = "spec.auth.certificate.authorityRef: ".to_owned();
                    let object = IPsecAuthority::new(authority, IPsecAuthoritySpec::default());
                    ((format!("IPsecTunnel {tunnel}"), field), object)
                });
            }
        }
        let before = std::mem::take(&mut self.roots);
        let mut authorities = BTreeMap::new();
        for (name, ((blamed, place), mut object)) in wanted {
            let roots = certificates::roots(&self.path, &name).or_else(|problem| {
                let before = before.get(&name).cloned();
                let kept = before
                    .as_ref()
                    .map_or("", |_| "; the roots that were read before stay in force");
                add(refused, blamed, format!("{place}{problem}{kept}"));
                before.ok_or(())
            });
            let Ok(roots) = roots else { continue };
            object.status.get_or_insert_default().bundle = Some(roots.clone());
            self.roots.insert(name.clone(), roots);
            authorities.extend(
                convert::authority(&object, None)
                    .value
                    .map(|authority| (name, authority)),
            );
        }
        authorities
    }
}

/// The authority of this host's certificate in a tunnel, and the bundle that its peer is judged by where it is another.
fn certified_by(tunnel: &Tunnel) -> Option<(&str, Option<&(String, String)>)> {
    match tunnel.external().map(|external| &external.auth) {
        Some(ExternalAuth::Psk) => None,
        Some(ExternalAuth::Certificate {
            authority,
            trust_bundle,
        }) => Some((authority.as_str(), trust_bundle.as_ref())),
        None => Some((DEFAULT_AUTHORITY, None)),
    }
}

/// The hosts that the files name.
struct Directory {
    own: Peer,
    own_labels: Labels,
    others: Vec<Peer>,
    labels: Vec<Labels>,
}

impl Directory {
    fn new(name: &str, peers: Vec<(Labels, Peer)>) -> Self {
        let (own, others): (Vec<_>, Vec<_>) = peers.into_iter().partition(|(_, peer)| peer.node == name);
        // A host that no file names takes part all the same: in tunnels to external peers.
        let nobody = Peer {
            node: name.to_owned(),
            uid: format!("host:{name}"),
            boot: None,
            identity: String::new(),
            addresses: Vec::new(),
            pods: Vec::new(),
            keys: BTreeSet::new(),
            memberships: Vec::new(),
        };
        let (own_labels, own) = own.into_iter().next().unwrap_or_else(|| (Labels::new(), nobody));
        let (labels, others) = others.into_iter().unzip();
        Self {
            own,
            own_labels,
            others,
            labels,
        }
    }

    /// Makes members of a tunnel of those whom its selectors choose, as the operator of a cluster does. A membership that
    /// a file states stays as it is.
    fn select(&mut self, object: &IPsecTunnel) -> Result<(), String> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let parse = |field: &str, selector: &_| {
            let selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector = selector;
            Selector::try_from(selector.clone()).map_err(|error| {
                format!("{field}: {error}; operators are In, NotIn, Exists and DoesNotExist")
            })
        };
        let local = parse("spec.local.nodeSelector", &object.spec.local.node_selector)?;
        let remote = match object.spec.remote_selector() {
            Some(selector) => Some(parse("spec.remote.nodes.nodeSelector", &selector)?),
            None => None,
        };
        let others = self.others.iter_mut().zip(&self.labels);
        for (peer, labels) in std::iter::once((&mut self.own, &self.own_labels)).chain(others) {
            if peer.membership(name).is_some() {
                continue;
            }
            let sides = (
                local.matches(labels),
                remote.as_ref().is_some_and(|remote| remote.matches(labels)),
            );
            if sides.0 || sides.1 {
                peer.memberships.push(Membership {
                    tunnel: name.to_owned(),
                    local: sides.0,
                    remote: sides.1,
                    phase: None,
                });
            }
        }
        Ok(())
    }
}

/// What an operator would write into the status: there are no others to wait for, so a tunnel is where it is to be.
fn decide(object: &mut IPsecTunnel) {
    let name = object.metadata.name.clone().unwrap_or_default();
    object.metadata.uid = Some(format!("host:{name}"));
    let overlay = object.spec.traffic.overlay.iter();
    let named = overlay.map(|entry| (entry.protocol, entry.port));
    let pods = (object.spec.traffic.type_ == TrafficType::PodNetwork).then_some(Overlay::POD_NETWORK);
    let effective_overlay = named
        .chain(pods.map(|overlay| (overlay.protocol, overlay.port)))
        .map(|(protocol, port)| EffectiveOverlay {
            protocol,
            port,
            phase: None,
        })
        .collect();
    object.status = Some(IPsecTunnelStatus {
        rollout: Some(tunnel::Rollout {
            generation: 1,
            since: None,
            phase: match object.spec.failure_policy {
                FailurePolicy::Block => Phase::Enforcing,
                FailurePolicy::Allow => Phase::Permissive,
            },
        }),
        effective_overlay,
        ..IPsecTunnelStatus::default()
    });
}

/// What only a cluster could find out must be said.
fn complete(object: &IPsecTunnel, row: Row<RankedTunnel>) -> Row<RankedTunnel> {
    let traffic = &object.spec.traffic;
    let undetected = object.spec.remote.type_ == RemoteType::Nodes
        && traffic.type_ == TrafficType::Overlay
        && traffic.overlay.is_empty();
    let problem = undetected.then(|| {
        "spec.traffic.overlay: Required value: without a cluster nobody detects the overlay; name its encapsulation, such as \
         [{protocol: 17, port: 4789}] for VXLAN"
            .to_owned()
    });
    Row {
        problem: row.problem.or(problem),
        ..row
    }
}

fn psk_of(object: &IPsecTunnel) -> Option<SecretKeyRef> {
    let auth = &object.spec.auth;
    let psk = auth.psk.as_ref().filter(|_| auth.type_ == AuthType::Psk)?;
    Some(psk.secret_ref.clone())
}

/// Of two objects with one kind and name the first counts, in the order of files.
fn first_of_each<'a>(
    documents: impl Iterator<Item = &'a Document>,
    refused: &mut BTreeMap<String, String>,
) -> Vec<Document> {
    let mut found: BTreeMap<String, &Document> = BTreeMap::new();
    let mut first = Vec::new();
    for document in documents {
        let name = object_name(document);
        if document.kind == "IPsecNode" {
            let problem = "kind: the machinery of a cluster writes it; here it says nothing: remove it";
            refused.insert(name, placed(document, problem));
        } else if let Some(winner) = found.get(&name) {
            let place = winner.place("");
            let problem = format!(
                "metadata.name: {name} stands at {place} already, and that counts: remove one of both"
            );
            add(refused, name, placed(document, &problem));
        } else {
            found.insert(name, document);
            first.push(document.clone());
        }
    }
    first
}

/// What is wrong with an object, beside what is wrong already.
fn add(refused: &mut BTreeMap<String, String>, object: String, problem: String) {
    refused
        .entry(object)
        .and_modify(|text| *text = format!("{text}\n{problem}"))
        .or_insert(problem);
}

fn object_name(document: &Document) -> String {
    format!("{} {}", document.kind, document.name)
}

fn parsed<K: DeserializeOwned>(document: &Document, refused: &mut BTreeMap<String, String>) -> Option<K> {
    serde_json::from_value(document.object.clone())
        .map_err(|error| refused.insert(object_name(document), placed(document, &error.to_string())))
        .ok()
}

/// The value of a row; what is wrong with it is noted with its place.
fn note<T>(document: &Document, row: Row<T>, refused: &mut BTreeMap<String, String>) -> Option<T> {
    if let Some(problem) = row.problem {
        add(refused, object_name(document), placed(document, &problem));
    }
    row.value
}

/// What is wrong, behind the place of the field that it begins with.
fn placed(document: &Document, problem: &str) -> String {
    let field = problem.split(": ").next().filter(|field| !field.contains(' '));
    format!("{}: {problem}", document.place(field.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
