//! Dynamic programs: their loader and libraries come from the root that is named, where their loader will look, or the
//! program is refused with what is missing.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anchorhold_images::{
    BuildError, BuildOptions, EntryKind, Image, LibraryError, Limits, Source, build,
};
use common::{built, dynamic_elf, elf, options, static_elf, write};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

struct Case {
    dir: tempfile::TempDir,
    options: BuildOptions,
}

impl Case {
    /// A program, and a root with its loader in it.
    fn new(program: &[u8]) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir.path().join("program"), program, 0o755);
        let source = Source::DynamicProgram {
            file,
            libraries_from: dir.path().join("root"),
        };
        let options = options(dir.path(), source);
        let case = Case { dir, options };
        case.put(LOADER, &dynamic_elf(None, &[], None, None));
        case
    }

    fn on_host(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(&path[1..])
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        write(&self.on_host(path), bytes, 0o644);
    }

    /// What is in the job's ramdisk, but for folders.
    fn files(&self) -> BTreeSet<String> {
        let image = Image::open(&built(&self.options).path).unwrap();
        let mut reader = image.ramdisks()[1].entries(Limits::default()).unwrap();
        let mut files = BTreeSet::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry.kind {
                EntryKind::File { .. } => {
                    assert_eq!(entry.mode, 0o755);
                    assert!(files.insert(format!("/{}", entry.path.display())));
                }
                EntryKind::Directory => assert_eq!(entry.mode, 0o755),
                other => panic!("{other:?}"),
            }
        }
        files
    }

    fn refusal(&self) -> LibraryError {
        match build(&self.options, &mut |_| ()).unwrap_err() {
            BuildError::Libraries { source, .. } => source,
            other => panic!("{other:?}"),
        }
    }
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn library(needed: &[&str], rpath: Option<&str>, runpath: Option<&str>) -> Vec<u8> {
    dynamic_elf(None, needed, rpath, runpath)
}

#[test]
fn a_program_comes_with_its_loader_its_libraries_and_theirs() {
    let case = Case::new(&dynamic_elf(
        Some(LOADER),
        &["libone.so.1", "libc.so.6"],
        None,
        None,
    ));
    case.put(
        "/lib/x86_64-linux-gnu/libone.so.1",
        &library(&["libtwo.so", "libc.so.6"], None, None),
    );
    case.put("/usr/lib/libtwo.so", &library(&["libone.so.1"], None, None));
    case.put("/lib/x86_64-linux-gnu/libc.so.6", &library(&[], None, None));
    case.put("/usr/lib/unneeded.so", &library(&[], None, None));
    assert_eq!(
        case.files(),
        set(&[
            "/job",
            LOADER,
            "/lib/x86_64-linux-gnu/libone.so.1",
            "/usr/lib/libtwo.so",
            "/lib/x86_64-linux-gnu/libc.so.6",
        ])
    );
    assert_eq!(
        built(&case.options).measurements,
        built(&case.options).measurements
    );
}

#[test]
fn a_static_program_needs_nothing_of_the_root() {
    let case = Case::new(&static_elf(b"alone"));
    assert_eq!(case.files(), set(&["/job"]));
}

#[test]
fn a_missing_library_is_named_with_who_needs_it_and_where_was_looked() {
    let case = Case::new(&dynamic_elf(Some(LOADER), &["libone.so"], None, None));
    let error = case.refusal();
    let text = error.to_string();
    assert!(
        matches!(&error, LibraryError::Missing { library, by: None, .. } if library == "libone.so")
    );
    assert!(
        text.contains("libone.so") && text.contains("/lib/x86_64-linux-gnu"),
        "{text}"
    );

    case.put("/usr/lib/libone.so", &library(&["libgone.so"], None, None));
    let error = case.refusal();
    assert!(
        matches!(&error, LibraryError::Missing { library, by: Some(by), .. } if library == "libgone.so" && by == "libone.so"),
        "{error}"
    );
}

#[test]
fn a_missing_loader_is_named() {
    let case = Case::new(&dynamic_elf(
        Some("/lib/ld-musl-x86_64.so.1"),
        &[],
        None,
        None,
    ));
    let error = case.refusal();
    assert!(
        matches!(&error, LibraryError::LoaderMissing { loader, .. } if loader == "/lib/ld-musl-x86_64.so.1"),
        "{error}"
    );
}

#[test]
fn runpath_is_for_a_programs_own_libraries_and_rpath_for_theirs_too() {
    let one = library(&["libtwo.so"], None, None);
    let two = library(&[], None, None);
    for (rpath, runpath, found) in [
        (Some("/opt/own/lib:/opt/more"), None, true),
        (None, Some("/opt/own/lib:/opt/more"), false),
        // Where there is a runpath, the other one counts for nothing.
        (Some("/opt/own/lib:/opt/more"), Some("/opt/own/lib"), false),
    ] {
        let case = Case::new(&dynamic_elf(Some(LOADER), &["libone.so"], rpath, runpath));
        case.put("/opt/own/lib/libone.so", &one);
        case.put("/opt/more/libtwo.so", &two);
        if found {
            let libraries = ["/opt/own/lib/libone.so", "/opt/more/libtwo.so"];
            assert_eq!(
                case.files(),
                set(&[&["/job", LOADER], &libraries[..]].concat())
            );
        } else {
            assert!(matches!(case.refusal(), LibraryError::Missing { .. }));
        }
    }
}

#[test]
fn origin_is_the_folder_in_the_image_and_not_on_the_building_machine() {
    let program = dynamic_elf(
        Some(LOADER),
        &["libone.so"],
        None,
        Some("$ORIGIN/../app/lib"),
    );
    let case = Case::new(&program);
    case.put(
        "/app/lib/libone.so",
        &library(&["libtwo.so"], None, Some("${ORIGIN}/deep")),
    );
    case.put("/app/lib/deep/libtwo.so", &library(&[], None, None));
    // Beside the program on the building machine: never looked at.
    write(
        &case.dir.path().join("app/lib/libone.so"),
        static_elf(b"x"),
        0o755,
    );
    assert_eq!(
        case.files(),
        set(&[
            "/job",
            LOADER,
            "/app/lib/libone.so",
            "/app/lib/deep/libtwo.so"
        ])
    );
}

#[test]
fn links_are_followed_inside_the_root_and_never_out_of_it() {
    let case = Case::new(&dynamic_elf(
        Some(LOADER),
        &["libone.so", "libtwo.so"],
        None,
        None,
    ));
    case.put("/usr/lib/real.so.1.2.3", &library(&[], None, None));
    fs::create_dir_all(case.on_host("/lib")).unwrap();
    symlink("/usr/lib/real.so.1.2.3", case.on_host("/lib/libone.so")).unwrap();
    // On the building machine this exists, in the root it does not.
    let outside = write(
        &case.dir.path().join("outside.so"),
        library(&[], None, None),
        0o644,
    );
    symlink(&outside, case.on_host("/lib/libtwo.so")).unwrap();
    assert!(
        matches!(case.refusal(), LibraryError::Missing { library, .. } if library == "libtwo.so")
    );
    fs::remove_file(case.on_host("/lib/libtwo.so")).unwrap();
    symlink(
        "../../../../usr/lib/real.so.1.2.3",
        case.on_host("/lib/libtwo.so"),
    )
    .unwrap();
    // Under the names that the loader asks for, each a file.
    assert_eq!(
        case.files(),
        set(&["/job", LOADER, "/lib/libone.so", "/lib/libtwo.so"])
    );
    fs::remove_file(case.on_host("/lib/libtwo.so")).unwrap();
    symlink("libtwo.so", case.on_host("/lib/libtwo.so")).unwrap();
    assert!(matches!(case.refusal(), LibraryError::Missing { .. }));
}

#[test]
fn a_library_never_takes_the_place_of_the_runtime_or_of_the_program() {
    let empty = library(&[], None, None);
    for (needed, runpath, path) in [
        ("init", "/", "/init"),
        (
            "anchorhold.toml",
            "/anchorhold",
            "/anchorhold/anchorhold.toml",
        ),
        ("libx.so", "/proc/self", "/proc/self/libx.so"),
        ("libx.so", "/dev", "/dev/libx.so"),
        ("job", "/", "/job"),
        ("libx.so", "/job", "/job/libx.so"),
        ("libx.so", "/usr/../job", "/job/libx.so"),
        ("/init", "/", "/init"),
        ("tmp", "/", "/tmp"),
    ] {
        let case = Case::new(&dynamic_elf(Some(LOADER), &[needed], None, Some(runpath)));
        case.put(path, &empty);
        let error = case.refusal();
        assert!(
            matches!(&error, LibraryError::Reserved { path: found, .. } if found == Path::new(path)),
            "{path}: {error}"
        );
    }
    let case = Case::new(&dynamic_elf(Some("/init"), &[], None, None));
    case.put("/init", &empty);
    assert!(matches!(case.refusal(), LibraryError::Reserved { .. }));
}

#[test]
fn libraries_that_no_loader_takes_are_refused_by_name() {
    let case = Case::new(&dynamic_elf(Some(LOADER), &["libone.so"], None, None));
    case.put("/lib/libone.so", b"GROUP ( /lib/libc.so.6 )");
    assert!(
        matches!(case.refusal(), LibraryError::Unusable { library, .. } if library == "libone.so")
    );
    case.put("/lib/libone.so", &elf(183, &[(1, 0, 0, 120)], b""));
    assert!(
        matches!(case.refusal(), LibraryError::Architecture { library, .. } if library == "libone.so")
    );
}

#[test]
fn this_machines_own_programs_find_their_libraries_in_this_machines_root() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::DynamicProgram {
        file: std::env::current_exe().unwrap(),
        libraries_from: "/".into(),
    };
    let mut options = options(dir.path(), source);
    // The test is for this machine's processor, and so must the runtime be.
    let machine = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    write(
        &options.init,
        elf(machine, &[(1, 0, 0, 120)], b"runtime"),
        0o755,
    );
    options.output = dir.path().join("own.eif");
    let image = Image::open(&built(&options).path).unwrap();
    let mut reader = image.ramdisks()[1].entries(Limits::default()).unwrap();
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(entry.path.display().to_string());
    }
    for part in ["libc.so", "ld-"] {
        assert!(names.iter().any(|name| name.contains(part)), "{names:?}");
    }
}
