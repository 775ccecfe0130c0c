//! Inputs for the tests: the smallest programs, folders and images, and measurements computed by hand.

#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anchorhold_images::eif::{HEADER_BYTES, Header, SectionKind, TableEntry, section_header};
use anchorhold_images::{Architecture, BuildOptions, Built, Source, build};
use sha2::{Digest, Sha384};

pub(crate) mod oci;

/// An ELF program header's fields, of which the rest is 0: type, offset, address, bytes.
pub(crate) type Segment = (u32, u64, u64, u64);

/// An ELF file for x86-64 with the given segments and, after its headers, the given bytes.
pub(crate) fn elf(machine: u16, segments: &[Segment], rest: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16..18].copy_from_slice(&3u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes());
    file[54..56].copy_from_slice(&56u16.to_le_bytes());
    file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    for (kind, offset, address, bytes) in segments {
        let mut header = [0; 56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[16..24].copy_from_slice(&address.to_le_bytes());
        header[32..40].copy_from_slice(&bytes.to_le_bytes());
        file.extend_from_slice(&header);
    }
    file.extend_from_slice(rest);
    file
}

/// A static program that says nothing; `payload` makes it differ from others.
pub(crate) fn static_elf(payload: &[u8]) -> Vec<u8> {
    elf(62, &[(1, 0, 0, 120)], payload)
}

/// A program or library that its loader has to complete: loaded at 0x1000 from offset 0; behind the headers its strings
/// and the table of what it needs.
pub(crate) fn dynamic_elf(
    loader: Option<&str>,
    needed: &[&str],
    rpath: Option<&str>,
    runpath: Option<&str>,
) -> Vec<u8> {
    let segments = 2 + usize::from(loader.is_some());
    let start = (64 + segments * 56) as u64;
    let mut strings = vec![0];
    let mut put = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let loader = loader.map(|loader| (put(loader), loader.len() as u64 + 1));
    let mut table: Vec<(u64, u64)> = needed.iter().map(|name| (1, put(name))).collect();
    table.extend(rpath.map(|folders| (15, put(folders))));
    table.extend(runpath.map(|folders| (29, put(folders))));
    table.extend([(5, 0x1000 + start), (0, 0)]);
    strings.resize(strings.len().next_multiple_of(8), 0);
    let table_at = start + strings.len() as u64;
    for (tag, value) in &table {
        strings.extend_from_slice(&tag.to_le_bytes());
        strings.extend_from_slice(&value.to_le_bytes());
    }
    let length = start + strings.len() as u64;
    let mut segments = vec![
        (1, 0, 0x1000, length),
        (2, table_at, 0, 16 * table.len() as u64),
    ];
    segments.extend(loader.map(|(at, bytes)| (3, start + at, 0, bytes)));
    elf(62, &segments, &strings)
}

pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

/// Options for an image from a source, everything below `dir`, without a say of the environment.
pub(crate) fn options(dir: &Path, source: Source) -> BuildOptions {
    let init = write(&dir.join("runtime"), static_elf(b"the runtime"), 0o755);
    let mut options = BuildOptions::new(source, init, dir.join("image.eif"));
    options.source_date_epoch = None;
    options
}

pub(crate) fn program_options(dir: &Path) -> BuildOptions {
    let file = write(&dir.join("program"), static_elf(b"the job"), 0o755);
    options(dir, Source::Program { file })
}

pub(crate) fn built(options: &BuildOptions) -> Built {
    build(options, &mut |_| ()).unwrap()
}

pub(crate) fn sha384(bytes: impl AsRef<[u8]>) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

/// A zero register extended by the hash of the data, in hexadecimal.
pub(crate) fn register(data: &[u8]) -> String {
    hex::encode(sha384([&[0; 48][..], &sha384(data)].concat()))
}

pub(crate) const METADATA: &str = r#"{"ImageName":"n","ImageVersion":"v","BuildMetadata":{"BuildTime":"t","BuildTool":"tool",
    "BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"5"},"DockerInfo":{"A":1},"CustomMetadata":null}"#;

/// An empty cpio archive.
pub(crate) fn empty_archive() -> Vec<u8> {
    anchorhold_images::cpio::Writer::new(Vec::new())
        .finish()
        .unwrap()
}

/// The sections of a small image, in AWS's order.
pub(crate) fn sections() -> Vec<(SectionKind, Vec<u8>)> {
    vec![
        (SectionKind::Kernel, b"a kernel".to_vec()),
        (SectionKind::CommandLine, b"quiet".to_vec()),
        (SectionKind::Metadata, METADATA.into()),
        (SectionKind::Ramdisk, empty_archive()),
        (SectionKind::Ramdisk, [empty_archive(), vec![0; 4]].concat()),
    ]
}

/// An image's bytes, with a proper checksum.
pub(crate) fn image(sections: &[(SectionKind, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut table = Vec::new();
    for (kind, data) in sections {
        table.push(TableEntry {
            offset: (HEADER_BYTES + body.len()) as u64,
            size: data.len() as u64,
        });
        body.extend_from_slice(&section_header(*kind, data.len() as u64));
        body.extend_from_slice(data);
    }
    let header = Header {
        architecture: Architecture::X86_64,
        default_memory_bytes: 1 << 30,
        default_cpus: 2,
        table,
        crc32: 0,
    };
    let mut bytes = [&header.to_bytes()[..], &body].concat();
    seal(&mut bytes);
    bytes
}

/// Puts the right checksum into an image, whatever else is wrong with it.
pub(crate) fn seal(bytes: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..HEADER_BYTES - 4]);
    crc.update(&bytes[HEADER_BYTES..]);
    let crc = crc.finalize();
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}
