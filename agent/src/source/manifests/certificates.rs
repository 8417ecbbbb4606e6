//! Certificates in files beside the manifests: this host's of an authority, and the roots of peers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ipsecmesh_ike::crypto::Provider;
use zeroize::Zeroizing;

use crate::identity::host;
use crate::identity::keystore::NodeCertificate;
use crate::identity::trust::TrustBundle;
use crate::source::manifests::folder::Version;

/// Folder of the authorities in the folder of the manifests.
const CERTIFICATES: &str = "certificates";
/// Folder of the roots of peers, likewise.
const BUNDLES: &str = "bundles";
/// A chain or a bundle is a handful of certificates.
const LARGEST: u64 = 1 << 20;

/// This host's certificate, as its files last said it: they are parsed when they change, and judged at every look.
pub(super) struct Own {
    provider: &'static Provider,
    seen: Option<(String, [Version; 2])>,
    said: Result<Arc<NodeCertificate>, String>,
}

impl Own {
    /// Nothing was read yet.
    pub(super) fn new(provider: &'static Provider) -> Self {
        Self {
            provider,
            seen: None,
            said: Err("not read yet".to_owned()),
        }
    }

    /// The certificate of `authority` with its key; `now` in seconds since 1970.
    pub(super) fn look(
        &mut self,
        folder: &Path,
        authority: &str,
        now: u64,
    ) -> Result<Arc<NodeCertificate>, String> {
        plain(authority, CERTIFICATES)?;
        let shown = format!("{CERTIFICATES}/{authority}");
        let files = folder.join(CERTIFICATES).join(authority);
        let version = |name: &str| {
            let metadata =
                fs::metadata(files.join(name)).map_err(|error| format!("{shown}/{name}: {error}"))?;
            Ok::<_, String>(Version::of(&metadata))
        };
        let seen = (authority.to_owned(), [version("tls.crt")?, version("tls.key")?]);
        if self.seen.as_ref() != Some(&seen) {
            self.said = own(&files, &shown, self.provider).map(Arc::new);
            self.seen = Some(seen);
        }
        let certificate = self.said.clone()?;
        host::check_time(&certificate.leaf, now).map_err(|problem| format!("{shown}/{problem}"))?;
        Ok(certificate)
    }
}

fn own(files: &Path, shown: &str, provider: &'static Provider) -> Result<NodeCertificate, String> {
    let chain = read(&files.join("tls.crt"), &format!("{shown}/tls.crt"))?;
    let key_file = files.join("tls.key");
    let mode = fs::metadata(&key_file).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown}/tls.key has mode {mode:03o}, and others could read it: chmod 600"
        ));
    }
    let key = Zeroizing::new(read(&key_file, &format!("{shown}/tls.key"))?);
    host::certificate(&chain, &key, provider).map_err(|problem| format!("{shown}/{problem}"))
}

/// The roots of a peer in PEM.
pub(super) fn bundle(folder: &Path, name: &str, key: &str) -> Result<String, String> {
    plain(name, BUNDLES)?;
    plain(key, BUNDLES)?;
    let shown = format!("{BUNDLES}/{name}/{key}");
    parsed(&folder.join(BUNDLES).join(name).join(key), &shown)
}

/// The roots of `authority` in PEM.
pub(super) fn roots(folder: &Path, authority: &str) -> Result<String, String> {
    plain(authority, CERTIFICATES)?;
    let shown = format!("{CERTIFICATES}/{authority}/ca.crt");
    parsed(&folder.join(CERTIFICATES).join(authority).join("ca.crt"), &shown)
}

/// Roots that can be used.
fn parsed(path: &Path, shown: &str) -> Result<String, String> {
    let pem = read(path, shown).map_err(|problem| format!("{problem}: put the roots there, in PEM"))?;
    TrustBundle::parse(&pem).map_err(|error| format!("{shown}: {error}"))?;
    Ok(pem)
}

/// One path component: a reference leads nowhere else.
pub(super) fn plain(part: &str, parent: &str) -> Result<(), String> {
    if part.contains('/') || part.starts_with('.') {
        return Err(format!(
            "{part:?} must be the plain name of a folder or file under {parent}"
        ));
    }
    Ok(())
}

fn read(path: &Path, shown: &str) -> Result<String, String> {
    let length = fs::metadata(path)
        .map_err(|error| format!("{shown}: {error}"))?
        .len();
    if length > LARGEST {
        return Err(format!("{shown}: {length} bytes are too many: at most {LARGEST}"));
    }
    fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))
}
