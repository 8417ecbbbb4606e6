//! What the engine task is told.

use std::sync::Arc;

use ipsecmesh_ike::{Credentials, PeerId};
use tokio::sync::oneshot;

use crate::desired::Desired;

/// What the engine task is told.
#[derive(Debug)]
pub(crate) enum EngineCommand {
    /// What these peers have proven holds no more: their SAs end, and they have to prove themselves anew.
    Distrust(Vec<PeerId>),
    /// Replace SAs now.
    Rekey(RekeyRequest),
    /// Certificate and key for the next IKE_AUTH.
    SetCredentials(CredentialsCommand),
    /// The complete desired state.
    SetDesired(Arc<Desired>),
}

/// Certificate and key; never shown.
pub(crate) struct CredentialsCommand(pub(crate) Credentials);

impl std::fmt::Debug for CredentialsCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialsCommand(redacted)")
    }
}

/// Replace SAs now.
#[derive(Debug)]
pub(crate) struct RekeyRequest {
    /// Only those of this tunnel, or with this peer; all without it.
    pub(crate) name: Option<String>,
    /// The IKE SAs instead of the CHILD SAs.
    pub(crate) ike: bool,
    /// How many rekeys were started.
    pub(crate) reply: oneshot::Sender<usize>,
}
