//! What this host and its peers are trusted by, and what follows when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::{App, AppError};
use crate::desired::Desired;
use crate::engine::command::{CredentialsCommand, EngineCommand};
use crate::identity::renew::IdentityState;
use crate::identity::revocation::Revocation;
use crate::identity::{self, signer};
use crate::model::Authority;
use crate::source::Snapshot;

/// What peers are judged by: another one is another judgement.
#[derive(Default, PartialEq)]
pub(super) struct Trusted {
    authority: Option<String>,
    bundles: BTreeMap<(String, String), String>,
    revocations: BTreeMap<String, Arc<Revocation>>,
}

impl Trusted {
    pub(super) fn new(snapshot: &Snapshot, authority: Option<&Authority>) -> Self {
        Self {
            authority: authority.map(|authority| authority.bundle.clone()),
            bundles: snapshot.bundles.clone(),
            revocations: snapshot.revocations.clone(),
        }
    }
}

impl App {
    /// The peers of `next` are judged by what is known now. Who was accepted with a certificate that is revoked now is
    /// noted.
    pub(super) fn judge(&mut self, snapshot: &Snapshot, next: &Desired, authority: Option<&Authority>) {
        let directory = match identity::directory(snapshot, next, authority) {
            Ok(directory) => directory,
            Err(error) => {
                tracing::error!(%error, "the authority cannot be used; peers are judged as before");
                return;
            }
        };
        for (peer, reason) in self.verifier.replace(directory) {
            let node = next.peers.get(&peer).map_or("?", |peer| peer.node.as_str());
            tracing::warn!(
                peer = node,
                reason,
                "certificate revoked: the SAs of this peer end"
            );
            self.state.revoked.push(peer);
        }
    }

    /// What a peer has proven by a certificate that is revoked now holds no more. The engine may be busy: then it is told
    /// at the next turn.
    pub(super) fn end_revoked(&mut self) -> Result<(), AppError> {
        let revoked = std::mem::take(&mut self.state.revoked);
        if !revoked.is_empty() && !self.tell_engine(EngineCommand::Distrust(revoked.clone()))? {
            self.state.revoked = revoked;
        }
        Ok(())
    }

    /// The certificate that this node needs, as the authority says it.
    pub(super) fn want_certificate(&self, snapshot: &Snapshot, authority: &Authority) {
        match identity::wanted(snapshot, authority) {
            Ok(wanted) => {
                self.wanted.send_if_modified(|present| {
                    let changed = *present != wanted;
                    *present = wanted;
                    changed
                });
            }
            Err(error) => tracing::error!(authority = authority.name, %error, "the authority cannot be used"),
        }
    }

    /// Gives the engine the certificate that peers accept by now.
    pub(super) fn hand_over_credentials(&mut self, identity: &IdentityState) -> Result<(), AppError> {
        let Some(certificate) = &identity.certificate else {
            return Ok(());
        };
        // Peers accept the key once the directory holds it; until then the former certificate is the better one.
        let published =
            self.snapshots.borrow().own.as_ref().is_some_and(|own| {
                own.keys.is_empty() || own.keys.contains(&certificate.leaf.key_fingerprint())
            });
        let fingerprint = certificate.fingerprint();
        if !published || self.state.credentials.as_ref() == Some(&fingerprint) {
            return Ok(());
        }
        let command = EngineCommand::SetCredentials(CredentialsCommand(signer::credentials(certificate)));
        if self.tell_engine(command)? {
            self.metrics.certificate(certificate.leaf.not_after);
            self.state.credentials = Some(fingerprint);
        }
        Ok(())
    }
}
