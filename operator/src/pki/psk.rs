//! Pre-shared keys out of Secrets of the operator's namespace: what of a Secret is good, and what its user has to mend.

use ipsecmesh_crds::PSK_SECRET_TYPE;
use ipsecmesh_crds::sealing::{Credentials, LONGEST_SECRET, Role, SHORTEST_PSK};
use ipsecmesh_crds::tunnel::SecretKeyRef;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use zeroize::Zeroizing;

use super::fingerprint;
use crate::verdict::Problem;

/// What is sealed to the nodes of one tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    /// The version of the Secret.
    pub(crate) key_id: String,
    /// Both generations.
    pub(crate) credentials: Credentials,
}

/// The pre-shared key that `reference` names, from `secret` as the watch knows it.
pub(crate) fn material(
    secret: Option<&Secret>,
    reference: &SecretKeyRef,
    namespace: &str,
) -> Result<Material, Problem> {
    let SecretKeyRef { name, key } = reference;
    let place = format!("spec.auth.psk.secretRef: Secret {name:?} in namespace {namespace}");
    let Some(secret) = secret else {
        let message = format!(
            "{place} is not there, or not of type {PSK_SECRET_TYPE} (others are not read); create it: kubectl -n {namespace} \
             create secret generic {name} --type={PSK_SECRET_TYPE} --from-file={key}=FILE"
        );
        return Err(Problem::new("SecretNotFound", message));
    };
    let current = secret_value(secret, key, &place)?.ok_or_else(|| {
        let keys: Vec<&str> = secret
            .data
            .iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .collect();
        let message = format!("{place} has no key {key:?}; it has {keys:?}: add it, or name another one");
        Problem::new("SecretKeyMissing", message)
    })?;
    let mut credentials = Credentials::default().with(Role::Psk, current);
    if let Some(previous) = secret_value(secret, &format!("{key}-previous"), &place)? {
        credentials = credentials.with(Role::PskPrevious, previous);
    }
    let version = secret.resource_version().unwrap_or_default();
    // One Secret may hold several keys, and another Secret may come under the same name.
    let origin = fingerprint(format!("{}\n{name}\n{key}", secret.uid().unwrap_or_default()).as_bytes());
    let origin: String = origin.chars().skip("sha256:".len()).take(8).collect();
    Ok(Material {
        key_id: format!("rv-{version}-{origin}"),
        credentials,
    })
}

/// One value without the end of its line, which `echo` and editors write and which is no part of the key.
fn secret_value(secret: &Secret, key: &str, place: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Problem> {
    let Some(value) = secret.data.iter().flatten().find(|(name, _)| *name == key) else {
        return Ok(None);
    };
    let bytes = value.1.0.as_slice();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.len() < SHORTEST_PSK {
        let message = format!(
            "{place}: {key} holds {} bytes, a pre-shared key needs at least {SHORTEST_PSK}: make one with `openssl rand -base64 48`",
            bytes.len()
        );
        return Err(Problem::new("WeakPSK", message));
    }
    if bytes.len() > LONGEST_SECRET {
        let message = format!(
            "{place}: {key} holds {} bytes, at most {LONGEST_SECRET} are taken: is it a file of another kind?",
            bytes.len()
        );
        return Err(Problem::new("InvalidPSK", message));
    }
    Ok(Some(Zeroizing::new(bytes.to_vec())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn secret(version: &str, entries: &[(&str, &str)]) -> Secret {
        let mut secret = Secret {
            data: Some(
                entries
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..Secret::default()
        };
        secret.metadata.uid = Some("u".to_owned());
        secret.metadata.resource_version = Some(version.to_owned());
        secret
    }

    fn reference(key: &str) -> SecretKeyRef {
        SecretKeyRef {
            name: "storage".to_owned(),
            key: key.to_owned(),
        }
    }

    fn read(secret: Option<&Secret>) -> Result<Material, Problem> {
        material(secret, &reference("psk"), "ipsecmesh-system")
    }

    #[test]
    fn both_generations_are_read_without_the_end_of_their_line() {
        let (long, longer) = ("a".repeat(32), "b".repeat(40));
        let with_line = format!("{long}\n");
        let found = secret("7", &[("psk", &with_line), ("psk-previous", &longer)]);
        let mut credentials = read(Some(&found)).expect("good").credentials;
        let text = |secret: Option<Zeroizing<Vec<u8>>>| secret.map(|secret| secret.to_vec());
        assert_eq!(text(credentials.take(Role::Psk)), Some(long.into_bytes()));
        assert_eq!(
            text(credentials.take(Role::PskPrevious)),
            Some(longer.into_bytes())
        );
    }

    #[test]
    fn the_version_changes_with_secret_and_key() {
        let long = "a".repeat(32);
        let entries = [("psk", long.as_str()), ("other", long.as_str())];
        let id = |version: &str, key: &str| {
            material(Some(&secret(version, &entries)), &reference(key), "ns")
                .expect("good")
                .key_id
        };
        assert_eq!(id("7", "psk"), id("7", "psk"));
        assert_ne!(id("7", "psk"), id("8", "psk"));
        assert_ne!(id("7", "psk"), id("7", "other"));
        assert!(id("7", "psk").starts_with("rv-7-") && id("7", "psk").len() <= 64);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_fix_and_without_the_key() {
        let long = "a".repeat(32);
        let huge = "a".repeat(1025);
        let short_before = [("psk", long.as_str()), ("psk-previous", "correct horse")];
        for (found, reason, says) in [
            (
                None,
                "SecretNotFound",
                "--type=ipsecmesh.io/psk --from-file=psk=FILE",
            ),
            (
                Some(secret("1", &[("key", &long)])),
                "SecretKeyMissing",
                "it has [\"key\"]",
            ),
            (
                Some(secret("1", &[("psk", "correct horse")])),
                "WeakPSK",
                "psk holds 13 bytes",
            ),
            (
                Some(secret("1", &short_before)),
                "WeakPSK",
                "psk-previous holds 13 bytes",
            ),
            (Some(secret("1", &[("psk", &huge)])), "InvalidPSK", "at most 1024"),
        ] {
            let problem = read(found.as_ref()).expect_err(reason);
            assert_eq!(problem.reason, reason);
            assert!(
                problem.message.starts_with("spec.auth.psk.secretRef: "),
                "{problem:?}"
            );
            assert!(
                problem.message.contains(says) && !problem.message.contains("horse"),
                "{problem:?}"
            );
        }
    }
}
