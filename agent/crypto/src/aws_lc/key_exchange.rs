//! X25519 (RFC 8031), ECP-256, ECP-384 and ECP-521 (RFC 5903), and the MODP groups.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey};
use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, KeyExchangeBackend, Secret, SecureRandom};

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
        let algorithm = match method {
            KeyExchange::Ecp256 => &ECDH_P256,
            KeyExchange::Ecp384 => &ECDH_P384,
            KeyExchange::Ecp521 => &ECDH_P521,
            KeyExchange::Modp2048 | KeyExchange::Modp3072 | KeyExchange::Modp4096 => {
                return Ok(Box::new(Modp::start(method, random)?));
            }
            KeyExchange::X25519 => &agreement::X25519,
        };
        let private = draw(method, random, |scalar| {
            PrivateKey::from_private_key(algorithm, scalar).ok()
        })?;
        let public = private.compute_public_key().map_err(|_| CryptoError::Random)?;
        let public = public_value_of(method, public.as_ref()).to_vec();
        Ok(Box::new(Active {
            method,
            algorithm,
            private,
            public,
        }))
    }
}

struct Active {
    method: KeyExchange,
    algorithm: &'static agreement::Algorithm,
    private: PrivateKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for Active {
    fn method(&self) -> KeyExchange {
        self.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn complete(&self, peer_public_value: &[u8]) -> Result<Secret, CryptoError> {
        let point = point_of(self.method, peer_public_value)?;
        let peer = UnparsedPublicKey::new(self.algorithm, point);
        let length = scalar_length(self.method);
        agreement::agree(&self.private, peer, CryptoError::InvalidPublicValue, |bytes| {
            shared_secret(bytes, length)
        })
    }
}
