//! What the tables of several rooms begin with: one plain configuration, so that each test shows only what it changes.

use std::time::Duration;

use ipsecmesh_ike::{
    ChildProposal, Encryption, IkeProposal, KeyExchange, Lifetime, Liveness, LivenessAction, Prf, SaProtocol,
};

/// The suite of the API's default, as far as this engine has it.
pub(crate) fn ike_proposals() -> Vec<IkeProposal> {
    vec![IkeProposal {
        encryption: vec![Encryption::AesGcm16Key256],
        integrity: Vec::new(),
        prf: vec![Prf::HmacSha384],
        key_exchange: vec![KeyExchange::X25519],
        additional: Vec::new(),
    }]
}

/// See [`ike_proposals`].
pub(crate) fn child_proposals() -> Vec<ChildProposal> {
    vec![ChildProposal {
        protocol: SaProtocol::Esp,
        encryption: vec![Encryption::AesGcm16Key256],
        integrity: Vec::new(),
        key_exchange: vec![KeyExchange::X25519],
    }]
}

/// The API's default.
pub(crate) fn liveness() -> Liveness {
    Liveness {
        interval: Duration::from_secs(30),
        action: LivenessAction::Restart,
    }
}

/// So long, and any number of bytes and packets.
pub(crate) fn lifetime(time: Duration) -> Lifetime {
    Lifetime {
        time,
        bytes: None,
        packets: None,
    }
}
