//! A simulated kernel: its SAs, the policies that stand from the start and block what has no SA, and its refusals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipsecmesh_ike::*;

/// What names an SA in a kernel: two of one protocol and SPI towards one address cannot be (RFC 4301 §4.4.2.1).
pub(crate) type Place = (SaProtocol, u32, IpAddr);

/// One SA in a simulated kernel.
#[derive(Clone, Debug)]
pub(crate) struct KernelSa {
    pub(crate) key: Vec<u8>,
    pub(crate) inbound: bool,
    pub(crate) peer: PeerId,
    pub(crate) child: ChildId,
    pub(crate) source: IpAddr,
    pub(crate) encapsulation: Option<(u16, u16)>,
    /// The process that installed it.
    pub(crate) generation: u32,
    pub(crate) serial: u64,
    /// The kernel has refused to remove it.
    pub(crate) stuck: bool,
}

/// The steps at which a kernel can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Encapsulate,
    Inbound,
    Outbound,
    Removal,
}

impl Step {
    pub(crate) const ALL: [Self; 4] = [Self::Encapsulate, Self::Inbound, Self::Outbound, Self::Removal];

    fn of(action: &EffectAction) -> Self {
        match action {
            EffectAction::Encapsulate(..) => Self::Encapsulate,
            EffectAction::InstallInbound(_) => Self::Inbound,
            EffectAction::InstallOutbound(_) => Self::Outbound,
            EffectAction::RemoveInbound(_) | EffectAction::RemoveOutbound(_) => Self::Removal,
        }
    }
}

/// What is planted into a kernel to see whether the rules notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Bug {
    #[default]
    None,
    /// An inbound SA is reported as installed a while before it is.
    EarlyAnswer,
    /// The kernel keeps what it was told to remove.
    Forgets,
    /// Inbound SAs go as soon as there is a newer one.
    NoGrace,
    /// Outbound SAs have a wrong key.
    WrongKey,
}

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) sas: BTreeMap<Place, KernelSa>,
    pub(crate) bug: Bug,
    /// The steps that will be refused, each after so many that will not.
    pub(crate) refusals: Vec<(Step, u64)>,
}

pub(crate) fn place(name: &SaName) -> Place {
    (name.protocol, name.spi.value(), name.destination)
}

impl Kernel {
    /// Whether this step was chosen to be refused.
    pub(crate) fn refuses(&mut self, action: &EffectAction) -> bool {
        let step = Step::of(action);
        let Some(at) = self.refusals.iter().position(|(refused, _)| *refused == step) else {
            return false;
        };
        let due = self.refusals[at].1 == 0;
        if due {
            self.refusals.remove(at);
        } else {
            self.refusals[at].1 -= 1;
        }
        due
    }

    /// Carries out an effect. An SA that is to come later is given back.
    pub(crate) fn carry_out(
        &mut self,
        action: &EffectAction,
        refused: Option<EffectOutcome>,
        generation: u32,
        serial: u64,
    ) -> (EffectOutcome, Option<(Place, KernelSa)>) {
        match action {
            EffectAction::InstallInbound(spec) | EffectAction::InstallOutbound(spec) => {
                let inbound = matches!(action, EffectAction::InstallInbound(_));
                let place = place(&spec.name);
                if let Some(outcome) = refused {
                    return (outcome, None);
                }
                if self.sas.contains_key(&place) {
                    return (EffectOutcome::SpiInUse, None);
                }
                let mut key = spec.key.0.to_vec();
                if self.bug == Bug::WrongKey && !inbound {
                    key[0] ^= 1;
                }
                let sa = KernelSa {
                    key,
                    inbound,
                    peer: spec.peer,
                    child: spec.child,
                    source: spec.name.source,
                    encapsulation: spec.encapsulation,
                    generation,
                    serial,
                    stuck: false,
                };
                if self.bug == Bug::NoGrace && inbound {
                    self.sas.retain(|_, sa| !sa.inbound || sa.peer != spec.peer);
                }
                if self.bug == Bug::EarlyAnswer && inbound {
                    return (EffectOutcome::Done, Some((place, sa)));
                }
                self.sas.insert(place, sa);
            }
            EffectAction::Encapsulate(name, ports) => {
                if let Some(outcome) = refused {
                    return (outcome, None);
                }
                if let Some(sa) = self.sas.get_mut(&place(name)) {
                    sa.encapsulation = Some(*ports);
                }
            }
            EffectAction::RemoveInbound(name) | EffectAction::RemoveOutbound(name) => {
                if let Some(outcome) = refused {
                    if let Some(sa) = self.sas.get_mut(&place(name)) {
                        sa.stuck = true;
                    }
                    return (outcome, None);
                }
                if self.bug != Bug::Forgets {
                    self.sas.remove(&place(name));
                }
            }
        }
        (EffectOutcome::Done, None)
    }

    /// The SA that a packet of a child takes: the newest.
    pub(crate) fn outbound(&self, peer: PeerId, child: ChildId) -> Option<(&Place, &KernelSa)> {
        let fitting = |sa: &KernelSa| !sa.inbound && sa.peer == peer && sa.child == child && !sa.stuck;
        let fitting = self.sas.iter().filter(|(_, sa)| fitting(sa));
        fitting.max_by_key(|(_, sa)| sa.serial)
    }
}

/// Where an SA would let through what the policy of its child does not mean (invariant I2).
pub(crate) fn misfit(action: &EffectAction, configured: Option<&PeerConfig>) -> Option<&'static str> {
    let (spec, inbound) = match action {
        EffectAction::InstallInbound(spec) => (spec, true),
        EffectAction::InstallOutbound(spec) => (spec, false),
        EffectAction::Encapsulate(..) | EffectAction::RemoveInbound(_) | EffectAction::RemoveOutbound(_) => {
            return None;
        }
    };
    let Some(config) = configured else {
        return Some("of a peer that is not configured");
    };
    let Some(child) = config.children.iter().find(|child| child.id == spec.child) else {
        return Some("of a child that is not configured");
    };
    let (here, there) = (config.local_address, config.remote_address);
    let ends = if inbound { (there, here) } else { (here, there) };
    let (local, remote) = if inbound {
        (&spec.destination_selectors, &spec.source_selectors)
    } else {
        (&spec.source_selectors, &spec.destination_selectors)
    };
    let offered = |proposal: &ChildProposal| {
        proposal.protocol == spec.name.protocol
            && (spec.encryption.is_none() || proposal.encryption.iter().any(|e| Some(*e) == spec.encryption))
            && (spec.integrity.is_none() || proposal.integrity.iter().any(|i| Some(*i) == spec.integrity))
    };
    if (spec.name.source, spec.name.destination) != ends {
        Some("between other addresses")
    } else if spec.mode != child.mode || spec.reqid != child.reqid {
        Some("of another mode or policy")
    } else if spec.encryption.is_none() && spec.integrity.is_none() {
        Some("that protects nothing")
    } else if !child.proposals.iter().any(offered) {
        Some("with algorithms that are not configured")
    } else if !within(local, &child.local_selectors) || !within(remote, &child.remote_selectors) {
        Some("with selectors that are not configured")
    } else {
        None
    }
}

fn within(narrow: &[TrafficSelector], wide: &[TrafficSelector]) -> bool {
    let inside = |n: &TrafficSelector, w: &TrafficSelector| {
        (w.protocol == 0 || w.protocol == n.protocol)
            && w.first_port <= n.first_port
            && n.last_port <= w.last_port
            && w.first_address <= n.first_address
            && n.last_address <= w.last_address
    };
    !narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| inside(n, w)))
}
