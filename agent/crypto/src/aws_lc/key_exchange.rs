//! X25519 (RFC 8031) and ECP-256 (RFC 5903).

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use ipsecmesh_ike::KeyExchange;
use ipsecmesh_ike::crypto::{ActiveKeyExchange, CryptoError, KeyExchangeBackend, Secret, SecureRandom};

use crate::shared::{UNCOMPRESSED, draw, p256_public, shared_secret};

pub(super) struct Agreement;

impl KeyExchangeBackend for Agreement {
    fn start(
        &self,
        method: KeyExchange,
        random: &dyn SecureRandom,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let algorithm = match method {
            KeyExchange::Ecp256 => &ECDH_P256,
            KeyExchange::X25519 => &agreement::X25519,
        };
        let private = draw(random, |scalar| {
            PrivateKey::from_private_key(algorithm, scalar).ok()
        })?;
        let public = private.compute_public_key().map_err(|_| CryptoError::Random)?;
        let public = match method {
            KeyExchange::Ecp256 => public
                .as_ref()
                .strip_prefix(&[UNCOMPRESSED])
                .unwrap_or_default()
                .to_vec(),
            KeyExchange::X25519 => public.as_ref().to_vec(),
        };
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
        match self.method {
            KeyExchange::Ecp256 => self.agree(&p256_public(peer_public_value)?),
            KeyExchange::X25519 => self.agree(peer_public_value),
        }
    }
}

impl Active {
    fn agree(&self, peer: &[u8]) -> Result<Secret, CryptoError> {
        let peer = UnparsedPublicKey::new(self.algorithm, peer);
        agreement::agree(
            &self.private,
            peer,
            CryptoError::InvalidPublicValue,
            shared_secret,
        )
    }
}
