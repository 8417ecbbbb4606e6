//! The two halves of a pair on their way into the data plane: inbound first, outbound when the other end's inbound
//! half stands.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{Leave, Stage};
use crate::endpoint::{EffectOwner, Endpoint};
use crate::exchange::Task;
use crate::output::{CloseReason, EffectAction, EffectOutcome, Event, Failure, SaKey, SaSpec};
use crate::timer::Timer;
use crate::types::ChildSaId;
use crate::wire::Role;

/// Peers that send no confirmation had their time to install their inbound half.
const OUTBOUND_FALLBACK: Duration = Duration::from_millis(250);

/// SPIs that the data plane may refuse for one pair.
const SPI_TRIES: u8 = 4;

/// One half of a pair, as the data plane has it.
#[derive(Debug)]
pub(crate) enum Half {
    /// Not asked for yet.
    Planned(Box<SaSpec>),
    /// Asked for. While our SPI has not been sent, the specification is kept for another one.
    Installing {
        again: Option<Box<SaSpec>>,
        then_remove: bool,
    },
    /// It stands.
    Installed,
    /// Its removal is asked for.
    Removing,
    /// It is not there, and will not be.
    Gone,
}

impl Endpoint {
    /// Asks for the inbound half.
    pub(crate) fn install_inbound(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut child.inbound_half, Half::Gone) {
            Half::Planned(spec) => {
                let again = (!child.spi_told).then(|| Box::new(spec.duplicate()));
                child.inbound_half = Half::Installing {
                    again,
                    then_remove: false,
                };
                self.effect(
                    EffectAction::InstallInbound(spec),
                    EffectOwner::InstallInbound(id),
                );
            }
            other @ (Half::Installing { .. } | Half::Installed | Half::Removing | Half::Gone) => {
                child.inbound_half = other;
            }
        }
    }

    /// Asks for the outbound half; from now on our traffic may take it.
    pub(crate) fn install_outbound(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if !matches!(child.stage, Stage::Inbound | Stage::AwaitSign) {
            return;
        }
        match std::mem::replace(&mut child.outbound_half, Half::Gone) {
            Half::Planned(spec) => {
                child.stage = Stage::Active;
                child.outbound_half = Half::Installing {
                    again: None,
                    then_remove: false,
                };
                self.timers.cancel(Timer::ChildOutbound(id));
                self.effect(
                    EffectAction::InstallOutbound(spec),
                    EffectOwner::InstallOutbound(id),
                );
            }
            other @ (Half::Installing { .. } | Half::Installed | Half::Removing | Half::Gone) => {
                child.outbound_half = other;
            }
        }
    }

    /// The data plane has answered for the inbound half.
    pub(crate) fn inbound_installed(&mut self, id: ChildSaId, outcome: &EffectOutcome) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let Half::Installing { again, then_remove } = std::mem::replace(&mut child.inbound_half, Half::Gone)
        else {
            return;
        };
        match outcome {
            EffectOutcome::Done => {
                child.inbound_half = Half::Installed;
                if then_remove {
                    self.remove_inbound(id);
                    return;
                }
                self.inbound_stands(id);
            }
            EffectOutcome::SpiInUse => match again {
                // A pair that has come to its end meanwhile needs no other SPI.
                Some(spec) if child.stage == Stage::Inbound && child.refused_spis < SPI_TRIES => {
                    self.redraw_spi(id, spec);
                }
                Some(_) | None => self.inbound_refused(id, "the SPI is in use in the data plane"),
            },
            EffectOutcome::Failed(reason) => self.inbound_refused(id, reason),
        }
    }

    /// The data plane has answered for the outbound half.
    pub(crate) fn outbound_installed(&mut self, id: ChildSaId, outcome: &EffectOutcome) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let Half::Installing { then_remove, .. } = std::mem::replace(&mut child.outbound_half, Half::Gone)
        else {
            return;
        };
        match outcome {
            EffectOutcome::Done => {
                child.outbound_half = Half::Installed;
                if then_remove {
                    self.remove_outbound(id);
                } else {
                    self.activated(id);
                }
            }
            EffectOutcome::SpiInUse => self.outbound_refused(id, "the SPI is in use in the data plane"),
            EffectOutcome::Failed(reason) => self.outbound_refused(id, reason),
        }
    }

    /// Before our SPI is sent another one will do.
    fn redraw_spi(&mut self, id: ChildSaId, mut spec: Box<SaSpec>) {
        let Some(spi) = self.draw_esp_spi() else {
            self.inbound_refused(id, "no SPI could be drawn");
            return;
        };
        self.reserved.remove(&spi);
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        self.inbound.remove(&child.inbound.spi);
        child.refused_spis += 1;
        child.inbound.spi = spi;
        spec.name.spi = spi;
        child.inbound_half = Half::Planned(spec);
        self.inbound.insert(spi, id);
        self.install_inbound(id);
    }

    fn inbound_stands(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let (role, ike, stage) = (child.role, child.ike, child.stage);
        if role == Role::Responder {
            if stage == Stage::Inbound {
                child.stage = Stage::AwaitSign;
            }
            let silent = ike
                .and_then(|ike| self.sas.get(&ike))
                .is_some_and(|sa| !sa.confirms());
            if silent && stage == Stage::Inbound {
                self.set_timer(Timer::ChildOutbound(id), OUTBOUND_FALLBACK);
            }
            self.answer_held_child(id, true);
            return;
        }
        if let Some(sa) = ike.and_then(|ike| self.sas.get_mut(&ike)) {
            sa.installing.remove(&id);
        }
        if stage == Stage::Inbound {
            self.install_outbound(id);
        }
        if let Some(ike) = ike {
            self.pump(ike);
        }
    }

    /// Nothing may be left of a pair whose inbound half does not stand.
    fn inbound_refused(&mut self, id: ChildSaId, reason: &str) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let (ike, role, peer, name) = (child.ike, child.role, child.peer, child.child);
        self.data_plane_failure(peer, name, "inbound", reason);
        match (role, ike) {
            (Role::Responder, Some(_)) => {
                let answered = self.answer_held_child(id, false);
                if answered {
                    self.forget_child(id);
                } else {
                    self.retire(id, Leave::Delete, CloseReason::DataPlane);
                }
            }
            (Role::Initiator, Some(_)) => self.retire(id, Leave::Delete, CloseReason::DataPlane),
            (_, None) => self.forget_child(id),
        }
        self.slot_failed(peer, name);
    }

    fn outbound_refused(&mut self, id: ChildSaId, reason: &str) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let (peer, name) = (child.peer, child.child);
        self.data_plane_failure(peer, name, "outbound", reason);
        self.retire(id, Leave::Delete, CloseReason::DataPlane);
        self.slot_failed(peer, name);
    }

    fn data_plane_failure(
        &mut self,
        peer: crate::types::PeerId,
        child: crate::types::ChildId,
        half: &str,
        reason: &str,
    ) {
        self.event(Event::Failed {
            peer,
            child: Some(child),
            failure: Failure::DataPlane,
            detail: format!("the data plane refused the {half} SA: {reason}"),
            retry_in: None,
        });
    }

    /// Both halves stand: this pair is the one of its child now.
    fn activated(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.announced = true;
        let replaces = child.replaces.take();
        let (peer, name, role, ike) = (child.peer, child.child, child.role, child.ike);
        let (inbound, outbound) = (child.inbound.spi, child.outbound.spi);
        self.event(Event::ChildEstablished {
            peer,
            child: name,
            child_sa: id,
            inbound,
            outbound,
            replaces,
        });
        let mut pairs = Vec::new();
        if let Some(slot) = self.slot_mut(peer, name) {
            slot.current = Some(id);
            slot.failures = 0;
            pairs.clone_from(&slot.pairs);
        }
        if role == Role::Initiator
            && let Some(ike) = ike
        {
            let confirms = self.sas.get(&ike).is_some_and(crate::sa::IkeSa::confirms);
            if confirms {
                self.enqueue(ike, Task::Confirm(replaces));
            }
        }
        if let Some(old) = replaces {
            self.replaced(old, id);
        }
        for older in pairs {
            if older < id && Some(older) != replaces && self.is_usable(older) {
                self.replaced(older, id);
            }
        }
        self.finish_replacement(peer);
        if let Some(ike) = ike {
            self.pump(ike);
        }
    }

    /// Asks for the removal of the outbound half, now or as soon as it stands. Tells whether it is gone already.
    pub(crate) fn remove_outbound(&mut self, id: ChildSaId) -> bool {
        let Some(child) = self.children.get_mut(&id) else {
            return true;
        };
        let name = child.outbound;
        match std::mem::replace(&mut child.outbound_half, Half::Gone) {
            Half::Planned(_) | Half::Gone => true,
            Half::Installing { again, .. } => {
                child.outbound_half = Half::Installing {
                    again,
                    then_remove: true,
                };
                false
            }
            Half::Installed => {
                child.outbound_half = Half::Removing;
                self.effect(
                    EffectAction::RemoveOutbound(name),
                    EffectOwner::RemoveOutbound(id),
                );
                false
            }
            Half::Removing => {
                child.outbound_half = Half::Removing;
                false
            }
        }
    }

    /// Asks for the removal of the inbound half; the record goes with it.
    pub(crate) fn remove_inbound(&mut self, id: ChildSaId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let name = child.inbound;
        match std::mem::replace(&mut child.inbound_half, Half::Gone) {
            Half::Planned(_) | Half::Gone => self.forget_when_gone(id),
            Half::Installing { again, .. } => {
                child.inbound_half = Half::Installing {
                    again,
                    then_remove: true,
                };
            }
            Half::Installed => {
                child.inbound_half = Half::Removing;
                self.effect(EffectAction::RemoveInbound(name), EffectOwner::RemoveInbound(id));
            }
            Half::Removing => child.inbound_half = Half::Removing,
        }
    }

    /// The data plane has removed a half, or it was not there.
    pub(crate) fn half_removed(&mut self, id: ChildSaId, outbound: bool) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if outbound {
            child.outbound_half = Half::Gone;
            self.outbound_gone(id);
        } else {
            child.inbound_half = Half::Gone;
            self.forget_when_gone(id);
        }
    }

    fn forget_when_gone(&mut self, id: ChildSaId) {
        let gone = self.children.get(&id).is_some_and(|child| {
            matches!(child.inbound_half, Half::Gone)
                && matches!(child.outbound_half, Half::Gone | Half::Planned(_))
        });
        if gone {
            self.forget_child(id);
        }
    }
}

impl SaSpec {
    /// A copy for another attempt with another SPI. Not `Clone`: keys are not copied by accident.
    fn duplicate(&self) -> Self {
        Self {
            name: self.name,
            child_sa: self.child_sa,
            peer: self.peer,
            child: self.child,
            mode: self.mode,
            encryption: self.encryption,
            integrity: self.integrity,
            key: SaKey(Zeroizing::new(self.key.0.to_vec())),
            esn: self.esn,
            replay_window: self.replay_window,
            reqid: self.reqid,
            encapsulation: self.encapsulation,
            keepalive: self.keepalive,
            source_selectors: self.source_selectors.clone(),
            destination_selectors: self.destination_selectors.clone(),
            lifetime: self.lifetime,
            soft_lifetime: self.soft_lifetime,
        }
    }
}
