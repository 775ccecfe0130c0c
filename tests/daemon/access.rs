//! Whoever is another user of this host reaches nothing of the daemon's: not the API, not the control sockets, not the rings.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anchorhold_parent::lifecycle::{Control, Request};

use crate::common::Who;
use crate::stage::Stage;

const NOBODY: u32 = 65534;

/// Tries to open a file or to connect to a socket as this user; what the system said.
fn attempt(path: &Path, uid: Option<u32>) -> String {
    let program = "import socket, sys, os, stat\n\
        path = sys.argv[1]\n\
        try:\n\
        \x20   if stat.S_ISSOCK(os.stat(path).st_mode):\n\
        \x20       s = socket.socket(socket.AF_UNIX); s.connect(path)\n\
        \x20   else:\n\
        \x20       open(path, 'rb').read(1)\n\
        \x20   print('came through')\n\
        except OSError as e:\n\
        \x20   print(e)\n";
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(path).current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let output = command.output().expect("python3 runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(everything(&entry.path()));
        } else if kind.is_file() || kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn another_user_reaches_no_api_no_control_socket_and_no_ring() {
    let stage = Stage::new();
    stage.declare("cards", "1", "");
    let _daemon = stage.daemon();
    let instance = stage.serves("cards");
    let api = stage.house.path("api.sock");
    let mut guarded = vec![api.clone(), stage.house.path("daemon.lock")];
    guarded.extend(everything(&instance.dir));
    for name in [
        "control.sock",
        "vsock.sock",
        "log.ndjson",
        "console.log",
        "state.json",
    ] {
        assert!(
            guarded.contains(&instance.dir.join(name)),
            "{name}: {guarded:?}"
        );
    }
    // What each is by itself, whatever the folders above it are.
    for path in &guarded {
        let mode = std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        let own = attempt(path, None);
        assert!(
            !own.contains("Permission denied"),
            "{}: {own}",
            path.display()
        );
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can become another user here");
        return;
    }
    // Even where somebody has opened the folders above.
    for folder in [
        stage.house.path(""),
        stage.house.path("enclaves"),
        instance.dir.clone(),
    ] {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder, open).expect("permissions");
    }
    for path in &guarded {
        let said = attempt(path, Some(NOBODY));
        assert!(
            said.contains("Permission denied"),
            "{}: {said}",
            path.display()
        );
    }
    // A control socket that lets everybody connect asks the kernel who it is, and hangs up.
    let control = instance.dir.join("control.sock");
    std::fs::set_permissions(&control, std::fs::Permissions::from_mode(0o777))
        .expect("permissions");
    let program = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(sys.argv[1])\n\
        print(s.recv(1))\n";
    let mut stranger = Command::new("python3");
    stranger
        .args(["-c", program])
        .arg(&control)
        .current_dir("/");
    let output = stranger
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        said.trim(),
        "b''",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let status = Control::connect(&instance.dir).and_then(|mut own| own.ask(&Request::Status, &[]));
    assert!(status.is_ok(), "its own user is answered");
}

#[test]
fn a_group_reaches_the_api_where_the_configuration_says_so_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can give a socket to a group here");
        return;
    }
    let stage = Stage::new();
    let folder = stage.house.path("open");
    std::fs::create_dir(&folder).expect("a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    for folder in [&folder, &stage.house.path("")] {
        std::fs::set_permissions(folder, open.clone()).expect("permissions");
    }
    let socket = folder.join("api.sock");
    stage.settings(&format!(
        "[api]\nsocket = {socket:?}\ngroup = \"nogroup\"\n"
    ));
    stage.declare("cards", "1", "");
    let _daemon = stage.daemon();
    let mode = std::fs::metadata(&socket)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    // 65534 is nogroup's number as well; another one is a stranger.
    assert_eq!(attempt(&socket, Some(NOBODY)), "came through");
    assert!(attempt(&socket, Some(12345)).contains("Permission denied"));
    let mut ps = stage.house.command(Who::Host, ["ps"]);
    let output = ps.env("ANCHORHOLD_API", &socket).output().expect("ps runs");
    assert!(output.status.success());

    stage.settings("[api]\ngroup = \"nogroup\"\n");
    let refused = stage
        .command()
        .env("ANCHORHOLD_HOME", stage.house.path("other"))
        .output();
    let said = String::from_utf8_lossy(&refused.expect("it runs").stderr).into_owned();
    assert!(said.contains("group needs [api] socket"), "{said}");
}
