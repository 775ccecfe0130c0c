//! Every attempt to get out, one by one: it fails inside and comes through outside.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use serde_json::{Value, json};

use crate::common::Who;
use crate::stage::{CANARY, Outcome, Stage, is_root};

/// What may keep an attempt from coming through outside as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// Something that a kernel may be built without, with one of these errors then, or keep from ordinary users.
    Kernel(&'static [i32]),
    /// Hardware that this machine does not have. Whoever says so shows the counterpart in another way.
    Hardware,
}

struct Attempt {
    inside: Value,
    outside: Value,
    needs: Needs,
    /// What the system must say inside, where another word would mean that it failed for another reason.
    says: Option<&'static str>,
}

impl Attempt {
    fn new(request: Value) -> Self {
        Self {
            inside: request.clone(),
            outside: request,
            needs: Needs::Nothing,
            says: None,
        }
    }

    fn named(name: &str) -> Self {
        Self::new(json!({ "try": name }))
    }

    fn on(name: &str, path: &str) -> Self {
        Self::new(json!({ "try": name, "path": path }))
    }

    /// Outside it is made on this path instead, which belongs to the test.
    fn outside(mut self, path: &str) -> Self {
        self.outside["path"] = json!(path);
        self
    }

    fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    fn says(mut self, says: &'static str) -> Self {
        self.says = Some(says);
        self
    }
}

/// Whether a kernel or a user without something is why it failed outside.
fn excused(attempt: &Attempt, outcome: &Outcome) -> bool {
    match attempt.needs {
        Needs::Nothing => false,
        Needs::Hardware => true,
        Needs::Kernel(missing) => {
            let kept: &[i32] = if is_root() { &[] } else { &[EPERM, EACCES] };
            kept.iter()
                .chain(missing)
                .any(|number| outcome.said().ends_with(&format!("(os error {number})")))
        }
    }
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;
const EPROTONOSUPPORT: i32 = 93;
const ESOCKTNOSUPPORT: i32 = 94;
const EAFNOSUPPORT: i32 = 97;
const NO_FAMILY: Needs = Needs::Kernel(&[EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT]);
const NO_CALL: Needs = Needs::Kernel(&[ENOSYS]);
const NO_FILE: Needs = Needs::Kernel(&[ENOENT]);
const ROOT: Needs = Needs::Kernel(&[]);
const REFUSED: &str = "Operation not permitted (os error 1)";
const DENIED: &str = "Permission denied (os error 13)";

#[test]
fn every_attempt_fails_inside_and_comes_through_outside() {
    let stage = Stage::new(128);
    let house = &stage.house;

    // Things of the host, to be found or not.
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let abstract_name = format!("anchorhold-canary-{}", std::process::id());
    let abstract_address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
    let _abstract_listener =
        UnixListener::bind_addr(&abstract_address).expect("an abstract socket");
    let unix = house.path("canary.sock");
    let _unix_listener = UnixListener::bind(&unix).expect("a socket");
    let canary = house.write("canary", "the canary sings");
    std::fs::set_permissions(&canary, std::fs::Permissions::from_mode(0o666))
        .expect("a canary for everybody");
    let canary = canary.to_str().expect("UTF-8");
    let node = house.path("node");
    let node = node.to_str().expect("UTF-8");
    let mut sleeper = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("another process");
    let other = sleeper.id();

    let mut attempts = vec![
        // First, since later ones leave descriptors open where they come through.
        Attempt::named("descriptors"),
        // The network, to listeners that are there.
        Attempt::new(
            json!({ "try": "tcp", "address": tcp.local_addr().expect("an address").to_string() }),
        ),
        Attempt::new(
            json!({ "try": "udp", "address": udp.local_addr().expect("an address").to_string() }),
        ),
        Attempt::new(json!({ "try": "abstract", "name": abstract_name })),
        Attempt::on("unix", unix.to_str().expect("UTF-8")),
        // The host's files.
        Attempt::on("read", canary),
        Attempt::on("read", "/etc/passwd"),
        Attempt::on("read", "/sys/kernel/uevent_seqnum"),
        Attempt::on("read", "/proc/kcore").needs(NO_FILE),
        Attempt::on("climb", canary),
        Attempt::on("open-for-writing", canary),
        Attempt::named("file-handle").needs(NO_CALL),
        // Files of the runtime, and everything outside /tmp.
        Attempt::on("read", "/init").outside(canary).says(DENIED),
        Attempt::on("read", "/anchorhold/anchorhold.toml")
            .outside(canary)
            .says(DENIED),
        Attempt::on("open-for-writing", "/job").outside(canary),
        Attempt::on("open-for-writing", "/init").outside(canary),
        Attempt::on("open-for-writing", "/anchorhold/anchorhold.toml").outside(canary),
        Attempt::on("write", "/new").outside(canary),
        Attempt::on("write", "/anchorhold/new").outside(canary),
        Attempt::on("write", "/run/new").outside(canary),
        Attempt::on("write", "/run/secrets/new").outside(canary),
        Attempt::on("write", "/dev/new").outside(canary),
        Attempt::on("write", "/dev/shm/new").outside(canary),
        Attempt::on("device-node", "/tmp/node")
            .outside(node)
            .needs(ROOT),
        Attempt::on("run-own-file", "/tmp/program"),
        // The kernel's settings. Nothing is written to them.
        Attempt::on("open-for-writing", "/proc/sys/kernel/core_pattern").needs(NO_FILE),
        Attempt::on("open-for-writing", "/proc/sys/kernel/hostname").needs(NO_FILE),
        Attempt::on("open-for-writing", "/proc/sys/net/ipv4/ip_forward").needs(NO_FILE),
        Attempt::on("open-for-writing", "/proc/sysrq-trigger").needs(NO_FILE),
        Attempt::on("open-for-writing", "/proc/self/oom_score_adj"),
        // Mounts and namespaces.
        Attempt::named("mount"),
        Attempt::named("fsopen"),
        Attempt::named("open-tree"),
        Attempt::named("chroot"),
        Attempt::named("unshare"),
        Attempt::named("setns"),
        Attempt::named("clone-namespace"),
        Attempt::named("clone3-namespace").needs(NO_CALL),
        // Other processes.
        Attempt::named("ptrace"),
        Attempt::named("ptrace-parent"),
        Attempt::named("process-memory"),
        Attempt::named("parent-memory"),
        Attempt::named("parent-environment"),
        Attempt::named("parent-files"),
        Attempt::named("parent-descriptor"),
        Attempt::named("parent-limits"),
        Attempt::named("signal-parent"),
        Attempt::named("signal-everyone"),
        Attempt::new(json!({ "try": "signal", "pid": other })),
        Attempt::on("read", &format!("/proc/{other}/status")),
        Attempt::named("other-processes"),
        Attempt::named("leave-group"),
        // Doors past the filter.
        Attempt::named("io-uring").needs(NO_CALL),
        Attempt::named("keyring").needs(NO_CALL),
        Attempt::named("keyctl").needs(NO_CALL),
        Attempt::named("bpf").needs(NO_CALL),
        Attempt::named("perf").needs(NO_CALL),
        Attempt::named("userfaultfd").needs(NO_CALL),
        Attempt::named("int80").needs(NO_CALL),
        Attempt::named("x32").needs(NO_CALL),
        // The enclave's own doors, by itself. The runtime in the same enclave does come through: see below.
        Attempt::named("vsock").needs(NO_FAMILY),
        Attempt::named("nsm-device")
            .needs(Needs::Hardware)
            .says(DENIED),
        Attempt::named("nsm-ioctl")
            .needs(Needs::Hardware)
            .says(REFUSED),
        Attempt::on("open-for-writing", "/dev/vsock")
            .outside(canary)
            .says(DENIED),
    ];
    // Every address family but AF_UNIX; 46 is AF_MAX.
    attempts.extend(
        (2..46).map(|family| {
            Attempt::new(json!({ "try": "family", "family": family })).needs(NO_FAMILY)
        }),
    );

    let requests =
        |of: fn(&Attempt) -> &Value| attempts.iter().map(of).cloned().collect::<Vec<_>>();
    let outside = stage.outside(&requests(|attempt| &attempt.outside));
    let enclave = stage.enclave();
    let inside = stage.inside(&requests(|attempt| &attempt.inside));
    let _ = sleeper.kill();
    let _ = sleeper.wait();

    let mut wrong = Vec::new();
    let mut shown = 0;
    for ((attempt, inside), outside) in attempts.iter().zip(&inside).zip(&outside) {
        let request = &attempt.inside;
        if inside.through {
            wrong.push(format!("{request} came through inside: {}", inside.detail));
        } else if let Some(says) = attempt.says.filter(|says| inside.said() != *says) {
            wrong.push(format!(
                "{request} failed inside by {}, not by {says}",
                inside.detail
            ));
        }
        if outside.through {
            shown += 1;
        } else if excused(attempt, outside) {
            eprintln!(
                "NOT SHOWN: {request} fails on this machine for this user outside as well: {}",
                outside.detail
            );
        } else {
            wrong.push(format!(
                "{request} cannot succeed: it failed outside by {}",
                outside.detail
            ));
        }
    }
    eprintln!(
        "{shown} of {} attempts fail inside and come through outside",
        attempts.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The NSM that the job does not reach is there: the runtime does.
    house.must(
        Who::Host,
        [
            "attest",
            enclave.name,
            "--nonce",
            "00ff",
            "-o",
            house.path("document").to_str().expect("UTF-8"),
        ],
    );
}

#[test]
fn a_job_is_nobody_and_has_its_scratch_folder_alone() {
    let stage = Stage::new(128);
    let enclave = stage.enclave();
    let requests = [
        json!({ "try": "identity" }),
        json!({ "try": "environment" }),
        json!({ "try": "write", "path": "/tmp/mine" }),
        json!({ "try": "read", "path": "/tmp/mine" }),
    ];
    let inside = stage.inside(&requests);
    let outside = stage.outside(&requests[..2]);
    for outcome in &inside {
        assert!(outcome.through, "{outcome:?}");
    }

    let status = inside[0].detail["status"].as_str().expect("a status");
    let value = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("Seccomp"), "2");
    eprintln!(
        "the job's Uid {}, Gid {}, CapBnd {}",
        value("Uid"),
        value("Gid"),
        value("CapBnd")
    );
    if is_root() {
        assert_eq!(value("Uid"), "1000\t1000\t1000\t1000");
        assert_eq!(value("Gid"), "1000\t1000\t1000\t1000");
    } else {
        eprintln!(
            "NOT SHOWN: an ordinary user's enclave has one user id, which the job shares with the runtime"
        );
    }
    let outside_status = outside[0].detail["status"].as_str().expect("a status");
    assert!(
        outside_status.contains("NoNewPrivs:\t0"),
        "outside nothing of it holds: {outside_status}"
    );

    assert_eq!(inside[1].detail, json!(["HOME", "PATH", "TMPDIR"]));
    assert!(
        outside[1].detail.to_string().contains(CANARY),
        "the search for variables finds them"
    );

    // What one call left is not there for the next.
    let again = stage
        .inside(&[json!({ "try": "read", "path": "/tmp/mine" })])
        .remove(0);
    assert!(!again.through, "{again:?}");
    drop(enclave);
}
