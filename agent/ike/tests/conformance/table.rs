//! `docs/CONFORMANCE.md` names only tests that exist.

use std::fs;
use std::path::Path;

/// The sources of a theme.
fn sources(theme: &str) -> Vec<String> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = crate_folder.join("tests");
    let places = match theme {
        "codec" | "truncation" => vec![tests.join(format!("{theme}.rs"))],
        "crypto" => files(&crate_folder.join("../crypto/src/tests")),
        "dataplane" => {
            let data_plane = crate_folder.join("../dataplane");
            let mut places = files(&data_plane.join("tests/suite"));
            places.push(data_plane.join("src/kernel/convert_tests.rs"));
            places
        }
        "mesh" | "interop" => files(&crate_folder.join("../../e2e/tests").join(theme)),
        "agent_engine" => vec![crate_folder.join("../src/engine/tests.rs")],
        "agent_identity" => {
            let room = crate_folder.join("../src/identity");
            let of_files =
                ["external", "host", "revocation", "verifier"].map(|file| room.join(file).join("tests.rs"));
            files(&room).into_iter().chain(of_files).collect()
        }
        "manifests" => files(&crate_folder.join("../src/source/manifests")),
        "sim" | "vectors" | "wiping" => files(&tests.join(theme)),
        theme => vec![tests.join("conformance").join(format!("{theme}.rs"))],
    };
    places
        .iter()
        .map(|place| fs::read_to_string(place).unwrap_or_default())
        .collect()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFORMANCE.md");
    fs::read_to_string(page).unwrap()
}

/// The tests that a piece of the page names.
fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|words| words.split_once("::")).collect()
}

/// Whether a test is declared. A row of the interoperability matrix is a name in a table.
fn declared(source: &str, theme: &str, test: &str) -> bool {
    let function = ["(", "<"].map(|end| format!("fn {test}{end}"));
    let row = theme == "interop" && source.contains(&format!("\"{test}\""));
    function.iter().any(|start| source.contains(start)) || row
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = page();
    let named = named(&page);
    assert!(named.len() > 100, "the page names {} tests", named.len());
    for (theme, test) in named {
        let found = theme == "theme" || sources(theme).iter().any(|source| declared(source, theme, test));
        assert!(
            found,
            "docs/CONFORMANCE.md names {theme}::{test}, which does not exist"
        );
    }
}

#[test]
fn every_case_and_every_mistake_has_a_test_that_runs() {
    let page = page();
    let numbers = (1..=40).map(|number| number.to_string());
    for case in numbers.chain((1..=15).map(|number| format!("R{number}"))) {
        let row = page.lines().find(|line| line.starts_with(&format!("| {case} |")));
        let tests = named(row.unwrap_or_default());
        assert!(!tests.is_empty(), "docs/CONFORMANCE.md has no test for {case}");
        for (theme, test) in tests {
            let ignored = sources(theme).iter().any(|source| {
                let before = source.split(&format!("fn {test}(")).next().unwrap_or_default();
                declared(source, theme, test)
                    && before
                        .trim_end()
                        .lines()
                        .rev()
                        .take(3)
                        .any(|l| l.contains("#[ignore"))
            });
            assert!(!ignored, "case {case}: {theme}::{test} is ignored");
        }
    }
}
