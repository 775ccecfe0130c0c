//! The same suite as an ordinary user, who has no control groups, one user id, and no way to ask for more.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::anchorhold;
use crate::stage::{PREBUILT, is_root, programs};

/// The user that has nothing anywhere.
const NOBODY: u32 = 65534;

#[test]
fn everything_holds_for_an_ordinary_user_as_well() {
    if !is_root() {
        eprintln!("this is an ordinary user already: everything else in this suite has run as one");
        return;
    }
    // Copies, since the folder that this was built in may be closed to others.
    let folder = tempfile::Builder::new()
        .prefix("ah-")
        .tempdir_in("/tmp")
        .expect("a temporary folder");
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            .expect("permissions");
    };
    open(folder.path());
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).expect("a copy of a program");
        open(&to);
        to
    };
    copy(&programs().init, "anchorhold-enclave");
    copy(&programs().hostile, "hostile");
    let command = copy(&anchorhold(), "anchorhold");
    let suite = copy(&std::env::current_exe().expect("this program"), "suite");
    let home = folder.path().join("home");
    std::fs::create_dir(&home).expect("a home");
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).expect("a home of its own");

    let output = Command::new(suite)
        .args(["--nocapture", "--test-threads=1"])
        .current_dir(&home)
        .env("HOME", &home)
        .env("ANCHORHOLD_UNDER_TEST", command)
        .env(PREBUILT, folder.path())
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_STATE_HOME")
        .gid(NOBODY)
        .uid(NOBODY)
        .output()
        .expect("the suite runs as an ordinary user");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    for line in said.lines() {
        eprintln!("as an ordinary user: {line}");
    }
    assert!(output.status.success(), "see above");
}
