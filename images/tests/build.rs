//! Building: the same inputs give the same bytes wherever and whenever, and what cannot run is refused by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anchorhold_images::{
    Architecture, Backend, BuildError, BuildOptions, Compression, EntryKind, FolderError, Image,
    ImageError, Limits, NO_KERNEL, Progress, SectionKind, Source, build,
};
use common::{built, dynamic_elf, elf, options, program_options, register, static_elf, write};

const MANIFEST: &str = "[job]\ncommand = [\"/bin/job\"]\n";

fn refusal(options: &BuildOptions) -> BuildError {
    let folder = options.output.parent().unwrap();
    let names = || -> Vec<_> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    let before = names();
    let error = build(options, &mut |_| ()).unwrap_err();
    assert_eq!(names(), before, "a failed build leaves nothing");
    error
}

/// All entries of the image's ramdisks: number, path, mode, and content or kind.
fn unpacked(image: &Path) -> Vec<BTreeMap<PathBuf, (u32, String)>> {
    let image = Image::open(image).unwrap();
    image
        .ramdisks()
        .iter()
        .map(|ramdisk| {
            let mut reader = ramdisk.entries(Limits::default()).unwrap();
            let mut entries = BTreeMap::new();
            while let Some(entry) = reader.next_entry().unwrap() {
                assert_eq!((entry.uid, entry.gid, entry.mtime), (0, 0, 0));
                let mut data = Vec::new();
                reader.read_to_end(&mut data).unwrap();
                let what = match entry.kind {
                    EntryKind::File { .. } => String::from_utf8_lossy(&data).into_owned(),
                    EntryKind::Symlink { target } => format!("-> {}", target.display()),
                    other => format!("{other:?}"),
                };
                entries.insert(entry.path, (entry.mode, what));
            }
            entries
        })
        .collect()
}

/// A folder as root, its files made in the given order and with the given file modes.
fn root(dir: &Path, backwards: bool, mode: u32) -> PathBuf {
    let root = dir.join(format!("root-{backwards}"));
    let mut steps: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| {
            drop(write(
                &root.join("bin/job"),
                static_elf(b"job"),
                mode | 0o111,
            ));
        }),
        Box::new(|| drop(write(&root.join("etc/config"), "a = 1", mode))),
        Box::new(|| drop(write(&root.join("etc-other"), "b", mode))),
        Box::new(|| fs::create_dir_all(root.join("empty")).unwrap()),
        Box::new(|| {
            fs::create_dir_all(root.join("usr")).unwrap();
            symlink("../etc/config", root.join("usr/link")).unwrap();
        }),
        Box::new(|| fs::create_dir_all(root.join("dev")).unwrap()),
        Box::new(|| drop(write(&root.join("tmp/seed"), "s", mode))),
    ];
    if backwards {
        steps.reverse();
    }
    for step in &steps {
        step();
    }
    for folder in ["bin", "etc", "empty", "usr"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode | 0o300)).unwrap();
    }
    drop(steps);
    root
}

fn root_options(dir: &Path, root: PathBuf) -> BuildOptions {
    let mut options = options(dir, Source::Root { dir: root });
    options.manifest = Some(write(&dir.join("manifest.toml"), MANIFEST, 0o644));
    options
}

#[test]
fn a_program_becomes_an_image_with_the_documented_layout() {
    let dir = tempfile::tempdir().unwrap();
    let built = built(&program_options(dir.path()));
    assert_eq!(built.path, dir.path().join("image.eif"));
    assert_eq!(built.size, fs::metadata(&built.path).unwrap().len());
    assert_eq!(
        fs::metadata(&built.path).unwrap().permissions().mode() & 0o777,
        0o644
    );

    let ramdisks = unpacked(&built.path);
    let folder = |mode| (mode, "Directory".to_owned());
    let runtime = String::from_utf8_lossy(&static_elf(b"the runtime")).into_owned();
    let expected: BTreeMap<PathBuf, _> = [
        ("anchorhold", folder(0o755)),
        ("dev", folder(0o755)),
        ("init", (0o755, runtime)),
        ("proc", folder(0o755)),
        ("run", folder(0o755)),
        ("sys", folder(0o755)),
        ("tmp", folder(0o1777)),
    ]
    .map(|(path, entry)| (path.into(), entry))
    .into();
    assert_eq!(ramdisks[0], expected);
    let job = String::from_utf8_lossy(&static_elf(b"the job")).into_owned();
    assert_eq!(ramdisks[1], [("job".into(), (0o755, job))].into());
    let manifest = "[job]\ncommand = [\"/job\"]\n".to_owned();
    let expected: BTreeMap<PathBuf, _> = [
        ("anchorhold", folder(0o755)),
        ("anchorhold/anchorhold.toml", (0o644, manifest)),
    ]
    .map(|(path, entry)| (path.into(), entry))
    .into();
    assert_eq!(ramdisks[2], expected);

    let image = Image::open(&built.path).unwrap();
    assert_eq!(image.manifest().unwrap().unwrap(), built.manifest);
    assert!(!image.has_kernel().unwrap());
    assert_eq!(image.architecture(), Architecture::X86_64);
    assert_eq!(image.default_resources(), (256 << 20, 1));
    let kinds: Vec<_> = image
        .sections()
        .iter()
        .map(|section| section.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            SectionKind::Kernel,
            SectionKind::CommandLine,
            SectionKind::Metadata,
            SectionKind::Ramdisk,
            SectionKind::Ramdisk,
            SectionKind::Ramdisk,
        ]
    );
}

#[test]
fn the_measurements_of_a_build_are_those_computed_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let built = built(&program_options(dir.path()));
    let bytes = fs::read(&built.path).unwrap();
    let image = Image::open(&built.path).unwrap();
    let data = |index: usize| -> &[u8] {
        let section = image.sections()[index];
        &bytes[section.offset as usize..(section.offset + section.size) as usize]
    };
    assert_eq!(data(0), NO_KERNEL.as_bytes());
    let application = [data(4), data(5)].concat();
    let bootstrap = [data(0), data(1), data(3)].concat();
    let all = [&bootstrap[..], &application].concat();
    assert_eq!(built.measurements.pcr0.to_string(), register(&all));
    assert_eq!(built.measurements.pcr1.to_string(), register(&bootstrap));
    assert_eq!(built.measurements.pcr2.to_string(), register(&application));
}

#[test]
fn the_same_folder_elsewhere_later_in_another_order_and_under_another_umask_is_the_same_image() {
    for compression in [Compression::Gzip, Compression::None] {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let image = |dir: &Path, backwards, mode| {
            let mut options = root_options(dir, root(dir, backwards, mode));
            options.compression = Some(compression);
            fs::read(built(&options).path).unwrap()
        };
        let first = image(one.path(), false, 0o400);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = image(&two.path().join("a much longer path"), true, 0o666);
        assert_eq!(first, second);
    }
}

#[test]
fn the_same_program_elsewhere_is_the_same_image() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = |dir: &Path| fs::read(built(&program_options(dir)).path).unwrap();
    assert_eq!(image(one.path()), image(&two.path().join("elsewhere")));
}

#[test]
fn modes_are_reduced_to_whether_a_file_may_be_executed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = root(dir.path(), false, 0o400);
    fs::set_permissions(folder.join("etc-other"), fs::Permissions::from_mode(0o6751)).unwrap();
    let built = built(&root_options(dir.path(), folder));
    let application = &unpacked(&built.path)[1];
    let modes: Vec<_> = application
        .iter()
        .map(|(path, (mode, _))| (path.to_str().unwrap(), *mode))
        .collect();
    assert_eq!(
        modes,
        [
            ("bin", 0o755),
            ("bin/job", 0o755),
            ("empty", 0o755),
            ("etc", 0o755),
            ("etc/config", 0o644),
            ("etc-other", 0o755),
            ("tmp/seed", 0o644),
            ("usr", 0o755),
            ("usr/link", 0o777),
        ]
    );
    assert_eq!(application[Path::new("usr/link")].1, "-> ../etc/config");
}

#[test]
fn another_job_changes_pcr0_and_pcr2_and_another_runtime_pcr0_and_pcr1() {
    let dir = tempfile::tempdir().unwrap();
    let first = built(&program_options(dir.path())).measurements;
    let mut options = program_options(dir.path());
    write(&dir.path().join("program"), static_elf(b"the joB"), 0o755);
    let job = built(&options).measurements;
    assert!(job.pcr0 != first.pcr0 && job.pcr1 == first.pcr1 && job.pcr2 != first.pcr2);
    options = program_options(dir.path());
    write(
        &dir.path().join("runtime"),
        static_elf(b"another runtime"),
        0o755,
    );
    let runtime = built(&options).measurements;
    assert!(runtime.pcr0 != first.pcr0 && runtime.pcr1 != first.pcr1 && runtime.pcr2 == first.pcr2);
}

#[test]
fn a_comment_in_the_manifest_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let image = |text: &str, options: &mut BuildOptions| {
        options.manifest = Some(write(&dir.path().join("m.toml"), text, 0o600));
        built(options).measurements
    };
    let plain = image("[job]\ncommand = [\"/job\"]\n", &mut options);
    let commented = image("[job]\ncommand = [\"/job\"]\n#\n", &mut options);
    assert!(plain.pcr2 != commented.pcr2 && plain.pcr1 == commented.pcr1);
}

#[test]
fn the_build_time_is_1970_or_what_source_date_epoch_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let time = |options: &BuildOptions| {
        let built = built(options);
        (
            Image::open(&built.path)
                .unwrap()
                .metadata()
                .build_metadata
                .build_time
                .clone(),
            built.measurements,
        )
    };
    let (unset, measured) = time(&options);
    assert_eq!(unset, "1970-01-01T00:00:00Z");
    options.source_date_epoch = Some("1700000000".into());
    assert_eq!(
        time(&options),
        ("2023-11-14T22:13:20Z".to_owned(), measured)
    );
}

#[test]
fn an_unusable_source_date_epoch_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let unusable: [OsString; 8] = [
        "".into(),
        "-1".into(),
        "+1".into(),
        " 1".into(),
        "1.5".into(),
        "yesterday".into(),
        "99999999999999999999".into(),
        OsString::from_vec(vec![0xff]),
    ];
    for epoch in unusable {
        options.source_date_epoch = Some(epoch.clone());
        assert!(matches!(refusal(&options), BuildError::SourceDateEpoch(found) if found == epoch));
    }
}

#[test]
fn a_dynamic_program_is_refused_with_its_loader_and_libraries() {
    let program = dynamic_elf(
        Some("/lib/ld.so.2"),
        &["libfirst.so.1", "libm.so.6"],
        None,
        None,
    );
    let dir = tempfile::tempdir().unwrap();
    let options = program_options(dir.path());
    write(&dir.path().join("program"), &program, 0o755);
    let error = refusal(&options);
    let BuildError::Dynamic {
        what: "program",
        interpreter,
        needed,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(interpreter.as_deref(), Some("/lib/ld.so.2"));
    assert_eq!(needed, &["libfirst.so.1", "libm.so.6"]);
    assert!(error.to_string().contains("crt-static"), "{error}");

    // The same as the runtime.
    let options = program_options(dir.path());
    write(&dir.path().join("runtime"), &program, 0o755);
    assert!(matches!(
        refusal(&options),
        BuildError::Dynamic {
            what: "runtime",
            ..
        }
    ));
}

#[test]
fn this_machines_own_dynamic_programs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    // The test itself is a dynamic program of the machine.
    options.source = Source::Program {
        file: std::env::current_exe().unwrap(),
    };
    let error = refusal(&options);
    let BuildError::Dynamic {
        interpreter,
        needed,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(interpreter.unwrap().starts_with('/'));
    assert!(
        needed.iter().any(|library| library.starts_with("libc.")),
        "{needed:?}"
    );
}

#[test]
fn what_is_no_program_for_an_enclave_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let static_program = static_elf(b"x");
    let change = |at: usize, byte: u8| {
        let mut bytes = static_program.clone();
        bytes[at] = byte;
        bytes
    };
    for (bytes, message) in [
        (b"echo\n".to_vec(), "no ELF file"),
        (Vec::new(), "no ELF file"),
        (change(0, 0), "no ELF file"),
        (change(4, 1), "no 64-bit"),
        (change(5, 2), "no 64-bit"),
        (change(16, 1), "no program (type 1)"),
        (change(18, 3), "another processor (ELF machine 3)"),
        (change(56, 0), "damaged"),
        (change(56, 200), "damaged"),
        (change(39, 0xff), "damaged"),
        (static_program[..100].to_vec(), "damaged"),
    ] {
        let options = program_options(dir.path());
        write(&dir.path().join("program"), &bytes, 0o755);
        let error = refusal(&options);
        assert!(
            matches!(
                error,
                BuildError::Program {
                    what: "program",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn what_is_wrong_already_is_said_before_there_is_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let changes: [fn(&mut BuildOptions); 5] = [
        |options| options.source_date_epoch = Some("x".into()),
        |options| options.command_line = Some(String::new()),
        |options| options.manifest = Some("/nonexistent".into()),
        |options| options.kernel = Some("/nonexistent".into()),
        |options| {
            options.source = Source::Program {
                file: "/nonexistent".into(),
            };
        },
    ];
    for change in changes {
        let mut options = program_options(dir.path());
        options.init = PathBuf::new();
        anchorhold_images::check(&options).unwrap();
        change(&mut options);
        let early = anchorhold_images::check(&options).unwrap_err();
        options.init = dir.path().join("runtime");
        assert_eq!(early.to_string(), refusal(&options).to_string());
    }
}

#[test]
fn a_script_is_refused_with_what_runs_it_and_how_to_pack_both() {
    let dir = tempfile::tempdir().unwrap();
    let options = program_options(dir.path());
    let text = "#!/usr/bin/env python3\nprint()\n";
    write(&dir.path().join("program"), text, 0o755);
    let said = refusal(&options).to_string();
    for part in ["/usr/bin/env python3", "--root", "--container"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_program_for_another_processor_than_the_runtime_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = program_options(dir.path());
    write(
        &dir.path().join("program"),
        elf(183, &[(1, 0, 0, 120)], b""),
        0o755,
    );
    let error = refusal(&options);
    assert!(
        matches!(
            error,
            BuildError::Architecture {
                found: Architecture::Arm64,
                expected: Architecture::X86_64,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn an_arm64_program_becomes_an_arm64_image() {
    let dir = tempfile::tempdir().unwrap();
    let options = program_options(dir.path());
    for name in ["program", "runtime"] {
        write(
            &dir.path().join(name),
            elf(183, &[(1, 0, 0, 120)], name.as_bytes()),
            0o755,
        );
    }
    assert_eq!(
        Image::open(&built(&options).path).unwrap().architecture(),
        Architecture::Arm64
    );
}

#[test]
fn a_folder_needs_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = root_options(dir.path(), root(dir.path(), false, 0o644));
    options.manifest = None;
    assert!(matches!(refusal(&options), BuildError::NoManifest));
}

#[test]
fn a_bad_manifest_is_refused_with_file_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    options.manifest = Some(write(
        &dir.path().join("m.toml"),
        "[job]\ncomand = []\n",
        0o644,
    ));
    let message = refusal(&options).to_string();
    assert!(
        message.contains("m.toml: line 2, column 1: unknown key `job.comand`"),
        "{message}"
    );
}

fn folder_refusal(manifest: &str, change: impl FnOnce(&Path)) -> FolderError {
    let dir = tempfile::tempdir().unwrap();
    let folder = root(dir.path(), false, 0o644);
    change(&folder);
    let mut options = root_options(dir.path(), folder);
    options.manifest = Some(write(&dir.path().join("manifest.toml"), manifest, 0o644));
    match refusal(&options) {
        BuildError::Folder(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn special_files_are_refused_by_name() {
    let error = folder_refusal(MANIFEST, |root| {
        drop(UnixListener::bind(root.join("etc/s")).unwrap());
    });
    assert!(error.to_string().contains("/etc/s is a socket"), "{error}");
}

#[test]
fn names_of_the_runtime_are_refused() {
    for name in [
        "init",
        "anchorhold/x",
        "dev/null",
        "proc/1",
        "sys/a/b",
        "anchorhold/anchorhold.toml",
    ] {
        let error = folder_refusal(MANIFEST, |root| drop(write(&root.join(name), "", 0o644)));
        assert!(
            matches!(error, FolderError::Reserved { .. }),
            "{name}: {error}"
        );
    }
    for name in ["proc", "sys", "anchorhold", "run", "init"] {
        let error = folder_refusal(MANIFEST, |root| symlink("/etc", root.join(name)).unwrap());
        assert!(
            matches!(error, FolderError::Reserved { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_command_that_is_not_there_is_refused() {
    let manifest = MANIFEST.replace("/bin/job", "/bin/other");
    let error = folder_refusal(&manifest, |_| ());
    assert!(
        matches!(error, FolderError::CommandMissing { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("/bin/other is not in the image"),
        "{error}"
    );
}

#[test]
fn a_command_is_followed_through_links_inside_the_image_only() {
    let dir = tempfile::tempdir().unwrap();
    let folder = root(dir.path(), false, 0o644);
    symlink("/usr/../bin", folder.join("sbin")).unwrap();
    symlink("../../../sbin/job", folder.join("usr/job")).unwrap();
    let mut options = root_options(dir.path(), folder);
    options.manifest = Some(write(
        &dir.path().join("m.toml"),
        "[job]\ncommand = [\"/usr/job\"]\n",
        0o644,
    ));
    built(&options);

    let manifest = MANIFEST.replace("/bin/job", "/bin/sh");
    // There on the building machine, but not in the image.
    let error = folder_refusal(&manifest, |root| {
        symlink("/bin/bash", root.join("bin/sh")).unwrap();
    });
    assert!(
        error
            .to_string()
            .contains("/bin/bash, to which it leads, is missing"),
        "{error}"
    );
    let error = folder_refusal(&manifest, |root| {
        symlink("/bin/sh", root.join("bin/sh")).unwrap();
    });
    assert!(matches!(error, FolderError::CommandLoops { .. }), "{error}");
}

#[test]
fn a_command_that_cannot_be_started_is_refused() {
    let error = folder_refusal("[job]\ncommand = [\"/etc/config\"]\n", |_| ());
    assert!(
        matches!(error, FolderError::CommandNotExecutable { .. }),
        "{error}"
    );
    let error = folder_refusal("[job]\ncommand = [\"/etc\"]\n", |_| ());
    assert!(
        matches!(error, FolderError::CommandIsFolder { .. }),
        "{error}"
    );
    let error = folder_refusal("[job]\ncommand = [\"/etc/config/x\"]\n", |_| ());
    assert!(
        matches!(error, FolderError::CommandMissing { .. }),
        "{error}"
    );
    let script = |root: &Path| {
        drop(write(
            &root.join("bin/job"),
            "#! /usr/bin/python3 -I\n",
            0o755,
        ));
    };
    let error = folder_refusal(MANIFEST, script);
    let FolderError::InterpreterMissing { interpreter, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(interpreter, "/usr/bin/python3");
    let test = std::env::current_exe().unwrap();
    let error = folder_refusal(MANIFEST, |root| {
        fs::copy(&test, root.join("bin/job")).unwrap();
    });
    assert!(
        matches!(error, FolderError::InterpreterMissing { .. }),
        "{error}"
    );
}

#[test]
fn a_programs_command_must_be_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    options.manifest = Some(write(&dir.path().join("m.toml"), MANIFEST, 0o644));
    assert!(matches!(
        refusal(&options),
        BuildError::Folder(FolderError::CommandMissing { .. })
    ));
}

/// A certificate authority, with its private key.
fn authority() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (
        parameters.self_signed(&key).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn with_ca(dir: &Path, pem: &str) -> BuildOptions {
    let mut options = program_options(dir);
    write(&dir.join("config/ca.pem"), pem, 0o600);
    let manifest = "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://k\"\nca = \"ca.pem\"\n\
                    key = \"alias/a\"\nregion = \"us-east-1\"\n";
    options.manifest = Some(write(&dir.join("config/m.toml"), manifest, 0o644));
    options
}

#[test]
fn the_key_services_authority_is_found_beside_the_manifest_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let pem = authority().0;
    let first = built(&with_ca(dir.path(), &pem));
    let said = &unpacked(&first.path)[2];
    assert_eq!(
        said[Path::new("anchorhold/key-service-ca.pem")],
        (0o644, pem.clone())
    );
    let other = built(&with_ca(dir.path(), &format!("{pem}\n")));
    assert_ne!(first.measurements.pcr2, other.measurements.pcr2);
}

#[test]
fn an_authority_that_is_not_certificates_alone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = authority();
    for pem in [
        String::new(),
        "text".to_owned(),
        key.clone(),
        format!("{certificate}{key}"),
        certificate.replace('M', "N"),
    ] {
        assert!(
            matches!(refusal(&with_ca(dir.path(), &pem)), BuildError::Ca { .. }),
            "{pem}"
        );
    }
    let options = with_ca(dir.path(), &certificate);
    fs::remove_file(dir.path().join("config/ca.pem")).unwrap();
    assert!(matches!(refusal(&options), BuildError::Read { .. }));
}

#[test]
fn a_kernel_is_packed_and_its_version_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    // The fields of a bzImage's header that say where its version stands.
    let mut kernel = vec![0; 0x600];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    kernel[0x500..0x513].copy_from_slice(b"6.1.0 (builder) #1\0");
    options.kernel = Some(write(&dir.path().join("bzImage"), &kernel, 0o644));
    options.command_line = Some("console=ttyS0".to_owned());
    let built = built(&options);
    let image = Image::open(&built.path).unwrap();
    assert!(image.has_kernel().unwrap());
    assert_eq!(image.metadata().build_metadata.kernel_version, "6.1.0");
    assert_eq!(image.command_line(), "console=ttyS0");
    let backends = serde_json::to_value(image.describe().unwrap().backends).unwrap();
    assert_eq!(backends, serde_json::json!(["nitro", "qemu", "sandbox"]));

    write(&dir.path().join("bzImage"), "", 0o644);
    assert!(matches!(refusal(&options), BuildError::EmptyKernel { .. }));
}

#[test]
fn a_command_line_that_no_kernel_takes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    for line in ["", "a\n", "ä", &"x".repeat(2048)] {
        options.command_line = Some(line.to_owned());
        assert!(matches!(refusal(&options), BuildError::CommandLine(_)));
    }
}

#[test]
fn an_older_image_is_replaced_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let options = program_options(dir.path());
    let first = fs::read(built(&options).path).unwrap();
    let reader = Image::open(&options.output).unwrap();
    write(&dir.path().join("program"), "no program", 0o755);
    refusal(&options);
    assert_eq!(fs::read(&options.output).unwrap(), first);
    write(&dir.path().join("program"), static_elf(b"new"), 0o755);
    built(&options);
    assert_ne!(fs::read(&options.output).unwrap(), first);
    // A reader keeps the image that it opened.
    assert_eq!(reader.manifest().unwrap().unwrap().job.command, ["/job"]);
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    options.output = dir.path().join("program/image.eif");
    let error = build(&options, &mut |_| ()).unwrap_err();
    assert!(matches!(error, BuildError::Write { .. }), "{error:?}");
    options.output = dir.path().join("taken");
    fs::create_dir(&options.output).unwrap();
    assert!(matches!(refusal(&options), BuildError::Write { .. }));
}

#[test]
fn compressed_ramdisks_end_where_a_plain_one_may_follow() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    options.compression = Some(Compression::Gzip);
    for length in 0..8 {
        write(
            &dir.path().join("program"),
            static_elf(&vec![b'x'; length]),
            0o755,
        );
        let image = Image::open(&built(&options).path).unwrap();
        let ramdisks = image.ramdisks();
        for ramdisk in &ramdisks[..2] {
            assert_eq!(ramdisk.compression().unwrap(), Compression::Gzip);
            assert_eq!(ramdisk.size() % 4, 0);
        }
        // What says what the image is for is never compressed.
        assert_eq!(ramdisks[2].compression().unwrap(), Compression::None);
        let (packed, description) = (ramdisks[1].size(), image.describe().unwrap());
        options.compression = Some(Compression::None);
        let plain = Image::open(&built(&options).path).unwrap();
        options.compression = Some(Compression::Gzip);
        let unpacked = plain.ramdisks()[1].size();
        let told = &description.ramdisks[1];
        assert_eq!((told.size, told.unpacked_size), (packed, Some(unpacked)));
    }
}

#[test]
fn progress_names_what_is_packed() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    build(&program_options(dir.path()), &mut |progress| {
        told.push(match progress {
            Progress::Packing { path, .. } => path.display().to_string(),
            Progress::Measuring => "measuring".to_owned(),
            Progress::Compiling(line) => line.to_owned(),
            other => format!("{other:?}"),
        });
    })
    .unwrap();
    assert_eq!(told, ["init", "job", "measuring"]);
}

#[test]
fn a_description_has_the_names_of_nitro_cli() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = program_options(dir.path());
    let manifest = "[image]\nname = \"cards\"\nversion = \"1.0\"\n[job]\ncommand = [\"/job\"]\n";
    options.manifest = Some(write(&dir.path().join("m.toml"), manifest, 0o644));
    let built = built(&options);
    let json = serde_json::to_value(Image::open(&built.path).unwrap().describe().unwrap()).unwrap();
    assert_eq!(json["EifVersion"], 4);
    assert_eq!(json["Measurements"]["HashAlgorithm"], "Sha384 { ... }");
    assert_eq!(
        json["Measurements"]["PCR0"],
        built.measurements.pcr0.to_string()
    );
    assert_eq!(
        json["Measurements"]["PCR1"],
        built.measurements.pcr1.to_string()
    );
    assert_eq!(
        json["Measurements"]["PCR2"],
        built.measurements.pcr2.to_string()
    );
    assert!(json["Measurements"].get("PCR8").is_none());
    assert_eq!(json["IsSigned"], false);
    assert_eq!(json["CheckCRC"], true);
    assert_eq!(json["ImageName"], "cards");
    assert_eq!(json["ImageVersion"], "1.0");
    assert_eq!(json["Metadata"]["BuildTool"], "anchorhold");
    assert_eq!(json["Metadata"]["BuildTime"], "1970-01-01T00:00:00Z");
    assert_eq!(json["Metadata"]["OperatingSystem"], "Linux");
    assert_eq!(json["Metadata"]["KernelVersion"], "none (sandbox only)");
    assert!(json["Metadata"]["DockerInfo"].is_null());
    assert_eq!(json["Sections"][3]["Type"], "Ramdisk");
    assert_eq!(json["Manifest"]["job"]["command"][0], "/job");
    assert_eq!(json["Backends"], serde_json::json!(["sandbox"]));
    assert_eq!(json["Size"], built.size);
    assert!(json["MinimumMemoryMiB"].as_u64().unwrap() >= 32);
    assert_eq!(json["MinimumMemoryMiB"], built.minimum_memory_mib);
    assert_eq!(json["Architecture"], "x86_64");
}

/// An image of which only the last ramdisk is one that an enclave could unpack.
fn unpackable_but_for(last: &[(&str, &str)]) -> Image {
    let mut sections = common::sections();
    sections[4].1 = [&[0x1f, 0x8b][..], &[7; 998], &[0, 0, 0, 0x40]].concat();
    let mut archive = anchorhold_images::cpio::Writer::new(Vec::new());
    for (path, text) in last {
        let attributes = anchorhold_images::cpio::Attributes::of_root(0o644);
        let (path, mut data) = (Path::new(path), text.as_bytes());
        archive
            .linked_file(path, attributes, 1, text.len() as u64, &mut data)
            .unwrap();
    }
    sections.push((SectionKind::Ramdisk, archive.finish().unwrap()));
    anchorhold_images::Unmeasured::from_bytes("t", common::image(&sections))
        .unwrap()
        .measure()
        .unwrap()
}

#[test]
fn a_description_takes_the_last_manifest_and_unpacks_nothing_before_it() {
    let text = "[job]\ncommand = [\"/last\"]\n";
    let image = unpackable_but_for(&[("anchorhold/anchorhold.toml", text)]);
    assert_eq!(image.manifest().unwrap().unwrap().job.command, ["/last"]);
    let description = image.describe().unwrap();
    assert_eq!(description.ramdisks[1].unpacked_size, Some(1 << 30));
    assert_eq!(description.manifest_problem, None);
    assert!(description.minimum_memory_mib > 1024);
    // Without one there, the others are looked through.
    let image = unpackable_but_for(&[("other", text)]);
    let problem = image.manifest().unwrap_err().to_string();
    let description = image.describe().unwrap();
    assert_eq!(description.manifest_problem, Some(problem));
    assert_eq!(description.manifest, None);
    assert!(!description.backends.contains(&Backend::Sandbox));
}

#[test]
fn of_two_manifests_the_later_is_described_as_it_is_the_one_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = root(dir.path(), false, 0o644);
    let built = built(&root_options(dir.path(), folder));
    let bytes = fs::read(&built.path).unwrap();
    let image = Image::open(&built.path).unwrap();
    let mut sections: Vec<_> = image
        .sections()
        .iter()
        .map(|section| {
            let range = section.offset as usize..(section.offset + section.size) as usize;
            (section.kind, bytes[range].to_vec())
        })
        .collect();
    // The same files with another manifest behind them.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut options = program_options(&other);
    let text = "[job]\ncommand = [\"/job\", \"other\"]\n";
    options.manifest = Some(write(&other.join("m.toml"), text, 0o644));
    let second = common::built(&options);
    let second_bytes = fs::read(&second.path).unwrap();
    let last = *Image::open(&second.path)
        .unwrap()
        .sections()
        .last()
        .unwrap();
    let range = last.offset as usize..(last.offset + last.size) as usize;
    sections.push((SectionKind::Ramdisk, second_bytes[range].to_vec()));
    let both = anchorhold_images::Unmeasured::from_bytes("t", common::image(&sections))
        .unwrap()
        .measure()
        .unwrap();
    assert_eq!(
        both.manifest().unwrap().unwrap().job.command,
        ["/job", "other"]
    );
    assert_ne!(both.measurements().pcr2, built.measurements.pcr2);
}

#[test]
fn a_gzip_ramdisk_with_more_behind_it_is_refused() {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&common::empty_archive()).unwrap();
    let one = gzip.finish().unwrap();
    for (ramdisk, good) in [
        (one.clone(), true),
        ([&one[..], &[0; 3]].concat(), true),
        ([&one[..], &one].concat(), false),
        ([&one[..], b"x"].concat(), false),
        (one[..one.len() - 1].to_vec(), false),
        (b"\xfd7zXZ\0".to_vec(), false),
        (b"\x28\xb5\x2f\xfd".to_vec(), false),
        (b"junk".to_vec(), false),
    ] {
        let mut sections = common::sections();
        sections[3].1 = ramdisk;
        let image = anchorhold_images::Unmeasured::from_bytes("t", common::image(&sections))
            .unwrap()
            .measure()
            .unwrap();
        // What is measured is told in any case.
        let description = image.describe().unwrap();
        assert_eq!(description.manifest_problem.is_none(), good);
        assert_eq!(&description.measurements.registers, image.measurements());
        match image.manifest() {
            Ok(_) => assert!(good),
            Err(error) => {
                assert!(!good, "{error}");
                assert!(
                    matches!(error, ImageError::Ramdisk { .. } | ImageError::Read { .. }),
                    "{error:?}"
                );
            }
        }
    }
}

#[test]
fn a_decompression_bomb_stops_at_the_callers_limit() {
    let dir = tempfile::tempdir().unwrap();
    let folder = root(dir.path(), false, 0o644);
    let zeros = fs::File::create(folder.join("zeros")).unwrap();
    zeros.set_len(64 << 20).unwrap();
    let mut options = root_options(dir.path(), folder);
    // Nobody asked for it: so large a ramdisk is compressed.
    assert_eq!(options.compression, None);
    let built = built(&options);
    assert!(built.size < 1 << 20);
    options.compression = Some(Compression::None);
    assert!(common::built(&options).size > 64 << 20);
    options.compression = None;
    common::built(&options);
    let image = Image::open(&built.path).unwrap();
    let mut reader = image.ramdisks()[1]
        .entries(Limits {
            bytes: 1 << 20,
            entries: 100,
        })
        .unwrap();
    let error = loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the limit holds nobody up"),
            Err(error) => break error,
        }
    };
    assert!(
        error.to_string().contains("more than 1048576 bytes"),
        "{error}"
    );
}
