//! What AUTH covers, and AUTH by a shared key (RFC 7296 §2.15).

use super::keys::AuthKeys;
use super::provider::Provider;
use super::secret::Secret;
use crate::config::Prf;
use crate::wire::{Identification, Nonce, Role};

/// Keeps a shared key of IKE apart from other uses of the same secret.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// The octets that one end signs:
///
/// ```text
/// InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI    MACedIDForI = prf(SK_pi, IDi')
/// ResponderSignedOctets = RealMessage2 | NonceIData | MACedIDForR    MACedIDForR = prf(SK_pr, IDr')
/// ```
pub struct SignedOctets(Vec<u8>);

/// What one IKE_INTERMEDIATE exchange adds to the octets that both ends sign (RFC 9242 §3.3.2):
///
/// ```text
/// IntAuth    = IntAuth_iN | IntAuth_rN | IKE_AUTH_MID
/// IntAuth_i1 = prf(SK_pi1, IntAuth_i1A | IntAuth_i1P)     likewise for r
/// ```
#[derive(Debug)]
pub struct Intermediate {
    initiator: Secret,
    responder: Secret,
}

impl Intermediate {
    /// Message ID of the IKE_AUTH request that follows one IKE_INTERMEDIATE exchange.
    pub const AUTH_ID: u32 = 2;

    /// `keys` are those that the exchange itself was protected with; request and response are as [`unsealed`] gives
    /// them.
    ///
    /// [`unsealed`]: super::unsealed
    pub fn new(provider: &Provider, keys: &AuthKeys, request: &[u8], response: &[u8]) -> Self {
        let mac = |role, message| {
            provider
                .prf
                .keyed(keys.prf(), keys.of(role).expose())
                .apply(&[message])
        };
        Self {
            initiator: mac(Role::Initiator, request),
            responder: mac(Role::Responder, response),
        }
    }
}

impl SignedOctets {
    /// `signer` is the end whose identity is proven; `message` its IKE_SA_INIT message from the first byte of the
    /// header to the last payload, without a non-ESP marker; `peer_nonce` the other end's nonce; `id` the ID payload
    /// of the signer exactly as it is sent.
    pub fn new(
        provider: &Provider,
        keys: &AuthKeys,
        signer: Role,
        message: &[u8],
        peer_nonce: &Nonce,
        id: &Identification,
    ) -> Self {
        let maced_id = provider
            .prf
            .keyed(keys.prf(), keys.of(signer).expose())
            .apply(&[&id.body()]);
        Self([message, peer_nonce.as_bytes(), maced_id.expose()].concat())
    }

    /// The same, when an IKE_INTERMEDIATE exchange came before (RFC 9242 §3.3.1).
    #[must_use]
    pub fn after(mut self, intermediate: Option<&Intermediate>) -> Self {
        if let Some(Intermediate { initiator, responder }) = intermediate {
            self.0.extend_from_slice(initiator.expose());
            self.0.extend_from_slice(responder.expose());
            self.0.extend_from_slice(&Intermediate::AUTH_ID.to_be_bytes());
        }
        self
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)`. Compare with what came by
/// [`Secret::constant_time_eq`].
pub fn psk_auth(provider: &Provider, prf: Prf, psk: &[u8], octets: &SignedOctets) -> Secret {
    let key = provider.prf.keyed(prf, psk).apply(&[KEY_PAD]);
    provider.prf.keyed(prf, key.expose()).apply(&[octets.as_bytes()])
}
