//! Container images as sources: layouts and archives, layers upon layers, what their configuration says, and the
//! corpus of hostile archives in `hostile/`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anchorhold_images::{
    BuildError, BuildOptions, Compression, ContainerError, ContainerOptions, EntryKind, Image,
    Limits, Source, build,
};
use common::oci::{Blob, Layer, OciImage, TarEntry, blob, descriptor, write_archive, write_folder};
use serde_json::json;

fn options(dir: &Path, path: PathBuf) -> BuildOptions {
    common::options(dir, Source::Container(ContainerOptions::new(path)))
}

fn base() -> Layer {
    Layer::default().file("job", 0o755, &common::static_elf(b"container"))
}

fn build_layout(dir: &Path, image: &OciImage) -> Result<anchorhold_images::Built, BuildError> {
    let layout = write_folder(&dir.join("layout"), &image.layout());
    let built = build(&options(dir, layout), &mut |_| ());
    if built.is_err() {
        let left: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().ends_with(".eif"))
            .collect();
        assert!(left.is_empty(), "a refused image leaves nothing: {left:?}");
    }
    built
}

fn refused(image: &OciImage) -> String {
    let dir = tempfile::tempdir().unwrap();
    build_layout(dir.path(), image).unwrap_err().to_string()
}

/// An application's entry: mode, uid, gid, and what it is.
type Seen = (u32, u32, u32, String);

/// The application's ramdisk, but for the runtime's own folder.
fn unpacked(image: &Path) -> BTreeMap<String, Seen> {
    let image = Image::open(image).unwrap();
    let mut reader = image.ramdisks()[1].entries(Limits::default()).unwrap();
    let mut seen = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = String::new();
        let what = match &entry.kind {
            EntryKind::File { .. } => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                data.push_str(&String::from_utf8_lossy(&bytes));
                format!("file {data}")
            }
            EntryKind::HardLink { target, size } => format!("hard {} {size}", target.display()),
            EntryKind::Symlink { target } => format!("link {}", target.display()),
            EntryKind::Directory => "folder".to_owned(),
            other => panic!("{other:?}"),
        };
        if !entry.path.starts_with("anchorhold") {
            let path = entry.path.display().to_string();
            seen.insert(path, (entry.mode, entry.uid, entry.gid, what));
        }
    }
    seen
}

fn merged(layers: Vec<Layer>) -> BTreeMap<String, Seen> {
    let dir = tempfile::tempdir().unwrap();
    let layers = layers
        .into_iter()
        .map(|layer| Blob::plain(&layer.end()))
        .collect();
    let built = build_layout(dir.path(), &OciImage::new(layers)).unwrap();
    let mut seen = unpacked(&built.path);
    seen.remove("job").unwrap();
    seen
}

fn what(seen: &BTreeMap<String, Seen>) -> Vec<(&str, &str)> {
    seen.iter()
        .map(|(path, (_, _, _, what))| (path.as_str(), what.as_str()))
        .collect()
}

#[test]
fn layouts_archives_and_saved_images_of_the_same_layers_measure_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let archives = [
        base().folder("etc").file("etc/a", 0o600, b"lower").end(),
        Layer::default().file("etc/b", 0o644, b"upper").end(),
    ];
    let kinds: [fn(&[u8]) -> Blob; 3] = [Blob::plain, Blob::gzip, Blob::zstd];
    let mut pcrs = Vec::new();
    for (index, kind) in kinds.into_iter().enumerate() {
        let image = OciImage::new(archives.iter().map(|archive| kind(archive)).collect());
        for (form, path) in [
            write_folder(&dir.path().join(format!("layout-{index}")), &image.layout()),
            write_archive(
                &dir.path().join(format!("oci-{index}.tar")),
                &image.layout(),
            ),
            write_archive(
                &dir.path().join(format!("saved-{index}.tar")),
                &image.saved(),
            ),
        ]
        .into_iter()
        .enumerate()
        {
            for compression in [None, Some(Compression::Gzip)] {
                let mut options = options(dir.path(), path.clone());
                options.compression = compression;
                let built = common::built(&options);
                assert_eq!(
                    what(&unpacked(&built.path))[..3],
                    [
                        ("etc", "folder"),
                        ("etc/a", "file lower"),
                        ("etc/b", "file upper")
                    ],
                    "{form}"
                );
                if compression.is_none() {
                    pcrs.push(built.measurements.pcr0);
                }
            }
        }
    }
    assert!(pcrs.iter().all(|pcr| *pcr == pcrs[0]), "{pcrs:?}");
}

#[test]
fn layers_with_more_than_a_block_of_data_are_packed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let archive = base()
        .file("z-first-in-the-layer", 0o644, &noise)
        .file("a-later-in-the-layer", 0o644, &noise[1..])
        .file("empty", 0o644, b"")
        .end();
    let image = OciImage::new(vec![Blob::gzip(&archive)]);
    let layout = write_folder(&dir.path().join("layout"), &image.layout());
    for (compression, threads) in [
        (Compression::None, 1),
        (Compression::Gzip, 1),
        (Compression::Gzip, 2),
    ] {
        let mut options = options(dir.path(), layout.clone());
        options.compression = Some(compression);
        options.threads = std::num::NonZeroUsize::new(threads);
        let built = common::built(&options);
        let image = Image::open(&built.path).unwrap();
        let mut reader = image.ramdisks()[1].entries(Limits::default()).unwrap();
        let mut files = BTreeMap::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path.display().to_string(), bytes);
        }
        assert!(files["z-first-in-the-layer"] == noise);
        assert!(files["a-later-in-the-layer"] == noise[1..]);
        assert!(files["empty"].is_empty());
    }
}

#[test]
fn owners_modes_links_and_set_user_id_bits_are_kept() {
    let owned = TarEntry {
        uid: 1_000_000,
        gid: 70_000_000,
        mode: 0o4711,
        data: b"x".to_vec(),
        ..TarEntry::new(b'0', b"./bin/tool")
    };
    let seen = merged(vec![
        base()
            .folder("/")
            .folder("./bin/")
            .raw(&owned)
            .hard_link("bin/again", "bin/tool")
            .hard_link("a-first-name", "./bin/tool")
            .symlink("etc", "/bin"),
    ]);
    assert_eq!(seen["bin"], (0o755, 0, 0, "folder".to_owned()));
    // The name that sorts first has the data; all have the file's owner and mode.
    assert_eq!(
        seen["a-first-name"],
        (0o4711, 1_000_000, 70_000_000, "file x".to_owned())
    );
    assert_eq!(
        seen["bin/tool"],
        (
            0o4711,
            1_000_000,
            70_000_000,
            "hard a-first-name 0".to_owned()
        )
    );
    assert_eq!(seen["bin/again"].3, "hard a-first-name 0");
    assert_eq!(seen["etc"].3, "link /bin");
}

#[test]
fn whiteouts_and_opaque_folders_hide_lower_layers_only() {
    let lower = base()
        .folder("keep")
        .file("keep/a", 0o644, b"1")
        .file("keep/b", 0o644, b"1")
        .folder("gone")
        .file("gone/deep", 0o644, b"1")
        .folder("opaque")
        .file("opaque/old", 0o644, b"1")
        .folder("opaque/sub")
        .file("opaque/sub/old", 0o644, b"1")
        .file("gone-not", 0o644, b"1");
    let upper = Layer::default()
        .file("keep/.wh.a", 0o644, b"")
        .file(".wh.gone", 0o644, b"")
        .file("opaque/new-before", 0o644, b"2")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new-after", 0o644, b"2")
        .file(".wh.never-there", 0o644, b"");
    assert_eq!(
        what(&merged(vec![lower, upper])),
        [
            ("gone-not", "file 1"),
            ("keep", "folder"),
            ("keep/b", "file 1"),
            ("opaque", "folder"),
            ("opaque/new-after", "file 2"),
            ("opaque/new-before", "file 2"),
        ]
    );
}

#[test]
fn a_folder_that_is_removed_and_made_anew_in_one_layer_holds_the_new_alone() {
    for whiteout_first in [true, false] {
        let mut upper = Layer::default();
        if whiteout_first {
            upper = upper.file(".wh.d", 0o644, b"");
        }
        upper = upper.file("d/new", 0o644, b"2");
        if !whiteout_first {
            upper = upper.file(".wh.d", 0o644, b"");
        }
        let lower = base().folder("d").file("d/old", 0o644, b"1");
        assert_eq!(
            what(&merged(vec![lower, upper])),
            [("d", "folder"), ("d/new", "file 2")]
        );
    }
}

#[test]
fn later_layers_replace_files_links_and_folders() {
    let lower = base()
        .file("file", 0o644, b"1")
        .folder("folder")
        .file("folder/inside", 0o644, b"1")
        .symlink("link", "file")
        .file("twin", 0o644, b"1")
        .hard_link("other-twin", "twin");
    let upper = Layer::default()
        .folder("file")
        .file("folder", 0o644, b"2")
        .file("link", 0o644, b"2")
        .file("twin", 0o644, b"2");
    assert_eq!(
        what(&merged(vec![lower, upper])),
        [
            ("file", "folder"),
            ("folder", "file 2"),
            ("link", "file 2"),
            ("other-twin", "file 1"),
            ("twin", "file 2"),
        ]
    );
}

#[test]
fn entries_below_a_link_of_a_lower_layer_go_where_it_leads_inside_the_root() {
    let lower = base()
        .folder("usr")
        .folder("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("out", "../../../usr");
    let upper =
        Layer::default()
            .file("lib/module", 0o644, b"2")
            .file("out/lib/second", 0o644, b"2");
    assert_eq!(
        what(&merged(vec![lower, upper])),
        [
            ("lib", "link usr/lib"),
            ("out", "link ../../../usr"),
            ("usr", "folder"),
            ("usr/lib", "folder"),
            ("usr/lib/module", "file 2"),
            ("usr/lib/second", "file 2"),
        ]
    );
}

#[test]
fn names_beyond_the_headers_hundred_bytes_are_read_in_both_ways() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let far = format!("/{}", "t".repeat(300));
    let gnu = |kind, name: &str| TarEntry {
        data: [name.as_bytes(), b"\0"].concat(),
        ..TarEntry::new(kind, b"././@LongLink")
    };
    let with_pax = base()
        .pax("path", long.as_bytes())
        .file("short", 0o644, b"1")
        .pax("linkpath", far.as_bytes())
        .symlink("link", "short");
    let with_gnu = base()
        .raw(&gnu(b'L', &long))
        .file("short", 0o644, b"1")
        .raw(&gnu(b'K', &far))
        .symlink("link", "short");
    let seen = merged(vec![with_pax]);
    assert_eq!(seen[&long].3, "file 1");
    assert_eq!(seen["link"].3, format!("link {far}"));
    assert_eq!(seen, merged(vec![with_gnu]));
}

#[test]
fn what_the_enclave_mounts_over_is_left_out_and_its_folders_are_not_made_twice() {
    let seen = merged(vec![
        base()
            .folder("dev")
            .folder("dev/pts")
            .file("dev/console", 0o644, b"")
            .folder("proc")
            .folder("sys")
            .folder("tmp")
            .folder("run")
            .file("run/kept", 0o644, b"1"),
    ]);
    assert_eq!(what(&seen), [("run/kept", "file 1")]);
}

fn configured(execution: serde_json::Value, manifest: Option<&str>) -> Result<String, BuildError> {
    let dir = tempfile::tempdir().unwrap();
    let program = common::static_elf(b"tool");
    let archive = base()
        .folder("usr/bin")
        .file("usr/bin/tool", 0o755, &program)
        .file("usr/bin/readme", 0o644, b"no program")
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/:\napp:x:1234:5678::/:\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\nstaff:x:50:\n")
        .file("srv/run", 0o755, &program)
        .end();
    let mut image = OciImage::new(vec![Blob::gzip(&archive)]);
    image.execution = execution;
    let layout = write_folder(&dir.path().join("layout"), &image.layout());
    let mut options = options(dir.path(), layout);
    options.manifest = manifest.map(|text| common::write(&dir.path().join("m.toml"), text, 0o644));
    let built = build(&options, &mut |_| ())?;
    let image = Image::open(&built.path).unwrap();
    assert_eq!(image.manifest().unwrap(), Some(built.manifest.clone()));
    let job = built.manifest.job;
    Ok(format!(
        "{:?} {:?} {:?} {:?}",
        job.command,
        job.environment,
        job.working_directory,
        job.user.map(|user| user.to_string())
    ))
}

#[test]
fn the_configuration_becomes_the_job() {
    let full = json!({
        "Entrypoint": ["tool", "--serve"], "Cmd": ["x"], "Env": ["PATH=/nowhere:/usr/bin", "A=b=c"],
        "WorkingDir": "/srv/", "User": "app",
    });
    assert_eq!(
        configured(full, None).unwrap(),
        r#"["/usr/bin/tool", "--serve", "x"] {"A": "b=c", "PATH": "/nowhere:/usr/bin"} Some("/srv") Some("1234:5678")"#
    );
    for (user, expected) in [
        ("1234", "Some(\"1234:5678\")"),
        ("77", "Some(\"77:77\")"),
        ("77:staff", "Some(\"77:50\")"),
        ("app:99", "Some(\"1234:99\")"),
        ("root", "None"),
        ("0:0", "None"),
        ("", "None"),
    ] {
        let job = configured(json!({ "Cmd": ["/job"], "User": user }), None).unwrap();
        assert!(job.ends_with(expected), "{user}: {job}");
    }
    let relative = json!({ "Cmd": ["./run"], "WorkingDir": "/srv" });
    assert!(
        configured(relative, None)
            .unwrap()
            .starts_with(r#"["/srv/run"]"#)
    );
    // Docker makes a working folder that is not there.
    let made = json!({ "Cmd": ["/job"], "WorkingDir": "/new/folder" });
    assert!(configured(made, None).unwrap().contains("/new/folder"));
}

#[test]
fn the_manifest_wins_over_the_configuration() {
    let execution = json!({
        "Entrypoint": ["tool"], "Env": ["A=image", "B=image"], "WorkingDir": "/srv", "User": "app",
    });
    let manifest = "[job]\ncommand = [\"/job\"] # ours\nuser = \"9:9\"\nworking_directory = \"/\"\n\
                    [job.environment]\nA = \"ours\"\n";
    assert_eq!(
        configured(execution, Some(manifest)).unwrap(),
        r#"["/job"] {"A": "ours", "B": "image"} Some("/") Some("9:9")"#
    );
}

#[test]
fn a_configuration_that_cannot_be_kept_to_is_refused() {
    let refusal = |execution, manifest| configured(execution, manifest).unwrap_err().to_string();
    for (execution, message) in [
        (json!({}), "has neither Entrypoint nor Cmd"),
        (
            json!({ "Cmd": ["absent"] }),
            "absent, which is in none of the folders",
        ),
        (
            json!({ "Cmd": ["readme"], "Env": ["PATH=/usr/bin"] }),
            "readme, which is in none",
        ),
        (json!({ "Cmd": ["/usr/bin/readme"] }), "is not executable"),
        (
            json!({ "Cmd": ["/job"], "Env": ["NOVALUE"] }),
            "\"NOVALUE\", which is no NAME=value",
        ),
        (
            json!({ "Cmd": ["/job"], "Env": ["a b=c"] }),
            "`job.environment.a b`, which the manifest does not set",
        ),
        (
            json!({ "Cmd": ["/job"], "User": "ghost" }),
            "/etc/passwd has no ghost",
        ),
        (
            json!({ "Cmd": ["/job"], "User": "app:ghosts" }),
            "/etc/group has no ghosts",
        ),
        (
            json!({ "Cmd": ["/job"], "WorkingDir": "/etc/passwd" }),
            "/etc/passwd is no folder",
        ),
        (
            json!({ "Cmd": ["/job"], "WorkingDir": "../up" }),
            "`job.working_directory`",
        ),
    ] {
        let error = refusal(execution, None);
        assert!(error.contains(message), "{error}");
    }
    let ours = "[job]\nworking_directory = \"/absent\"\n";
    let error = refusal(json!({ "Cmd": ["/job"] }), Some(ours));
    assert!(error.contains("/absent is not in the image"), "{error}");
    // Places are those of the text as it was written.
    let error = refusal(json!({ "Cmd": ["/job"] }), Some("[job]\n\n  comand = 1\n"));
    assert!(
        error.contains("line 3, column 3: unknown key `job.comand`"),
        "{error}"
    );
}

#[test]
fn of_several_images_one_must_be_chosen_and_other_platforms_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = OciImage::new(vec![Blob::plain(&base().end())]);
    one.name = Some("one");
    let mut two = one.clone();
    two.execution = json!({ "Entrypoint": ["/job", "two"] });
    let mut arm = one.clone();
    arm.architecture = "arm64";
    let mut files = [one.layout(), two.layout(), arm.layout()].concat();
    let manifest = |image: &OciImage| {
        descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            &image.manifest(),
        )
    };
    let platform = |image: &OciImage, os, architecture| {
        let mut descriptor = manifest(image);
        descriptor["platform"] = json!({ "os": os, "architecture": architecture });
        descriptor
    };
    let inner = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [
        platform(&one, "linux", "amd64"), platform(&arm, "linux", "arm64"), platform(&one, "unknown", "unknown"),
    ]})).unwrap();
    let mut multi = descriptor("application/vnd.oci.image.index.v1+json", &inner);
    multi["annotations"] = json!({ "org.opencontainers.image.ref.name": "registry/multi:v2" });
    let mut second = manifest(&two);
    second["annotations"] = json!({ "org.opencontainers.image.ref.name": "two" });
    let mut foreign = platform(&arm, "linux", "arm64");
    foreign["annotations"] = json!({ "org.opencontainers.image.ref.name": "arm" });
    files.push(blob(&inner));
    let index = serde_json::to_vec(&json!({ "manifests": [multi, second, foreign] })).unwrap();
    files.retain(|(name, _)| name != "index.json");
    files.push(("index.json".to_owned(), index));
    let layout = write_folder(&dir.path().join("layout"), &files);
    let choose = |reference: Option<&str>| {
        let mut container = ContainerOptions::new(layout.clone());
        container.reference = reference.map(str::to_owned);
        build(
            &common::options(dir.path(), Source::Container(container)),
            &mut |_| (),
        )
    };
    let error = choose(None).unwrap_err().to_string();
    assert!(error.contains("registry/multi:v2, two"), "{error}");
    let error = choose(Some("three")).unwrap_err().to_string();
    assert!(
        error.contains("it has registry/multi:v2, two, arm"),
        "{error}"
    );
    let error = choose(Some("arm")).unwrap_err().to_string();
    assert!(
        error.contains("no image for linux/amd64") && error.contains("linux/arm64"),
        "{error}"
    );
    assert_eq!(
        choose(Some("two")).unwrap().manifest.job.command,
        ["/job", "two"]
    );
    assert_eq!(choose(Some("v2")).unwrap().manifest.job.command, ["/job"]);
}

#[test]
fn an_image_for_another_processor_is_refused() {
    let mut image = OciImage::new(vec![Blob::plain(&base().end())]);
    image.architecture = "arm64";
    let error = refused(&image);
    assert!(error.contains("no image for linux/amd64"), "{error}");
}

#[test]
fn every_digest_and_length_is_checked() {
    let image = OciImage::new(vec![Blob::gzip(&base().end())]);
    let files = image.layout();
    let count = files
        .iter()
        .filter(|(name, _)| name.starts_with("blobs/"))
        .count();
    assert_eq!(count, 3, "manifest, configuration, layer");
    for index in 0..files.len() {
        if !files[index].0.starts_with("blobs/") {
            continue;
        }
        for change in ["longer", "flipped", "absent"] {
            let dir = tempfile::tempdir().unwrap();
            let mut files = files.clone();
            match change {
                "longer" => files[index].1.push(b' '),
                "flipped" => {
                    let at = files[index].1.len() - 3;
                    files[index].1[at] ^= 1;
                }
                _ => drop(files.remove(index)),
            }
            let layout = write_folder(&dir.path().join("layout"), &files);
            let error = build(&options(dir.path(), layout), &mut |_| ()).unwrap_err();
            let BuildError::Container(error) = &error else {
                panic!("{error}");
            };
            assert!(
                matches!(
                    error,
                    ContainerError::Size { .. }
                        | ContainerError::Digest { .. }
                        | ContainerError::Layer { .. }
                        | ContainerError::Missing { .. }
                ),
                "{change}: {error}"
            );
        }
    }
    let mut image = OciImage::new(vec![Blob::gzip(&base().end())]);
    image.layers[0].diff_id = format!("sha256:{}", "0".repeat(64));
    let error = refused(&image);
    assert!(error.contains("has the digest"), "{error}");
    image.layers[0].diff_id = "md5:00".to_owned();
    let error = refused(&image);
    assert!(error.contains("\"md5:00\""), "{error}");
}

#[test]
fn a_saved_image_whose_configuration_is_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = OciImage::new(vec![Blob::plain(&base().end())]).saved();
    files[0].1.push(b' ');
    let archive = write_archive(&dir.path().join("saved.tar"), &files);
    let error = build(&options(dir.path(), archive), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
}

#[test]
fn layers_of_another_kind_are_refused_by_their_media_type() {
    for (media_type, message) in [
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "decrypt",
        ),
        ("application/octet-stream", "a layer is a tar archive"),
    ] {
        let mut image = OciImage::new(vec![Blob::plain(&base().end())]);
        image.layers[0].media_type = media_type;
        let error = refused(&image);
        assert!(
            error.contains(message) && error.contains(media_type),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_container_image_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let image = OciImage::new(vec![Blob::plain(&base().end())]);
    let archive = write_archive(&dir.path().join("oci.tar"), &image.layout());
    let compressed = dir.path().join("oci.tar.gz");
    fs::write(&compressed, common::oci::gzip(&fs::read(&archive).unwrap())).unwrap();
    let text = common::write(&dir.path().join("text"), "x".repeat(2000), 0o644);
    let empty = write_archive(&dir.path().join("empty.tar"), &[]);
    // In the middle of a file, and between two.
    let bytes = fs::read(&archive).unwrap();
    let cut = dir.path().join("cut.tar");
    fs::write(&cut, &bytes[..bytes.len() - 2048]).unwrap();
    let short = dir.path().join("short.tar");
    let first_file = 1024;
    fs::write(&short, &bytes[..first_file]).unwrap();
    for (path, message) in [
        (dir.path().join("absent"), "cannot open"),
        (folder, "--root"),
        (compressed, "decompress it first"),
        (text, "is no tar archive"),
        (empty, "neither index.json"),
        (cut, "cannot read what follows"),
        (short, "neither index.json"),
    ] {
        let error = build(&options(dir.path(), path), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn extended_attributes_are_refused_by_name_or_left_out_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let archive = base()
        .pax("SCHILY.xattr.security.selinux", b"label")
        .file("labelled", 0o644, b"1")
        .pax(
            "SCHILY.xattr.security.capability",
            &[1, 0, 0, 2, 0, 0x20, 0, 0],
        )
        .file("ping", 0o755, b"1")
        .end();
    let image = OciImage::new(vec![Blob::plain(&archive)]);
    let error = refused(&image);
    assert!(
        error.contains("\"ping\"") && error.contains("security.capability"),
        "{error}"
    );
    let mut container = ContainerOptions::new(write_folder(dir.path(), &image.layout()));
    container.drop_attributes = true;
    let built = common::built(&common::options(dir.path(), Source::Container(container)));
    assert_eq!(unpacked(&built.path)["ping"].3, "file 1");
}

/// A trick of the corpus: the image, its limits, and the words of the refusal.
struct Trick {
    image: OciImage,
    limits: Limits,
    words: String,
}

/// Reads a file of the corpus. See `hostile/README.md` for its lines.
fn trick(text: &str) -> Trick {
    let mut limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    let mut words = None;
    let mut layers: Vec<(String, Layer, Vec<u8>)> = Vec::new();
    let mut with_job = true;
    let mut next: Box<dyn Fn(&mut TarEntry)> = Box::new(|_| ());
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let unescaped = |text: &str| {
            let mut bytes = Vec::new();
            let mut characters = text.chars();
            while let Some(character) = characters.next() {
                if character != '\\' {
                    bytes.extend(character.to_string().bytes());
                    continue;
                }
                match characters.next() {
                    Some('0') => bytes.push(0),
                    Some('n') => bytes.push(b'\n'),
                    Some('x') => {
                        let count: String = characters.by_ref().take_while(|c| *c != ';').collect();
                        let last = bytes.pop().unwrap();
                        bytes.extend(std::iter::repeat_n(last, count.parse().unwrap()));
                    }
                    other => panic!("unknown escape {other:?}"),
                }
            }
            bytes
        };
        let mut words_of = rest.splitn(2, " -> ");
        let name = unescaped(words_of.next().unwrap_or_default());
        let link = unescaped(words_of.next().unwrap_or_default());
        let mut add = |entry: TarEntry, layers: &mut Vec<(String, Layer, Vec<u8>)>| {
            let mut entry = entry;
            next(&mut entry);
            next = Box::new(|_| ());
            let last = layers.last_mut().unwrap();
            last.1 = last.1.clone().raw(&entry);
        };
        match verb {
            "refused" => words = Some(rest.to_owned()),
            "limit-bytes" => limits.bytes = rest.parse().unwrap(),
            "limit-entries" => limits.entries = rest.parse().unwrap(),
            "layer" => {
                let layer = if with_job { base() } else { Layer::default() };
                with_job = false;
                layers.push((rest.to_owned(), layer, Vec::new()));
            }
            "file" => add(
                TarEntry {
                    data: link.clone(),
                    ..TarEntry::new(b'0', &name)
                },
                &mut layers,
            ),
            "zeros" => add(
                TarEntry {
                    data: vec![0; String::from_utf8(link.clone()).unwrap().parse().unwrap()],
                    ..TarEntry::new(b'0', &name)
                },
                &mut layers,
            ),
            "folder" => add(TarEntry::new(b'5', &name), &mut layers),
            "symlink" | "hardlink" => {
                let kind = if verb == "symlink" { b'2' } else { b'1' };
                add(
                    TarEntry {
                        link: link.clone(),
                        ..TarEntry::new(kind, &name)
                    },
                    &mut layers,
                );
            }
            "type" => add(TarEntry::new(name[0], &name[2..]), &mut layers),
            "pax" | "global" => {
                let (key, value) = rest.split_once('=').unwrap();
                let kind = if verb == "pax" { b'x' } else { b'g' };
                add(
                    TarEntry {
                        data: common::oci::pax(key, &unescaped(value)),
                        ..TarEntry::new(kind, b"pax")
                    },
                    &mut layers,
                );
            }
            "raw-pax" => add(
                TarEntry {
                    data: name.clone(),
                    ..TarEntry::new(b'x', b"pax")
                },
                &mut layers,
            ),
            "long-name" => add(
                TarEntry {
                    data: [&name[..], b"\0"].concat(),
                    ..TarEntry::new(b'L', b"././@LongLink")
                },
                &mut layers,
            ),
            "with" => {
                let (field, value) = rest.split_once('=').unwrap();
                let value: u64 = value.parse().unwrap();
                next = match field {
                    "size" => Box::new(move |entry| entry.size = Some(value)),
                    "uid" => Box::new(move |entry| entry.uid = value),
                    "bad-checksum" => Box::new(|entry| entry.bad_checksum = true),
                    other => panic!("unknown field {other}"),
                };
            }
            "trailing" => layers.last_mut().unwrap().2 = name,
            "many" => {
                let (count, prefix) = rest.split_once(' ').unwrap();
                for index in 0..count.parse::<u32>().unwrap() {
                    let entry = TarEntry::new(b'0', format!("{prefix}{index}").as_bytes());
                    add(entry, &mut layers);
                }
            }
            other => panic!("unknown line {other}"),
        }
    }
    let blobs = layers
        .into_iter()
        .map(|(compression, layer, trailing)| {
            let archive = [layer.end(), trailing].concat();
            match compression.as_str() {
                "gzip" => Blob::gzip(&archive),
                "zstd" => Blob::zstd(&archive),
                "" => Blob::plain(&archive),
                other => panic!("unknown compression {other}"),
            }
        })
        .collect();
    Trick {
        image: OciImage::new(blobs),
        limits,
        words: words.expect("a file of the corpus says how it is refused"),
    }
}

#[test]
fn every_hostile_archive_is_refused_with_the_entry_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "trick"))
        .collect();
    names.sort();
    assert!(names.len() >= 40, "the corpus is there: {}", names.len());
    for path in names {
        let shown = path.file_name().unwrap().to_string_lossy().into_owned();
        let trick = trick(&fs::read_to_string(&path).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mut container = ContainerOptions::new(write_folder(
            &dir.path().join("layout"),
            &trick.image.layout(),
        ));
        container.limits = trick.limits;
        let options = common::options(dir.path(), Source::Container(container));
        match build(&options, &mut |_| ()) {
            Ok(_) => panic!("{shown} is accepted"),
            Err(error) => assert!(
                error.to_string().contains(&trick.words),
                "{shown} is refused with other words: {error}"
            ),
        }
        assert!(!options.output.exists(), "{shown} leaves an image");
    }
}
