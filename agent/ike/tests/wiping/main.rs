//! Keys are wiped: two ends with real cryptography live a whole life in this process, and after it the process's own
//! memory holds none of their keys. Before it does, which shows that the search finds what is there.
//!
//! A binary of its own with one test: keys of another one would be found as well.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod ends;
mod record;
mod scan;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use ends::Ends;
use ipsecmesh_crypto::PROVIDERS;
use ipsecmesh_ike::{ChildId, Command};
use record::Record;
use scan::Scanner;

#[test]
fn no_key_outlives_its_sa_in_the_memory_of_the_process() {
    for provider in PROVIDERS {
        for method in ends::METHODS {
            let record: &'static Record = Box::leak(Box::new(Record::default()));
            let mut scanner = Scanner::new(record);
            let mut ends = Ends::new(record, record.watched(provider), method);
            let name = format!("{}, {method:?}", provider.name);

            // An SA that the data plane has not taken yet.
            ends.hold = true;
            ends.run(1);
            let alive = kinds(&mut scanner);
            for kind in ["cipher key of a CHILD SA", "PSK", "PPK", "PRF key", "cipher key"] {
                assert!(
                    alive.contains(kind),
                    "{name}: a living {kind} is not found: {alive:?}"
                );
            }

            // Rekeys of everything; then what is left is what the IKE SA and the configuration need.
            ends.hold = false;
            ends.run(5);
            ends.everything(|peer| Command::RekeyIke { peer });
            ends.run(5);
            ends.everything(|peer| Command::RekeyChild {
                peer,
                child: ChildId(1),
            });
            ends.run(60);
            assert!(ends.installed >= 8, "{name}: {} halves", ends.installed);
            let alive = kinds(&mut scanner);
            let needed = BTreeSet::from(["PSK", "PPK", "PRF key", "cipher key"]);
            assert_eq!(alive, needed, "{name}, while the SAs stand");

            // The end.
            ends.everything(|peer| Command::RemovePeer { peer });
            ends.run(60);
            ends.assert_gone();
            let left = scanner.scan();
            assert!(
                left.is_empty(),
                "{name}: {} pieces of keys are left, the first {:?}",
                left.len(),
                &left[..left.len().min(8)]
            );
        }
    }
}

fn kinds(scanner: &mut Scanner) -> BTreeSet<&'static str> {
    scanner.scan().into_iter().map(|found| found.kind).collect()
}
