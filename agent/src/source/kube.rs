//! The watches: four kinds, listed once and followed from then on. A watch that breaks leaves the last state in force;
//! a list counts when it is complete; an object that does not parse takes no other down.

mod credentials;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use ipsecmesh_crds::sealing::Opener;
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::model::{Authority, OwnNode, Peer, Tunnel};
use crate::source::Snapshot;
use crate::source::convert::{self, RankedTunnel};
use crate::source::kube::credentials::Credentials;
use crate::source::table::{Backoff, Table};
use crate::task::Task;

/// Changes that come together are taken together: a rollout touches many objects within a moment.
const SETTLE: Duration = Duration::from_millis(10);

/// Follows the API for the node `name`. The receiver holds an empty snapshot until all kinds are listed.
pub(crate) fn follow(
    client: &Client,
    name: &str,
    metrics: &Metrics,
    opener: Arc<Opener>,
) -> (watch::Receiver<Arc<Snapshot>>, Task) {
    let (publisher, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let follower = Follower {
        objects: Objects::new(name, opener),
        publisher,
        metrics: metrics.clone(),
    };
    let task = Task::spawn("watches of the API", follower.run(changes(client, name)));
    (snapshots, task)
}

/// A change of one kind, or the kind whose watch broke.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on its way from the socket to its table"
)]
enum Change {
    Authority(Event<DeserializeGuard<IPsecAuthority>>),
    Broken(&'static str, watcher::Error),
    Node(Event<DeserializeGuard<IPsecNode>>),
    Peer(Event<DeserializeGuard<IPsecPeer>>),
    Tunnel(Event<DeserializeGuard<IPsecTunnel>>),
}

/// All kinds in one stream.
fn changes(client: &Client, name: &str) -> impl Stream<Item = Change> + Send + use<> {
    let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all = watcher::Config::default;
    futures::stream::select_all([
        one_kind(client, all(), "IPsecTunnel", Change::Tunnel),
        one_kind(client, all(), "IPsecPeer", Change::Peer),
        one_kind(client, all(), "IPsecAuthority", Change::Authority),
        one_kind(client, own, "IPsecNode", Change::Node),
    ])
}

fn one_kind<K>(
    client: &Client,
    config: watcher::Config,
    kind: &'static str,
    wrap: fn(Event<DeserializeGuard<K>>) -> Change,
) -> Pin<Box<dyn Stream<Item = Change> + Send>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let stream = watcher(api, config)
        .backoff(Backoff::default())
        .map(move |event| event.map_or_else(|error| Change::Broken(kind, error), wrap));
    Box::pin(stream)
}

struct Follower {
    objects: Objects,
    publisher: watch::Sender<Arc<Snapshot>>,
    metrics: Metrics,
}

impl Follower {
    async fn run(mut self, mut changes: impl Stream<Item = Change> + Send + Unpin) {
        let mut due: Option<Instant> = None;
        loop {
            let publish = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // A watch does not end by itself.
                change = changes.next() => match change {
                    Some(change) => if self.take(change) {
                        due.get_or_insert_with(|| Instant::now() + SETTLE);
                    },
                    None => return,
                },
                () = publish => {
                    due = None;
                    self.publish();
                }
            }
        }
    }

    /// Whether something that others can see may have changed.
    fn take(&mut self, change: Change) -> bool {
        if let Change::Broken(kind, error) = &change {
            self.metrics.watch_failed(kind);
            tracing::warn!(kind, %error, "the watch broke; the last state stays in force");
        }
        self.objects.take(change)
    }

    fn publish(&self) {
        let snapshot = self.objects.snapshot();
        if !snapshot.synced {
            return;
        }
        self.publisher.send_if_modified(|present| {
            let fresh = **present != snapshot;
            if fresh {
                tell(present, &snapshot);
                *present = Arc::new(snapshot);
            }
            fresh
        });
    }
}

/// The log's part of a new snapshot.
pub(super) fn tell(before: &Snapshot, now: &Snapshot) {
    if !before.synced {
        let (tunnels, peers) = (now.tunnels.len(), now.peers.len());
        tracing::info!(tunnels, peers, "all objects were read");
    }
    for (object, reason) in now
        .refused
        .iter()
        .filter(|(object, reason)| before.refused.get(*object) != Some(reason))
    {
        tracing::warn!(object, reason, "an object cannot be used as it is");
    }
}

/// The objects as they were last seen, parsed.
struct Objects {
    name: String,
    tunnels: Table<RankedTunnel>,
    peers: Table<Peer>,
    authorities: Table<Authority>,
    nodes: Table<OwnNode>,
    credentials: Credentials,
}

impl Objects {
    fn new(name: &str, opener: Arc<Opener>) -> Self {
        Self {
            name: name.to_owned(),
            tunnels: Table::default(),
            peers: Table::default(),
            authorities: Table::default(),
            nodes: Table::default(),
            credentials: Credentials::new(opener),
        }
    }

    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Authority(event) => self.authorities.take(event, convert::authority),
            Change::Broken(..) => false,
            Change::Node(event) => {
                let changed = self.nodes.take(event, convert::node);
                if self.nodes.synced() {
                    self.credentials.take(&self.name, self.nodes.find(&self.name));
                }
                changed
            }
            Change::Peer(event) => self.peers.take(event, convert::peer),
            Change::Tunnel(event) => self.tunnels.take(event, convert::tunnel),
        }
    }

    /// Roots of external peers by what names them.
    fn bundles(&self) -> BTreeMap<(String, String), String> {
        let bundles = self
            .tunnels
            .values()
            .filter_map(|(_, ranked)| ranked.bundle.as_ref());
        bundles
            .map(|bundle| {
                let name = (bundle.name.clone(), bundle.key.clone());
                (name, bundle.certificates.clone())
            })
            .collect()
    }

    fn snapshot(&self) -> Snapshot {
        let mut ranked: Vec<&RankedTunnel> = self.tunnels.values().map(|(_, tunnel)| tunnel).collect();
        ranked.sort_by(|a, b| a.rank.cmp(&b.rank));
        let tunnel = |(order, ranked): (usize, &RankedTunnel)| Tunnel {
            order,
            ..ranked.tunnel.clone()
        };
        let others = self.peers.values().filter(|(name, _)| *name != self.name);
        let refused = [
            ("IPsecTunnel", self.tunnels.problems()),
            ("IPsecPeer", self.peers.problems()),
            ("IPsecAuthority", self.authorities.problems()),
            ("IPsecNode", self.nodes.problems()),
        ];
        let sealed = self.credentials.problem().map(|text| (self.name.clone(), text));
        let sealed = Some(("IPsecNode", sealed.into_iter().collect::<Vec<_>>()));
        Snapshot {
            synced: self.tunnels.synced()
                && self.peers.synced()
                && self.authorities.synced()
                && self.nodes.synced(),
            tunnels: ranked.into_iter().enumerate().map(tunnel).collect(),
            peers: others.map(|(_, peer)| peer.clone()).collect(),
            own: self.peers.find(&self.name).cloned(),
            node: self.nodes.find(&self.name).cloned(),
            authorities: self
                .authorities
                .values()
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
            psks: self.credentials.psks(),
            // They have no way to a node yet, and the operator accepts no tunnel that wants one.
            ppks: BTreeMap::new(),
            bundles: self.bundles(),
            revocations: BTreeMap::new(),
            host: false,
            refused: refused
                .into_iter()
                .chain(sealed)
                .flat_map(|(kind, problems)| {
                    problems
                        .into_iter()
                        .map(move |(name, text)| (format!("{kind} {name}"), text))
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
