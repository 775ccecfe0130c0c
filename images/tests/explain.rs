//! What is said about images: differences, and the software in them.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use anchorhold_images::diff::diff;
use anchorhold_images::sbom::sbom;
use anchorhold_images::{Compression, Image, SectionKind, Source, Unmeasured};
use common::{built, options, program_options, static_elf, write};

const MANIFEST: &str = "[job]\ncommand = [\"/bin/job\"]\n";

fn of_root(dir: &Path, name: &str, change: impl FnOnce(&Path)) -> Image {
    let root = dir.join(name).join("root");
    write(&root.join("bin/job"), static_elf(b"job"), 0o755);
    write(&root.join("etc/settings"), "a = 1\n", 0o644);
    change(&root);
    let manifest = write(&dir.join(name).join("anchorhold.toml"), MANIFEST, 0o644);
    let mut options = options(&dir.join(name), Source::Root { dir: root });
    options.manifest = Some(manifest);
    Image::open(&built(&options).path).unwrap()
}

#[test]
fn images_of_the_same_inputs_have_no_differences() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        of_root(dir.path(), "1", |_| ()),
        of_root(dir.path(), "2", |_| ()),
    );
    let differences = diff(&one, &two).unwrap();
    assert!(differences.same_measurements());
    assert!(differences.ramdisks.is_empty() && differences.unmeasured.is_empty());
}

#[test]
fn a_changed_file_is_named_with_the_registers_that_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let one = of_root(dir.path(), "1", |_| ());
    let two = of_root(dir.path(), "2", |root| {
        write(&root.join("etc/settings"), "a = 22\n", 0o755);
        write(&root.join("new"), "", 0o644);
    });
    let differences = diff(&one, &two).unwrap();
    let registers: Vec<&str> = differences
        .registers
        .iter()
        .map(|register| register.register)
        .collect();
    assert_eq!(registers, ["PCR0", "PCR2"]);
    assert_eq!(
        differences.registers[1].because_of,
        ["ramdisk 2: etc/settings and 1 more"]
    );
    let files: Vec<String> = differences.ramdisks[0]
        .files
        .iter()
        .map(|file| format!("{}: {}", file.path.display(), file.change))
        .collect();
    assert_eq!(
        files,
        [
            "etc/settings: content (6 bytes became 7), mode 0644 became 0755",
            "new: file only in the second",
        ]
    );
}

#[test]
fn a_changed_manifest_is_shown_line_by_line_and_a_changed_runtime_is_pcr1() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let one = Image::open(&built(&options).path).unwrap();
    options.output = dir.path().join("second.eif");
    options.init = write(&dir.path().join("other"), static_elf(b"another"), 0o755);
    options.manifest = Some(write(
        &dir.path().join("m.toml"),
        "[job]\ncommand = [\"/job\", \"-v\"]\n",
        0o644,
    ));
    options.command_line = Some("quiet".to_owned());
    let two = Image::open(&built(&options).path).unwrap();
    let differences = diff(&one, &two).unwrap();
    assert_eq!(
        differences.manifest,
        [
            "-2: command = [\"/job\"]",
            "+2: command = [\"/job\", \"-v\"]"
        ]
    );
    assert_eq!(differences.command_line.as_ref().unwrap().right, "quiet");
    assert_eq!(
        differences.registers[1].because_of,
        ["the kernel's command line", "ramdisk 1: init"]
    );
}

#[test]
fn the_same_files_packed_differently_are_told_apart_from_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let one = Image::open(&built(&options).path).unwrap();
    options.output = dir.path().join("second.eif");
    options.compression = Some(Compression::Gzip);
    let two = Image::open(&built(&options).path).unwrap();
    let differences = diff(&one, &two).unwrap();
    assert!(!differences.same_measurements());
    for ramdisk in &differences.ramdisks {
        assert!(ramdisk.files.is_empty());
        assert_eq!(ramdisk.packing, ["one is compressed and the other is not"]);
    }
}

#[test]
fn another_tools_kernel_and_times_are_told() {
    let open = |sections: &[(SectionKind, Vec<u8>)]| {
        Unmeasured::from_bytes("t", common::image(sections))
            .unwrap()
            .measure()
            .unwrap()
    };
    let sections = common::sections();
    let mut other = common::sections();
    other[0].1 = b"another kernel".to_vec();
    let differences = diff(&open(&sections), &open(&other)).unwrap();
    let kernel = differences.kernel.unwrap();
    assert_eq!((kernel.size.left, kernel.size.right), (8, 14));
    assert_eq!(differences.registers[0].because_of, ["the kernel"]);
}

#[test]
fn packages_of_the_system_and_of_programs_are_listed_and_nothing_random_is() {
    let dir = tempfile::tempdir().unwrap();
    let image = of_root(dir.path(), "1", |root| {
        write(
            &root.join("var/lib/dpkg/status"),
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n",
            0o644,
        );
        write(
            &root.join("usr/lib/sysimage/rpm/rpmdb.sqlite"),
            "a database",
            0o644,
        );
        write(
            &root.join("etc/os-release"),
            "ID=debian\nVERSION_ID=\"12\"\n",
            0o644,
        );
    });
    let document = sbom(&image, None).unwrap();
    assert_eq!(document["bomFormat"], "CycloneDX");
    let databases: Vec<&str> = document["metadata"]["component"]["properties"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|property| property["name"] == "anchorhold:package-database-not-read")
        .map(|property| property["value"].as_str().unwrap())
        .collect();
    assert_eq!(databases, ["/usr/lib/sysimage/rpm/rpmdb.sqlite"]);
    assert_eq!(document["specVersion"], "1.5");
    assert_eq!(
        document["components"][0]["purl"],
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12"
    );
    assert_eq!(
        document["components"][0]["evidence"]["occurrences"][0]["location"],
        "/var/lib/dpkg/status"
    );
    let unnamed: Vec<&str> = document["metadata"]["component"]["properties"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|property| property["name"] == "anchorhold:program-without-audit-data")
        .map(|property| property["value"].as_str().unwrap())
        .collect();
    assert_eq!(unnamed, ["/init", "/bin/job"]);
    assert_eq!(document, sbom(&image, None).unwrap());
    let lock = "[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\n";
    let document = sbom(&image, Some(lock)).unwrap();
    assert_eq!(document["components"][0]["purl"], "pkg:cargo/serde@1.0.0");
}

/// A program with the section in which `cargo auditable` keeps its list.
fn audited(json: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(json).unwrap();
    let data = zlib.finish().unwrap();
    let names = b"\0.dep-v0\0.shstrtab\0";
    let mut file = static_elf(b"");
    let data_at = file.len() as u64;
    file.extend_from_slice(&data);
    let names_at = file.len() as u64;
    file.extend_from_slice(names);
    let table_at = file.len() as u64;
    let mut section = |name: u32, at: u64, bytes: u64| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&bytes.to_le_bytes());
        file.extend_from_slice(&header);
    };
    section(0, 0, 0);
    section(1, data_at, data.len() as u64);
    section(9, names_at, names.len() as u64);
    file[40..48].copy_from_slice(&table_at.to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&3u16.to_le_bytes());
    file[62..64].copy_from_slice(&2u16.to_le_bytes());
    file
}

#[test]
fn audit_data_is_read_from_programs_and_damaged_data_is_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let json = br#"{"packages":[{"name":"cc","version":"1.0","source":"crates.io","kind":"build"},
        {"name":"serde","version":"1.0.1","source":"crates.io"},
        {"name":"tool","version":"0.1.0","source":"local","dependencies":[1],"root":true}]}"#;
    let image = of_root(dir.path(), "1", |root| {
        write(&root.join("bin/tool"), audited(json), 0o755);
        write(&root.join("bin/damaged"), audited(b"{"), 0o755);
    });
    let document = sbom(&image, None).unwrap();
    let names: Vec<&str> = document["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["purl"].as_str().unwrap())
        .collect();
    // What only compiled it is not in it.
    assert_eq!(names, ["pkg:cargo/serde@1.0.1", "pkg:cargo/tool@0.1.0"]);
    assert!(document.to_string().contains("/bin/damaged"));
}

#[test]
fn a_bomb_in_audit_data_is_not_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = vec![b' '; 64 << 20];
    let image = of_root(dir.path(), "1", |root| {
        fs::write(root.join("bin/bomb"), b"").unwrap();
        write(&root.join("bin/bomb"), audited(&bomb), 0o755);
    });
    let document = sbom(&image, None).unwrap();
    assert!(document["components"].as_array().unwrap().is_empty());
}
