//! What the tables of several rooms begin with: one plain configuration, so that each test shows only what it changes.

use std::convert::Infallible;
use std::time::Duration;

use hpke::rand_core::{TryCryptoRng, TryRng};
use ipsecmesh_ike::crypto::SecureRandom;
use ipsecmesh_ike::{
    AdditionalKeyExchanges, ChildProposal, Encryption, IkeProposal, KeyExchange, Lifetime, Liveness,
    LivenessAction, Prf, SaProtocol,
};

/// The suite of the API's default, as far as this engine has it.
pub(crate) fn ike_proposals() -> Vec<IkeProposal> {
    vec![IkeProposal {
        encryption: vec![Encryption::AesGcm16Key256],
        integrity: Vec::new(),
        prf: vec![Prf::HmacSha384],
        key_exchange: vec![KeyExchange::X25519],
        additional: AdditionalKeyExchanges::NONE,
    }]
}

/// See [`ike_proposals`].
pub(crate) fn child_proposals() -> Vec<ChildProposal> {
    vec![ChildProposal {
        protocol: SaProtocol::Esp,
        encryption: vec![Encryption::AesGcm16Key256],
        integrity: Vec::new(),
        key_exchange: vec![KeyExchange::X25519],
        additional: AdditionalKeyExchanges::NONE,
    }]
}

/// The system's randomness.
pub(crate) fn random() -> &'static dyn SecureRandom {
    ipsecmesh_crypto::by_name("aws-lc-rs").expect("built in").random
}

/// The same, as sealing wants it.
pub(crate) struct Rng;

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        random().fill(bytes).expect("the system has randomness");
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

/// The API's default.
pub(crate) fn liveness() -> Liveness {
    Liveness {
        interval: Duration::from_secs(30),
        max_retries: 3,
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
