//! A NAT gives the peer another port or address: IKE follows, and so do the SAs that travel in UDP (RFC 7296 §2.23,
//! RFC 3948 §3). Only what authenticated leads here: an IKE message, or ESP of which the data plane says so.

use std::net::SocketAddr;

use super::Half;
use crate::endpoint::{EffectOwner, Endpoint};
use crate::output::{EffectAction, EffectOutcome};
use crate::types::{ChildSaId, EspSpi, IkeSaId, Path};

impl Endpoint {
    /// ESP of an SA of ours came from elsewhere.
    pub(crate) fn esp_moved(&mut self, spi: EspSpi, remote: SocketAddr) {
        let child = self.inbound.get(&spi).and_then(|id| self.children.get(id));
        let Some(id) = child.and_then(|child| child.ike) else {
            return;
        };
        let Some(sa) = self.sas.get(&id) else { return };
        let path = Path {
            local: sa.path.local,
            remote,
        };
        self.follow(id, path);
    }

    /// The peer is where `path` says. Without a NAT at its end it stays where it was: whoever sends its packets on from
    /// elsewhere must not draw our traffic there.
    pub(crate) fn follow(&mut self, id: IkeSaId, path: Path) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if !sa.nat.peer_may_move() || sa.path == path {
            return;
        }
        let before = std::mem::replace(&mut sa.path, path);
        let children: Vec<ChildSaId> = sa.children.iter().copied().collect();
        let same_hosts = (before.local.ip(), before.remote.ip()) == (path.local.ip(), path.remote.ip());
        for child in children {
            if same_hosts {
                self.set_ports(child, path.local.port(), path.remote.port());
            } else {
                // Addresses are part of an SA's name: the move takes new ones.
                self.rekey_child(child);
            }
        }
    }

    /// The data plane has answered. SAs that it could not change are replaced.
    pub(crate) fn ports_set(&mut self, id: ChildSaId, outcome: &EffectOutcome) {
        if *outcome != EffectOutcome::Done && self.children.contains_key(&id) {
            self.rekey_child(id);
        }
    }

    fn set_ports(&mut self, id: ChildSaId, local: u16, remote: u16) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let halves = [
            (&mut child.inbound_half, child.inbound, (remote, local)),
            (&mut child.outbound_half, child.outbound, (local, remote)),
        ];
        let mut moved = Vec::new();
        for (half, name, ports) in halves {
            match half {
                Half::Planned(spec) => spec.encapsulation = Some(ports),
                Half::Installing { again, .. } => {
                    if let Some(spec) = again {
                        spec.encapsulation = Some(ports);
                    }
                    // Effects happen in their order: this one finds the SA installed.
                    moved.push((name, ports));
                }
                Half::Installed => moved.push((name, ports)),
                Half::Removing | Half::Gone => {}
            }
        }
        for (name, ports) in moved {
            self.effect(
                EffectAction::Encapsulate(name, ports),
                EffectOwner::Encapsulate(id),
            );
        }
    }
}
