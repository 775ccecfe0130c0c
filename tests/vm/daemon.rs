//! The daemon with virtual machines: declared, attested, reached, started again, rolled over.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{House, WORKSPACE, Who, vm_folder};
use crate::stage::PATIENCE;

fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Ends the daemon, and then its enclaves, even where the test fails.
struct Stage {
    house: House,
    daemon: Option<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for instance in self.instances() {
            if instance["status"] == "serving" {
                let name = instance["name"].as_str().unwrap_or_default();
                let _ = self.house.run(Who::Host, ["stop", name]);
            }
        }
    }
}

impl Stage {
    fn image(&self, version: &str) -> (PathBuf, String) {
        let manifest = format!(
            "[image]\nname = \"cards\"\nversion = \"{version}\"\n[job]\ncommand = [\"/job\"]\n[resources]\nmemory_mib = 128\n"
        );
        let name = format!("v{version}");
        let manifest = self.house.write(&format!("{name}.toml"), manifest);
        let image = self.house.path(&format!("{name}.eif"));
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let arguments = [
            "build".to_owned(),
            "--cargo".to_owned(),
            path(&Path::new(WORKSPACE).join("enclave/jobs/cards")),
            "--manifest".to_owned(),
            path(&manifest),
            "--kernel".to_owned(),
            path(&vm_folder().join("vmlinuz")),
            "-o".to_owned(),
            path(&image),
        ];
        self.house.must(Who::Owner, arguments);
        let pcr0 = self.house.measurements(&image)["PCR0"].clone();
        (image, pcr0)
    }

    fn declare(&self, (image, pcr0): &(PathBuf, String), address: SocketAddr) {
        let text = format!(
            "image = \"{}\"\npcr0 = \"{pcr0}\"\nbackend = \"qemu\"\n[ingress.web]\nlisten = \"{address}\"\nport = 5000\n",
            image.display()
        );
        self.house.write("etc/enclaves.d/cards.toml", text);
    }

    fn start(&mut self) {
        let folder = self.house.path("etc");
        let arguments = ["daemon", "--config", folder.to_str().expect("UTF-8")];
        let mut command = self.house.command(Who::Host, arguments);
        let log = std::fs::File::create(self.house.path("daemon.log")).expect("a log");
        let mut child = command
            .env(
                "ANCHORHOLD_QEMU",
                vm_folder().join("bin/qemu-system-x86_64"),
            )
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("asked for");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        self.daemon = Some(child);
        assert!(line.starts_with("serving on "), "{line}{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.house.path("daemon.log")).unwrap_or_default()
    }

    fn instances(&self) -> Vec<Value> {
        let listed = self.house.run(Who::Host, ["ps", "--json"]);
        serde_json::from_slice(&listed.stdout).unwrap_or_default()
    }

    /// The instance that takes calls, of this image.
    fn serves(&self, image: &Path) -> Value {
        eventually(&format!("a machine serves\n{}", self.log()), || {
            self.instances().into_iter().find(|one| {
                one["status"] == "serving"
                    && one["admitted_ms"].is_u64()
                    && one["draining"] != true
                    && one["image"].as_str().map(Path::new) == Some(image)
            })
        })
    }
}

fn health(address: SocketAddr) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    let mut answer = String::new();
    let request = "GET /health HTTP/1.1\r\nHost: enclave\r\nConnection: close\r\n\r\n";
    let _ = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer).map(drop));
    answer
}

#[test]
fn the_daemon_keeps_a_virtual_machine_attested_and_reached_through_its_death_and_to_another_version()
 {
    let mut stage = Stage {
        house: House::new(),
        daemon: None,
    };
    std::fs::create_dir_all(stage.house.path("etc/enclaves.d")).expect("a folder");
    let settings = "[restart]\nfirst_delay_ms = 20\nlongest_delay_ms = 500\n";
    stage.house.write("etc/daemon.toml", settings);
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let (one, two) = (stage.image("1"), stage.image("2"));
    stage.declare(&one, address);
    stage.start();
    let first = stage.serves(&one.0);
    assert_eq!(first["backend"], "qemu");
    let answer = eventually("it is reached", || {
        let answer = health(address);
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    });
    assert!(answer.contains("\"version\":\"1\""), "{answer}");
    // By its declared name, and not by a word of its own.
    let document = stage.house.path("document.cbor");
    let document = document.to_str().expect("UTF-8");
    stage
        .house
        .must(Who::Host, ["attest", "cards", "-o", document]);
    let root = stage.house.path("development-root/root.pem");
    stage.house.must(
        Who::Owner,
        [
            "verify",
            document,
            "--image",
            one.0.to_str().expect("UTF-8"),
            "--anchor",
            root.to_str().expect("UTF-8"),
        ],
    );

    // A supervisor that dies takes its machine with it, and another takes its place behind the same address.
    let pid = first["supervisor"]["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let second = eventually("another machine", || {
        let now = stage.serves(&one.0);
        (now["name"] != first["name"]).then_some(now)
    });
    eventually("it is reached again", || {
        health(address).starts_with("HTTP/1.1 200").then_some(())
    });

    // Another version boots beside it and takes over.
    stage.declare(&two, address);
    let said = stage.house.must(Who::Host, ["reload"]);
    assert_eq!(String::from_utf8_lossy(&said), "rolls over: cards\n");
    stage.serves(&two.0);
    eventually("the new version answers", || {
        health(address).contains("\"version\":\"2\"").then_some(())
    });
    eventually("the old machine has ended", || {
        stage
            .instances()
            .iter()
            .all(|one| one["name"] != second["name"] || one["status"] != "serving")
            .then_some(())
    });
    stage.house.must(Who::Host, ["stop", "cards"]);
    assert!(
        stage
            .instances()
            .iter()
            .all(|one| one["status"] != "serving")
    );
}
