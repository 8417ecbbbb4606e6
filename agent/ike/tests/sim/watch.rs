//! What has to hold at every step of a run, and at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipsecmesh_ike::wire::{Body, ExchangeType, Header, Message, Role};
use ipsecmesh_ike::*;

use crate::world::{KernelSa, World};

/// One end may be wrong about the other for this long after it has lost its memory, or has given up an exchange.
const DISAGREEMENT: Duration = Duration::from_secs(90);

/// The peer keeps pairs for a previous run of this end for this long (decision 20).
const KEPT: Duration = Duration::from_secs(30);

/// After so many transmissions a DELETE is given up.
const GIVEN_UP: u32 = 4;

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
    /// The ends cannot agree for a while, whatever they do.
    pub(crate) fn forgive(&mut self) {
        self.forgive_until(self.now);
    }

    /// The same, and they can begin to agree at `end` only.
    pub(crate) fn forgive_until(&mut self, end: Duration) {
        self.lenient_until = self.lenient_until.max(end + DISAGREEMENT);
    }

    /// Requests: one at a time per IKE SA and end, and the same bytes again (invariant I3).
    pub(crate) fn watch_request(&mut self, index: usize, datagram: &[u8]) {
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
                    self.failure = Some(format!("{index} repeats request {number} with other bytes"));
                }
                if given_up {
                    self.forgive();
                }
                return;
            }
            Some(last) if !last.answered => {
                let last = last.number;
                self.failure = Some(format!(
                    "{index} sends request {number} while {last} is unanswered"
                ));
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

    /// No packet that an installed outbound SA would send lacks its inbound SA at the peer.
    pub(crate) fn check(&mut self) {
        if self.now < self.lenient_until || self.failure.is_some() {
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let peer = &self.nodes[1 - index];
            // What a previous run has left counts while the peer keeps it for that run, and only the newest of it is
            // used.
            let kept = self.now <= node.restarted + KEPT;
            let newest = |sa: &KernelSa| {
                !node
                    .kernel
                    .values()
                    .any(|other| !other.inbound && other.child == sa.child && other.serial > sa.serial)
            };
            let counts =
                |sa: &KernelSa| !sa.inbound && (sa.generation == node.generation || (kept && newest(sa)));
            for (name, sa) in node.kernel.iter().filter(|(_, sa)| counts(sa)) {
                match peer.kernel.get(name) {
                    Some(twin) if twin.inbound && twin.key == sa.key => {}
                    Some(_) => {
                        self.failure = Some(format!("keys of {:08x} differ", name.0));
                        return;
                    }
                    None => {
                        self.failure = Some(format!(
                            "{index} sends through {:08x}, which its peer does not have",
                            name.0
                        ));
                        return;
                    }
                }
            }
        }
    }

    /// Whether both ends send each child through an SA that the other end has.
    pub(crate) fn connected(&self) -> bool {
        (0..2).all(|index| {
            let (node, peer) = (&self.nodes[index], &self.nodes[1 - index]);
            let current = node
                .kernel
                .iter()
                .filter(|(_, sa)| !sa.inbound && sa.generation == node.generation);
            let mut received =
                current.map(|(name, _)| peer.kernel.get(name).is_some_and(|twin| twin.inbound));
            received.next() == Some(true) && received.all(|stands| stands)
        })
    }

    /// At rest: one IKE SA, one pair per child, nothing else, the same keys at both ends. What waits is the soft and
    /// hard lifetime of each SA and the liveness check.
    pub(crate) fn check_rest(&mut self, children: usize) {
        let expected = Counts {
            peers: 1,
            ike_sas: 1,
            child_sas: children,
            timers: 3 + 2 * children,
            ..Counts::default()
        };
        // A liveness check may be under way, or what is left of a suspicion that was wrong: a half-open SA.
        for _ in 0..45 {
            if self.nodes.iter().all(|node| node.endpoint.counts() == expected) {
                break;
            }
            self.run(self.now + Duration::from_secs(1));
        }
        self.check_counts(expected);
        self.lenient_until = Duration::ZERO;
        self.check();
    }

    /// Nothing is left of a peer that both ends have removed.
    pub(crate) fn check_gone(&mut self) {
        self.check_counts(Counts::default());
    }

    fn check_counts(&mut self, expected: Counts) {
        if self.failure.is_some() {
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let counts = node.endpoint.counts();
            let halves: BTreeSet<(ChildId, bool)> =
                node.kernel.values().map(|sa| (sa.child, sa.inbound)).collect();
            let kernel = node.kernel.len();
            if counts != expected {
                self.failure = Some(format!("{index} at rest has {counts:?} instead of {expected:?}"));
            } else if kernel != 2 * expected.child_sas {
                self.failure = Some(format!("{index} at rest has {kernel} SAs in the kernel"));
            } else if halves.len() != kernel {
                self.failure = Some(format!("{index} at rest lacks a half of a child"));
            }
        }
    }
}
