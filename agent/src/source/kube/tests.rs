//! What becomes of the watches' events.

use ipsecmesh_crds::{IPsecPeerSpec, IPsecTunnelSpec};
use kube::core::error_boundary::InvalidObject;

use super::*;

fn peer(name: &str) -> DeserializeGuard<IPsecPeer> {
    let spec = IPsecPeerSpec {
        addresses: vec!["10.0.0.1".to_owned()],
        ..IPsecPeerSpec::default()
    };
    DeserializeGuard(Ok(IPsecPeer::new(name, spec)))
}

fn tunnel(name: &str, priority: u16) -> DeserializeGuard<IPsecTunnel> {
    let spec = IPsecTunnelSpec {
        priority,
        ..IPsecTunnelSpec::default()
    };
    let mut tunnel = IPsecTunnel::new(name, spec);
    tunnel.metadata.uid = Some(format!("uid of {name}"));
    DeserializeGuard(Ok(tunnel))
}

fn broken<K>(name: &str) -> DeserializeGuard<K> {
    let metadata = kube::api::ObjectMeta {
        name: Some(name.to_owned()),
        ..kube::api::ObjectMeta::default()
    };
    DeserializeGuard(Err(InvalidObject {
        error: "unknown variant".to_owned(),
        metadata,
    }))
}

/// All kinds listed, with `a` as the own node.
fn listed() -> Objects {
    let opener = Arc::new(Opener::from_seed(&[1; 32]));
    let mut objects = Objects::new("a", opener);
    for change in [
        Change::Tunnel(Event::Init),
        Change::Tunnel(Event::InitApply(tunnel("low", 1))),
        Change::Tunnel(Event::InitApply(tunnel("high", 900))),
        Change::Peer(Event::Init),
        Change::Peer(Event::InitApply(peer("a"))),
        Change::Peer(Event::InitApply(peer("b"))),
        Change::Authority(Event::Init),
        Change::Authority(Event::InitDone),
        Change::Node(Event::Init),
        Change::Node(Event::InitDone),
    ] {
        objects.take(change);
    }
    assert!(!objects.snapshot().synced, "two lists are not complete");
    objects.take(Change::Tunnel(Event::InitDone));
    objects.take(Change::Peer(Event::InitDone));
    objects
}

fn names(objects: &Objects) -> Vec<String> {
    objects
        .snapshot()
        .peers
        .into_iter()
        .map(|peer| peer.node)
        .collect()
}

#[test]
fn the_own_node_stands_apart_and_tunnels_are_in_order_of_rank() {
    let snapshot = listed().snapshot();
    assert!(snapshot.synced);
    assert_eq!(snapshot.own.map(|own| own.node).as_deref(), Some("a"));
    let order: Vec<_> = snapshot
        .tunnels
        .iter()
        .map(|tunnel| (tunnel.order, tunnel.name.as_str()))
        .collect();
    assert_eq!(order, [(0, "high"), (1, "low")]);
    assert!(snapshot.refused.is_empty(), "{:?}", snapshot.refused);
}

#[test]
fn a_list_that_breaks_off_changes_nothing() {
    let mut objects = listed();
    assert!(!objects.take(Change::Peer(Event::Init)));
    assert!(!objects.take(Change::Peer(Event::InitApply(peer("c")))));
    assert_eq!(names(&objects), ["b"], "the list is not complete");
    // It starts again, and comes to its end.
    objects.take(Change::Peer(Event::Init));
    objects.take(Change::Peer(Event::InitApply(peer("d"))));
    assert!(objects.take(Change::Peer(Event::InitDone)));
    assert_eq!(names(&objects), ["d"]);
    assert!(objects.take(Change::Peer(Event::Delete(peer("d")))));
    assert!(!objects.take(Change::Peer(Event::Delete(peer("d")))));
}

#[test]
fn an_object_that_does_not_parse_takes_no_other_down() {
    let mut objects = listed();
    objects.take(Change::Peer(Event::Apply(broken("c"))));
    objects.take(Change::Peer(Event::Apply(broken("b"))));
    objects.take(Change::Tunnel(Event::Apply(broken("high"))));
    let snapshot = objects.snapshot();
    assert_eq!(names(&objects), ["b"], "what was good stays in force");
    assert_eq!(snapshot.tunnels.len(), 2);
    let refused: Vec<&str> = snapshot.refused.keys().map(String::as_str).collect();
    assert_eq!(refused, ["IPsecPeer b", "IPsecPeer c", "IPsecTunnel high"]);
    // It is repaired.
    objects.take(Change::Peer(Event::Apply(peer("b"))));
    assert!(!objects.snapshot().refused.contains_key("IPsecPeer b"));
}

#[test]
fn a_broken_watch_is_no_change() {
    let mut objects = listed();
    assert!(!objects.take(Change::Broken("IPsecPeer", watcher::Error::NoResourceVersion)));
    assert!(objects.snapshot().synced);
}

#[tokio::test]
async fn a_burst_is_one_snapshot_and_an_echo_of_our_own_status_is_none() {
    let (publisher, mut snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let follower = Follower {
        objects: listed(),
        publisher,
        metrics: Metrics::new(),
    };
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let _task = Task::spawn("test", follower.run(receiver));
    for name in ["c", "d", "e"] {
        sender
            .unbounded_send(Change::Peer(Event::Apply(peer(name))))
            .expect("open");
    }
    snapshots.changed().await.expect("published");
    assert_eq!(snapshots.borrow_and_update().peers.len(), 4);
    let mut own = IPsecNode::default();
    own.metadata.name = Some("a".to_owned());
    for version in ["0.1.0", "0.1.1"] {
        own.status = Some(ipsecmesh_crds::IPsecNodeStatus {
            bundle_hash: Some(version.to_owned()),
            ..ipsecmesh_crds::IPsecNodeStatus::default()
        });
        sender
            .unbounded_send(Change::Node(Event::Apply(DeserializeGuard(Ok(own.clone())))))
            .expect("open");
        tokio::time::sleep(SETTLE * 3).await;
    }
    assert!(
        snapshots.has_changed().expect("open"),
        "the node's object is news"
    );
    snapshots.borrow_and_update();
    sender
        .unbounded_send(Change::Node(Event::Apply(DeserializeGuard(Ok(own.clone())))))
        .expect("open");
    tokio::time::sleep(SETTLE * 3).await;
    assert!(!snapshots.has_changed().expect("open"));
}
