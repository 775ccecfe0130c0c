//! Virtual machines of an ordinary user, who may not use KVM and owns nothing: QEMU runs as that user.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{anchorhold, vm_folder};
use crate::stage::{folder, image, runtime};

/// The user that has nothing anywhere.
const NOBODY: u32 = 65534;

/// The command, as that user; or as whoever runs this, where that is an ordinary user already.
struct User {
    command: PathBuf,
    home: PathBuf,
    path: String,
    is_other: bool,
}

impl User {
    fn says<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = Command::new(&self.command);
        command
            .args(arguments)
            .current_dir(&self.home)
            .env_clear()
            .env("HOME", &self.home)
            .env("ANCHORHOLD_HOME", &self.home)
            .env("PATH", &self.path);
        if self.is_other {
            command.gid(NOBODY).uid(NOBODY);
        }
        command.output().unwrap()
    }

    fn must<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let output = self.says(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{out}{error}");
        (out, error)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.says(["stop", "mine"]);
        }
    }
}

fn copied(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn an_ordinary_user_without_kvm_runs_and_verifies_an_enclave() {
    let is_other = nix::unistd::geteuid().is_root();
    // Copies, since the folders that these are in may be closed to others.
    let place = folder();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(place.path());
    let at = |name: &str| place.path().join(name);
    for name in ["bin", "qemu"] {
        copied(&vm_folder().join(name), &at(name));
    }
    copied(&anchorhold(), &at("anchorhold"));
    open(&at("anchorhold"));
    let built = image(place.path(), runtime(), |_| ());
    std::fs::set_permissions(&built, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::create_dir(at("home")).unwrap();
    if is_other {
        std::os::unix::fs::chown(at("home"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let user = User {
        command: at("anchorhold"),
        home: at("home"),
        path: format!("{}:/usr/bin:/bin", at("bin").display()),
        is_other,
    };
    let built = built.to_str().unwrap();

    // `auto` finds QEMU in PATH, and says so.
    let (out, error) = user.must(["run", built, "--name", "mine", "--memory", "128"]);
    assert!(
        error.contains("backend qemu (this is no host of Nitro enclaves; the image has a kernel, and there is QEMU "),
        "{error}"
    );
    assert!(out.contains("mine serves"), "{out}");
    if is_other {
        assert!(
            out.contains("backend qemu, tcg") && out.contains("/dev/kvm: "),
            "{out}"
        );
        let machines = machines_of(NOBODY, &at("home"));
        assert_eq!(machines.len(), 1, "{machines:?}");
    }
    user.must(["attest", "mine", "--nonce", "00ff", "-o", "document"]);
    let anchor = at("home").join("development-root/root.pem");
    user.must([
        "verify",
        "document",
        "--image",
        built,
        "--nonce",
        "00ff",
        "--anchor",
        anchor.to_str().unwrap(),
    ]);
    user.must(["stop", "mine"]);
    if is_other {
        assert_eq!(machines_of(NOBODY, &at("home")), Vec::<String>::new());
    }
}

/// The QEMUs of a user whose supervisor was started from that home, by their process numbers.
fn machines_of(user: u32, home: &Path) -> Vec<String> {
    let parent_is_ours = |process: &Path| {
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let line = std::fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let supervisor = Path::new("/proc").join(field("PPid:")?).join("environ");
        let environment = std::fs::read(supervisor).ok()?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        Some(
            field("Uid:")? == user.to_string()
                && line.contains("microvm")
                && environment.contains(home.to_str()?),
        )
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| parent_is_ours(&entry.path()) == Some(true))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
