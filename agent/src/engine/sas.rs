//! The SAs that this process installed, with the counters that were last seen.

use std::collections::BTreeMap;

use crate::engine::event::SaShape;
use crate::engine::keepalive::Keepalive;
use ipsecmesh_ike::{ChildId, EffectAction, EspSpi, PeerId, SaName, SaProtocol};

/// One half of a CHILD SA of ours in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaRecord {
    /// Towards this host.
    pub(crate) inbound: bool,
    /// The peer that it belongs to.
    pub(crate) peer: PeerId,
    /// The child that it belongs to.
    pub(crate) child: ChildId,
    /// Its reqid.
    pub(crate) reqid: u32,
    /// Bytes when last seen.
    pub(crate) bytes: u64,
    /// Packets when last seen.
    pub(crate) packets: u64,
    /// A NAT at our end forgets it when nothing is sent.
    pub(crate) keepalive: Option<Keepalive>,
    /// How its packets travel.
    pub(crate) shape: SaShape,
    /// From here on its rekey is due, in (bytes, packets): the kernel says so once, and that may be lost.
    pub(crate) soft: (Option<u64>, Option<u64>),
}

impl SaRecord {
    /// Takes newer counters; whether they have passed a soft limit since the last ones.
    pub(crate) fn count(&mut self, bytes: u64, packets: u64) -> bool {
        let passed =
            |limit: Option<u64>, before, now| limit.is_some_and(|limit| before < limit && limit <= now);
        let due = passed(self.soft.0, self.bytes, bytes) || passed(self.soft.1, self.packets, packets);
        (self.bytes, self.packets) = (bytes, packets);
        due
    }
}

/// What an effect will do to the table when the data plane has done it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The SA stands.
    Add(SaName, SaRecord),
    /// The SA travels between other UDP ports (source, destination).
    Move(SaName, (u16, u16)),
    /// The SA is gone.
    Remove(SaName),
}

impl Change {
    /// Read before the effect is given away.
    pub(crate) fn of(action: &EffectAction) -> Self {
        let (spec, inbound) = match action {
            EffectAction::InstallInbound(spec) => (spec, true),
            EffectAction::InstallOutbound(spec) => (spec, false),
            EffectAction::Encapsulate(name, ports) => return Self::Move(*name, *ports),
            EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => {
                return Self::Remove(*name);
            }
        };
        let record = SaRecord {
            inbound,
            peer: spec.peer,
            child: spec.child,
            reqid: spec.reqid,
            bytes: 0,
            packets: 0,
            keepalive: (spec.keepalive && !inbound)
                .then_some(spec.encapsulation)
                .flatten()
                .map(Keepalive::new),
            shape: SaShape {
                protocol: spec.name.protocol,
                mode: spec.mode,
                encryption: spec.encryption,
                esn: spec.esn,
                udp: spec.encapsulation.is_some(),
            },
            soft: (spec.soft_lifetime.bytes, spec.soft_lifetime.packets),
        };
        Self::Add(spec.name, record)
    }
}

/// The table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sas(BTreeMap<SaKey, SaRecord>);

/// Protocol, destination, SPI, source: what the kernel looks SAs up by, in an order that a map can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SaKey {
    protocol: SaProtocol,
    destination: std::net::IpAddr,
    spi: EspSpi,
    source: std::net::IpAddr,
}

impl From<SaName> for SaKey {
    fn from(name: SaName) -> Self {
        Self {
            protocol: name.protocol,
            destination: name.destination,
            spi: name.spi,
            source: name.source,
        }
    }
}

impl From<SaKey> for SaName {
    fn from(key: SaKey) -> Self {
        Self {
            protocol: key.protocol,
            spi: key.spi,
            source: key.source,
            destination: key.destination,
        }
    }
}

impl Sas {
    /// Carries out a change.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Add(name, record) => {
                self.0.insert(name.into(), record);
            }
            Change::Move(name, ports) => {
                if let Some(keepalive) = self.find(name).and_then(|record| record.keepalive.as_mut()) {
                    keepalive.ports = ports;
                }
            }
            Change::Remove(name) => {
                self.0.remove(&name.into());
            }
        }
    }

    /// One SA.
    pub(crate) fn find(&mut self, name: SaName) -> Option<&mut SaRecord> {
        self.0.get_mut(&name.into())
    }

    /// Whether it is one of ours.
    pub(crate) fn contains(&self, name: SaName) -> bool {
        self.0.contains_key(&name.into())
    }

    /// Changes each of them.
    pub(crate) fn each(&mut self, mut change: impl FnMut(SaName, &mut SaRecord)) {
        for (key, record) in &mut self.0 {
            change((*key).into(), record);
        }
    }

    /// All SAs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SaName, &SaRecord)> {
        self.0.iter().map(|(key, record)| ((*key).into(), record))
    }
}
