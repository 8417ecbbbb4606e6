//! Two engines over a wire and data planes in memory: what the driver adds to IKE.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipsecmesh_dataplane::{
    DataPlaneEvent, Demand, Direction, MemoryDataPlane, MemoryHandle, Policy, PolicyAction, PolicyKey,
    Prefix, Selector, Write,
};
use ipsecmesh_ike::{
    BootId, ChildConfig, ChildId, Encapsulation, Endpoint, EndpointConfig, Identity, Initiation, Limits,
    Mode, PeerAuth, PeerConfig, PeerId, Retransmit, SaProtocol, TrafficSelector,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::*;
use crate::clock::Clock;
use crate::desired::{Desired, DesiredPeer, PeerTrust};
use crate::engine::command::{EngineCommand, RekeyRequest};
use crate::engine::event::SharedView;
use crate::engine::task::{Engine, Parts};
use crate::fixture;
use crate::identity::verifier::DirectoryVerifier;
use crate::metrics::Metrics;

const REQID: u32 = 0x1950_0042;
/// Longer than every grace of the engine.
const AT_REST: Duration = Duration::from_mins(1);

type Datagram = (Path, Vec<u8>);

/// One end of a wire that loses nothing.
struct Wire {
    incoming: mpsc::UnboundedReceiver<Datagram>,
    outgoing: mpsc::UnboundedSender<Datagram>,
}

impl Sockets for Wire {
    async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<Path> {
        match self.incoming.recv().await {
            Some((path, datagram)) => {
                *buffer = datagram;
                Ok(path)
            }
            None => std::future::pending().await,
        }
    }

    async fn send(&mut self, path: &Path, datagram: &[u8]) -> io::Result<()> {
        let arrives = Path {
            local: path.remote,
            remote: path.local,
        };
        // Nobody listens while the other end is down.
        let _ = self.outgoing.send((arrives, datagram.to_vec()));
        Ok(())
    }

    async fn keepalive(&mut self, _path: &Path) -> io::Result<()> {
        // It ends at the other end's socket.
        Ok(())
    }
}

/// A node whose engine can be stopped and started.
struct Node {
    number: u8,
    kernel: MemoryHandle,
    view: SharedView,
    commands: mpsc::Sender<EngineCommand>,
    task: JoinHandle<()>,
}

impl Node {
    fn start(number: u8, wire: Wire, kernel: MemoryHandle) -> Self {
        let (commands, receiver) = mpsc::channel(16);
        let clock = Clock::start();
        let config = EndpointConfig {
            boot_id: BootId([number; 16]),
            credentials: None,
            verifier: Arc::new(DirectoryVerifier::default()),
            retransmit: Retransmit::default(),
            limits: Limits::default(),
            fragment_size: Some(EndpointConfig::FRAGMENT_SIZE),
        };
        let provider = ipsecmesh_crypto::PROVIDERS[0];
        let view = SharedView::new();
        let engine = Engine::new(Parts {
            endpoint: Endpoint::new(config, provider, [number; 32], clock.now()),
            plane: kernel.reopen(),
            sockets: wire,
            clock,
            view: view.clone(),
            metrics: Metrics::new(),
            commands: receiver,
        });
        #[expect(clippy::disallowed_methods, reason = "the test joins it")]
        let task = tokio::spawn(async move { engine.run(&[]).await });
        Self {
            number,
            kernel,
            view,
            commands,
            task,
        }
    }

    async fn want(&self, desired: Desired) {
        self.commands
            .send(EngineCommand::SetDesired(Arc::new(desired)))
            .await
            .expect("the engine runs");
    }

    /// SPIs of the SAs: (inbound, outbound).
    fn sas(&self) -> (Vec<u32>, Vec<u32>) {
        let own = address(self.number);
        let (inbound, outbound): (Vec<_>, Vec<_>) = self
            .kernel
            .snapshot()
            .sas
            .into_iter()
            .partition(|sa| sa.name.destination == own);
        let spis =
            |sas: Vec<ipsecmesh_dataplane::SaStatus>| sas.iter().map(|sa| sa.name.spi.value()).collect();
        (spis(inbound), spis(outbound))
    }

    /// The end of SIGTERM: the channel closes, nothing else happens.
    async fn stop(self) -> MemoryHandle {
        drop(self.commands);
        self.task.await.expect("no panic");
        self.kernel
    }
}

/// Both ends of a wire.
fn wires() -> (Wire, Wire) {
    let ((to_one, one), (to_two, two)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let wire = |incoming, outgoing| Wire { incoming, outgoing };
    (wire(one, to_two), wire(two, to_one))
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn policy(own: u8, direction: Direction, demand: Demand) -> Policy {
    let other = 3 - own;
    let (source, destination) = match direction {
        Direction::Inbound | Direction::Forward => (address(other), address(own)),
        Direction::Outbound => (address(own), address(other)),
    };
    let host = |address| Prefix { address, length: 32 };
    Policy {
        key: PolicyKey {
            direction,
            selector: Selector {
                source: host(source),
                destination: host(destination),
                protocol: 17,
                source_port: None,
                destination_port: Some(8472),
            },
        },
        action: PolicyAction::Protect {
            demand,
            protocol: SaProtocol::Esp,
            reqid: REQID,
            tunnel: false,
            source,
            destination,
        },
        rank: 1,
    }
}

fn desired(own: u8, revision: u64, demand: Demand) -> Desired {
    let other = 3 - own;
    let selector = |last| TrafficSelector {
        protocol: 17,
        first_port: 0,
        last_port: u16::MAX,
        first_address: address(last),
        last_address: address(last),
    };
    let name = |number: u8| Identity::Fqdn(format!("node-{number}"));
    let config = PeerConfig {
        id: PeerId(u64::from(other)),
        local_address: address(own),
        remote_address: address(other),
        local_identity: name(own),
        remote_identity: name(other),
        auth: PeerAuth::Psk {
            current: Zeroizing::new(b"for this test and for nothing else".to_vec()),
            previous: None,
        },
        ppk: None,
        ike_proposals: fixture::ike_proposals(),
        ike_lifetime: Duration::from_hours(24),
        liveness: fixture::liveness(),
        initiation: if own == 1 {
            Initiation::Eager
        } else {
            Initiation::EagerAfter {
                grace: Duration::from_secs(3),
            }
        },
        encapsulation: Encapsulation::Auto,
        children: vec![ChildConfig {
            id: ChildId(0x42),
            mode: Mode::Transport,
            proposals: fixture::child_proposals(),
            local_selectors: vec![selector(own)],
            remote_selectors: vec![selector(other)],
            lifetime: fixture::lifetime(Duration::from_hours(1)),
            rekey_margin_percent: 10,
            esn: true,
            replay_window: 4096,
            reqid: REQID,
        }],
    };
    let policies = [Direction::Inbound, Direction::Outbound].map(|direction| policy(own, direction, demand));
    let peer = DesiredPeer {
        node: format!("node-{other}"),
        config,
        boot: None,
        startable: true,
        trust: PeerTrust::default(),
    };
    Desired {
        revision,
        policies: policies.into_iter().map(|policy| (policy.key, policy)).collect(),
        peers: BTreeMap::from([(PeerId(u64::from(other)), peer)]),
        reqids: BTreeMap::from([(REQID, "mesh".to_owned())]),
        own_addresses: BTreeSet::from([address(own)]),
        ..Desired::default()
    }
}

/// Two nodes with one pair of SAs, at rest.
async fn mesh(demand: Demand) -> (Node, Node) {
    let (first, second) = wires();
    let one = Node::start(1, first, MemoryDataPlane::new().handle());
    let two = Node::start(2, second, MemoryDataPlane::new().handle());
    one.want(desired(1, 1, demand)).await;
    two.want(desired(2, 1, demand)).await;
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);
    (one, two)
}

/// One SA per direction, the same ones at both ends.
fn assert_one_pair(one: &Node, two: &Node) {
    let ((in_one, out_one), (in_two, out_two)) = (one.sas(), two.sas());
    assert_eq!((in_one.len(), out_one.len()), (1, 1), "{in_one:?} {out_one:?}");
    assert_eq!((&in_one, &out_one), (&out_two, &in_two));
}

#[tokio::test(start_paused = true)]
async fn policies_stand_before_the_first_sa_and_the_revision_after_both() {
    let (one, _two) = mesh(Demand::Required).await;
    let writes = one.kernel.writes();
    let at = |wanted: fn(&Write) -> bool| writes.iter().position(wanted).expect("written");
    assert!(
        at(|write| matches!(write, Write::PutPolicy(_))) < at(|write| matches!(write, Write::InstallSa(..)))
    );
    assert_eq!(one.view.read(|view| view.programmed), 1);
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_written() {
    let (one, two) = mesh(Demand::Required).await;
    let before = (one.kernel.writes().len(), two.kernel.writes().len());
    one.want(desired(1, 2, Demand::Required)).await;
    sleep(Duration::from_mins(5)).await;
    assert_eq!((one.kernel.writes().len(), two.kernel.writes().len()), before);
}

#[tokio::test(start_paused = true)]
async fn an_optional_policy_is_touched_after_each_outbound_sa_and_a_required_one_after_the_first() {
    for (demand, expected) in [(Demand::Optional, 2), (Demand::Required, 1)] {
        let (one, _two) = mesh(demand).await;
        rekey(&one, false).await;
        let touches = one
            .kernel
            .writes()
            .iter()
            .filter(|w| matches!(w, Write::TouchPolicy(_)))
            .count();
        assert_eq!(touches, expected, "{demand:?}");
    }
}

async fn rekey(node: &Node, ike: bool) {
    let (reply, answer) = oneshot::channel();
    let request = RekeyRequest {
        name: None,
        ike,
        reply,
    };
    node.commands
        .send(EngineCommand::Rekey(request))
        .await
        .expect("the engine runs");
    assert_eq!(answer.await.expect("answered"), 1);
    sleep(AT_REST).await;
}

#[tokio::test(start_paused = true)]
async fn a_rekey_by_hand_ends_with_one_new_pair() {
    let (one, two) = mesh(Demand::Required).await;
    let before = one.sas();
    rekey(&one, true).await;
    assert_eq!(one.sas(), before, "an IKE rekey leaves the CHILD SAs");
    rekey(&two, false).await;
    assert_one_pair(&one, &two);
    assert_ne!(one.sas(), before);
}

/// As when its certificate is revoked.
#[tokio::test(start_paused = true)]
async fn the_sas_of_a_peer_that_is_not_believed_any_more_end_and_it_proves_itself_anew() {
    let (one, two) = mesh(Demand::Required).await;
    let (before_in, before_out) = one.sas();
    let distrust = EngineCommand::Distrust(vec![PeerId(2), PeerId(77)]);
    one.commands.send(distrust).await.expect("the engine runs");
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);
    let (after_in, after_out) = one.sas();
    assert!(!after_in.contains(&before_in[0]) && !after_out.contains(&before_out[0]));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_and_replaces() {
    let (one, two) = mesh(Demand::Required).await;
    let (old, kernel) = (two.sas(), two.kernel.clone());
    let one_kernel = one.stop().await;
    let two_kernel = two.stop().await;
    assert_eq!(kernel.snapshot().sas.len(), 2, "SIGTERM leaves SAs");
    let (first, second) = wires();
    let one = Node::start(1, first, one_kernel);
    let two = Node::start(2, second, two_kernel);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(two.sas(), old, "nothing goes before its successor stands");
    assert_eq!(two.view.read(|view| view.adopted), 2);
    one.want(desired(1, 1, Demand::Required)).await;
    two.want(desired(2, 1, Demand::Required)).await;
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);
    assert_ne!(two.sas(), old);
    assert_eq!(two.view.read(|view| view.adopted), 0);
}

/// A node that comes back with a new key while its neighbours have lost their IKE SA with it.
#[tokio::test(start_paused = true)]
async fn a_new_key_of_a_lost_peer_leaves_its_sas_until_they_are_replaced() {
    let (one, two) = mesh(Demand::Required).await;
    let standing = one.sas();
    let kernel = two.stop().await;

    let connected = || {
        one.view
            .read(|view| view.peers.values().any(|peer| peer.ike.is_some()))
    };
    let lost = async {
        while connected() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_mins(5), lost)
        .await
        .expect("silence is noticed");
    assert_eq!(one.sas(), standing, "the SAs wait for their successors");

    let mut wanted = desired(1, 2, Demand::Required);
    let peer = wanted.peers.get_mut(&PeerId(2)).expect("the other node");
    peer.trust.keys.insert("sha256:another".to_owned());
    one.want(wanted).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(one.sas(), standing, "a new key is no reason to stop sending");
    assert!(
        kernel.snapshot().sas.len() == 2,
        "nor does the silent node lose any"
    );
}

#[tokio::test(start_paused = true)]
async fn required_policies_of_a_removed_peer_go_after_its_sas() {
    let (one, _two) = mesh(Demand::Required).await;
    let before = one.kernel.writes().len();
    let empty = Desired {
        revision: 2,
        own_addresses: BTreeSet::from([address(1)]),
        ..Desired::default()
    };
    one.want(empty).await;
    sleep(AT_REST).await;
    let snapshot = one.kernel.snapshot();
    assert!(
        snapshot.sas.is_empty() && snapshot.policies.is_empty(),
        "{snapshot:?}"
    );
    let writes = one.kernel.writes().split_off(before);
    let outbound = |write: &Write| matches!(write, Write::RemoveSa(name) if name.source == address(1));
    let sa = writes.iter().position(outbound).expect("removed");
    let policy = writes
        .iter()
        .position(|w| matches!(w, Write::RemovePolicy(_)))
        .expect("removed");
    assert!(sa < policy, "{writes:?}");
    assert_eq!(one.view.read(|view| view.programmed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_policy_is_told_and_tried_again() {
    let (first, _second) = wires();
    let one = Node::start(1, first, MemoryDataPlane::new().handle());
    one.kernel.refuse_next("somebody else's policy has this selector");
    one.want(desired(1, 1, Demand::Required)).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        one.view.read(|view| (view.programmed, view.refused.len())),
        (0, 1)
    );
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        one.view.read(|view| (view.programmed, view.refused.len())),
        (1, 0)
    );
    assert_eq!(one.kernel.snapshot().policies.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_foreign_hand_removed_is_repaired() {
    let (one, two) = mesh(Demand::Required).await;
    let old = one.sas();
    one.kernel
        .lose_policy(policy(1, Direction::Outbound, Demand::Required).key);
    let lost = one.kernel.snapshot().sas.first().expect("there").name;
    one.kernel.lose_sa(lost);
    let repaired = async {
        while one.kernel.snapshot().policies.len() != 2 || one.sas().0 == old.0 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_mins(2), repaired).await.expect("repaired");
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);
}

/// The kernel's queue was full: what its events would have said is found by looking.
#[tokio::test(start_paused = true)]
async fn what_an_overrun_swallowed_is_found() {
    let soon = Duration::from_secs(5);
    let (one, two) = mesh(Demand::Required).await;
    let (_, old) = one.sas();
    let gone = one
        .kernel
        .snapshot()
        .sas
        .into_iter()
        .find(|sa| sa.name.source == address(1))
        .expect("outbound");
    one.kernel.lose_sa(gone.name);
    one.kernel.overrun();
    sleep(soon).await;
    assert_ne!(one.sas().1, old, "an SA that ended at its hard limit");
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);

    let mut wanted = [desired(1, 2, Demand::Required), desired(2, 2, Demand::Required)];
    for peer in wanted.iter_mut().flat_map(|desired| desired.peers.values_mut()) {
        for child in &mut peer.config.children {
            child.lifetime.packets = Some(1000);
        }
    }
    let [first, second] = wanted;
    one.want(first).await;
    two.want(second).await;
    sleep(AT_REST).await;
    let (inbound, old) = one.sas();
    for sa in one.kernel.snapshot().sas {
        one.kernel.carry(sa.name, 995, 99_500);
    }
    one.kernel.overrun();
    sleep(soon).await;
    assert!(
        one.sas().0 != inbound && one.sas().1 != old,
        "a rekey that was due"
    );
    sleep(AT_REST).await;
    assert_one_pair(&one, &two);
}

#[tokio::test(start_paused = true)]
async fn traffic_whose_acquire_an_overrun_swallowed_does_not_wait_for_the_next() {
    let (first, second) = wires();
    let one = Node::start(1, first, MemoryDataPlane::new().handle());
    let two = Node::start(2, second, MemoryDataPlane::new().handle());
    for (node, own) in [(&one, 1), (&two, 2)] {
        let mut wanted = desired(own, 1, Demand::Required);
        for peer in wanted.peers.values_mut() {
            peer.config.initiation = Initiation::OnDemand;
        }
        node.want(wanted).await;
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(one.sas(), (Vec::new(), Vec::new()), "nobody asked");
    one.kernel.report(DataPlaneEvent::Acquire {
        reqid: REQID,
        source: address(1),
        destination: address(2),
    });
    one.kernel.overrun();
    sleep(Duration::from_secs(5)).await;
    assert_one_pair(&one, &two);
}
