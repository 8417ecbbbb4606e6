//! Whom a node's credentials are sealed to. The key comes from a status that an agent writes, so that it counts only with a
//! signature of the key in the node's certificate, which the directory has pinned.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64ct::{Base64, Encoding as _};
use hpke::rand_core::UnwrapErr;
use ipsecmesh_crds::node::{SealedCredential, SealingKey};
use ipsecmesh_crds::sealing::{ALGORITHM, Binding, Recipient};
use x509_cert::der::Decode as _;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::fingerprint;
use super::psk::Material;
use crate::verdict::Problem;

/// Where a node stands with the credentials of one tunnel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sealing {
    /// It has those of the present version, sealed to its present key.
    Current,
    /// They are to be sealed to this key.
    Due(Recipient),
    /// There is no key that can be trusted.
    Impossible(Problem),
}

/// A node and what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Name of the Node.
    pub(crate) node: &'a str,
    /// UID of the Node.
    pub(crate) uid: &'a str,
    /// Its sealing key as its status has it.
    pub(crate) said: Option<&'a SealingKey>,
    /// Fingerprints of its certificates' keys in the directory.
    pub(crate) pinned: &'a [String],
}

/// Compares what `candidate` has with what it is to have. A credential of the present version and key is not looked at
/// again, so that a mesh at rest verifies nothing and writes nothing.
pub(crate) fn sealing(
    candidate: Candidate<'_>,
    present: Option<&SealedCredential>,
    material: &Material,
) -> Sealing {
    let recipient = candidate.said.and_then(|said| Recipient::parse(&said.public_key));
    let is_current = present
        .zip(recipient.as_ref())
        .is_some_and(|(present, key)| present.key_id == material.key_id && present.recipient == key.name());
    if is_current {
        return Sealing::Current;
    }
    match trusted(candidate) {
        Ok(recipient) => Sealing::Due(recipient),
        Err(problem) => Sealing::Impossible(problem),
    }
}

/// Seals the credentials of `tunnel` for `candidate`.
pub(crate) fn seal(
    candidate: Candidate<'_>,
    recipient: &Recipient,
    tunnel: &str,
    material: &Material,
) -> Result<SealedCredential, Problem> {
    let binding = Binding {
        node: candidate.node,
        node_uid: candidate.uid,
        tunnel,
        key_id: &material.key_id,
    };
    let mut rng = UnwrapErr(getrandom::SysRng);
    let ciphertext = recipient
        .seal(binding, &material.credentials, &mut rng)
        .map_err(|error| untrusted(candidate.node, &error.to_string()))?;
    Ok(SealedCredential {
        tunnel: tunnel.to_owned(),
        key_id: material.key_id.clone(),
        recipient: recipient.name(),
        ciphertext,
    })
}

/// The key, if the node's certificate speaks for it.
fn trusted(candidate: Candidate<'_>) -> Result<Recipient, Problem> {
    let node = candidate.node;
    let said = candidate.said.ok_or_else(|| {
        let message = format!(
            "{node}: its agent has published no sealing key, and pre-shared keys are sealed to nothing else: it needs a \
             certificate first (kubectl describe ipsecnode {node}), and an agent of this release"
        );
        Problem::new("SealingKeyMissing", message)
    })?;
    let refused = |what: &str| untrusted(node, what);
    if said.algorithm != ALGORITHM {
        return Err(refused(&format!(
            "algorithm {:?} is not {ALGORITHM}",
            said.algorithm
        )));
    }
    let recipient =
        Recipient::parse(&said.public_key).ok_or_else(|| refused("publicKey is no X25519 key"))?;
    let key = Base64::decode_vec(&said.signing_key).map_err(|_| refused("signingKey is not base64"))?;
    if !candidate.pinned.contains(&fingerprint(&key)) {
        return Err(refused("signingKey is not among those in IPsecPeer.spec.keys"));
    }
    let key = SubjectPublicKeyInfoRef::from_der(&key).map_err(|_| refused("signingKey is no public key"))?;
    let signature = Base64::decode_vec(&said.signature).map_err(|_| refused("signature is not base64"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.subject_public_key.raw_bytes())
        .verify(&recipient.statement(node, candidate.uid), &signature)
        .map_err(|_| refused("signature does not verify"))?;
    Ok(recipient)
}

fn untrusted(node: &str, what: &str) -> Problem {
    let message = format!(
        "{node}: IPsecNode.status.sealingKey is not trusted: {what}; nothing is sealed to it. Somebody else than the agent \
         may have written it; restart the agent of {node}, and look at the audit log"
    );
    Problem::new("SealingKeyUntrusted", message)
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::sealing::{Credentials, Opener, Role};
    use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
    use zeroize::Zeroizing;

    use super::*;

    struct Node {
        opener: Opener,
        certificate: KeyPair,
    }

    impl Node {
        fn new() -> Self {
            Self {
                opener: Opener::from_seed(&[7; 32]),
                certificate: KeyPair::generate().expect("key"),
            }
        }

        fn said(&self, name: &str, uid: &str) -> SealingKey {
            let recipient = self.opener.recipient();
            let signature = self
                .certificate
                .sign(&recipient.statement(name, uid))
                .expect("signed");
            SealingKey {
                algorithm: ALGORITHM.to_owned(),
                public_key: recipient.public_key(),
                signing_key: Base64::encode_string(&self.certificate.subject_public_key_info()),
                signature: Base64::encode_string(&signature),
            }
        }

        fn pinned(&self) -> Vec<String> {
            vec![fingerprint(&self.certificate.subject_public_key_info())]
        }
    }

    fn material() -> Material {
        let psk = Zeroizing::new(b"0123456789abcdef0123456789abcdef".to_vec());
        Material {
            key_id: "rv-1".to_owned(),
            credentials: Credentials::default().with(Role::Psk, psk),
        }
    }

    fn candidate<'a>(said: Option<&'a SealingKey>, pinned: &'a [String]) -> Candidate<'a> {
        Candidate {
            node: "a",
            uid: "1",
            said,
            pinned,
        }
    }

    #[test]
    fn a_key_that_the_certificate_signed_is_sealed_to_once() {
        let node = Node::new();
        let (said, pinned) = (node.said("a", "1"), node.pinned());
        let candidate = candidate(Some(&said), &pinned);
        let Sealing::Due(recipient) = sealing(candidate, None, &material()) else {
            panic!("due")
        };
        let sealed = seal(candidate, &recipient, "storage", &material()).expect("sealed");
        let binding = Binding {
            node: "a",
            node_uid: "1",
            tunnel: "storage",
            key_id: "rv-1",
        };
        let opened = node.opener.open(binding, &sealed.ciphertext).expect("opened");
        assert_eq!(opened, material().credentials);
        assert_eq!(sealing(candidate, Some(&sealed), &material()), Sealing::Current);
        let edited = Material {
            key_id: "rv-2".to_owned(),
            ..material()
        };
        assert!(matches!(
            sealing(candidate, Some(&sealed), &edited),
            Sealing::Due(_)
        ));
    }

    #[test]
    fn a_key_of_somebody_else_is_not_sealed_to() {
        let (node, other) = (Node::new(), Node::new());
        let good = node.said("a", "1");
        let with = |change: fn(&mut SealingKey, &Node)| {
            let mut said = good.clone();
            change(&mut said, &other);
            Some(said)
        };
        let cases = [
            ("none", None, "SealingKeyMissing"),
            (
                "another algorithm",
                with(|said, _| said.algorithm = "X448".to_owned()),
                "SealingKeyUntrusted",
            ),
            (
                "no key",
                with(|said, _| said.public_key = "AAAA".to_owned()),
                "SealingKeyUntrusted",
            ),
            (
                "another key under the same signature",
                with(|said, _| said.public_key = Opener::from_seed(&[9; 32]).recipient().public_key()),
                "SealingKeyUntrusted",
            ),
            (
                "signed by a key that nobody pinned",
                with(|said, other| *said = other.said("a", "1")),
                "SealingKeyUntrusted",
            ),
            (
                "of another node",
                Some(node.said("b", "1")),
                "SealingKeyUntrusted",
            ),
            (
                "of an earlier Node of the name",
                Some(node.said("a", "0")),
                "SealingKeyUntrusted",
            ),
            (
                "unsigned",
                with(|said, _| said.signature.clear()),
                "SealingKeyUntrusted",
            ),
        ];
        for (what, said, reason) in cases {
            let pinned = node.pinned();
            let found = sealing(candidate(said.as_ref(), &pinned), None, &material());
            let Sealing::Impossible(problem) = found else {
                panic!("{what}: {found:?}")
            };
            assert_eq!(problem.reason, reason, "{what}");
            assert!(problem.message.starts_with("a: "), "{what}: {problem:?}");
        }
    }
}
