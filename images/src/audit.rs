//! The list of Rust packages inside a program, where `cargo auditable` and its readers (`cargo audit bin`, Syft, Trivy)
//! keep it: JSON, compressed by zlib, in the ELF section `.dep-v0`.
//!
//! Programs that are read come from anybody: sizes are bounded, and what does not parse is as if it were not there.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::elf;

const SECTION: &str = ".dep-v0";
/// The largest programs have a few thousand packages.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) packages: Vec<Package>,
}

/// A package; the fields that this project uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// `crates.io`, `git`, `local` or `registry`.
    pub(crate) source: String,
    /// `build` for packages that only compile it; absent for those inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// By their places in the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dependencies: Vec<usize>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) root: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The packages inside a program, without those that only compiled it. None where it does not say.
pub(crate) fn packages(program: &[u8]) -> Option<Vec<Package>> {
    let data = elf::section(program, SECTION)?;
    let mut json = Vec::new();
    ZlibDecoder::new(data)
        .take(MAX_JSON_BYTES + 1)
        .read_to_end(&mut json)
        .ok()?;
    if json.len() as u64 > MAX_JSON_BYTES {
        return None;
    }
    let document: Document = serde_json::from_slice(&json).ok()?;
    Some(
        document
            .packages
            .into_iter()
            .filter(|package| package.kind.is_none())
            .collect(),
    )
}

/// The program with the list in it. None for a program whose sections cannot be added to.
pub(crate) fn embed(program: &[u8], document: &Document) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(document).ok()?;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(6));
    zlib.write_all(&json).ok()?;
    elf::with_section(program, SECTION, &zlib.finish().ok()?)
}
