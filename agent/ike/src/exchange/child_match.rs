//! What a request for a pair is about: which of our children, and which pair of it.

use crate::child::{Stage, selectors};
use crate::config::{ChildConfig, Mode, TrafficSelector};
use crate::endpoint::Endpoint;
use crate::types::{ChildSaId, EspSpi, IkeSaId, SaProtocol};
use crate::wire::{NotifyType, Role, TrafficSelectors};

/// One of our children that a request meets.
pub(super) struct Match {
    pub(super) config: ChildConfig,
    pub(super) local: Vec<TrafficSelector>,
    pub(super) remote: Vec<TrafficSelector>,
}

impl Endpoint {
    /// The child that a request is about: the one of the pair that is rekeyed, whose selectors neither widen nor
    /// narrow, or the first that meets the offered selectors in its mode.
    pub(super) fn match_child(
        &self,
        id: IkeSaId,
        rekeys: Option<ChildSaId>,
        ts_i: &TrafficSelectors,
        ts_r: &TrafficSelectors,
        transport: bool,
    ) -> Option<Match> {
        let sa = self.sas.get(&id)?;
        let peer = self.peers.get(&sa.peer)?;
        let (here, there) = sa.translated(transport);
        let (ts_r, ts_i) = (
            selectors::seen(ts_r.ip(), here),
            selectors::seen(ts_i.ip(), there),
        );
        if let Some(old) = rekeys {
            let old = self.children.get(&old)?;
            let config = peer.child(old.child)?.clone();
            let local = selectors::narrow(&old.local_selectors, ts_r.iter());
            let remote = selectors::narrow(&old.remote_selectors, ts_i.iter());
            let whole = selectors::same(&local, &old.local_selectors)
                && selectors::same(&remote, &old.remote_selectors);
            return (whole && (config.mode == Mode::Transport) == transport).then_some(Match {
                config,
                local,
                remote,
            });
        }
        let meets = |config: &&ChildConfig| (config.mode == Mode::Transport) == transport;
        let matches = peer.config.children.iter().filter(meets).filter_map(|config| {
            let local = selectors::narrow(&config.local_selectors, ts_r.iter());
            let remote = selectors::narrow(&config.remote_selectors, ts_i.iter());
            let exact = selectors::same(&local, &config.local_selectors)
                && selectors::same(&remote, &config.remote_selectors);
            let meet = !local.is_empty() && !remote.is_empty();
            meet.then(|| {
                (
                    exact,
                    Match {
                        config: config.clone(),
                        local,
                        remote,
                    },
                )
            })
        });
        let mut best: Option<(bool, Match)> = None;
        for found in matches {
            if best.as_ref().is_none_or(|(exact, _)| !exact && found.0) {
                best = Some(found);
            }
        }
        best.map(|(_, found)| found)
    }

    /// Whether a pair can be rekeyed by the peer now, and else what to answer (RFC 7296 §2.25).
    pub(crate) fn judge_rekey_target(&self, id: ChildSaId) -> Result<(), NotifyType> {
        let child = self.children.get(&id).ok_or(NotifyType::CHILD_SA_NOT_FOUND)?;
        match child.stage {
            Stage::Lingering => Err(NotifyType::CHILD_SA_NOT_FOUND),
            Stage::Leaving(..) | Stage::Redundant => Err(NotifyType::TEMPORARY_FAILURE),
            Stage::Inbound | Stage::AwaitSign | Stage::Active => {
                let succeeded = child
                    .successors
                    .iter()
                    .filter_map(|id| self.children.get(id))
                    .any(|next| {
                        next.role == Role::Initiator && matches!(next.stage, Stage::Inbound | Stage::Active)
                    });
                if succeeded {
                    Err(NotifyType::TEMPORARY_FAILURE)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// The pair that the peer names by the SPI that it receives on.
    pub(super) fn pair_by_peer_spi(
        &self,
        id: IkeSaId,
        protocol: SaProtocol,
        spi: EspSpi,
    ) -> Option<ChildSaId> {
        let peer = self.sas.get(&id)?.peer;
        self.outbound
            .range((spi, ChildSaId(0))..=(spi, ChildSaId(u64::MAX)))
            .map(|(_, pair)| *pair)
            .find(|pair| {
                self.children.get(pair).is_some_and(|child| {
                    child.peer == peer && child.ike.is_some() && child.outbound.protocol == protocol
                })
            })
    }
}
