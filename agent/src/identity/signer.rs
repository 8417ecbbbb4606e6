//! The host's certificate and private key as the engine may use them: to show and to sign, never to read.

use std::sync::Arc;

use ipsecmesh_ike::{Credentials, Signer};

use crate::identity::keystore::NodeCertificate;

/// The credentials of the engine: certificate chain and a signer over its key.
pub(crate) fn credentials(certificate: &NodeCertificate) -> Credentials {
    let signer: Arc<dyn Signer> = Arc::<dyn ipsecmesh_crypto::PrivateKey>::clone(&certificate.key);
    Credentials {
        chain: certificate
            .chain
            .iter()
            .map(|der| der.as_ref().to_vec())
            .collect::<Vec<_>>()
            .into(),
        signer,
    }
}
