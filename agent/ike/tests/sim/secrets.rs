//! No key in any `Debug` output: everything that the engine shows in a run is searched for everything that was a key.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::plan;
use crate::support::{cheap, psk};

/// Shorter values occur by chance.
const SHORTEST: usize = 8;

/// Where `text` shows one of the secrets, as hexadecimal digits or as a list of numbers.
pub(crate) fn leak(text: &str, secrets: &BTreeSet<Vec<u8>>) -> Option<String> {
    let secrets = secrets.iter().filter(|secret| secret.len() >= SHORTEST);
    secrets
        .flat_map(|secret| forms(&secret[..SHORTEST]))
        .find(|form| text.contains(form))
}

fn forms(bytes: &[u8]) -> [String; 4] {
    let mut lower = String::new();
    let mut upper = String::new();
    for byte in bytes {
        let _ = write!(lower, "{byte:02x}");
        let _ = write!(upper, "{byte:02X}");
    }
    let list = |text: String| text.trim_matches(['[', ']']).to_owned();
    [
        lower,
        upper,
        list(format!("{bytes:?}")),
        list(format!("{bytes:02x?}")),
    ]
}

#[test]
fn no_output_of_a_run_shows_a_key() {
    for seed in 0..40 {
        cheap::record();
        let mut world = plan::run(seed, true);
        let mut secrets = cheap::recorded();
        secrets.insert(b"a secret of both".to_vec());
        for node in &world.nodes {
            secrets.extend(node.kernel.sas.values().map(|sa| sa.key.clone()));
            let _ = write!(world.trace, "{:?} {:#?}", node.endpoint, psk(b"a secret of both"));
        }
        assert!(secrets.len() > 6, "seed {seed}: nothing was recorded");
        assert_eq!(leak(&world.trace, &secrets), None, "seed {seed}");
    }
}

#[test]
fn a_shown_key_is_found() {
    let key: Vec<u8> = (100..132).collect();
    let secrets = BTreeSet::from([key.clone()]);
    assert!(leak(&format!("Key({key:?})"), &secrets).is_some());
    assert!(leak(&format!("Key({key:02x?})"), &secrets).is_some());
    assert!(leak("SA 6465666768696a6b6c", &secrets).is_some());
    assert!(leak("SaKey(redacted)", &secrets).is_none());
}
