//! What software is in an image, as a CycloneDX 1.5 document: Rust packages from the audit data in programs or from a
//! lock file, and operating system packages from the databases of dpkg and apk.
//!
//! All of it is what the image says about itself. The document holds no time and no random number: the same image has
//! the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use thiserror::Error;

use crate::audit;
use crate::cpio::{EntryKind, Limits};
use crate::image::{Image, ImageError};

/// Programs that are looked into. The data stands at a file's end, so that all of it must be in memory.
const MAX_PROGRAM_BYTES: u64 = 256 << 20;
/// A Debian with everything has 100 MiB; an image's is a hundredth of that.
const MAX_DATABASE_BYTES: u64 = 64 << 20;

/// Why there is no document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SbomError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The lock file cannot be read.
    #[error("the lock file is not one of Cargo's: {0}")]
    Lock(String),
    /// A database that is too large.
    #[error("{path} in the image has {size} bytes, and at most {MAX_DATABASE_BYTES} are read")]
    Database {
        /// Inside the image.
        path: String,
        /// Its length.
        size: u64,
    },
}

/// A package, in the order in which they are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    purl: String,
    name: String,
    version: String,
    licence: Option<String>,
}

/// The document for an image; `lock` is the text of a `Cargo.lock`, for programs without audit data.
pub fn sbom(image: &Image, lock: Option<&str>) -> Result<Value, SbomError> {
    let mut found: BTreeMap<Package, BTreeSet<String>> = BTreeMap::new();
    let mut system = System::default();
    let mut databases: Vec<(String, Kind, String)> = Vec::new();
    let mut without: Vec<String> = Vec::new();
    let mut unread: Vec<String> = Vec::new();
    for (index, ramdisk) in image.ramdisks().iter().enumerate() {
        let broken = |source| ImageError::Ramdisk {
            path: image.path().into(),
            number: index + 1,
            source,
        };
        let mut reader = ramdisk
            .entries(Limits::default())
            .map_err(|source| image.unreadable(source))?;
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            let EntryKind::File { size } = entry.kind else {
                continue;
            };
            let path = format!("/{}", entry.path.display());
            let kind = database(&entry.path);
            if is_rpm(&entry.path) {
                unread.push(path);
                continue;
            }
            let program = entry.mode & 0o111 != 0 && size <= MAX_PROGRAM_BYTES;
            if let Some(kind) = kind {
                if size > MAX_DATABASE_BYTES {
                    return Err(SbomError::Database { path, size });
                }
                let mut bytes = Vec::new();
                reader
                    .read_to_end(&mut bytes)
                    .map_err(|source| image.unreadable(source))?;
                databases.push((path, kind, String::from_utf8_lossy(&bytes).into_owned()));
            } else if program {
                let mut magic = [0; 4];
                let read = reader
                    .read(&mut magic)
                    .map_err(|source| image.unreadable(source))?;
                if magic[..read] != *b"\x7fELF" {
                    continue;
                }
                let mut bytes = magic.to_vec();
                reader
                    .read_to_end(&mut bytes)
                    .map_err(|source| image.unreadable(source))?;
                match audit::packages(&bytes) {
                    Some(packages) => {
                        for package in packages {
                            let package = cargo(&package.name, &package.version);
                            found.entry(package).or_default().insert(path.clone());
                        }
                    }
                    None => without.push(path),
                }
            }
        }
    }
    for (_, _, text) in databases
        .iter()
        .filter(|(_, kind, _)| *kind == Kind::Release)
    {
        system = System::read(text);
    }
    for (path, kind, text) in &databases {
        let packages = match kind {
            Kind::Dpkg => dpkg(text, &system),
            Kind::Apk => apk(text, &system),
            Kind::Release => continue,
        };
        for package in packages {
            found.entry(package).or_default().insert(path.clone());
        }
    }
    if let Some(lock) = lock {
        for package in locked(lock)? {
            found
                .entry(package)
                .or_default()
                .insert("Cargo.lock".to_owned());
        }
    }
    let components: Vec<Value> = found
        .into_iter()
        .map(|(package, paths)| {
            let mut component = json!({
                "type": "library",
                "bom-ref": package.purl,
                "name": package.name,
                "version": package.version,
                "purl": package.purl,
                "evidence": { "occurrences": paths.iter().map(|path| json!({ "location": path })).collect::<Vec<_>>() },
            });
            if let Some(licence) = package.licence {
                component["licenses"] = json!([{ "license": { "name": licence } }]);
            }
            component
        })
        .collect();
    let measurements = image.measurements();
    let mut properties = vec![
        property("PCR0", &measurements.pcr0.to_string()),
        property("PCR1", &measurements.pcr1.to_string()),
        property("PCR2", &measurements.pcr2.to_string()),
    ];
    properties.extend(
        without
            .iter()
            .map(|path| property("program-without-audit-data", path)),
    );
    properties.extend(
        unread
            .iter()
            .map(|path| property("package-database-not-read", path)),
    );
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "tools": { "components": [
                { "type": "application", "name": "anchorhold", "version": env!("CARGO_PKG_VERSION") },
            ]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": image.name(),
                "version": image.metadata().image_version,
                "properties": properties,
            },
        },
        "components": components,
    }))
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": format!("anchorhold:{name}"), "value": value })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dpkg,
    Apk,
    Release,
}

/// Whether a file is a database of packages, or says which system it is.
fn database(path: &Path) -> Option<Kind> {
    let in_parts = path.parent() == Some(Path::new("var/lib/dpkg/status.d"))
        && path.extension().is_none_or(|ending| ending != "md5sums");
    match path.to_str()? {
        "var/lib/dpkg/status" => Some(Kind::Dpkg),
        _ if in_parts => Some(Kind::Dpkg),
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => Some(Kind::Apk),
        "etc/os-release" | "usr/lib/os-release" => Some(Kind::Release),
        _ => None,
    }
}

/// Whether a file is a database of rpm, whose packages are not listed: the document says so.
fn is_rpm(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let folders = ["var/lib/rpm", "usr/lib/sysimage/rpm"];
    path.parent()
        .is_some_and(|folder| folders.iter().any(|rpm| folder == Path::new(rpm)))
        && matches!(name, Some("rpmdb.sqlite" | "Packages" | "Packages.db"))
}

/// The system that packages belong to.
#[derive(Debug, Default)]
struct System {
    id: Option<String>,
    version: Option<String>,
}

impl System {
    /// os-release(5).
    fn read(text: &str) -> System {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
                .filter(|value| !value.is_empty())
        };
        System {
            id: value("ID"),
            version: value("VERSION_ID"),
        }
    }

    fn qualifiers(&self, architecture: Option<&str>) -> String {
        let mut qualifiers = Vec::new();
        if let Some(architecture) = architecture {
            qualifiers.push(format!("arch={}", escaped(architecture)));
        }
        if let (Some(id), Some(version)) = (&self.id, &self.version) {
            qualifiers.push(format!("distro={}-{}", escaped(id), escaped(version)));
        }
        if qualifiers.is_empty() {
            String::new()
        } else {
            format!("?{}", qualifiers.join("&"))
        }
    }
}

fn cargo(name: &str, version: &str) -> Package {
    Package {
        purl: format!("pkg:cargo/{}@{}", escaped(name), escaped(version)),
        name: name.to_owned(),
        version: version.to_owned(),
        licence: None,
    }
}

/// deb-control(5): paragraphs of fields; what is not installed is only remembered.
fn dpkg(text: &str, system: &System) -> Vec<Package> {
    let vendor = system.id.as_deref().unwrap_or("debian");
    text.split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .map(str::trim)
            };
            let (name, version) = (field("Package")?, field("Version")?);
            if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
                return None;
            }
            let qualifiers = system.qualifiers(field("Architecture"));
            Some(Package {
                purl: format!(
                    "pkg:deb/{}/{}@{}{qualifiers}",
                    escaped(vendor),
                    escaped(name),
                    escaped(version)
                ),
                name: name.to_owned(),
                version: version.to_owned(),
                licence: None,
            })
        })
        .collect()
}

/// Alpine's database: lines of one letter and a value, paragraphs of packages.
fn apk(text: &str, system: &System) -> Vec<Package> {
    let vendor = system.id.as_deref().unwrap_or("alpine");
    text.split("\n\n")
        .filter_map(|paragraph| {
            let field = |letter: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(letter)?.strip_prefix(':'))
            };
            let (name, version) = (field("P")?, field("V")?);
            let qualifiers = system.qualifiers(field("A"));
            Some(Package {
                purl: format!(
                    "pkg:apk/{}/{}@{}{qualifiers}",
                    escaped(vendor),
                    escaped(name),
                    escaped(version)
                ),
                name: name.to_owned(),
                version: version.to_owned(),
                licence: field("L").map(str::to_owned),
            })
        })
        .collect()
}

fn locked(text: &str) -> Result<Vec<Package>, SbomError> {
    let lock: toml_edit::DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| SbomError::Lock(error.message().to_owned()))?;
    let packages = lock
        .get("package")
        .and_then(|packages| packages.as_array_of_tables())
        .ok_or_else(|| SbomError::Lock("it has no packages".to_owned()))?;
    packages
        .iter()
        .map(|package| {
            let field = |name: &str| {
                package
                    .get(name)
                    .and_then(|value| value.as_str())
                    .ok_or_else(|| SbomError::Lock(format!("a package has no {name}")))
            };
            Ok(cargo(field("name")?, field("version")?))
        })
        .collect()
}

/// A part of a package URL: everything but its few plain characters is escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_debian_and_alpine_are_read_from_their_databases() {
        let debian = System::read("NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n");
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u10\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: tzdata\nVersion: 1:2024a\n";
        let purls: Vec<String> = dpkg(status, &debian)
            .into_iter()
            .map(|package| package.purl)
            .collect();
        assert_eq!(
            purls,
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12",
                "pkg:deb/debian/tzdata@1:2024a?distro=debian-12",
            ]
        );
        let alpine = apk(
            "C:x\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\n",
            &System::default(),
        );
        assert_eq!(alpine[0].purl, "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64");
        assert_eq!(alpine[0].licence.as_deref(), Some("MIT"));
    }

    #[test]
    fn lock_files_are_read_and_other_files_are_not() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0+x\"\n";
        assert_eq!(locked(lock).unwrap()[0].purl, "pkg:cargo/a@1.0.0%2Bx");
        for wrong in ["", "[package]\nname = \"a\"\n", "nonsense"] {
            assert!(matches!(locked(wrong), Err(SbomError::Lock(_))));
        }
    }
}
