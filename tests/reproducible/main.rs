//! The same inputs give the same bytes: for other users, umasks, locales, time zones, clocks, folders, orders of files
//! and numbers of cores; and the enclave's own program, built in two folders. Needs root, and what
//! `tests/reproducible/setup` installs.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anchorhold_images::cargo_static::StaticBuild;
use common::{House, WORKSPACE, anchorhold};

/// Somebody who owns nothing.
const ANOTHER: u32 = 12_345;

/// The smallest static program for x86-64 or arm64, and something behind it.
fn program(payload: &[u8]) -> Vec<u8> {
    let machine = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let mut file = vec![0; 120];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, byte) in [
        (16, 3),
        (18, machine),
        (32, 64),
        (54, 56),
        (56, 1),
        (64, 1),
        (96, 120),
    ] {
        file[at] = byte;
    }
    file.extend_from_slice(payload);
    file
}

/// Bytes that compress to about half.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 60) as u8) * if state >> 59 & 1 == 0 { 1 } else { 16 }
        })
        .collect()
}

/// The same inputs in a folder: made in one order or the other, with these times, by this owner.
fn inputs(folder: &Path, backwards: bool, seconds: u64, owner: u32) {
    let root = folder.join("root");
    let mut files: Vec<(PathBuf, Vec<u8>)> = (0..300)
        .map(|index| {
            let path = root.join(format!("d{}/f{index}", index % 17));
            (path, payload(index * 7))
        })
        .collect();
    files.push((root.join("bin/job"), program(b"job")));
    // Enough that its ramdisk is compressed by all cores.
    files.push((root.join("large"), payload(40 << 20)));
    files.push((folder.join("runtime"), program(b"runtime")));
    files.push((
        folder.join("anchorhold.toml"),
        b"[job]\ncommand = [\"/bin/job\"]\n".to_vec(),
    ));
    if backwards {
        files.reverse();
    }
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    for (path, bytes) in &files {
        fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        fs::write(path, bytes).expect("a file");
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(time).expect("its time");
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let mode = if matches!(name, "job" | "runtime") {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
        chown(path, Some(owner), Some(owner)).expect("root may");
    }
    symlink("../bin/job", root.join("d0/link")).expect("a link");
}

/// Builds in a folder through a shell, which may change what it likes before.
fn built(folder: &Path, before: &str, change: impl FnOnce(&mut Command)) -> Vec<u8> {
    let mut command = Command::new("sh");
    command
        .args(["-ec", &format!("{before} \"$@\""), "sh"])
        .arg(folder.join("anchorhold"))
        .args(["build", "--root", "root", "--manifest", "anchorhold.toml"])
        .args(["--init", "runtime", "-o", "out/image.eif"])
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH");
    change(&mut command);
    let output = command.output().expect("a shell");
    assert!(
        output.status.success(),
        "{before}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read(folder.join("out/image.eif")).expect("an image")
}

fn prepared(house: &House, name: &str, backwards: bool, seconds: u64, owner: u32) -> PathBuf {
    // Others must be able to reach it.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(house.path(""), open.clone()).expect("a mode");
    let folder = house.path(name);
    inputs(&folder, backwards, seconds, owner);
    fs::create_dir(folder.join("out")).expect("a folder");
    fs::set_permissions(folder.join("out"), fs::Permissions::from_mode(0o777)).expect("a mode");
    fs::copy(anchorhold(), folder.join("anchorhold")).expect("a copy");
    fs::set_permissions(folder.join("anchorhold"), open).expect("a mode");
    folder
}

#[test]
fn nothing_of_the_builder_the_machine_or_the_moment_is_in_an_image() {
    assert!(nix::unistd::geteuid().is_root(), "this suite needs root");
    let house = House::new();
    let folder = prepared(&house, "one", false, 1_000_000_000, 0);
    let first = built(&folder, "umask 022;", |command| {
        command.env("LC_ALL", "C").env("TZ", "UTC");
    });
    assert!(
        first.len() > 10 << 20,
        "large enough to be compressed by several threads"
    );
    let name = "a folder with a much longer name, made the other way round by somebody else";
    let other = prepared(&house, name, true, 2_000_000_000, ANOTHER);
    let as_another = built(&other, "umask 077;", |command| {
        command
            .uid(ANOTHER)
            .gid(ANOTHER)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("LANG", "de_DE@euro")
            .env("TZ", "Pacific/Kiritimati")
            .env("HOME", "/nonexistent")
            .env("USER", "somebody")
            .env("TMPDIR", "/nonexistent")
            .env("COLUMNS", "20");
    });
    assert!(
        first == as_another,
        "another user, folder, order, owner, umask, locale"
    );
    for (what, before) in [
        ("one core", "taskset -c 0"),
        ("the past", "faketime '1999-12-31 23:59:58'"),
        ("the future", "faketime '2040-02-29 12:00:00'"),
    ] {
        assert!(first == built(&folder, before, |_| ()), "{what}");
    }
    // The comparison can fail.
    fs::write(folder.join("root/d3/f3"), b"changed").expect("a file");
    assert!(first != built(&folder, "", |_| ()));
}

/// The workspace's sources as they are, without what was built from them.
fn copy_of_the_workspace(to: &Path) {
    let without = [
        "./target",
        "./.git",
        "./fuzz",
        "./images/others/target",
        "./attestation/corpus/others/target",
    ];
    let exclude: Vec<String> = without
        .iter()
        .map(|path| format!("--exclude={path}"))
        .collect();
    fs::create_dir_all(to).expect("a folder");
    let pack = Command::new("tar")
        .args(["-C", WORKSPACE])
        .args(&exclude)
        .args(["-cf", "-", "."])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut pack = pack.expect("tar runs");
    let archive = pack.stdout.take().expect("it was asked for");
    let unpacked = Command::new("tar")
        .arg("-C")
        .arg(to)
        .args(["-xf", "-"])
        .stdin(archive)
        .status();
    assert!(unpacked.expect("tar runs").success() && pack.wait().expect("tar ends").success());
}

#[test]
fn the_enclaves_own_program_is_the_same_wherever_it_is_built() {
    let house = House::new();
    let build = |folder: PathBuf| -> Vec<u8> {
        copy_of_the_workspace(&folder);
        let mut build = StaticBuild::new(&folder.join("enclave"));
        build.target_dir = Some(folder.join("target/static"));
        build.bin = Some("anchorhold-enclave".to_owned());
        let built = build.run(&mut |_| ()).expect("the enclave builds");
        fs::read(built.path).expect("a program")
    };
    let first = build(house.path("one"));
    let second = build(house.path("another folder/with a longer name"));
    assert!(
        first == second,
        "{} and {} bytes differ, first at {:?}",
        first.len(),
        second.len(),
        first.iter().zip(&second).position(|(a, b)| a != b)
    );
    let contains = |text: &str| {
        first
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    let folder = house.path("");
    for path in [
        folder.to_str().expect("UTF-8"),
        WORKSPACE,
        "/.cargo/registry",
    ] {
        assert!(!contains(path), "{path} is in the program");
    }
    // The search can fail: what stands for these paths is there.
    assert!(contains("/cargo/registry"));
}
