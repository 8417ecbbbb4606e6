//! The watches: four kinds, listed once and followed from then on. A watch that breaks leaves the last state in force.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use ipsecmesh_crds::{IPsecAuthority, IPsecNode, IPsecPeer, IPsecTunnel};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::source::Snapshot;
use crate::source::convert;
use crate::task::Task;

/// Changes that come together are taken together: a rollout touches many objects within a moment.
const SETTLE: Duration = Duration::from_millis(10);

/// The objects as they were last seen.
#[derive(Debug, Default)]
struct Objects {
    tunnels: Kind<IPsecTunnel>,
    authorities: Kind<IPsecAuthority>,
    peers: Kind<IPsecPeer>,
    nodes: Kind<IPsecNode>,
}

/// All objects of one kind by name.
#[derive(Debug)]
struct Kind<K> {
    present: BTreeMap<String, Arc<K>>,
    /// What a list in progress has brought; it takes the place of `present` when it is complete.
    listing: BTreeMap<String, Arc<K>>,
    synced: bool,
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Self {
            present: BTreeMap::new(),
            listing: BTreeMap::new(),
            synced: false,
        }
    }
}

impl<K: Resource<DynamicType = ()>> Kind<K> {
    /// Whether something that others can see has changed.
    fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Apply(object) => {
                self.present.insert(object.name_any(), Arc::new(object));
                true
            }
            Event::Delete(object) => self.present.remove(&object.name_any()).is_some(),
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(object) => {
                self.listing.insert(object.name_any(), Arc::new(object));
                false
            }
            Event::InitDone => {
                self.present = std::mem::take(&mut self.listing);
                self.synced = true;
                true
            }
        }
    }
}

/// Follows the API for the node `name`. The tasks end with the guard.
pub(crate) fn follow(client: &Client, name: &str, metrics: &Metrics) -> (watch::Receiver<Arc<Snapshot>>, Vec<Task>) {
    let follower = Follower {
        objects: Arc::default(),
        changed: watch::Sender::new(()),
        metrics: metrics.clone(),
    };
    let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all = watcher::Config::default;
    let (publisher, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let tasks = vec![
        Task::spawn("watch of IPsecTunnel", follower.clone().watch(client, all(), |o| &mut o.tunnels)),
        Task::spawn("watch of IPsecAuthority", follower.clone().watch(client, all(), |o| &mut o.authorities)),
        Task::spawn("watch of IPsecPeer", follower.clone().watch(client, all(), |o| &mut o.peers)),
        Task::spawn("watch of IPsecNode", follower.clone().watch(client, own, |o| &mut o.nodes)),
        Task::spawn("snapshots", follower.publish(name.to_owned(), publisher)),
    ];
    (snapshots, tasks)
}

#[derive(Clone)]
struct Follower {
    objects: Arc<Mutex<Objects>>,
    changed: watch::Sender<()>,
    metrics: Metrics,
}

impl Follower {
    fn watch<K>(
        self,
        client: &Client,
        config: watcher::Config,
        kind: fn(&mut Objects) -> &mut Kind<K>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let mut events = Box::pin(watcher(Api::<K>::all(client.clone()), config).default_backoff());
        async move {
            let mut broken = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        broken = false;
                        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
                        if kind(&mut objects).take(event) {
                            self.changed.send_replace(());
                        }
                    }
                    Err(error) => {
                        self.metrics.watch_failed();
                        if !std::mem::replace(&mut broken, true) {
                            tracing::warn!(kind = %K::kind(&()), %error, "the watch broke; the last state stays in force");
                        }
                    }
                }
            }
        }
    }

    async fn publish(self, name: String, publisher: watch::Sender<Arc<Snapshot>>) {
        let mut changes = self.changed.subscribe();
        while changes.changed().await.is_ok() {
            sleep(SETTLE).await;
            changes.mark_unchanged();
            let mut snapshot = {
                let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
                objects.snapshot(&name)
            };
            snapshot.freeze_suspended(&publisher.borrow());
            publisher.send_if_modified(|present| {
                let fresh = **present != snapshot;
                if fresh {
                    *present = Arc::new(snapshot);
                }
                fresh
            });
        }
    }
}

impl Objects {
    fn snapshot(&self, name: &str) -> Snapshot {
        let mut snapshot = Snapshot {
            synced: self.tunnels.synced && self.authorities.synced && self.peers.synced && self.nodes.synced,
            ..Snapshot::default()
        };
        let tunnels = convert::ranked(self.tunnels.present.values().map(AsRef::as_ref));
        for (order, tunnel) in tunnels.into_iter().enumerate() {
            match convert::tunnel(tunnel, order) {
                Ok(tunnel) => snapshot.tunnels.push(tunnel),
                Err(reason) => snapshot.refuse("IPsecTunnel", &tunnel.name_any(), reason),
            }
        }
        for peer in self.peers.present.values() {
            match convert::peer(peer) {
                Ok(peer) if peer.node == name => snapshot.own = Some(peer),
                Ok(peer) => snapshot.peers.push(peer),
                Err(reason) => snapshot.refuse("IPsecPeer", &peer.name_any(), reason),
            }
        }
        for authority in self.authorities.present.values() {
            if let Some(authority) = convert::authority(authority) {
                snapshot.authorities.insert(authority.name.clone(), authority);
            }
        }
        snapshot.node = self.nodes.present.get(name).map(|node| convert::own_node(node));
        snapshot
    }
}

impl Snapshot {
    /// A suspended tunnel stays as it was when it was suspended.
    fn freeze_suspended(&mut self, before: &Self) {
        for tunnel in self.tunnels.iter_mut().filter(|tunnel| tunnel.suspended) {
            if let Some(known) = before.tunnels.iter().find(|known| known.uid == tunnel.uid) {
                *tunnel = crate::model::Tunnel {
                    suspended: true,
                    order: tunnel.order,
                    ..known.clone()
                };
            }
        }
    }

    fn refuse(&mut self, kind: &str, name: &str, reason: String) {
        self.refused.insert(format!("{kind} {name}"), reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> IPsecPeer {
        IPsecPeer::new(name, ipsecmesh_crds::IPsecPeerSpec::default())
    }

    #[test]
    fn a_suspended_tunnel_keeps_its_last_shape() {
        let with = |suspend, priority| {
            let spec = ipsecmesh_crds::IPsecTunnelSpec {
                suspend,
                priority,
                ..ipsecmesh_crds::IPsecTunnelSpec::default()
            };
            let tunnel = convert::tunnel(&IPsecTunnel::new("mesh", spec), 0).expect("usable");
            Snapshot {
                tunnels: vec![tunnel],
                ..Snapshot::default()
            }
        };
        let (before, mut after) = (with(false, 100), with(true, 900));
        after.freeze_suspended(&before);
        assert_eq!(after.tunnels[0].policy_rank, before.tunnels[0].policy_rank);
        assert!(after.tunnels[0].suspended);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut kind = Kind::default();
        for event in [Event::Init, Event::InitApply(peer("a")), Event::InitApply(peer("b"))] {
            assert!(!kind.take(event));
        }
        assert!(kind.take(Event::InitDone) && kind.synced);
        assert!(!kind.take(Event::Init) && !kind.take(Event::InitApply(peer("a"))));
        assert_eq!(kind.present.len(), 2, "the list is not complete");
        assert!(kind.take(Event::InitDone));
        assert_eq!(kind.present.keys().collect::<Vec<_>>(), ["a"]);
        assert!(kind.take(Event::Delete(peer("a"))));
        assert!(!kind.take(Event::Delete(peer("a"))));
    }
}
