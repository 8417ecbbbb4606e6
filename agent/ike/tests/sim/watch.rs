//! What has to hold at every step of a run, and at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipsecmesh_ike::wire::{Body, ExchangeType, Header, Message, Role};
use ipsecmesh_ike::*;

use crate::kernel::{KernelSa, Place};
use crate::network::Network;
use crate::node::index_of;
use crate::world::{World, pair};

/// One end may be wrong about the other for this long after it has lost its memory, or has given up an exchange.
const DISAGREEMENT: Duration = Duration::from_secs(90);

/// The peer keeps pairs for a previous run of this end for this long (decision 20).
const KEPT: Duration = Duration::from_secs(30);

/// After so many transmissions a DELETE is given up.
const GIVEN_UP: u32 = 4;

/// What is under way now and then at rest ends within this time: a liveness check, or what is left of a suspicion that
/// was wrong.
const SETTLING: u64 = 45;

/// What waits at rest: the soft and hard lifetime of the IKE SA and its liveness check, and both lifetimes of each child.
fn timers_at_rest(children: usize) -> usize {
    3 + 2 * children
}

/// The last request of each end of each IKE SA.
#[derive(Default)]
pub(crate) struct Watch(BTreeMap<(u64, u64, bool), Request>);

struct Request {
    number: u32,
    /// The datagrams by the number of the fragment; 0 is a whole message.
    bytes: BTreeMap<u16, Vec<u8>>,
    answered: bool,
    sent: u32,
}

fn key(header: &Header, by_initiator: bool) -> (u64, u64, bool) {
    let spi_r = header.responder_spi.map_or(0, IkeSpi::value);
    (header.initiator_spi.value(), spi_r, by_initiator)
}

impl World {
    /// Two hosts cannot agree for a while, whatever they do.
    pub(crate) fn forgive(&mut self, one: usize, other: usize) {
        self.forgive_until(one, other, self.now);
    }

    /// The same, and they can begin to agree at `end` only.
    pub(crate) fn forgive_until(&mut self, one: usize, other: usize, end: Duration) {
        let until = self.lenient_until.entry(pair(one, other)).or_default();
        *until = (end + DISAGREEMENT).max(*until);
        self.unsettle(one, other);
    }

    /// Requests: one at a time per IKE SA and end, and the same bytes again (invariant I3).
    pub(crate) fn watch_request(&mut self, index: usize, path: Path, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return;
        };
        let header = message.header;
        if header.flags.is_response() || header.exchange == ExchangeType::IKE_SA_INIT {
            return;
        }
        let key = key(&header, header.flags.sender() == Role::Initiator);
        let number = header.message_id.0;
        let part = match message.body() {
            Ok(Body::Fragment(fragment)) => fragment.position.number(),
            Ok(Body::Plain(_) | Body::Protected(_)) | Err(_) => 0,
        };
        match self.watch.0.get_mut(&key) {
            Some(last) if last.number == number => {
                last.sent += u32::from(part <= 1);
                let given_up = last.sent >= GIVEN_UP && !last.answered;
                let known = last.bytes.entry(part).or_insert_with(|| datagram.to_vec());
                if known != datagram {
                    self.broken(
                        "I3",
                        &format!("{index} repeats request {number} with other bytes"),
                    );
                }
                let peer = (0..self.nodes.len()).find(|peer| self.network.outside(*peer) == path.remote.ip());
                if let Some(peer) = peer.filter(|_| given_up) {
                    self.forgive(index, peer);
                }
                return;
            }
            Some(last) if !last.answered => {
                let last = last.number;
                self.broken(
                    "I3",
                    &format!("{index} sends request {number} while {last} is unanswered"),
                );
            }
            Some(_) | None => {}
        }
        let request = Request {
            number,
            bytes: BTreeMap::from([(part, datagram.to_vec())]),
            answered: false,
            sent: 1,
        };
        self.watch.0.insert(key, request);
    }

    /// A datagram arrives: it may answer a request.
    pub(crate) fn watch_response(&mut self, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return;
        };
        let header = message.header;
        if !header.flags.is_response() {
            return;
        }
        let asked = header.flags.sender() != Role::Initiator;
        if let Some(last) = self.watch.0.get_mut(&key(&header, asked))
            && last.number == header.message_id.0
        {
            last.answered = true;
        }
    }

    /// The same SA at the host that it leads to.
    pub(crate) fn twin(&self, (protocol, spi, _): Place, to: usize) -> Option<&KernelSa> {
        self.nodes
            .get(to)?
            .kernel
            .sas
            .get(&(protocol, spi, Network::inside(to)))
    }

    /// No packet that an installed outbound SA would send lacks its inbound SA at the peer.
    pub(crate) fn check_pairs(&mut self) {
        let found = (0..self.nodes.len()).find_map(|index| self.lonely(index));
        if let Some(how) = found {
            self.broken("pairs", &how);
        }
    }

    fn lonely(&self, index: usize) -> Option<String> {
        let node = &self.nodes[index];
        // What a previous run has left counts while the peer keeps it for that run, and only the newest of it is used.
        let kept = self.now <= node.restarted + KEPT;
        let newest = |sa: &KernelSa| {
            let mut others = node.kernel.sas.values().filter(|other| !other.inbound);
            !others.any(|other| (other.peer, other.child) == (sa.peer, sa.child) && other.serial > sa.serial)
        };
        let counts = |sa: &KernelSa| {
            !sa.inbound && !sa.stuck && (sa.generation == node.generation || (kept && newest(sa)))
        };
        for (place, sa) in node.kernel.sas.iter().filter(|(_, sa)| counts(sa)) {
            let peer = index_of(sa.peer);
            if self.now < self.lenient(index, peer) {
                continue;
            }
            let spi = place.1;
            match self.twin(*place, peer) {
                Some(twin) if twin.inbound && twin.key == sa.key => {}
                Some(_) => return Some(format!("keys of {spi:08x} differ")),
                None => {
                    return Some(format!(
                        "{index} sends through {spi:08x}, which {peer} does not have"
                    ));
                }
            }
        }
        None
    }

    /// At rest: with each peer one IKE SA, one pair per child, nothing else, the same keys at both ends, and packets pass.
    pub(crate) fn check_rest(&mut self) {
        let mut waiting: BTreeSet<usize> = (0..self.nodes.len()).collect();
        for _ in 0..SETTLING {
            // One after the other: somewhere something may always be under way.
            for index in waiting.clone() {
                let expected = self.expected(index);
                if self.nodes[index].endpoint.counts() == expected {
                    self.check_kernel(index, expected.child_sas);
                    waiting.remove(&index);
                }
            }
            if waiting.is_empty() {
                break;
            }
            self.run(self.now + Duration::from_secs(1));
        }
        for index in waiting {
            let (counts, expected) = (self.nodes[index].endpoint.counts(), self.expected(index));
            self.broken("rest", &format!("{index} has {counts:?} instead of {expected:?}"));
        }
        self.lenient_until.clear();
        self.unsettled_until.clear();
        self.check_pairs();
        for index in 0..self.nodes.len() {
            self.traffic(index, false);
            let wanted: Vec<(usize, u32)> = self.peers_of(index).collect();
            for (peer, children) in wanted {
                let sent = (1..=children).all(|id| self.settled.contains(&(index, peer, ChildId(id))));
                if !sent {
                    self.broken("rest", &format!("{index} does not send to {peer}"));
                }
            }
        }
        self.run(self.now + Duration::from_secs(2));
    }

    /// The peers of a host, and with how many children.
    fn peers_of(&self, index: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        let pairs = self.children.iter();
        pairs.filter_map(move |((one, other), children)| match index {
            _ if index == *one => Some((*other, *children)),
            _ if index == *other => Some((*one, *children)),
            _ => None,
        })
    }

    fn expected(&self, index: usize) -> Counts {
        let mut expected = Counts::default();
        for (_, children) in self.peers_of(index) {
            let children = usize::try_from(children).unwrap_or_default();
            expected.peers += 1;
            expected.ike_sas += 1;
            expected.child_sas += children;
            expected.timers += timers_at_rest(children);
        }
        expected
    }

    /// Nothing is left of peers that all hosts have removed.
    pub(crate) fn check_gone(&mut self) {
        for index in 0..self.nodes.len() {
            let counts = self.nodes[index].endpoint.counts();
            if counts != Counts::default() {
                self.broken("leak", &format!("{index} still has {counts:?}"));
            }
            self.check_kernel(index, 0);
        }
    }

    fn check_kernel(&mut self, index: usize, pairs: usize) {
        let sas = self.nodes[index].kernel.sas.values().filter(|sa| !sa.stuck);
        let halves: Vec<(PeerId, ChildId, bool)> = sas.map(|sa| (sa.peer, sa.child, sa.inbound)).collect();
        let distinct: BTreeSet<_> = halves.iter().collect();
        if halves.len() != 2 * pairs {
            let how = format!(
                "{index} has {} SAs in the kernel instead of {}",
                halves.len(),
                2 * pairs
            );
            self.broken("rest", &how);
        } else if distinct.len() != halves.len() {
            self.broken("rest", &format!("{index} lacks a half of a child"));
        }
    }
}
