//! Post-quantum preshared keys (RFC 8784): announced in IKE_SA_INIT, named and proven in IKE_AUTH, mixed into what all
//! later keys come from.

use zeroize::Zeroizing;

use crate::auth::{Generation, PeerAuthenticated, Proof};
use crate::config::Ppk;
use crate::endpoint::Endpoint;
use crate::sa::{Candidate, HalfOpen, PpkUse};
use crate::types::PeerId;
use crate::wire::{Identification, Notify, NotifyType, Payload, Payloads, Role};

const MISSING: &str = "the peer announces no post-quantum preshared key (USE_PPK), and this end requires one; give it the \
                       same key and identifier";

/// What IKE_SA_INIT says of them.
pub(super) fn announced() -> Payload {
    Payload::Notify(Notify::new(NotifyType::USE_PPK))
}

/// What a responder says that has used one.
pub(super) fn used() -> Payload {
    Payload::Notify(Notify::new(NotifyType::PPK_IDENTITY))
}

/// Whether both ends have one, or why there is no going on without.
pub(super) fn agreed(ours: Option<&Ppk>, theirs: &Payloads) -> Result<bool, String> {
    match (ours, theirs.notify(NotifyType::USE_PPK)) {
        (Some(_), Some(_)) => Ok(true),
        (Some(ours), None) if ours.required => Err(MISSING.to_owned()),
        (Some(_), None) | (None, _) => Ok(false),
    }
}

/// Whom an initiator has proven to be, and with which key besides.
type WithKey = (PeerAuthenticated, Option<Zeroizing<Vec<u8>>>);

impl Endpoint {
    /// The initiator's proof with the key, and without it where that will do as well (RFC 8784 §3).
    pub(super) fn prove_with_ppk(
        &self,
        peer: PeerId,
        proof: &Proof<'_>,
        ppk: Option<&Ppk>,
        id: &Identification,
        other: &[u8],
    ) -> Result<Vec<Payload>, String> {
        let Some(ppk) = ppk else {
            return self.prove(peer, Generation::Current, proof, id, other);
        };
        let keys = proof
            .keys
            .with_ppk(self.provider, &ppk.current)
            .map_err(|error| error.to_string())?;
        let mut payloads = self.prove(
            peer,
            Generation::Current,
            &Proof {
                keys: &keys,
                ..*proof
            },
            id,
            other,
        )?;
        payloads.push(Payload::Notify(Notify::ppk_identity(&ppk.id)));
        if !ppk.required {
            let plain = self.prove(peer, Generation::Current, proof, id, other)?;
            let data = plain.into_iter().find_map(|payload| {
                if let Payload::Auth(auth) = payload {
                    Some(auth.data)
                } else {
                    None
                }
            });
            let notify = |data| Payload::Notify(Notify::with_data(NotifyType::NO_PPK_AUTH, data));
            payloads.extend(data.map(notify));
        }
        Ok(payloads)
    }

    /// The responder says that it has used the key: so do we.
    pub(super) fn mix_in_answered_ppk(
        &self,
        peer: PeerId,
        candidate: &mut Candidate,
        payloads: &Payloads,
    ) -> Result<(), String> {
        let ppk = self.peers.get(&peer).and_then(|peer| peer.config.ppk.as_ref());
        let used = payloads.notify(NotifyType::PPK_IDENTITY).is_some();
        match (ppk.filter(|_| candidate.ppk), used) {
            (Some(ppk), true) => candidate
                .keys
                .mix_in_ppk(self.provider, &ppk.current)
                .map_err(|error| error.to_string()),
            (Some(ppk), false) if ppk.required => Err(format!(
                "the peer did not use the post-quantum preshared key {}, and this end requires it",
                ppk.name()
            )),
            (None, true) => {
                Err("the peer used a post-quantum preshared key that was not agreed on".to_owned())
            }
            (Some(_) | None, false) => Ok(()),
        }
    }

    /// The initiator's proof, with the key where there is one: the key that it was made with.
    pub(super) fn authenticate_initiator(
        &self,
        half_open: &HalfOpen,
        payloads: &Payloads,
    ) -> Result<WithKey, String> {
        let peer = half_open.peer;
        let plain = Proof {
            keys: &half_open.keys.auth,
            signer: Role::Initiator,
            message: &half_open.request,
            nonce: &half_open.nonce_r,
            intermediate: half_open.intermediate(),
        };
        let config = self.peers.get(&peer).and_then(|peer| peer.config.ppk.as_ref());
        let Some(ppk) = config.filter(|_| half_open.ppk == PpkUse::Announced) else {
            if config.is_some_and(|ppk| ppk.required) {
                return Err(MISSING.to_owned());
            }
            return Ok((self.authenticate(peer, &plain, payloads)?, None));
        };
        let name = ppk.name();
        let named = payloads.notify(NotifyType::PPK_IDENTITY).map(Notify::named_ppk);
        if named == Some(Ok(ppk.id.as_slice())) {
            let mut refusal = String::new();
            for key in [Some(&ppk.current), ppk.previous.as_ref()].into_iter().flatten() {
                let keys = plain
                    .keys
                    .with_ppk(self.provider, key)
                    .map_err(|error| error.to_string())?;
                match self.authenticate(peer, &Proof { keys: &keys, ..plain }, payloads) {
                    Ok(proven) => return Ok((proven, Some(key.clone()))),
                    Err(detail) => refusal = detail,
                }
            }
            return Err(format!(
                "{refusal}; or its post-quantum preshared key {name} is another than ours"
            ));
        }
        if ppk.required {
            return Err(format!(
                "the peer did not name the post-quantum preshared key {name}; compare both ends' identifiers"
            ));
        }
        // An initiator that can do without says so, in a second proof.
        match payloads.notify(NotifyType::NO_PPK_AUTH) {
            Some(plainly) => {
                let payloads = payloads.with_auth_data(&plainly.data);
                Ok((self.authenticate(peer, &plain, &payloads)?, None))
            }
            None => Err(format!(
                "the peer insists on a post-quantum preshared key that is not {name}; compare both ends' identifiers"
            )),
        }
    }
}
