//! The root of the key schedule of an IKE SA (RFC 7296 §2.14, §2.18).

use super::error::CryptoError;
use super::keys::{IkeKeys, SkD};
use super::prf::prf_plus;
use super::provider::Provider;
use super::secret::Secret;
use super::suite::IkeSuite;
use crate::types::IkeSpi;
use crate::wire::{Nonce, Role};

/// SKEYSEED together with the nonces that it was made from. Consumed by the one step that may follow.
///
/// ```text
/// SKEYSEED = prf(Ni | Nr, g^ir)                        Skeyseed::initial   §2.14
/// SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr | SK(1) | … SK(n))
///                                                      Skeyseed::rekey     §2.18, RFC 9370 §2.2.4
/// SKEYSEED = prf(SK_d (n-1), SK(n) | Ni | Nr)          Skeyseed::additional    RFC 9370 §2.2.2
///
/// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr}
///     = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)         Skeyseed::into_ike_keys
/// ```
#[derive(Debug)]
pub struct Skeyseed {
    seed: Secret,
    suite: IkeSuite,
    nonce_i: Nonce,
    nonce_r: Nonce,
}

impl Skeyseed {
    /// Of an IKE SA made by IKE_SA_INIT.
    pub fn initial(
        provider: &Provider,
        suite: IkeSuite,
        shared: &Secret,
        nonce_i: &Nonce,
        nonce_r: &Nonce,
    ) -> Self {
        // HMAC takes keys of any length; a PRF with a fixed key length would take half of each nonce here (§2.14).
        let key = Secret::from([nonce_i.as_bytes(), nonce_r.as_bytes()].concat().as_slice());
        let seed = provider
            .prf
            .keyed(suite.prf, key.expose())
            .apply(&[shared.expose()]);
        Self {
            seed,
            suite,
            nonce_i: nonce_i.clone(),
            nonce_r: nonce_r.clone(),
        }
    }

    /// After an additional key exchange in IKE_INTERMEDIATE, from the keys before it (RFC 9370 §2.2.2). Nonces are those
    /// of IKE_SA_INIT.
    pub fn additional(
        provider: &Provider,
        before: &SkD,
        suite: IkeSuite,
        shared: &Secret,
        nonce_i: &Nonce,
        nonce_r: &Nonce,
    ) -> Self {
        Self::rekey(provider, before, suite, (shared, &[]), nonce_i, nonce_r)
    }

    /// Of an IKE SA made by CREATE_CHILD_SA from one whose SK_d is `old`. The old SA's PRF is used here, the new SA's
    /// from here on (§2.18); nonces are those of the rekey exchange. `shared` is its secret and those of the additional key
    /// exchanges that followed.
    pub fn rekey(
        provider: &Provider,
        old: &SkD,
        suite: IkeSuite,
        shared: (&Secret, &[Secret]),
        nonce_i: &Nonce,
        nonce_r: &Nonce,
    ) -> Self {
        let (first, more) = shared;
        let mut parts = vec![first.expose(), nonce_i.as_bytes(), nonce_r.as_bytes()];
        parts.extend(more.iter().map(Secret::expose));
        let seed = old.keyed(provider).apply(&parts);
        Self {
            seed,
            suite,
            nonce_i: nonce_i.clone(),
            nonce_r: nonce_r.clone(),
        }
    }

    /// The keys of the SA. `spi_i` and `spi_r` are those of the new SA, by the roles of the exchange that makes it:
    /// after a rekey, who sent that CREATE_CHILD_SA request is the initiator (§2.18). `role` is ours by the same rule.
    pub fn into_ike_keys(
        self,
        provider: &Provider,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        role: Role,
    ) -> Result<IkeKeys, CryptoError> {
        let keyed = provider.prf.keyed(self.suite.prf, self.seed.expose());
        let spi_i = spi_i.value().to_be_bytes();
        let spi_r = spi_r.value().to_be_bytes();
        let seed = [self.nonce_i.as_bytes(), self.nonce_r.as_bytes(), &spi_i, &spi_r];
        let material = prf_plus(keyed.as_ref(), &seed, IkeKeys::material_length(self.suite))?;
        IkeKeys::from_material(self.suite, &material, role)
    }
}
