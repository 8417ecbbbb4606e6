//! The node's key and certificate on disk: one file, so that a key never stands beside another key's certificate.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ipsecmesh_crypto::{KeyEncoding, PrivateKey, private_key};
use ipsecmesh_ike::crypto::{Provider, SecureRandom};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::identity::leaf::{Leaf, fingerprint, hex};
use crate::persist::{private_folder, write_private};

const CURRENT: &str = "node.pem";
const PENDING: &str = "pending.key";
const SEALING: &str = "sealing.key";
const SIGNED: &str = "sealing.json";
const GENERATION: &str = "certificateGeneration: ";
const ISSUED: &str = "issuedAt: ";

/// A certificate of this node with its key.
#[derive(Clone, Debug)]
pub(crate) struct NodeCertificate {
    /// Signs with the private key, and never shows it.
    pub(crate) key: Arc<dyn PrivateKey>,
    /// Leaf first, without the trust anchor.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The leaf, parsed.
    pub(crate) leaf: Leaf,
    /// `IPsecNode.spec.certificateGeneration` that it was requested under.
    pub(crate) generation: i64,
    /// When this node got it, seconds since 1970: its `notBefore` is earlier, for peers whose clocks are behind.
    pub(crate) issued_at: u64,
}

/// The folder with the node's key.
#[derive(Clone, Debug)]
pub(crate) struct Keystore {
    folder: PathBuf,
    provider: &'static Provider,
}

/// A file of the keystore cannot be used. Never holds the file's content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeystoreError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not what this agent writes.
    #[error("{path}: {reason}; the agent makes a new key")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl NodeCertificate {
    /// Joins a key and the chain that was issued for it; refuses a certificate for another key.
    pub(crate) fn new(
        key: Arc<dyn PrivateKey>,
        chain: Vec<CertificateDer<'static>>,
        generation: i64,
        issued_at: u64,
    ) -> Result<Self, String> {
        let first = chain.first().ok_or("no certificate")?;
        let leaf = Leaf::parse(first).map_err(|e| e.to_string())?;
        if leaf.spki != key.public_key() {
            return Err("the certificate is for another key".to_owned());
        }
        Ok(Self {
            key,
            chain,
            leaf,
            generation,
            issued_at,
        })
    }

    /// Fingerprint of the whole chain: another intermediate is another one, too.
    pub(crate) fn fingerprint(&self) -> String {
        let chain: Vec<&[u8]> = self.chain.iter().map(AsRef::as_ref).collect();
        fingerprint(&chain.concat())
    }
}

impl Keystore {
    /// Opens the folder, making it with mode 0700 where it does not exist.
    pub(crate) fn open(folder: PathBuf, provider: &'static Provider) -> Result<Self, KeystoreError> {
        match private_folder(&folder) {
            Ok(()) => Ok(Self { folder, provider }),
            Err(source) => Err(KeystoreError::Io { path: folder, source }),
        }
    }

    /// The certificate in use, if there is one.
    pub(crate) fn load(&self) -> Result<Option<NodeCertificate>, KeystoreError> {
        let path = self.folder.join(CURRENT);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let content = |reason: String| KeystoreError::Content {
            path: path.clone(),
            reason,
        };
        let key = parse_key(&text)
            .and_then(|key| self.signer(&key))
            .map_err(content)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| content(e.to_string()))?;
        let generation = field(&text, GENERATION).unwrap_or_default();
        let issued_at = field(&text, ISSUED).unwrap_or_default();
        NodeCertificate::new(key, chain, generation, issued_at)
            .map(Some)
            .map_err(content)
    }

    /// The same key as the engine may use it.
    pub(crate) fn signer(&self, key: &KeyPair) -> Result<Arc<dyn PrivateKey>, String> {
        private_key(self.provider, KeyEncoding::Pkcs8, key.serialized_der())
            .map_err(|error| format!("the private key: {error}"))
    }

    /// Makes `certificate`, which was issued for `key`, the one in use; the pending key is done with.
    pub(crate) fn store(&self, certificate: &NodeCertificate, key: &KeyPair) -> Result<(), KeystoreError> {
        let mut text = Zeroizing::new(format!(
            "{GENERATION}{}\n{ISSUED}{}\n",
            certificate.generation, certificate.issued_at
        ));
        text.push_str(&Zeroizing::new(key.serialize_pem()));
        for der in &certificate.chain {
            text.push_str(&pem("CERTIFICATE", der));
        }
        self.write(CURRENT, text.as_bytes())?;
        self.discard_pending()
    }

    /// The key of the request that is under way; made now where none is.
    pub(crate) fn pending_key(&self) -> Result<KeyPair, KeystoreError> {
        let path = self.folder.join(PENDING);
        if let Some(text) = read(&path)?
            && let Ok(key) = parse_key(&text)
        {
            return Ok(key);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| KeystoreError::Content {
            path,
            reason: format!("no key could be made: {e}"),
        })?;
        self.write(PENDING, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        Ok(key)
    }

    /// The seed of the node's sealing key; made now where there is none.
    pub(crate) fn sealing_seed(
        &self,
        random: &dyn SecureRandom,
    ) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let path = self.folder.join(SEALING);
        let mut seed = Zeroizing::new([0; 32]);
        match fs::read(&path).map(Zeroizing::new) {
            Ok(content) if content.len() == seed.len() => {
                seed.copy_from_slice(&content);
                return Ok(seed);
            }
            // What is sealed to a key that is lost is sealed anew.
            Ok(_) => {
                tracing::warn!(path = %path.display(), "not a sealing key: the agent makes a new one");
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeystoreError::Io { path, source }),
        }
        random
            .fill(seed.as_mut_slice())
            .map_err(|error| KeystoreError::Content {
                path,
                reason: format!("no key could be made: {error}"),
            })?;
        self.write(SEALING, seed.as_slice())?;
        Ok(seed)
    }

    /// What was published of the sealing key.
    pub(crate) fn signed(&self) -> Result<Option<String>, KeystoreError> {
        let text = read(&self.folder.join(SIGNED))?;
        Ok(text.map(|text| text.to_string()))
    }

    /// Remembers what is published of the sealing key.
    pub(crate) fn store_signed(&self, text: &str) -> Result<(), KeystoreError> {
        self.write(SIGNED, text.as_bytes())
    }

    /// Forgets the key of a request that was refused.
    pub(crate) fn discard_pending(&self) -> Result<(), KeystoreError> {
        let path = self.folder.join(PENDING);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeystoreError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), KeystoreError> {
        let path = self.folder.join(name);
        write_private(&path, content).map_err(|source| KeystoreError::Io { path, source })
    }
}

/// SubjectPublicKeyInfo of `key` in DER.
pub(crate) fn public_key(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    key.subject_public_key_info()
}

/// A name for the request of this key: the same key asks under the same name after a restart.
pub(crate) fn request_name(node: &str, key: &KeyPair) -> String {
    use sha2::Digest as _;
    let digest = hex(&sha2::Sha256::digest(public_key(key)));
    let node: String = node.chars().take(200).collect();
    format!("ipsecmesh-{node}-{}", digest.get(..16).unwrap_or_default())
}

fn read(path: &PathBuf) -> Result<Option<Zeroizing<String>>, KeystoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeystoreError::Io {
            path: path.clone(),
            source,
        }),
    }
}

fn field<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.parse().ok())
}

fn parse_key(text: &str) -> Result<KeyPair, String> {
    let der =
        PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "holds no private key".to_owned())?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| "the private key is not one for ECDSA on P-256".to_owned())
}

fn pem(label: &str, der: &[u8]) -> String {
    x509_cert::der::pem::encode_string(label, x509_cert::der::pem::LineEnding::LF, der).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ipsecmesh_crypto::PROVIDERS;
    use rcgen::CertificateParams;

    use super::*;

    #[test]
    fn key_and_certificate_survive_a_restart_and_are_private() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        let store = Keystore::open(state.clone(), PROVIDERS[0]).expect("opened");
        assert!(store.load().expect("readable").is_none());

        let key = store.pending_key().expect("key");
        let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&state.join(PENDING)), 0o600);
        let again = store.pending_key().expect("same key");
        assert_eq!(public_key(&key), public_key(&again));

        let der = CertificateParams::default()
            .self_signed(&key)
            .expect("certificate")
            .der()
            .clone();
        let signer = store.signer(&key).expect("a signer");
        let certificate = NodeCertificate::new(signer, vec![der.clone()], 7, 1000).expect("matching");
        store.store(&certificate, &key).expect("stored");
        let loaded = store.load().expect("readable").expect("there");
        assert_eq!(loaded.chain, vec![der]);
        assert_eq!((loaded.generation, loaded.issued_at), (7, 1000));
        assert_eq!(loaded.leaf, certificate.leaf);
        assert!(!state.join(PENDING).exists());

        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join(CURRENT)), 0o600);
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let key = KeyPair::generate().expect("key");
        let other = KeyPair::generate().expect("key");
        let der = CertificateParams::default()
            .self_signed(&other)
            .expect("certificate")
            .der()
            .clone();
        let key = private_key(PROVIDERS[0], KeyEncoding::Pkcs8, key.serialized_der()).expect("a signer");
        let error = NodeCertificate::new(key, vec![der], 0, 0).expect_err("another key");
        assert_eq!(error, "the certificate is for another key");
    }

    #[test]
    fn a_folder_that_others_could_read_is_closed() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("made");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("opened");
        Keystore::open(state.clone(), PROVIDERS[0]).expect("opened");
        assert_eq!(
            fs::metadata(&state).expect("there").permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_broken_file_is_named_without_its_content() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Keystore::open(folder.path().to_owned(), PROVIDERS[0]).expect("opened");
        fs::write(folder.path().join(CURRENT), "secret").expect("written");
        let text = store.load().expect_err("broken").to_string();
        assert!(text.contains(CURRENT) && !text.contains("secret"), "{text}");
    }
}
