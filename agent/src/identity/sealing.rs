//! The key that this node's credentials are sealed to, and its certificate's word that the key is this node's
//! (decision 25).

use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use ipsecmesh_crds::node::SealingKey;
use ipsecmesh_crds::sealing::{ALGORITHM, Opener};
use ipsecmesh_ike::SignatureAlgorithm;
use ipsecmesh_ike::crypto::SecureRandom;
use serde::{Deserialize, Serialize};

use crate::identity::keystore::{Keystore, KeystoreError, NodeCertificate};
use crate::model::Peer;

/// What was signed, and for which Node. It is kept on disk: signing anew would change the status without need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    node: String,
    uid: String,
    key: SealingKey,
}

/// The node's sealing key with what is published of it.
#[derive(Debug)]
pub(crate) struct Sealing {
    opener: Arc<Opener>,
    keystore: Keystore,
    signed: Option<Signed>,
}

impl Sealing {
    /// Reads the key, and makes one where there is none.
    pub(crate) fn open(keystore: Keystore, random: &dyn SecureRandom) -> Result<Self, KeystoreError> {
        let seed = keystore.sealing_seed(random)?;
        let signed = keystore.signed()?;
        Ok(Self {
            opener: Arc::new(Opener::from_seed(&seed)),
            signed: signed.and_then(|text| serde_json::from_str(&text).ok()),
            keystore,
        })
    }

    /// What opens this node's credentials.
    pub(crate) fn opener(&self) -> &Arc<Opener> {
        &self.opener
    }

    /// The key as the status has it: signed anew only when the certificate's key or the Node is another one.
    pub(crate) fn published(&mut self, certificate: &NodeCertificate, own: &Peer) -> Option<SealingKey> {
        let recipient = self.opener.recipient();
        let signing_key = Base64::encode_string(&certificate.leaf.spki);
        let known = self.signed.as_ref().filter(|signed| {
            (&signed.node, &signed.uid) == (&own.node, &own.uid)
                && signed.key.signing_key == signing_key
                && signed.key.public_key == recipient.public_key()
        });
        if let Some(known) = known {
            return Some(known.key.clone());
        }
        let statement = recipient.statement(&own.node, &own.uid);
        // The key of a node's certificate is one for ECDSA on P-256: the operator accepts no other.
        let signature = certificate.key.sign(SignatureAlgorithm::EcdsaSha256, &statement);
        let signature = signature
            .inspect_err(|error| tracing::error!(%error, "the sealing key was not signed"))
            .ok()?;
        let signed = Signed {
            node: own.node.clone(),
            uid: own.uid.clone(),
            key: SealingKey {
                algorithm: ALGORITHM.to_owned(),
                public_key: recipient.public_key(),
                signing_key,
                signature: Base64::encode_string(&signature),
            },
        };
        let stored = serde_json::to_string(&signed).unwrap_or_default();
        if let Err(error) = self.keystore.store_signed(&stored) {
            tracing::warn!(%error, "the next run of the agent signs its sealing key anew");
        }
        tracing::info!(recipient = recipient.name(), "the sealing key is signed");
        Some(self.signed.insert(signed).key.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipsecmesh_crypto::{KeyEncoding, PROVIDERS, private_key};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::fixture;

    fn certificate() -> NodeCertificate {
        let key = KeyPair::generate().expect("key");
        let der = CertificateParams::default()
            .self_signed(&key)
            .expect("certificate")
            .der()
            .clone();
        let key = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, key.serialized_der()).expect("a signer");
        NodeCertificate::new(key, vec![der], 0, 0).expect("matching")
    }

    fn own(uid: &str) -> Peer {
        Peer {
            node: "a".to_owned(),
            uid: uid.to_owned(),
            boot: None,
            identity: String::new(),
            addresses: Vec::new(),
            pods: Vec::new(),
            keys: BTreeSet::new(),
            memberships: Vec::new(),
        }
    }

    #[test]
    fn the_key_stays_and_is_signed_once_for_a_certificate_and_a_node() {
        let folder = tempfile::tempdir().expect("folder");
        let open = || {
            let keystore = Keystore::open(folder.path().to_owned(), PROVIDERS[0]).expect("opened");
            Sealing::open(keystore, fixture::random()).expect("a key")
        };
        let (first, second) = (certificate(), certificate());
        let mut sealing = open();
        let said = sealing.published(&first, &own("1")).expect("signed");
        assert_eq!(sealing.published(&first, &own("1")), Some(said.clone()));
        let mut restarted = open();
        assert_eq!(
            restarted.opener().recipient(),
            sealing.opener().recipient(),
            "the key survives a restart"
        );
        assert_eq!(restarted.published(&first, &own("1")), Some(said.clone()));
        let renewed = restarted.published(&second, &own("1")).expect("signed");
        assert_eq!(renewed.public_key, said.public_key);
        assert_ne!(renewed.signature, said.signature);
        let reborn = restarted.published(&second, &own("2")).expect("signed");
        assert_ne!(reborn.signature, renewed.signature);
    }
}
