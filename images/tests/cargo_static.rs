//! Static programs from Cargo packages: the same bytes from any folder, and errors that say what to do.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anchorhold_images::cargo_static::{CargoError, StaticBuild, static_program};
use anchorhold_images::{Source, build};
use common::{built, options, write};

const MANIFEST: &str = "[package]\nname = \"small\"\nversion = \"1.2.3\"\nedition = \"2021\"\n[workspace]\n\
                        [dependencies]\nhelper = { path = \"../helper\" }\n";
/// Panics carry the paths of sources, generic code of the standard library carries those of the toolchain.
const MAIN: &str = "mod part;\nfn main() {\n    let all: Vec<String> = std::env::args().collect();\n    \
                    println!(\"{}\", part::pick(&all) + &helper::pick(&all));\n}\n";
const PART: &str = "pub fn pick(all: &[String]) -> String {\n    let mut sorted = all.to_vec();\n    sorted.sort();\n    \
                    sorted[all.len() / 2].clone()\n}\n";

/// A package with a path dependency outside of its workspace.
fn package(dir: &Path) -> PathBuf {
    let folder = dir.join("small");
    write(&folder.join("Cargo.toml"), MANIFEST, 0o644);
    write(&folder.join("src/main.rs"), MAIN, 0o644);
    write(&folder.join("src/part.rs"), PART, 0o644);
    let helper = "[package]\nname = \"helper\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    write(&dir.join("helper/Cargo.toml"), helper, 0o644);
    write(&dir.join("helper/src/lib.rs"), PART, 0o644);
    folder
}

#[test]
fn two_copies_in_different_folders_give_the_same_static_program() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = two.path().join("a folder with a longer name & 'quotes'");
    let first = static_program(&package(one.path()), &one.path().join("target"), None).unwrap();
    let second = static_program(
        &package(&elsewhere),
        &elsewhere.join("small/inside/target"),
        None,
    )
    .unwrap();
    let (first, second) = (fs::read(first).unwrap(), fs::read(second).unwrap());
    assert!(
        first == second,
        "{} and {} bytes differ",
        first.len(),
        second.len()
    );
    for path in [one.path(), two.path()] {
        let path = path.to_str().unwrap().as_bytes();
        assert!(
            !first.windows(path.len()).any(|window| window == path),
            "the build's folder is in the program"
        );
    }
    // The search can fail: the mapped names are there.
    let mapped = b"src/part.rs";
    assert!(first.windows(mapped.len()).any(|window| window == mapped));
}

#[test]
fn a_package_becomes_an_image_with_its_name_version_and_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let folder = package(dir.path());
    write(
        &folder.join("anchorhold.toml"),
        "[job]\ncommand = [\"/job\", \"x\"]\n",
        0o644,
    );
    let mut options = options(
        dir.path(),
        Source::Cargo {
            path: folder.join("Cargo.toml"),
        },
    );
    // The runtime is any static program; this one is.
    options.cargo_target = Some(dir.path().join("target"));
    let mut said = Vec::new();
    let first = build(&options, &mut |progress| said.push(format!("{progress:?}"))).unwrap();
    assert_eq!(first.manifest.job.command, ["/job", "x"]);
    assert!(
        said.iter().any(|line| line.contains("Compiling small")),
        "{said:?}"
    );
    let image = anchorhold_images::Image::open(&first.path).unwrap();
    assert_eq!(
        (image.name(), image.metadata().image_version.as_str()),
        ("small", "1.2.3")
    );
    assert!(folder.join("Cargo.lock").exists());
    assert_eq!(built(&options), first);
}

#[test]
fn a_package_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = StaticBuild::new(dir.path()).run(&mut |_| ()).unwrap_err();
    assert!(matches!(error, CargoError::NoPackage { .. }), "{error}");

    let workspace = dir.path().join("workspace");
    write(
        &workspace.join("Cargo.toml"),
        "[workspace]\nmembers = [\"one\"]\nresolver = \"2\"\n",
        0o644,
    );
    write(
        &workspace.join("one/Cargo.toml"),
        "[package]\nname = \"one\"\n",
        0o644,
    );
    write(&workspace.join("one/src/lib.rs"), "", 0o644);
    let error = StaticBuild::new(&workspace).run(&mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, CargoError::Workspace { packages, .. } if packages == &["one"]),
        "{error}"
    );
    let error = StaticBuild::new(&workspace.join("one"))
        .run(&mut |_| ())
        .unwrap_err();
    assert!(
        matches!(&error, CargoError::NoProgram { package } if package == "one"),
        "{error}"
    );
}

#[test]
fn of_several_programs_one_must_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let folder = package(dir.path());
    write(&folder.join("src/bin/other.rs"), "fn main() {}\n", 0o644);
    let mut build = StaticBuild::new(&folder);
    build.target_dir = Some(dir.path().join("target"));
    let error = build.run(&mut |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the package small has several programs: choose one of them: other, small"
    );
    build.bin = Some("third".to_owned());
    assert!(matches!(
        build.run(&mut |_| ()),
        Err(CargoError::UnknownProgram { .. })
    ));
    build.bin = Some("other".to_owned());
    assert!(
        build
            .run(&mut |_| ())
            .unwrap()
            .path
            .ends_with("anchorhold/other")
    );
}

#[test]
fn what_the_compiler_says_is_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = package(dir.path());
    write(
        &folder.join("src/main.rs"),
        "fn main() { nonsense() }\n",
        0o644,
    );
    let error = static_program(&folder, &dir.path().join("target"), None).unwrap_err();
    assert!(
        matches!(error, CargoError::Failed { step: "build", .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn an_outdated_lock_file_is_refused_rather_than_changed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = package(dir.path());
    let lock = "version = 4\n\n[[package]]\nname = \"small\"\nversion = \"1.2.3\"\n";
    write(&folder.join("Cargo.lock"), lock, 0o644);
    let error = static_program(&folder, &dir.path().join("target"), None).unwrap_err();
    assert!(error.to_string().contains("--locked"), "{error}");
    assert_eq!(fs::read_to_string(folder.join("Cargo.lock")).unwrap(), lock);
}

/// Where the test's second process finds what to build.
const PACKAGE_VARIABLE: &str = "ANCHORHOLD_TEST_PACKAGE";

/// A package with a dependency from the registry and code in C, both of which know where their sources are.
fn package_with_c(dir: &Path) -> PathBuf {
    let folder = dir.join("mixed");
    let manifest = "[package]\nname = \"mixed\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n\
                    [dependencies]\nfastrand = \"2\"\n[build-dependencies]\ncc = \"1\"\n";
    write(&folder.join("Cargo.toml"), manifest, 0o644);
    write(
        &folder.join("build.rs"),
        "fn main() { cc::Build::new().file(\"c/place.c\").compile(\"place\"); }\n",
        0o644,
    );
    write(
        &folder.join("c/place.c"),
        "#include \"place.h\"\nconst char *place(void) { return HERE; }\n",
        0o644,
    );
    // In a header's name the compiler keeps the folder that it was found in.
    write(
        &folder.join("c/place.h"),
        "static const char HERE[] = __FILE__;\n",
        0o644,
    );
    // A digit of no base is a panic, and its message names the source in the registry.
    let main = r#"
        extern "C" { fn place() -> *const std::ffi::c_char; }
        fn main() {
            let place = unsafe { std::ffi::CStr::from_ptr(place()) };
            let base = std::env::args().count() as u32;
            println!("{place:?} {}", fastrand::Rng::with_seed(1).digit(base));
        }"#;
    write(&folder.join("src/main.rs"), main, 0o644);
    folder
}

#[test]
fn another_users_cargo_home_flags_and_environment_give_the_same_program() {
    if let Some(package) = std::env::var_os(PACKAGE_VARIABLE) {
        let package = PathBuf::from(package);
        static_program(&package, &package.join("target"), None).unwrap();
        return;
    }
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || std::env::home_dir().unwrap().join(".cargo"),
        PathBuf::from,
    );
    let dir = tempfile::tempdir().unwrap();
    let first = package_with_c(&dir.path().join("one"));
    let second = package_with_c(&dir.path().join("two/and a longer name"));
    let build = |package: &Path, change: &dyn Fn(&mut Command)| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args([
            "--exact",
            "another_users_cargo_home_flags_and_environment_give_the_same_program",
        ]);
        test.env(PACKAGE_VARIABLE, package);
        change(&mut test);
        let output = test.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let triples = fs::read_dir(package.join("target")).unwrap();
        let built = triples
            .map(|triple| triple.unwrap().path().join("release/mixed"))
            .find(|file| file.exists());
        fs::read(built.unwrap()).unwrap()
    };
    let first_bytes = build(&first, &|_| ());
    fs::copy(first.join("Cargo.lock"), second.join("Cargo.lock")).unwrap();
    // Another user's Cargo home with the same crates in it.
    let other_home = dir.path().join("home of somebody else/.cargo");
    fs::create_dir_all(&other_home).unwrap();
    symlink(
        home.canonicalize().unwrap().join("registry"),
        other_home.join("registry"),
    )
    .unwrap();
    let second_bytes = build(&second, &|test| {
        test.env("CARGO_HOME", &other_home)
            .env("RUSTFLAGS", "-Copt-level=0 -Ctarget-cpu=native")
            .env("CFLAGS", "-O0 -g")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("RUSTC_WRAPPER", "/nonexistent")
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "Asia/Tokyo");
    });
    assert!(
        first_bytes == second_bytes,
        "{} and {} bytes differ",
        first_bytes.len(),
        second_bytes.len()
    );
    let contains = |needle: &str| {
        first_bytes
            .windows(needle.len())
            .any(|window| window == needle.as_bytes())
    };
    for path in [dir.path(), &home] {
        assert!(
            !contains(path.to_str().unwrap()),
            "{} is in the program",
            path.display()
        );
    }
    // The search can fail: what stands for these paths is there.
    assert!(contains("c/place.h"));
    assert!(contains("/cargo/registry"));
}
