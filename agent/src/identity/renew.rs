//! When the node needs another certificate, and the loop that gets it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;

use crate::clock::wall;
use crate::identity::csr::{self, CsrError};
use crate::identity::keystore::{Keystore, NodeCertificate, request_name};
use crate::identity::trust::TrustBundle;

const FIRST_RETRY: Duration = Duration::from_secs(2);
const SLOWEST_RETRY: Duration = Duration::from_mins(5);
/// How long the directory may take to publish the key of a certificate that was just issued.
const PUBLISHING: Duration = Duration::from_mins(1);
/// Renewal moves by up to this share of the lifetime, so that a mesh made in one minute is not renewed in one minute.
const JITTER_PERCENT: u64 = 5;

/// What the certificate of this node has to be, from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The Node's name.
    pub(crate) node: String,
    /// DNS name that the certificate must carry.
    pub(crate) dns_name: String,
    /// SPIFFE URI that the certificate must carry.
    pub(crate) uri: String,
    /// The authority that issues.
    pub(crate) authority: String,
    /// How long a certificate shall live.
    pub(crate) lifetime: Duration,
    /// Share of the lifetime after which it is renewed.
    pub(crate) renew_at_percent: u64,
    /// Raised when every node shall renew.
    pub(crate) generation: i64,
    /// Fingerprints of this node's keys in the directory.
    pub(crate) pinned: BTreeSet<String>,
    /// The authority's trust anchors.
    pub(crate) trust: Arc<TrustBundle>,
}

impl Wanted {
    /// Whether the same is wanted, whichever keys the directory holds.
    fn is_but_for_keys(&self, other: &Self) -> bool {
        let pinned = other.pinned.clone();
        Self {
            pinned,
            ..self.clone()
        } == *other
    }
}

/// Where the node stands with its certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityState {
    /// The certificate in use.
    pub(crate) certificate: Option<Arc<NodeCertificate>>,
    /// Fingerprint of the trust anchor that it leads to.
    pub(crate) issuer: Option<String>,
    /// Why the next one is not there, if it is due.
    pub(crate) problem: Option<IdentityProblem>,
    /// Certificates issued since the agent started.
    pub(crate) issued: u64,
}

/// Why a certificate that is due is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityProblem {
    /// The operator refused the request.
    pub(crate) denied: bool,
    /// One sentence for people.
    pub(crate) message: String,
}

/// What to do about the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing before this time (seconds since 1970).
    KeepUntil(u64),
    /// Get another one; the text says why.
    Renew(String),
}

/// Decides by the certificate in use, what is wanted, and the wall clock.
fn plan(current: Option<&NodeCertificate>, wanted: &Wanted, now: u64) -> Plan {
    let renew = |reason: &str| Plan::Renew(reason.to_owned());
    let Some(current) = current else {
        return renew("the node has no certificate yet");
    };
    let leaf = &current.leaf;
    if !leaf.dns_names.contains(&wanted.dns_name) || !leaf.uris.contains(&wanted.uri) {
        return Plan::Renew(format!("it is for {:?}, the node is {}", leaf.uris, wanted.uri));
    }
    if current.generation < wanted.generation {
        return Plan::Renew(format!(
            "certificateGeneration was raised to {}",
            wanted.generation
        ));
    }
    if let Err(error) = wanted.trust.check_chain(&current.chain, now) {
        return Plan::Renew(format!(
            "authority {} does not accept it: {error}",
            wanted.authority
        ));
    }
    let lifetime = leaf.not_after.saturating_sub(leaf.not_before);
    let at = leaf.not_before + lifetime * wanted.renew_at_percent / 100;
    let at = at.saturating_add_signed(jitter(&leaf.spki, lifetime));
    if now >= at {
        return renew("it is due for renewal");
    }
    let published = current.issued_at.saturating_add(PUBLISHING.as_secs());
    if !wanted.pinned.is_empty() && !wanted.pinned.contains(&leaf.key_fingerprint()) {
        if now >= published {
            return renew("its key is not in IPsecPeer.spec.keys any more");
        }
        return Plan::KeepUntil(at.min(published));
    }
    Plan::KeepUntil(at)
}

/// The same for one key after every restart, different from node to node.
fn jitter(spki: &[u8], lifetime: u64) -> i64 {
    let digest = Sha256::digest(spki);
    let draw = u64::from(digest.first().copied().unwrap_or_default());
    let spread = lifetime * JITTER_PERCENT / 100;
    let offset = spread * 2 * draw / 255;
    i64::try_from(offset).unwrap_or_default() - i64::try_from(spread).unwrap_or_default()
}

/// The loop that keeps the node's certificate good. It ends when nobody wants a certificate any more.
pub(crate) struct Renewal {
    /// Where requests go.
    pub(crate) api: Api<CertificateSigningRequest>,
    /// Where key and certificate are kept.
    pub(crate) keystore: Keystore,
    /// What is wanted; `None` until the API has said so.
    pub(crate) wanted: watch::Receiver<Option<Wanted>>,
    /// Where the node stands.
    pub(crate) state: watch::Sender<IdentityState>,
}

impl Renewal {
    /// Runs until the sender of [`Self::wanted`] is gone.
    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_RETRY;
        loop {
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let current = self.state.borrow().certificate.clone();
            let mut failed = None;
            let sleep = match plan(current.as_deref(), &wanted, wall().as_secs()) {
                Plan::KeepUntil(at) => {
                    pause = FIRST_RETRY;
                    self.settle(current.as_deref(), &wanted);
                    Duration::from_secs(at.saturating_sub(wall().as_secs()).max(1))
                }
                Plan::Renew(reason) => match self.renew(&wanted, &reason).await {
                    Ok(()) => continue,
                    Err(error) => {
                        self.report(&error);
                        failed = Some(&wanted);
                        let now = pause;
                        pause = (pause * 2).min(SLOWEST_RETRY);
                        now
                    }
                },
            };
            if self.wait(sleep, failed).await.is_err() {
                return;
            }
        }
    }

    /// Waits for the time, or until something else is wanted. After a failure the pinned keys are nothing else: each
    /// certificate that is issued changes them, and one that was of no use must not ask for the next one at once.
    async fn wait(&mut self, time: Duration, failed: Option<&Wanted>) -> Result<(), RecvError> {
        let time = tokio::time::sleep(time);
        tokio::pin!(time);
        loop {
            tokio::select! {
                () = &mut time => return Ok(()),
                changed = self.wanted.changed() => changed?,
            }
            let present = self.wanted.borrow_and_update();
            if failed.is_none_or(|failed| {
                !present
                    .as_ref()
                    .is_some_and(|present| present.is_but_for_keys(failed))
            }) {
                return Ok(());
            }
        }
    }

    async fn renew(&self, wanted: &Wanted, reason: &str) -> Result<(), IdentityProblem> {
        tracing::info!(reason, authority = wanted.authority, "requesting a certificate");
        let local = |message: String| IdentityProblem {
            denied: false,
            message,
        };
        let key = self.keystore.pending_key().map_err(|e| local(e.to_string()))?;
        let name = request_name(&wanted.node, &key);
        let chain = match csr::request(&self.api, &name, &wanted.dns_name, &key, wanted.lifetime).await {
            Ok(chain) => chain,
            Err(error) => return Err(self.refused(&error)),
        };
        let certificate = self
            .keystore
            .signer(&key)
            .and_then(|signer| NodeCertificate::new(signer, chain, wanted.generation, wall().as_secs()))
            .map_err(|e| self.discard(format!("{name}: {e}")))?;
        if let Plan::Renew(reason) = plan(Some(&certificate), wanted, wall().as_secs()) {
            return Err(self.discard(format!("the certificate that was issued is of no use: {reason}")));
        }
        self.keystore
            .store(&certificate, &key)
            .map_err(|e| local(e.to_string()))?;
        tracing::info!(
            serial = certificate.leaf.serial,
            not_after = certificate.leaf.not_after,
            "certificate issued"
        );
        let issuer = issuer_of(&certificate, wanted);
        self.state.send_modify(|state| {
            state.certificate = Some(Arc::new(certificate));
            state.issuer = issuer;
            state.problem = None;
            state.issued += 1;
        });
        Ok(())
    }

    /// The certificate is good: what was reported about it is over.
    fn settle(&self, current: Option<&NodeCertificate>, wanted: &Wanted) {
        let issuer = current.and_then(|certificate| issuer_of(certificate, wanted));
        self.state.send_if_modified(|state| {
            let changed = state.problem.is_some() || state.issuer != issuer;
            state.problem = None;
            state.issuer = issuer;
            changed
        });
    }

    fn report(&self, problem: &IdentityProblem) {
        tracing::warn!(
            denied = problem.denied,
            reason = problem.message,
            "no certificate"
        );
        self.state.send_if_modified(|state| {
            let changed = state.problem.as_ref() != Some(problem);
            state.problem = Some(problem.clone());
            changed
        });
    }

    fn refused(&self, error: &CsrError) -> IdentityProblem {
        let message = error.to_string();
        match error {
            CsrError::Denied { .. } | CsrError::Invalid { .. } => IdentityProblem {
                denied: true,
                ..self.discard(message)
            },
            CsrError::Kube(kube::Error::Api(status)) if status.code == 404 => self.discard(message),
            CsrError::Kube(_) | CsrError::Local(_) | CsrError::Pending { .. } => IdentityProblem {
                denied: false,
                message,
            },
        }
    }

    /// The next attempt takes a new key: a request for this one stays answered as it is.
    fn discard(&self, message: String) -> IdentityProblem {
        if let Err(error) = self.keystore.discard_pending() {
            tracing::warn!(%error, "the refused key stays on disk");
        }
        IdentityProblem {
            denied: false,
            message,
        }
    }
}

fn issuer_of(certificate: &NodeCertificate, wanted: &Wanted) -> Option<String> {
    wanted
        .trust
        .check_chain(&certificate.chain, wall().as_secs())
        .ok()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
