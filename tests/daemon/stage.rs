//! A daemon of a test's own, its configuration, and images for it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anchorhold_images::cargo_static::StaticBuild;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{House, WORKSPACE, Who};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Tries until there is something, or too late.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An image of the job `cards` without a key service, and its PCR0; made once for each version.
pub fn image(version: &str) -> (PathBuf, String) {
    static HOUSE: OnceLock<Mutex<House>> = OnceLock::new();
    let house = HOUSE.get_or_init(|| Mutex::new(House::new()));
    let house = house
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = format!("v{version}.eif");
    let path = house.path(&name);
    if !path.exists() {
        let manifest = format!(
            "[image]\nname = \"cards\"\nversion = \"{version}\"\n[job]\ncommand = [\"/job\"]\n[resources]\nmemory_mib = 64\n"
        );
        house.image("enclave/jobs/cards", &manifest, &name);
    }
    let pcr0 = house.measurements(&path)["PCR0"].clone();
    (path, pcr0)
}

/// An image whose init is this program of tests/vm/guest, and its PCR0. Another `note` makes another image of the same.
pub fn image_of_guest(house: &House, bin: &str, note: &str) -> (PathBuf, String) {
    let mut build = StaticBuild::new(&Path::new(WORKSPACE).join("tests/vm/guest"));
    build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
    build.bin = Some(bin.to_owned());
    let init = build
        .run(&mut |line| eprintln!("{line}"))
        .expect("a static program")
        .path;
    let manifest = house.write(
        &format!("{bin}{note}.toml"),
        format!("[image]\nname = \"guest{note}\"\n[job]\ncommand = [\"/job\"]\n[resources]\nmemory_mib = 64\n"),
    );
    let image = house.path(&format!("{bin}{note}.eif"));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (init, manifest) = (path(&init), path(&manifest));
    let arguments = [
        "build",
        "--program",
        &init,
        "--init",
        &init,
        "--manifest",
        &manifest,
        "-o",
        &path(&image),
    ];
    house.must(Who::Host, arguments);
    let pcr0 = house.measurements(&image)["PCR0"].clone();
    (image, pcr0)
}

/// A port that is free now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// A folder with a configuration, and daemons for it.
pub struct Stage {
    pub house: House,
}

impl Stage {
    pub fn new() -> Self {
        let stage = Self {
            house: House::new(),
        };
        std::fs::create_dir_all(stage.house.path("etc/enclaves.d")).expect("a folder");
        stage.settings("");
        stage
    }

    /// Writes `daemon.toml`. Delays are short, so that a test need not wait.
    pub fn settings(&self, more: &str) {
        let text = format!("[restart]\nfirst_delay_ms = 20\nlongest_delay_ms = 500\n{more}");
        self.house.write("etc/daemon.toml", text);
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.house.path(&format!("etc/enclaves.d/{name}.toml"))
    }

    /// Declares an enclave that runs this version.
    pub fn declare(&self, name: &str, version: &str, more: &str) {
        let (image, pcr0) = image(version);
        let text = format!(
            "image = \"{}\"\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n{more}",
            image.display()
        );
        std::fs::write(self.file(name), text).expect("a file");
    }

    pub fn command(&self) -> Command {
        let folder = self.house.path("etc");
        let arguments = ["daemon", "--config", folder.to_str().expect("UTF-8")];
        self.house.command(Who::Host, arguments)
    }

    /// Starts a daemon, which serves when this returns.
    pub fn daemon(&self) -> Daemon<'_> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.house.path("daemon.log"))
            .expect("a log");
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let stdout = child.stdout.take().expect("asked for");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with("serving on "), "{line}{}", self.log());
        Daemon { stage: self, child }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.house.path("daemon.log")).unwrap_or_default()
    }

    /// An answer of the API, with its status.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.raw(method, path, body);
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, value)
    }

    /// The same as text; status 0 where nobody answers.
    pub fn raw(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(mut stream) = UnixStream::connect(self.house.path("api.sock")) else {
            return (0, String::new());
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        let done = stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.read_to_end(&mut answer));
        if done.is_err() {
            return (0, String::new());
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        (status.unwrap_or(0), body.to_owned())
    }

    /// The view of one enclave, `Null` where there is none.
    pub fn view(&self, name: &str) -> Value {
        match self.ask("GET", &format!("/v1/enclaves/{name}"), "") {
            (200, view) => view,
            _ => Value::Null,
        }
    }

    /// Waits until it serves, attested; returns its running instance that takes calls.
    pub fn serves(&self, name: &str) -> Instance {
        eventually(&format!("{name} serves\n{}", self.log()), || {
            let view = self.view(name);
            (view["condition"] == "serving").then_some(())?;
            self.instances(name)
                .into_iter()
                .find(|one| one.status == "serving" && !one.draining && one.admitted)
        })
    }

    pub fn instances(&self, name: &str) -> Vec<Instance> {
        let view = self.view(name);
        let instances = view["instances"].as_array().cloned().unwrap_or_default();
        instances.iter().map(Instance::read).collect()
    }

    pub fn waits_for(&self, name: &str, condition: &str) -> Value {
        eventually(&format!("{name} is {condition}\n{}", self.log()), || {
            let view = self.view(name);
            (view["condition"] == condition).then_some(view)
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        // Whatever runs: daemons have ended by now.
        let listed = self.house.run(Who::Host, ["ps", "--json"]);
        let states: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for state in states.as_array().into_iter().flatten() {
            if state["status"] == "serving" || state["status"] == "starting" {
                let name = state["name"].as_str().unwrap_or_default();
                let _ = self.house.run(Who::Host, ["stop", name]);
            }
        }
    }
}

/// One instance, as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub status: String,
    pub draining: bool,
    pub admitted: bool,
    pub supervisor: i32,
    pub dir: PathBuf,
    pub image: PathBuf,
}

impl Instance {
    fn read(state: &Value) -> Self {
        let text = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            status: text("status"),
            draining: state["draining"] == true,
            admitted: state["admitted_ms"].is_u64(),
            supervisor: state["supervisor"]["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
                .unwrap_or(0),
            dir: text("dir").into(),
            image: text("image").into(),
        }
    }

    /// The enclave's first process and the warden: children of the supervisor.
    pub fn children(&self) -> Vec<i32> {
        let folder = format!("/proc/{}/task", self.supervisor);
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<i32>>()
            })
            .collect()
    }
}

impl Instance {
    /// The enclave's first process: the one that is process 1 in a namespace of its own.
    pub fn first_process(&self) -> Option<i32> {
        self.children().into_iter().find(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            pids.is_some_and(|pids| {
                pids.split_whitespace().count() == 2 && pids.trim().ends_with("\t1")
            })
        })
    }
}

/// A daemon that is killed with the value, if it runs then.
pub struct Daemon<'a> {
    stage: &'a Stage,
    child: Child,
}

impl Daemon<'_> {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Without a chance to do anything.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it end by itself.
    pub fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}\n{}", self.stage.log());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request through an ingress and returns the status of the enclave's answer; 0 where it was cut.
pub fn through(address: SocketAddr) -> u16 {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
        return 0;
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let request = "GET /health HTTP/1.1\r\nHost: enclave\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let done = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_end(&mut answer));
    // Whole only with the end of its JSON.
    match done {
        Ok(_) if answer.ends_with(b"}") => String::from_utf8_lossy(&answer)
            .get(9..12)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0),
        _ => 0,
    }
}

/// An ingress table for a declaration: `address` leads to the control port, which answers HTTP. One source may come as often as
/// it can: a test is one, and faster than most.
pub fn ingress(address: SocketAddr) -> String {
    format!(
        "[ingress.web]\nlisten = \"{address}\"\nport = 5000\n[ingress.web.rules]\n\
         new_per_second = 1000000\nsource_new_per_second = 1000000\n"
    )
}

/// Whether a process of that number runs.
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
