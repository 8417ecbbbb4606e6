//! Programs that are built once per machine: the control plane, helm and kubeconform, named by the hash of their sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::command;
use crate::{
    error::{Context, Error, Result},
    report::Progress,
};

/// Kubernetes release of the control plane; `e2e/controlplane/go.mod` requires the same.
pub const KUBERNETES: &str = "v1.37.2";

/// The Go programs of a lab.
#[derive(Clone, Debug)]
pub struct Tools {
    /// etcd, the control plane and kubectl in one.
    pub controlplane: PathBuf,
    /// helm 4.
    pub helm: PathBuf,
    /// Validates manifests against schemas.
    pub kubeconform: PathBuf,
}

/// A program to find or to build.
struct Recipe {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    linker_flags: String,
    estimate: &'static str,
}

impl Tools {
    /// Finds the programs in the cache, builds what is missing.
    pub fn prepare(checkout: &Path, progress: &Progress) -> Result<Self> {
        let folder = folder()?;
        let version = "k8s.io/component-base/version";
        let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
        let controlplane = Recipe {
            name: "controlplane",
            module: "controlplane",
            package: ".",
            linker_flags: format!(
                "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
            ),
            estimate: "7 minutes on 2 cores, once per machine",
        };
        let tool = |name, package| Recipe {
            name,
            module: "tools",
            package,
            linker_flags: "-s -w".into(),
            estimate: "2 minutes on 2 cores, once per machine",
        };
        Ok(Self {
            controlplane: provide(checkout, &folder, &controlplane, progress)?,
            helm: provide(
                checkout,
                &folder,
                &tool("helm", "helm.sh/helm/v4/cmd/helm"),
                progress,
            )?,
            kubeconform: provide(
                checkout,
                &folder,
                &tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
                progress,
            )?,
        })
    }
}

/// `IPSECMESH_CACHE`, or `.cache/ipsecmesh` in the home folder.
pub fn folder() -> Result<PathBuf> {
    let folder = match (std::env::var_os("IPSECMESH_CACHE"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache/ipsecmesh"),
        (_, None) => {
            return Err(Error::observed(
                "neither IPSECMESH_CACHE nor HOME is set; set IPSECMESH_CACHE to a folder",
            ));
        }
    };
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn provide(checkout: &Path, cache: &Path, recipe: &Recipe, progress: &Progress) -> Result<PathBuf> {
    let module = checkout.join("e2e").join(recipe.module);
    let built = cache.join(format!("{}-{}", recipe.name, content_hash(&module, recipe)?));
    if built.exists() {
        return Ok(built);
    }
    let lock =
        fs::File::create(cache.join("lock")).context(|| format!("open {}", cache.join("lock").display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::observed(format!("lock {}: {errno}", cache.display())))?;
    if built.exists() {
        return Ok(built);
    }
    progress.step(&format!("build {} ({})", recipe.name, recipe.estimate), || {
        build(&module, &built, recipe)
    })?;
    Ok(built)
}

fn build(module: &Path, built: &Path, recipe: &Recipe) -> Result<()> {
    let draft = built.with_extension("new");
    let mut go = Command::new("go");
    go.current_dir(module)
        .env("CGO_ENABLED", "0")
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            "-ldflags",
            &recipe.linker_flags,
            "-o",
        ])
        .arg(&draft)
        .arg(recipe.package);
    command::finish(&mut go, None)?;
    fs::rename(&draft, built).context(|| format!("rename {}", draft.display()))
}

/// Over everything that decides what comes out: module files, sources, package and linker flags.
fn content_hash(module: &Path, recipe: &Recipe) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(module)
        .context(|| format!("read {}", module.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            matches!(
                path.extension().and_then(|extension| extension.to_str()),
                Some("go" | "mod" | "sum")
            )
        })
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).context(|| format!("read {}", file.display()))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(content.len().to_be_bytes());
        hash.update(content);
    }
    hash.update(recipe.package);
    hash.update(&recipe.linker_flags);
    Ok(short_hash(hash))
}

/// The first 12 hexadecimal digits.
pub(super) fn short_hash(hash: Sha256) -> String {
    use std::fmt::Write;
    hash.finalize()
        .iter()
        .take(6)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A short name for a path, stable across runs: what tells two checkouts apart.
pub fn path_hash(path: &Path) -> String {
    short_hash(Sha256::new_with_prefix(path.as_os_str().as_encoded_bytes()))
}
