//! Names that are the same after every restart: peers, reqids, and which of two nodes starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsecmesh_ike::PeerId;
use sha2::{Digest as _, Sha256};

use crate::model::PacketSelector;

/// First reqid of ours; the low 16 bits are the slot.
const REQID_BASE: u32 = 0x1950_0000;

/// The name of a peer: one node at one pair of addresses.
pub(crate) fn peer_id(uid: &str, local: IpAddr, remote: IpAddr) -> PeerId {
    PeerId(hash(&[uid, &local.to_string(), &remote.to_string()]))
}

/// Whether this node starts (decision 5): of both ends the one with the lower hash. Both compute the same.
pub(crate) fn starts(own_uid: &str, peer_uid: &str) -> bool {
    let own = (hash(&[own_uid, peer_uid]), own_uid);
    let peer = (hash(&[peer_uid, own_uid]), peer_uid);
    own < peer
}

/// What of a tunnel has SAs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// One protocol of an overlay.
    Protocol(u8),
    /// One selector of an external peer.
    Selector(PacketSelector),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            // Only told apart by it, and the same after a restart.
            Self::Selector(selector) => write!(f, "{selector:?}"),
        }
    }
}

/// The reqid of each part of each tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reqids(BTreeMap<(String, Part), u32>);

impl Reqids {
    /// Gives every name the slot of its hash; of several with one slot, the later ones in the order of names move up.
    pub(crate) fn assign(names: impl IntoIterator<Item = Vec<(String, Part)>>) -> Self {
        let names: BTreeSet<(String, Part)> = names.into_iter().flatten().collect();
        let mut taken = BTreeSet::new();
        let mut reqids = BTreeMap::new();
        for name in names {
            let mut slot = slot(&name);
            while !taken.insert(slot) {
                slot = slot.wrapping_add(1);
            }
            reqids.insert(name, REQID_BASE | u32::from(slot));
        }
        Self(reqids)
    }

    /// The reqid of `tunnel` for `protocol`.
    pub(crate) fn of(&self, tunnel: &str, protocol: u8) -> Option<u32> {
        self.0
            .get(&(tunnel.to_owned(), Part::Protocol(protocol)))
            .copied()
    }

    /// The reqid of `tunnel` for one selector of an external peer.
    pub(crate) fn of_selector(&self, tunnel: &str, selector: PacketSelector) -> Option<u32> {
        self.0
            .get(&(tunnel.to_owned(), Part::Selector(selector)))
            .copied()
    }

    /// The tunnel of each reqid.
    pub(crate) fn tunnels(&self) -> BTreeMap<u32, String> {
        self.0
            .iter()
            .map(|((tunnel, _), reqid)| (*reqid, tunnel.clone()))
            .collect()
    }
}

fn slot((tunnel, part): &(String, Part)) -> u16 {
    let [.., high, low] = hash(&[tunnel, &part.to_string()]).to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn hash(parts: &[&str]) -> u64 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let output: [u8; 32] = digest.finalize().into();
    output
        .iter()
        .take(8)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_two_nodes_starts() {
        let uids: Vec<String> = (0..40).map(|n| format!("uid-{n}")).collect();
        let mut started = 0;
        for a in &uids {
            for b in &uids {
                if a != b {
                    assert_ne!(starts(a, b), starts(b, a), "{a} {b}");
                    started += usize::from(a < b && starts(a, b));
                }
            }
        }
        // The work is spread: not always the lower name.
        assert!((250..550).contains(&started), "{started}");
    }

    #[test]
    fn reqids_are_distinct_stable_and_in_range() {
        let names: Vec<(String, Part)> = (0..3000)
            .map(|n| (format!("tunnel-{n}"), Part::Protocol(17)))
            .collect();
        let reqids = Reqids::assign([names.clone()]);
        let distinct: BTreeSet<u32> = names.iter().filter_map(|(name, _)| reqids.of(name, 17)).collect();
        assert_eq!(distinct.len(), names.len());
        assert!(distinct.iter().all(|reqid| reqid >> 16 == REQID_BASE >> 16));
        let reversed = Reqids::assign(names.into_iter().rev().map(|name| vec![name]));
        assert_eq!(reqids, reversed);
    }

    #[test]
    fn a_peer_is_another_one_at_another_address_or_with_another_uid() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(peer_id("u", a, b), peer_id("u", a, b));
        assert_ne!(peer_id("u", a, b), peer_id("u", a, c));
        assert_ne!(peer_id("u", a, b), peer_id("v", a, b));
    }
}
