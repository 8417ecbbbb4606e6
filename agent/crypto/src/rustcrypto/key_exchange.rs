//! X25519 (RFC 8031), ECP-256, ECP-384 and ECP-521 (RFC 5903), and the MODP groups.

use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, KeyExchangeBackend, Secret, SecureRandom};
use p256::elliptic_curve::sec1::ToSec1Point;
use x25519_dalek::StaticSecret;

use crate::modp::Modp;
use crate::shared::{draw, point_of, public_value_of, scalar_length, shared_secret};

pub(super) struct Agreement;

impl KeyExchangeBackend for Agreement {
    fn has(&self, _: KeyExchange) -> bool {
        true
    }

    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        match method {
            KeyExchange::Ecp256 => Ok(Box::new(Ecp256::start(random)?)),
            KeyExchange::Ecp384 => Ok(Box::new(Ecp384::start(random)?)),
            KeyExchange::Ecp521 => Ok(Box::new(Ecp521::start(random)?)),
            KeyExchange::Modp2048 | KeyExchange::Modp3072 | KeyExchange::Modp4096 => {
                Ok(Box::new(Modp::start(method, random)?))
            }
            KeyExchange::X25519 => Ok(Box::new(X25519::start(random)?)),
        }
    }
}

/// Our half on one of the NIST curves: the crates have one interface and different types.
macro_rules! curve {
    ($name:ident, $library:ident) => {
        struct $name {
            private: $library::SecretKey,
            public: Vec<u8>,
        }

        impl $name {
            fn start(random: &dyn SecureRandom) -> Result<Self, CryptoError> {
                let method = KeyExchange::$name;
                let private = draw(method, random, |scalar| {
                    $library::SecretKey::from_slice(scalar).ok()
                })?;
                let point = private.public_key().to_sec1_point(false);
                let public = public_value_of(method, point.as_bytes()).to_vec();
                Ok(Self { private, public })
            }
        }

        impl ActiveKeyExchange for $name {
            fn method(&self) -> KeyExchange {
                KeyExchange::$name
            }

            fn public_value(&self) -> &[u8] {
                &self.public
            }

            fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
                let point = point_of(self.method(), peer_public_value)?;
                let peer = $library::PublicKey::from_sec1_bytes(&point)
                    .map_err(|_| CryptoError::InvalidPublicValue)?;
                let shared = self.private.diffie_hellman(&peer);
                shared_secret(shared.raw_secret_bytes(), scalar_length(self.method()))
            }
        }
    };
}

curve!(Ecp256, p256);
curve!(Ecp384, p384);
curve!(Ecp521, p521);

struct X25519 {
    private: StaticSecret,
    public: [u8; 32],
}

impl X25519 {
    fn start(random: &dyn SecureRandom) -> Result<Self, CryptoError> {
        let private = draw(KeyExchange::X25519, random, |scalar| {
            <[u8; 32]>::try_from(scalar).ok().map(StaticSecret::from)
        })?;
        let public = x25519_dalek::PublicKey::from(&private).to_bytes();
        Ok(Self { private, public })
    }
}

impl ActiveKeyExchange for X25519 {
    fn method(&self) -> KeyExchange {
        KeyExchange::X25519
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let peer: [u8; 32] = peer_public_value
            .try_into()
            .map_err(|_| CryptoError::InvalidPublicValue)?;
        let shared = self.private.diffie_hellman(&peer.into());
        shared_secret(shared.as_bytes(), scalar_length(self.method()))
    }
}
