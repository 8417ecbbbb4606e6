//! The keys of an IKE SA and of its CHILD SAs, each cut once from its key material.

use super::error::CryptoError;
use super::prf::prf_plus;
use super::protected::{Opener, Sealer};
use super::provider::{KeyedPrf, Provider};
use super::sealing::SealingKey;
use super::secret::Secret;
use super::suite::{ChildSuite, IkeSuite};
use crate::config::{Encryption, Integrity, Prf};
use crate::output::SaKey;
use crate::wire::{Nonce, Role};

/// The keys of an IKE SA (RFC 7296 §2.14), as one end uses them. Combined-mode ciphers have no SK_ai and SK_ar
/// (RFC 5282 §7).
#[derive(Debug)]
pub struct IkeKeys {
    /// Root of all that is derived later.
    pub d: SkD,
    /// Prove the identities of both ends.
    pub auth: AuthKeys,
    /// Seals our messages: SK_ei of the initiator, SK_er of the responder.
    pub sealer: Sealer,
    /// Opens the peer's messages: the other of the two.
    pub opener: Opener,
}

impl IkeKeys {
    /// Both ends take fragments (RFC 7383 §2.3): messages of more than `longest` bytes are sent in several datagrams.
    pub fn allow_fragments(&mut self, longest: usize) {
        self.sealer.allow_fragments(longest);
        self.opener.allow_fragments();
    }

    /// Fragments as they were agreed on for the keys before these.
    pub(crate) fn fragments_as(&mut self, before: &Sealer) {
        if let Some(longest) = before.longest() {
            self.allow_fragments(longest);
        }
    }

    /// Mixes in a post-quantum preshared key that both ends have proven to hold (RFC 8784 §3):
    ///
    /// ```text
    /// SK_d  = prf+ (PPK, SK_d')       likewise SK_pi and SK_pr
    /// ```
    pub fn mix_in_ppk(&mut self, provider: &Provider, ppk: &[u8]) -> Result<(), CryptoError> {
        self.auth = self.auth.with_ppk(provider, ppk)?;
        self.d.key = with_ppk(provider, self.d.prf, ppk, &self.d.key)?;
        Ok(())
    }

    pub(super) fn material_length(suite: IkeSuite) -> usize {
        let integrity = suite.integrity.map_or(0, Integrity::key_length);
        3 * suite.prf.output_length() + 2 * (integrity + sealing_length(suite.encryption))
    }

    pub(super) fn from_material(suite: IkeSuite, material: &Secret, role: Role) -> Result<Self, CryptoError> {
        let prf = suite.prf.output_length();
        let sealing = sealing_length(suite.encryption);
        let mut cutter = Cutter(material.expose());
        let d = SkD {
            prf: suite.prf,
            key: cutter.cut(prf)?,
        };
        let (ai, ar) = match suite.integrity {
            Some(integrity) => {
                let length = integrity.key_length();
                let (ai, ar) = (cutter.cut(length)?, cutter.cut(length)?);
                (Some((integrity, ai)), Some((integrity, ar)))
            }
            None => (None, None),
        };
        let ei = SealingKey::new(suite.encryption, cutter.cut(sealing)?, ai);
        let er = SealingKey::new(suite.encryption, cutter.cut(sealing)?, ar);
        let auth = AuthKeys {
            prf: suite.prf,
            pi: cutter.cut(prf)?,
            pr: cutter.cut(prf)?,
        };
        let (ours, theirs) = match role {
            Role::Initiator => (ei, er),
            Role::Responder => (er, ei),
        };
        let (sealer, opener) = (Sealer::new(ours), Opener::new(theirs));
        Ok(Self {
            d,
            auth,
            sealer,
            opener,
        })
    }
}

/// SK_pi and SK_pr: needed until both ends have authenticated.
#[derive(Debug)]
pub struct AuthKeys {
    prf: Prf,
    pi: Secret,
    pr: Secret,
}

impl AuthKeys {
    /// The PRF of the IKE SA.
    pub fn prf(&self) -> Prf {
        self.prf
    }

    /// The keys with which an end proves itself that holds this post-quantum preshared key as well (RFC 8784 §3).
    pub fn with_ppk(&self, provider: &Provider, ppk: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self {
            prf: self.prf,
            pi: with_ppk(provider, self.prf, ppk, &self.pi)?,
            pr: with_ppk(provider, self.prf, ppk, &self.pr)?,
        })
    }

    /// SK_pi or SK_pr.
    pub(super) fn of(&self, role: Role) -> &Secret {
        match role {
            Role::Initiator => &self.pi,
            Role::Responder => &self.pr,
        }
    }
}

/// SK_d, with the PRF that it is a key of.
#[derive(Debug)]
pub struct SkD {
    prf: Prf,
    key: Secret,
}

impl SkD {
    pub(super) fn keyed(&self, provider: &Provider) -> Box<dyn KeyedPrf> {
        provider.prf.keyed(self.prf, self.key.expose())
    }
}

/// KEYMAT of a CHILD SA (RFC 7296 §2.17):
///
/// ```text
/// KEYMAT = prf+(SK_d, Ni | Nr)                                      without a key exchange of its own
/// KEYMAT = prf+(SK_d, g^ir (new) | Ni | Nr)                         with one
/// KEYMAT = prf+(SK_d, g^ir (new) | Ni | Nr | SK(1) | … SK(n))       and additional ones (RFC 9370 §2.2.4)
/// ```
///
/// Nonces are those of the exchange that makes the SA. The keys of the SA from its initiator to its responder come
/// first.
#[derive(Debug)]
pub struct ChildKeymat {
    from_initiator: Secret,
    from_responder: Secret,
}

/// The keys of the two halves of a CHILD SA, as this end sees them: cipher key, salt, integrity key
/// (RFC 7296 §2.17).
#[derive(Debug)]
pub struct ChildKeys {
    /// For what we receive.
    pub inbound: SaKey,
    /// For what we send.
    pub outbound: SaKey,
}

impl ChildKeymat {
    /// `shared` is that of the suite's key exchange, and there exactly when the suite has one; `more` are those of its
    /// additional key exchanges.
    pub fn derive(
        provider: &Provider,
        sk_d: &SkD,
        suite: ChildSuite,
        shared: Option<&Secret>,
        more: &[Secret],
        nonce_i: &Nonce,
        nonce_r: &Nonce,
    ) -> Result<Self, CryptoError> {
        let complete = suite.additional.iter().count() == more.len();
        if suite.key_exchange.is_some() != shared.is_some() || !complete {
            return Err(CryptoError::InvalidLength);
        }
        let length =
            suite.encryption.map_or(0, sealing_length) + suite.integrity.map_or(0, Integrity::key_length);
        let shared = shared.map(Secret::expose).unwrap_or_default();
        let mut seed = vec![shared, nonce_i.as_bytes(), nonce_r.as_bytes()];
        seed.extend(more.iter().map(Secret::expose));
        let material = prf_plus(sk_d.keyed(provider).as_ref(), &seed, 2 * length)?;
        let mut cutter = Cutter(material.expose());
        Ok(Self {
            from_initiator: cutter.cut(length)?,
            from_responder: cutter.cut(length)?,
        })
    }

    /// `role` is ours in the exchange that makes the SA, whatever it is in the IKE SA.
    pub fn into_keys(self, role: Role) -> ChildKeys {
        let (from_initiator, from_responder) = (
            self.from_initiator.into_sa_key(),
            self.from_responder.into_sa_key(),
        );
        match role {
            Role::Initiator => ChildKeys {
                inbound: from_responder,
                outbound: from_initiator,
            },
            Role::Responder => ChildKeys {
                inbound: from_initiator,
                outbound: from_responder,
            },
        }
    }
}

fn with_ppk(provider: &Provider, prf: Prf, ppk: &[u8], key: &Secret) -> Result<Secret, CryptoError> {
    prf_plus(
        provider.prf.keyed(prf, ppk).as_ref(),
        &[key.expose()],
        prf.output_length(),
    )
}

/// Length of cipher key and salt.
fn sealing_length(encryption: Encryption) -> usize {
    encryption.key_length() + encryption.salt_length()
}

/// Cuts key material into keys, front to back.
struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn cut(&mut self, length: usize) -> Result<Secret, CryptoError> {
        let (key, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(CryptoError::InvalidLength)?;
        self.0 = rest;
        Ok(Secret::from(key))
    }
}
