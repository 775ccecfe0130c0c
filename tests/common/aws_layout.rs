//! Images in AWS's own layout, as nitro-cli makes them from container images: the init and the NSM's driver in the first
//! ramdisk, the container's files below `/rootfs` with `/cmd` and `/env` in the second. The programs are the project's own.

use std::path::{Path, PathBuf};

use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_images::cpio::{Attributes, Writer};
use anchorhold_images::eif::{self, HEADER_BYTES, Header, TableEntry, section_header};
use anchorhold_images::{Architecture, SectionKind};

use crate::common::WORKSPACE;

/// What `/cmd` and `/env` say.
pub const COMMAND: &str = "app\n--greeting\ntwo words\n";
pub const ENVIRONMENT: &str = "PATH=/nowhere\nGREETING=a = b\n";

const METADATA: &str = r#"{"ImageName":"aws","ImageVersion":"1","BuildMetadata":{"BuildTime":"2024-01-01T00:00:00+00:00","BuildTool":"nitro-cli",
"BuildToolVersion":"1.2.3","OperatingSystem":"Linux","KernelVersion":"6.12"},"DockerInfo":{},"CustomMetadata":null}"#;

/// A ramdisk under construction.
struct Archive(Writer<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Writer::new(Vec::new()))
    }

    fn folders(&mut self, paths: &[&str]) {
        for path in paths {
            self.0
                .directory(Path::new(path), Attributes::of_root(0o755))
                .expect("memory takes it");
        }
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let attributes = Attributes::of_root(mode);
        self.0
            .file(
                Path::new(path),
                attributes,
                bytes.len() as u64,
                &mut &bytes[..],
            )
            .expect("memory takes it");
    }

    /// AWS's are not compressed either.
    fn bytes(self) -> Vec<u8> {
        self.0.finish().expect("memory takes it")
    }
}

fn program(bin: &str) -> Vec<u8> {
    let mut build = StaticBuild::new(&Path::new(WORKSPACE).join("tests/vm/guest"));
    build.bin = Some(bin.to_owned());
    build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
    let built = build.run(&mut |_| ()).expect("a static program");
    std::fs::read(built.path).expect("it was built")
}

/// Writes such an image. `drivers` are modules for a kernel that needs them, the NSM's last, as `(path, bytes)`.
pub fn write(path: &Path, kernel: &[u8], command_line: &str, drivers: &[(String, Vec<u8>)]) {
    let mut first = Archive::new();
    first.folders(&["dev", "modules"]);
    first.file("init", 0o755, &program("aws-init"));
    for (path, bytes) in drivers {
        first.file(path, 0o644, bytes);
    }
    let mut second = Archive::new();
    second.folders(&["rootfs", "rootfs/bin", "rootfs/data"]);
    second.folders(&[
        "rootfs/dev",
        "rootfs/proc",
        "rootfs/run",
        "rootfs/sys",
        "rootfs/tmp",
    ]);
    second.file("rootfs/bin/app", 0o755, &program("aws-command"));
    second.file("rootfs/data/file", 0o600, b"the container's");
    second
        .0
        .symlink(Path::new("rootfs/data/link"), Path::new("/data/file"), 0, 0)
        .expect("memory takes it");
    second.file("cmd", 0o644, COMMAND.as_bytes());
    second.file("env", 0o644, ENVIRONMENT.as_bytes());

    let sections: [(SectionKind, Vec<u8>); 5] = [
        (SectionKind::Kernel, kernel.to_vec()),
        (SectionKind::CommandLine, command_line.into()),
        (SectionKind::Metadata, METADATA.into()),
        (SectionKind::Ramdisk, first.bytes()),
        (SectionKind::Ramdisk, second.bytes()),
    ];
    let (mut body, mut table) = (Vec::new(), Vec::new());
    for (kind, data) in &sections {
        table.push(TableEntry {
            offset: (HEADER_BYTES + body.len()) as u64,
            size: data.len() as u64,
        });
        body.extend_from_slice(&section_header(*kind, data.len() as u64));
        body.extend_from_slice(data);
    }
    let mut header = Header {
        architecture: Architecture::X86_64,
        default_memory_bytes: 512 << 20,
        default_cpus: 2,
        table,
        crc32: 0,
    };
    let unsummed = [&header.to_bytes()[..], &body].concat();
    header.crc32 = eif::checksum(&unsummed);
    let image = [&header.to_bytes()[..], &body].concat();
    std::fs::write(path, image).expect("an image");
}

/// The modules of a folder, for an image whose init loads those of `/modules` and then those of `/`.
pub fn drivers(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("modules")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            let (_, plain) = name.split_once('-').expect("a number before the name");
            let place = if plain.starts_with("nsm.ko") {
                plain.to_owned()
            } else {
                format!("modules/{name}")
            };
            (place, std::fs::read(path).expect("a module"))
        })
        .collect()
}
