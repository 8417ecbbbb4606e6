//! The files of a folder as documents. A file that is half written, or gone for a moment, takes nothing away: what it
//! held stays until something better stands there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipsecmesh_crds::check::Checker;
use serde::Deserialize as _;
use serde_json::Value;

use crate::source::manifests::locate;

/// A file is a handful of objects: one that is larger is a mistake.
const LARGEST_FILE: u64 = 4 << 20;
const MOST_FILES: usize = 1024;
const MOST_DOCUMENTS: usize = 16_384;

/// One object with the place where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Name of its file.
    file: String,
    /// Everything that the file says.
    text: Arc<str>,
    /// Which of the file's documents it is, from 0.
    index: usize,
    /// Its kind.
    pub(super) kind: String,
    /// Its name.
    pub(super) name: String,
    /// The object, checked and with its defaults.
    pub(super) object: Value,
}

impl Document {
    /// Where a field stands, or the object itself: `file.yaml:12`.
    pub(super) fn place(&self, field: &str) -> String {
        place(&self.file, &self.text, self.index, field)
    }
}

/// `file.yaml:12`.
fn place(file: &str, text: &str, index: usize, field: &str) -> String {
    match locate::line(text, index, field) {
        Some(line) => format!("{file}:{line}"),
        None => file.to_owned(),
    }
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    /// What a file system says of a file.
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a file last said.
#[derive(Clone, Debug, Default)]
struct File {
    version: Option<Version>,
    documents: Vec<Document>,
    problem: Option<String>,
    /// It was not there at the last look.
    missing: bool,
    /// It lacked objects at the last look.
    shrunk: bool,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    checker: Checker,
    files: BTreeMap<String, File>,
    problem: Option<String>,
}

impl Folder {
    /// A folder that nobody has looked into.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            checker: Checker::default(),
            files: BTreeMap::new(),
            problem: None,
        }
    }

    /// Looks for changes; says whether there were any.
    pub(super) fn look(&mut self) -> bool {
        let names = match names(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let problem = format!("{error}; what it held before stays in force");
                return self.problem.replace(problem.clone()) != Some(problem);
            }
        };
        let mut changed = self.problem.take().is_some();
        for (name, version) in &names {
            let file = self.files.entry(name.clone()).or_default();
            file.missing = false;
            if file.version.replace(*version) == Some(*version) && !file.shrunk {
                continue;
            }
            changed = true;
            let read = read(&self.path.join(name), version.length)
                .map_err(|error| error.to_string())
                .and_then(|text| documents(&self.checker, name, &text, &file.documents));
            match read {
                // Objects that are missing may not be written yet: they count as gone when the next look misses them too.
                Ok(documents) if lacks_any(&documents, &file.documents) && !file.shrunk => {
                    file.shrunk = true;
                }
                Ok(documents) => {
                    file.documents = documents;
                    (file.problem, file.shrunk) = (None, false);
                }
                Err(problem) => (file.problem, file.shrunk) = (Some(problem), false),
            }
        }
        changed | self.drop_missing(&names)
    }

    /// A file that is not there at two looks is gone: some editors take one away before they put the next in its place.
    fn drop_missing(&mut self, names: &BTreeMap<String, Version>) -> bool {
        let before = self.files.len();
        self.files
            .retain(|name, file| names.contains_key(name) || !std::mem::replace(&mut file.missing, true));
        self.files.len() != before
    }

    /// All objects, in the order of files; of two with one kind and name the first counts.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Document> {
        self.files.values().flat_map(|file| &file.documents)
    }

    /// What cannot be read, by file.
    pub(super) fn problems(&self) -> impl Iterator<Item = (String, String)> {
        let kept = |file: &File| {
            if file.documents.is_empty() {
                ""
            } else {
                "; what the file held before stays in force"
            }
        };
        let files = self.files.iter().filter_map(move |(name, file)| {
            let problem = file.problem.as_ref()?;
            Some((name.clone(), format!("{problem}{}", kept(file))))
        });
        let folder = self.problem.clone();
        files.chain(folder.map(|problem| (self.path.display().to_string(), problem)))
    }
}

fn lacks_any(documents: &[Document], before: &[Document]) -> bool {
    let there = |old: &Document| {
        documents
            .iter()
            .any(|new| (&new.kind, &new.name) == (&old.kind, &old.name))
    };
    !before.iter().all(there)
}

/// The manifests in `folder` with their versions.
fn names(folder: &Path) -> io::Result<BTreeMap<String, Version>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = Path::new(&name);
        let manifest = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        // Editors keep their copies under such names.
        if !manifest || name.starts_with('.') {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => {
                names.insert(name, Version::of(&metadata));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
        if names.len() > MOST_FILES {
            return Err(io::Error::other(format!("more than {MOST_FILES} manifests")));
        }
    }
    Ok(names)
}

fn read(path: &Path, length: u64) -> io::Result<String> {
    if length > LARGEST_FILE {
        return Err(io::Error::other(format!(
            "{length} bytes are too many for a manifest: at most {LARGEST_FILE}"
        )));
    }
    fs::read_to_string(path)
}

/// The documents of one file; the first fault of any refuses the whole file, so that no half of a change comes into force.
fn documents(
    checker: &Checker,
    file: &str,
    text: &str,
    before: &[Document],
) -> Result<Vec<Document>, String> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    let shared: Arc<str> = text.into();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        if index >= MOST_DOCUMENTS {
            return Err(format!(
                "{file}: more than {MOST_DOCUMENTS} documents: spread them over several files"
            ));
        }
        let value = match Value::deserialize(document) {
            Ok(value) => value,
            // Nothing after a fault of the syntax can be told apart.
            Err(error) => {
                let line = error.location().map(|location| format!(":{}", location.line()));
                problems.push(format!("{file}{}: not YAML: {error}", line.unwrap_or_default()));
                break;
            }
        };
        // An empty document, such as what follows a last `---`.
        if value.is_null() {
            continue;
        }
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = before.iter().find(|old| old.kind == kind && old.name == name);
        match checker.check(&kind, &value, old.map(|old| &old.object)) {
            Ok(object) => documents.push(Document {
                file: file.to_owned(),
                text: Arc::clone(&shared),
                index,
                kind,
                name,
                object,
            }),
            Err(refusals) => problems.extend(refusals.iter().map(|refusal| {
                let place = place(file, text, index, &refusal.field);
                format!("{place}: {kind} {name:?}: {refusal}")
            })),
        }
    }
    if problems.is_empty() {
        Ok(documents)
    } else {
        Err(problems.join("\n"))
    }
}
