//! What is different between two images, down to the file, the manifest's line, the kernel or its command line.
//!
//! The images may be from different tools: ramdisks are compared by what they unpack to, and where that is the same,
//! the difference is in how they were packed, and this says so. Nothing is said about which image is the better one.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use anchorhold_attestation::Pcr;
use anchorhold_manifest::MANIFEST_PATH;

use crate::cpio::{CpioError, EntryKind, Limits};
use crate::eif::{Section, SectionKind};
use crate::image::{Image, ImageError};

/// Beyond this, changed lines are listed without looking for those that stayed: the work grows with the square.
const MAX_LINES_COMPARED: usize = 2000;

/// All differences between two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Differences {
    /// Registers whose values differ.
    pub registers: Vec<RegisterDifference>,
    /// Whether the kernels differ, and how.
    pub kernel: Option<KernelDifference>,
    /// The kernel's command lines.
    pub command_line: Option<Pair<String>>,
    /// Ramdisks that differ.
    pub ramdisks: Vec<RamdiskDifference>,
    /// Lines of the manifest: `-` for the first image's, `+` for the second's, each with its number.
    pub manifest: Vec<String>,
    /// Signers' PCR8; `none` for an unsigned image.
    pub signer: Option<Pair<String>>,
    /// What is not measured: name, version, build, default memory and CPUs.
    pub unmeasured: Vec<String>,
}

/// The first image's and the second's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pair<T> {
    /// The first image's.
    pub left: T,
    /// The second image's.
    pub right: T,
}

/// A register with two values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterDifference {
    /// `PCR0` and so on.
    pub register: &'static str,
    /// Its values; none for PCR8 of an unsigned image.
    pub values: Pair<Option<Pcr>>,
    /// Why, in a few words each.
    pub because_of: Vec<String>,
}

/// Two kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KernelDifference {
    /// Bytes.
    pub size: Pair<u64>,
    /// What the metadata says about their versions.
    pub version: Pair<String>,
    /// SHA-256.
    pub digest: Pair<String>,
}

/// Two ramdisks at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RamdiskDifference {
    /// Counted from 1.
    pub number: usize,
    /// Files that differ, sorted by path.
    pub files: Vec<FileDifference>,
    /// Why the bytes differ although the files do not.
    pub packing: Vec<&'static str>,
}

/// A path whose entry differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FileDifference {
    /// Below the root.
    pub path: PathBuf,
    /// What differs, such as `only in the first` or `content`.
    pub change: String,
}

impl Differences {
    /// Whether the images measure the same; what is not measured may differ still.
    pub fn same_measurements(&self) -> bool {
        self.registers.is_empty()
    }
}

/// Compares two images.
pub fn diff(left: &Image, right: &Image) -> Result<Differences, ImageError> {
    let kernel = kernel(left, right)?;
    let lines = [left, right].map(|image| image.command_line().to_owned());
    let command_line = (lines[0] != lines[1]).then(|| pair(lines));
    let (ramdisks, manifests) = ramdisks(left, right)?;
    let signers = [left, right].map(|image| image.measurements().pcr8);
    let signer = (signers[0] != signers[1]).then(|| {
        pair(signers.map(|signer| signer.map_or_else(|| "none".to_owned(), |pcr| pcr.to_string())))
    });
    let mut differences = Differences {
        registers: Vec::new(),
        kernel,
        command_line,
        ramdisks,
        manifest: line_differences(&manifests[0], &manifests[1]),
        signer,
        unmeasured: unmeasured(left, right),
    };
    differences.registers = registers(left, right, &differences);
    Ok(differences)
}

fn pair<T>([left, right]: [T; 2]) -> Pair<T> {
    Pair { left, right }
}

fn registers(left: &Image, right: &Image, found: &Differences) -> Vec<RegisterDifference> {
    let mut start = Vec::new();
    if found.kernel.is_some() {
        start.push("the kernel".to_owned());
    }
    if found.command_line.is_some() {
        start.push("the kernel's command line".to_owned());
    }
    let of_ramdisks = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        found
            .ramdisks
            .iter()
            .filter(|ramdisk| wanted(ramdisk.number))
            .map(|ramdisk| {
                let number = ramdisk.number;
                match ramdisk.files.len() {
                    0 => format!("ramdisk {number}, packed differently"),
                    1 => format!("ramdisk {number}: {}", ramdisk.files[0].path.display()),
                    count => format!(
                        "ramdisk {number}: {} and {} more",
                        ramdisk.files[0].path.display(),
                        count - 1
                    ),
                }
            })
            .collect()
    };
    let (l, r) = (left.measurements(), right.measurements());
    let signer = vec!["the signing certificate".to_owned()];
    [
        (
            "PCR0",
            Some(l.pcr0),
            Some(r.pcr0),
            [start.clone(), of_ramdisks(&|_| true)].concat(),
        ),
        (
            "PCR1",
            Some(l.pcr1),
            Some(r.pcr1),
            [start, of_ramdisks(&|number| number == 1)].concat(),
        ),
        (
            "PCR2",
            Some(l.pcr2),
            Some(r.pcr2),
            of_ramdisks(&|number| number > 1),
        ),
        ("PCR8", l.pcr8, r.pcr8, signer),
    ]
    .into_iter()
    .filter(|(_, left, right, _)| left != right)
    .map(|(register, left, right, because_of)| RegisterDifference {
        register,
        values: Pair { left, right },
        because_of,
    })
    .collect()
}

fn kernel(left: &Image, right: &Image) -> Result<Option<KernelDifference>, ImageError> {
    let mut sections = Vec::new();
    for image in [left, right] {
        let section = image
            .sections()
            .iter()
            .find(|section| section.kind == SectionKind::Kernel)
            .expect("an image has a kernel section");
        sections.push((section.size, digest(image, section)?));
    }
    if sections[0] == sections[1] {
        return Ok(None);
    }
    let version = |image: &Image| image.metadata().build_metadata.kernel_version.clone();
    Ok(Some(KernelDifference {
        size: pair([sections[0].0, sections[1].0]),
        version: pair([version(left), version(right)]),
        digest: pair([&sections[0].1, &sections[1].1].map(hex::encode)),
    }))
}

fn digest(image: &Image, section: &Section) -> Result<Vec<u8>, ImageError> {
    let mut hash = Context::new(&SHA256);
    image
        .copy_section(section, &mut HashSink(&mut hash))
        .map_err(|source| image.unreadable(source))?;
    Ok(hash.finish().as_ref().to_vec())
}

struct HashSink<'h>(&'h mut Context);

impl io::Write for HashSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a ramdisk unpacks to.
#[derive(Default)]
struct Survey {
    files: BTreeMap<PathBuf, File>,
    order: Vec<u8>,
    times: Vec<u8>,
    manifest: Option<String>,
    compression: String,
}

#[derive(PartialEq, Eq)]
struct File {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    /// Of its data; empty where it has none.
    digest: Vec<u8>,
    size: u64,
}

fn ramdisks(
    left: &Image,
    right: &Image,
) -> Result<(Vec<RamdiskDifference>, [String; 2]), ImageError> {
    let mut differences = Vec::new();
    let mut manifests = [String::new(), String::new()];
    let sections = [left, right].map(|image| {
        image
            .sections()
            .iter()
            .filter(|section| section.kind == SectionKind::Ramdisk)
            .copied()
            .collect::<Vec<_>>()
    });
    for index in 0..sections[0].len().max(sections[1].len()) {
        let (one, two) = (sections[0].get(index), sections[1].get(index));
        if let (Some(one), Some(two)) = (one, two)
            && one.size == two.size
            && digest(left, one)? == digest(right, two)?
        {
            continue;
        }
        let mut surveys = [Survey::default(), Survey::default()];
        for (side, (image, section)) in [(left, one), (right, two)].into_iter().enumerate() {
            if section.is_some() {
                surveys[side] = survey(image, index)?;
                if let Some(text) = surveys[side].manifest.take() {
                    manifests[side] = text;
                }
            }
        }
        differences.push(compare(index + 1, &surveys));
    }
    Ok((differences, manifests))
}

fn survey(image: &Image, index: usize) -> Result<Survey, ImageError> {
    let ramdisk = &image.ramdisks()[index];
    let broken = |source: CpioError| ImageError::Ramdisk {
        path: image.path().into(),
        number: index + 1,
        source,
    };
    let unreadable = |source| image.unreadable(source);
    let mut survey = Survey {
        compression: format!("{:?}", ramdisk.compression().map_err(unreadable)?),
        ..Survey::default()
    };
    let mut order = Context::new(&SHA256);
    let mut times = Context::new(&SHA256);
    let mut reader = ramdisk.entries(Limits::default()).map_err(unreadable)?;
    let mut buffer = vec![0; 128 << 10];
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        order.update(entry.path.as_os_str().as_encoded_bytes());
        order.update(&[0]);
        times.update(&entry.mtime.to_be_bytes());
        let (kind, size) = match &entry.kind {
            EntryKind::File { size } => ("file".to_owned(), *size),
            EntryKind::HardLink { target, size } => {
                (format!("hard link to {}", target.display()), *size)
            }
            EntryKind::Directory => ("folder".to_owned(), 0),
            EntryKind::Symlink { target } => (format!("link to {}", target.display()), 0),
            EntryKind::CharacterDevice { major, minor } => {
                (format!("character device {major}:{minor}"), 0)
            }
            EntryKind::BlockDevice { major, minor } => (format!("block device {major}:{minor}"), 0),
            EntryKind::Fifo => ("named pipe".to_owned(), 0),
            EntryKind::Socket => ("socket".to_owned(), 0),
        };
        let mut hash = Context::new(&SHA256);
        let mut text = Vec::new();
        let is_manifest = entry.path == std::path::Path::new(&MANIFEST_PATH[1..])
            && size <= anchorhold_manifest::MAX_MANIFEST_BYTES as u64;
        loop {
            let read = reader.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            if is_manifest {
                text.extend_from_slice(&buffer[..read]);
            }
        }
        if is_manifest {
            survey.manifest = Some(String::from_utf8_lossy(&text).into_owned());
        }
        let file = File {
            kind,
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            digest: hash.finish().as_ref().to_vec(),
            size,
        };
        survey.files.insert(entry.path, file);
    }
    survey.order = order.finish().as_ref().to_vec();
    survey.times = times.finish().as_ref().to_vec();
    Ok(survey)
}

fn compare(number: usize, [left, right]: &[Survey; 2]) -> RamdiskDifference {
    let mut files = Vec::new();
    let paths: std::collections::BTreeSet<&PathBuf> =
        left.files.keys().chain(right.files.keys()).collect();
    for path in paths {
        let change = match (left.files.get(path), right.files.get(path)) {
            (Some(one), None) => format!("{} only in the first", one.kind),
            (None, Some(two)) => format!("{} only in the second", two.kind),
            (Some(one), Some(two)) if one != two => changes(one, two),
            _ => continue,
        };
        files.push(FileDifference {
            path: path.clone(),
            change,
        });
    }
    let mut packing = Vec::new();
    if files.is_empty() {
        if left.compression != right.compression {
            packing.push("one is compressed and the other is not");
        }
        if left.order != right.order {
            packing.push("the files are in another order");
        }
        if left.times != right.times {
            packing.push("the files have other times");
        }
        if packing.is_empty() {
            packing.push("inode numbers, padding or the compressor differ");
        }
    }
    RamdiskDifference {
        number,
        files,
        packing,
    }
}

fn changes(one: &File, two: &File) -> String {
    let mut changes = Vec::new();
    if one.kind != two.kind {
        changes.push(format!("{} became {}", one.kind, two.kind));
    } else if one.digest != two.digest {
        changes.push(if one.size == two.size {
            format!("content ({} bytes)", one.size)
        } else {
            format!("content ({} bytes became {})", one.size, two.size)
        });
    }
    if one.mode != two.mode {
        changes.push(format!("mode {:04o} became {:04o}", one.mode, two.mode));
    }
    if one.owner != two.owner {
        changes.push(format!(
            "owner {}:{} became {}:{}",
            one.owner.0, one.owner.1, two.owner.0, two.owner.1
        ));
    }
    changes.join(", ")
}

/// Lines that only one of two texts has.
fn line_differences(left: &str, right: &str) -> Vec<String> {
    let (one, two): (Vec<&str>, Vec<&str>) = (left.lines().collect(), right.lines().collect());
    let same_start = one
        .iter()
        .zip(&two)
        .take_while(|(left, right)| left == right)
        .count();
    let same_end = one[same_start..]
        .iter()
        .rev()
        .zip(two[same_start..].iter().rev())
        .take_while(|(left, right)| left == right)
        .count();
    let (a, b) = (
        &one[same_start..one.len() - same_end],
        &two[same_start..two.len() - same_end],
    );
    let removed = |index: usize| format!("-{}: {}", same_start + index + 1, a[index]);
    let added = |index: usize| format!("+{}: {}", same_start + index + 1, b[index]);
    if a.len() > MAX_LINES_COMPARED || b.len() > MAX_LINES_COMPARED {
        return (0..a.len())
            .map(removed)
            .chain((0..b.len()).map(added))
            .collect();
    }
    // Longest common subsequence, from the end.
    let width = b.len() + 1;
    let mut common = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len()
            || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(removed(i));
            i += 1;
        } else {
            lines.push(added(j));
            j += 1;
        }
    }
    lines
}

fn unmeasured(left: &Image, right: &Image) -> Vec<String> {
    let facts = |image: &Image| {
        let metadata = image.metadata();
        let build = &metadata.build_metadata;
        let (memory, cpus) = image.default_resources();
        [
            ("name", metadata.image_name.clone()),
            ("version", metadata.image_version.clone()),
            ("architecture", image.architecture().to_string()),
            ("default memory in bytes", memory.to_string()),
            ("default CPUs", cpus.to_string()),
            ("build time", build.build_time.clone()),
            (
                "build tool",
                format!("{} {}", build.build_tool, build.build_tool_version),
            ),
        ]
    };
    facts(left)
        .into_iter()
        .zip(facts(right))
        .filter(|((_, left), (_, right))| left != right)
        .map(|((name, left), (_, right))| format!("{name}: {left:?} became {right:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_with_their_numbers() {
        let left = "[job]\ncommand = [\"/a\"]\n\n[log]\nx = 1\n";
        let right = "[job]\ncommand = [\"/b\"]\n# new\n\n[log]\nx = 1\n";
        assert_eq!(
            line_differences(left, right),
            [
                "-2: command = [\"/a\"]",
                "+2: command = [\"/b\"]",
                "+3: # new"
            ]
        );
        assert!(line_differences(left, left).is_empty());
        assert_eq!(line_differences("", "a\n"), ["+1: a"]);
    }

    #[test]
    fn endless_lines_are_compared_without_endless_work() {
        let (left, right) = ("a\n".repeat(30_000), "b\n".repeat(30_000));
        assert_eq!(line_differences(&left, &right).len(), 60_000);
    }
}
