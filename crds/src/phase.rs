//! The phases of a rollout: what each demands of a packet, and how overrides of single members and overlay entries combine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::peer::IPsecPeerSpec;
use crate::tunnel::EffectiveOverlay;

/// A step on the way from cleartext to ESP and back. Order of life: the first three come up, the last three go down.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Phase {
    /// ESP as soon as an SA is there, cleartext before; both are accepted.
    #[default]
    Permissive,
    /// Leaves as ESP or not at all; cleartext is still accepted.
    Encrypting,
    /// ESP in both directions.
    Enforcing,
    /// As `Encrypting`, on the way back.
    Draining,
    /// Leaves in clear; both are accepted.
    Releasing,
    /// SAs and policies are removed.
    Removing,
}

impl Phase {
    /// All phases, in the order of life.
    pub const ALL: [Self; 6] = [
        Self::Permissive,
        Self::Encrypting,
        Self::Enforcing,
        Self::Draining,
        Self::Releasing,
        Self::Removing,
    ];

    /// What the phase demands of packets in each direction.
    pub const fn demands(self) -> Demands {
        use Demand::{None, Optional, Required};
        let (inbound, outbound) = match self {
            Self::Permissive => (Optional, Optional),
            Self::Encrypting | Self::Draining => (Optional, Required),
            Self::Enforcing => (Required, Required),
            Self::Releasing => (Optional, None),
            Self::Removing => (None, None),
        };
        Demands { inbound, outbound }
    }

    /// As written in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permissive => "Permissive",
            Self::Encrypting => "Encrypting",
            Self::Enforcing => "Enforcing",
            Self::Draining => "Draining",
            Self::Releasing => "Releasing",
            Self::Removing => "Removing",
        }
    }

    /// The phase after this one on the way up; `Enforcing` is the last, and what goes down stays there.
    #[must_use]
    pub const fn towards_enforcing(self) -> Self {
        match self {
            Self::Permissive => Self::Encrypting,
            Self::Encrypting | Self::Enforcing => Self::Enforcing,
            Self::Draining | Self::Releasing | Self::Removing => self,
        }
    }

    /// The phase after this one on the way down; `Removing` is the last.
    #[must_use]
    pub const fn towards_removing(self) -> Self {
        match self {
            Self::Permissive | Self::Draining => Self::Releasing,
            Self::Encrypting | Self::Enforcing => Self::Draining,
            Self::Releasing | Self::Removing => Self::Removing,
        }
    }

    /// Whether the phase leads away from encryption.
    pub const fn is_teardown(self) -> bool {
        matches!(self, Self::Draining | Self::Releasing | Self::Removing)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a policy demands in one direction. Ordered from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Demand {
    /// No policy: cleartext.
    None,
    /// ESP where there is an SA, cleartext where there is none (the kernel's `level use`).
    Optional,
    /// ESP or nothing.
    Required,
}

/// What a phase, or several together, demand in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Demands {
    /// Of packets that arrive.
    pub inbound: Demand,
    /// Of packets that leave.
    pub outbound: Demand,
}

impl Demands {
    /// The weaker demand of the two, direction by direction.
    #[must_use]
    pub fn weakest(self, other: Self) -> Self {
        Self {
            inbound: self.inbound.min(other.inbound),
            outbound: self.outbound.min(other.outbound),
        }
    }

    /// What a pair of nodes demands for one selector: the tunnel's phase, weakened by each override that is set
    /// (those of the two members and of the overlay entry).
    pub fn of(tunnel: Phase, overrides: impl IntoIterator<Item = Option<Phase>>) -> Self {
        overrides
            .into_iter()
            .flatten()
            .map(Phase::demands)
            .fold(tunnel.demands(), Self::weakest)
    }
}

/// One deviation from a tunnel's phase, as an agent applies it and the operator expects it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Override {
    /// A member that comes or goes.
    Member {
        /// Name of the node.
        node: String,
        /// Its phase.
        phase: Phase,
    },
    /// An overlay entry that comes or goes.
    Overlay {
        /// IP protocol.
        protocol: u8,
        /// Destination port.
        port: Option<u16>,
        /// Its phase.
        phase: Phase,
    },
}

/// All overrides that are in force for `tunnel`, from what agents and operator both see.
pub fn overrides<'a>(
    tunnel: &str,
    overlay: &[EffectiveOverlay],
    peers: impl IntoIterator<Item = (&'a str, &'a IPsecPeerSpec)>,
) -> Vec<Override> {
    let members = peers.into_iter().flat_map(|(node, peer)| {
        let phases = peer
            .memberships
            .iter()
            .filter(|m| m.tunnel == tunnel)
            .filter_map(|m| m.phase);
        phases.map(|phase| Override::Member {
            node: node.to_owned(),
            phase,
        })
    });
    let entries = overlay.iter().filter_map(|entry| {
        let phase = entry.phase?;
        Some(Override::Overlay {
            protocol: entry.protocol,
            port: entry.port,
            phase,
        })
    });
    members.chain(entries).collect()
}

/// A short hash over all overrides in any order; `None` when there are none, so that a steady state echoes nothing.
pub fn transition_hash(overrides: impl IntoIterator<Item = Override>) -> Option<String> {
    let mut sorted: Vec<Override> = overrides.into_iter().collect();
    sorted.sort();
    sorted.dedup();
    if sorted.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for item in &sorted {
        // A node's name holds no line feed, so that two lists never give one text.
        let line = match item {
            Override::Member { node, phase } => format!("member {node} {phase}\n"),
            Override::Overlay {
                protocol,
                port,
                phase,
            } => format!("overlay {protocol} {port:?} {phase}\n"),
        };
        hash.update(line.as_bytes());
    }
    let digest = hash.finalize();
    let prefix = digest
        .iter()
        .take(8)
        .fold(0_u64, |prefix, byte| prefix << 8 | u64::from(*byte));
    Some(format!("{prefix:016x}"))
}

#[cfg(test)]
mod tests {
    use super::{Demand::*, *};

    #[test]
    fn demands_of_each_phase() {
        for (phase, inbound, outbound) in [
            (Phase::Permissive, Optional, Optional),
            (Phase::Encrypting, Optional, Required),
            (Phase::Enforcing, Required, Required),
            (Phase::Draining, Optional, Required),
            (Phase::Releasing, Optional, None),
            (Phase::Removing, None, None),
        ] {
            assert_eq!(phase.demands(), Demands { inbound, outbound }, "{phase}");
        }
    }

    #[test]
    fn the_weakest_demand_wins_per_direction() {
        use Phase::{Draining, Encrypting, Enforcing, Permissive, Releasing, Removing};
        for (tunnel, overrides, inbound, outbound) in [
            (Enforcing, vec![], Required, Required),
            (Enforcing, vec![Option::None], Required, Required),
            (Enforcing, vec![Some(Permissive)], Optional, Optional),
            (
                Enforcing,
                vec![Some(Encrypting), Some(Permissive)],
                Optional,
                Optional,
            ),
            (Enforcing, vec![Some(Draining)], Optional, Required),
            (Enforcing, vec![Some(Releasing), Option::None], Optional, None),
            (Enforcing, vec![Some(Permissive), Some(Removing)], None, None),
            (Permissive, vec![Some(Enforcing)], Optional, Optional),
            (Releasing, vec![Some(Permissive)], Optional, None),
        ] {
            assert_eq!(
                Demands::of(tunnel, overrides.clone()),
                Demands { inbound, outbound },
                "{tunnel} {overrides:?}"
            );
        }
    }

    #[test]
    fn the_ways_up_and_down_end() {
        assert_eq!(
            Phase::Permissive.towards_enforcing().towards_enforcing(),
            Phase::Enforcing
        );
        assert_eq!(Phase::Enforcing.towards_enforcing(), Phase::Enforcing);
        for phase in Phase::ALL {
            let mut last = phase;
            for _ in 0..3 {
                last = last.towards_removing();
            }
            assert_eq!(last, Phase::Removing, "from {phase}");
            assert_eq!(
                phase.is_teardown(),
                phase.towards_enforcing() == phase && phase != Phase::Enforcing
            );
        }
    }

    #[test]
    fn the_transition_hash_ignores_order_and_repetition_only() {
        let a = Override::Member {
            node: "a".into(),
            phase: Phase::Permissive,
        };
        let b = Override::Overlay {
            protocol: 17,
            port: Some(4789),
            phase: Phase::Draining,
        };
        let hash = transition_hash([a.clone(), b.clone()]).expect("two overrides");
        assert_eq!(hash.len(), 16);
        assert_eq!(
            transition_hash([b.clone(), a.clone(), b.clone()]),
            Some(hash.clone())
        );
        assert_eq!(transition_hash([]), Option::None);
        let other = Override::Member {
            node: "a".into(),
            phase: Phase::Encrypting,
        };
        let portless = Override::Overlay {
            protocol: 17,
            port: Option::None,
            phase: Phase::Draining,
        };
        for list in [
            vec![a.clone()],
            vec![b.clone()],
            vec![other, b.clone()],
            vec![a, portless],
        ] {
            assert_ne!(transition_hash(list), Some(hash.clone()));
        }
    }
}
