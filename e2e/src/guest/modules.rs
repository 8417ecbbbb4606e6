//! Kernel modules: what to load in which order, from the kernel's own dependency list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};
use tracing::{debug, warn};

use super::boot::KERNEL_ROOT;

/// Folders with one subfolder per kernel release, below the root that the kernel came from.
const TREES: &[&str] = &["usr/lib/uml/modules", "usr/lib/modules"];

/// How often a module is tried.
const ATTEMPTS: usize = 3;

/// Loads `wanted` and what it needs, except `without` and what would need that.
pub(super) fn load(wanted: &[String], without: &[String]) -> io::Result<()> {
    let release = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    let tree = TREES
        .iter()
        .map(|tree| Path::new(KERNEL_ROOT).join(tree).join(&release))
        .find(|tree| tree.is_dir())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no modules of kernel {release} in {TREES:?}"),
            )
        })?;
    let index = Index::parse(&fs::read_to_string(tree.join("modules.dep"))?);
    let plan = index.plan(wanted, without);
    for name in &plan.missing {
        debug!(module = %name, "module is built in or unknown to this kernel");
    }
    for path in plan.load {
        if let Err(error) = insert(&tree.join(&path))? {
            warn!(module = %path.display(), %error, "module was not loaded");
        }
    }
    Ok(())
}

/// The self-test of `jitterentropy_rng` measures time and may fail on a busy host, so it is tried again.
fn insert(path: &Path) -> io::Result<Result<(), Errno>> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => return Ok(Ok(())),
            Err(error) => Err(error),
        };
    }
    Ok(result)
}

/// `modules.dep`: each module's file and the files it needs, the deepest last.
#[derive(Debug, Default)]
struct Index {
    modules: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    load: Vec<PathBuf>,
    missing: Vec<String>,
}

impl Index {
    fn parse(text: &str) -> Self {
        let modules = text.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(PathBuf::from).collect();
            Some((name_of(Path::new(path)), (PathBuf::from(path), needs)))
        });
        Self {
            modules: modules.collect(),
        }
    }

    fn plan(&self, wanted: &[String], without: &[String]) -> Plan {
        let without: BTreeSet<String> = without.iter().map(|name| normalised(name)).collect();
        let mut plan = Plan::default();
        let mut planned = BTreeSet::new();
        for name in wanted {
            let Some((path, needs)) = self.modules.get(&normalised(name)) else {
                plan.missing.push(name.clone());
                continue;
            };
            let chain: Vec<&PathBuf> = needs.iter().rev().chain([path]).collect();
            if chain.iter().any(|path| without.contains(&name_of(path))) {
                continue;
            }
            plan.load.extend(
                chain
                    .into_iter()
                    .filter(|path| planned.insert((*path).clone()))
                    .cloned(),
            );
        }
        plan
    }
}

fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    normalised(file.split('.').next().unwrap_or_default())
}

/// The kernel treats both signs alike.
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/esp4.ko: kernel/net/xfrm_algo.ko kernel/crypto/aead.ko\n\
                       kernel/net/xfrm_algo.ko:\nkernel/crypto/aead.ko:\n\
                       kernel/crypto/ghash-generic.ko: kernel/crypto/aead.ko\n";

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn planned(wanted: &[&str], without: &[&str]) -> Vec<String> {
        let plan = Index::parse(DEP).plan(&names(wanted), &names(without));
        plan.load.iter().map(|path| name_of(path)).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        assert_eq!(
            planned(&["esp4", "ghash_generic"], &[]),
            ["aead", "xfrm_algo", "esp4", "ghash_generic"]
        );
    }

    #[test]
    fn what_needs_a_module_that_stays_out_stays_out() {
        assert_eq!(
            planned(&["ghash-generic", "esp4"], &["xfrm-algo"]),
            ["aead", "ghash_generic"]
        );
    }
}
