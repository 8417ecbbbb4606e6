//! Revocation lists beside the roots that they belong to: `crl.pem` or `crl.der`, read again when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::identity::revocation::{Revocation, RevocationLists};
use crate::source::manifests::folder::Version;

/// A list of some hundred thousand certificates.
const LARGEST: u64 = 16 << 20;
const NAMES: [&str; 2] = ["crl.pem", "crl.der"];

/// What the files last said, by the folder that they are in.
#[derive(Default)]
pub(super) struct Revocations {
    files: BTreeMap<String, File>,
}

#[derive(Default)]
struct File {
    version: Option<(&'static str, Version)>,
    said: Option<Arc<Revocation>>,
    problem: Option<String>,
    /// It was not there at the last look.
    missing: bool,
}

impl Revocations {
    /// The lists of the wanted folders under `root`, and what people have to know about them. What is worse than what
    /// stood there before changes nothing.
    pub(super) fn look(
        &mut self,
        root: &Path,
        wanted: &BTreeSet<String>,
        now: u64,
    ) -> (BTreeMap<String, Arc<Revocation>>, BTreeMap<String, String>) {
        self.files.retain(|folder, _| wanted.contains(folder));
        let mut lists = BTreeMap::new();
        let mut problems = BTreeMap::new();
        for folder in wanted {
            let file = self.files.entry(folder.clone()).or_default();
            file.look(root, folder);
            let overdue = match file.said.as_deref() {
                Some(Revocation::Lists(lists)) => lists.overdue(now),
                Some(Revocation::Unreadable(_)) | None => None,
            };
            let problem = file.problem.iter().cloned().chain(overdue);
            let problem: Vec<String> = problem.collect();
            if !problem.is_empty() {
                problems.insert(folder.clone(), problem.join("\n"));
            }
            lists.extend(file.said.clone().map(|said| (folder.clone(), said)));
        }
        (lists, problems)
    }
}

impl File {
    fn look(&mut self, root: &Path, folder: &str) {
        let found = NAMES.into_iter().find_map(|name| {
            let metadata = fs::metadata(root.join(folder).join(name)).ok()?;
            Some((name, Version::of(&metadata), metadata.len()))
        });
        let Some((name, version, length)) = found else {
            // Some tools take a file away before they put the next in its place: gone is what is gone at two looks.
            if std::mem::replace(&mut self.missing, true) {
                *self = Self {
                    missing: true,
                    ..Self::default()
                };
            }
            return;
        };
        self.missing = false;
        if self.version == Some((name, version)) {
            return;
        }
        self.version = Some((name, version));
        let shown = format!("{folder}/{name}");
        match read(&root.join(folder).join(name), &shown, length) {
            Ok(lists) => {
                self.said = Some(Arc::new(Revocation::Lists(lists)));
                self.problem = None;
            }
            Err(problem) => {
                let before = matches!(self.said.as_deref(), Some(Revocation::Lists(_)));
                if before {
                    self.problem = Some(format!("{problem}; the list that was read before stays in force"));
                } else {
                    self.problem = Some(format!(
                        "{problem}; nobody's certificate of this authority is accepted until it is mended or taken away"
                    ));
                    self.said = Some(Arc::new(Revocation::Unreadable(problem)));
                }
            }
        }
    }
}

fn read(path: &Path, shown: &str, length: u64) -> Result<RevocationLists, String> {
    if length > LARGEST {
        return Err(format!("{shown}: {length} bytes are too many: at most {LARGEST}"));
    }
    let content = fs::read(path).map_err(|error: io::Error| format!("{shown}: {error}"))?;
    RevocationLists::parse(shown, &content)
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::identity::fixture::{Authority, NOW, Request};

    const FOLDER: &str = "certificates/default";

    struct Case {
        root: tempfile::TempDir,
        files: Revocations,
    }

    impl Case {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(root.path().join(FOLDER)).expect("made");
            Self {
                root,
                files: Revocations::default(),
            }
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.root.path().join(FOLDER).join(name), content).expect("written");
        }

        fn look(&mut self, now: u64) -> (Option<Arc<Revocation>>, Option<String>) {
            let wanted = BTreeSet::from([FOLDER.to_owned()]);
            let (mut lists, mut problems) = self.files.look(self.root.path(), &wanted, now);
            (lists.remove(FOLDER), problems.remove(FOLDER))
        }
    }

    #[test]
    fn without_a_file_nobody_is_revoked_and_a_new_one_is_seen() {
        let mut case = Case::new();
        assert_eq!(case.look(NOW), (None, None));
        let authority = Authority::new();
        case.write("crl.pem", &authority.revoke(&[], NOW + 1000));
        let (first, problem) = case.look(NOW);
        assert!(first.is_some() && problem.is_none(), "{problem:?}");
        let key = KeyPair::generate().expect("a key");
        let certificate = authority.issue(&key, Request::default());
        case.write("crl.pem", &authority.revoke(&[&certificate], NOW + 1000));
        let (second, _) = case.look(NOW);
        assert_ne!(first, second);
        // An overdue list counts, and people are told.
        let (kept, problem) = case.look(NOW + 1000);
        assert_eq!(kept, second);
        let problem = problem.expect("overdue");
        assert!(
            problem.starts_with("certificates/default/crl.pem: the next list was due"),
            "{problem}"
        );
    }

    #[test]
    fn a_broken_file_keeps_what_was_there_and_accepts_nobody_where_nothing_was() {
        let mut case = Case::new();
        case.write("crl.pem", "nonsense");
        let (said, problem) = case.look(NOW);
        assert!(matches!(said.as_deref(), Some(Revocation::Unreadable(_))));
        let problem = problem.expect("broken");
        assert!(
            problem.contains("nobody's certificate of this authority is accepted"),
            "{problem}"
        );
        case.write("crl.pem", &Authority::new().revoke(&[], NOW + 1000));
        let (good, problem) = case.look(NOW);
        assert_eq!(problem, None);
        case.write("crl.pem", "half");
        let (kept, problem) = case.look(NOW);
        assert_eq!(kept, good);
        assert!(problem.is_some_and(|problem| problem.contains("stays in force")));
    }

    #[test]
    fn a_file_is_gone_when_two_looks_miss_it() {
        let mut case = Case::new();
        case.write("crl.pem", &Authority::new().revoke(&[], NOW + 1000));
        let good = case.look(NOW);
        fs::remove_file(case.root.path().join(FOLDER).join("crl.pem")).expect("removed");
        assert_eq!(case.look(NOW), good);
        assert_eq!(case.look(NOW), (None, None));
    }
}
