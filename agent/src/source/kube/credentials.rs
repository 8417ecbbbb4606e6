//! This node's credentials as the operator sealed them: opened once each, and kept while nothing better has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipsecmesh_crds::node::SealedCredential;
use ipsecmesh_crds::sealing::{Binding, Opener, Role};

use crate::model::{OwnNode, Psk};

/// The credentials by the name of the tunnel.
#[derive(Debug)]
pub(super) struct Credentials {
    opener: Arc<Opener>,
    tunnels: BTreeMap<String, Opened>,
}

/// What became of one.
#[derive(Debug)]
struct Opened {
    sealed: SealedCredential,
    psk: Option<Psk>,
    problem: Option<String>,
}

impl Credentials {
    /// None yet.
    pub(super) fn new(opener: Arc<Opener>) -> Self {
        Self {
            opener,
            tunnels: BTreeMap::new(),
        }
    }

    /// Takes over what `own`, the object of the node `name`, holds now.
    pub(super) fn take(&mut self, name: &str, own: Option<&OwnNode>) {
        let mut before = std::mem::take(&mut self.tunnels);
        for sealed in own.into_iter().flat_map(|own| &own.sealed) {
            let known = before.remove(&sealed.tunnel);
            let opened = match known {
                Some(known) if known.sealed == *sealed => known,
                known => self.open(name, own, sealed, known.and_then(|known| known.psk)),
            };
            self.tunnels.insert(sealed.tunnel.clone(), opened);
        }
    }

    /// The pre-shared keys.
    pub(super) fn psks(&self) -> BTreeMap<String, Psk> {
        let all = self.tunnels.iter();
        all.filter_map(|(tunnel, opened)| Some((tunnel.clone(), opened.psk.clone()?)))
            .collect()
    }

    /// What could not be opened.
    pub(super) fn problem(&self) -> Option<String> {
        let problems: Vec<&str> = self
            .tunnels
            .values()
            .filter_map(|opened| opened.problem.as_deref())
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn open(
        &self,
        name: &str,
        own: Option<&OwnNode>,
        sealed: &SealedCredential,
        former: Option<Psk>,
    ) -> Opened {
        let binding = Binding {
            node: name,
            node_uid: own.map(|own| own.node_uid.as_str()).unwrap_or_default(),
            tunnel: &sealed.tunnel,
            key_id: &sealed.key_id,
        };
        let recipient = self.opener.recipient().name();
        let opened = if sealed.recipient == recipient {
            self.opener
                .open(binding, &sealed.ciphertext)
                .map_err(|error| format!("{error}: restart the operator if this stays"))
        } else {
            Err(format!(
                "it is sealed to {}, and this node's key is {recipient}: the operator seals it anew",
                sealed.recipient
            ))
        };
        let psk = opened.and_then(|mut opened| {
            let current = opened.take(Role::Psk);
            let previous = opened.take(Role::PskPrevious);
            current
                .map(|current| Psk { current, previous })
                .ok_or_else(|| "it holds no pre-shared key".to_owned())
        });
        match psk {
            Ok(psk) => Opened {
                sealed: sealed.clone(),
                psk: Some(psk),
                problem: None,
            },
            Err(problem) => {
                let kept = if former.is_some() {
                    "; the key that came before stays in force"
                } else {
                    ""
                };
                Opened {
                    sealed: sealed.clone(),
                    psk: former,
                    problem: Some(format!(
                        "spec.sealedCredentials of tunnel {}: {problem}{kept}",
                        sealed.tunnel
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipsecmesh_crds::sealing::{Credentials as Secrets, Recipient};
    use zeroize::Zeroizing;

    use super::*;
    use crate::fixture::Rng;

    fn sealed(to: &Recipient, key_id: &str, secret: &str) -> SealedCredential {
        let binding = Binding {
            node: "a",
            node_uid: "1",
            tunnel: "storage",
            key_id,
        };
        let secrets = Secrets::default().with(Role::Psk, Zeroizing::new(secret.as_bytes().to_vec()));
        SealedCredential {
            tunnel: "storage".to_owned(),
            key_id: key_id.to_owned(),
            recipient: to.name(),
            ciphertext: to.seal(binding, &secrets, &mut Rng).expect("sealed"),
        }
    }

    fn node(sealed: Vec<SealedCredential>) -> OwnNode {
        OwnNode {
            object_uid: String::new(),
            node_uid: "1".to_owned(),
            generation: 1,
            certificate_generation: 0,
            sealed,
            status: None,
        }
    }

    fn current(credentials: &Credentials) -> Option<String> {
        let psk = credentials.psks().remove("storage")?;
        String::from_utf8(psk.current.to_vec()).ok()
    }

    #[test]
    fn what_was_sealed_to_this_node_is_opened_and_the_last_good_one_stays() {
        let (own, other) = (Opener::from_seed(&[1; 32]), Opener::from_seed(&[2; 32]));
        let key = own.recipient().clone();
        let mut credentials = Credentials::new(Arc::new(own));
        credentials.take("a", Some(&node(vec![sealed(&key, "rv-1", "first")])));
        assert_eq!(
            (current(&credentials).as_deref(), credentials.problem()),
            (Some("first"), None)
        );
        let foreign = sealed(other.recipient(), "rv-2", "second");
        credentials.take("a", Some(&node(vec![foreign])));
        assert_eq!(current(&credentials).as_deref(), Some("first"));
        let problem = credentials.problem().expect("a problem");
        assert!(
            problem.contains("seals it anew") && problem.contains("stays in force"),
            "{problem}"
        );
        let mut moved = sealed(&key, "rv-2", "second");
        moved.key_id = "rv-3".to_owned();
        credentials.take("a", Some(&node(vec![moved])));
        assert_eq!(current(&credentials).as_deref(), Some("first"));
        credentials.take("a", Some(&node(vec![sealed(&key, "rv-3", "third")])));
        assert_eq!(
            (current(&credentials).as_deref(), credentials.problem()),
            (Some("third"), None)
        );
        credentials.take("a", Some(&node(Vec::new())));
        assert_eq!((current(&credentials), credentials.problem()), (None, None));
        credentials.take("a", None);
        assert!(credentials.psks().is_empty());
    }
}
