//! X25519 (RFC 8031) and ECP-256 (RFC 5903).

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, KeyExchangeBackend, Secret, SecureRandom};
use p256::elliptic_curve::sec1::ToSec1Point;
use x25519_dalek::StaticSecret;

use crate::shared::{SCALAR_LENGTH, UNCOMPRESSED, draw, p256_public, shared_secret};

pub(super) struct Agreement;

impl KeyExchangeBackend for Agreement {
    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        match method {
            KeyExchange::Ecp256 => {
                let private = draw(random, |scalar| p256::SecretKey::from_slice(scalar).ok())?;
                let point = private.public_key().to_sec1_point(false);
                let public = point
                    .as_bytes()
                    .strip_prefix(&[UNCOMPRESSED])
                    .unwrap_or_default()
                    .to_vec();
                Ok(Box::new(Ecp256 { private, public }))
            }
            KeyExchange::X25519 => {
                let private = draw(random, |scalar| Some(StaticSecret::from(*scalar)))?;
                let public = x25519_dalek::PublicKey::from(&private).to_bytes();
                Ok(Box::new(X25519 { private, public }))
            }
        }
    }
}

struct Ecp256 {
    private: p256::SecretKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for Ecp256 {
    fn method(&self) -> KeyExchange {
        KeyExchange::Ecp256
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let point = p256_public(peer_public_value)?;
        let peer = p256::PublicKey::from_sec1_bytes(&point).map_err(|_| CryptoError::InvalidPublicValue)?;
        shared_secret(self.private.diffie_hellman(&peer).raw_secret_bytes())
    }
}

struct X25519 {
    private: StaticSecret,
    public: [u8; SCALAR_LENGTH],
}

impl ActiveKeyExchange for X25519 {
    fn method(&self) -> KeyExchange {
        KeyExchange::X25519
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let peer: [u8; SCALAR_LENGTH] = peer_public_value
            .try_into()
            .map_err(|_| CryptoError::InvalidPublicValue)?;
        shared_secret(self.private.diffie_hellman(&peer.into()).as_bytes())
    }
}
