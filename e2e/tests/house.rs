//! The house itself: which crate may link what, how long a file may be, and what every file owes its reader.
//!
//! The walls of `docs/ARCHITECTURE.md` hold because this test fails when a manifest opens a door that is not in the plan.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that the engine may link. Whoever adds a line here explains in `docs/ARCHITECTURE.md` why it needs no
/// clock, no socket and no randomness.
const IKE_MAY_LINK: &[&str] = &[
    "ipsecmesh-ike",
    "proc-macro2",
    "quote",
    "subtle",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "zeroize",
    "zeroize_derive",
];

/// Per crate: what must not be reachable from it, by name or by prefix with a star.
const WALLS: &[(&str, &[&str])] = &[
    (
        "ipsecmesh-crds",
        &[
            "tokio",
            "hyper",
            "rustls",
            "kube-client",
            "netlink-*",
            "aws-lc-*",
            "ipsecmesh-*",
        ],
    ),
    (
        "ipsecmesh-crypto",
        &[
            "tokio",
            "kube*",
            "netlink-*",
            "socket2",
            "hyper",
            "axum",
            "rustls",
            "ipsecmesh-crds",
            "ipsecmesh-xfrm",
        ],
    ),
    (
        "ipsecmesh-dataplane",
        &[
            "kube*",
            "k8s-openapi",
            "hyper",
            "axum",
            "rustls",
            "aws-lc-*",
            "ipsecmesh-crds",
            "ipsecmesh-crypto",
        ],
    ),
    (
        "ipsecmesh-operator",
        &[
            "netlink-*",
            "rtnetlink",
            "ipsecmesh-ike",
            "ipsecmesh-crypto",
            "ipsecmesh-xfrm",
            "ipsecmesh-dataplane",
        ],
    ),
    (
        "ipsecmesh-xfrm",
        &[
            "kube*",
            "k8s-openapi",
            "hyper",
            "axum",
            "rustls",
            "aws-lc-*",
            "ipsecmesh-*",
        ],
    ),
];

const MAX_LINES: usize = 600;

#[test]
fn the_engine_links_nothing_but_its_list() {
    let linked = linked_by("ipsecmesh-ike");
    let extra: Vec<_> = linked
        .iter()
        .filter(|name| !IKE_MAY_LINK.contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "ipsecmesh-ike must not link {extra:?}");
}

#[test]
fn walls_between_crates_hold() {
    for (crate_name, forbidden) in WALLS {
        let broken: Vec<_> = linked_by(crate_name)
            .into_iter()
            .filter(|name| name != crate_name && forbidden.iter().any(|pattern| matches(pattern, name)))
            .collect();
        assert!(broken.is_empty(), "{crate_name} must not link {broken:?}");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut faults = Vec::new();
    for file in rust_files() {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        if !text.trim_start().starts_with("//!") {
            faults.push(format!("{name}: does not open with //!"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{name}: {lines} lines, at most {MAX_LINES}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_unfinished_is_compiled_in() {
    let unfinished = ["todo!(", "unimplemented!(", "dbg!("];
    let faults: Vec<_> = rust_files()
        .into_iter()
        .filter(|file| !file.ends_with("tests/house.rs"))
        .filter_map(|file| {
            let text = std::fs::read_to_string(&file).ok()?;
            let found = unfinished.iter().find(|word| text.contains(**word))?;
            Some(format!("{}: {found}", file.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

fn linked_by(crate_name: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            crate_name,
        ])
        .current_dir(root())
        .output()
        .expect("cargo tree starts");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn rust_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git starts");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| root().join(line))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}
