//! What the engine does with keys: the traits that a crypto provider fills in, the key schedule as a chain of types,
//! sealed messages, and the proofs of identity. No primitive is implemented here.

mod additional;
mod auth;
mod error;
mod keys;
mod lacks;
mod names;
mod negotiate;
mod prf;
mod protected;
mod provider;
mod reassembly;
mod schedule;
mod sealing;
mod secret;
mod spki;
mod suite;

pub use additional::StartedKeyExchange;
pub use auth::{Intermediate, SignedOctets, psk_auth};
pub use error::CryptoError;
pub use keys::{AuthKeys, ChildKeymat, ChildKeys, IkeKeys, SkD};
pub use negotiate::{
    ChildContext, Chosen, NotOffered, child_offer, confirm_child, confirm_ike, ike_offer, select_child,
    select_ike,
};
pub use prf::prf_plus;
pub use protected::{Fragment, IntegrityChecked, Opened, Opener, Sealer, unsealed};
pub use provider::{
    ActiveKeyExchange, AeadBackend, CbcBackend, Decapsulator, HashBackend, KemBackend, KeyExchangeBackend,
    KeyedPrf, NONCE_LENGTH, PrfBackend, Provider, SecureRandom, SignatureBackend, TAG_LENGTH,
};
pub use schedule::Skeyseed;
pub use sealing::CBC_BLOCK;
pub use secret::{Secret, constant_time_eq};
pub use spki::{PublicKey, RSA_LONGEST, RSA_SHORTEST};
pub use suite::{ChildSuite, IkeSuite};
