//! Credentials on their way to one node (RFC 9180): what is sealed, what a ciphertext is bound to, and what a node signs so
//! that nobody else's key is sealed to.
//!
//! Operator and agents use this one definition. A ciphertext opens only with the node's key, and only as the credentials
//! of the node, the tunnel and the version that it was made for. Randomness is an argument.

use std::collections::BTreeMap;
use std::fmt;

use base64ct::{Base64, Encoding as _};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use thiserror::Error;
use zeroize::Zeroizing;

type PublicKey = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

/// Name of the sealing keys' algorithm in the API.
pub const ALGORITHM: &str = "X25519";

/// Most bytes of one secret: more than any generator makes, and few enough for the API.
pub const LONGEST_SECRET: usize = 1024;

/// Fewest bytes of a pre-shared key: it has no structure that a key derivation could stretch (RFC 7296 §2.15), so that as
/// much is asked for as a hash gives out.
pub const SHORTEST_PSK: usize = 32;

/// Bytes of a seed, of an X25519 public key and of an encapsulated key.
const KEY: usize = 32;
/// `info` of RFC 9180 §5.1: another use of the same key gives other ciphertexts.
const INFO: &[u8] = b"ipsecmesh.io/v1alpha1 sealed credentials";
/// Begins what a node signs about its sealing key.
const STATEMENT: &str = "ipsecmesh.io/v1alpha1 sealing key";

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The pre-shared key in use.
    Psk,
    /// The one before, while the peer may still use it.
    PskPrevious,
}

impl Role {
    const ALL: [Self; 2] = [Self::Psk, Self::PskPrevious];

    const fn code(self) -> u8 {
        match self {
            Self::Psk => 1,
            Self::PskPrevious => 2,
        }
    }
}

/// The secrets of one tunnel; never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<Role, Zeroizing<Vec<u8>>>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Credentials {
    /// Adds a secret of at most [`LONGEST_SECRET`] bytes; a longer one is not taken.
    #[must_use]
    pub fn with(mut self, role: Role, secret: Zeroizing<Vec<u8>>) -> Self {
        if secret.len() <= LONGEST_SECRET {
            self.0.insert(role, secret);
        }
        self
    }

    /// Takes a secret out.
    pub fn take(&mut self, role: Role) -> Option<Zeroizing<Vec<u8>>> {
        self.0.remove(&role)
    }

    /// Each secret as its role, its length and itself.
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let room = self.0.values().map(|secret| secret.len() + 3).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        for (role, secret) in &self.0 {
            let length = u16::try_from(secret.len()).unwrap_or_default();
            text.push(role.code());
            text.extend_from_slice(&length.to_be_bytes());
            text.extend_from_slice(secret);
        }
        text
    }

    /// A role that a newer operator knows is passed over.
    fn decode(mut text: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while let Some((&[code, high, low], rest)) = text.split_first_chunk() {
            let (secret, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            if let Some(role) = Role::ALL.into_iter().find(|role| role.code() == code) {
                found.0.insert(role, Zeroizing::new(secret.to_vec()));
            }
            text = rest;
        }
        text.is_empty().then_some(found)
    }
}

/// What a ciphertext is bound to: in another place it does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// Name of the Node.
    pub node: &'a str,
    /// UID of the Node.
    pub node_uid: &'a str,
    /// Name of the `IPsecTunnel`.
    pub tunnel: &'a str,
    /// `keyID` of the credential: the version of the Secret.
    pub key_id: &'a str,
}

impl Binding<'_> {
    /// None of the parts holds a line feed, so that two bindings never give one text.
    fn associated_data(&self) -> Vec<u8> {
        format!(
            "{}\n{}\n{}\n{}",
            self.node, self.node_uid, self.tunnel, self.key_id
        )
        .into_bytes()
    }
}

/// The public key that a node's credentials are sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient(PublicKey);

impl Recipient {
    /// Reads a key as it stands in `IPsecNode.status.sealingKey.publicKey`.
    pub fn parse(public_key: &str) -> Option<Self> {
        let bytes = Base64::decode_vec(public_key).ok()?;
        PublicKey::from_bytes(&bytes).ok().map(Self)
    }

    /// The key in base64.
    pub fn public_key(&self) -> String {
        Base64::encode_string(&self.0.to_bytes())
    }

    /// As `SealedCredential.recipient` names it.
    pub fn name(&self) -> String {
        format!("x25519:{}", self.public_key())
    }

    /// What the node signs with its certificate's key.
    pub fn statement(&self, node: &str, node_uid: &str) -> Vec<u8> {
        format!("{STATEMENT}\n{node}\n{node_uid}\n{}", self.name()).into_bytes()
    }

    /// Seals `credentials`; the result is what `SealedCredential.ciphertext` holds.
    pub fn seal(
        &self,
        binding: Binding<'_>,
        credentials: &Credentials,
        rng: &mut impl CryptoRng,
    ) -> Result<String, SealingError> {
        let (encapsulated, ciphertext) =
            hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &self.0,
                INFO,
                &credentials.encode(),
                &binding.associated_data(),
                rng,
            )
            // An all-zero shared secret: the key is one of the few of small order (RFC 7748 §6.1).
            .map_err(|_| SealingError::Recipient)?;
        let mut sealed = encapsulated.to_bytes().to_vec();
        sealed.extend(ciphertext);
        Ok(Base64::encode_string(&sealed))
    }
}

/// Why something could not be sealed or opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealingError {
    /// The ciphertext is not what an operator writes.
    #[error("the ciphertext is damaged")]
    Damaged,
    /// It is for another node, tunnel, version or key.
    #[error("the ciphertext was sealed for another node, tunnel or version, or was changed")]
    Foreign,
    /// Nothing can be sealed to this key.
    #[error("the sealing key is of small order")]
    Recipient,
}

/// The private half: a node's own.
pub struct Opener {
    key: PrivateKey,
    recipient: Recipient,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opener").field(&self.recipient.name()).finish()
    }
}

impl Opener {
    /// The key pair of a seed (RFC 9180 §7.1.3); the seed is as secret as the key.
    pub fn from_seed(seed: &[u8; KEY]) -> Self {
        let (key, public) = X25519HkdfSha256::derive_keypair(seed);
        Self {
            key,
            recipient: Recipient(public),
        }
    }

    /// The public half.
    pub const fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Opens what was sealed to this key under the same binding.
    pub fn open(&self, binding: Binding<'_>, ciphertext: &str) -> Result<Credentials, SealingError> {
        let sealed = Base64::decode_vec(ciphertext).map_err(|_| SealingError::Damaged)?;
        let (encapsulated, ciphertext) = sealed.split_at_checked(KEY).ok_or(SealingError::Damaged)?;
        let encapsulated = EncappedKey::from_bytes(encapsulated).map_err(|_| SealingError::Damaged)?;
        let text = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.key,
            &encapsulated,
            INFO,
            ciphertext,
            &binding.associated_data(),
        )
        .map(Zeroizing::new)
        .map_err(|_| SealingError::Foreign)?;
        Credentials::decode(&text).ok_or(SealingError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hpke::rand_core::{TryCryptoRng, TryRng};

    use super::*;

    /// Not random at all: what is tested does not hang on it.
    struct Counter(u8);

    impl TryRng for Counter {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            self.0 = self.0.wrapping_add(1);
            Ok(u32::from(self.0))
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            self.try_next_u32().map(u64::from)
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            for byte in bytes {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
            Ok(())
        }
    }

    impl TryCryptoRng for Counter {}

    const BINDING: Binding<'static> = Binding {
        node: "db-1",
        node_uid: "0b8f",
        tunnel: "storage",
        key_id: "rv-1",
    };

    fn secret(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    fn credentials() -> Credentials {
        Credentials::default()
            .with(Role::Psk, secret("present"))
            .with(Role::PskPrevious, secret("former"))
    }

    #[test]
    fn both_generations_arrive_at_the_node_that_they_are_for() {
        let opener = Opener::from_seed(&[7; KEY]);
        let parsed = Recipient::parse(&opener.recipient().public_key()).expect("a key");
        assert_eq!(&parsed, opener.recipient());
        let sealed = parsed
            .seal(BINDING, &credentials(), &mut Counter(0))
            .expect("sealed");
        let mut arrived = opener.open(BINDING, &sealed).expect("opened");
        assert_eq!(arrived, credentials());
        assert_eq!(arrived.take(Role::Psk), Some(secret("present")));
        assert_eq!(arrived.take(Role::Psk), None);
    }

    #[test]
    fn a_ciphertext_opens_nowhere_else() {
        let opener = Opener::from_seed(&[7; KEY]);
        let sealed = opener
            .recipient()
            .seal(BINDING, &credentials(), &mut Counter(0))
            .expect("sealed");
        let moved = [
            Binding {
                node: "db-2",
                ..BINDING
            },
            Binding {
                node_uid: "ffff",
                ..BINDING
            },
            Binding {
                tunnel: "backup",
                ..BINDING
            },
            Binding {
                key_id: "rv-2",
                ..BINDING
            },
        ];
        for binding in moved {
            assert_eq!(
                opener.open(binding, &sealed),
                Err(SealingError::Foreign),
                "{binding:?}"
            );
        }
        let other = Opener::from_seed(&[8; KEY]);
        assert_eq!(other.open(BINDING, &sealed), Err(SealingError::Foreign));
        for damaged in ["", "AAAA", "not base64", &format!("{sealed}AAAA")] {
            let error = opener.open(BINDING, damaged).expect_err(damaged);
            assert!(
                matches!(error, SealingError::Damaged | SealingError::Foreign),
                "{damaged}"
            );
        }
    }

    #[test]
    fn nothing_is_sealed_to_a_key_of_small_order() {
        let zero = Recipient::parse(&Base64::encode_string(&[0; KEY])).expect("32 bytes");
        let error = zero.seal(BINDING, &credentials(), &mut Counter(0));
        assert_eq!(error, Err(SealingError::Recipient));
    }

    #[test]
    fn secrets_are_shown_by_their_role_only_and_have_a_bound() {
        let shown = format!("{:?}", credentials());
        assert!(
            shown.contains("PskPrevious") && !shown.contains("former"),
            "{shown}"
        );
        let long = Zeroizing::new(vec![0; LONGEST_SECRET + 1]);
        let taken = Credentials::default().with(Role::Psk, long);
        assert_eq!(taken, Credentials::default());
        let opener = format!("{:?}", Opener::from_seed(&[7; KEY]));
        assert!(opener.starts_with("Opener(\"x25519:"), "{opener}");
    }

    #[test]
    fn roles_that_are_not_known_are_passed_over_and_rubbish_is_not() {
        let mut text = vec![99, 0, 1, 0xaa];
        text.extend_from_slice(&credentials().encode());
        assert_eq!(Credentials::decode(&text), Some(credentials()));
        for damaged in [&[1][..], &[1, 0, 5, 0], &[1, 0, 1, 0, 9]] {
            assert_eq!(Credentials::decode(damaged), None, "{damaged:?}");
        }
    }
}
