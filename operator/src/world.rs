//! What the operator sees of the cluster: one watch and one store per kind, and who is told when something changes.
//!
//! Nothing is decided before every store has its first complete list: a partial list would remove members.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel, PSK_SECRET_TYPE, SIGNER};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

/// How many requests to reconcile may wait in front of one controller; a watch waits for room.
const QUEUE: usize = 1024;

/// The stores of all watched kinds.
#[derive(Clone)]
pub(crate) struct Stores {
    /// Tunnels.
    pub(crate) tunnels: Store<IPsecTunnel>,
    /// Authorities.
    pub(crate) authorities: Store<IPsecAuthority>,
    /// The directory.
    pub(crate) peers: Store<IPsecPeer>,
    /// Nodes as their agents report them.
    pub(crate) agents: Store<IPsecNode>,
    /// The cluster's Nodes, reduced to what a plan reads.
    pub(crate) nodes: Store<Node>,
    /// The ConfigMaps of the operator's namespace: the uninstall marker, and roots of external peers.
    pub(crate) config_maps: Store<ConfigMap>,
    /// The Secrets of the operator's namespace that hold pre-shared keys; no others.
    pub(crate) secrets: Store<Secret>,
    /// Certificate signing requests for our signer.
    pub(crate) requests: Store<CertificateSigningRequest>,
    /// Admission policies.
    pub(crate) policies: Store<ValidatingAdmissionPolicy>,
    /// Their bindings.
    pub(crate) bindings: Store<ValidatingAdmissionPolicyBinding>,
    /// The API server's endpoints.
    pub(crate) endpoints: Store<EndpointSlice>,
    /// The networks of Services.
    pub(crate) service_cidrs: Store<ServiceCIDR>,
}

/// Where requests to reconcile arrive, one queue a controller.
pub(crate) struct Queues {
    /// For `controller/tunnel.rs`.
    pub(crate) tunnels: mpsc::Receiver<ObjectRef<IPsecTunnel>>,
    /// For `controller/authority.rs`.
    pub(crate) authorities: mpsc::Receiver<ObjectRef<IPsecAuthority>>,
    /// For `controller/node.rs`.
    pub(crate) nodes: mpsc::Receiver<ObjectRef<Node>>,
    /// For `controller/csr.rs`.
    pub(crate) requests: mpsc::Receiver<ObjectRef<CertificateSigningRequest>>,
}

/// Asks the controllers to look again.
#[derive(Clone)]
pub(crate) struct Triggers {
    live: std::sync::Arc<AtomicBool>,
    stores: Stores,
    tunnels: mpsc::Sender<ObjectRef<IPsecTunnel>>,
    authorities: mpsc::Sender<ObjectRef<IPsecAuthority>>,
    nodes: mpsc::Sender<ObjectRef<Node>>,
    requests: mpsc::Sender<ObjectRef<CertificateSigningRequest>>,
}

/// Whom a change concerns.
#[derive(Clone, Debug)]
enum Concern {
    AllAuthorities,
    AllNodes,
    AllRequests,
    AllTunnels,
    Authority(String),
    Node(String),
    Request(String),
}

/// Starts all watches in `tasks`; `namespace` is the operator's own.
#[expect(clippy::too_many_lines, reason = "one line a kind")]
pub(crate) fn watch_all(
    client: &Client,
    namespace: &str,
    tasks: &mut JoinSet<&'static str>,
) -> (Triggers, Queues) {
    let (stores, writers) = stores();
    let (triggers, queues) = Triggers::new(stores);
    let all = Config::default();
    let psks = Config::default().fields(&format!("type={PSK_SECRET_TYPE}"));
    let ours = Config::default().fields(&format!("spec.signerName={SIGNER}"));
    let api_server = Config::default().labels("kubernetes.io/service-name=kubernetes");
    let mut start = |name: &'static str, task: futures::future::BoxFuture<'static, ()>| {
        tasks.spawn(async move {
            task.await;
            name
        });
    };
    macro_rules! watch {
        ($name:literal, $api:expr, $config:expr, $writer:expr, $concerns:expr) => {
            start(
                $name,
                Box::pin(watch(
                    $name,
                    $api,
                    $config,
                    $writer,
                    triggers.clone(),
                    $concerns,
                )),
            )
        };
    }
    watch!(
        "ipsectunnels",
        Api::all(client.clone()),
        all.clone(),
        writers.tunnel,
        of_tunnel
    );
    watch!(
        "ipsecauthorities",
        Api::all(client.clone()),
        all.clone(),
        writers.authority,
        of_authority
    );
    watch!(
        "ipsecpeers",
        Api::all(client.clone()),
        all.clone(),
        writers.peer,
        of_peer
    );
    watch!(
        "ipsecnodes",
        Api::all(client.clone()),
        all.clone(),
        writers.agent,
        of_agent
    );
    watch!(
        "nodes",
        Api::all(client.clone()),
        all.clone(),
        writers.node,
        of_node
    );
    watch!(
        "configmaps",
        Api::namespaced(client.clone(), namespace),
        all.clone(),
        writers.config_map,
        to_all_tunnels
    );
    watch!(
        "secrets",
        Api::namespaced(client.clone(), namespace),
        psks,
        writers.secret,
        to_all_tunnels
    );
    watch!(
        "certificatesigningrequests",
        Api::all(client.clone()),
        ours,
        writers.request,
        of_request
    );
    watch!(
        "validatingadmissionpolicies",
        Api::all(client.clone()),
        all.clone(),
        writers.policy,
        to_all_tunnels
    );
    watch!(
        "validatingadmissionpolicybindings",
        Api::all(client.clone()),
        all.clone(),
        writers.binding,
        to_all_tunnels
    );
    let endpoint_api = Api::namespaced(client.clone(), "default");
    watch!(
        "endpointslices",
        endpoint_api,
        api_server,
        writers.endpoint,
        to_all_nodes
    );
    watch!(
        "servicecidrs",
        Api::all(client.clone()),
        all,
        writers.service,
        to_all_nodes
    );
    (triggers, queues)
}

/// The other ends of [`Stores`].
struct Writers {
    tunnel: Writer<IPsecTunnel>,
    authority: Writer<IPsecAuthority>,
    peer: Writer<IPsecPeer>,
    agent: Writer<IPsecNode>,
    node: Writer<Node>,
    config_map: Writer<ConfigMap>,
    secret: Writer<Secret>,
    request: Writer<CertificateSigningRequest>,
    policy: Writer<ValidatingAdmissionPolicy>,
    binding: Writer<ValidatingAdmissionPolicyBinding>,
    endpoint: Writer<EndpointSlice>,
    service: Writer<ServiceCIDR>,
}

fn stores() -> (Stores, Writers) {
    let (tunnels, tunnel) = store();
    let (authorities, authority) = store();
    let (peers, peer) = store();
    let (agents, agent) = store();
    let (nodes, node) = store();
    let (config_maps, config_map) = store();
    let (secrets, secret) = store();
    let (requests, request) = store();
    let (policies, policy) = store();
    let (bindings, binding) = store();
    let (endpoints, endpoint) = store();
    let (service_cidrs, service) = store();
    let stores = Stores {
        tunnels,
        authorities,
        peers,
        agents,
        nodes,
        config_maps,
        secrets,
        requests,
        policies,
        bindings,
        endpoints,
        service_cidrs,
    };
    let writers = Writers {
        tunnel,
        authority,
        peer,
        agent,
        node,
        config_map,
        secret,
        request,
        policy,
        binding,
        endpoint,
        service,
    };
    (stores, writers)
}

impl Stores {
    /// Waits until every store has its first complete list.
    pub(crate) async fn ready(&self) {
        /// Says which list is missing when it takes long: a missing permission shows here.
        async fn one<K>(name: &str, store: &Store<K>)
        where
            K: Resource<DynamicType: Eq + Hash + Clone + Default> + Clone + 'static,
        {
            while tokio::time::timeout(Duration::from_secs(10), store.wait_until_ready())
                .await
                .is_err()
            {
                tracing::warn!(kind = name, "still waiting for the first list");
            }
        }
        one("ipsectunnels", &self.tunnels).await;
        one("ipsecauthorities", &self.authorities).await;
        one("ipsecpeers", &self.peers).await;
        one("ipsecnodes", &self.agents).await;
        one("nodes", &self.nodes).await;
        one("configmaps", &self.config_maps).await;
        one("secrets", &self.secrets).await;
        one("certificatesigningrequests", &self.requests).await;
        one("validatingadmissionpolicies", &self.policies).await;
        one("validatingadmissionpolicybindings", &self.bindings).await;
        one("endpointslices", &self.endpoints).await;
        one("servicecidrs", &self.service_cidrs).await;
    }
}

impl Triggers {
    fn new(stores: Stores) -> (Self, Queues) {
        let (tunnel_sender, tunnels) = mpsc::channel(QUEUE);
        let (authority_sender, authorities) = mpsc::channel(QUEUE);
        let (node_sender, nodes) = mpsc::channel(QUEUE);
        let (request_sender, requests) = mpsc::channel(QUEUE);
        let triggers = Self {
            live: std::sync::Arc::default(),
            stores,
            tunnels: tunnel_sender,
            authorities: authority_sender,
            nodes: node_sender,
            requests: request_sender,
        };
        let queues = Queues {
            tunnels,
            authorities,
            nodes,
            requests,
        };
        (triggers, queues)
    }

    /// The stores that this wakes the controllers for.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// From now on changes reach the controllers, which look at everything once.
    pub(crate) async fn go_live(&mut self) {
        self.live.store(true, Ordering::Release);
        for concern in [
            Concern::AllAuthorities,
            Concern::AllNodes,
            Concern::AllTunnels,
            Concern::AllRequests,
        ] {
            self.send(concern).await;
        }
    }

    /// The authority can sign now: look at the requests that wait for it, and at the tunnels that need it.
    pub(crate) async fn authority_changed(&mut self) {
        self.send(Concern::AllRequests).await;
        self.send(Concern::AllTunnels).await;
    }

    async fn send(&mut self, concern: Concern) {
        // A closed queue means that the process ends: nobody is left to be told.
        match concern {
            Concern::AllAuthorities => send_all(&mut self.authorities, &self.stores.authorities).await,
            Concern::AllNodes => send_all(&mut self.nodes, &self.stores.nodes).await,
            Concern::AllRequests => send_all(&mut self.requests, &self.stores.requests).await,
            Concern::AllTunnels => send_all(&mut self.tunnels, &self.stores.tunnels).await,
            Concern::Authority(name) => drop(self.authorities.send(ObjectRef::new(&name)).await),
            Concern::Node(name) => drop(self.nodes.send(ObjectRef::new(&name)).await),
            Concern::Request(name) => drop(self.requests.send(ObjectRef::new(&name)).await),
        }
    }
}

async fn send_all<K>(queue: &mut mpsc::Sender<ObjectRef<K>>, store: &Store<K>)
where
    K: Resource<DynamicType = ()> + Clone,
{
    for object in store.state() {
        drop(queue.send(ObjectRef::from_obj(object.as_ref())).await);
    }
}

/// Feeds one store and tells the controllers. A bad object is skipped and logged, a failing watch is retried.
async fn watch<K>(
    name: &'static str,
    api: Api<DeserializeGuard<K>>,
    config: Config,
    mut writer: Writer<K>,
    mut triggers: Triggers,
    concerns: fn(&K, bool) -> Vec<Concern>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + PartialEq + Send + Sync + 'static,
{
    let reader = writer.as_reader();
    let mut events = Box::pin(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(kind = name, %error, "the watch failed and is tried again");
                continue;
            }
        };
        let Some(event) = readable(name, event) else {
            continue;
        };
        let found = match &event {
            Event::Apply(object) => {
                let before = reader.get(&ObjectRef::from_obj(object));
                let is_news = before.as_deref() != Some(object);
                if is_news {
                    concerns(object, false)
                } else {
                    Vec::new()
                }
            }
            Event::Delete(object) => concerns(object, true),
            Event::Init | Event::InitApply(_) => Vec::new(),
            // A new complete list: whatever was missed in between shows in it.
            Event::InitDone => {
                vec![
                    Concern::AllAuthorities,
                    Concern::AllNodes,
                    Concern::AllTunnels,
                    Concern::AllRequests,
                ]
            }
        };
        writer.apply_watcher_event(&event);
        if triggers.live.load(Ordering::Acquire) {
            for concern in found {
                triggers.send(concern).await;
            }
        }
    }
}

/// The event without what does not parse and without what no plan reads.
fn readable<K>(name: &str, event: Event<DeserializeGuard<K>>) -> Option<Event<K>>
where
    K: Resource<DynamicType = ()>,
{
    let open = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Some(object)
        }
        Err(error) => {
            let object = error.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(kind = name, object, error = %error.error, "an object does not parse and is left alone");
            None
        }
    };
    Some(match event {
        Event::Apply(guard) => Event::Apply(open(guard)?),
        Event::Delete(guard) => Event::Delete(open(guard)?),
        Event::InitApply(guard) => Event::InitApply(open(guard)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

fn of_tunnel(_tunnel: &IPsecTunnel, gone: bool) -> Vec<Concern> {
    // What the others have depends on this one's rank and overlay; a deleted one leaves memberships behind.
    if gone {
        vec![Concern::AllTunnels, Concern::AllNodes]
    } else {
        vec![Concern::AllTunnels]
    }
}

fn of_authority(authority: &IPsecAuthority, gone: bool) -> Vec<Concern> {
    let mut concerns = vec![Concern::AllTunnels, Concern::AllNodes, Concern::AllRequests];
    let itself = Concern::Authority(authority.name_any());
    concerns.push(if gone { Concern::AllAuthorities } else { itself });
    concerns
}

fn of_peer(peer: &IPsecPeer, _gone: bool) -> Vec<Concern> {
    vec![Concern::Node(peer.name_any()), Concern::AllTunnels]
}

fn of_agent(agent: &IPsecNode, _gone: bool) -> Vec<Concern> {
    vec![
        Concern::Node(agent.name_any()),
        Concern::AllTunnels,
        Concern::AllAuthorities,
    ]
}

fn of_node(node: &Node, gone: bool) -> Vec<Concern> {
    // The address of a Node that is gone may be claimed by another one.
    if gone {
        vec![Concern::AllNodes, Concern::AllTunnels]
    } else {
        vec![Concern::Node(node.name_any()), Concern::AllTunnels]
    }
}

fn of_request(request: &CertificateSigningRequest, gone: bool) -> Vec<Concern> {
    if gone {
        Vec::new()
    } else {
        vec![Concern::Request(request.name_any())]
    }
}

fn to_all_tunnels<K>(_object: &K, _gone: bool) -> Vec<Concern> {
    vec![Concern::AllTunnels]
}

fn to_all_nodes<K>(_object: &K, _gone: bool) -> Vec<Concern> {
    vec![Concern::AllNodes]
}
