//! The node's private key as the engine may use it: to sign, never to read.

use std::sync::Arc;

use ipsecmesh_ike::{Credentials, SignError, SignatureAlgorithm, Signer};
use rcgen::{KeyPair, SigningKey as _};

use crate::identity::keystore::NodeCertificate;

/// Signs with the node's key.
struct NodeSigner {
    key: Arc<KeyPair>,
}

impl Signer for NodeSigner {
    fn algorithms(&self) -> &[SignatureAlgorithm] {
        &[SignatureAlgorithm::EcdsaP256Sha256]
    }

    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => self.key.sign(message).map_err(|_| SignError),
            // The type may grow: what the key cannot do is refused.
            _ => Err(SignError),
        }
    }
}

/// The credentials of the engine: certificate chain and a signer over its key.
pub(crate) fn credentials(certificate: &NodeCertificate) -> Credentials {
    Credentials {
        chain: certificate
            .chain
            .iter()
            .map(|der| der.as_ref().to_vec())
            .collect::<Vec<_>>()
            .into(),
        signer: Arc::new(NodeSigner {
            key: Arc::clone(&certificate.key),
        }),
    }
}
