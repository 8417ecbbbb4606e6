//! Pre-shared keys in files beside the manifests: `secrets/<name>/<key>` and, during a change, `<key>-previous`. Nobody
//! but their owner may read them, and a short one is no key.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ipsecmesh_crds::tunnel::SecretKeyRef;
use zeroize::Zeroizing;

use crate::model::Psk;
use crate::source::manifests::certificates::plain;

/// Folder of the secrets in the folder of the manifests.
const SECRETS: &str = "secrets";
/// A pre-shared key has no structure that a key derivation could stretch (RFC 7296 §2.15): as much as a hash's output.
const SHORTEST: usize = 32;
const LONGEST: u64 = 4096;
/// So that no part of a key is left behind by a vector that grows.
const ROOM: usize = 4096 + 1;

/// Both generations of a key.
pub(super) fn psk(folder: &Path, reference: &SecretKeyRef) -> Result<Psk, String> {
    let current = read(folder, reference, "")?.ok_or_else(|| {
        format!(
            "{SECRETS}/{}/{} does not exist: write the key into it, and chmod 600",
            reference.name, reference.key
        )
    })?;
    let previous = read(folder, reference, "-previous")?;
    Ok(Psk { current, previous })
}

/// The keys of all tunnels that want one for a field; what is worse than what stood there before changes nothing.
pub(super) fn refresh(
    folder: &Path,
    field: &str,
    wanted: &[(String, SecretKeyRef)],
    known: &BTreeMap<String, Psk>,
) -> (BTreeMap<String, Psk>, BTreeMap<String, String>) {
    let mut psks = BTreeMap::new();
    let mut problems = BTreeMap::new();
    for (tunnel, reference) in wanted {
        match psk(folder, reference) {
            Ok(psk) => {
                psks.insert(tunnel.clone(), psk);
            }
            Err(problem) => {
                let before = known.get(tunnel).cloned();
                let kept = if before.is_some() {
                    "; the key that was read before stays in force"
                } else {
                    ""
                };
                problems.insert(tunnel.clone(), format!("{field}.secretRef: {problem}{kept}"));
                psks.extend(before.map(|psk| (tunnel.clone(), psk)));
            }
        }
    }
    (psks, problems)
}

fn read(folder: &Path, reference: &SecretKeyRef, suffix: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    plain(&reference.name, SECRETS)?;
    plain(&reference.key, SECRETS)?;
    let shown = format!("{SECRETS}/{}/{}{suffix}", reference.name, reference.key);
    let path = folder
        .join(SECRETS)
        .join(&reference.name)
        .join(format!("{}{suffix}", reference.key));
    let named = |error: io::Error| format!("{shown}: {error}");
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(error)),
    };
    let metadata = file.metadata().map_err(named)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} has mode {mode:03o}, and others could read it: chmod 600"
        ));
    }
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(format!("{shown} must be a file of at most {LONGEST} bytes"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(ROOM));
    file.take(LONGEST).read_to_end(&mut content).map_err(named)?;
    // The end of the line that editors and `echo` write is no part of the key.
    if content.last() == Some(&b'\n') {
        content.pop();
    }
    if content.len() < SHORTEST {
        return Err(format!(
            "{shown} holds {} bytes, a pre-shared key needs at least {SHORTEST}: make one with `openssl rand -base64 48`",
            content.len()
        ));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secrets/storage");
        fs::create_dir_all(&secret).expect("made");
        (folder, secret)
    }

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn reference() -> SecretKeyRef {
        SecretKeyRef {
            name: "storage".to_owned(),
            key: "psk".to_owned(),
        }
    }

    #[test]
    fn a_key_comes_in_two_generations_without_the_end_of_its_line() {
        let (folder, secret) = folder();
        write(&secret.join("psk"), &format!("{}\n", "a".repeat(32)), 0o600);
        let read = psk(folder.path(), &reference()).expect("a key");
        assert_eq!((read.current.len(), read.previous), (32, None));
        write(&secret.join("psk-previous"), &"b".repeat(40), 0o400);
        let read = psk(folder.path(), &reference()).expect("a key");
        assert_eq!(read.previous.map(|key| key.len()), Some(40));
    }

    #[test]
    fn what_is_no_good_key_is_refused_with_the_fix_and_without_the_key() {
        let (folder, secret) = folder();
        let said = |reference: &SecretKeyRef| psk(folder.path(), reference).expect_err("refused");
        assert!(said(&reference()).contains("secrets/storage/psk does not exist"));
        write(&secret.join("psk"), "correct horse", 0o600);
        let short = said(&reference());
        assert!(
            short.contains("holds 13 bytes") && short.contains("at least 32"),
            "{short}"
        );
        assert!(!short.contains("horse"), "{short}");
        write(&secret.join("psk"), &"a".repeat(32), 0o640);
        assert!(said(&reference()).contains("has mode 640"));
        let mut elsewhere = reference();
        elsewhere.name = "../../etc".to_owned();
        assert!(said(&elsewhere).contains("plain name"));
    }

    #[test]
    fn a_key_that_gets_worse_stays_as_it_was() {
        let (folder, secret) = folder();
        write(&secret.join("psk"), &"a".repeat(32), 0o600);
        let wanted = [("t".to_owned(), reference())];
        let (good, problems) = refresh(folder.path(), "spec.auth.psk", &wanted, &BTreeMap::new());
        assert!(problems.is_empty());
        write(&secret.join("psk"), "half", 0o600);
        let (kept, problems) = refresh(folder.path(), "spec.auth.psk", &wanted, &good);
        assert_eq!(kept, good);
        assert!(problems["t"].contains("stays in force"), "{problems:?}");
    }
}
