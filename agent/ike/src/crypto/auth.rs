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

/// What IKE_INTERMEDIATE exchanges add to the octets that both ends sign (RFC 9242 §3.3.2):
///
/// ```text
/// IntAuth    = IntAuth_iN | IntAuth_rN | IKE_AUTH_MID
/// IntAuth_i1 = prf(SK_pi1, IntAuth_i1A | IntAuth_i1P)                     likewise for r
/// IntAuth_iN = prf(SK_piN, IntAuth_i(N-1) | IntAuth_iNA | IntAuth_iNP)
/// ```
#[derive(Debug)]
pub struct Intermediate {
    count: u32,
    initiator: Secret,
    responder: Secret,
}

impl Intermediate {
    /// After one more exchange. `keys` are those that it was protected with; request and response are as [`unsealed`]
    /// gives them.
    ///
    /// [`unsealed`]: super::unsealed
    pub fn new(
        provider: &Provider,
        keys: &AuthKeys,
        before: Option<&Self>,
        request: &[u8],
        response: &[u8],
    ) -> Self {
        let mac = |role, before: Option<&Secret>, message| {
            provider
                .prf
                .keyed(keys.prf(), keys.of(role).expose())
                .apply(&[before.map(Secret::expose).unwrap_or_default(), message])
        };
        Self {
            count: Self::done(before) + 1,
            initiator: mac(Role::Initiator, before.map(|b| &b.initiator), request),
            responder: mac(Role::Responder, before.map(|b| &b.responder), response),
        }
    }

    /// How many of these exchanges are done.
    pub fn done(so_far: Option<&Self>) -> u32 {
        so_far.map_or(0, |so_far| so_far.count)
    }

    /// Message ID of the request that follows IKE_SA_INIT and these exchanges.
    pub fn next_id(so_far: Option<&Self>) -> u32 {
        Self::done(so_far) + 1
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

    /// The same, when IKE_INTERMEDIATE exchanges came before (RFC 9242 §3.3.1).
    #[must_use]
    pub fn after(mut self, intermediate: Option<&Intermediate>) -> Self {
        if let Some(Intermediate {
            initiator, responder, ..
        }) = intermediate
        {
            self.0.extend_from_slice(initiator.expose());
            self.0.extend_from_slice(responder.expose());
            let auth_id = Intermediate::next_id(intermediate);
            self.0.extend_from_slice(&auth_id.to_be_bytes());
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
