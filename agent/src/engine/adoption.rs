//! What a previous run left in the data plane: its policies stay, its SAs live until each is replaced.
//!
//! When the new CHILD SA of the same pair and reqid stands, the old outbound SA goes first and the old inbound SA later:
//! the peer may still send through it (`RFC 7296` §2.8 asks the same of a rekey).

use std::time::Duration;

use ipsecmesh_dataplane::SaStatus;
use ipsecmesh_ike::{Instant, SaName};
use std::collections::BTreeSet;
use std::net::IpAddr;

const OUTBOUND_GRACE: Duration = Duration::from_secs(1);
/// The peer may send through what it knows of the former run for half a minute, until it has heard that the new pair stands.
const INBOUND_GRACE: Duration = Duration::from_secs(35);

/// SAs of a previous run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adoption {
    sas: Vec<SaStatus>,
    due: Vec<(Instant, SaName)>,
}

impl Adoption {
    /// Takes over what a snapshot at the start showed. Larval states hold no keys and are none of it.
    pub(crate) fn new(snapshot: &[SaStatus]) -> Self {
        Self {
            sas: snapshot.iter().filter(|sa| !sa.larval).cloned().collect(),
            due: Vec::new(),
        }
    }

    /// SAs that still stand.
    pub(crate) fn sas(&self) -> &[SaStatus] {
        &self.sas
    }

    /// A new pair of SAs stands between `local` and `remote`: the old ones of the same reqid are to go.
    pub(crate) fn replaced(&mut self, reqid: u32, local: IpAddr, remote: IpAddr, now: Instant) {
        for sa in self.sas.iter().filter(|sa| sa.reqid == reqid) {
            let ends = (sa.name.source, sa.name.destination);
            let grace = if ends == (local, remote) {
                OUTBOUND_GRACE
            } else if ends == (remote, local) {
                INBOUND_GRACE
            } else {
                continue;
            };
            if !self.due.iter().any(|(_, name)| *name == sa.name) {
                self.due.push((now + grace, sa.name));
            }
        }
    }

    /// SAs without a future: outbound ones now, inbound ones after a grace.
    pub(crate) fn orphaned(&mut self, names: &[SaName], own: &BTreeSet<IpAddr>, now: Instant) {
        for name in names {
            if !self.due.iter().any(|(_, due)| due == name) {
                let grace = if own.contains(&name.source) {
                    Duration::ZERO
                } else {
                    OUTBOUND_GRACE
                };
                self.due.push((now + grace, *name));
            }
        }
    }

    /// When the next one is to go.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.iter().map(|(at, _)| *at).min()
    }

    /// Those that are to go now; they count as gone.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<SaName> {
        let (due, later): (Vec<_>, Vec<_>) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        let names: Vec<SaName> = due.into_iter().map(|(_, name)| name).collect();
        self.sas.retain(|sa| !names.contains(&sa.name));
        names
    }

    /// Forgets what a later snapshot does not show any more: it expired.
    pub(crate) fn retain(&mut self, snapshot: &[SaStatus]) {
        if self.sas.is_empty() {
            return;
        }
        let standing: BTreeSet<SaName> = snapshot.iter().map(|sa| sa.name).collect();
        self.sas.retain(|sa| standing.contains(&sa.name));
    }
}

#[cfg(test)]
mod tests {
    use ipsecmesh_ike::{EspSpi, SaProtocol};

    use super::*;

    fn sa(spi: u32, source: u8, destination: u8) -> SaStatus {
        SaStatus {
            name: SaName {
                protocol: SaProtocol::Esp,
                spi: EspSpi::new(spi).expect("not reserved"),
                source: IpAddr::from([10, 0, 0, source]),
                destination: IpAddr::from([10, 0, 0, destination]),
            },
            reqid: 7,
            encapsulation: None,
            larval: false,
            bytes: 0,
            packets: 0,
            added_at: 0,
            last_used: None,
        }
    }

    #[test]
    fn the_old_outbound_sa_goes_before_the_old_inbound_one_and_other_pairs_stay() {
        let (out, inb, other) = (sa(1000, 1, 2), sa(1001, 2, 1), sa(1002, 1, 3));
        let mut adoption = Adoption::new(&[out.clone(), inb.clone(), other.clone()]);
        let start = Instant::default();
        let [own, peer] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        adoption.replaced(7, own, peer, start);
        adoption.replaced(7, own, peer, start + Duration::from_secs(5));
        assert!(adoption.take_due(start).is_empty());
        assert_eq!(adoption.next(), Some(start + OUTBOUND_GRACE));
        assert_eq!(adoption.take_due(start + OUTBOUND_GRACE), [out.name]);
        assert_eq!(adoption.take_due(start + INBOUND_GRACE), [inb.name]);
        assert_eq!(adoption.sas(), [other]);
        assert_eq!(adoption.next(), None);
    }

    #[test]
    fn larval_states_are_not_adopted() {
        let larval = SaStatus {
            larval: true,
            ..sa(1000, 1, 2)
        };
        assert!(Adoption::new(&[larval]).sas().is_empty());
    }
}
