//! The daemon under an init system: its words to it, sockets from it, and the unit that is shipped.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{WORKSPACE, anchorhold};
use crate::stage::{PATIENCE, Stage, eventually, ingress, through};

#[test]
fn readiness_watchdog_reload_and_stop_are_told() {
    let stage = Stage::new();
    let path = stage.house.path("notify");
    let heard = UnixDatagram::bind(&path).expect("a socket");
    heard.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut child = stage
        .command()
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let next = |wanted: &str| {
        let mut words = [0; 64];
        loop {
            let count = heard.recv(&mut words).expect("words");
            let words = String::from_utf8_lossy(&words[..count]).into_owned();
            if words == wanted {
                return;
            }
            assert_eq!(words, "WATCHDOG=1", "instead of {wanted}");
        }
    };
    next("READY=1");
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGHUP).expect("it runs");
    next("RELOADING=1");
    next("READY=1");
    kill(pid, Signal::SIGTERM).expect("it runs");
    next("STOPPING=1");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn sockets_that_were_opened_for_the_daemon_are_used() {
    let stage = Stage::new();
    stage.declare(
        "cards",
        "1",
        "[ingress.web]\nlisten = \"passed:web\"\nport = 5000\n",
    );
    stage.declare(
        "other",
        "1",
        &ingress(crate::stage::free_port()).replace("web", "w2"),
    );
    let api = stage.house.path("passed.sock");
    // As systemd does it: descriptors from 3 on, and the number of the very process.
    let program = "import os, socket, sys\n\
        api = socket.socket(socket.AF_UNIX); api.bind(sys.argv[1]); api.listen()\n\
        web = socket.socket(); web.bind(('127.0.0.1', 0)); web.listen()\n\
        print(web.getsockname()[1], flush=True)\n\
        a, w = os.dup(api.fileno()), os.dup(web.fileno())\n\
        os.dup2(a, 3); os.dup2(w, 4)\n\
        os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='api:web')\n\
        os.execv(sys.argv[2], sys.argv[2:])\n";
    let plain = stage.command();
    let mut command = Command::new("python3");
    command
        .args(["-c", program])
        .arg(&api)
        .arg(anchorhold())
        .args(plain.get_args())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.spawn().expect("python3 runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        child.stdout.take().expect("asked for"),
    ));
    let port: u16 = lines
        .next()
        .expect("a line")
        .expect("UTF-8")
        .parse()
        .expect("a port");
    let address = ([127, 0, 0, 1], port).into();
    // The connection waits until the enclave is there.
    assert_eq!(through(address), 200);
    assert!(UnixStream::connect(&api).is_ok());
    // None of it is in the environment of supervisors, nor open in them.
    let states = stage.house.run(crate::common::Who::Host, ["ps", "--json"]);
    let states: serde_json::Value = serde_json::from_slice(&states.stdout).expect("JSON");
    for state in states.as_array().expect("a list") {
        let pid = state["supervisor"]["pid"].as_u64().expect("a pid");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"));
    }
    child.kill().expect("it runs");
    let _ = child.wait();
    eventually("without the daemon it is still reached", || {
        (through(address) == 200).then_some(())
    });
}

fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(arguments).output();
    let Ok(output) = output else {
        eprintln!("NOT TESTED: systemd-analyze is not installed (Debian: systemd)");
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "it must be there in CI"
        );
        return None;
    };
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some((output.status.success(), said))
}

#[test]
fn the_units_are_valid_and_their_exposure_is_bounded() {
    let stage = Stage::new();
    let packaging = Path::new(WORKSPACE).join("packaging");
    let folder = stage.house.path("units");
    std::fs::create_dir(&folder).expect("a folder");
    // The program that it names is not installed here; this one is.
    for name in ["anchorhold.service", "anchorhold.socket"] {
        let text = std::fs::read_to_string(packaging.join(name)).expect("the unit");
        let text = text.replace("/usr/bin/anchorhold", anchorhold().to_str().expect("UTF-8"));
        std::fs::write(folder.join(name), text).expect("a copy");
    }
    let service = folder.join("anchorhold.service");
    let service = service.to_str().expect("UTF-8");
    for name in ["anchorhold.service", "anchorhold.socket"] {
        let unit = folder.join(name);
        let Some((fine, said)) = analyze(&["verify", "--man=no", unit.to_str().expect("UTF-8")])
        else {
            return;
        };
        let about_ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("anchorhold."))
            .collect();
        assert!(fine && about_ours.is_empty(), "{name}: {said}");
    }
    let exposed = |most: &str| {
        let (fine, said) = analyze(&[
            "security",
            "--offline=true",
            &format!("--threshold={most}"),
            service,
        ])
        .expect("it is there");
        assert!(fine, "{said}");
    };
    exposed("50");
    let drop_in = folder.join("anchorhold.service.d");
    std::fs::create_dir(&drop_in).expect("a folder");
    std::fs::copy(
        packaging.join("nitro-only.conf"),
        drop_in.join("nitro-only.conf"),
    )
    .expect("a copy");
    exposed("20");
}
