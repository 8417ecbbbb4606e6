//! What the driver wants, carried out: each command twice has the effect of once.

use crate::child::Leave;
use crate::config::{ChildConfig, PeerConfig};
use crate::endpoint::Endpoint;
use crate::output::{CloseReason, Command, CommandError};
use crate::peer::{Negotiation, Peer, Slot};
use crate::timer::Timer;
use crate::types::{BootId, ChildId, ChildSaId, EspSpi, PeerId, SaProtocol};
use std::time::Duration;

/// The end that does not lead leaves a re-establishment to the other for this long.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(5);

const UNSOUND_IKE: &str = "ike_proposals: AES-CBC needs an integrity algorithm, and combined modes go without; make two \
                           proposals of it";
const UNSOUND_CHILD: &str = "children.proposals: AES-CBC and AH need an integrity algorithm, combined modes go \
                             without, and AH has no cipher; make two proposals of it";

impl Endpoint {
    pub(crate) fn command(&mut self, command: Command) -> Result<(), CommandError> {
        match command {
            Command::Acquire { peer, child } => self.acquire(peer, child),
            Command::Expire { spi, hard } => self.kernel_expire(spi, hard),
            Command::InboundSeen { spi } => {
                let now = self.now.mono;
                self.child_is_alive(spi, now);
            }
            Command::OutboundSeen { spi } => self.child_sends(spi),
            Command::Mapping { spi, remote } => self.esp_moved(spi, remote),
            Command::PeerBooted { peer, boot } => return self.peer_booted(peer, boot),
            Command::RekeyChild { peer, child } => return self.command_rekey_child(peer, child),
            Command::RekeyIke { peer } => {
                let current = self.peers.get(&peer).ok_or(CommandError::UnknownPeer)?.current;
                if let Some(current) = current {
                    self.rekey_ike(current);
                }
            }
            Command::RemovePeer { peer } => self.remove_peer(peer)?,
            Command::RetryPeer { peer } => return self.retry_peer(peer),
            Command::SetCredentials(credentials) => {
                self.config.credentials = Some(credentials);
                self.retry_all();
            }
            Command::UpsertPeer(config) => return self.upsert(*config),
        }
        Ok(())
    }

    /// Traffic waits: names that are not known any more are a race, not an error.
    fn acquire(&mut self, id: PeerId, child: ChildId) {
        let Some(slot) = self
            .peers
            .get_mut(&id)
            .and_then(|peer| peer.slots.get_mut(&child))
        else {
            return;
        };
        slot.wanted = true;
        self.drive_peer(id);
    }

    fn kernel_expire(&mut self, spi: EspSpi, hard: bool) {
        let by_peer = self
            .outbound
            .range((spi, ChildSaId(0))..=(spi, ChildSaId(u64::MAX)))
            .map(|(_, pair)| *pair)
            .next();
        let Some(pair) = self.inbound.get(&spi).copied().or(by_peer) else {
            return;
        };
        if hard {
            self.child_expired(pair);
        } else {
            self.rekey_child(pair);
        }
    }

    /// SAs of another boot are gone at the peer: ours of it go as well, and new ones are made.
    fn peer_booted(&mut self, id: PeerId, boot: BootId) -> Result<(), CommandError> {
        let peer = self.peers.get_mut(&id).ok_or(CommandError::UnknownPeer)?;
        peer.boot = Some(boot);
        let Some(current) = peer.current else {
            return Ok(());
        };
        let stale = self
            .sas
            .get(&current)
            .is_some_and(|sa| sa.boot.is_some_and(|known| known != boot));
        if stale {
            self.close(current, CloseReason::Replaced);
            self.drive_peer(id);
        }
        Ok(())
    }

    fn command_rekey_child(&mut self, id: PeerId, child: ChildId) -> Result<(), CommandError> {
        let peer = self.peers.get(&id).ok_or(CommandError::UnknownPeer)?;
        let slot = peer.slots.get(&child).ok_or(CommandError::UnknownChild)?;
        if let Some(pair) = slot.current {
            self.rekey_child(pair);
        }
        Ok(())
    }

    fn remove_peer(&mut self, id: PeerId) -> Result<(), CommandError> {
        let peer = self.peers.remove(&id).ok_or(CommandError::UnknownPeer)?;
        self.by_address
            .remove(&(peer.config.local_address, peer.config.remote_address));
        self.timers.cancel(Timer::Start(id));
        for child in peer.slots.keys() {
            self.timers.cancel(Timer::ChildRetry(id, *child));
        }
        for old in [peer.current, peer.replacing].into_iter().flatten() {
            self.timers.cancel(Timer::StartAnew(id, old));
        }
        if let Some(attempt) = peer.initiating {
            self.drop_attempt(attempt);
        }
        for half_open in self.half_open.of_peer(peer.config.remote_address, id) {
            self.forget_half_open(half_open);
        }
        for sa in [peer.current, peer.replacing, peer.redundant]
            .into_iter()
            .flatten()
        {
            self.close_with_delete(sa, CloseReason::Local);
        }
        // Pairs that had lost their IKE SA have nobody to be told.
        for pair in peer.slots.into_values().flat_map(|slot| slot.pairs) {
            if self.children.get(&pair).is_some_and(|child| child.ike.is_none()) {
                self.retire(pair, Leave::Linger, CloseReason::Local);
            }
        }
        Ok(())
    }

    /// An attempt under way was begun under the old judgement: it gives way to a new one. Pairs stay.
    fn retry_peer(&mut self, id: PeerId) -> Result<(), CommandError> {
        let peer = self.peers.get_mut(&id).ok_or(CommandError::UnknownPeer)?;
        if peer.current.is_some() {
            return Ok(());
        }
        peer.failures = 0;
        if let Some(attempt) = peer.initiating {
            self.drop_attempt(attempt);
        }
        self.timers.cancel(Timer::Start(id));
        self.drive_peer(id);
        Ok(())
    }

    /// What failed for lack of credentials is tried again, for all peers.
    fn retry_all(&mut self) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.failures = 0;
                peer.told_no_credentials = false;
            }
            if self
                .peers
                .get(&id)
                .is_some_and(|peer| peer.current.is_none() && peer.initiating.is_none())
            {
                self.timers.cancel(Timer::Start(id));
                self.drive_peer(id);
            }
        }
    }

    fn upsert(&mut self, config: PeerConfig) -> Result<(), CommandError> {
        validate(&config)?;
        if let Some(message) = self.provider.lacks(&config) {
            return Err(CommandError::Invalid(message));
        }
        let key = (config.local_address, config.remote_address);
        if self.by_address.get(&key).is_some_and(|known| *known != config.id) {
            return Err(CommandError::DuplicateAddresses);
        }
        let id = config.id;
        let moved = self
            .peers
            .get(&id)
            .is_some_and(|peer| (peer.config.local_address, peer.config.remote_address) != key);
        if moved {
            self.remove_peer(id)?;
        }
        match self.peers.get_mut(&id) {
            None => {
                self.by_address.insert(key, id);
                self.peers.insert(id, Peer::new(config));
                self.drive_peer(id);
            }
            Some(peer) if peer.config == config => {}
            Some(peer) => {
                let old = std::mem::replace(&mut peer.config, config);
                self.apply_edit(id, &old);
            }
        }
        Ok(())
    }

    /// Carries a changed configuration out on what stands; what is unchanged is not touched.
    fn apply_edit(&mut self, id: PeerId, old: &PeerConfig) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.failures = 0;
        peer.told_refused_init = false;
        let new = peer.config.clone();
        let current = peer.current;
        let eager = peer.eager();
        self.edit_children(id, old, &new, eager);
        if let Some(attempt) = self.peers.get(&id).and_then(|peer| peer.initiating) {
            // An unfinished exchange speaks for the old configuration.
            if let Some(attempt) = self.drop_attempt(attempt)
                && let Some(old) = attempt.replaces
            {
                self.start_anew(id, old);
            }
        }
        if let Some(current) = current {
            let identity = old.auth != new.auth
                || old.ppk != new.ppk
                || old.local_identity != new.local_identity
                || old.remote_identity != new.remote_identity
                || old.encapsulation != new.encapsulation;
            if identity {
                if self.leads(id) {
                    self.start_anew(id, current);
                } else {
                    self.set_timer(Timer::StartAnew(id, current), FOLLOWER_PATIENCE);
                }
            } else if old.ike_proposals != new.ike_proposals {
                self.rekey_ike(current);
            }
            if old.ike_lifetime != new.ike_lifetime {
                self.change_life(current);
            }
            if old.liveness != new.liveness {
                self.set_timer(Timer::Liveness(current), new.liveness.interval);
            }
        } else {
            self.timers.cancel(Timer::Start(id));
        }
        self.drive_peer(id);
    }

    fn edit_children(&mut self, id: PeerId, old: &PeerConfig, new: &PeerConfig, eager: bool) {
        for gone in old
            .children
            .iter()
            .filter(|child| !new.children.iter().any(|kept| kept.id == child.id))
        {
            self.timers.cancel(Timer::ChildRetry(id, gone.id));
            let slot = self
                .peers
                .get_mut(&id)
                .and_then(|peer| peer.slots.remove(&gone.id));
            for pair in slot.map(|slot| slot.pairs).unwrap_or_default() {
                self.retire_by_wish(pair);
            }
        }
        for child in &new.children {
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            let slot = peer.slots.entry(child.id).or_insert_with(Slot::default);
            slot.wanted |= eager;
            slot.failures = 0;
            if slot.negotiation == Negotiation::Waiting {
                slot.negotiation = Negotiation::Idle;
                self.timers.cancel(Timer::ChildRetry(id, child.id));
            }
            let Some(before) = old.children.iter().find(|before| before.id == child.id) else {
                continue;
            };
            let Some(pair) = slot.current else { continue };
            if before.local_selectors != child.local_selectors
                || before.remote_selectors != child.remote_selectors
                || before.mode != child.mode
                || protocol(before) != protocol(child)
            {
                slot.stale = true;
            } else if changes_sa(before, child) {
                self.rekey_child(pair);
            }
        }
    }

    /// A child that the configuration does not have any more.
    fn retire_by_wish(&mut self, pair: ChildSaId) {
        // The peer has not heard of a pair whose response is held back, and does not now.
        let unheard = self.answer_held_child(pair, false);
        let told = self.children.get(&pair).and_then(|child| child.ike).is_some();
        let leave = if told && !unheard {
            Leave::Delete
        } else {
            Leave::Linger
        };
        self.retire(pair, leave, CloseReason::Local);
    }
}

fn protocol(child: &ChildConfig) -> SaProtocol {
    child
        .proposals
        .first()
        .map(|proposal| proposal.protocol)
        .unwrap_or_default()
}

/// Whether a change of a child shows in its SAs without changing what they protect.
fn changes_sa(old: &ChildConfig, new: &ChildConfig) -> bool {
    old.proposals != new.proposals
        || old.lifetime != new.lifetime
        || old.rekey_margin_percent != new.rekey_margin_percent
        || old.esn != new.esn
        || old.replay_window != new.replay_window
        || old.reqid != new.reqid
}

fn validate(config: &PeerConfig) -> Result<(), CommandError> {
    let invalid = |message: &str| Err(CommandError::Invalid(message.to_owned()));
    if config.local_address.is_ipv4() != config.remote_address.is_ipv4() {
        return invalid("local_address and remote_address are of different families");
    }
    if config.ike_proposals.is_empty() {
        return invalid("ike_proposals is empty; name at least one proposal");
    }
    let whole = |p: &crate::config::IkeProposal| {
        !p.encryption.is_empty() && !p.prf.is_empty() && !p.key_exchange.is_empty()
    };
    if !config.ike_proposals.iter().all(whole) {
        return invalid("ike_proposals: each proposal needs a cipher, a PRF and a key exchange method");
    }
    if !config
        .ike_proposals
        .iter()
        .all(crate::config::IkeProposal::is_sound)
    {
        return invalid(UNSOUND_IKE);
    }
    if let Some(ppk) = &config.ppk
        && (!(1..=255).contains(&ppk.id.len()) || ppk.current.is_empty())
    {
        return invalid("ppk: its id has 1 to 255 bytes, and its key is not empty");
    }
    if !(1..=10).contains(&config.liveness.max_retries) {
        return invalid("liveness.max_retries is not within 1 and 10");
    }
    for (index, child) in config.children.iter().enumerate() {
        if config
            .children
            .iter()
            .skip(index + 1)
            .any(|other| other.id == child.id)
        {
            return Err(CommandError::Invalid(format!(
                "children: id {} occurs twice",
                child.id.0
            )));
        }
        let Some(first) = child.proposals.first() else {
            return invalid("children.proposals: each child needs a proposal");
        };
        if child.proposals.iter().any(|p| p.protocol != first.protocol) {
            return invalid("children.proposals: ESP and AH in one child; make two children of it");
        }
        if !child.proposals.iter().all(crate::config::ChildProposal::is_sound) {
            return invalid(UNSOUND_CHILD);
        }
        let lonely = |p: &crate::config::ChildProposal| p.key_exchange.is_empty() && !p.additional.is_empty();
        if child.proposals.iter().any(lonely) {
            return invalid(
                "children.proposals: additional key exchanges need a key exchange method that they follow",
            );
        }
        if child.local_selectors.is_empty() || child.remote_selectors.is_empty() {
            return invalid("children.local_selectors and children.remote_selectors need one selector each");
        }
        if !(1..=50).contains(&child.rekey_margin_percent) {
            return invalid("children.rekey_margin_percent is not within 1 and 50");
        }
    }
    Ok(())
}
