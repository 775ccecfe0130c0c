//! All cases together with the anchors that they name: those that this crate carries, or those of a
//! folder. Never leaves a file out silently.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::case::{Case, CaseError, MAX_CASE_BYTES, is_anchor_name, is_case_name};
use crate::embedded;

/// The groups, in the order in which a verifier meets what they are about.
pub const GROUPS: [&str; 7] = [
    "structure",
    "cbor",
    "cose",
    "chain",
    "time",
    "content",
    "policy",
];

/// The longest certificate in PEM that is read.
const MAX_ANCHOR_BYTES: usize = 64 * 1024;

/// Cases and anchors.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// By group, and by name within it.
    pub cases: Vec<Case>,
    /// PEM, by name.
    pub anchors: BTreeMap<String, String>,
}

/// Why a corpus cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A file or folder could not be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is no case.
    #[error("{path}: {source}")]
    Case {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: CaseError,
    },
    /// A file whose name is not that of its case.
    #[error("{path} holds the case {name:?}; it must be the file {name}.case")]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// What it says that it is.
        name: String,
    },
    /// A file that has no place in a corpus.
    #[error("{path} is not part of a corpus: {expected}")]
    Stray {
        /// Which.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// A case names an anchor that is not there.
    #[error("{case} names the anchor {anchor:?}, and there is no anchors/{anchor}.pem")]
    NoAnchor {
        /// The case.
        case: String,
        /// The anchor.
        anchor: String,
    },
    /// No case at all.
    #[error(
        "{path} holds no cases; a corpus is a folder with `cases/GROUP/NAME.case` and `anchors`"
    )]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

impl Corpus {
    /// The corpus that this crate was built with.
    pub fn embedded() -> Result<Corpus, CorpusError> {
        let cases = embedded::CASES
            .iter()
            .map(|(name, text)| read_case(Path::new(name), name, text.as_bytes()))
            .collect::<Result<_, _>>()?;
        let anchors = embedded::ANCHORS
            .iter()
            .map(|(name, pem)| ((*name).to_owned(), (*pem).to_owned()))
            .collect();
        Corpus { cases, anchors }.checked(Path::new("the embedded corpus"))
    }

    /// The corpus in this folder.
    pub fn open(dir: &Path) -> Result<Corpus, CorpusError> {
        let mut cases = Vec::new();
        let groups = dir.join("cases");
        for group in entries(&groups)? {
            for path in entries(&group)? {
                let name = stem(&path, "case")
                    .zip(group.file_name().and_then(|name| name.to_str()))
                    .map(|(case, group)| format!("{group}/{case}"))
                    .filter(|name| is_case_name(name))
                    .ok_or_else(|| CorpusError::Stray {
                        path: path.clone(),
                        expected: "cases are GROUP/NAME.case, in lower-case letters, digits and hyphens",
                    })?;
                cases.push(read_case(&path, &name, &read(&path, MAX_CASE_BYTES)?)?);
            }
        }
        let mut anchors = BTreeMap::new();
        for path in entries(&dir.join("anchors"))? {
            let name = stem(&path, "pem")
                .filter(|name| is_anchor_name(name))
                .ok_or_else(|| CorpusError::Stray {
                    path: path.clone(),
                    expected: "anchors are NAME.pem, in lower-case letters, digits and hyphens",
                })?;
            let pem = String::from_utf8(read(&path, MAX_ANCHOR_BYTES)?).map_err(|_| {
                CorpusError::Stray {
                    path: path.clone(),
                    expected: "an anchor is one certificate in PEM",
                }
            })?;
            anchors.insert(name.to_owned(), pem);
        }
        Corpus { cases, anchors }.checked(dir)
    }

    fn checked(mut self, path: &Path) -> Result<Corpus, CorpusError> {
        if self.cases.is_empty() {
            return Err(CorpusError::Empty {
                path: path.to_owned(),
            });
        }
        for case in &self.cases {
            for anchor in &case.arguments.anchors {
                if !self.anchors.contains_key(anchor) {
                    return Err(CorpusError::NoAnchor {
                        case: case.name.clone(),
                        anchor: anchor.clone(),
                    });
                }
            }
        }
        self.cases.sort_by_key(|case| {
            let place = GROUPS.iter().position(|group| *group == case.group());
            (place.unwrap_or(GROUPS.len()), case.name.clone())
        });
        Ok(self)
    }

    /// The groups that have cases, in order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.cases.iter().map(Case::group).collect();
        groups.dedup();
        groups
    }
}

fn read_case(path: &Path, name: &str, content: &[u8]) -> Result<Case, CorpusError> {
    let case = Case::parse(content).map_err(|source| CorpusError::Case {
        path: path.to_owned(),
        source,
    })?;
    if case.name == name {
        Ok(case)
    } else {
        Err(CorpusError::Misnamed {
            path: path.to_owned(),
            name: case.name,
        })
    }
}

fn stem<'a>(path: &'a Path, ending: &str) -> Option<&'a str> {
    path.extension()
        .is_some_and(|found| found == ending)
        .then(|| path.file_stem()?.to_str())
        .flatten()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let at = |source| CorpusError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut paths = fs::read_dir(dir)
        .map_err(at)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(at))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, CorpusError> {
    let mut content = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut content))
        .map_err(|source| CorpusError::Io {
            path: path.to_owned(),
            source,
        })?;
    Ok(content)
}
