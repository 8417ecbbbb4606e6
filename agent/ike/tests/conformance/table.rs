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
        "sim" | "vectors" => files(&tests.join(theme)),
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
        .collect()
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFORMANCE.md");
    let page = fs::read_to_string(page).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let named: Vec<(&str, &str)> = quoted.filter_map(|words| words.split_once("::")).collect();
    assert!(named.len() > 100, "the page names {} tests", named.len());
    for (theme, test) in named {
        let declared = format!("fn {test}(");
        let found = theme == "theme" || sources(theme).iter().any(|source| source.contains(&declared));
        assert!(
            found,
            "docs/CONFORMANCE.md names {theme}::{test}, which does not exist"
        );
    }
}
